//go:build linux

package native_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	peer "github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/fsmeta/fsmeta/containerd/native"
	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// side is one of two snapshotters that get the same calls: ours, or containerd's.
type side struct {
	snapshots.Snapshotter
	root string
}

// openPair opens both in new root directories, until the test ends.
func openPair(t *testing.T) (sides []side) {
	t.Helper()
	requireRoot(t)
	for _, open := range []func(root string) (snapshots.Snapshotter, error){
		func(root string) (snapshots.Snapshotter, error) { return native.NewSnapshotter(root) }, peer.NewSnapshotter,
	} {
		root := filepath.Join(t.TempDir(), "root")
		s, err := open(root)
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		sides = append(sides, side{s, root})
	}
	return sides
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// compare calls fn with both and reports a difference in what it returns.
func compare[T any](t *testing.T, sides []side, what string, fn func(side) T) {
	t.Helper()
	if diff := gocmp.Diff(fn(sides[1]), fn(sides[0])); diff != "" {
		t.Errorf("%s is not containerd's (-theirs +ours):\n%s", what, diff)
	}
}

// normal returns mounts without the path of the root. In a new store there are no gaps
// between the identifiers.
func (s side) normal(mounts []mount.Mount) []mount.Mount {
	for i := range mounts {
		mounts[i].Source = strings.Replace(mounts[i].Source, s.root, "ROOT", 1)
	}
	return mounts
}

// Prepare, View and Mounts return what containerd's return, on any number of parents.
func TestMountsAreContainerds(t *testing.T) {
	sides := openPair(t)
	parent := ""
	for i := range 4 {
		n := strconv.Itoa(i)
		compare(t, sides, "Prepare on "+parent, func(s side) []mount.Mount {
			mounts, err := s.Prepare(t.Context(), "active"+n, parent)
			must(t, err)
			return s.normal(mounts)
		})
		compare(t, sides, "View on "+parent, func(s side) []mount.Mount {
			mounts, err := s.View(t.Context(), "view"+n, parent)
			must(t, err)
			return s.normal(mounts)
		})
		for _, key := range []string{"active" + n, "view" + n} {
			compare(t, sides, "Mounts of "+key, func(s side) []mount.Mount {
				mounts, err := s.Mounts(t.Context(), key)
				must(t, err)
				return s.normal(mounts)
			})
		}
		for _, s := range sides {
			must(t, s.Commit(t.Context(), "layer"+n, "active"+n))
		}
		parent = "layer" + n
	}
}

// entry is what is known of a file, or of what a link leads to.
type entry struct {
	Mode     os.FileMode
	UID, GID uint32
	Links    uint64
	Device   uint64
	Content  string
	XAttr    string
}

// tree returns everything in a directory, and the directory.
func tree(t *testing.T, dir string) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		e := entry{Mode: info.Mode(), UID: stat.Uid, GID: stat.Gid, Device: stat.Rdev}
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			must(t, err)
			e.Content, e.Links = string(data), stat.Nlink
		case info.Mode()&os.ModeSymlink != 0:
			e.Content, err = os.Readlink(path)
			must(t, err)
		}
		value := make([]byte, 100)
		if n, err := unix.Lgetxattr(path, "trusted.test", value); err == nil {
			e.XAttr = string(value[:n])
		}
		found[strings.TrimPrefix(path, dir)] = e
		return nil
	}))
	return found
}

// fill makes something of everything that a layer can hold.
func fill(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, "a", "file"), []byte("content"), 0o640))
	must(t, os.Link(filepath.Join(dir, "a", "file"), filepath.Join(dir, "a", "linked")))
	must(t, os.Symlink("../a/file", filepath.Join(dir, "a", "link")))
	must(t, os.Symlink("/nowhere", filepath.Join(dir, "dangling")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.WriteFile(filepath.Join(dir, "setuid"), nil, 0o755))
	must(t, os.Chown(filepath.Join(dir, "setuid"), 1000, 2000))
	must(t, os.Chmod(filepath.Join(dir, "setuid"), 0o755|os.ModeSetuid))
	must(t, unix.Lsetxattr(filepath.Join(dir, "a", "file"), "trusted.test", []byte("value"), 0))
	must(t, os.Chown(dir, 77, 88))
	must(t, os.Chmod(dir, 0o751))
}

// A snapshot has all that its parent has, with owners, modes, links, devices and extended
// attributes, as with containerd; what it changes shows in itself alone.
func TestContentIsCopied(t *testing.T) {
	sides := openPair(t)
	for _, s := range sides {
		mounts, err := s.Prepare(t.Context(), "first", "")
		must(t, err)
		fill(t, mounts[0].Source)
		must(t, s.Commit(t.Context(), "layer", "first"))
		want := tree(t, mounts[0].Source)

		copied, err := s.Prepare(t.Context(), "second", "layer")
		must(t, err)
		if diff := gocmp.Diff(want, tree(t, copied[0].Source)); diff != "" {
			t.Errorf("%s: the copy is not its parent (-want +got):\n%s", s.root, diff)
		}
		must(t, os.WriteFile(filepath.Join(copied[0].Source, "a", "file"), []byte("changed"), 0o640))
		must(t, os.Remove(filepath.Join(copied[0].Source, "fifo")))
		view, err := s.View(t.Context(), "view", "layer")
		must(t, err)
		if diff := gocmp.Diff(want, tree(t, view[0].Source)); diff != "" {
			t.Errorf("%s: the parent has changed (-want +got):\n%s", s.root, diff)
		}
		must(t, s.Commit(t.Context(), "changed", "second"))
	}
	for _, key := range []string{"layer", "changed", "view"} {
		compare(t, sides, "Usage of "+key, func(s side) snapshots.Usage {
			usage, err := s.Usage(t.Context(), key)
			must(t, err)
			return usage
		})
	}
}

// endsWhen is a context that ends when there is a file of that pattern.
type endsWhen struct {
	context.Context
	pattern string
}

func (c endsWhen) Err() error {
	if found, err := filepath.Glob(c.pattern); err != nil || len(found) > 0 {
		return context.Canceled
	}
	return nil
}

// A context that ends while a parent is copied ends the call, and nothing is left of it.
func TestCopyEndsWithItsContext(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s, err := native.NewSnapshotter(root)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	mounts, err := s.Prepare(t.Context(), "making", "")
	must(t, err)
	for _, name := range []string{"a", "b", "c"} {
		must(t, os.WriteFile(filepath.Join(mounts[0].Source, name), []byte(name), 0o600))
	}
	must(t, s.Commit(t.Context(), "layer", "making"))
	ctx := endsWhen{t.Context(), filepath.Join(root, "snapshots", "[!1]", "*")}
	if _, err := s.Prepare(ctx, "key", "layer"); !errors.Is(err, context.Canceled) {
		t.Errorf("Prepare says %v, want that of the context", err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "snapshots"))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("there are %v, want the layer's content alone", entries)
	}
}

// What is mounted below a parent is not copied.
func TestMountsAreNotCopied(t *testing.T) {
	requireRoot(t)
	s, err := native.NewSnapshotter(filepath.Join(t.TempDir(), "root"))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	mounts, err := s.Prepare(t.Context(), "making", "")
	must(t, err)
	mounted, outside := filepath.Join(mounts[0].Source, "mounted"), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(mounts[0].Source, "own"), nil, 0o600))
	must(t, os.Mkdir(mounted, 0o700))
	must(t, unix.Mount(outside, mounted, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mounted, unix.MNT_DETACH)) })
	must(t, s.Commit(t.Context(), "layer", "making"))
	mounts, err = s.Prepare(t.Context(), "key", "layer")
	must(t, err)
	entries, err := os.ReadDir(mounts[0].Source)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "own" {
		t.Errorf("copied are %v, want own alone", entries)
	}
}
