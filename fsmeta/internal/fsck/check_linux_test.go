package fsck

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"

	"golang.org/x/sys/unix"
)

// obstructed makes a store in which the update of view lags, since something keeps its
// directory from being changed, until free is called.
func obstructed(t *testing.T, obstruct func(path string) (free func() error, err error)) (s *tamper, free func()) {
	t.Helper()
	s = specimen(t, false)
	path := s.at(dirOf("view"))
	undo, err := obstruct(path)
	if err != nil {
		t.Skip("it can't be obstructed here: ", err)
	}
	free = func() {
		if undo != nil {
			s.check(undo())
		}
		undo = nil
	}
	t.Cleanup(free)
	h := openStore(t, s.dir)
	changed := snapshot("5", "view", "base", format.Active)
	changed.Usage.Size = 77
	h.commit(map[string]*format.Snapshot{"view": changed})
	h.close(true)
	return s, free
}

func immutable(path string) (func() error, error) {
	set := func(flags int) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags), f.Close())
	}
	return func() error { return set(0) }, set(unix.STATX_ATTR_IMMUTABLE)
}

func mounted(path string) (func() error, error) {
	err := syscall.Mount(path, path, "", syscall.MS_BIND, "")
	return func() error { return syscall.Unmount(path, 0) }, err
}

// A name that lags is found with its cause, and keeps nothing else from being repaired, with a
// damaged journal, too; when the cause is gone, the next writer brings it up.
func TestLagging(t *testing.T) {
	for name, obstruct := range map[string]func(string) (func() error, error){"immutable": immutable, "a mount point": mounted} {
		t.Run(name, func(t *testing.T) {
			s, free := obstructed(t, obstruct)
			lags := wanted{dirOf("view"), false, "does not have what the journal says: it is " + name}
			s.wantCheck(lags)
			s.replaceIn(meta("alone"), "active", "octive")
			s.remove(linkOfName("top"))
			s.wantRepair(RepairOptions{}, []done{{meta("alone"), isAside}, {linkOfName("top"), isLinked}}, []wanted{lags})
			s.wantList("alone")

			free()
			openStore(t, s.dir).close(true)
			s.wantCheck()
		})
	}
}

// What the lines of a damaged journal say of a name that lags stays known.
func TestLaggingBesideDamage(t *testing.T) {
	s, free := obstructed(t, immutable)
	s.append("damaged\n")
	s.wantCheck(wanted{"journal", false, "was published"})
	findings, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	if len(findings) != 2 || !strings.Contains(findings[0].Repaired, "made anew") || !strings.Contains(findings[1].Problem, "immutable") {
		t.Errorf("%+v", findings)
	}
	s.wantList()
	free()
	openStore(t, s.dir).close(true)
	s.wantCheck()
	if s.get("view").Usage.Size != 77 {
		t.Error("the change is lost")
	}
}

// Root hands what it makes in another user's store to that user, and says what it finds of others.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can do that")
	}
	const user = 65534
	s := specimen(t, true)
	harm(s)
	s.check(filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, user, user))
	}))
	s.remove("layout", "staging")
	s.put("staging", "")
	_, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	s.check(filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		info, ierr := d.Info()
		if err = errors.Join(err, ierr); err == nil && info.Sys().(*syscall.Stat_t).Uid != user && filepath.Base(path) != "staging" {
			t.Errorf("%s belongs to root", path)
		}
		return err
	}))
	s.check(os.Lchown(s.at(meta("top")), 0, 0))
	s.check(os.Lchown(s.at(dirOf("top")), 0, 0))
	findings, err := Check(bg, s.dir, nil)
	s.check(err)
	for _, f := range findings {
		if f.Path == s.at(dirOf("top")) && !f.Harmless && strings.Contains(f.Problem, "another user") && strings.Contains(f.Problem, "so does another") {
			return
		}
	}
	t.Errorf("%+v", findings)
}

// A store on a read-only mount can be checked.
func TestCheckReadOnlyMount(t *testing.T) {
	for _, killed := range []bool{false, true} {
		s := specimen(t, killed)
		if err := syscall.Mount(s.dir, s.dir, "", syscall.MS_BIND, ""); err != nil {
			t.Skip("nothing can be mounted: ", err)
		}
		defer func() { s.check(syscall.Unmount(s.dir, 0)) }()
		s.put(meta("alone"), "{")
		s.remove("staging")
		s.check(syscall.Mount("", s.dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
		s.wantCheck(wanted{"", true, "read-only"}, wanted{meta("alone"), false, "as if edited by hand"}, wanted{format.StagingDir, true, "missing"})
	}
}

// What no process can write to is found, in a store that is in order otherwise.
func TestCheckFlags(t *testing.T) {
	for _, part := range []string{".", "journal", "snapshots", "staging"} {
		s := specimen(t, false)
		free, err := immutable(s.at(part))
		if err != nil {
			t.Skip("nothing can be made immutable here: ", err)
		}
		t.Cleanup(func() { _ = free() }) // so that it can be deleted
		s.wantCheck(wanted{part, false, "it is immutable"})
		s.check(free())
		s.wantCheck()
	}
}

// A repair that such a flag refuses something ends with how to take the flag away.
func TestRepairFlags(t *testing.T) {
	for _, part := range []string{".", "journal", "staging"} {
		s := specimen(t, true)
		free, err := immutable(s.at(part))
		if err != nil {
			t.Skip("nothing can be made immutable here: ", err)
		}
		t.Cleanup(func() { _ = free() }) // so that it can be deleted
		want := s.at(part) + " is immutable: chattr -i -a " + s.at(part)
		if _, err := Repair(bg, s.dir, RepairOptions{}, nil); !errors.Is(err, fs.ErrPermission) || strings.Count(err.Error(), want) != 1 {
			t.Errorf("%s: the repair ends with %v, want %q", part, err, want)
		}
		s.check(free())
		if _, err := Repair(bg, s.dir, RepairOptions{}, nil); err != nil {
			t.Errorf("%s: the repair after that: %v", part, err)
		}
	}
}

// A filesystem over the directory of one snapshot hides it, and is no reason to set anything
// aside: when it is gone, all is there.
func TestMountedOverASnapshot(t *testing.T) {
	s := specimen(t, false)
	path := s.at(dirOf("base"))
	if err := syscall.Mount("none", path, "tmpfs", 0, ""); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, 0) })
	hidden := []wanted{{dirOf("base"), false, "it is a mount point"}, {meta("base"), false, "no such file"}}
	s.wantCheck(hidden...)
	for _, accept := range []bool{false, true} {
		s.wantRepair(RepairOptions{AcceptTree: accept}, nil, hidden)
	}
	for _, f := range must(Check(bg, s.dir, nil)) {
		if f.Advice != adviseUnmount {
			t.Errorf("%+v, want the advice to unmount it", f)
		}
	}
	s.check(syscall.Unmount(path, 0))
	s.wantCheck()
	s.wantList()
}

// A repair that has no room says so.
func TestRepairWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := &tamper{t, filepath.Join(dir, "store")}
	openStore(t, s.dir).close(true)
	s.put("journal", "damaged")
	fill, err := os.Create(filepath.Join(dir, "fill"))
	s.check(err)
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	s.check(fill.Close())
	accept := RepairOptions{AcceptTree: true}
	_, err = Repair(bg, s.dir, accept, nil)
	if !errors.Is(err, unix.ENOSPC) || !strings.HasSuffix(err.Error(), "make some room on the filesystem and run it again") {
		t.Errorf("%v, want that there is no room, and to make some", err)
	}
	s.check(os.Remove(fill.Name()))
	s.wantRepair(accept, []done{{"journal", "made anew"}}, nil)
}

// A snapshot that can't be read now may be whole: a repair leaves it, and what stands on it.
func TestRepairLeavesWhatItCannotRead(t *testing.T) {
	s := specimen(t, false)
	s.check(os.Chmod(s.at(meta("base")), 0))
	if _, err := os.ReadFile(s.at(meta("base"))); err == nil {
		asOther(t, s.dir)
	}
	s.wantRepair(RepairOptions{}, nil, []wanted{{meta("base"), false, "permission denied"}})
	s.check(os.Chmod(s.at(meta("base")), format.FileMode))
	s.wantCheck()
	s.wantList()
}

// asOther makes this thread another user, to which the store in dir belongs, until the test ends.
func asOther(t *testing.T, dir string) {
	t.Helper()
	const user = 65534
	for path := dir; len(path) > len(os.TempDir()); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, user, user))
	})
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	if err := syscall.Setfsuid(user); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setfsuid(0); err != nil {
			t.Error(err)
		}
	})
}

// A mount over a part of the store is found, and a repair changes nothing below or above it.
func TestMountedParts(t *testing.T) {
	for _, part := range []string{"journal", "layout", "snapshots", "staging", "damaged"} {
		s := specimen(t, false)
		if part == "damaged" {
			s.mkdir(part)
		}
		if err := syscall.Mount(s.at(part), s.at(part), "", syscall.MS_BIND, ""); err != nil {
			t.Skip("nothing can be mounted here: ", err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(s.at(part), 0) })
		before := parts(t, s.dir)
		s.wantCheck(wanted{part, false, "mounted on it"})
		for _, accept := range []bool{false, true} {
			_, err := Repair(bg, s.dir, RepairOptions{AcceptTree: accept}, nil)
			if damage := fault.DamageOf(err); damage == nil || damage.Path != s.at(part) || !strings.Contains(err.Error(), "unmount it") {
				t.Errorf("%s: %v, want the advice to unmount it", part, err)
			}
		}
		if !reflect.DeepEqual(parts(t, s.dir), before) {
			t.Errorf("%s: something has changed", part)
		}
		s.check(syscall.Unmount(s.at(part), 0))
		s.wantCheck()
	}
}
