package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// unsettled reports whether lines are written that are not synced.
func unsettled(s *Store) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0
}

// A relaxed commit is seen here at once, by others soon, and by all when it was killed.
func TestRelaxed(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"), Relaxed())
	mustCreate(t, s, "a", "b")
	for { // until the timer has not come between
		mustCreate(t, s, "c")
		if unsettled(s) {
			break
		}
		if err := s.WithTransaction(bg, true, func(ctx context.Context) error { _, err := s.Remove(ctx, "c"); return err }); err != nil {
			t.Fatal(err)
		}
	}
	killed := crashed(t, s)
	wantNames(t, s, bg, "a b c")
	wantNames(t, openTest(t, killed), bg, "a b c")
	other := openTest(t, s.dir, ReadOnly())
	for deadline := time.Now().Add(time.Minute); names(t, other, bg) != "a b c"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("another Store does not see it")
		}
	}
	if there, err := s.tree.exists("c"); !there || err != nil {
		t.Errorf("it is shown to others and not in the tree: %v", err)
	}
}

// A power cut takes the latest relaxed transactions, and no identifier is used again.
func TestRelaxedPowerCut(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"), Relaxed())
	var at int64
	var dir string
	var ids []string
	durable := 0
	for i := range 2000 {
		mustCreate(t, s, fmt.Sprintf("%04d", i))
		info, err := s.Stat(bg, fmt.Sprintf("%04d", i))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
		s.flush.Lock() // so that nothing is synced until the copy is made
		s.mu.Lock()
		if s.settled < s.journal.tip() && i > 300 {
			at = s.journal.next(s.settled)
			durable = i + 1 - int(s.journal.tip()-s.settled)
		}
		s.mu.Unlock()
		if at > 0 {
			dir = crashed(t, s)
		}
		s.flush.Unlock()
		if at > 0 {
			break
		}
	}
	if at == 0 {
		t.Fatal("every transaction was synced by then")
	}
	// What was not synced is gone, and nothing of the tree is ahead of it.
	f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(at), f.Truncate(info.Size()), f.Close()); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, dir)
	if n := len(all(t, again)); n < durable-1 || n > durable+1 {
		t.Errorf("%d snapshots, about %d were durable", n, durable)
	}
	id, err := again.NewID(bg)
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range ids {
		if old == id {
			t.Errorf("identifier %s was handed out again", id)
		}
	}
}

// An empty transaction waits until all that was committed is durable; so does Close.
func TestRelaxedBarrier(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"), Relaxed())
	for i := range 50 {
		mustCreate(t, s, fmt.Sprint(i))
		if err := s.WithTransaction(bg, true, func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if unsettled(s) {
			t.Fatal("something is not synced")
		}
	}
	mustCreate(t, s, "last")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if findings, err := Check(bg, s.dir, nil); err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
}

// Two Stores of which one is relaxed take turns, and lose nothing.
func TestRelaxedBesideAnother(t *testing.T) {
	smallJournals(t, 3000)
	s := openTest(t, filepath.Join(t.TempDir(), "store"), Relaxed())
	other := openTest(t, s.dir)
	for i := range 60 {
		writer := s
		if i%3 == 0 {
			writer = other
		}
		mustCreate(t, writer, fmt.Sprintf("%02d", i))
	}
	if err := s.WithTransaction(bg, true, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	s.group.Wait()
	for i := range 60 {
		if _, err := other.Stat(bg, fmt.Sprintf("%02d", i)); err != nil {
			t.Error(err)
		}
	}
	wantNames(t, openTest(t, crashed(t, s)), bg, names(t, s, bg))
}

// Where the sync behind a relaxed commit fails, later ones and Close say so.
func TestRelaxedFails(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"), Relaxed())
	keepLock(s)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0) // takes writes, and can't be synced
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ctx, txn, err := s.TransactionContext(bg, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateActive(ctx, "a", "", false); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	good := s.journal.file
	s.journal.file = null
	s.mu.Unlock()
	if err := txn.Commit(); err != nil {
		t.Errorf("Commit, which does not wait: %v", err)
	}
	for s.failed() == nil {
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	s.journal.file = good
	s.mu.Unlock()
	if err := create(s, "b", ""); !errors.Is(err, ErrFailed) {
		t.Errorf("the next transaction: %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close: %v", err)
	}
}

// An import waits for the disk in a relaxed store, too.
func TestRelaxedImport(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"), Relaxed())
	if err := s.Import(bg, []Info{{ID: "7", Name: "a", Kind: KindCommitted, Created: now(), Updated: now()}}, 1, nil); err != nil {
		t.Fatal(err)
	}
	if m, err := s.tree.read("a"); err != nil || m == nil {
		t.Errorf("the tree has %v, %v", m, err)
	}
}
