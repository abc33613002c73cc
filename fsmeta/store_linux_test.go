package fsmeta_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// journalFD returns the descriptor of the journal that a store in this process writes to.
func journalFD(t testing.TB, dir string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	succeed(t, err)
	for _, e := range entries {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			continue
		}
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && target == filepath.Join(dir, "journal") && flags&unix.O_ACCMODE == unix.O_RDWR {
			return fd
		}
	}
	t.Fatal("the journal is not open")
	return -1
}

// swap makes the open journal another file, until the function that it returns is called.
func swap(t testing.TB, dir, path string, flags int) (back func()) {
	t.Helper()
	fd := journalFD(t, dir)
	other, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	succeed(t, err)
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	succeed(t, err, unix.Dup3(other, fd, unix.O_CLOEXEC), unix.Close(other))
	return func() {
		t.Helper()
		succeed(t, unix.Dup3(kept, fd, unix.O_CLOEXEC), unix.Close(kept))
	}
}

// unlockJournal releases the lock on the journal: the store has tried it on the file that was
// swapped in.
func unlockJournal(t testing.TB, dir string) {
	t.Helper()
	lock := unix.Flock_t{Type: unix.F_UNLCK}
	succeed(t, unix.FcntlFlock(uintptr(journalFD(t, dir)), unix.F_OFD_SETLK, &lock))
}

// A failed sync ends writing: the commit's outcome is unknown, later ones are refused, reads go
// on, and opening anew finds out.
func TestFailedSync(t *testing.T) {
	dir := newDir(t)
	s := useDamaged(t, dir)
	mustDo(t, s, "put a", "begin", "put b")
	back := swap(t, dir, os.DevNull, unix.O_RDWR) // takes writes, and can't be synced
	mustFail(t, s, "end", fsmeta.ErrFailed)
	back()
	unlockJournal(t, dir)
	if err := mustFail(t, s, "put c", fsmeta.ErrFailed); errors.Is(err, fsmeta.ErrOutcomeUnknown) {
		t.Errorf("after a failed sync: %v", err)
	}
	mustFail(t, s, "begin", fsmeta.ErrFailed)
	mustSay(t, s, "walk", "a")
	again := use(t, dir)
	mustSay(t, again, "walk", "a")
	mustDo(t, again, "put d")
	mustSay(t, again, "walk", "a d")
	mustSay(t, s, "walk", "a d")
	mustFail(t, s, "close", fsmeta.ErrFailed)
}

// The outcome of the transaction that could not be synced is unknown. An empty one behind it fails,
// too: the lines that it could have read are not durable.
func TestFailedSyncIsUnknown(t *testing.T) {
	dir := newDir(t)
	s := useDamaged(t, dir)
	mustDo(t, s, "put a", "begin", "put b")
	defer swap(t, dir, os.DevNull, unix.O_RDWR)()
	waiting := make(chan error)
	x := &local{store: s.store}
	go func() {
		_, err := x.do("begin")
		if err == nil { // it has the turn when the line is written
			_, err = x.do("rollback")
		}
		waiting <- err
	}()
	mustFail(t, s, "end", fsmeta.ErrOutcomeUnknown)
	if err := <-waiting; !errors.Is(err, fsmeta.ErrFailed) || errors.Is(err, fsmeta.ErrOutcomeUnknown) {
		t.Errorf("an empty transaction behind it: %v", err)
	}
}

// A line that can't be written fails its transaction alone.
func TestFailedWrite(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir)
	mustDo(t, s, "put a", "begin", "put b")
	back := swap(t, dir, filepath.Join(dir, "journal"), unix.O_RDONLY)
	_, err := s.do("end")
	back()
	if !errors.Is(err, unix.EBADF) || errors.Is(err, fsmeta.ErrOutcomeUnknown) {
		t.Errorf("Commit: %v", err)
	}
	mustSay(t, s, "walk", "a")
	entries, err := os.ReadDir(filepath.Join(dir, "staging"))
	if succeed(t, err); slices.ContainsFunc(entries, os.DirEntry.IsDir) {
		t.Errorf("a snapshot is left in staging: %v", entries)
	}
	mustDo(t, s, "put b", "put c", "close")
	mustSay(t, use(t, dir), "walk", "a b c")
}
