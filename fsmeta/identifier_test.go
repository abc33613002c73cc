package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// An identifier can be reserved before the snapshot is made: no other caller gets it, and it
// serves one snapshot.
func TestNewID(t *testing.T) {
	s := newStore(t)
	other := openOnly(t, s.dir)
	mine := must(s.NewID(bg))
	theirs := must(other.NewID(bg))
	var inside string
	ctx, txn := s.begin(bg, true)
	inside = must(s.NewID(ctx))
	next := must(s.CreateWith(ctx, "next", "", false)).ID
	nilError(t, txn.Rollback())
	for _, pair := range [][2]string{{mine, theirs}, {mine, inside}, {theirs, inside}, {mine, next}, {inside, next}} {
		if pair[0] == pair[1] {
			t.Errorf("identifier %s was handed out twice", pair[0])
		}
	}

	s.write(func(ctx context.Context) {
		wantError(t, drop(s.CreateWith(ctx, "a", "", false, fsmeta.WithID(theirs))), fsmeta.ErrInvalidName, theirs)
		wantError(t, drop(s.CreateWith(ctx, "a", "", false, fsmeta.WithID(next))), fsmeta.ErrInvalidName, next)
		wantError(t, drop(s.CreateWith(ctx, "a", "gone", false, fsmeta.WithID(mine))), fsmeta.ErrNotExist)
		equal(t, "identifier", must(s.CreateWith(ctx, "a", "", false, fsmeta.WithID(mine))).ID, mine)
		wantError(t, drop(s.CreateWith(ctx, "b", "", false, fsmeta.WithID(mine))), fsmeta.ErrInvalidName, mine)
		equal(t, "identifier", must(s.CreateWith(ctx, "b", "", true, fsmeta.WithID(inside))).ID, inside)
	})
	s.want(bg, "*a; ?b")
	equal(t, "name", must(s.NameOf(bg, inside)), "b")

	// One that was reserved and not used when the process died is not handed out again.
	lost := must(s.NewID(bg))
	again := openStore(t, s.kill())
	if id := must(again.NewID(bg)); id == lost {
		t.Errorf("identifier %s was handed out again after a crash", id)
	}

	ctx, txn = s.begin(bg, true)
	wantError(t, drop(other.NewID(ctx)), fsmeta.ErrNoTransaction)
	cancelled, cancel := context.WithCancel(bg)
	cancel()
	if err := drop(other.NewID(cancelled)); !errors.Is(err, context.Canceled) {
		t.Errorf("NewID with a context that has ended: %v", err)
	}
	nilError(t, txn.Rollback())
	wantError(t, drop(s.NewID(ctx)), fsmeta.ErrTransactionClosed)
	wantError(t, drop(openOnly(t, s.dir, fsmeta.ReadOnly()).NewID(bg)), fsmeta.ErrReadOnlyTransaction)
	nilError(t, other.Close())
	wantError(t, drop(other.NewID(bg)), fsmeta.ErrClosed)
}

// A creation that fails leaves the identifier to the caller; one that succeeds has taken it, whatever
// becomes of its transaction.
func TestWithIDAfterAnError(t *testing.T) {
	s := newStore(t)
	s.build("base; *there")
	id := must(s.NewID(bg))
	with := fsmeta.WithID(id)
	huge := fsmeta.WithLabels(map[string]string{"huge": strings.Repeat("x", 64<<20)})
	create := func(ctx context.Context, key, parent string, opts ...fsmeta.SnapshotOption) error {
		return drop(s.CreateWith(ctx, key, parent, false, append(opts, with)...))
	}
	wantError(t, create(bg, "new", ""), fsmeta.ErrNoTransaction)
	s.write(func(ctx context.Context) {
		wantError(t, create(ctx, "", ""), fsmeta.ErrInvalidName)
		wantError(t, create(ctx, "new", "", fsmeta.WithLabels(map[string]string{"": ""})), fsmeta.ErrInvalidName)
		wantError(t, create(ctx, "new", "", huge), fsmeta.ErrInvalidName, "67108864")
		wantError(t, create(ctx, "new", "gone"), fsmeta.ErrNotExist)
		wantError(t, create(ctx, "new", "there"), fsmeta.ErrNotCommitted)
		wantError(t, create(ctx, "there", ""), fsmeta.ErrExist)
		wantError(t, create(ctx, "new", "", fsmeta.WithParent("base")), fsmeta.ErrInvalidOption)
	})
	ctx, tx := s.begin(bg, true)
	nilError(t, create(ctx, "new", ""))
	nilError(t, tx.Rollback())
	s.write(func(ctx context.Context) {
		wantError(t, create(ctx, "new", ""), fsmeta.ErrInvalidName, id)
		if got := must(s.CreateWith(ctx, "new", "", false, fsmeta.WithID(""))).ID; got == "" || got == id {
			t.Errorf("without an identifier, the snapshot gets %q", got)
		}
	})
	before := must(s.NewID(bg))
	nilError(t, s.Close())
	s = openStore(t, s.dir)
	s.write(func(ctx context.Context) {
		wantError(t, drop(s.CreateWith(ctx, "late", "", false, fsmeta.WithID(before))), fsmeta.ErrInvalidName, before)
	})
}

func TestParentOrder(t *testing.T) {
	const depth = 200
	s := newStore(t)
	var ids []string // the lowest base first
	parent := ""
	for i := range depth {
		s.write(func(ctx context.Context) {
			active := must(s.CreateActive(ctx, "key", parent, i%2 == 1))
			equal(t, "parents of the new one", fmt.Sprint(active.ParentIDs), fmt.Sprint(ids))
			equal(t, "GetActive", must(s.GetActive(ctx, "key")), active)
			equal(t, "readonly", active.Readonly, i%2 == 1)
			must(s.Remove(ctx, "key"))
			id := must(s.CreateActive(ctx, "key", parent, false)).ID
			parent = fmt.Sprint("layer ", depth-i) // names run against the order
			must(s.Commit(ctx, "key", parent))
			ids = append(ids, id)
		})
	}
	s.write(func(ctx context.Context) { must(s.CreateActive(ctx, "key", parent, false)) })
	equal(t, "parents", must(s.GetActive(bg, "key")).ParentIDs, ids)
	killed := openStore(t, s.kill())
	equal(t, "parents after a crash", must(killed.GetActive(bg, "key")).ParentIDs, ids)
}

func TestIdentifiersAreNeverReused(t *testing.T) {
	s := newStore(t)
	last := uint64(0)
	next := func(s *store, id string) {
		t.Helper()
		n := must(strconv.ParseUint(id, 10, 64))
		if n <= last {
			t.Fatalf("identifier %d was handed out after %d", n, last)
		}
		last = n
	}
	for round := range 5 {
		ctx, tx := s.begin(bg, true)
		next(s, must(s.CreateActive(ctx, "lost", "", false)).ID)
		nilError(t, tx.Rollback())
		s.write(func(ctx context.Context) {
			next(s, must(s.CreateActive(ctx, "key", "", false)).ID)
			must(s.Remove(ctx, "key"))
			next(s, must(s.CreateActive(ctx, "key", "", false)).ID)
		})
		s.write(func(ctx context.Context) { must(s.Remove(ctx, "key")) })
		second := openOnly(t, s.dir)
		second.write(func(ctx context.Context) {
			next(second, must(second.CreateActive(ctx, "second", "", false)).ID)
			must(second.Remove(ctx, "second"))
		})
		ctx, _ = s.begin(bg, true)
		for i := range 300 { // more than are reserved at a time
			next(s, must(s.CreateActive(ctx, fmt.Sprint("lost", i), "", false)).ID)
		}
		if round%2 == 0 {
			s = openStore(t, s.kill()) // in the middle of a transaction
		} else {
			nilError(t, second.Close())
			nilError(t, s.Close()) // rolls it back
			s = openStore(t, s.dir)
		}
	}
}

// A clean close gives back identifiers that were reserved, but none that was handed out.
func TestIdentifiersAfterClose(t *testing.T) {
	s := newStore(t)
	var ids []uint64
	for range 3 {
		s.write(func(ctx context.Context) {
			ids = append(ids, must(strconv.ParseUint(must(s.CreateActive(ctx, "key", "", false)).ID, 10, 64)))
			must(s.Remove(ctx, "key"))
		})
		ctx, tx := s.begin(bg, true)
		ids = append(ids, must(strconv.ParseUint(must(s.CreateActive(ctx, "key", "", false)).ID, 10, 64)))
		nilError(t, tx.Rollback())
		nilError(t, s.Close())
		s = openStore(t, s.dir)
	}
	for i := range ids {
		equal(t, "identifier", ids[i], ids[0]+uint64(i))
	}
}
