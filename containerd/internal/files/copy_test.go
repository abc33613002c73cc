//go:build linux

package files

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// onEach runs a test in a directory of each kind of filesystem.
func onEach(t *testing.T, fn func(t *testing.T, filesystem, dir string)) {
	t.Run("temporary", func(t *testing.T) { fn(t, "temporary", t.TempDir()) })
	for _, filesystem := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(filesystem, func(t *testing.T) { fn(t, filesystem, newDisk(t, filesystem)) })
	}
}

// newDisk mounts a new filesystem until the test ends.
func newDisk(t *testing.T, filesystem string) string {
	t.Helper()
	asRoot(t)
	mkfs, err := exec.LookPath("mkfs." + filesystem)
	if err != nil {
		t.Skipf("mkfs.%s is missing: install it", filesystem)
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	for _, command := range [][]string{{mkfs, "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}

func blocksOf(t *testing.T, dir string) (blocks int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		var is unix.Stat_t
		if err == nil && entry.Type().IsRegular() {
			err = unix.Lstat(path, &is)
			blocks += is.Blocks
		}
		return err
	}))
	return blocks
}

var directoryTimes = regexp.MustCompile(`( 4[0-7]{4} .*) mtime .*`)

// withoutDirectoryTimes leaves out what continuity does not copy.
func withoutDirectoryTimes(all []string) []string {
	all = slices.Clone(all)
	for i := range all {
		all[i] = directoryTimes.ReplaceAllString(all[i], "$1")
	}
	return all
}

// A copy of any tree is as its source, and, but for the times of directories, as what containerd's own native
// snapshotter makes; it takes no more room.
func TestCopyIsWhole(t *testing.T) {
	onEach(t, func(t *testing.T, _, dir string) {
		for seed := range uint64(5) {
			random := rand.New(rand.NewPCG(seed, 2))
			source, ours, theirs := filepath.Join(dir, "source"), filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
			for _, path := range []string{source, ours, theirs} {
				must(t, os.Mkdir(path, 0o700))
			}
			growTree(t, random, source, &[]string{}, 0)
			must(t, os.Chmod(source, 0o555))
			must(t, Copy(t.Context(), ours, source, func(path, name string, err error) { t.Errorf("%s of %s: %v", name, path, err) }))
			must(t, fs.CopyDir(theirs, source))
			want := sees(t, source)
			if got := sees(t, ours); !slices.Equal(got, want) {
				t.Fatalf("tree %d is\n%q, its copy\n%q", seed, want, got)
			}
			if got, want := withoutDirectoryTimes(sees(t, ours)), withoutDirectoryTimes(sees(t, theirs)); !slices.Equal(got, want) {
				t.Fatalf("tree %d is copied to\n%q, by continuity to\n%q", seed, got, want)
			}
			if got, most := blocksOf(t, ours), blocksOf(t, source); got > most {
				t.Errorf("tree %d takes %d blocks, its copy %d", seed, most, got)
			}
			for _, path := range []string{source, ours, theirs} {
				must(t, Remove(path))
			}
		}
	})
}

// Where the filesystem can share blocks, a copy takes none of its own.
func TestCopySharesBlocks(t *testing.T) {
	onEach(t, func(t *testing.T, filesystem, dir string) {
		if filesystem != "xfs" && filesystem != "btrfs" {
			t.Skip("it can't")
		}
		source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
		must(t, os.Mkdir(source, 0o700))
		must(t, os.Mkdir(target, 0o700))
		const size = 64 << 20
		must(t, os.WriteFile(filepath.Join(source, "file"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600))
		free := func() uint64 {
			var is unix.Statfs_t
			unix.Sync()
			must(t, unix.Statfs(dir, &is))
			return is.Bavail * uint64(is.Bsize)
		}
		before := free()
		must(t, Copy(t.Context(), target, source, nil))
		if after := free(); before > after && before-after > size/4 {
			t.Errorf("a copy of %d bytes takes %d", size, before-after)
		}
	})
}

// countdown is a context that ends when it is looked at the n-th time.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

func (c *countdown) Deadline() (time.Time, bool) { return time.Time{}, false }

// A context ends a copy in the middle of a large file, in the kernel and out of it, where blocks can't be shared.
func TestCopyHeedsItsContext(t *testing.T) {
	source := t.TempDir()
	must(t, os.WriteFile(filepath.Join(source, "file"), bytes.Repeat([]byte("0123456789abcdef"), 4*chunk/16), 0o600))
	for name, buffer := range map[string][]byte{"inTheKernel": nil, "byReading": make([]byte, chunk)} {
		t.Run(name, func(t *testing.T) {
			from, err := os.Open(filepath.Join(source, "file"))
			must(t, err)
			defer from.Close() //nolint:errcheck // it was only read
			to, err := os.Create(filepath.Join(t.TempDir(), "file"))
			must(t, err)
			defer to.Close() //nolint:errcheck // what is in it is looked at before
			c := &copier{ctx: &countdown{t.Context(), 2}, buffer: buffer}
			if err := c.data(to, from, 4*chunk); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it says %v, want that of the context", err)
			}
			var is unix.Stat_t
			must(t, unix.Fstat(int(to.Fd()), &is))
			if is.Blocks*512 != 2*chunk {
				t.Errorf("%d bytes were copied, want %d", is.Blocks*512, 2*chunk)
			}
		})
	}
}

// What only reading and writing can copy is the same.
func TestCopyByReading(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	for range 10 {
		dir := t.TempDir()
		growFile(t, random, dir+"/source")
		want, err := os.ReadFile(dir + "/source")
		must(t, err)
		from, err := os.Open(dir + "/source")
		must(t, err)
		to, err := os.Create(dir + "/target")
		must(t, err)
		c := &copier{ctx: t.Context(), buffer: make([]byte, 1000)}
		must(t, errors.Join(c.data(to, from, int64(len(want))), to.Close(), from.Close()))
		got, err := os.ReadFile(dir + "/target")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("a file of %d bytes is another one of %d", len(want), len(got))
		}
	}
}
