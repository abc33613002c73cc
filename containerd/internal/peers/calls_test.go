package peers_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

var bg = context.Background()

// onBoth runs a test on a new store of each peer: what no script can say.
func onBoth(t *testing.T, test func(t *testing.T, p *player)) {
	t.Helper()
	for _, peer := range both {
		t.Run(peer.Name, func(t *testing.T) { test(t, newPlayer(t, peer)) })
	}
}

// in runs fn in a transaction that is rolled back, or committed if it is writable.
func (p *player) in(writable bool, fn func(ctx context.Context)) {
	p.t.Helper()
	ctx, tx, err := p.store.TransactionContext(bg, writable)
	noError(p.t, err)
	fn(ctx)
	if writable {
		noError(p.t, tx.Commit())
	} else {
		noError(p.t, tx.Rollback())
	}
}

func (p *player) labelsOf(name string) map[string]string {
	p.t.Helper()
	var labels map[string]string
	p.in(false, func(ctx context.Context) {
		_, info, _, err := p.store.GetInfo(ctx, name)
		noError(p.t, err)
		labels = info.Labels
	})
	return labels
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("the error is %v, not %v", err, want)
	}
}

// TestTimes requires the times that the scripts name to be those of the clock.
func TestTimes(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		begun := time.Now()
		recent := func(what string, at time.Time) {
			t.Helper()
			if d := at.Sub(begun); d < -time.Minute || d > time.Minute || at.Location() != time.UTC {
				t.Errorf("%s is %v, and the test began at %v", what, at, begun)
			}
		}
		p.prepare(`
			begin w write
			w: create active a
			w: create active b
			w: update b +x=1
			w: commit a as base`)
		ctx := p.context("w")
		for _, name := range []string{"base", "b"} {
			_, info, _, err := p.store.GetInfo(ctx, name)
			noError(t, err)
			recent("created of "+name, info.Created)
			recent("updated of "+name, info.Updated)
			if info.Updated.Before(info.Created) {
				t.Errorf("%s was updated %v and created %v", name, info.Updated, info.Created)
			}
		}
		p.prepare("commit w")
	})
}

// TestWithTransaction tries every kind of transaction with every kind of ending.
func TestWithTransaction(t *testing.T) {
	errMine := errors.New("mine")
	cases := []struct {
		writable, fails bool
		create, want    string // the outcome of a creation inside, what is there afterwards
	}{
		{true, false, "#1 active", "#1 active a t1"},
		{true, true, "#1 active", "NotFound"},
		{false, false, "TxNotWritable", "NotFound"},
		{false, true, "TxNotWritable", "NotFound"},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("writable %v, error %v", c.writable, c.fails), func(t *testing.T) {
			onBoth(t, func(t *testing.T, p *player) {
				calls, mine := 0, error(nil)
				if c.fails {
					mine = errMine
				}
				ctx := context.WithValue(bg, key{}, "value")
				err := p.store.WithTransaction(ctx, c.writable, func(ctx context.Context) error {
					calls++
					equal(t, "value in the context", ctx.Value(key{}), any("value"))
					equal(t, "create", p.call(ctx, "create", []string{"active", "a"}), c.create)
					return mine
				})
				is(t, err, mine)
				equal(t, "error", err != nil, c.fails)
				equal(t, "calls", calls, 1)
				p.prepare("begin r read")
				equal(t, "afterwards", p.do("r: info a"), c.want)
				p.prepare("rollback r")
			})
		})
	}
}

type key struct{}

// TestWithTransactionErrors passes errors of all sorts through WithTransaction.
func TestWithTransactionErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		wrapped := fmt.Errorf("wrapped: %w", errdefs.ErrUnavailable)
		for _, mine := range []error{wrapped, errors.Join(fs.ErrExist, errStop), p.peer.NoTransaction, &fs.PathError{Err: syscall.EIO}} {
			for _, writable := range []bool{true, false} {
				err := p.store.WithTransaction(bg, writable, func(context.Context) error { return mine })
				is(t, err, mine)
				equal(t, "text of the error", err.Error(), mine.Error())
			}
		}
		noError(t, p.store.WithTransaction(bg, false, func(context.Context) error { return nil }))
		noError(t, p.store.Close())
		for _, writable := range []bool{true, false} {
			err := p.store.WithTransaction(bg, writable, func(context.Context) error { t.Error("called"); return nil })
			is(t, err, errbolt.ErrDatabaseNotOpen)
		}
	})
}

// TestContextOfTransaction requires the context of a transaction to be one of the
// context it began in.
func TestContextOfTransaction(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		parent, cancel := context.WithCancel(context.WithValue(bg, key{}, "value"))
		defer cancel()
		ctx, tx, err := p.store.TransactionContext(parent, true)
		noError(t, err)
		equal(t, "value", ctx.Value(key{}), any("value"))
		_, err = p.store.CreateSnapshot(ctx, snapshots.KindActive, "a", "")
		noError(t, err)
		cancel()
		is(t, ctx.Err(), context.Canceled)
		// A context that has ended ends neither calls nor the transaction.
		_, err = p.store.CreateSnapshot(ctx, snapshots.KindActive, "b", "")
		noError(t, err)
		_, _, _, err = p.store.GetInfo(ctx, "a")
		noError(t, err)
		_, err = p.store.GetSnapshot(ctx, "a")
		noError(t, err)
		_, err = p.store.UpdateInfo(ctx, snapshots.Info{Name: "a"})
		noError(t, err)
		_, err = p.store.CommitActive(ctx, "a", "base", snapshots.Usage{})
		noError(t, err)
		_, _, err = p.store.Remove(ctx, "b")
		noError(t, err)
		noError(t, tx.Commit())
		inside, tx, err := p.store.TransactionContext(ctx, false)
		noError(t, err)
		_, _, _, err = p.store.GetInfo(inside, "base")
		noError(t, err)
		noError(t, tx.Rollback())
	})
}

// TestTransactionsOfTwoStores requires calls to go to the store of the transaction that
// is the innermost.
func TestTransactionsOfTwoStores(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		q := newPlayer(t, p.peer)
		p.prepare("begin w write\n w: create active outer")
		ctx, tx, err := q.store.TransactionContext(p.context("w"), true)
		noError(t, err)
		// Of which store the function is does not matter.
		_, err = p.store.CreateSnapshot(ctx, snapshots.KindActive, "inner", "")
		noError(t, err)
		equal(t, "in the inner one", p.classOf(q.store.GetInfo(ctx, "outer")), "NotFound")
		equal(t, "in the outer one", p.classOf(q.store.GetInfo(p.context("w"), "outer")), "ok")
		noError(t, tx.Commit())
		p.prepare("commit w")
		equal(t, "the outer store", p.names(), []string{"outer"})
		equal(t, "the inner store", q.names(), []string{"inner"})
	})
}

func (p *player) classOf(_ string, _ snapshots.Info, _ snapshots.Usage, err error) string {
	return p.outcome(err)
}

func (p *player) names() (names []string) {
	p.in(false, func(ctx context.Context) {
		noError(p.t, p.store.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		}))
	})
	return names
}

// TestTransactionOfTheOtherPackage requires a transaction of containerd's package to be
// none for ours, and the other way round.
func TestTransactionOfTheOtherPackage(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		for _, peer := range both {
			if peer.Name == p.peer.Name {
				continue
			}
			other := newPlayer(t, peer)
			other.prepare("begin w write\n w: create active a")
			for _, call := range []string{"info a", "get a", "ids", "walk", "update a", "create active b", "commit a as b", "remove a"} {
				words := p.words(call)
				equal(t, call, p.call(other.context("w"), words[0], words[1:]), "NoTransaction")
			}
			other.prepare("commit w")
		}
	})
}

// TestLongChain makes a snapshot that stands on many, and looks at it from above.
func TestLongChain(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		const length = 150
		p.prepare("begin w write")
		want, parent := "", ""
		for i := range length {
			p.prepare("w: create active a" + parent + fmt.Sprintf("\n w: commit a as %d", i))
			want, parent = fmt.Sprintf(" #%d", i+1)+want, fmt.Sprintf(" on %d", i)
		}
		want = "#151 view on" + want
		equal(t, "create", p.do("w: create view v"+parent), want)
		p.prepare("commit w\n reopen\n begin r read")
		equal(t, "get", p.do("r: get v"), want)
		p.prepare("rollback r")
	})
}

// TestManySnapshots writes many snapshots in one transaction, in no order, removes some
// in another, and reads them.
func TestManySnapshots(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		const many, step = 1000, 777 // without a common divisor
		p.prepare("begin w write")
		for i := range many {
			p.prepare(fmt.Sprintf("w: create active %04d +n=%d", i*step%many, i))
		}
		p.prepare("commit w\n begin w write")
		for i := 0; i < many; i += 3 {
			p.prepare(fmt.Sprintf("w: remove %04d", i))
		}
		p.prepare("commit w\n reopen\n begin r read")
		var names, ids []string
		for i := range many {
			if i%3 != 0 {
				names = append(names, fmt.Sprintf("%04d", i))
			}
			if n := i * step % many; n%3 != 0 {
				ids = append(ids, fmt.Sprintf("%04d=#%d", n, i+1))
			}
		}
		slices.Sort(ids)
		equal(t, "walk", strings.Fields(p.do("r: walk")), names)
		equal(t, "ids", strings.Fields(p.do("r: ids")), ids)
		equal(t, "walk with a filter", p.do("r: walk labels.n==2"), "0554")
		p.prepare("rollback r")
	})
}

// TestCallsInAWalk reads, walks and looks at other snapshots from the callback of a walk.
func TestCallsInAWalk(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		p.prepare(`
			begin w write
			w: create active a
			w: commit a as base
			w: create active b on base
			w: create view c on base
			commit w`)
		for _, writable := range []bool{false, true} {
			p.in(writable, func(ctx context.Context) {
				var visited []string
				noError(t, p.store.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
					visited = append(visited, info.Name+": "+p.call(ctx, "walk", nil)+"; "+p.call(ctx, "ids", nil)+"; "+p.call(ctx, "get", []string{"b"}))
					return nil
				}))
				const inside = ": b base c; b=#2 base=#1 c=#3; #2 active on #1"
				equal(t, "what the callback saw", visited, []string{"b" + inside, "base" + inside, "c" + inside})
			})
		}
	})
}

// TestReturnedValuesBelongToTheCaller changes everything that is returned. What is
// stored stays as it is.
func TestReturnedValuesBelongToTheCaller(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		p.prepare(`
			begin w write
			w: create active a
			w: commit a as low +x=1
			w: create active a on low +x=1
			w: commit a as top +x=1
			w: create active b on top +x=1
			commit w
			begin w write`)
		for _, name := range []string{"w", "r"} {
			if name == "r" {
				p.prepare("commit w\n begin r read")
			}
			ctx := p.context(name)
			spoilAll(t, p, ctx)
			equal(t, "info", p.do(name+": info b"), "#3 active b on top {x=1} t1")
			equal(t, "get", p.do(name+": get b"), "#3 active on #2 #1")
			equal(t, "ids", p.do(name+": ids"), "b=#3 low=#1 top=#2")
			equal(t, "walk", p.do(name+": walk labels.x==1"), "b low top")
		}
		p.prepare("rollback r")
	})
}

func spoilAll(t *testing.T, p *player, ctx context.Context) {
	_, info, _, err := p.store.GetInfo(ctx, "b")
	noError(t, err)
	equal(t, "labels", info.Labels, map[string]string{"x": "1"})
	clear(info.Labels)
	s, err := p.store.GetSnapshot(ctx, "b")
	noError(t, err)
	copy(s.ParentIDs, []string{"spoiled"})
	ids, err := p.store.IDMap(ctx)
	noError(t, err)
	clear(ids)
	noError(t, p.store.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		clear(info.Labels)
		return nil
	}))
}

// TestReturnedByWritesBelongToTheCaller is the same for what calls that write return.
func TestReturnedByWritesBelongToTheCaller(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		p.prepare(`
			begin w write
			w: create active a
			w: commit a as base`)
		ctx := p.context("w")
		s, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, "b", "base")
		noError(t, err)
		copy(s.ParentIDs, []string{"spoiled"})
		p.ids[s.ID] = "#2"
		updated, err := p.store.UpdateInfo(ctx, snapshots.Info{Name: "b", Labels: map[string]string{"x": "1"}}, "labels.x")
		noError(t, err)
		clear(updated.Labels)
		equal(t, "get", p.do("w: get b"), "#2 active on #1")
		p.prepare("commit w")
		equal(t, "labels", p.labelsOf("b"), map[string]string{"x": "1"})
	})
}

// TestGivenMapsStayTheCallers changes maps after they were given to a call.
func TestGivenMapsStayTheCallers(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		given := map[string]string{"x": "1"}
		give := func(info *snapshots.Info) error { info.Labels = given; return nil }
		p.in(true, func(ctx context.Context) {
			_, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, "a", "", give)
			noError(t, err)
			_, err = p.store.CreateSnapshot(ctx, snapshots.KindActive, "b", "", give)
			noError(t, err)
			_, err = p.store.CommitActive(ctx, "b", "base", snapshots.Usage{}, give)
			noError(t, err)
			_, err = p.store.CreateSnapshot(ctx, snapshots.KindActive, "c", "")
			noError(t, err)
			_, err = p.store.UpdateInfo(ctx, snapshots.Info{Name: "c", Labels: given})
			noError(t, err)
			given["x"] = "changed"
			_, info, _, err := p.store.GetInfo(ctx, "a")
			noError(t, err)
			equal(t, "labels in the transaction", info.Labels, map[string]string{"x": "1"})
		})
		for _, name := range []string{"a", "base", "c"} {
			equal(t, "labels of "+name, p.labelsOf(name), map[string]string{"x": "1"})
		}
	})
}

// TestOptionsAreCalledInOrder requires every option to be called once, on what the ones
// before it made, up to the first that fails. None is where the kind is not possible.
func TestOptionsAreCalledInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		var seen []string
		see := func(info *snapshots.Info) error {
			seen = append(seen, fmt.Sprintf("%s %v %q %v %v", info.Parent, info.Labels, info.Name, info.Kind, info.Created.IsZero()))
			return nil
		}
		fail := func(*snapshots.Info) error { return errOption }
		label := snapshots.WithLabels(map[string]string{"x": "1"})
		opts := []snapshots.Opt{see, label, see, withParent("p"), see, fail, see}
		want := []string{` map[] "" Unknown true`, ` map[x:1] "" Unknown true`, `p map[x:1] "" Unknown true`}
		_, err := p.store.CreateSnapshot(bg, snapshots.KindActive, "a", "", opts...)
		equal(t, "error of create", err == errOption, true)
		equal(t, "what the options of create saw", seen, want)
		seen = nil
		_, err = p.store.CommitActive(bg, "a", "b", snapshots.Usage{}, opts...)
		equal(t, "error of commit", err == errOption, true)
		equal(t, "what the options of commit saw", seen, want)
		seen = nil
		_, err = p.store.CreateSnapshot(bg, snapshots.KindCommitted, "a", "", opts...)
		is(t, err, errdefs.ErrInvalidArgument)
		equal(t, "what the options saw", seen, []string(nil))
	})
}

// opener is NewMetaStore of either package, with the options that peers.Peer has none of.
type opener func(path string, opts ...func(*bolt.Options) error) (*opened, error)

// opened is the MetaStore of either package.
type opened struct {
	begin func(ctx context.Context, writable bool) (context.Context, peers.Transactor, error)
	close func() error
}

var openers = map[string]opener{"bbolt": openTheirs, "fsmeta": openOurs}

func openTheirs(path string, opts ...func(*bolt.Options) error) (*opened, error) {
	ms, err := newTheirs(path, opts...)
	if ms == nil {
		return nil, err
	}
	return &opened{func(ctx context.Context, writable bool) (context.Context, peers.Transactor, error) {
		return ms.TransactionContext(ctx, writable)
	}, ms.Close}, err
}

func openOurs(path string, opts ...func(*bolt.Options) error) (*opened, error) {
	var own []storage.Opt
	for _, opt := range opts {
		own = append(own, opt)
	}
	ms, err := storage.NewMetaStore(path, own...)
	if ms == nil {
		return nil, err
	}
	return &opened{func(ctx context.Context, writable bool) (context.Context, peers.Transactor, error) {
		return ms.TransactionContext(ctx, writable)
	}, ms.Close}, err
}

// TestOptionsOfTheStore requires NewMetaStore to call every option once, on bbolt's
// defaults, up to the first that fails, and returns its error.
func TestOptionsOfTheStore(t *testing.T) {
	saw := map[string]string{}
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			needOptions(t, name)
			calls := 0
			count := func(o *bolt.Options) error {
				calls++
				saw[name] = withoutStatistics(fmt.Sprintf("%+v", *o))
				o.ReadOnly = true
				return nil
			}
			check := func(o *bolt.Options) error {
				calls++
				equal(t, "ReadOnly", o.ReadOnly, true)
				return errOption
			}
			s, err := open(filepath.Join(t.TempDir(), "store"), count, check, count)
			equal(t, "the option's error", err == errOption, true)
			equal(t, "no store", s == nil, true)
			equal(t, "calls", calls, 2)
			equal(t, "ReadOnly of bbolt's defaults", bolt.DefaultOptions.ReadOnly, false)
		})
	}
	if theirsTakesOptions {
		equal(t, "what the first option is given (-bbolt +fsmeta)", saw["fsmeta"], saw["bbolt"])
	}
}

// TestReadOnlyStore opens a store read-only.
func TestReadOnlyStore(t *testing.T) {
	readOnly := func(o *bolt.Options) error { o.ReadOnly = true; return nil }
	onBoth(t, func(t *testing.T, p *player) {
		needOptions(t, p.peer.Name)
		p.prepare("begin w write\n w: create active a\n commit w\n close")
		defer p.prepare("open")
		ms, err := openers[p.peer.Name](p.path, readOnly)
		noError(t, err)
		defer ms.close()
		ctx, tx, err := ms.begin(bg, true)
		equal(t, "class", classOf(err, nil), "DatabaseReadOnly")
		equal(t, "the context is the one given, and there is no transaction", ctx == bg && tx == nil, true)
		ctx, tx, err = ms.begin(bg, false)
		noError(t, err)
		equal(t, "info", p.call(ctx, "info", []string{"a"}), "#1 active a t1")
		equal(t, "create", p.call(ctx, "create", []string{"active", "b"}), "TxNotWritable")
		noError(t, tx.Rollback())
	})
}

// TestReadOnlyStoreThatIsNotThere makes none.
func TestReadOnlyStoreThatIsNotThere(t *testing.T) {
	readOnly := func(o *bolt.Options) error { o.ReadOnly = true; return nil }
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			needOptions(t, name)
			path := filepath.Join(t.TempDir(), "store")
			ms, err := open(path, readOnly)
			noError(t, err)
			for _, writable := range []bool{false, true} {
				_, tx, err := ms.begin(bg, writable)
				is(t, err, fs.ErrNotExist)
				equal(t, "class", classOf(err, nil), "error")
				equal(t, "no transaction", tx == nil, true)
			}
			notThere(t, path)
			noError(t, ms.close())
		})
	}
}

func notThere(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is at %s: %v", path, err)
	}
}

// TestStoreIsMadeByTheFirstTransaction requires NewMetaStore and Close to touch nothing.
func TestStoreIsMadeByTheFirstTransaction(t *testing.T) {
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			ms, err := open(path)
			noError(t, err)
			notThere(t, path)
			noError(t, ms.close())
			notThere(t, path)
			_, tx, err := ms.begin(bg, false)
			noError(t, err)
			noError(t, tx.Rollback())
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("nothing is there: %v", err)
			}
			noError(t, ms.close())
		})
	}
}

// TestMissingDirectory requires the directory above to be there, say because its
// filesystem is mounted. When it is, the same MetaStore works.
func TestMissingDirectory(t *testing.T) {
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "missing")
			ms, err := open(filepath.Join(dir, "store"))
			noError(t, err)
			for _, writable := range []bool{false, true} {
				ctx, tx, err := ms.begin(bg, writable)
				is(t, err, fs.ErrNotExist)
				equal(t, "class", classOf(err, nil), "error")
				equal(t, "the context is the one given, and there is no transaction", ctx == bg && tx == nil, true)
			}
			notThere(t, dir)
			noError(t, os.Mkdir(dir, 0o700))
			_, tx, err := ms.begin(bg, true)
			noError(t, err)
			noError(t, tx.Commit())
			noError(t, ms.close())
		})
	}
}

// TestPathsThatAreNone tries an empty path, and one below a file.
func TestPathsThatAreNone(t *testing.T) {
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			equal(t, "empty path", beginError(open, ""), "does not exist")
			noError(t, os.WriteFile("file", nil, 0o600))
			equal(t, "below a file", beginError(open, filepath.Join(dir, "file", "store")), "not a directory")
		})
	}
}

// beginError says why no transaction begins, be it that there is no MetaStore.
func beginError(open opener, path string) string {
	ms, err := open(path)
	if err == nil {
		defer ms.close()
		_, tx, berr := ms.begin(bg, true)
		if berr == nil {
			return fmt.Sprint("none: ", tx.Rollback())
		}
		err = berr
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, syscall.ENOTDIR):
		return "not a directory"
	}
	return err.Error()
}

// TestMutex uses writable transactions in which nothing is written as a lock, on a
// store that nothing was ever written to.
func TestMutex(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		inside, count := 0, 0
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for range 25 {
					_, tx, err := p.store.TransactionContext(bg, true)
					if err != nil {
						t.Error(err)
						return
					}
					inside++
					count += inside
					inside--
					end := tx.Commit
					if i%2 == 0 {
						end = tx.Rollback
					}
					if err := end(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		equal(t, "turns", count, 8*25)
		p.prepare("begin r read")
		equal(t, "walk", p.do("r: walk"), "NotFound")
		p.prepare("rollback r")
	})
}

// TestConcurrentReaders reads from many goroutines while one writes. Every transaction
// sees all of a commit or nothing, and what it has seen once it sees again.
func TestConcurrentReaders(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		names := []string{"a", "b", "c"}
		p.in(true, func(ctx context.Context) {
			for _, name := range names {
				_, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, name, "", snapshots.WithLabels(map[string]string{"n": "0"}))
				noError(t, err)
			}
		})
		done := make(chan struct{})
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() { p.readUntil(done, names) })
		}
		for i := range 100 {
			p.in(true, func(ctx context.Context) {
				for _, name := range names {
					_, err := p.store.UpdateInfo(ctx, snapshots.Info{Name: name, Labels: map[string]string{"n": fmt.Sprint(i + 1)}})
					noError(t, err)
				}
			})
		}
		close(done)
		group.Wait()
		n, err := p.readAlike(names)
		noError(t, err)
		equal(t, "the last commit", n, "100")
	})
}

// readUntil reads until done is closed. What it reads never goes back.
func (p *player) readUntil(done <-chan struct{}, names []string) {
	for last := ""; ; {
		select {
		case <-done:
			return
		default:
		}
		n, err := p.readAlike(names)
		if err != nil || len(n) < len(last) || len(n) == len(last) && n < last {
			p.t.Errorf("read %q after %q, %v", n, last, err)
			return
		}
		last = n
	}
}

// readAlike returns the label n of snapshots that are to have the same one.
func (p *player) readAlike(names []string) (string, error) {
	seen := map[string]bool{}
	err := p.store.WithTransaction(bg, false, func(ctx context.Context) error {
		for range 2 {
			for _, name := range names {
				_, info, _, err := p.store.GetInfo(ctx, name)
				if err != nil {
					return err
				}
				seen[info.Labels["n"]] = true
			}
		}
		return p.store.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			seen[info.Labels["n"]] = true
			return nil
		})
	})
	if err == nil && len(seen) != 1 {
		err = fmt.Errorf("one transaction has seen %v", seen)
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " "), err
}
