//go:build linux

package fsmeta_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Another filesystem over snapshots/ hides a store; it is no store without snapshots. Nothing
// opens it, and no repair takes what is seen there for the truth.
func TestFilesystemOverSnapshots(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer base", "put x base")
	gone := mount(t, "none", filepath.Join(dir, "snapshots"), "tmpfs", 0, "")
	for _, opts := range [][]fsmeta.Option{nil, {fsmeta.ReadOnly()}, {fsmeta.MustExist()}} {
		s, err := fsmeta.Open(dir, opts...)
		if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), "unmount") {
			t.Errorf("open: %v, want that it is damaged, and to unmount", err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	wantFinding(t, dir, "is mounted on it")
	for _, opts := range [][]fsmeta.RepairOption{nil, {fsmeta.AcceptTree()}} {
		if _, err := fsmeta.Repair(t.Context(), dir, nil, opts...); err == nil || !strings.Contains(err.Error(), "unmount") {
			t.Errorf("repair: %v, want to unmount", err)
		}
	}
	gone()
	mustSay(t, use(t, dir), "walk", "base x")
}

// overs put something else over a directory of a store.
var overs = []struct {
	name string
	put  func(t *testing.T, path string) (gone func())
}{
	{"tmpfs", func(t *testing.T, path string) func() { return mount(t, "none", path, "tmpfs", 0, "") }},
	{"bind", func(t *testing.T, path string) func() { return mount(t, t.TempDir(), path, "", unix.MS_BIND, "") }},
	{"bind of itself", func(t *testing.T, path string) func() { return mount(t, path, path, "", unix.MS_BIND, "") }},
}

func needMountRoot(t *testing.T) {
	t.Helper()
	needRoot(t)
	var is unix.Statx_t
	succeed(t, unix.Statx(unix.AT_FDCWD, "/", 0, 0, &is))
	if is.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		t.Skip("needs Linux 5.8")
	}
}

// wantUnmount requires that a command fails for something that is mounted in the store.
func wantUnmount(t *testing.T, a actor, line, part string) {
	t.Helper()
	_, err := a.do(line)
	isUnmount(t, err, part)
}

func isUnmount(t *testing.T, err error, part string) {
	t.Helper()
	if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), part+": ") || !strings.Contains(err.Error(), "unmount") {
		t.Errorf("%v, want that %s is damaged, and to unmount", err, part)
	}
}

// refused writes until that fails, and returns the error: the process may still have the lock.
func refused(t *testing.T, a actor) error {
	t.Helper()
	for range 2000 {
		if _, err := a.do("label x 1"); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("a process goes on writing")
	return nil
}

// A directory of the same filesystem hides snapshots/ as well. A process that has the store open
// goes on in its own.
func TestDirectoryOverSnapshots(t *testing.T) {
	needMountRoot(t)
	for _, over := range overs {
		t.Run(over.name, func(t *testing.T) {
			dir := newDir(t)
			w := start(t)
			mustDo(t, w, "open "+dir, "layer base", "put x base")
			gone := over.put(t, filepath.Join(dir, "snapshots"))
			for _, how := range []string{"", " readonly", " existing"} {
				wantUnmount(t, &local{}, "open "+dir+how, "snapshots")
			}
			mustDo(t, w, "put y base", "remove x")
			gone()
			mustSay(t, w, "walk", "base y")
			mustDo(t, w, "close")
			mustSay(t, use(t, dir), "walk", "base y")
		})
	}
}

// What is mounted on staging/ has another lock. No process takes that for the lock on the store.
func TestMountOverStaging(t *testing.T) {
	needMountRoot(t)
	for _, over := range overs {
		t.Run(over.name, func(t *testing.T) {
			dir := newDir(t)
			w, b, r := start(t), start(t), use(t, dir)
			mustDo(t, w, "open "+dir, "put x", "begin", "put y")
			mustDo(t, b, "open "+dir, "walk")
			gone := over.put(t, filepath.Join(dir, "staging"))
			wantUnmount(t, b, "put b", "staging")
			late := use(t, dir)
			wantUnmount(t, late, "put late", "staging")
			mustSay(t, use(t, dir, fsmeta.ReadOnly()), "walk", "x")
			all := "x y"
			for i := range 20 { // it has the lock, and what it writes to; a checkpoint is due, and fails
				name := fmt.Sprintf("z%02d", i)
				mustDo(t, w, "put "+name, "churn "+name+" 1")
				all += " " + name
			}
			mustDo(t, w, "end")
			mustSay(t, r, "walk", all)
			isUnmount(t, refused(t, w), "staging")
			wantUnmount(t, b, "put b", "staging")
			mustSay(t, w, "walk", all)
			gone()
			for _, a := range []actor{w, b, r, late} {
				mustDo(t, a, "put t", "remove t")
			}
			mustDo(t, b, "put b")
			mustDo(t, w, "put w")
			mustSay(t, late, "walk", "b w "+all)
		})
	}
}

// The mount appears while a process waits for the lock: what it gets then is another one.
func TestMountOverStagingWhileWaiting(t *testing.T) {
	needMountRoot(t)
	for _, over := range overs {
		t.Run(over.name, func(t *testing.T) {
			dir := newDir(t)
			w, b := start(t), start(t)
			mustDo(t, w, "open "+dir, "put x", "begin", "put y")
			mustDo(t, b, "open "+dir)
			staging := filepath.Join(dir, "staging")
			waited := make(chan error, 1)
			go func() { _, err := b.do("put b"); waited <- err }()
			awaitTurnstile(dir)
			gone := over.put(t, staging)
			if over.name == "bind of itself" { // the same lock
				mustDo(t, w, "end")
			}
			if err := <-waited; !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), "unmount") {
				t.Errorf("the waiter: %v, want to unmount", err)
			}
			flocked(t, staging)() // the lock was given back
			if over.name != "bind of itself" {
				mustDo(t, w, "end")
			}
			gone()
			mustDo(t, b, "put b")
			mustDo(t, w, "put w")
			mustSay(t, b, "walk", "b w x y")
		})
	}
}

// What is written to a file over the journal is gone when it is unmounted.
func TestFileOverJournal(t *testing.T) {
	needMountRoot(t)
	for _, itself := range []bool{false, true} {
		dir := newDir(t)
		w := start(t)
		mustDo(t, w, "open "+dir, "put x", "begin", "put y")
		path := filepath.Join(dir, "journal")
		from := path
		if !itself {
			from = filepath.Join(t.TempDir(), "copy")
			writeFile(t, from, readFile(t, path))
		}
		gone := mount(t, from, path, "", unix.MS_BIND, "")
		mustDo(t, w, "end")
		mustDo(t, use(t, dir, fsmeta.ReadOnly()), "stat x")
		late := use(t, dir)
		isUnmount(t, refused(t, w), "journal")
		wantUnmount(t, late, "put late", "journal")
		mustSay(t, w, "walk", "x y")
		gone()
		mustDo(t, late, "put late")
		mustDo(t, w, "put w")
		mustSay(t, late, "walk", "late w x y")
	}
}

// Another store in the place of an open one has another lock, too.
func TestStoreIsReplaced(t *testing.T) {
	dir := newDir(t)
	w := start(t)
	mustDo(t, w, "open "+dir, "put x")
	other := newDir(t)
	build(t, other, "put z")
	before := listing(t, other)
	succeed(t, os.Rename(dir, dir+".old"), os.Rename(other, dir))
	if err := refused(t, w); !strings.Contains(err.Error(), "open it anew") {
		t.Errorf("write: %v, want to open it anew", err)
	}
	succeed(t, os.Rename(dir, other), os.Rename(dir+".old", dir))
	if after := listing(t, other); after != before {
		t.Errorf("the other store was\n%s\nand is\n%s", before, after)
	}
	mustDo(t, w, "put y")
	mustSay(t, w, "walk", "x y")
}

// So it is where the journal alone is replaced by an older one.
func TestJournalIsReplaced(t *testing.T) {
	dir, other := newDir(t), newDir(t)
	w := start(t)
	mustDo(t, w, "open "+dir, "put x", "put y", "put z")
	build(t, other, "put a")
	journal, kept := filepath.Join(dir, "journal"), filepath.Join(t.TempDir(), "journal")
	succeed(t, os.Rename(journal, kept))
	writeFile(t, journal, readFile(t, filepath.Join(other, "journal")))
	if err := refused(t, w); !strings.Contains(err.Error(), "open it anew") {
		t.Errorf("write: %v, want to open it anew", err)
	}
	succeed(t, os.Rename(kept, journal))
	mustDo(t, w, "close")
	mustSay(t, use(t, dir), "walk", "x y z")
}

// No store is made in parts that are mounted.
func TestMakeOverMounts(t *testing.T) {
	needMountRoot(t)
	for _, part := range []string{"staging", "snapshots"} {
		dir := newDir(t)
		succeed(t, os.MkdirAll(filepath.Join(dir, part), 0o700))
		gone := mount(t, t.TempDir(), filepath.Join(dir, part), "", unix.MS_BIND, "")
		wantUnmount(t, &local{}, "open "+dir, part)
		gone()
		mustDo(t, use(t, dir), "put x")
	}
}

// A file in the place of staging/ is reported, and what to do.
func TestFileForStaging(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put x")
	staging := filepath.Join(dir, "staging")
	succeed(t, os.RemoveAll(staging), os.WriteFile(staging, nil, 0o600))
	a := use(t, dir)
	if _, err := a.do("put y"); !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("write: %v, want to move it away", err)
	}
	succeed(t, os.Remove(staging))
	mustDo(t, a, "put y")
}

// Check compares the tree with the journal also beside a process that writes all the time.
func TestCheckBesideABusyWriter(t *testing.T) {
	dir := newDir(t)
	w := start(t)
	mustDo(t, w, "open "+dir, "put x")
	_, stop := repeatedly(t, w, "label x 1")
	for range 5 {
		findings, err := fsmeta.Check(t.Context(), dir, nil)
		if err != nil || len(findings) > 0 {
			t.Errorf("check beside a writer: %v, %v", findings, err)
		}
	}
	stop()
}
