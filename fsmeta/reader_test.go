//go:build linux

package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Every reader sees the same transactions: all that were acknowledged, in order, at any time.

// wantDamagedJournal requires that every enumeration gives the rest, and then tells that the
// journal is damaged.
func wantDamagedJournal(t *testing.T, a *local, rest string) {
	t.Helper()
	for _, line := range []string{"walk", "all", "ids", "backup " + newDir(t)} {
		got, err := a.do(line)
		if !errors.Is(err, fsmeta.ErrDamaged) {
			t.Errorf("%s: %v, want that it is damaged", line, err)
		}
		for name := range strings.FieldsSeq(rest) {
			if !strings.HasPrefix(line, "backup") && !strings.Contains(" "+got+" ", " "+name+" ") {
				t.Errorf("%s gives %q, and not %q", line, got, name)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), hangs)
	defer cancel()
	var last error
	for _, err := range a.store.Watch(ctx, 0) {
		last = err
	}
	if !errors.Is(last, fsmeta.ErrDamaged) {
		t.Errorf("Watch ends with %v", last)
	}
}

// A bit that flips in a published line is told by every enumeration, and nothing more can be
// written until a repair.
func TestDamagedLineIsToldToAll(t *testing.T) {
	for _, last := range []string{"remove a", "label a 2", "commit a n", "put e"} {
		for _, back := range []int{2, 3, 20, 60, 1 << 20} { // from the line's end; the last: its beginning
			dir := newDir(t)
			crashed(t, dir, "put a", "put b", "layer c", last)
			path := filepath.Join(dir, "journal")
			lines, _ := readJournal(t, dir)
			text := readFile(t, path)
			end := strings.LastIndexByte(text, '\n')
			at := max(end-back, end-len(lines[len(lines)-1]))
			flip(t, path, at)
			t.Run(last, func(t *testing.T) {
				r := useDamaged(t, dir, fsmeta.ReadOnly())
				wantDamagedJournal(t, r, "b c")
				a := useDamaged(t, dir)
				wantDamagedJournal(t, a, "b c")
				mustFail(t, a, "put x", fsmeta.ErrDamaged)
				mustDo(t, a, "close")
				mustDo(t, r, "close")
				wantFinding(t, dir)
				repair(t, dir)
				repair(t, dir, fsmeta.AcceptTree())
				forgetAside(t, dir)
				mustDo(t, use(t, dir), "put x", "stat b", "stat c")
			})
		}
	}
}

// A transaction that was synced and not yet published when its writer ended is there for all: also
// while another process holds staging/, and for readers from before.
func TestUnpublishedTransactionIsSeenByAll(t *testing.T) {
	for _, c := range []struct{ name, last, stat, want string }{
		{"create", "put x", "x", "active v= on="},
		{"update", "label a 1", "a", "active v=1 on="},
		{"commit", "commit a x", "x", "committed v= on="},
		{"remove", "remove a", "a", ""},
	} {
		for _, held := range []bool{false, true} {
			name := c.name + "/staging free"
			if held {
				name = c.name + "/staging held"
			}
			t.Run(name, func(t *testing.T) {
				dir := newDir(t)
				build(t, dir, "layer base", "put a", "put b")
				w := start(t)
				mustDo(t, w, "open "+dir, "label b 1")
				var before []*local
				for _, opts := range [][]fsmeta.Option{{fsmeta.ReadOnly()}, nil} {
					r := useDamaged(t, dir, opts...)
					mustSay(t, r, "walk", "a b base")
					before = append(before, r)
				}
				mustDo(t, w, c.last)
				w.kill()
				unpublish(t, dir)
				if held {
					defer flocked(t, filepath.Join(dir, "staging"))()
				}
				after := useDamaged(t, dir, fsmeta.ReadOnly())
				wantStat(t, after, c.stat, c.want)
				for _, r := range append(before, useDamaged(t, dir), after) {
					wantStat(t, r, c.stat, c.want)
				}
				copied := newDir(t)
				mustDo(t, after, "backup "+copied)
				wantStat(t, useDamaged(t, copied), c.stat, c.want)
			})
		}
	}
}

// Nothing that a reader saw is ever unseen, also if its writer's newline never came.
func TestTimeNeverRunsBackwards(t *testing.T) {
	dir := newDir(t)
	w := start(t)
	mustDo(t, w, "open "+dir, "put a")
	one := useDamaged(t, dir, fsmeta.ReadOnly())
	mustSay(t, one, "walk", "a")
	mustDo(t, w, "put b")
	w.kill()
	unpublish(t, dir)
	two := useDamaged(t, dir, fsmeta.ReadOnly())
	mustSay(t, two, "walk", "a b")
	for range 3 {
		mustSay(t, one, "walk", "a b")
		mustSay(t, two, "walk", "a b")
	}
	next := use(t, dir)
	mustSay(t, next, "walk", "a b")
	mustDo(t, next, "put c")
	for _, r := range []actor{one, two, next} {
		mustSay(t, r, "walk", "a b c")
	}
}

// While its writer is at work, a line without its newline is not acknowledged, and no reader of
// another process sees it. When the writer has ended, all do.
func TestLineOfAWriterAtWork(t *testing.T) {
	dir := newDir(t)
	w := start(t)
	mustDo(t, w, "open "+dir, "put a", "put b", "begin")
	unpublish(t, dir)
	one := useDamaged(t, dir, fsmeta.ReadOnly())
	mustSay(t, one, "walk", "a")
	w.kill()
	mustSay(t, one, "walk", "a b")
	mustSay(t, useDamaged(t, dir, fsmeta.ReadOnly()), "walk", "a b")
	mustSay(t, use(t, dir), "walk", "a b")
}

// A journal that was cut is damage, wherever it was cut.
func TestCutJournalIsNeverSilent(t *testing.T) {
	dir := newDir(t)
	crashed(t, dir, "put a", "put b", "remove a", "label b 1", "layer c")
	path := filepath.Join(dir, "journal")
	text := readFile(t, path)
	end := strings.LastIndexByte(text, '\n') + 1
	silent := 0
	cut := func(size int) {
		succeed(t, os.Truncate(path, int64(size)))
		s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
		if err == nil {
			_, err = (&local{store: s}).do("walk")
			_ = s.Close()
		}
		if !errors.Is(err, fsmeta.ErrDamaged) {
			if silent++; silent <= 5 {
				t.Errorf("cut to %d of %d bytes, the lines have %d: %v", size, len(text), end, err)
			}
		}
		if size%101 == 0 || size == len(text)-1 {
			wantFinding(t, dir)
			wantCutRefusesWrites(t, dir)
		}
	}
	cut(len(text) - 1)
	cut(len(text) / 2)
	for size := end; size >= 0; size-- {
		cut(size)
	}
	if silent > 0 {
		t.Errorf("%d cuts were silent", silent)
	}
}

// wantCutRefusesWrites requires that a store with a cut journal takes no transaction, and that
// a repair makes it usable.
func wantCutRefusesWrites(t *testing.T, dir string) {
	t.Helper()
	dir = copyDir(t, dir)
	s, err := fsmeta.Open(dir)
	if err == nil {
		_, err = (&local{store: s}).do("put new")
		_ = s.Close()
	}
	if !errors.Is(err, fsmeta.ErrDamaged) {
		t.Errorf("a transaction on a cut journal: %v", err)
	}
	for _, opts := range [][]fsmeta.RepairOption{nil, {fsmeta.AcceptTree()}} {
		repair(t, dir, opts...)
	}
	forgetAside(t, dir)
	a := useDamaged(t, dir)
	mustDo(t, a, "put new", "close")
	wantClean(t, dir)
}

// An acknowledged transaction on a snapshot that was put back by hand, with a transaction number above the
// journal's, survives the loss of all that was not synced.
func TestSnapshotPutBackByHand(t *testing.T) {
	old, dir := newDir(t), newDir(t)
	a := useDamaged(t, old)
	mustDo(t, a, "put x", "put y")
	for range 20 {
		mustDo(t, a, "label x old")
	}
	mustDo(t, a, "backup "+dir, "close") // which numbers the transactions anew
	putBack := func() {
		t.Helper()
		succeed(t, os.RemoveAll(entry(dir, "x")), os.CopyFS(entry(dir, "x"), os.DirFS(entry(old, "x"))))
	}
	putBack()
	w := start(t)
	mustDo(t, w, "open "+dir, "label x new")
	w.kill()
	putBack() // the power cut takes the rename back
	r := useDamaged(t, dir, fsmeta.ReadOnly())
	mustSay(t, r, "stat x", "active v=new on=")
	mustDo(t, r, "close")
	if findings, err := fsmeta.Check(t.Context(), dir, nil); err != nil {
		t.Error(err)
	} else {
		for _, f := range findings {
			if filepath.Base(f.Path) == "journal" && !f.Harmless {
				t.Errorf("check finds %v", f)
			}
		}
	}
	repaired := copyDir(t, dir)
	repair(t, repaired)
	for _, dir := range []string{dir, repaired} {
		b := useDamaged(t, dir)
		mustDo(t, b, "label y 1")
		mustSay(t, b, "stat x", "active v=new on=")
		mustDo(t, b, "close")
		if text := readFile(t, metadataPath(dir, "x")); !strings.Contains(text, `"v": "new"`) {
			t.Errorf("x is\n%s", text)
		}
	}
}

// A read-only Open answers in bounded time while another process, which repairs or closes the
// store, holds its layout.
func TestOpenReadOnlyWhileLayoutIsHeld(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a")
	release := flocked(t, filepath.Join(dir, "layout"))
	r := start(t)
	if _, err := r.do("open " + dir + " readonly hurried"); err == nil {
		mustSay(t, r, "walk", "a")
	} else if !errors.Is(err, fsmeta.ErrInUse) {
		t.Errorf("open: %v, want nil or that the store is in use", err)
	}
	release()
	two := start(t)
	mustDo(t, two, "open "+dir+" readonly")
	mustSay(t, two, "walk", "a")
}

// Patience bounds how long Open waits for a program that has the layout alone.
func TestPatienceOfOpen(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a")
	release := flocked(t, filepath.Join(dir, "layout"))
	for _, d := range []time.Duration{-1, time.Millisecond} {
		_, err := fsmeta.Open(dir, fsmeta.Patience(d))
		if !errors.Is(err, fsmeta.ErrInUse) || !strings.Contains(err.Error(), "locked for "+d.String()) {
			t.Errorf("open with a patience of %v: %v, want that the store is in use", d, err)
		}
	}
	release()
	s, err := fsmeta.Open(dir, fsmeta.Patience(-1))
	succeed(t, err)
	succeed(t, s.Close())
}

// otherBoot makes the journal one of another boot of the machine.
func otherBoot(t *testing.T, dir string) {
	t.Helper()
	was := regexp.MustCompile(`"boot":"[^"]*"`)
	editLine(t, dir, 0, func(body string) string {
		if !was.MatchString(body) {
			t.Skip("the boot is not known here")
		}
		return was.ReplaceAllString(body, `"boot":"00000000-0000-4000-8000-000000000000"`)
	})
}

// After a restart of the machine, a transaction without its newline is there for every reader at
// once, also while a process holds staging/. The next writer makes a file of its own boot before
// it writes a line.
func TestJournalOfAnotherBoot(t *testing.T) {
	dir := newDir(t)
	crashed(t, dir, "put a", "put b", "remove a")
	otherBoot(t, dir)
	unpublish(t, dir)
	path := filepath.Join(dir, "journal")
	before := readFile(t, path)
	release, unlock := flocked(t, filepath.Join(dir, "staging")), lockJournal(t, path)
	r := useDamaged(t, dir, fsmeta.ReadOnly())
	mustSay(t, r, "walk", "b")
	unlock()
	release()
	if readFile(t, path) != before {
		t.Error("a reader has written to the journal")
	}
	w := start(t)
	mustDo(t, w, "open "+dir, "put c")
	mustSay(t, r, "walk", "b c")
	lines, _ := readJournal(t, dir)
	if text := strings.Join(lines, "\n"); strings.Contains(text, `"boot":"00000000-`) || strings.Contains(text, `"name":"b"`) || !strings.Contains(text, `"name":"c"`) {
		t.Errorf("behind the first transaction the journal is\n%s\nwant a header of this boot and no line from before", text)
	}
	mustDo(t, w, "close")
	mustDo(t, r, "close")
	wantClean(t, dir)
}

// A listing that reads every snapshot from disk ends, after a few tries at the most, and is right
// beside a writer of another process that makes a checkpoint every few transactions.
func TestListingBesideABusyWriter(t *testing.T) {
	dir := newDir(t)
	var lines, want []string
	for i := range 600 {
		name := fmt.Sprintf("s%03d", i)
		lines, want = append(lines, "put "+name), append(want, name)
	}
	build(t, dir, lines...)
	w := start(t)
	mustDo(t, w, "open "+dir)
	more, stop := repeatedly(t, w, "label s000 "+strings.Repeat("x", 6_000))
	for range 5 {
		r := useDamaged(t, dir, fsmeta.ReadOnly()) // which knows nothing yet
		got, err := r.do("walk")
		for try := 0; errors.Is(err, fsmeta.ErrOutdated) && try < 20; try++ { // two checkpoints between two looks
			got, err = r.do("walk")
		}
		if err != nil || got != strings.Join(want, " ") {
			t.Errorf("walk: %q, %v", got, err)
		}
		mustDo(t, r, "close")
		more(50) // two checkpoints at least
	}
	stop()
}

// A reader that knows all identifiers does not take a snapshot of a damaged line for one that is not there.
func TestNameOfBesideDamage(t *testing.T) {
	dir := newDir(t)
	w := use(t, dir)
	mustDo(t, w, "put a")
	r := useDamaged(t, dir, fsmeta.ReadOnly())
	mustSay(t, r, "name 1", "a")
	mustDo(t, w, "put b")
	path := filepath.Join(dir, "journal")
	flip(t, path, strings.LastIndex(readFile(t, path), `"time":"2`)+12)
	mustFail(t, r, "name 2", fsmeta.ErrDamaged)
}

// A damaged journal does not tell how many snapshots there should be: nothing is said of that.
func TestDamagedJournalCountsNothing(t *testing.T) {
	dir := newDir(t)
	crashed(t, dir, "put a", "put b")
	path := filepath.Join(dir, "journal")
	flip(t, path, strings.LastIndex(readFile(t, path), `"name":"b"`)+9)
	r := useDamaged(t, dir, fsmeta.ReadOnly())
	err := r.store.Walk(t.Context(), func(context.Context, fsmeta.Info) error { return nil })
	if !errors.Is(err, fsmeta.ErrDamaged) || strings.Contains(err.Error(), "snapshots, and the journal counts") {
		t.Errorf("%v, want damage of the journal alone", err)
	}
	findings := wantFinding(t, dir)
	if len(findings) != 1 || findings[0].Path != path {
		t.Errorf("check: %v", findings)
	}
}
