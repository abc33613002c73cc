package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

func TestSentinels(t *testing.T) {
	for _, s := range sentinels {
		wantError(t, fmt.Errorf("wrapped: %w", s.err), s.err, s.err.Error())
		if !classes[s.class](s.err) {
			t.Errorf("%v is not of class %s", s.err, s.class)
		}
	}
	damage := errors.New("what is wrong")
	err := error(&fsmeta.DamagedError{Name: "name", Path: "path", Err: damage})
	wantError(t, err, fsmeta.ErrDamaged, "name", "path", "what is wrong")
	if !errors.Is(err, damage) || !classes["DataLoss"](err) {
		t.Errorf("%v hides its cause or its class", err)
	}
}

func TestErrors(t *testing.T) {
	long := strings.Repeat("x", 32769)
	create := func(key, parent string, opts ...fsmeta.SnapshotOption) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error {
			err := drop(s.CreateWith(ctx, key, parent, false, opts...))
			if opts == nil {
				return alike(drop(s.CreateActive(ctx, key, parent, true)), err)
			}
			return err
		}
	}
	commit := func(key, name string, opts ...fsmeta.SnapshotOption) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error {
			err := drop(s.CommitWith(ctx, key, name, opts...))
			if opts == nil {
				return alike(drop(s.Commit(ctx, key, name)), err)
			}
			return err
		}
	}
	update := func(name string, labels map[string]string, fields ...string) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error {
			return drop(s.Update(ctx, fsmeta.Info{Name: name, Labels: labels}, fields...))
		}
	}
	named := func(do func(s *store, ctx context.Context, name string) error, name string) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error { return do(s, ctx, name) }
	}
	stat := func(s *store, ctx context.Context, name string) error { return drop(s.Stat(ctx, name)) }
	active := func(s *store, ctx context.Context, name string) error { return drop(s.GetActive(ctx, name)) }
	remove := func(s *store, ctx context.Context, name string) error { return drop(s.Remove(ctx, name)) }
	nameOf := func(s *store, ctx context.Context, name string) error { return drop(s.NameOf(ctx, name)) }
	usage := func(s *store, ctx context.Context, name string) error {
		return drop(s.SetUsage(ctx, name, fsmeta.Usage{Size: 1}))
	}
	labels := func(key, value string) map[string]string { return map[string]string{"good": "x", key: value} }
	with := func(key, value string) fsmeta.SnapshotOption { return fsmeta.WithLabels(labels(key, value)) }

	for _, test := range []struct {
		name     string
		do       func(context.Context, *store) error
		want     error
		mentions string
	}{
		{"stat missing", named(stat, "absent"), fsmeta.ErrNotExist, "absent"},
		{"stat empty", named(stat, ""), fsmeta.ErrInvalidName, ""},
		{"stat long", named(stat, long), fsmeta.ErrInvalidName, "32768"},
		{"stat not UTF-8", named(stat, "absent\xff"), fsmeta.ErrInvalidName, "absent"},

		{"active missing", named(active, "absent"), fsmeta.ErrNotExist, "absent"},
		{"active committed", named(active, "top"), fsmeta.ErrNotActive, "top"},
		{"active empty", named(active, ""), fsmeta.ErrInvalidName, ""},
		{"active long", named(active, long), fsmeta.ErrInvalidName, "32768"},
		{"active not UTF-8", named(active, "\xed\xa0\x80"), fsmeta.ErrInvalidName, ""},

		{"name of a missing one", named(nameOf, "123456789"), fsmeta.ErrNotExist, "123456789"},
		{"name of no number", named(nameOf, "absent"), fsmeta.ErrNotExist, "absent"},
		{"name of nothing", named(nameOf, ""), fsmeta.ErrNotExist, ""},

		{"create empty", create("", ""), fsmeta.ErrInvalidName, ""},
		{"create long", create(long, ""), fsmeta.ErrInvalidName, "32768"},
		{"create not UTF-8", create("a\xc3", "base"), fsmeta.ErrInvalidName, "a"},
		{"create on long", create("new", long), fsmeta.ErrInvalidName, "32768"},
		{"create on not UTF-8", create("new", "base\xff"), fsmeta.ErrInvalidName, "base"},
		{"create on missing", create("new", "absent"), fsmeta.ErrNotExist, "absent"},
		{"create on itself", create("new", "new"), fsmeta.ErrNotExist, "new"},
		{"create on active", create("new", "work"), fsmeta.ErrNotCommitted, "work"},
		{"create on readonly", create("new", "view"), fsmeta.ErrNotCommitted, "view"},
		{"create what is active", create("work", "top"), fsmeta.ErrExist, "work"},
		{"create what is readonly", create("view", ""), fsmeta.ErrExist, "view"},
		{"create what is committed", create("base", ""), fsmeta.ErrExist, "base"},
		{"create parent on itself", create("base", "base"), fsmeta.ErrExist, "base"},
		{"create what exists on missing", create("work", "absent"), fsmeta.ErrNotExist, "absent"},
		{"create what exists on active", create("base", "work"), fsmeta.ErrNotCommitted, "work"},
		{"create with empty label", create("new", "", with("", "x")), fsmeta.ErrInvalidName, "new"},
		{"create with bad label", create("new", "", with("l\xff", "x")), fsmeta.ErrInvalidName, "new"},
		{"create with bad value", create("new", "", with("label", "\xff")), fsmeta.ErrInvalidName, "label"},

		{"commit empty", commit("", "new"), fsmeta.ErrInvalidName, ""},
		{"commit to empty", commit("work", ""), fsmeta.ErrInvalidName, ""},
		{"commit long", commit(long, "new"), fsmeta.ErrInvalidName, "32768"},
		{"commit to long", commit("work", long), fsmeta.ErrInvalidName, "32768"},
		{"commit not UTF-8", commit("\xff", "new"), fsmeta.ErrInvalidName, ""},
		{"commit to not UTF-8", commit("work", "new\xff"), fsmeta.ErrInvalidName, "new"},
		{"commit missing", commit("absent", "new"), fsmeta.ErrNotExist, "absent"},
		{"commit committed", commit("base", "new"), fsmeta.ErrNotActive, "base"},
		{"commit readonly", commit("view", "new"), fsmeta.ErrNotActive, "view"},
		{"commit to committed", commit("work", "top"), fsmeta.ErrExist, "top"},
		{"commit to active", commit("work", "view"), fsmeta.ErrExist, "view"},
		{"commit to itself", commit("work", "work"), fsmeta.ErrExist, "work"},
		{"commit missing to what exists", commit("absent", "base"), fsmeta.ErrExist, "base"},
		{"commit with empty label", commit("work", "new", with("", "x")), fsmeta.ErrInvalidName, "work"},
		{"commit with bad label", commit("work", "new", with("l\xff", "x")), fsmeta.ErrInvalidName, "work"},
		{"commit with bad value", commit("work", "new", with("label", "\xff")), fsmeta.ErrInvalidName, "label"},
		{"commit on missing", commit("side", "new", fsmeta.WithParent("absent")), fsmeta.ErrNotExist, "absent"},
		{"commit on active", commit("side", "new", fsmeta.WithParent("work")), fsmeta.ErrNotCommitted, "work"},
		{"commit on readonly", commit("side", "new", fsmeta.WithParent("view")), fsmeta.ErrNotCommitted, "view"},
		{"commit on its key", commit("side", "new", fsmeta.WithParent("side")), fsmeta.ErrNotCommitted, "side"},
		{"commit on itself", commit("side", "new", fsmeta.WithParent("new")), fsmeta.ErrNotExist, "new"},
		{"commit on another", commit("work", "new", fsmeta.WithParent("base")), fsmeta.ErrParentSet, "work"},
		{"commit on long", commit("side", "new", fsmeta.WithParent(long)), fsmeta.ErrInvalidName, "32768"},
		{"commit on not UTF-8", commit("side", "new", fsmeta.WithParent("\xff")), fsmeta.ErrInvalidName, ""},

		{"remove missing", named(remove, "absent"), fsmeta.ErrNotExist, "absent"},
		{"remove empty", named(remove, ""), fsmeta.ErrInvalidName, ""},
		{"remove long", named(remove, long), fsmeta.ErrInvalidName, "32768"},
		{"remove not UTF-8", named(remove, "\xff"), fsmeta.ErrInvalidName, ""},
		{"remove under committed", named(remove, "base"), fsmeta.ErrHasChildren, "base"},
		{"remove under active", named(remove, "top"), fsmeta.ErrHasChildren, "top"},
		{"remove under readonly", named(remove, "low"), fsmeta.ErrHasChildren, "low"},
		{"remove under new one", func(ctx context.Context, s *store) error {
			must(s.CreateActive(ctx, "new", "alone", false))
			err := drop(s.Remove(ctx, "alone"))
			must(s.Remove(ctx, "new"))
			return err
		}, fsmeta.ErrHasChildren, "alone"},

		{"update missing", update("absent", nil), fsmeta.ErrNotExist, "absent"},
		{"update empty", update("", nil), fsmeta.ErrInvalidName, ""},
		{"update long", update(long, nil), fsmeta.ErrInvalidName, "32768"},
		{"update not UTF-8", update("\xff", nil), fsmeta.ErrInvalidName, ""},
		{"update other field", update("work", nil, "kind"), fsmeta.ErrInvalidName, "kind"},
		{"update other field too", update("work", labels("a", "b"), "labels.a", "parent"), fsmeta.ErrInvalidName, "parent"},
		{"update no field", update("work", nil, ""), fsmeta.ErrInvalidName, "work"},
		{"update empty label", update("work", nil, "labels."), fsmeta.ErrInvalidName, "labels."},
		{"update bad label", update("work", nil, "labels.\xff"), fsmeta.ErrInvalidName, "work"},
		{"update like labels", update("work", nil, "labelsa"), fsmeta.ErrInvalidName, "labelsa"},
		{"update to empty label", update("work", labels("", "x")), fsmeta.ErrInvalidName, "work"},
		{"update to bad label", update("work", labels("\xff", "x"), "labels"), fsmeta.ErrInvalidName, "work"},
		{"update to bad value", update("work", labels("label", "\xff"), "labels.label"), fsmeta.ErrInvalidName, "label"},

		{"usage of missing", named(usage, "absent"), fsmeta.ErrNotExist, "absent"},
		{"usage of empty", named(usage, ""), fsmeta.ErrInvalidName, ""},
		{"usage of long", named(usage, long), fsmeta.ErrInvalidName, "32768"},
		{"usage of not UTF-8", named(usage, "\xff"), fsmeta.ErrInvalidName, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("alone; base; low; top < base; *side; *work < top; ?view < top; ?sight < low")
			s.changesNothing(test.do, test.want, test.mentions)
		})
	}
}

// alike returns the first error if the second is of the same sentinels.
func alike(one, two error) error {
	for _, s := range sentinels {
		if errors.Is(one, s.err) != errors.Is(two, s.err) {
			return fmt.Errorf("one method: %v, the other: %v", one, two)
		}
	}
	return one
}

// changesNothing requires that do fails with the error, changes nothing, in the
// transaction nor on disk, and leaves the transaction and the store usable.
func (s *store) changesNothing(do func(context.Context, *store) error, want error, mentions string) {
	s.t.Helper()
	infos := must(dump(bg, s.Store))
	ctx, tx := s.begin(bg, true)
	wantError(s.t, do(ctx, s), want, mentions)
	equal(s.t, "transaction after the error", must(dump(ctx, s.Store)), infos)
	s.agree(ctx)
	disk := fingerprint(s.t, s.dir, "journal")
	nilError(s.t, tx.Commit())
	equal(s.t, "disk after the error", fingerprint(s.t, s.dir, "journal"), disk)

	s.write(func(ctx context.Context) {
		must(s.CreateActive(ctx, "before", "base", false))
		wantError(s.t, do(ctx, s), want, mentions)
		must(s.Commit(ctx, "before", "after"))
	})
	equal(s.t, "number of snapshots", len(must(dump(bg, s.Store))), len(infos)+1)
	s.agree(bg)
}

// calls are all methods that work on snapshots.
var calls = []struct {
	name   string
	writes bool
	do     func(ctx context.Context, s *fsmeta.Store, key string) error
}{
	{"Stat", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.Stat(ctx, key)) }},
	{"Walk", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(dump(ctx, s)) }},
	{"All", false, func(ctx context.Context, s *fsmeta.Store, key string) error {
		for _, err := range s.All(ctx) {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"GetActive", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.GetActive(ctx, key)) }},
	{"IDs", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.IDs(ctx)) }},
	{"NameOf", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.NameOf(ctx, key)) }},
	{"CreateActive", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.CreateActive(ctx, key, "base", false))
	}},
	{"Create", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.CreateWith(ctx, key, "absent", false, fsmeta.WithUsage(fsmeta.Usage{Size: 1})))
	}},
	{"Commit", true, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.Commit(ctx, key, "new")) }},
	{"CommitWith", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.CommitWith(ctx, "work", key, fsmeta.WithParent("base")))
	}},
	{"Remove", true, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.Remove(ctx, key)) }},
	{"Update", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.Update(ctx, fsmeta.Info{Name: key}, "nonsense"))
	}},
	{"SetUsage", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.SetUsage(ctx, key, fsmeta.Usage{Size: 1}))
	}},
}

// An error about the transaction comes before any about the arguments.
func TestTransactionErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes bool // whether only writes fail
		begin  func(s *store) context.Context
		want   error
	}{
		{"none", true, func(*store) context.Context { return bg }, fsmeta.ErrNoTransaction},
		{"read-only", true, func(s *store) context.Context {
			ctx, _ := s.begin(bg, false)
			return ctx
		}, fsmeta.ErrReadOnlyTransaction},
		{"read-only in writable", true, func(s *store) context.Context {
			ctx, _ := s.begin(bg, true)
			ctx, _ = s.begin(ctx, false)
			return ctx
		}, fsmeta.ErrReadOnlyTransaction},
		{"committed", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, true)
			must(s.CreateActive(ctx, "kept", "", false))
			nilError(s.t, tx.Commit())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"rolled back", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, true)
			nilError(s.t, tx.Rollback())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"read-only committed", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, false)
			nilError(s.t, tx.Commit())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"read-only rolled back", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, false)
			nilError(s.t, tx.Rollback())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"of another store", false, func(s *store) context.Context {
			ctx, _ := newStore(s.t).begin(bg, true)
			return ctx
		}, fsmeta.ErrNoTransaction},
		{"read-only of another store", false, func(s *store) context.Context {
			ctx, _ := newStore(s.t).begin(bg, false)
			return ctx
		}, fsmeta.ErrNoTransaction},
		{"of another Store on the directory", false, func(s *store) context.Context {
			ctx, _ := openStore(s.t, s.dir).begin(bg, true)
			return ctx
		}, fsmeta.ErrNoTransaction},
		{"of a function that returned", false, func(s *store) (kept context.Context) {
			s.write(func(ctx context.Context) { kept = ctx })
			return kept
		}, fsmeta.ErrTransactionClosed},
		{"ended inside another store's", false, func(s *store) context.Context {
			ctx, tx := s.begin(first(newStore(s.t).begin(bg, false)), false)
			nilError(s.t, tx.Commit())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"store closed", false, func(s *store) context.Context { nilError(s.t, s.Close()); return bg }, fsmeta.ErrClosed},
		{"store closed under it", false, func(s *store) context.Context {
			ctx, _ := s.begin(bg, true)
			nilError(s.t, s.Close())
			return ctx
		}, fsmeta.ErrClosed},
		{"store closed after it", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, true)
			nilError(s.t, tx.Commit())
			nilError(s.t, s.Close())
			return ctx
		}, fsmeta.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("base; *work < base")
			ctx := test.begin(s)
			before := fingerprint(t, s.dir)
			for _, call := range calls {
				for _, key := range []string{"work", "absent", "", "\xff", strings.Repeat("x", 32769)} {
					if test.writes && !call.writes {
						break
					}
					if err := call.do(ctx, s.Store, key); !errors.Is(err, test.want) {
						t.Errorf("%s of %.10q: got error %v, want %v", call.name, key, err, test.want)
					} else {
						wantError(t, err, test.want)
					}
				}
			}
			equal(t, "disk", fingerprint(t, s.dir), before)
		})
	}
}

func TestContextOfTwoStores(t *testing.T) {
	one, two := newStore(t), newStore(t)
	one.write(func(ctx context.Context) {
		nilError(t, two.WithTransaction(ctx, true, func(ctx context.Context) error {
			one.make(ctx, "base; *here < base")
			two.make(ctx, "base; *there < base")
			return nil
		}))
		wantError(t, drop(two.Stat(ctx, "base")), fsmeta.ErrNoTransaction)
		one.want(ctx, "base; *here < base")
	})
	one.want(bg, "base; *here < base")
	two.want(bg, "base; *there < base")
}

func TestTransactorEnds(t *testing.T) {
	commit := func(tx fsmeta.Transactor) error { return tx.Commit() }
	rollback := func(tx fsmeta.Transactor) error { return tx.Rollback() }
	for _, test := range []struct {
		name string
		ends []func(fsmeta.Transactor) error
		want []error
		kept bool
	}{
		{"commit, commit", []func(fsmeta.Transactor) error{commit, commit, commit}, []error{nil, fsmeta.ErrTransactionClosed, fsmeta.ErrTransactionClosed}, true},
		{"commit, rollback", []func(fsmeta.Transactor) error{commit, rollback, rollback}, []error{nil, nil, nil}, true},
		{"rollback, commit", []func(fsmeta.Transactor) error{rollback, commit, rollback}, []error{nil, fsmeta.ErrTransactionClosed, nil}, false},
		{"rollback, rollback", []func(fsmeta.Transactor) error{rollback, rollback, commit}, []error{nil, nil, fsmeta.ErrTransactionClosed}, false},
	} {
		for _, writable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, writable %v", test.name, writable), func(t *testing.T) {
				s := newStore(t)
				ctx, tx := s.begin(bg, writable)
				if writable {
					must(s.CreateActive(ctx, "new", "", false))
				}
				for i, end := range test.ends {
					if err := end(tx); !errors.Is(err, test.want[i]) {
						t.Errorf("end %d: got error %v, want %v", i, err, test.want[i])
					}
				}
				s.want(bg, map[bool]string{true: "*new"}[writable && test.kept])
				s.build("usable")
			})
		}
	}
}

func TestRollbackLeavesNothing(t *testing.T) {
	s := newStore(t)
	s.build("base; top < base; *work < top; ?view < top")
	infos := must(dump(bg, s.Store))
	disk := fingerprint(t, s.dir, "journal")
	ids := map[string]bool{}
	for _, id := range slices.Collect(maps.Keys(must(s.IDs(bg)))) {
		ids[id] = true
	}
	for range 3 {
		ctx, tx := s.begin(bg, true)
		s.make(ctx, "new; newer < new; *newest < newer")
		must(s.CommitWith(ctx, "work", "done", fsmeta.WithLabels(map[string]string{"a": "b"})))
		must(s.Remove(ctx, "view"))
		must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
		must(s.SetUsage(ctx, "top", fsmeta.Usage{Size: 5}))
		for id, name := range must(s.IDs(ctx)) {
			if strings.HasPrefix(name, "new") && ids[id] {
				t.Errorf("identifier %s of %q was handed out before", id, name)
			}
			ids[id] = true
		}
		nilError(t, tx.Rollback())
		equal(t, "store", must(dump(bg, s.Store)), infos)
		equal(t, "disk", fingerprint(t, s.dir, "journal"), disk)
		s.agree(bg)
	}
	killed := openStore(t, s.kill())
	equal(t, "store after a crash", must(dump(bg, killed.Store)), infos)
}

func TestEmptyTransactionsWriteNothing(t *testing.T) {
	s := newStore(t)
	s.build("base; *work < base")
	before := fingerprint(t, s.dir)
	for _, end := range []func(ctx context.Context, tx fsmeta.Transactor) error{
		func(_ context.Context, tx fsmeta.Transactor) error { return tx.Commit() },
		func(_ context.Context, tx fsmeta.Transactor) error { return tx.Rollback() },
		func(ctx context.Context, tx fsmeta.Transactor) error { s.agree(ctx); return tx.Commit() },
		func(ctx context.Context, tx fsmeta.Transactor) error {
			wantError(t, drop(s.Remove(ctx, "base")), fsmeta.ErrHasChildren)
			return tx.Commit()
		},
		func(ctx context.Context, tx fsmeta.Transactor) error { // not empty, but dropped
			must(s.Remove(ctx, "work"))
			return tx.Rollback()
		},
	} {
		for _, writable := range []bool{true, false} {
			if ctx, tx := s.begin(bg, true); writable {
				nilError(t, end(ctx, tx))
			} else {
				nilError(t, tx.Rollback())
			}
			equal(t, "disk", fingerprint(t, s.dir), before)
		}
	}
}
