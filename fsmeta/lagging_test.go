//go:build linux

package fsmeta_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// A name that can't be brought up to the journal never stops others.

// obstacle is a reason why snapshots/x can't be changed.
type obstacle struct {
	name string
	// put puts it in the way. gone takes it away.
	put func(t *testing.T, path string) (gone func())
	// causes are texts of which Check has one while x lags. Where there are none, the store may
	// overcome the obstacle.
	causes []string
}

var obstacles = []obstacle{
	{"immutable", withFlag(immutableFlag), []string{"immutable", "operation not permitted"}},
	{"append-only", withFlag(appendFlag), []string{"append", "operation not permitted"}},
	{"mount of another directory", func(t *testing.T, path string) func() {
		return mount(t, t.TempDir(), path, "", unix.MS_BIND, "")
	}, []string{"mount", "busy", "cross-device"}},
	{"mount of itself", func(t *testing.T, path string) func() {
		return mount(t, path, path, "", unix.MS_BIND, "")
	}, []string{"mount", "busy", "cross-device"}},
	{"mount of a filesystem", func(t *testing.T, path string) func() {
		return mount(t, "none", path, "tmpfs", 0, "")
	}, []string{"mount", "busy", "cross-device"}},
	{"file", instead(func(path string) error { return os.WriteFile(path, []byte("foreign"), 0o600) }), nil},
	{"symlink", instead(func(path string) error { return os.Symlink("/", path) }), nil},
	{"FIFO", instead(func(path string) error { return unix.Mkfifo(path, 0o600) }), nil},
	{"empty directory", instead(func(path string) error { return os.Mkdir(path, 0o700) }), nil},
	{"foreign directory", instead(func(path string) error { return os.MkdirAll(path+"/a/b", 0o700) }), nil},
	{"directory as metadata.json", func(t *testing.T, path string) func() {
		file := filepath.Join(path, "metadata.json")
		succeed(t, os.Remove(file), os.MkdirAll(file+"/a", 0o700))
		return func() { _ = os.RemoveAll(file + "/a") }
	}, nil},
}

// withFlag sets an inode flag.
func withFlag(flag int) func(t *testing.T, path string) func() {
	return func(t *testing.T, path string) func() {
		needRoot(t)
		if err := setFlag(path, flag, true); err != nil {
			t.Skipf("needs a filesystem with inode flags: %v", err)
		}
		set := true
		gone := func() {
			if set {
				set = false
				succeed(t, setFlag(path, flag, false))
			}
		}
		t.Cleanup(gone)
		return gone
	}
}

// instead puts something else in the place of the directory, which is lost.
func instead(create func(path string) error) func(t *testing.T, path string) func() {
	return func(t *testing.T, path string) func() {
		succeed(t, os.RemoveAll(path), create(path))
		return func() {
			if _, err := os.Stat(filepath.Join(path, "metadata.json")); err != nil {
				_ = os.RemoveAll(path)
			}
			for _, name := range []string{"x", "n"} { // a directory that was used as it was
				_ = os.RemoveAll(filepath.Join(filepath.Dir(path), name, "a"))
			}
		}
	}
}

// changes are transactions on x, which is active and has v=0, and how x and n read then; "" where
// they don't exist.
var changes = []struct{ name, script, x, n string }{
	{"update", "label x 1", "active v=1 on=base", ""},
	{"remove", "remove x", "", ""},
	{"commit", "commit x n", "", "committed v= on=base"},
	{"remove and create", "remove x\nput x", "active v= on=", ""},
	{"update and commit", "label x 1\ncommit x n", "", "committed v= on=base"},
}

// The first name that begins to lag is logged, with its cause and where to look, and so is that
// none lags any more. The transactions between are not.
func TestLaggingIsLogged(t *testing.T) {
	log := captureLog(t)
	dir := newDir(t)
	a := useDamaged(t, dir)
	mustDo(t, a, "put x", "put y")
	x, y := obstacles[0].put(t, filepath.Join(dir, "snapshots", "x")), obstacles[0].put(t, filepath.Join(dir, "snapshots", "y"))
	mustDo(t, a, "label x 1", "label x 2", "label y 1", "put z")
	if text := log.String(); strings.Count(text, "level=") != 1 || !strings.Contains(text, "level=WARN") ||
		!strings.Contains(text, "name=x") || !strings.Contains(text, "cause=") || !strings.Contains(text, dir) {
		t.Errorf("logged:\n%s\nwant one warning with the name, the cause and the store", text)
	}
	x()
	y()
	log.Reset()
	mustDo(t, a, "close")
	if text := log.String(); strings.Count(text, "level=") != 1 || !strings.Contains(text, "level=INFO") {
		t.Errorf("logged when nothing lags any more:\n%s", text)
	}
}

func TestLaggingNameStopsNoOther(t *testing.T) {
	for _, o := range obstacles {
		for _, c := range changes {
			t.Run(o.name+"/"+c.name, func(t *testing.T) {
				dir := newDir(t)
				a := useDamaged(t, dir)
				mustDo(t, a, "layer base", "put x base", "label x 0", "put other")
				gone := o.put(t, filepath.Join(dir, "snapshots", "x"))
				mustDo(t, a, strings.Split(c.script, "\n")...)

				want := func(a actor) {
					t.Helper()
					wantStat(t, a, "x", c.x)
					wantStat(t, a, "n", c.n)
					mustSay(t, a, "stat other", "active v= on=")
				}
				others := func(a actor) {
					t.Helper()
					mustDo(t, a, "put y", "label y 1", "layer l", "put z l", "commit z c", "remove c", "remove l", "remove y")
					want(a)
				}
				others(a)
				second := useDamaged(t, dir)
				others(second)
				mustDo(t, second, "close")
				r := start(t)
				mustDo(t, r, "open "+dir)
				others(r)
				mustDo(t, r, "begin", "put never")
				r.kill()
				reader := useDamaged(t, dir, fsmeta.ReadOnly())
				want(reader)
				mustDo(t, reader, "close")
				others(a)
				mustDo(t, a, "close")
				b := useDamaged(t, dir)
				want(b)
				others(b)
				mustDo(t, b, "close")

				gone()
				d := use(t, dir)
				mustDo(t, d, "put last", "remove last")
				want(d)
				mustDo(t, d, "close")
				if _, err := os.Lstat(metadataPath(dir, "x")); (err == nil) != (c.x != "") {
					t.Errorf("the obstacle is gone, x reads %q, and of its metadata.json: %v", c.x, err)
				}
				wantClean(t, dir)
				want(use(t, dir))
			})
		}
	}
}

// wantStat requires that a snapshot reads so, or, if that is "", does not exist.
func wantStat(t testing.TB, a actor, name, want string) {
	t.Helper()
	if want == "" {
		mustFail(t, a, "stat "+name, fsmeta.ErrNotExist)
		return
	}
	mustSay(t, a, "stat "+name, want)
}

// An obstacle in the way of a name that the journal does not name may make that name fail,
// and no other.
func TestObstacleBeforeOpening(t *testing.T) {
	for _, o := range obstacles {
		t.Run(o.name, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, "layer base", "put x base", "put other")
			gone := o.put(t, filepath.Join(dir, "snapshots", "x"))
			a := useDamaged(t, dir)
			_, failed := a.do("label x 1")
			mustDo(t, a, "put y", "label other 1", "layer l", "remove l", "remove y")
			if failed == nil {
				mustSay(t, a, "stat x", "active v=1 on=base")
			}
			mustDo(t, a, "close")
			b := useDamaged(t, dir)
			mustDo(t, b, "put y", "label other 2", "remove y")
			if failed == nil {
				mustSay(t, b, "stat x", "active v=1 on=base")
			}
			mustDo(t, b, "close")
			gone()
		})
	}
}

// Checkpoints go on while a name lags, a check reports it, a repair mends all else.
func TestLaggingNameKeepsTheJournalShort(t *testing.T) {
	for _, o := range obstacles {
		if o.causes == nil {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			dir := newDir(t)
			a := useDamaged(t, dir)
			mustDo(t, a, "layer base", "put x base", "put y base")
			gone := o.put(t, filepath.Join(dir, "snapshots", "x"))
			mustDo(t, a, "label x 1", "churn y 150")
			wantShort(t, a, dir)
			r := start(t)
			mustDo(t, r, "open "+dir, "churn y 150")
			wantShort(t, r, dir)
			r.kill()
			mustDo(t, a, "churn y 50")
			wantShort(t, a, dir)
			mustDo(t, a, "label x 2", "label y 0", "close")
			wantLag := func() {
				t.Helper()
				for _, f := range wantFinding(t, dir, o.causes...) {
					if f.Name != "x" && !f.Harmless {
						t.Errorf("check finds %v", f)
					}
				}
			}
			wantLag()

			succeed(t, os.Remove(filepath.Join(dir, "snapshots", "y", "parent")))
			repair(t, dir)
			forgetAside(t, dir)
			if _, err := os.Readlink(filepath.Join(dir, "snapshots", "y", "parent")); err != nil {
				t.Error(err)
			}
			wantLag()

			gone()
			b := use(t, dir)
			mustDo(t, b, "put last")
			mustSay(t, b, "stat x", "active v=2 on=base")
			mustDo(t, b, "close")
			if text := readFile(t, metadataPath(dir, "x")); !strings.Contains(text, `"v": "2"`) {
				t.Errorf("the obstacle is gone, and x is\n%s", text)
			}
		})
	}
}

// wantShort requires that checkpoints drop the journal's lines. They go on beside transactions,
// so that there may have to be some more.
func wantShort(t testing.TB, a actor, dir string) {
	t.Helper()
	var size int64
	for range 50 {
		var info syscall.Stat_t
		succeed(t, syscall.Stat(filepath.Join(dir, "journal"), &info))
		// The file may be longer, as lines say that were carried over, and has a hole there.
		if size = info.Blocks * 512; size <= 2<<20 {
			return
		}
		mustDo(t, a, "churn y 10")
	}
	t.Errorf("the journal has %d bytes: no checkpoint drops its lines", size)
}

// An unreadable directory, to a process without root's rights, is an obstacle like others.
func TestDirectoryOfAnother(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"unreadable": 0o000, "not writable": 0o755} {
		for _, c := range changes {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				dir := otherDir(t)
				x := filepath.Join(dir, "snapshots", "x")
				r := start(t, asOther)
				mustDo(t, r, "open "+dir, "layer base", "put x base", "label x 0", "put y")
				succeed(t, os.Chown(x, 0, 0), os.Chmod(x, mode))
				mustDo(t, r, strings.Split(c.script, "\n")...)
				mustDo(t, r, "remove y", "put y", "churn y 60")
				wantStat(t, r, "x", c.x)
				other := start(t, asOther)
				mustDo(t, other, "open "+dir, "remove y", "put y", "label y 0")
				wantStat(t, other, "x", c.x)
				wantStat(t, other, "n", c.n)
				other.kill()
				mustDo(t, r, "put z", "remove z", "close")
				if found := mustDo(t, r, "check "+dir); !strings.Contains(found, "permission denied") && !strings.Contains(found, "another user") {
					t.Errorf("check finds %q", found)
				}
				succeed(t, os.Chown(x, otherUser, otherUser), os.Chmod(x, 0o700))
				mustDo(t, r, "open "+dir, "put z")
				wantStat(t, r, "x", c.x)
				wantStat(t, r, "n", c.n)
				mustDo(t, r, "close")
				if found := mustDo(t, r, "check "+dir); found != "" {
					t.Errorf("check finds %s", found)
				}
			})
		}
	}
}

// While more than a thousand names lag, no more snapshots are added or changed, and any
// can be removed.
func TestManyLaggingNames(t *testing.T) {
	needRoot(t)
	const many = 1100
	dir := newDir(t)
	a := useDamaged(t, dir)
	mustDo(t, a, "begin")
	for i := range many {
		mustDo(t, a, fmt.Sprintf("put s%d", i))
	}
	mustDo(t, a, "put y", "put z", "end")
	flag := func(on bool) {
		t.Helper()
		for i := range many {
			path := filepath.Join(dir, "snapshots", fmt.Sprintf("s%d", i))
			if err := setFlag(path, immutableFlag, on); err != nil {
				if on {
					t.Skipf("needs a filesystem with inode flags: %v", err)
				}
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() {
		_ = exec.Command("chattr", "-R", "-i", dir).Run()
	})
	flag(true)
	mustDo(t, a, "begin")
	for i := range many {
		mustDo(t, a, fmt.Sprintf("label s%d 1", i))
	}
	mustDo(t, a, "end", "remove y")
	mustFail(t, a, "put y", unix.EPERM)
	mustFail(t, a, "label z 1", unix.EPERM)
	mustDo(t, a, "remove s0", "close")
	b := useDamaged(t, dir)
	mustFail(t, b, "put y", unix.EPERM)
	mustSay(t, b, "stat s1", "active v=1 on=")
	mustDo(t, b, "remove z")
	flag(false)
	mustDo(t, b, "put y", "label s1 2", "close")
	wantClean(t, dir)
}

// A filesystem that does not know the flags of renameat2 is served without them, whatever
// its error is.
func TestRenameWithoutFlags(t *testing.T) {
	for _, errno := range []string{"EINVAL", "ENOSYS", "EOPNOTSUPP"} {
		t.Run(errno, func(t *testing.T) {
			dir := newDir(t)
			r := start(t, underStrace(t, "renameat2:error="+errno))
			mustDo(t, r, "open "+dir, "layer base", "put x base", "label x 1", "label x 2", "commit x n", "put x",
				"remove x", "remove n", "put x base", "label x 3", "label x 4")
			mustSay(t, r, "walk", "base x")
			mustDo(t, r, "close")
			mustSay(t, use(t, dir), "stat x", "active v=4 on=base")
		})
	}
}

// Renames that fail, of every name and whatever the error is, keep neither the transaction nor
// the next ones from being committed. Only where the error says that there is no room, nothing
// more is added.
func TestRenameFails(t *testing.T) {
	for _, c := range []struct {
		errno string
		room  error // what refuses additions
	}{
		{"EPERM", nil}, {"EACCES", nil}, {"EBUSY", nil}, {"EIO", nil}, {"EUCLEAN", nil}, {"EXDEV", nil}, {"ENOTDIR", nil},
		{"ENOSPC", unix.ENOSPC}, {"EDQUOT", unix.EDQUOT}, {"EMLINK", unix.EMLINK},
	} {
		t.Run(c.errno, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, "layer base", "put x base", "put y", "put z")
			r := start(t, underStrace(t, "renameat2:error="+c.errno))
			mustDo(t, r, "open "+dir, "label x 1", "remove y")
			if c.room == nil {
				mustDo(t, r, "put q", "label q 2", "remove q", "put q")
			} else {
				mustFail(t, r, "put q", c.room)
				mustFail(t, r, "label z 1", c.room)
			}
			mustDo(t, r, "remove z")
			mustSay(t, r, "stat x", "active v=1 on=base")
			mustFail(t, r, "stat y", fsmeta.ErrNotExist)
			r.kill()

			reader := useDamaged(t, dir, fsmeta.ReadOnly())
			mustSay(t, reader, "stat x", "active v=1 on=base")
			a := use(t, dir)
			mustDo(t, a, "put last", "remove last")
			want := "base q x"
			if c.room != nil {
				want = "base x"
			}
			mustSay(t, a, "walk", want)
			mustSay(t, a, "stat x", "active v=1 on=base")
		})
	}
}
