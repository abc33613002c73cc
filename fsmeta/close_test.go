package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/fsmeta/fsmeta/fsmeta"
)

func TestClose(t *testing.T) {
	s := newStore(t)
	s.build("base")
	reader, readTx := s.begin(bg, false)
	writer, writeTx := s.begin(bg, true)
	s.make(writer, "lost < base")
	nilError(t, s.Close())
	nilError(t, s.Close())
	for _, ctx := range []context.Context{bg, reader, writer} {
		for _, writable := range []bool{true, false} {
			_, _, err := s.TransactionContext(ctx, writable)
			wantError(t, err, fsmeta.ErrClosed)
			err = s.WithTransaction(ctx, writable, func(context.Context) error { return errors.New("called") })
			wantError(t, err, fsmeta.ErrClosed)
		}
	}
	for _, tx := range []fsmeta.Transactor{readTx, writeTx} {
		if err := tx.Commit(); !errors.Is(err, fsmeta.ErrClosed) && !errors.Is(err, fsmeta.ErrTransactionClosed) {
			t.Errorf("Commit: %v", err)
		}
		nilError(t, tx.Rollback())
	}
	openStore(t, s.dir).want(bg, "base")
}

// Short-lived programs open and close a store while others are at work, also the first time.
func TestOpenAndCloseAtOnce(t *testing.T) {
	const programs, rounds = 6, 12
	dir := filepath.Join(t.TempDir(), "store")
	ids := sync.Map{}
	var wg sync.WaitGroup
	for p := range programs {
		wg.Go(func() {
			for r := range rounds {
				s := must(fsmeta.Open(dir))
				err := s.WithTransaction(bg, true, func(ctx context.Context) error {
					id := must(s.CreateActive(ctx, fmt.Sprint(p, ".", r), "", false)).ID
					if other, ok := ids.LoadOrStore(id, p); ok {
						t.Errorf("identifier %s was handed out to %d and to %d", id, other, p)
					}
					return nil
				})
				for old := range r + 1 {
					err = errors.Join(err, drop(s.Stat(bg, fmt.Sprint(p, ".", old))))
				}
				if err = errors.Join(err, s.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "number of snapshots", len(must(openStore(t, dir).walk(bg))), programs*rounds)
}

// Close ends all waits for a turn.
func TestCloseWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		ctx, _ := s.begin(bg, true)
		s.make(ctx, "lost")
		done := make(chan error)
		for range 3 {
			go func() {
				done <- s.WithTransaction(bg, true, func(context.Context) error { return errors.New("called") })
			}()
			synctest.Wait() // until it waits for its turn
		}
		nilError(t, s.Close())
		for range 3 {
			wantError(t, <-done, fsmeta.ErrClosed)
		}
	})
}

// A transaction that was acknowledged before Close is there; one that failed is not.
func TestCloseWhileOthersWrite(t *testing.T) {
	for range 5 {
		s := newStore(t)
		var acked, failed sync.Map
		var wg sync.WaitGroup
		started := make(chan bool, 100)
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprint(w, ".", i)
					err := s.WithTransaction(bg, true, func(ctx context.Context) error {
						return drop(s.CreateActive(ctx, name, "", false))
					})
					if err != nil {
						if failed.Store(name, err); !errors.Is(err, fsmeta.ErrClosed) && !errors.Is(err, fsmeta.ErrTransactionClosed) {
							t.Error(err)
						}
						return
					}
					acked.Store(name, true)
					select {
					case started <- true:
					default:
					}
				}
			})
		}
		for range 20 {
			<-started
		}
		nilError(t, s.Close())
		wg.Wait()
		again := openStore(t, s.dir)
		for name := range acked.Range {
			must(again.Stat(bg, name.(string)))
		}
		for name := range failed.Range {
			wantError(t, drop(again.Stat(bg, name.(string))), fsmeta.ErrNotExist)
		}
	}
}

// A backup may leave staging/ out. A store that was only read closes without it, too.
func TestCloseWithoutStaging(t *testing.T) {
	s := newStore(t)
	s.build("a")
	dir := s.kill()
	nilError(t, os.RemoveAll(filepath.Join(dir, "staging")))
	again := openStore(t, dir)
	must(again.Stat(bg, "a"))
	nilError(t, again.Close())
}
