package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var bg = context.Background()

func openTest(t *testing.T, dir string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func create(s *Store, key, parent string) error {
	return s.WithTransaction(bg, true, func(ctx context.Context) error {
		_, err := s.CreateActive(ctx, key, parent, false)
		return err
	})
}

func mustCreate(t *testing.T, s *Store, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := create(s, key, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// keepLock makes a Store that was just opened keep the lock for as long as nobody waits
// for it: no timer touches what a test is about to change.
func keepLock(s *Store) {
	s.idle = time.AfterFunc(time.Hour, func() {})
}

// names returns what a walk sees, in order, separated by spaces.
func names(t *testing.T, s *Store, ctx context.Context) string {
	t.Helper()
	var all []string
	err := s.Walk(ctx, func(_ context.Context, info Info) error {
		all = append(all, info.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func wantNames(t *testing.T, s *Store, ctx context.Context, want string) {
	t.Helper()
	if got := names(t, s, ctx); got != want {
		t.Errorf("walk sees %q, want %q", got, want)
	}
}

// crashed copies the store as a power cut would leave it if everything written so
// far had reached the disk.
func crashed(t *testing.T, s *Store) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func smallJournals(t *testing.T, size int64) {
	before := foldSize
	foldSize = size
	t.Cleanup(func() { foldSize = before })
}

// foldAll folds the journal.
func foldAll(t *testing.T, s *Store) {
	t.Helper()
	s.group.Wait()
	if err := fold(s); err != nil {
		t.Fatal(err)
	}
}

// A failed sync ends writing: the commit's outcome is unknown, later ones are
// refused, reads go on, and opening anew finds out.
func TestFailedSync(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	keepLock(s)
	mustCreate(t, s, "a")
	good := s.journal.file
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0) // takes writes, and can't be synced
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s.journal.file = null
	if err := create(s, "b", ""); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, ErrFailed) {
		t.Errorf("Commit: %v", err)
	}
	s.journal.file = good
	s.setWatchLocked()
	if err := create(s, "c", ""); !errors.Is(err, ErrFailed) || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("after a failed sync: %v", err)
	}
	if err := s.WithTransaction(bg, true, func(context.Context) error { return nil }); !errors.Is(err, ErrFailed) {
		t.Errorf("an empty transaction after a failed sync: %v", err)
	}
	wantNames(t, s, bg, "a")
	again := openTest(t, s.dir)
	mustCreate(t, again, "d")
	wantNames(t, again, bg, "a d")
	wantNames(t, s, bg, "a d")
}

// A line that can't be written fails its transaction alone.
func TestFailedWrite(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	keepLock(s)
	mustCreate(t, s, "a")
	good := s.journal.file
	readOnly, err := os.Open(good.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	s.journal.file = readOnly
	err = create(s, "b", "")
	s.journal.file = good
	if !errors.Is(err, syscall.EBADF) || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("Commit: %v", err)
	}
	wantNames(t, s, bg, "a")
	entries, err := os.ReadDir(s.tree.staging)
	if err != nil || len(entries) != 0 {
		t.Errorf("staging holds %v, %v", entries, err)
	}
	mustCreate(t, s, "b", "c")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantNames(t, openTest(t, s.dir), bg, "a b c")
}

// A rename that fails does not undo the commit: the journal serves the name until
// the rename works, and no checkpoint forgets the line before.
func TestFailedRename(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a")
	// The staged directory is taken away before it is renamed, and building it
	// anew fails too.
	ctx, txn, err := s.TransactionContext(bg, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateActive(ctx, "c", "", false); err != nil {
		t.Fatal(err)
	}
	last, err := s.append(txn.(*transaction).netChanges(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.queue[len(s.queue)-1].moves[0].staged); err != nil {
		t.Fatal(err)
	}
	snapshots := s.tree.snapshots
	s.tree.snapshots += ".gone"
	err = s.settle(last)
	s.tree.snapshots = snapshots
	if err != nil {
		t.Fatal(err)
	}
	if err := txn.Rollback(); err != nil {
		t.Fatal(err)
	}
	wantNames(t, s, bg, "a c")
	if there, err := s.tree.exists("c"); there || err != nil {
		t.Fatalf("c is in the tree, or not: %v, %v", there, err)
	}
	smallJournals(t, 1)
	mustCreate(t, s, "d")
	foldAll(t, s)
	if there, err := s.tree.exists("c"); !there || err != nil {
		t.Errorf("c is still not in the tree: %v", err)
	}
	wantNames(t, openTest(t, crashed(t, s)), bg, "a c d")
}

// Checkpoints go on beside commits, and lose nothing.
func TestCheckpointsBesideCommits(t *testing.T) {
	smallJournals(t, 3000)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	other := openTest(t, s.dir)
	first := s.journal
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			store := s
			if w == 3 {
				store = other
			}
			for i := range 30 {
				if err := create(store, fmt.Sprintf("%d-%02d", w, i), ""); err != nil {
					t.Error(err)
				}
				if _, err := other.Stat(bg, fmt.Sprintf("%d-%02d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s.mu.Lock() // a checkpoint may still be on its way
	same := s.journal == first
	s.mu.Unlock()
	if same {
		t.Error("no checkpoint was made")
	}
	want := names(t, s, bg)
	if n := strings.Count(want, "-"); n != 120 {
		t.Errorf("%d snapshots, want 120", n)
	}
	wantNames(t, other, bg, want)
	wantNames(t, openTest(t, crashed(t, s), ReadOnly()), bg, want)
	wantNames(t, openTest(t, crashed(t, s)), bg, want)
}

// A reader that has slept through two checkpoints can't know what was before: its
// transaction fails, and the next one is right.
func TestGap(t *testing.T) {
	smallJournals(t, 1)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a", "b")
	foldAll(t, s)
	other := openTest(t, s.dir)
	if _, err := other.Stat(bg, "a"); err != nil {
		t.Fatal(err)
	}
	old, txn, err := other.TransactionContext(bg, false)
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Rollback()
	for _, key := range []string{"c", "d", "e"} {
		mustCreate(t, s, key)
		foldAll(t, s)
	}
	if err := s.WithTransaction(bg, true, func(ctx context.Context) error {
		_, err := s.Remove(ctx, "b")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	foldAll(t, s)
	if _, err := other.Stat(old, "a"); err != nil {
		t.Errorf("what was read before: %v", err)
	}
	if _, err := other.Stat(old, "b"); !errors.Is(err, ErrOutdated) {
		t.Errorf("what was not: %v", err)
	}
	wantNames(t, other, bg, "a c d e")
}

// A reader that missed one checkpoint has missed nothing.
func TestOneCheckpointIsNoGap(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a", "b")
	other := openTest(t, s.dir)
	old, txn, err := other.TransactionContext(bg, false)
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Rollback()
	mustCreate(t, s, "c")
	smallJournals(t, 1)
	mustCreate(t, s, "d")
	s.group.Wait()
	smallJournals(t, 1<<20)
	mustCreate(t, s, "e")
	wantNames(t, other, bg, "a b c d e")
	wantNames(t, other, old, "a b")
}

// The end of a journal that can't be read is cut, unless the tree has something
// from there or later.
func TestTornOrDamaged(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		s := openTest(t, filepath.Join(t.TempDir(), "store"))
		mustCreate(t, s, "a", "b")
		last := s.journal.refs[len(s.journal.refs)-1]
		dir := crashed(t, s)
		f, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("zzz"), last.off+20); err != nil {
			t.Fatal(err)
		}
		if !damaged { // and never published
			if _, err := f.WriteAt([]byte{0}, last.off+int64(last.n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if !damaged {
			if err := os.RemoveAll(filepath.Join(dir, snapshotsDir, "b")); err != nil {
				t.Fatal(err)
			}
		}
		again := openTest(t, dir)
		err = create(again, "c", "")
		if damaged {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("a line that the tree knows was cut: %v", err)
			}
			wantNames(t, again, bg, "a b")
		} else {
			if err != nil {
				t.Errorf("a torn end was not cut: %v", err)
			}
			wantNames(t, again, bg, "a c")
		}
	}
}

// What nobody reads any more is dropped from memory.
func TestIndexForgets(t *testing.T) {
	smallJournals(t, 2000)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	wantNames(t, s, bg, "")
	if _, err := s.NameOf(bg, "1"); !errors.Is(err, ErrNotExist) {
		t.Fatal(err)
	}
	for i := range 100 {
		key := fmt.Sprint(i % 50)
		mustCreate(t, s, key)
		if err := s.WithTransaction(bg, true, func(ctx context.Context) error {
			_, err := s.Remove(ctx, key)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		s.group.Wait()
	}
	ix := s.index.Load()
	if n := len(ix.entries); n > 20 {
		t.Errorf("%d entries for no snapshots", n)
	}
	if n := len(ix.byID); n > 20 {
		t.Errorf("%d identifiers for no snapshots", n)
	}
}

// A reader that has seen an unpublished line goes on when its writer has died and
// another has taken over.
func TestReaderOutlivesWriter(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a")
	reader := openTest(t, s.dir, ReadOnly())
	ctx, txn, err := s.TransactionContext(bg, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateActive(ctx, "b", "", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.append(txn.(*transaction).netChanges(), 0, nil); err != nil {
		t.Fatal(err)
	}
	wantNames(t, reader, bg, "a")
	if reader.tip() != s.tip() {
		t.Fatal("the reader has not seen the line")
	}
	// It dies: its lock is free, and it writes nothing more.
	if err := s.fail(errors.New("dead")); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	if err := s.unlock(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, s.dir)
	mustCreate(t, again, "c")
	wantNames(t, reader, bg, "a b c")
	wantNames(t, again, bg, "a b c")
	if err := txn.Rollback(); err != nil {
		t.Error(err)
	}
}

// Stores that write in turn and fill the journal further do not overwrite each
// other's lines.
func TestFillingInTurn(t *testing.T) {
	smallJournals(t, 1<<30)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	stores := []*Store{s, openTest(t, s.dir)}
	label := WithLabels(map[string]string{"big": strings.Repeat("x", 20_000)})
	var want []string
	for i := range 60 {
		key := fmt.Sprintf("%02d", i)
		want = append(want, key)
		store := stores[i%2]
		err := store.WithTransaction(bg, true, func(ctx context.Context) error {
			_, err := store.Create(ctx, key, "", false, label)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, store := range stores {
		wantNames(t, store, bg, strings.Join(want, " "))
	}
	again := openTest(t, crashed(t, s))
	wantNames(t, again, bg, strings.Join(want, " "))
	mustCreate(t, again, "a")
}

// fold makes a checkpoint of everything, as a transaction of its own.
func fold(s *Store) error {
	defer s.leave()
	if err := s.beginTurn(bg); err != nil {
		return err
	}
	defer s.turn.release()
	return s.fold()
}

// A process that dies between putting a new journal in place and saying so leaves two
// files that others may have open. All of them go on in one.
func TestCheckpointNotSettled(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	old := openTest(t, s.dir)
	mustCreate(t, s, "1", "2")
	wantNames(t, old, bg, "1 2")
	if err := fold(s); err != nil {
		t.Fatal(err)
	}
	if _, err := s.journal.file.WriteAt([]byte{0}, s.journal.start-1); err != nil {
		t.Fatal(err)
	}
	fresh := openTest(t, s.dir)
	mustCreate(t, old, "3")
	mustCreate(t, fresh, "4")
	mustCreate(t, old, "5")
	wantNames(t, old, bg, "1 2 3 4 5")
	wantNames(t, fresh, bg, "1 2 3 4 5")
	if ids, err := fresh.IDs(bg); err != nil || len(ids) != 5 {
		t.Errorf("identifiers %v, %v", ids, err)
	}
}

// A checkpoint that fails gives no identifiers back.
func TestFailedFoldKeepsIdentifiers(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	keepLock(s)
	mustCreate(t, s, "a", "b")
	staging := s.tree.staging
	s.tree.staging += ".gone"
	if err := fold(s); err == nil {
		t.Fatal("fold worked without staging/")
	}
	s.tree.staging = staging
	used := map[string]bool{}
	undo := errors.New("undo")
	err := s.WithTransaction(bg, true, func(ctx context.Context) error {
		for _, key := range []string{"c", "d"} {
			active, err := s.CreateActive(ctx, key, "", false)
			if err != nil {
				return err
			}
			used[active.ID] = true
		}
		return undo
	})
	if !errors.Is(err, undo) || len(used) != 2 {
		t.Fatal(err)
	}
	if err := s.beginTurn(bg); err != nil { // so that the process has the lock
		t.Fatal(err)
	}
	s.turn.release()
	if err := s.checkpoint(); err != nil {
		t.Fatal(err)
	}
	s.leave()
	again := openTest(t, crashed(t, s))
	mustCreate(t, again, "e")
	if info, err := again.Stat(bg, "e"); err != nil || used[info.ID] {
		t.Errorf("identifier %s was handed out again: %v", info.ID, err)
	}
}

// A snapshot whose name could not be read for once is in the next walk.
func TestNameReadLater(t *testing.T) {
	long := strings.Repeat("long", 100)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a", long)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, s.dir)
	file := again.tree.path(long) + "/" + metadataFile
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := again.Walk(bg, func(context.Context, Info) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("while it can't be read: %v", err)
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	wantNames(t, again, bg, "a "+long)
}
