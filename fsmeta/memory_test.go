//go:build linux

package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// Nothing on disk exhausts memory or hangs a process, and all that has ended gives back its part:
// memory, threads, descriptors, turns.

// limited starts a child that may take 4 GiB of memory.
func limited(t *testing.T) *remote {
	t.Helper()
	r := start(t)
	const most = 4 << 30
	succeed(t, unix.Prlimit(r.cmd.Process.Pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: most, Max: most}, nil))
	return r
}

// oddities are what may lie where a file or a directory is expected.
var oddities = []struct {
	name string
	make func(path string) error
}{
	{"1 TiB", func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Truncate(path, 1<<40))
	}},
	{"65 MiB", func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Truncate(path, 65<<20))
	}},
	{"device", func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) }},
	{"FIFO", func(path string) error { return unix.Mkfifo(path, 0o600) }},
	{"socket", func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }},
	{"symlink to a device", func(path string) error { return os.Symlink("/dev/zero", path) }},
	{"symlink to itself", func(path string) error { return os.Symlink(filepath.Base(path), path) }},
	{"directory", func(path string) error { return os.Mkdir(path, 0o700) }},
}

// An oddity in the place of a snapshot's directory or file costs that snapshot.
func TestOddSnapshot(t *testing.T) {
	for _, odd := range oddities {
		for _, place := range []string{"s3/metadata.json", "s3"} {
			t.Run(odd.name+"/"+place, func(t *testing.T) {
				dir := newDir(t)
				build(t, dir, "put s1", "put s2", "put s3", "put s4")
				putOdd(t, entry(dir, place), odd.make)
				r := limited(t)
				mustDo(t, r, "open "+dir)
				for _, line := range []string{"walk", "all", "ids"} {
					got, err := r.do(line)
					if got != "s1 s2 s4" || !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), "s3") {
						t.Errorf("%s: %q, %v", line, got, err)
					}
				}
				mustFail(t, r, "stat s3", fsmeta.ErrDamaged)
				mustFail(t, r, "backup "+newDir(t), fsmeta.ErrDamaged)
				mustDo(t, r, "put s5", "remove s1", "label s2 1")
				_, _ = r.do("label s3 1")
				if found, err := r.do("check " + dir); err != nil || !strings.Contains(found, "s3") {
					t.Errorf("check: %q, %v", found, err)
				}
				mustDo(t, r, "close", "repair "+dir)
				forgetAside(t, dir)
				mustDo(t, r, "open "+dir, "put s6")
				if got := mustDo(t, r, "walk"); got != "s2 s4 s5 s6" && got != "s2 s3 s4 s5 s6" {
					t.Errorf("after a repair there are %q", got)
				}
				mustDo(t, r, "close")
				wantClean(t, dir)
			})
		}
	}
}

// putOdd puts an oddity in the place of a file or a directory.
func putOdd(t *testing.T, path string, make func(string) error) {
	t.Helper()
	succeed(t, os.RemoveAll(path))
	if err := make(path); errors.Is(err, unix.EPERM) {
		t.Skip("needs root")
	} else {
		succeed(t, err)
	}
}

// An oddity in the place of another part is an error of Open, or harms nothing.
func TestOddPart(t *testing.T) {
	for _, odd := range oddities {
		for _, place := range []string{"layout", "journal", "backup", "snapshots", "staging"} {
			t.Run(odd.name+"/"+place, func(t *testing.T) {
				dir := newDir(t)
				build(t, dir, "put s1", "put s2")
				putOdd(t, filepath.Join(dir, place), odd.make)
				r := limited(t)
				for _, opts := range []string{" readonly", ""} {
					_, err := r.do("open " + dir + opts)
					if err != nil {
						continue
					}
					if got, err := r.do("walk"); err == nil && got != "s1 s2" && place != "staging" {
						t.Errorf("walk: %q, and no error", got)
					}
					_, _ = r.do("put s3")
					_, _ = r.do("close")
				}
				_, _ = r.do("check " + dir)
				_, _ = r.do("repair " + dir)
				_, _ = r.do("check " + dir)
				mustDo(t, r, "open "+newDir(t)) // it is alive
			})
		}
	}
}

// A byte far behind a journal's lines does not keep anything busy.
func TestJournalWithAByteFarBehind(t *testing.T) {
	for _, at := range []int64{1 << 20, 1 << 30, 128 << 30} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			dir := newDir(t)
			crashed(t, dir, "put a", "put b")
			patch(t, filepath.Join(dir, "journal"), at, 'x')
			r := limited(t)
			if _, err := r.do("open " + dir + " readonly"); err == nil {
				if got, err := r.do("walk"); err == nil && got != "a b" {
					t.Errorf("walk: %q", got)
				}
				mustDo(t, r, "close")
			}
			if _, err := r.do("open " + dir); err == nil {
				_, _ = r.do("put c")
				_, _ = r.do("close")
			}
			mustDo(t, r, "check "+dir)
			w := limited(t)
			mustDo(t, w, "repair "+dir, "open "+dir, "put d")
			if got := mustDo(t, w, "walk"); !strings.HasPrefix(got, "a b") || !strings.HasSuffix(got, "d") {
				t.Errorf("walk after a repair: %q", got)
			}
		})
	}
}

// heap returns how much memory is in use.
func heap() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// newJournal writes enough for a checkpoint, and waits until one has replaced the journal.
func newJournal(t *testing.T, a *local, dir string) {
	t.Helper()
	journal := filepath.Join(dir, "journal")
	before := must(os.Stat(journal))
	mustDo(t, a, "churn keep 40")
	for os.SameFile(before, must(os.Stat(journal))) {
		mustDo(t, a, "label keep 1") // after which a checkpoint that is due begins
		time.Sleep(time.Millisecond)
	}
}

// Names that are gone take no memory, when the readers that could see them have ended.
func TestMemoryOfRemovedNamesComesBack(t *testing.T) {
	for _, c := range []struct {
		name        string
		length      int // of names
		many        int
		most        int64 // bytes that may stay
		reader      bool
		transaction int // names in each
	}{
		{"a reader spans checkpoints", 100, 8_000, 5 << 19, true, 500},
		{"long names", 32_000, 600, 4 << 20, false, 50},
		{"long names and a reader", 32_000, 600, 4 << 20, true, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newDir(t)
			a := use(t, dir, fsmeta.Relaxed())
			mustDo(t, a, "put keep", "churn keep 40", "walk")
			before := heap()
			ctx, tx, err := a.store.TransactionContext(context.Background(), false)
			succeed(t, err)
			if !c.reader {
				succeed(t, tx.Rollback())
			}
			tail := strings.Repeat("n", c.length-6)
			for from := 0; from < c.many; from += c.transaction {
				for _, command := range []string{"put", "remove"} {
					mustDo(t, a, "begin")
					for i := range c.transaction {
						mustDo(t, a, fmt.Sprintf("%s %06d%s", command, from+i, tail))
					}
					mustDo(t, a, "end")
				}
			}
			if c.reader {
				info, err := a.store.Stat(ctx, "keep")
				succeed(t, err, tx.Rollback())
				if info.Name != "keep" {
					t.Errorf("the reader saw %+v", info)
				}
			}
			// What the journal has is in memory until a checkpoint. One that goes on now may have
			// begun before the last of it, and one that has just ended may still hold its names.
			for range 3 {
				newJournal(t, a, dir)
			}
			mustDo(t, a, "walk", "begin", "rollback")
			stays := heap() - before
			if stays > c.most {
				t.Errorf("%d bytes stay of %d names of %d bytes, want at most %d", stays, c.many, c.length, c.most)
			}
			mustSay(t, a, "walk", "keep")
		})
	}
}

// Stores that wait for a turn, give up and are closed leave no thread and no descriptor.
func TestWaitsThatEndLeaveNothing(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a")
	holder := start(t)
	mustDo(t, holder, "open "+dir, "begin")
	round := func() {
		s, err := fsmeta.Open(dir)
		succeed(t, err)
		mustFail(t, &local{store: s}, "begin 1", context.DeadlineExceeded)
		succeed(t, s.Close())
	}
	for range 5 {
		round()
	}
	threads, descriptors := tasks(t, os.Getpid())
	for range 200 {
		round()
	}
	if more, open := tasks(t, os.Getpid()); more > threads+20 || open > descriptors+20 {
		t.Errorf("200 waits left %d threads and %d descriptors", more-threads, open-descriptors)
	}
	mustDo(t, holder, "rollback", "close")
	wantClean(t, dir)
}

// A process that is stopped while it waits for the turn keeps no other from writing.
func TestStoppedWaiterStopsNoOther(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a")
	holder, waiter := start(t), start(t)
	mustDo(t, holder, "open "+dir, "begin", "label a 1")
	mustDo(t, waiter, "open "+dir)
	waiter.send("begin")
	awaitWait(waiter.cmd.Process.Pid)
	signal(t, waiter, syscall.SIGSTOP)
	mustDo(t, holder, "end")
	for i := range 3 {
		mustDo(t, holder, fmt.Sprintf("label a %d", i+2))
	}
	third := start(t)
	mustDo(t, third, "open "+dir, "put b", "remove b", "close")
	mustDo(t, use(t, dir), "put c", "stat a")
	mustDo(t, holder, "close")
	signal(t, waiter, syscall.SIGCONT)
	if _, err := waiter.receive("begin"); err != nil {
		t.Errorf("begin after SIGCONT: %v", err)
	}
	mustDo(t, waiter, "label a last", "end", "stat a", "close")
}

// signal returns, for SIGSTOP, when every thread has stopped: one that is inside of a system
// call finishes it first.
func signal(t *testing.T, r *remote, s syscall.Signal) {
	t.Helper()
	succeed(t, r.cmd.Process.Signal(s))
	for s == syscall.SIGSTOP && !stopped(t, r.cmd.Process.Pid) {
		time.Sleep(time.Millisecond)
	}
}

// stopped reports whether every thread of a process is stopped.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	succeed(t, err)
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(stat), ") ") // behind the command's name
		if !strings.HasPrefix(after, "T") {
			return false
		}
	}
	return true
}

// awaitWait returns when a process waits for a lock, as far as /proc/locks shows that, or holds
// one more than the store that it has open; at the latest after a second. If it came too early, the
// test would try less than it could.
func awaitWait(pid int) {
	for range 100 {
		locks, _ := os.ReadFile("/proc/locks")
		mine := 0
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, fmt.Sprintf(" %d ", pid)) {
				if mine++; strings.Contains(line, "->") || mine > 1 {
					return
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A process that is stopped while it holds the turn keeps no reader from reading.
func TestStoppedWriterStopsNoReader(t *testing.T) {
	dir := newDir(t)
	holder := start(t)
	mustDo(t, holder, "open "+dir, "put a", "begin", "put b")
	signal(t, holder, syscall.SIGSTOP)
	r := start(t)
	mustDo(t, r, "open "+dir+" readonly")
	mustSay(t, r, "walk", "a")
	mustDo(t, r, "check "+dir, "backup "+newDir(t))
	w := start(t)
	mustDo(t, w, "open "+dir)
	mustSay(t, w, "walk", "a")
	mustFail(t, w, "begin 100", context.DeadlineExceeded)
	mustDo(t, w, "close")
	signal(t, holder, syscall.SIGCONT)
	mustDo(t, holder, "end", "close")
	mustSay(t, r, "walk", "a b")
}
