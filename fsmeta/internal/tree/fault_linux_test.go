package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

func init() {
	device := func(t *testing.T, path string) {
		needRoot(t)
		replaceBy(t, path, "", func(_, path string) error {
			return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))
		})
	}
	sabotage["device"] = func(t *testing.T, dir, _ string) { device(t, dir) }
	sabotage["file: device"] = func(t *testing.T, dir, _ string) { device(t, dir+"/metadata.json") }
}

// setImmutable makes a file or directory one that can't be changed, until the test ends or the
// returned function is called, wherever it is by then.
func setImmutable(t *testing.T, path string) (undo func()) {
	t.Helper()
	needRoot(t)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	set := func(on bool) error {
		const immutable = 0x10
		flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if flags &^= immutable; on {
			flags |= immutable
		}
		if err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
	}
	if err := set(true); err != nil {
		t.Skipf("can't make it immutable here: %v, %v", err, f.Close())
	}
	undo = sync.OnceFunc(func() { must(t, errors.Join(set(false), f.Close())) })
	t.Cleanup(undo)
	return undo
}

// wantLagging requires that just these names lag, for this reason, which is an error with path and
// operation.
func wantLagging(t *testing.T, lagging map[string]error, why error, names ...string) {
	t.Helper()
	if len(lagging) != len(names) {
		t.Errorf("lagging: %v, want %q", lagging, names)
	}
	for _, name := range names {
		err := lagging[name]
		var pathErr *fs.PathError
		var linkErr *os.LinkError
		if !errors.Is(err, why) || !errors.As(err, &pathErr) && !errors.As(err, &linkErr) {
			t.Errorf("%s: got error %v, want %v", name, err, why)
		}
	}
}

// A directory that can't be changed makes its name lag and no other. Later it is brought up.
func TestImmutableDirectory(t *testing.T) {
	for what, change := range map[string]func(a *format.Snapshot) versions{
		"update": func(a *format.Snapshot) versions { return versions{"a": next(a, "1")} },
		"remove": func(a *format.Snapshot) versions { return versions{"a": nil} },
		"commit": func(a *format.Snapshot) versions { return versions{"a": nil, "n": as(a, "n", a.Parent)} },
	} {
		t.Run(what, func(t *testing.T) {
			tree, v := newTree(t), versions{}
			v.apply(t, tree, versions{"a": snapshot("a", "b"), "b": snapshot("b", ""), "c": snapshot("c", "")})
			undo := setImmutable(t, tree.Path("a"))
			want := change(v["a"])
			want["b"], want["c"], want["d"] = next(v["b"], "1"), nil, snapshot("d", "b")
			w, err := tree.Stage(v.to(want), nil)
			must(t, err)
			wantLagging(t, tree.BringUp(w, nil), unix.EPERM, "a")
			tree.Recycle(w)
			old := v["a"]
			apply(v, want)
			v["a"] = old
			v.check(t, tree) // also the name of the commit is there
			w = Wanted(want, false)
			wantLagging(t, tree.BringUp(w, nil), unix.EPERM, "a")
			tree.Recycle(w)
			undo()
			v.bringUp(t, tree, Wanted(want, false), want)
			v.check(t, tree)
		})
	}
}

func apply(v, change versions) {
	for name, s := range change {
		if v[name] = s; s == nil {
			delete(v, name)
		}
	}
}

// A file that can't be changed is taken out with its directory. It stays in staging/ and
// hinders nothing.
func TestImmutableFile(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "")})
	undo := setImmutable(t, tree.file("a"))
	v.apply(t, tree, versions{"a": next(v["a"], "1"), "b": next(v["b"], "1")})
	for name, s := range v {
		v.checkOne(t, tree, name, s)
	}
	if err := tree.Clean(); !errors.Is(err, unix.EPERM) {
		t.Errorf("clean: %v", err)
	}
	v.apply(t, tree, versions{"a": nil, "b": next(v["b"], "2")})
	undo()
	must(t, tree.Clean())
	v.check(t, tree)
}

// An entry that can't be renamed into staging/ is deleted where it is, and the snapshot's own files
// first. What has to be built in staging/ lags, with what was there.
func TestStagingCannotBeWritten(t *testing.T) {
	tree, v, o := newTree(t), versions{}, newOutside(t)
	v.apply(t, tree, versions{"a": snapshot("a", "b"), "b": snapshot("b", ""), "c": snapshot("c", ""), "d": snapshot("d", "")})
	v.apply(t, tree, versions{"d": nil})
	must(t, os.MkdirAll(tree.Path("a")+"/x/y", 0o700))
	must(t, os.Symlink(o.path, tree.Path("a")+"/x/l"))
	remove, change := versions{"a": nil}, versions{"c": next(v["c"], "1"), "b": v["b"], "n": snapshot("n", "")}
	undo := setImmutable(t, tree.staging.Path)
	tree.forget()
	if _, err := tree.Stage(v.to(change), nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("staged: %v", err)
	}
	w := Wanted(remove, false)
	wantLagging(t, tree.BringUp(w, nil), nil)
	o.check(t)
	delete(v, "a")
	wantLagging(t, tree.BringUp(Wanted(change, false), nil), unix.EPERM, "c", "n")
	undo()
	must(t, tree.Clean())
	v.check(t, tree)
}

// mount mounts something until the test ends or the returned function is called.
func mount(t *testing.T, source, target, kind string, flags uintptr, data string) (unmount func()) {
	t.Helper()
	needRoot(t)
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Skipf("can't mount: %v", err)
	}
	unmount = sync.OnceFunc(func() { must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	t.Cleanup(unmount)
	return unmount
}

// A mount over a snapshot's directory, or its file, is not written to and not deleted.
func TestMounts(t *testing.T) {
	for what, change := range map[string]func(a *format.Snapshot) versions{
		"update": func(a *format.Snapshot) versions { return versions{"a": next(a, "1")} },
		"remove": func(a *format.Snapshot) versions { return versions{"a": nil} },
		"commit": func(a *format.Snapshot) versions { return versions{"a": nil, "n": as(a, "n", a.Parent)} },
	} {
		t.Run(what, func(t *testing.T) {
			needRoot(t)
			tree, v, o := newTree(t), versions{}, newOutside(t)
			v.apply(t, tree, versions{"a": snapshot("a", "b"), "b": snapshot("b", "")})
			unmount := mount(t, o.path, tree.Path("a"), "", unix.MS_BIND, "")
			want := change(v["a"])
			want["b"], want["c"] = next(v["b"], "1"), snapshot("c", "b")
			w, err := tree.Stage(v.to(want), nil)
			must(t, err)
			wantLagging(t, tree.BringUp(w, nil), unix.EBUSY, "a")
			tree.Recycle(w)
			o.check(t)
			w = Wanted(want, true)
			wantLagging(t, tree.BringUp(w, nil), unix.EBUSY, "a")
			tree.Recycle(w)
			o.check(t)
			unmount()
			v.bringUp(t, tree, Wanted(want, false), want)
			v.check(t, tree)
		})
	}
}

// A mount inside of a snapshot's directory goes to staging/ with it, and stays.
func TestMountInside(t *testing.T) {
	needRoot(t)
	tree, v, o := newTree(t), versions{}, newOutside(t)
	v.apply(t, tree, versions{"a": snapshot("a", "b"), "b": snapshot("b", "")})
	must(t, os.Mkdir(tree.Path("a")+"/m", 0o700))
	if err := unix.Mount(o.path, tree.Path("a")+"/m", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("can't mount: %v", err)
	}
	v.apply(t, tree, versions{"a": nil, "b": next(v["b"], "1")})
	o.check(t)
	if err := tree.Clean(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("clean: %v", err)
	}
	o.check(t)
	left, err := filepath.Glob(tree.staging.Path + "/*/m")
	if err != nil || len(left) != 1 {
		t.Fatalf("%q are left, %v", left, err)
	}
	must(t, unix.Unmount(left[0], 0))
	must(t, tree.Clean())
	v.check(t, tree)
}

// smallTree is on a filesystem with little room.
func smallTree(t *testing.T, options string) *Tree {
	path := t.TempDir()
	mount(t, "tmpfs", path, "tmpfs", 0, options)
	return openTree(t, path)
}

// On a full filesystem staging fails and leaves nothing, and removals and changes by kept
// files go on.
func TestFull(t *testing.T) {
	// With three numbers of inodes the directory, its file and its link each are the last straw.
	for _, options := range []string{"size=400k", "nr_inodes=100", "nr_inodes=101", "nr_inodes=102"} {
		t.Run(options, func(t *testing.T) {
			tree, v := smallTree(t, options), versions{}
			v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "a")})
			v.apply(t, tree, versions{"b": next(v["b"], "1")})
			fill, i := true, 0
			for ; fill; i++ {
				name := fmt.Sprint("n", i)
				change := versions{name: snapshot(name, "a")}
				w, err := tree.Stage(v.to(change), nil)
				if fill = err == nil; fill {
					v.bringUp(t, tree, w, change)
				} else if !errors.Is(err, unix.ENOSPC) || !fault.NoRoom(err) {
					t.Fatal(err)
				}
			}
			if i < 10 {
				t.Fatalf("it is full after %d", i)
			}
			if n := len(tree.spares[false]) + len(tree.spares[true]); n > 0 {
				t.Errorf("%d are kept while staging finds no room", n)
			}
			v.check(t, tree)
			big := versions{"x": snapshot("x", longName), "y": snapshot("y", longName), "z": snapshot("z", longName)}
			w := Wanted(big, false)
			wantLagging(t, tree.BringUp(w, nil), unix.ENOSPC, "x", "y", "z")
			tree.Recycle(w)
			v.check(t, tree)
			remove := versions{}
			for name := range v {
				if name != "a" {
					remove[name] = nil
				}
			}
			v.apply(t, tree, remove)
			v.check(t, tree)
			v.bringUp(t, tree, Wanted(big, false), big)
			v.check(t, tree)
		})
	}
}

// A removal goes on where staging/ has room for no directory: it has the most links that the
// filesystem can count.
func TestTooManyLinks(t *testing.T) {
	needRoot(t)
	image, path := t.TempDir()+"/image", t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 8<<20))
	run := func(command ...string) {
		t.Helper()
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%q: %v: %s", command, err, out)
		}
	}
	run("mkfs.ext4", "-q", "-F", "-O", "^dir_nlink,^has_journal,^metadata_csum", image)
	run("debugfs", "-w", "-R", "mkdir snapshots", image)
	run("debugfs", "-w", "-R", "mkdir staging", image)
	run("debugfs", "-w", "-R", "set_inode_field staging links_count 64997", image)
	run("mount", "-o", "loop", image, path)
	t.Cleanup(func() { must(t, unix.Unmount(path, unix.MNT_DETACH)) })
	tree, v := openTree(t, path), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "a"), "c": snapshot("c", "a")})
	v.apply(t, tree, versions{"c": nil})
	for i := range 3 { // the last one but for the kept directory, that, and none
		err := os.Mkdir(fmt.Sprint(tree.staging.Path, "/", i), 0o700)
		if (i == 2) != errors.Is(err, unix.EMLINK) {
			t.Fatal(i, err)
		}
	}
	_, err := tree.Stage(v.to(versions{"d": snapshot("d", ""), "e": snapshot("e", "")}), nil)
	if !fault.NoRoom(err) {
		t.Errorf("staged: %v", err)
	}
	must(t, os.Mkdir(tree.staging.Path+"/3", 0o700)) // instead of the kept directory
	want := versions{"a": next(v["a"], "1"), "b": nil, "d": snapshot("d", "")}
	lagging := tree.BringUp(Wanted(want, false), nil)
	wantLagging(t, lagging, unix.EMLINK, "d")
	if !fault.NoRoom(lagging["d"]) {
		t.Errorf("%v is not taken for a lack of room", lagging["d"])
	}
	delete(want, "d")
	apply(v, want)
	v.checkNames(t, tree)
	v.checkOne(t, tree, "a", v["a"])
}

// Everything that root makes in the store of another user belongs to that user.
func TestOwnership(t *testing.T) {
	needRoot(t)
	const uid, gid = 12345, 12346
	path := t.TempDir()
	must(t, os.Mkdir(path+"/snapshots", 0o700))
	must(t, os.Chown(path, uid, gid))
	must(t, os.Chown(path+"/snapshots", uid, gid))
	tree, v := openTree(t, path), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "a"), "c": snapshot("c", "a")})
	v.apply(t, tree, versions{"a": next(v["a"], "1"), "b": nil, "n": as(v["b"], "n", "c"), "c": nil})
	v.apply(t, tree, versions{"d": snapshot("d", "n"), "a": next(v["a"], "2")}) // kept ones
	want := versions{"x": snapshot("x", "a"), "a": next(v["a"], "3"), "d": snapshot("d", "a")}
	v.bringUp(t, tree, Wanted(want, false), want)
	v.check(t, tree)
	must(t, filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var stat unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &stat)
		}
		if stat.Uid != uid || stat.Gid != gid {
			t.Errorf("%s belongs to %d:%d", path, stat.Uid, stat.Gid)
		}
		return err
	}))
	// What another has made is not kept.
	must(t, os.Chown(tree.Path("x"), 0, 0))
	must(t, os.Chown(tree.file("d"), 0, 0))
	tree.DropSpares()
	v.apply(t, tree, versions{"x": nil, "d": next(v["d"], "4")})
	v.check(t, tree)
	if n := len(tree.spares[false]) + len(tree.spares[true]); n > 0 {
		t.Errorf("%d of another owner are kept", n)
	}
}
