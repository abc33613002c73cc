package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A context that ends ends the wait for a turn, not the transaction.
func TestContextEndsAfterBegin(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(bg)
	ctx, tx := s.begin(ctx, true)
	s.make(ctx, "base")
	cancel()
	nilError(t, tx.Commit())
	s.want(bg, "base")
}

func TestWritersInArrivalOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		_, holder := s.begin(bg, true)
		var order, want []int // the holder of the turn may use order
		var wg sync.WaitGroup
		for i := range 50 {
			want = append(want, i)
			wg.Go(func() {
				s.write(func(ctx context.Context) {
					order = append(order, i)
					s.make(ctx, fmt.Sprint("*", i))
				})
			})
			synctest.Wait() // until it waits for its turn
		}
		nilError(t, holder.Commit())
		wg.Wait()
		equal(t, "order", order, want)
	})
}

func TestContextEndsWhileWaiting(t *testing.T) {
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		ctx  func() (context.Context, func())
		want error
	}{
		{"cancelled", func() (context.Context, func()) { ctx, cancel := context.WithCancel(bg); return ctx, cancel }, context.Canceled},
		{"cancelled for a cause", func() (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(bg)
			return ctx, func() { cancel(cause) }
		}, context.Canceled},
		{"late", func() (context.Context, func()) {
			ctx, cancel := context.WithTimeout(bg, time.Hour) // of the bubble's clock
			return ctx, func() { <-ctx.Done(); cancel() }
		}, context.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				ctx, holder := s.begin(bg, true)
				s.make(ctx, "base")
				done := make(chan error, 3)
				wait := func(ctx context.Context, text string) {
					go func() {
						done <- s.WithTransaction(ctx, true, func(ctx context.Context) error { s.make(ctx, text); return nil })
					}()
					synctest.Wait()
				}
				early, end := test.ctx()
				wait(bg, "first")
				wait(early, "second")
				wait(bg, "third")
				end()
				if err := <-done; !errors.Is(err, test.want) {
					t.Errorf("got error %v, want %v", err, test.want)
				}
				nilError(t, holder.Commit())
				nilError(t, <-done)
				nilError(t, <-done)
				s.want(bg, "base; first; third")
			})
		})
	}
}

// A turn that comes just when the waiter's context ends is passed on.
func TestNoTurnIsLost(t *testing.T) {
	s := newStore(t)
	second := openStore(t, s.dir)
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			go func() {
				for range rand.IntN(2000) {
					runtime.Gosched()
				}
				cancel()
			}()
			err := []*store{s, second}[i%2].WithTransaction(ctx, true, func(context.Context) error { return nil })
			if err == nil {
				done.Add(1)
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d of 200 had their turn", done.Load())
	s.build("base")
	second.build("top < base")
	s.want(bg, "base; top < base")
}

func TestSecondStoreWaits(t *testing.T) {
	s := newStore(t)
	second := openStore(t, s.dir)
	ctx, tx := s.begin(bg, true)
	s.make(ctx, "base")
	late, cancel := context.WithTimeout(bg, 20*time.Millisecond)
	defer cancel()
	if _, _, err := second.TransactionContext(late, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got error %v, want DeadlineExceeded", err)
	}
	begun := make(chan error)
	go func() {
		begun <- second.WithTransaction(bg, true, func(ctx context.Context) error {
			second.make(ctx, "top < base")
			return nil
		})
	}()
	nilError(t, tx.Commit())
	nilError(t, <-begun)
	s.want(bg, "base; top < base")
}

// runtime.Goexit, as in t.FailNow, ends a function as a panic does.
func TestWithTransactionGoexit(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		s.WithTransaction(bg, true, func(ctx context.Context) error {
			s.make(ctx, "lost")
			runtime.Goexit()
			return nil
		})
	})
	wg.Wait()
	ctx, cancel := context.WithTimeout(bg, 10*time.Second)
	defer cancel()
	nilError(t, s.WithTransaction(ctx, true, func(ctx context.Context) error {
		s.want(ctx, "")
		return nil
	}))
}
