package fsmeta_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// The tests of package fsck have every kind of finding. Here are the promises of
// Check beside open Stores.

// A finding says all it knows in one line.
func TestFindingString(t *testing.T) {
	f := fsmeta.Finding{Path: "/s/snapshots/a", Name: "a", Problem: "it is bad", Meaning: "it can't be used", Advice: "stop"}
	for want, f := range map[string]fsmeta.Finding{
		`/s/snapshots/a: snapshot "a": it is bad; it can't be used; stop`: f,
		`/s/journal: it is bad; it can't be used; stop`:                   {Path: "/s/journal", Problem: f.Problem, Meaning: f.Meaning, Advice: f.Advice},
		`/s/snapshots/a: snapshot "a": it is bad; repaired: set aside`:    {Path: f.Path, Name: "a", Problem: f.Problem, Repaired: "set aside"},
	} {
		if got := f.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A finding says how many others it is about.
func TestCheckReach(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer base", "layer top base", "put work top", "put alone")
	writeFile(t, metadataPath(dir, "base"), "{")
	writeFile(t, metadataPath(dir, "alone"), "{")
	reach := map[string]string{"base": "2", "alone": ""}
	for _, f := range wantFinding(t, dir) {
		n, known := reach[f.Name]
		if !known || f.Path != metadataPath(dir, f.Name) || strings.Trim(f.Meaning, "abcdefghijklmnopqrstuvwxyz ,.;'") != n {
			t.Errorf("%+v, want the number %q of others", f, n)
		}
		delete(reach, f.Name)
	}
	if len(reach) > 0 {
		t.Errorf("not found: %v", reach)
	}
}

// exchange makes one snapshot and removes another, in one transaction.
func exchange(a actor, i int) error {
	for _, line := range []string{"begin", "put key", fmt.Sprint("commit key own", i), fmt.Sprint("remove own", i-1), "end"} {
		if _, err := a.do(line); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// Nothing is found beside writers that commit and make checkpoints all the time, in this process and another.
func TestCheckBesideWriters(t *testing.T) {
	smallJournals(t, 3000)
	dir := newDir(t)
	here, there := use(t, dir), start(t)
	mustDo(t, there, "open "+dir)
	done := make(chan bool)
	var writers sync.WaitGroup
	for n, a := range []actor{here, there} {
		from := n * 1_000_000
		mustDo(t, a, fmt.Sprint("layer own", from))
		writers.Go(func() {
			for i := from + 1; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if err := exchange(a, i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const checks = 60
	wrong := map[string]int{}
	for range checks {
		findings, err := fsmeta.Check(t.Context(), dir, nil)
		if err != nil {
			wrong[err.Error()]++
		}
		for _, f := range findings {
			wrong[f.String()]++
		}
	}
	close(done)
	writers.Wait()
	mustDo(t, there, "close")
	for text, n := range wrong {
		t.Errorf("%d times of %d: %s", n, checks, text)
	}
}

// checkWhile runs Check, with fn after the first snapshot was read, and requires that nothing
// is found.
func checkWhile(t *testing.T, dir string, fn func()) {
	t.Helper()
	once := sync.OnceFunc(fn)
	if findings, err := fsmeta.Check(t.Context(), dir, func(int, int) { once() }); err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
}

// A journal that is dropped twice while it is checked is no error.
func TestCheckGap(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a", "put b", "put c")
	s := use(t, dir)
	checkWhile(t, dir, func() {
		for i := range 3 {
			mustDo(t, s, fmt.Sprint("put x", i), "remove "+string(rune('a'+i)))
			fold(t, dir)
		}
	})
}

// A checkpoint that was under way when Check began, and is finished when it looks, is not
// taken for one that was left unfinished.
func TestCheckDuringCheckpoint(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a")
	path := filepath.Join(dir, "journal")
	at := int64(strings.IndexByte(readFile(t, path), '\n'))
	patch(t, path, at, 0)
	checkWhile(t, dir, func() { patch(t, path, at, '\n') })
}

// Files that another process keeps in staging/ are not taken for leftovers, where it has opened
// the store before Check began or after.
func TestCheckStagingOfOthers(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer own0")
	reader := useDamaged(t, dir, fsmeta.ReadOnly())
	left := filepath.Join(dir, "staging", "0123abcd-1")
	succeed(t, os.Mkdir(left, 0o700))
	wantClean(t, dir)
	succeed(t, os.Remove(left), reader.store.Close())
	checkWhile(t, dir, func() {
		s := useDamaged(t, dir)
		succeed(t, exchange(s, 1))
		if kept, err := os.ReadDir(filepath.Join(dir, "staging")); err != nil || len(kept) == 0 {
			t.Errorf("nothing is kept: %v", err)
		}
	})
}

// While the caller's own transaction holds the lock, Check does not wait for it for ever, and
// says that it has not compared everything.
func TestCheckInTransaction(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir)
	mustDo(t, s, "put a", "begin", "put b")
	findings, err := fsmeta.Check(s.ctx, dir, nil)
	if err != nil || len(findings) != 1 || !findings[0].Harmless || findings[0].Path != filepath.Join(dir, "staging") {
		t.Errorf("%+v, %v", findings, err)
	}
	mustDo(t, s, "end")
}
