package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Sync passes over what is gone and what is no snapshot's file: a check finds that, and no
// checkpoint may wait for it.
func TestSync(t *testing.T) {
	for what, make := range sabotage {
		t.Run(what, func(t *testing.T) {
			tree, v, o := newTree(t), versions{}, newOutside(t)
			v.apply(t, tree, versions{"a": snapshot("a", "b"), "b": snapshot("b", "")})
			make(t, tree.Path("a"), o.path)
			for _, foreign := range []bool{false, true} {
				mustSync(t, tree, []string{"a", "none", "b"}, foreign)
			}
		})
	}
	mustSync(t, newTree(t), nil, false)
}

// Many names are synced with their filesystem, few or on a busy machine one by one.
func TestSyncManyNames(t *testing.T) {
	tree, v := newTree(t), versions{}
	create := versions{}
	var names []string
	for i := range 2 * manyNames {
		name := fmt.Sprint("key", i)
		names = append(names, name)
		create[name] = snapshot(name, "")
	}
	v.apply(t, tree, create)
	for _, foreign := range []bool{false, true} {
		mustSync(t, tree, append(names, "gone"), foreign)
	}
}

// A sync that fails is marked as that, and so is every one behind it.
func TestFailedSync(t *testing.T) {
	tree := newTree(t)
	open := tree.snapshots.File
	closed, err := os.Open(tree.snapshots.Path)
	must(t, err)
	must(t, closed.Close())
	tree.snapshots.File = closed
	if _, err := tree.Sync([]string{"none"}, true); !errors.Is(err, fault.ErrSync) || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a sync that fails: %v", err)
	}
	tree.snapshots.File = open
	if _, err := tree.Sync([]string{"none"}, true); !errors.Is(err, fault.ErrSync) {
		t.Errorf("the sync behind one that failed: %v", err)
	}
}

// A file that can't be opened for its sync lags: it is no sync that failed.
func TestSyncOfUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("needs a user that may not open everything")
	}
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", "")})
	must(t, os.Chmod(tree.file("a"), 0))
	if lagging, err := tree.Sync([]string{"a"}, true); err != nil || !errors.Is(lagging["a"], fs.ErrPermission) {
		t.Errorf("an open that fails: %v", err)
	}
}

// Reading goes on beside everything else, and Stage beside BringUp, Recycle and Sync. What is
// read is a version that some name had, or damage: a file is overwritten meanwhile.
func TestConcurrent(t *testing.T) {
	tree := newTree(t)
	const names, rounds = 4, 50
	works := make(chan *Work, 3)
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(works)
		v := versions{}
		for i := range rounds {
			next := versions{}
			for n := range names {
				name := fmt.Sprint("n", n)
				if s := v[name]; s != nil && (i+n)%5 == 0 {
					next[name] = nil
				} else if s != nil {
					next[name] = version(s, i)
				} else {
					next[name] = snapshot(name, "p")
				}
			}
			w, err := tree.Stage(v.to(next), nil)
			if err != nil {
				t.Error(err)
				return
			}
			for name, s := range next {
				v[name] = s
			}
			works <- w
		}
	})
	all.Go(func() {
		defer close(done)
		var recycling sync.WaitGroup
		for w := range works {
			if lagging := tree.BringUp(w, nil); lagging != nil {
				t.Error(lagging)
			}
			recycling.Go(func() { tree.Recycle(w) })
			if _, err := tree.Sync([]string{"n0", "n1"}, true); err != nil {
				t.Error(err)
			}
		}
		recycling.Wait()
	})
	for range 2 {
		all.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				if s, err := tree.Read(fmt.Sprint("n", i%names)); err != nil && fault.DamageOf(err) == nil || s != nil && s.Parent != "p" {
					t.Errorf("got %+v, %v", s, err)
					return
				}
				if _, err := tree.List(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func version(s *format.Snapshot, i int) *format.Snapshot { return next(s, fmt.Sprint(i)) }

// The calls of a transaction on the tree alone: nothing is synced.
func BenchmarkChanges(b *testing.B) {
	tree, v := newTree(b), versions{}
	v.apply(b, tree, versions{"base": snapshot("base", ""), "a": snapshot("a", "base")})
	do := func(b *testing.B, changes ...format.Change) {
		w, err := tree.Stage(changes, nil)
		if err != nil {
			b.Fatal(err)
		}
		if lagging := tree.BringUp(w, nil); lagging != nil {
			b.Fatal(lagging)
		}
		tree.Recycle(w)
	}
	a, c := snapshot("key", "base"), as(snapshot("key", "base"), "name", "base")
	c.ID = a.ID
	b.Run("update", func(b *testing.B) {
		s := v["a"]
		b.ReportAllocs()
		for b.Loop() {
			do(b, format.Change{Name: "a", Before: s, After: s})
		}
	})
	b.Run("create+remove", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(b, format.Change{Name: "key", After: a})
			do(b, format.Change{Name: "key", Before: a})
		}
	})
	b.Run("create+commit+remove", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(b, format.Change{Name: "key", After: a})
			do(b, format.Change{Name: "key", Before: a}, format.Change{Name: "name", After: c})
			do(b, format.Change{Name: "name", Before: c})
		}
	})
	b.Run("create without spares+remove", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(b, format.Change{Name: "key", After: a})
			do(b, format.Change{Name: "key", Before: a})
			tree.DropSpares()
		}
	})
}

// mustSync requires that Sync makes the names durable.
func mustSync(t *testing.T, tree *Tree, names []string, foreign bool) {
	t.Helper()
	if lagging, err := tree.Sync(names, foreign); err != nil || len(lagging) > 0 {
		t.Fatalf("sync: %v, %v", lagging, err)
	}
}
