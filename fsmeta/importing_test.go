package fsmeta_test

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// importable returns the snapshots of a small store, as another metadata store has them.
func importable() []fsmeta.Info {
	at := time.Date(2020, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	return []fsmeta.Info{
		{ID: "9", Name: "web", Parent: "top", Kind: fsmeta.KindActive, Created: at, Updated: at.Add(1)},
		{ID: "40", Name: "view", Parent: "base", Kind: fsmeta.KindActive, Readonly: true, Created: at, Updated: at},
		{ID: "2", Name: "top", Parent: "base", Kind: fsmeta.KindCommitted, Created: at, Updated: at,
			Labels: map[string]string{"a": "b"}, Usage: fsmeta.Usage{Inodes: 3, Size: 4}},
		{ID: "1", Name: "base", Kind: fsmeta.KindCommitted, Created: at, Updated: at},
	}
}

func TestImport(t *testing.T) {
	s := newStore(t)
	given := importable()
	var progress []int
	nilError(t, s.Import(bg, given, 100, func(done int) { progress = append(progress, done) }))
	equal(t, "progress", progress, []int{1, 2, 3, 4})
	for _, s := range []*store{s, openStore(t, s.kill())} {
		for _, want := range given {
			got := must(s.Stat(bg, want.Name))
			want.Created, want.Updated = want.Created.UTC(), want.Updated.UTC()
			want.Readonly = want.Readonly || want.Kind == fsmeta.KindCommitted
			equal(t, want.Name, got, want)
		}
		equal(t, "parents of web", must(s.GetActive(bg, "web")).ParentIDs, []string{"1", "2"})
		equal(t, "name of 40", must(s.NameOf(bg, "40")), "view")
		// Again; and then not, where a snapshot is another one.
		nilError(t, s.Import(bg, given, 100, func(int) { t.Error("something is imported again") }))
		changed := importable()
		changed[2].Labels["a"] = "c"
		wantError(t, s.Import(bg, changed, 100, nil), fsmeta.ErrUsed, `"top"`)
		changed[2].Name = "other"
		wantError(t, s.Import(bg, changed[2:], 100, nil), fsmeta.ErrUsed, `"other"`)
		wantError(t, s.Import(bg, given, 1e6, nil), fsmeta.ErrUsed, "1000000")
		s.write(func(ctx context.Context) {
			id, err := strconv.Atoi(must(s.CreateActive(ctx, "new", "top", false)).ID)
			nilError(t, err)
			if id < 100 {
				t.Errorf("identifier %d is handed out after the import, below 100", id)
			}
			_, err = s.Remove(ctx, "base")
			wantError(t, err, fsmeta.ErrHasChildren)
		})
		s.agree(bg)
	}
	emptied := newStore(t)
	emptied.build("*a")
	emptied.write(func(ctx context.Context) { must(emptied.Remove(ctx, "a")) })
	wantError(t, emptied.Import(bg, given, 1, nil), fsmeta.ErrUsed)
	// Of a store without snapshots there are still the identifiers.
	none := newStore(t)
	nilError(t, none.Import(bg, nil, 100, nil))
	none = openStore(t, none.kill())
	none.write(func(ctx context.Context) {
		if id, err := strconv.Atoi(must(none.CreateActive(ctx, "new", "", false)).ID); err != nil || id < 100 {
			t.Errorf("identifier %d, %v", id, err)
		}
	})
}

// An identifier that was handed out is not imported, in this process nor in another.
func TestImportIdentifierHandedOut(t *testing.T) {
	s := newStore(t)
	other := openStore(t, s.dir)
	given := []fsmeta.Info{{ID: must(s.NewID(bg)), Name: "a", Kind: fsmeta.KindCommitted, Created: time.Now(), Updated: time.Now()}}
	for _, into := range []*store{s, other} {
		wantError(t, into.Import(bg, given, 1, nil), fsmeta.ErrUsed, "new directory")
	}
	given[0].ID = "1000"
	nilError(t, other.Import(bg, given, 1, nil))
	s.write(func(ctx context.Context) {
		equal(t, "identifier", must(s.CreateWith(ctx, "b", "", false, fsmeta.WithID("1"))).ID, "1")
	})
}

// A panic of the caller's own does not keep the store.
func TestImportProgressPanics(t *testing.T) {
	s := newStore(t)
	func() {
		defer func() { equal(t, "panic", recover(), any("ours")) }()
		t.Error(s.Import(bg, importable(), 1, func(int) { panic("ours") }))
	}()
	equal(t, "unused", must(s.Unused(bg)), true)
	nilError(t, s.Import(bg, importable(), 1, nil))
}

// An import that is refused names the snapshot, and leaves the store as new as it was.
func TestImportRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(infos []fsmeta.Info) []fsmeta.Info
		want   error
		says   string
	}{
		"a name":            {func(i []fsmeta.Info) []fsmeta.Info { i[0].Name = ""; return i }, fsmeta.ErrInvalidName, `""`},
		"an identifier":     {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "01"; return i }, fsmeta.ErrInvalidName, `"web"`},
		"a high identifier": {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "9000000000000000000"; return i }, fsmeta.ErrInvalidName, "9000"},
		"an identifier 0":   {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "0"; return i }, fsmeta.ErrInvalidName, `"web"`},
		"its own parent":    {func(i []fsmeta.Info) []fsmeta.Info { i[3].Parent = "base"; return i }, fsmeta.ErrInvalidName, `"base"`},
		"a huge label": {func(i []fsmeta.Info) []fsmeta.Info {
			i[0].Labels = map[string]string{"huge": strings.Repeat("x", 64<<20)}
			return i
		}, fsmeta.ErrInvalidName, `"web"`},
		"a kind": {func(i []fsmeta.Info) []fsmeta.Info { i[0].Kind = 0; return i }, fsmeta.ErrInvalidName, `"web"`},
		"a late year": {func(i []fsmeta.Info) []fsmeta.Info {
			i[0].Created = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
			return i
		}, fsmeta.ErrInvalidName, `"web"`},
		"an early year": {func(i []fsmeta.Info) []fsmeta.Info {
			i[0].Updated = time.Date(0, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600)) // year -1 in UTC
			return i
		}, fsmeta.ErrInvalidName, `"web"`},
		"a label":                 {func(i []fsmeta.Info) []fsmeta.Info { i[0].Labels = map[string]string{"": "x"}; return i }, fsmeta.ErrInvalidName, `"web"`},
		"a name twice":            {func(i []fsmeta.Info) []fsmeta.Info { i[0].Name = "view"; return i }, fsmeta.ErrExist, `"view"`},
		"an identifier twice":     {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "40"; return i }, fsmeta.ErrExist, "40"},
		"a parent that is not":    {func(i []fsmeta.Info) []fsmeta.Info { return i[:3] }, fsmeta.ErrNotExist, `"base"`},
		"a parent that is active": {func(i []fsmeta.Info) []fsmeta.Info { i[3].Kind = fsmeta.KindActive; return i }, fsmeta.ErrNotCommitted, `"base"`},
		"a circle":                {func(i []fsmeta.Info) []fsmeta.Info { i[3].Parent = "top"; return i }, fsmeta.ErrInvalidName, "lead back"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			disk := fingerprint(t, s.dir)
			err := s.Import(bg, test.change(importable()), 1, nil)
			wantError(t, err, test.want)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v does not say %s", err, test.says)
			}
			equal(t, "unused", must(s.Unused(bg)), true)
			equal(t, "disk", fingerprint(t, s.dir), disk)
		})
	}
	s := newStore(t)
	wantError(t, s.Import(bg, importable(), 1<<61+1, nil), fsmeta.ErrInvalidName, "2305843009213693953")
	s.write(func(ctx context.Context) {
		wantError(t, s.Import(ctx, importable(), 1, nil), fsmeta.ErrNestedTransaction)
	})
}

// The years 0 to 9999 are times like any other, the zero time too.
func TestImportTimes(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "store"))
	given := importable()
	for i, at := range []time.Time{{}, time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)} {
		given[i].Created, given[i].Updated = at, at
	}
	nilError(t, s.Import(bg, given, 1, nil))
	for _, s := range []*store{s, openStore(t, s.kill())} {
		for _, want := range given {
			got := must(s.Stat(bg, want.Name))
			if !got.Created.Equal(want.Created) || !got.Updated.Equal(want.Updated) {
				t.Errorf("%s: got %v and %v, want %v", want.Name, got.Created, got.Updated, want.Created)
			}
		}
	}
}

// A store is unused until the first transaction is committed, whatever that leaves.
func TestUnused(t *testing.T) {
	s := newStore(t)
	equal(t, "a new store", must(s.Unused(bg)), true)
	ctx, tx := s.begin(bg, true)
	must(s.CreateActive(ctx, "a", "", false))
	equal(t, "inside the first transaction", must(s.Unused(ctx)), false)
	nilError(t, tx.Rollback())
	equal(t, "after its rollback", must(s.Unused(bg)), true)
	before, reader := s.begin(bg, false)
	s.write(func(ctx context.Context) {
		must(s.CreateActive(ctx, "a", "", false))
		must(s.Remove(ctx, "a"))
	})
	equal(t, "after one that came to nothing", must(s.Unused(bg)), false)
	s.build("*a")
	s.write(func(ctx context.Context) { must(s.Remove(ctx, "a")) })
	equal(t, "emptied", must(s.Unused(bg)), false)
	equal(t, "emptied, in another process", must(openStore(t, s.kill()).Unused(bg)), false)
	nilError(t, reader.Rollback())
	if _, err := s.Unused(before); !errors.Is(err, fsmeta.ErrTransactionClosed) {
		t.Errorf("in a transaction that has ended: %v", err)
	}
	if fsmeta.FromContext(bg) != nil || fsmeta.FromContext(before) != s.Store {
		t.Error("FromContext does not tell the store")
	}
}
