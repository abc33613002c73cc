//go:build linux

package files

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inEachWay runs a test with all that the kernel has, and as on older ones.
func inEachWay(t *testing.T, fn func(t *testing.T)) {
	for name, old := range map[string][2]bool{"new": {}, "noOpenat2": {true, false}, "noMountRoot": {false, true}, "neither": {true, true}} {
		t.Run(name, func(t *testing.T) {
			unsupported.openat2.Store(old[0])
			unsupported.mountRoot.Store(old[1])
			t.Cleanup(func() { unsupported.openat2.Store(false); unsupported.mountRoot.Store(false) })
			fn(t)
		})
	}
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
}

// bind mounts source on target until unmount is called or the test ends.
func bind(t *testing.T, source, target string) (unmount func()) {
	t.Helper()
	must(t, unix.Mount(source, target, "", unix.MS_BIND, ""))
	unmount = sync.OnceFunc(func() { must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	t.Cleanup(unmount)
	return unmount
}

// mounted is a tree with mounts below it: of a directory and a file of the same filesystem, and of another one.
type mounted struct {
	tree, outside string
	unmount       func()
}

func newMounted(t *testing.T) mounted {
	t.Helper()
	asRoot(t)
	m := mounted{tree: filepath.Join(t.TempDir(), "tree"), outside: t.TempDir()}
	for _, path := range []string{"plain", "deep/dir", "deep/other"} {
		must(t, os.MkdirAll(filepath.Join(m.tree, path), 0o755))
	}
	for _, path := range []string{m.tree + "/deep/file", m.tree + "/deep/dir/hidden", m.tree + "/plain/file", m.outside + "/file"} {
		must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	}
	must(t, os.Mkdir(m.outside+"/below", 0o755))
	unmounts := []func(){
		bind(t, m.outside, m.tree+"/deep/dir"),
		bind(t, m.outside+"/file", m.tree+"/deep/file"),
	}
	must(t, unix.Mount("fsmeta-test", m.tree+"/deep/other", "tmpfs", 0, ""))
	other := sync.OnceFunc(func() { must(t, unix.Unmount(m.tree+"/deep/other", unix.MNT_DETACH)) })
	t.Cleanup(other)
	must(t, os.WriteFile(m.tree+"/deep/other/file", make([]byte, 1<<20), 0o600))
	m.unmount = func() {
		for _, fn := range append(unmounts, other) {
			fn()
		}
	}
	return m
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// What is mounted below is not emptied; all else goes. When it is unmounted, the rest goes.
func TestRemoveKeepsMounts(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		m := newMounted(t)
		err := Remove(m.tree)
		if !errors.Is(err, ErrMounted) || !strings.Contains(err.Error(), m.tree+"/deep/") {
			t.Errorf("Remove says %v, want ErrMounted with the path", err)
		}
		for path, want := range map[string]bool{
			m.outside + "/file": true, m.outside + "/below": true, m.tree + "/deep/other/file": true,
			m.tree + "/deep/dir": true, m.tree + "/deep/file": true, m.tree + "/plain": false,
		} {
			if exists(path) != want {
				t.Errorf("%s is there: %t, want %t", path, !want, want)
			}
		}
		m.unmount()
		must(t, Remove(m.tree))
		if exists(m.tree) {
			t.Error("the tree is left")
		}
	})
}

// Nor is the tree itself, where it is a mount.
func TestMountedRoot(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		asRoot(t)
		outside, dir, empty := t.TempDir(), t.TempDir(), t.TempDir()
		must(t, os.WriteFile(outside+"/file", nil, 0o600))
		bind(t, outside, dir)
		_, usage := Usage(t.Context(), dir)
		for what, err := range map[string]error{
			"Remove": Remove(dir), "Usage": usage, "Sync": Sync(t.Context(), dir), "Copy": Copy(t.Context(), empty, dir, nil),
		} {
			if !errors.Is(err, ErrMounted) {
				t.Errorf("%s says %v, want ErrMounted", what, err)
			}
		}
		if !exists(outside + "/file") {
			t.Error("what is mounted was emptied")
		}
	})
}

// Usage counts nothing that is mounted, Copy leaves it out, and Sync goes on.
func TestMountsAreLeftOut(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		m := newMounted(t)
		usage, err := Usage(t.Context(), m.tree)
		must(t, err)
		if usage.Inodes != 4 { // the tree, plain, its file, deep
			t.Errorf("%d inodes are counted, want 4", usage.Inodes)
		}
		must(t, Sync(t.Context(), m.tree))
		to := t.TempDir()
		must(t, Copy(t.Context(), to, m.tree, nil))
		got := namesBelow(t, to)
		if want := []string{"deep", "plain", "plain/file"}; !slices.Equal(got, want) {
			t.Errorf("copied are %q, want %q", got, want)
		}
	})
}

func namesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	return names
}

// newDeep makes a tree of so many directories, each in the one before, with a file in each and two names
// for the last one: one at the top.
func newDeep(t *testing.T, path string, depth int) {
	t.Helper()
	must(t, os.Mkdir(path, 0o755))
	name := strings.Repeat("d", 200)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	top, err := unix.Dup(fd)
	must(t, err)
	defer unix.Close(top) //nolint:errcheck // it was only read
	for range depth {
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
		must(t, unix.Mknodat(fd, "file", unix.S_IFREG|0o600, 0))
	}
	must(t, unix.Linkat(fd, "file", top, "zlink", 0))
	must(t, unix.Close(fd))
}

// Trees are deleted, measured, synced and copied however long the paths in them are, with few open files.
func TestDeepTrees(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		const depth = 3 * deepest
		var limit unix.Rlimit
		must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
		few := limit
		few.Cur = 4*deepest + 2*syncs
		must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
		t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) })

		dir := t.TempDir()
		tree, copied := filepath.Join(dir, "tree"), filepath.Join(dir, "copied")
		newDeep(t, tree, depth)
		must(t, os.Mkdir(copied, 0o700))
		must(t, Copy(t.Context(), copied, tree, nil))
		for _, path := range []string{tree, copied} {
			must(t, Sync(t.Context(), path))
			usage, err := Usage(t.Context(), path)
			must(t, err)
			if usage.Inodes != 1+2*depth {
				t.Errorf("%s has %d inodes, want %d", path, usage.Inodes, 1+2*depth)
			}
			must(t, Remove(path))
			if exists(path) {
				t.Errorf("%s is left", path)
			}
		}
	})
}

// grow makes a random tree.
func growTree(t *testing.T, random *rand.Rand, dir string, files *[]string, depth int) {
	t.Helper()
	for i := range random.IntN(8) {
		path := fmt.Sprintf("%s/%d", dir, i)
		switch kind := random.IntN(8); {
		case kind < 2 && depth < 5:
			must(t, os.Mkdir(path, 0o700))
			growTree(t, random, path, files, depth+1)
			must(t, os.Chmod(path, os.FileMode(random.IntN(0o1000))|0o100))
		case kind == 2 && len(*files) > 0:
			must(t, os.Link((*files)[random.IntN(len(*files))], path))
		case kind == 3:
			must(t, os.Symlink(strings.Repeat("x/", 1+random.IntN(500)), path))
		case kind == 4:
			must(t, unix.Mkfifo(path, 0o640))
		case kind == 5 && os.Geteuid() == 0:
			must(t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(random.IntN(5)), uint32(random.IntN(300))))))
		default:
			growFile(t, random, path)
			*files = append(*files, path)
		}
		times := []unix.Timespec{{Sec: random.Int64N(1 << 31), Nsec: random.Int64N(1e9)}, {Sec: random.Int64N(1 << 31), Nsec: random.Int64N(1e9)}}
		if os.Geteuid() == 0 {
			must(t, os.Lchown(path, random.IntN(1<<20), random.IntN(1<<20)))
		}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// growFile makes a file with data and holes.
func growFile(t *testing.T, random *rand.Rand, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	at := int64(0)
	for range random.IntN(4) {
		data := make([]byte, 1+random.IntN(100_000))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		_, err := f.WriteAt(data, at)
		must(t, err)
		at += int64(len(data)) + random.Int64N(1<<21)
	}
	must(t, f.Truncate(at))
	must(t, f.Close())
	mode := os.FileMode(random.IntN(0o1000))
	if random.IntN(4) == 0 {
		mode |= os.ModeSetuid
	}
	must(t, os.Chmod(path, mode))
	if random.IntN(3) == 0 {
		err := unix.Setxattr(path, "user.test", []byte(path), 0)
		if !errors.Is(err, unix.ENOTSUP) {
			must(t, err)
		}
	}
}

// sees describes everything in a tree that a copy has to have: also which names are of one file.
func sees(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	first := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var is unix.Stat_t
		must(t, unix.Lstat(path, &is))
		name := strings.TrimPrefix(path, dir)
		text := fmt.Sprintf("%s %o %d:%d %d", name, is.Mode, is.Uid, is.Gid, is.Rdev)
		if !entry.IsDir() {
			text += fmt.Sprintf(" size %d links %d", is.Size, is.Nlink)
		}
		if entry.IsDir() || entry.Type().IsRegular() { // a look changes the other times of access
			text += fmt.Sprintf(" mtime %d.%d", is.Mtim.Sec, is.Mtim.Nsec)
		}
		if entry.Type().IsRegular() {
			data, err := os.ReadFile(path)
			must(t, err)
			if first[is.Ino] == "" {
				first[is.Ino] = name
			}
			text += fmt.Sprintf(" content %x same %s", data[:min(len(data), 100)], first[is.Ino])
			attributes, err := listXattrs(path)
			must(t, err)
			for _, attribute := range attributes {
				value, err := getXattr(path, attribute)
				must(t, err)
				text += fmt.Sprintf(" %s=%q", attribute, value)
			}
		}
		if entry.Type()&os.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			must(t, err)
			text += " to " + target
		}
		all = append(all, text)
		return nil
	}))
	return all
}

// Usage says of any tree what containerd's own snapshotters say.
func TestUsageIsContinuitys(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		for seed := range uint64(20) {
			dir := t.TempDir()
			growTree(t, rand.New(rand.NewPCG(seed, 1)), dir, &[]string{}, 0)
			want, err := fs.DiskUsage(t.Context(), dir)
			must(t, err)
			got, err := Usage(t.Context(), dir)
			must(t, err)
			if fs.Usage(got) != want {
				t.Errorf("of tree %d it is %+v, want %+v", seed, got, want)
			}
		}
	})
}

// What vanishes while it is looked at is not there, and no error.
func TestVanishingFiles(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		dir := t.TempDir()
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				sub := fmt.Sprintf("%s/%d", dir, i%10)
				if err := os.MkdirAll(sub+"/below", 0o700); err == nil {
					_ = os.WriteFile(sub+"/below/file", nil, 0o600) // it may have been removed with what it is in
				}
				_ = os.RemoveAll(fmt.Sprintf("%s/%d", dir, (i+5)%10)) // as above
			}
		}()
		for range 300 {
			if _, err := Usage(t.Context(), dir); err != nil {
				t.Errorf("Usage: %v", err)
			}
			if err := Sync(t.Context(), dir); err != nil {
				t.Errorf("Sync: %v", err)
			}
		}
		close(stop)
		<-stopped
		if _, err := Usage(t.Context(), dir+"/gone"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("of what is not there Usage says %v", err)
		}
		must(t, Remove(dir+"/gone/too"))
	})
}

// A context that has ended ends each call that takes one.
func TestContexts(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(dir+"/file", []byte("content"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, usage := Usage(ctx, dir)
	for what, err := range map[string]error{"Usage": usage, "Sync": Sync(ctx, dir), "Copy": Copy(ctx, to, dir, nil)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s says %v, want that of the context", what, err)
		}
	}
}

// Remove goes on after what can't be deleted, and says what that is.
func TestRemoveGoesOn(t *testing.T) {
	asRoot(t)
	dir := filepath.Join(t.TempDir(), "tree")
	for i := range 3 {
		must(t, os.MkdirAll(fmt.Sprintf("%s/%d/below", dir, i), 0o700))
	}
	stuck := dir + "/1/below/stuck"
	must(t, os.WriteFile(stuck, nil, 0o600))
	if err := setImmutable(stuck, true); err != nil {
		t.Skipf("this filesystem has no immutable files: %v", err)
	}
	t.Cleanup(func() { must(t, setImmutable(stuck, false)); must(t, Remove(dir)) })
	err := Remove(dir)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), stuck) {
		t.Errorf("Remove says %v, want EPERM and the path", err)
	}
	if got := namesBelow(t, dir); !slices.Equal(got, []string{"1", "1/below", "1/below/stuck"}) {
		t.Errorf("%q are left", got)
	}
}

func setImmutable(path string, on bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL
	if flags &^= immutable; on {
		flags |= immutable
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// Several calls that delete the same tree don't disturb each other.
func TestRemoveBesideRemove(t *testing.T) {
	inEachWay(t, func(t *testing.T) {
		for seed := range uint64(20) {
			dir := filepath.Join(t.TempDir(), "tree")
			must(t, os.Mkdir(dir, 0o700))
			growTree(t, rand.New(rand.NewPCG(seed, 4)), dir, &[]string{}, 0)
			var calls sync.WaitGroup
			for range 4 {
				calls.Go(func() {
					if err := Remove(dir); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			if exists(dir) {
				t.Errorf("%s is left", dir)
			}
		}
	})
}

// A directory far down that is moved elsewhere while its content is deleted leads nowhere else: what is beside it there
// stays, and what was left of the tree.
func TestRemoveOfWhatIsMovedMeanwhile(t *testing.T) {
	tree, elsewhere := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	deep := filepath.Join(tree, strings.Repeat("d/", deepest+5))
	for _, path := range []string{filepath.Join(deep, "moved"), filepath.Join(deep, "rest"), filepath.Join(elsewhere, "rest")} {
		must(t, os.MkdirAll(path, 0o755))
		must(t, os.WriteFile(filepath.Join(path, "file"), nil, 0o600))
	}
	d, name, err := openTree(tree)
	must(t, err)
	for d.depth < deepest+6 {
		d, err = d.down(name)
		must(t, err)
		name = "d"
	}
	moved, err := d.down("moved")
	must(t, err)
	must(t, os.Rename(filepath.Join(deep, "moved"), filepath.Join(elsewhere, "moved")))
	if err := moved.up(); !errors.Is(err, errMoved) {
		t.Errorf("up says %v, want errMoved", err)
	}
	if err := d.remove("rest"); err == nil {
		t.Error("it goes on in a directory that can't be told")
	}
	for ; d != nil; d = d.parent {
		d.close()
	}
	for _, path := range []string{filepath.Join(deep, "rest"), filepath.Join(elsewhere, "rest"), filepath.Join(elsewhere, "moved")} {
		if !exists(filepath.Join(path, "file")) {
			t.Errorf("%s has lost its file", path)
		}
	}
}
