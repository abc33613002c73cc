package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

func TestWalkOrder(t *testing.T) {
	names := []string{"a-b", "a/b", "a.b", "a b", "a", "a\x00", "A", "a%2Fb", "é", "~", ".", "..", "z",
		strings.Repeat("b", 300), strings.Repeat("b", 299) + "a", strings.Repeat("b", 299), strings.Repeat("b", 298) + "/"}
	s := newStore(t)
	s.write(func(ctx context.Context) {
		for i, name := range names {
			must(s.CreateActive(ctx, name, "", false))
			if i%4 == 0 {
				walkOrder(t, s, ctx, names[:i+1])
			}
		}
	})
	walkOrder(t, s, bg, names)
	s.write(func(ctx context.Context) {
		must(s.Remove(ctx, "a.b"))
		must(s.Commit(ctx, "a", "b/b"))
		walkOrder(t, s, ctx, slices.Concat([]string{"b/b"}, names[:2], names[3:4], names[5:]))
	})
}

func walkOrder(t *testing.T, s *store, ctx context.Context, names []string) {
	t.Helper()
	var got []string
	for _, info := range must(s.walk(ctx)) {
		got = append(got, info.Name)
	}
	equal(t, "order of the walk", got, slices.Sorted(slices.Values(names)))
}

func TestWalkEnds(t *testing.T) {
	s := newStore(t)
	s.build("a; b; c")
	failure := errors.New("failure")
	for _, writable := range []bool{true, false} {
		nilError(t, s.WithTransaction(bg, writable, func(ctx context.Context) error {
			for _, ctx := range []context.Context{ctx, bg} {
				var seen []string
				err := s.Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
					if seen = append(seen, info.Name); info.Name == "b" {
						return failure
					}
					return nil
				})
				if !errors.Is(err, failure) {
					t.Errorf("got error %v, want that of the function", err)
				}
				for info, err := range s.All(ctx) {
					nilError(t, err)
					if seen = append(seen, info.Name); info.Name == "b" {
						break
					}
				}
				equal(t, "visited", seen, []string{"a", "b", "a", "b"})
			}
			return nil
		}))
	}
}

// An iterator can be used again, and reads the store anew each time.
func TestAllAgain(t *testing.T) {
	s := newStore(t)
	s.build("a")
	all := s.All(bg)
	for n := range 3 {
		count := 0
		for range all {
			count++
		}
		equal(t, "visited", count, n+1)
		s.build(fmt.Sprint("b", n))
	}
}

// A walk's callback may call everything. Its changes do not change which snapshots the walk
// visits.
func TestWalkCallback(t *testing.T) {
	for _, test := range []struct {
		name  string
		fresh bool // whether writes are transactions of their own
		begin func(s *store) (context.Context, func() error)
	}{
		{"outside a transaction", true, func(s *store) (context.Context, func() error) { return bg, func() error { return nil } }},
		{"in a read", true, func(s *store) (context.Context, func() error) {
			ctx, tx := s.begin(bg, false)
			return ctx, tx.Commit
		}},
		{"in a write", false, func(s *store) (context.Context, func() error) {
			ctx, tx := s.begin(bg, true)
			return ctx, tx.Commit
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("b; c < b; *d < c; *e; *f; ?g < c")
			ctx, end := test.begin(s)
			var visited []string
			nilError(t, s.Walk(ctx, func(ctx context.Context, info fsmeta.Info) error {
				visited = append(visited, info.Name)
				s.agree(ctx)
				s.agree(bg)
				if test.fresh { // the walk's transaction sees the store as it was when it began
					s.want(ctx, "b; c < b; *d < c; *e; *f; ?g < c")
				}
				return s.inCallback(ctx, test.fresh, len(visited))
			}))
			nilError(t, end())
			equal(t, "visited", visited, []string{"b", "c", "d", "e", "f", "g"})
			s.want(bg, "a1; a2; a3; a4; a5; a6; b; c < b; *d < c; f5 < b")
		})
	}
}

// inCallback writes from a walk's callback, before, at and behind where it is.
func (s *store) inCallback(ctx context.Context, fresh bool, step int) error {
	change := func(ctx context.Context) error {
		s.make(ctx, fmt.Sprint("a", step))
		must(s.Update(ctx, fsmeta.Info{Name: "c", Labels: map[string]string{"step": fmt.Sprint(step)}}))
		switch step {
		case 1:
			must(s.Remove(ctx, "e"))
		case 5:
			must(s.CommitWith(ctx, "f", "f5", fsmeta.WithParent("b")))
			must(s.Remove(ctx, "g"))
		}
		s.agree(ctx)
		return nil
	}
	if fresh {
		return s.WithTransaction(ctx, true, change)
	}
	return change(ctx)
}

// A callback may even end the transaction that the walk runs in.
func TestWalkCallbackEndsTransaction(t *testing.T) {
	for _, writable := range []bool{true, false} {
		s := newStore(t)
		s.build("a; b; c")
		ctx, tx := s.begin(bg, writable)
		err := s.Walk(ctx, func(context.Context, fsmeta.Info) error { return tx.Rollback() })
		if err != nil {
			wantError(t, err, fsmeta.ErrTransactionClosed)
		}
		wantError(t, drop(s.Stat(ctx, "a")), fsmeta.ErrTransactionClosed)
		s.build("d")
		s.want(bg, "a; b; c; d")
	}
}

// Readers hold no checkpoint up, not even when they are never ended, and no checkpoint
// changes their answers.
func TestReadersOverCheckpoints(t *testing.T) {
	s := newStore(t)
	s.build("base; *work < base")
	before := must(dump(bg, s.Store))
	own, _ := s.begin(bg, false)
	other := openStore(t, s.dir)
	others, _ := other.begin(bg, false)
	s.write(func(ctx context.Context) { must(s.Commit(ctx, "work", "done")) })

	journal := filepath.Join(s.dir, "journal")
	old := must(os.Stat(journal))
	label := map[string]string{"text": strings.Repeat("text ", 6000)}
	for i := 0; os.SameFile(old, must(os.Stat(journal))); i++ {
		if i == 64 {
			t.Fatal("64 transactions of 1.2 MB each and no checkpoint")
		}
		s.write(func(ctx context.Context) {
			for key := range 40 {
				if i == 0 {
					must(s.CreateWith(ctx, fmt.Sprint("key", key), "done", false, fsmeta.WithLabels(label)))
				} else {
					must(s.Update(ctx, fsmeta.Info{Name: fmt.Sprint("key", key), Labels: label}))
				}
			}
		})
	}
	for range 3 { // and some lines in the new journal
		s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "key1", fsmeta.Usage{Size: 1})) })
	}
	equal(t, "own reader", must(dump(own, s.Store)), before)
	infos, err := dump(others, other.Store)
	if err != nil {
		wantError(t, err, fsmeta.ErrOutdated)
	} else {
		equal(t, "other reader", infos, before)
	}
	equal(t, "new readers", must(dump(bg, other.Store)), must(dump(bg, s.Store)))
	other.agree(bg)
}
