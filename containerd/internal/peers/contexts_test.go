package peers_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/google/go-cmp/cmp"
)

// endings are the ways in which a context has ended, or ends while it is used. containerd's
// package looks at no context for more than its values, in 2.0 as in 2.4.
var endings = map[string]func(context.Context) context.Context{
	"ended before": ended,
	"late before": func(ctx context.Context) context.Context {
		ctx, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
		cancel()
		return ctx
	},
	"ended for a cause": func(ctx context.Context) context.Context {
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(errStop)
		return ctx
	},
	"ends during": func(ctx context.Context) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		return &endsWhenUsed{ctx, cancel}
	},
}

func ended(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// endsWhenUsed is a context that ends when a call looks into it for its transaction, which
// all do.
type endsWhenUsed struct {
	context.Context
	end context.CancelFunc
}

func (c *endsWhenUsed) Value(key any) any {
	c.end()
	return c.Context.Value(key)
}

// TestConformanceUnderEndedContexts plays every script with contexts that have ended, or end in
// the call that they are given to. It must be played as ever, by both.
func TestConformanceUnderEndedContexts(t *testing.T) {
	for name, spoil := range endings {
		t.Run(name, func(t *testing.T) {
			for _, s := range scripts {
				for _, peer := range playersOf(s.text) {
					t.Run(peer.Name+"/"+s.name, func(t *testing.T) {
						p := newPlayer(t, peer)
						p.spoil = spoil
						if diff := cmp.Diff(lines(s.text), strings.Split(strings.TrimSuffix(p.play(s.text), "\n"), "\n")); diff != "" {
							t.Errorf("the script (-) was played otherwise (+):\n%s", diff)
						}
					})
				}
			}
		})
	}
}

// TestEveryCallIsPlayed requires the scripts to have every call of the package, so that each was
// tried with a context that has ended.
func TestEveryCallIsPlayed(t *testing.T) {
	all := ""
	for _, s := range scripts {
		all += strings.Join(lines(s.text), "\n") + "\n"
	}
	for _, call := range []string{
		"begin w write", "begin r read", "commit w", "rollback w", ": info ", ": get ", ": ids", ": walk", ": walk kind==", ": walkto ",
		": update ", ": create active ", ": create view ", ": remove ", ": commit ",
	} {
		if !strings.Contains(all, call) {
			t.Errorf("no script has %q", call)
		}
	}
}

// TestCallbacksUnderAnEndedContext requires the callbacks to be called all the same, with a context
// that has ended, and that has the values and the transaction.
func TestCallbacksUnderAnEndedContext(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		ctx := endings["ended for a cause"](context.WithValue(bg, key{}, "value"))
		check := func(ctx context.Context) {
			t.Helper()
			is(t, ctx.Err(), context.Canceled)
			is(t, context.Cause(ctx), errStop)
			equal(t, "value", ctx.Value(key{}), any("value"))
			_, _, _, err := p.store.GetInfo(ctx, "a")
			noError(t, err)
		}
		noError(t, p.store.WithTransaction(ctx, true, func(ctx context.Context) error {
			_, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, "a", "")
			check(ctx)
			return err
		}))
		walked := 0
		noError(t, p.store.WithTransaction(ctx, false, func(ctx context.Context) error {
			check(ctx)
			for _, filters := range [][]string{nil, {"kind==active"}} {
				err := p.store.WalkInfo(ctx, func(ctx context.Context, _ snapshots.Info) error {
					check(ctx)
					walked++
					return nil
				}, filters...)
				noError(t, err)
			}
			return nil
		}))
		equal(t, "snapshots walked over", walked, 2)
	})
}

// TestContextEndsInAWalk ends the context in a walk's callback: the walk goes on. It ends where the
// callback says so.
func TestContextEndsInAWalk(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		p.prepare("begin w write\n w: create active a\n w: create active b\n w: create active c")
		for _, stop := range []bool{false, true} {
			ctx, cancel := context.WithCancel(p.context("w"))
			visited := ""
			err := p.store.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
				visited += info.Name
				cancel()
				if stop {
					return ctx.Err()
				}
				return nil
			})
			if stop {
				is(t, err, context.Canceled)
				equal(t, "visited", visited, "a")
			} else {
				noError(t, err)
				equal(t, "visited", visited, "abc")
			}
		}
		p.prepare("commit w")
	})
}

// TestNewIDUnderAnEndedContext reserves identifiers as other calls do their work.
func TestNewIDUnderAnEndedContext(t *testing.T) {
	ms, err := storage.NewMetaStore(t.TempDir())
	noError(t, err)
	defer ms.Close()
	for name, spoil := range endings {
		id, err := ms.NewID(spoil(bg))
		noError(t, err)
		noError(t, ms.WithTransaction(spoil(bg), true, func(ctx context.Context) error {
			_, err := storage.CreateSnapshotWithID(spoil(ctx), id, snapshots.KindActive, name, "")
			return err
		}))
	}
}

// TestContextEndsWait: where another writer keeps the turn, the context ends the wait for it, one
// that has ended before as well. bbolt would wait for ever.
func TestContextEndsWait(t *testing.T) {
	p := newPlayer(t, peers.FS)
	p.prepare("begin w write")
	ms := p.store
	for name, test := range map[string]struct {
		ctx   func() (context.Context, context.CancelFunc)
		class string
	}{
		"ended before": {func() (context.Context, context.CancelFunc) { return context.WithTimeout(ended(bg), time.Hour) }, "Canceled"},
		"late soon":    {func() (context.Context, context.CancelFunc) { return context.WithTimeout(bg, time.Millisecond) }, "DeadlineExceeded"},
		"late later":   {func() (context.Context, context.CancelFunc) { return context.WithTimeout(bg, 300*time.Millisecond) }, "DeadlineExceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := test.ctx()
			defer cancel()
			inside, tx, err := ms.TransactionContext(ctx, true)
			equal(t, "class", classOf(err, nil), test.class)
			equal(t, "the context is the one given, and there is no transaction", inside == ctx && tx == nil, true)
			equal(t, "the error says which writer it waits for", strings.Contains(err.Error(), "another writer of this process"), true)
			err = ms.WithTransaction(ctx, true, func(context.Context) error { t.Error("called"); return nil })
			equal(t, "class", classOf(err, nil), test.class)
			noError(t, ms.WithTransaction(ctx, false, func(context.Context) error { return nil })) // readers don't wait
		})
	}
	p.prepare("w: create active a\n commit w")
}

// TestEndedContextsAmongWriters: calls with contexts that have ended have their turn among others,
// as all others do, in several stores of one directory.
func TestEndedContextsAmongWriters(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	var had atomic.Int32
	for range 2 {
		ms, err := storage.NewMetaStore(dir)
		noError(t, err)
		defer ms.Close()
		for i := range 4 {
			all.Go(func() {
				for range 25 {
					ctx := bg
					if i%2 == 0 {
						ctx = ended(bg)
					}
					err := ms.WithTransaction(ctx, true, func(ctx context.Context) error {
						_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "x", "")
						if err == nil {
							_, _, err = storage.Remove(ctx, "x")
						}
						return err
					})
					switch {
					case err == nil && i%2 == 0:
						had.Add(1)
					case err != nil && !(i%2 == 0 && errors.Is(err, context.Canceled)): // where the machine stands still
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	if had.Load() == 0 {
		t.Error("no call with a context that has ended had its turn")
	}
}
