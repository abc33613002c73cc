package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/lock"
)

// inOne runs fn in a writable transaction.
func inOne(t *testing.T, s *fsmeta.Store, fn func(ctx context.Context) error) {
	t.Helper()
	succeed(t, s.WithTransaction(t.Context(), true, fn))
}

// A checkpoint begins only while the process has the lock: not where it was given to another
// process between a commit and the cleaning up behind it.
func TestNoCheckpointWithoutTheLock(t *testing.T) {
	for range 3 {
		dir := newDir(t)
		a, b := openPlain(t, dir), openPlain(t, dir)
		const many = 600
		labels := fsmeta.WithLabels(map[string]string{"l": strings.Repeat("x", 500)})
		inOne(t, a, func(ctx context.Context) error {
			for i := range many {
				if _, err := a.CreateWith(ctx, fmt.Sprint("k", i), "", false, labels); err != nil {
					return err
				}
			}
			_, err := a.CreateActive(ctx, "shared", "", false)
			return err
		})
		inOne(t, b, func(context.Context) error { return nil }) // behind the checkpoint of a
		ctx, tx, err := a.TransactionContext(t.Context(), true)
		succeed(t, err)
		for i := range many {
			_, err := a.Remove(ctx, fmt.Sprint("k", i))
			succeed(t, err)
		}
		// A second writer of a waits behind the transaction, and b at the turnstile.
		impatient, giveUp := context.WithCancel(t.Context())
		second := make(chan error, 1)
		go func() {
			second <- a.WithTransaction(impatient, true, func(context.Context) error { return nil })
		}()
		id, done, committed := "", make(chan error, 1), make(chan bool)
		go func() {
			done <- b.WithTransaction(t.Context(), true, func(ctx context.Context) error {
				giveUp()
				<-second
				<-committed
				before, err := os.Stat(filepath.Join(dir, "journal"))
				for i := 0; i < 100 && err == nil; i++ { // as long as a checkpoint of a would take
					var now os.FileInfo
					if now, err = os.Stat(filepath.Join(dir, "journal")); err == nil && !os.SameFile(before, now) {
						t.Error("the journal was replaced while another process had the turn")
						break
					}
					time.Sleep(3 * time.Millisecond)
				}
				if err != nil {
					return err
				}
				active, err := b.CreateActive(ctx, "precious", "", false)
				id = active.ID
				if err == nil {
					_, err = b.Update(ctx, fsmeta.Info{Name: "shared", Labels: map[string]string{"by": "b"}})
				}
				return err
			})
		}()
		awaitTurnstile(dir)
		succeed(t, tx.Commit())
		close(committed)
		succeed(t, <-done, b.Close(), a.Close())
		giveUp()
		c := openPlain(t, dir)
		info, err := c.Stat(t.Context(), "shared")
		if err != nil || info.Labels["by"] != "b" {
			t.Errorf("what b has updated reads %v, %v", info.Labels, err)
		}
		if _, err := c.Stat(t.Context(), "precious"); err != nil {
			t.Error(err)
		}
		if next, err := c.NewID(t.Context()); err != nil || next == id {
			t.Errorf("identifier %s is handed out after %s, %v", next, id, err)
		}
		succeed(t, c.Close())
		wantClean(t, dir)
	}
}

// awaitTurnstile returns when a process waits for its turn at the store, or after a while: then
// the test tries less than it could.
func awaitTurnstile(dir string) {
	turnstile := lock.New(filepath.Join(dir, "snapshots"))
	for range 2000 {
		unlock, free, err := turnstile.TryLock()
		if err != nil || !free {
			return
		}
		_ = unlock()
		time.Sleep(100 * time.Microsecond)
	}
}

// What is read while others commit is known to be incomplete where it is: identifiers are found
// all the same, and no parent of a snapshot can be removed.
func TestReadingAllBesideCommits(t *testing.T) {
	dir, s := newDir(t), (*fsmeta.Store)(nil)
	children := map[string]string{} // their parents, by identifier
	s = openPlain(t, dir)
	inOne(t, s, func(ctx context.Context) error {
		_, err := s.CreateActive(ctx, "busy", "", false)
		for i := 0; i < 1000 && err == nil; i++ {
			parent := fmt.Sprintf("parent%04d", i)
			_, err = s.CreateActive(ctx, "key", "", false)
			if err == nil {
				_, err = s.Commit(ctx, "key", parent)
			}
			if err == nil {
				var child fsmeta.Active
				child, err = s.CreateActive(ctx, "child of "+parent, parent, false)
				children[child.ID] = parent
			}
		}
		return err
	})
	succeed(t, s.Close())
	s = openPlain(t, dir)
	stop, done := make(chan bool), make(chan error, 3)
	for range cap(done) {
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				info := fsmeta.Info{Name: "busy", Labels: map[string]string{"i": fmt.Sprint(i)}}
				err := s.WithTransaction(context.Background(), true, func(ctx context.Context) error { _, err := s.Update(ctx, info); return err })
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	_, err := s.NameOf(t.Context(), "1")
	succeed(t, err)
	close(stop)
	for range cap(done) {
		succeed(t, <-done)
	}
	for id, parent := range children {
		if name, err := s.NameOf(t.Context(), id); err != nil || name != "child of "+parent {
			t.Fatalf("identifier %s: %q, %v", id, name, err)
		}
	}
	for _, parent := range slices.Sorted(maps.Values(children)) {
		err := s.WithTransaction(t.Context(), true, func(ctx context.Context) error { _, err := s.Remove(ctx, parent); return err })
		if !errors.Is(err, fsmeta.ErrHasChildren) {
			t.Fatalf("remove %s: %v", parent, err)
		}
	}
	succeed(t, s.Close())
}

// Close waits for commits that clean up behind their flush.
func TestCloseBesideCleaningUp(t *testing.T) {
	dir := newDir(t)
	keep, s := openPlain(t, dir), openPlain(t, dir)
	const many = 300
	inOne(t, s, func(ctx context.Context) (err error) {
		for i := 0; i < many && err == nil; i++ {
			_, err = s.CreateActive(ctx, fmt.Sprint("k", i), "", false)
		}
		return err
	})
	ctx, tx, err := s.TransactionContext(t.Context(), true)
	succeed(t, err)
	for i := range many {
		_, err := s.Remove(ctx, fmt.Sprint("k", i))
		succeed(t, err)
	}
	committed := make(chan error, 1)
	go func() { committed <- tx.Commit() }()
	for left := many; left > many/2; {
		entries, err := os.ReadDir(filepath.Join(dir, "snapshots"))
		succeed(t, err)
		left = len(entries)
	}
	succeed(t, s.Close(), <-committed, keep.Close())
	wantClean(t, dir)
}

func openPlain(t *testing.T, dir string) *fsmeta.Store {
	t.Helper()
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	return s
}

// While a process takes over, its readers take in what others have written. None of them takes a
// line of its own writer for another's: the snapshots that stand on one would be counted twice.
func TestChildrenAreCountedOnce(t *testing.T) {
	dir := newDir(t)
	b := use(t, dir)
	mustDo(t, b, "layer P", "put k P")
	const others = 40
	for range 12 {
		mustDo(t, b, "begin")
		for i := range others {
			mustDo(t, b, fmt.Sprintf("put x%d P", i))
		}
		mustDo(t, b, "end")
		a := use(t, dir)
		mustFail(t, a, "remove P", fsmeta.ErrHasChildren) // they are counted
		stop := make(chan struct{})
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, reader, err := a.store.TransactionContext(context.Background(), false); err == nil {
						_ = reader.Rollback()
					}
				}
			})
		}
		all.Go(func() {
			other := &local{store: b.store}
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, _ = other.do("put y")
				_, _ = other.do("remove y")
			}
		})
		for i := range others {
			mustDo(t, a, fmt.Sprintf("remove x%d", i))
		}
		mustFail(t, a, "remove P", fsmeta.ErrHasChildren)
		close(stop)
		all.Wait()
		mustDo(t, a, "close")
	}
}

// What was acknowledged in one process is seen by every reader that begins in another one
// afterwards, also by those that begin while others there go on in the file of a checkpoint.
func TestAcknowledgedIsSeenOverCheckpoints(t *testing.T) {
	defer func(size int64) { commit.CheckpointSize = size }(commit.CheckpointSize)
	commit.CheckpointSize = 3000
	dir := newDir(t)
	b, a := use(t, dir), use(t, dir)
	mustDo(t, b, "put x")
	for n := int64(0); n < 6000; {
		for range 6 {
			n++
			inOne(t, b.store, func(ctx context.Context) error {
				_, err := b.store.SetUsage(ctx, "x", fsmeta.Usage{Size: n})
				return err
			})
		}
		var all sync.WaitGroup
		begin := make(chan struct{})
		for range 8 {
			all.Go(func() {
				<-begin
				err := a.store.WithTransaction(context.Background(), false, func(ctx context.Context) error {
					info, err := a.store.Stat(ctx, "x")
					if err == nil && info.Usage.Size < n {
						err = fmt.Errorf("a reader saw %d after %d was acknowledged", info.Usage.Size, n)
					}
					return err
				})
				if err != nil && !errors.Is(err, fsmeta.ErrOutdated) { // two checkpoints between two looks
					t.Error(err)
				}
			})
		}
		close(begin)
		all.Wait()
	}
}
