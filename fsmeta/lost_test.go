package fsmeta_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// A store that has lost snapshots never passes for one that has fewer.

// lossScript makes six snapshots, all of which the tree alone has when the store is closed.
// The identifier of the first is that of the other store's snapshot.
var lossScript = []string{"put gone", "remove gone", "layer base", "layer top base", "put a", "put b", "put c base", "put d top"}

// losses lose snapshots of the store in dir. other is a store with snapshots of other names.
var losses = []struct {
	name  string
	lose  func(t *testing.T, dir, other string)
	rest  string // what can still be read
	count string // of the missing, which the error tells; "" where it can't be known
}{
	{"all", func(t *testing.T, dir, _ string) {
		for _, name := range []string{"base", "top", "a", "b", "c", "d"} {
			succeed(t, os.RemoveAll(entry(dir, name)))
		}
	}, "", "6"},
	{"an empty directory in its place", func(t *testing.T, dir, _ string) {
		snapshots := filepath.Join(dir, "snapshots")
		succeed(t, os.RemoveAll(snapshots), os.Mkdir(snapshots, 0o700))
	}, "", "6"},
	{"one", func(t *testing.T, dir, _ string) { succeed(t, os.RemoveAll(entry(dir, "a"))) }, "b base c d top", "1"},
	{"a part", func(t *testing.T, dir, _ string) {
		succeed(t, os.RemoveAll(entry(dir, "a")), os.RemoveAll(entry(dir, "d")))
	}, "b base c top", "2"},
	{"moved out", func(t *testing.T, dir, _ string) {
		succeed(t, os.Rename(entry(dir, "b"), filepath.Join(dir, "lost+found")))
	}, "a base c d top", "1"},
	{"one for another", func(t *testing.T, dir, other string) {
		succeed(t, os.Rename(entry(other, "foreign"), entry(dir, "foreign")), os.RemoveAll(entry(dir, "a")))
	}, "b base c d foreign top", ""},
	{"one more", func(t *testing.T, dir, other string) {
		succeed(t, os.Rename(entry(other, "foreign"), entry(dir, "foreign")))
	}, "a b base c d foreign top", ""},
}

func entry(dir, name string) string { return filepath.Join(dir, "snapshots", name) }

func TestLostSnapshotsAreMissed(t *testing.T) {
	for _, loss := range losses {
		for _, crash := range []bool{false, true} {
			name, rest := loss.name+"/closed", loss.rest
			if crash {
				name, rest = loss.name+"/crashed", strings.TrimSpace(loss.rest+" zlast")
			}
			t.Run(name, func(t *testing.T) {
				dir, other := newDir(t), newDir(t)
				build(t, dir, lossScript...)
				build(t, other, "put foreign")
				if crash {
					crashed(t, dir, "put zlast")
				}
				loss.lose(t, dir, other)
				r := useDamaged(t, dir, fsmeta.ReadOnly())
				wantMissed(t, r, rest, loss.count)
				mustDo(t, r, "close")
				a := useDamaged(t, dir)
				wantMissed(t, a, rest, loss.count)
				mustDo(t, a, "put zz", "remove zz") // others go on
				wantMissed(t, a, rest, loss.count)
				mustDo(t, a, "close")
				wantMissed(t, useDamaged(t, dir, fsmeta.MustExist(), fsmeta.ReadOnly()), rest, loss.count)
				wantFinding(t, dir, loss.count)
			})
		}
	}
}

// wantMissed requires that every enumeration gives the rest, and ends with an error that tells
// how many snapshots are missing.
func wantMissed(t *testing.T, a *local, rest, count string) {
	t.Helper()
	for _, line := range []string{"walk", "all", "ids", "name 999999", "backup " + newDir(t)} {
		got, err := a.do(line)
		if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), count) {
			t.Fatalf("%s: %v, want that it is damaged, and %q are missing", line, err, count)
		}
		if len(strings.Fields(line)) == 1 && got != rest {
			t.Errorf("%s gives %q, want %q", line, got, rest)
		}
	}
	if orphans, err := a.store.Orphans(context.Background(), []string{"1", "2", "3"}); !errors.Is(err, fsmeta.ErrDamaged) || len(orphans) > 0 {
		t.Errorf("Orphans: %q, %v", orphans, err)
	}
	for name := range strings.FieldsSeq(rest) {
		if id, err := a.do("id " + name); err != nil {
			t.Errorf("stat %s: %v", name, err)
		} else {
			mustSay(t, a, "name "+id, name)
		}
	}
}

// A repair takes the tree for the truth only when it is told to.
func TestRepairAcceptsALossWhenToldTo(t *testing.T) {
	for _, loss := range losses {
		t.Run(loss.name, func(t *testing.T) {
			dir, other := newDir(t), newDir(t)
			build(t, dir, lossScript...)
			build(t, other, "put foreign")
			a := useDamaged(t, dir)
			last := mustDo(t, a, "put e", "remove e")
			mustDo(t, a, "close")
			loss.lose(t, dir, other)
			repair(t, dir)
			wantFinding(t, dir, loss.count)
			r := useDamaged(t, dir, fsmeta.ReadOnly())
			mustFail(t, r, "walk", fsmeta.ErrDamaged)
			mustDo(t, r, "close")
			repair(t, dir, fsmeta.AcceptTree())
			forgetAside(t, dir)
			b := useDamaged(t, dir)
			names := mustDo(t, b, "walk")
			// What stood on a lost snapshot may be set aside: all else is there.
			for name := range strings.FieldsSeq(names) {
				if !strings.Contains(" "+loss.rest+" ", " "+name+" ") {
					t.Errorf("%q is there after the repair", name)
				}
			}
			if !strings.Contains(loss.rest, "base") && names != "" || strings.Contains(loss.rest, "base") && !strings.Contains(names, "base") {
				t.Errorf("after the repair there are %q, of %q", names, loss.rest)
			}
			mustSay(t, b, "ids", names)
			if id := mustDo(t, b, "put new"); len(id) < len(last) || len(id) == len(last) && id <= last {
				t.Errorf("identifier %s is given again after a repair, %s was given before", id, last)
			}
			mustDo(t, b, "close")
			wantClean(t, dir)
		})
	}
}
