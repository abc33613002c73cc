package view

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// writer writes to a store without package commit, one transaction after the other.
type writer struct {
	*View
	t    *testing.T
	dir  string
	tree *tree.Tree
	last uint64 // the identifier given last
}

func newWriter(t *testing.T) *writer {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	check(t, layout.Make(dir, func(*disk.Dir) int { return 1 << 20 }))
	w := &writer{t: t, dir: dir}
	w.View, w.tree = open(t, dir, true)
	check(t, errors.Join(w.tree.Prepare(), w.Journal().Lock()))
	return w
}

// open opens a View of a store, until the end of the test.
func open(t *testing.T, dir string, writable bool) (*View, *tree.Tree) {
	t.Helper()
	root, err := disk.OpenDir(dir, true)
	check(t, err)
	tr, err := tree.Open(root)
	check(t, err)
	v, err := Open(dir, tr, writable)
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(v.Close(), tr.Close(), root.Close())) })
	return v, tr
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes a transaction of words: "+name", "+name<parent", "-name", "~name". It is published.
func (w *writer) write(words ...string) {
	w.t.Helper()
	n := w.Tip() + 1
	var changes []format.Change
	for _, word := range words {
		name, parent, _ := strings.Cut(word[1:], "<")
		before, err := w.Lookup(w.Base(), name)
		check(w.t, err)
		c := format.Change{Name: name, Before: before}
		switch word[0] {
		case '+':
			w.last++
			when := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
			c.After = &format.Snapshot{ID: fmt.Sprint(w.last), Name: name, Parent: parent, Kind: format.Committed, Readonly: true, Created: when, Updated: when, Txn: n}
		case '~':
			after := *before
			after.Txn = n
			after.Usage.Size++
			c.After = &after
		}
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b format.Change) int { return strings.Compare(a.Name, b.Name) })
	work, err := w.tree.Stage(changes, nil)
	check(w.t, err)
	j := w.Journal()
	txn := &format.Txn{Number: n, Time: time.Now(), NextID: w.last + 1, Names: j.NamesAt(n - 1).After(changes), Changes: changes}
	check(w.t, j.Append(txn))
	w.Add(txn)
	if lagging := w.tree.BringUp(work, nil); len(lagging) > 0 {
		w.t.Fatal(lagging)
	}
	w.Publish(n, func() { check(w.t, j.Publish(n)) })
}

// checkpoint drops all lines.
func (w *writer) checkpoint() {
	w.t.Helper()
	old := w.Journal()
	names, err := old.Names(old.Header().Txn, old.Tip())
	check(w.t, err)
	next, err := journal.Prepare(old.Path(), filepath.Join(w.dir, format.StagingDir), 1<<16, disk.Owner{})
	check(w.t, err)
	j, err := next.Write(old, format.Header{Txn: old.Tip(), NextID: old.NextID()}, nil, false)
	check(w.t, err)
	check(w.t, errors.Join(old.Supersede(), next.Replace(), w.Adopt(j, nil, names), j.Place()))
}

// list returns the names at a point.
func list(t *testing.T, v *View, p Point) string {
	t.Helper()
	var names []string
	check(t, v.Walk(p, nil, func(m *format.Snapshot) error { names = append(names, m.Name); return nil }, func(d Damage) error { return d.Err }))
	return strings.Join(names, " ")
}

func wantList(t *testing.T, v *View, want string) {
	t.Helper()
	var r Reader
	check(t, v.Begin(&r))
	defer v.End(&r)
	if got := list(t, v, r.Point); got != want {
		t.Errorf("a reader finds %q, want %q", got, want)
	}
}

// kept returns how many names, identifiers, versions and left-overs an index has.
func (v *View) kept() [4]int {
	ix := v.index.Load()
	ix.mu.Lock()
	defer ix.mu.Unlock()
	versions := 0
	for _, e := range ix.entries {
		for n := e.head; n != nil; n = n.prev {
			versions++
		}
	}
	return [4]int{len(ix.entries), len(ix.byID), versions, len(ix.left)}
}

// Names that are gone, and versions that no reader needs, are forgotten with their lines. A
// reader keeps its own for as long as it lasts.
func TestForget(t *testing.T) {
	for _, reads := range []bool{false, true} {
		w := newWriter(t)
		w.write("+stays")
		wantList(t, w.View, "stays")
		for range 2 { // by a walk, then by the index
			owners, _, err := w.FindID(w.Base(), "1")
			check(t, err)
			if !slices.Equal(owners, []string{"stays"}) {
				t.Errorf("owners %q", owners)
			}
		}
		var r Reader
		w.write("+gone")
		if reads {
			check(t, w.Begin(&r))
		}
		for range 20 {
			w.write("~stays")
			w.write("-gone")
			w.write("+gone", "+x")
			w.write("-x")
		}
		w.write("-gone")
		w.checkpoint()
		if reads {
			if got := list(t, w.View, r.Point); got != "gone stays" {
				t.Errorf("the reader finds %q", got)
			}
			if kept := w.kept(); kept[3] == 0 {
				t.Errorf("nothing is kept for the reader: %v", kept)
			}
			w.End(&r)
		}
		if kept := w.kept(); kept != [4]int{1, 1, 1, 0} {
			t.Errorf("reads %v: names, identifiers, versions and left-overs are %v", reads, kept)
		}
		wantList(t, w.View, "stays")
	}
}

// Versions that two readers need are given back when the second ends, whichever that is.
func TestForgetAfterTheLastReader(t *testing.T) {
	for _, oldestFirst := range []bool{false, true} {
		w := newWriter(t)
		w.write("+a")
		var old, young Reader
		check(t, w.Begin(&old))
		w.write("-a", "+b")
		check(t, w.Begin(&young))
		w.write("-b", "+c")
		w.checkpoint()
		first, second, want := &young, &old, "a"
		if oldestFirst {
			first, second, want = &old, &young, "b"
		}
		w.End(first)
		if got := list(t, w.View, second.Point); got != want {
			t.Errorf("the reader that is left finds %q, want %q", got, want)
		}
		w.End(second)
		if kept := w.kept(); kept != [4]int{1, 0, 1, 0} {
			t.Errorf("names, identifiers, versions and left-overs are %v", kept)
		}
	}
}

// Lines that another process has written answer for single names before they are decoded, and
// say the same when they are.
func TestLookupInLines(t *testing.T) {
	w := newWriter(t)
	w.write("+base", "+a<base")
	r, _ := open(t, w.dir, false)
	var old Reader
	check(t, r.Begin(&old))
	w.write("~a", "+b<a")
	w.write("-a", "+é<base", `+"`)
	w.write("~base")
	var now Reader
	check(t, r.Begin(&now))
	if n := len(now.index.pending); n != 3 {
		t.Fatalf("%d lines are not decoded, want 3", n)
	}
	answers := func() string {
		t.Helper()
		var all []string
		for _, p := range []Point{old.Point, now.Point} {
			for _, name := range []string{"base", "a", "b", "é", `"`, "x", "bas", "ase"} {
				m, err := r.Lookup(p, name)
				check(t, err)
				answer := "-"
				if m != nil {
					answer = fmt.Sprintf("%s<%s:%d", m.ID, m.Parent, m.Txn)
				}
				all = append(all, answer)
			}
		}
		return strings.Join(all, " ")
	}
	want := "1<:1 2<base:1 - - - - - - 1<:4 - 3<a:2 4<base:3 5<:3 - - -"
	for round := range 4 {
		// Where a name is in no line, the tree is asked; its snapshots have parents that are searched, too.
		if got := answers(); got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
	}
	if n := len(now.index.pending); n != 0 {
		t.Errorf("%d lines are not decoded after many lookups", n)
	}
	r.End(&old)
	r.End(&now)
}

// An index with a gap behind it answers from memory. All other lookups are outdated, and the next
// reader begins anew.
func TestStale(t *testing.T) {
	w := newWriter(t)
	w.write("+a", "+b")
	w.checkpoint()
	r, _ := open(t, w.dir, false)
	var old Reader
	check(t, r.Begin(&old))
	_, err := r.Lookup(old.Point, "a")
	check(t, err)
	for _, word := range []string{"~a", "-b"} {
		w.write(word)
		w.checkpoint()
	}
	if m, err := r.Lookup(old.Point, "a"); err != nil || m.Usage.Size != 0 {
		t.Errorf("a name that was read before: %+v, %v", m, err)
	}
	if m, err := r.Lookup(old.Point, "b"); !errors.Is(err, fault.ErrOutdated) {
		t.Errorf("another: %+v, %v", m, err)
	}
	r.End(&old)
	wantList(t, r, "a")
}
