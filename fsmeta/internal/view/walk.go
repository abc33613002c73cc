package view

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// walkBatch is how many versions a walk looks up at once.
const walkBatch = 256

// walk is one run of Walk.
type walk struct {
	view    *View
	point   Point
	changed []format.Change // those of the transaction that are still to come
	fn      func(*format.Snapshot) error
	found   format.Names // at the point, without the transaction's changes
	damage  []Damage
}

// Walk calls fn for every snapshot at p, in byte order of the names, and then damaged for
// each part of the snapshots that could not be read: also where snapshots are missing, or
// where the journal is damaged. changed are changes of a transaction at p, in byte order
// of the names, that fn sees made. An error of fn or damaged ends the walk, and is returned
// as it is.
func (v *View) Walk(p Point, changed []format.Change, fn func(*format.Snapshot) error, damaged func(Damage) error) error {
	w := &walk{view: v, point: p, changed: changed, fn: fn}
	if err := w.run(); err != nil {
		return err
	}
	lost, err := w.compare()
	if err != nil {
		return err
	}
	if lost != nil {
		w.damage = append(w.damage, Damage{Err: lost, Lost: true})
	}
	if bad := v.Damage(); bad != nil {
		w.damage = append(w.damage, Damage{Err: bad, Lost: true})
	}
	for _, d := range w.damage {
		if err := damaged(d); err != nil {
			return err
		}
	}
	return nil
}

// Count returns how many snapshots there are at p, damaged ones too, and the digest of their
// names.
func (v *View) Count(p Point) (format.Names, error) {
	w := &walk{view: v, point: p, fn: func(*format.Snapshot) error { return nil }}
	err := w.run()
	w.found.Known = true
	return w.found, err
}

// run visits everything but the damage.
func (w *walk) run() error {
	entries, unnamed, err := w.view.list(w.point.index)
	if err == nil {
		err = w.visitAll(entries)
	}
	if err == nil {
		err = w.addUnnamed(unnamed)
	}
	return err
}

func (w *walk) visitAll(entries []*entry) error {
	batch := make([]*version, 0, walkBatch)
	for len(entries) > 0 {
		n := min(len(entries), walkBatch)
		batch = w.point.index.versions(batch[:0], entries[:n], w.point.At)
		for i, e := range entries[:n] {
			if err := w.visit(e, batch[i]); err != nil {
				return err
			}
		}
		entries = entries[n:]
	}
	return w.visitChanged("")
}

// visitChanged visits what the transaction has changed and has no entry, before the name
// before, or all of it where that is "".
func (w *walk) visitChanged(before string) error {
	for len(w.changed) > 0 && (before == "" || w.changed[0].Name < before) {
		c := w.changed[0]
		w.changed = w.changed[1:]
		w.count(c.Before, c.Name)
		if c.After != nil {
			if err := w.fn(c.After); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) visit(e *entry, known *version) error {
	if err := w.visitChanged(e.name); err != nil {
		return err
	}
	var m *format.Snapshot
	switch {
	case len(w.changed) > 0 && w.changed[0].Name == e.name:
		c := w.changed[0]
		w.changed = w.changed[1:]
		if c.Before != nil {
			w.found = w.found.With(e.hash)
		}
		if c.After == nil {
			return nil
		}
		return w.fn(c.After)
	case known != nil:
		m = known.meta
	default:
		var err error
		m, err = w.view.Lookup(w.point, e.name)
		if errors.Is(err, fault.ErrDamaged) {
			w.found = w.found.With(e.hash)
			w.damage = append(w.damage, Damage{Err: err, Entry: format.EncodeName(e.name)})
			return nil
		}
		if err != nil {
			return err
		}
	}
	if m == nil {
		return nil
	}
	w.found = w.found.With(e.hash)
	return w.fn(m)
}

func (w *walk) count(m *format.Snapshot, name string) {
	if m != nil {
		w.found = w.found.With(format.HashOfName(name))
	}
}

// addUnnamed counts the entries that have no known name, and notes why.
func (w *walk) addUnnamed(unnamed []string) error {
	for _, at := range unnamed {
		err := w.view.unnamedDamage(at)
		if !errors.Is(err, fault.ErrDamaged) {
			return err
		}
		if hash, ok := format.HashOfEntry(at); ok {
			w.found = w.found.With(hash)
		}
		w.damage = append(w.damage, Damage{Err: err, Entry: at})
	}
	return nil
}

// compare returns what is wrong with the snapshots as a whole: others than the journal
// has counted, or another number of them.
func (w *walk) compare() (lost, err error) {
	want, found := w.point.names, w.found
	if !want.Known || same(want, found) {
		return nil, nil
	}
	if found, err = w.withoutStrays(); err != nil || same(want, found) {
		return nil, err
	}
	var problem string
	switch {
	case found.Count < want.Count:
		problem = fmt.Sprintf("%d of %d snapshots are missing", want.Count-found.Count, want.Count)
	case found.Count > want.Count:
		problem = fmt.Sprintf("there are %d snapshots, and the journal counts %d", found.Count, want.Count)
	default:
		problem = fmt.Sprintf("the %d snapshots that are there are not those that the journal counts: at least one is missing, and another is in its place", want.Count)
	}
	return &fault.Damaged{Path: w.view.tree.EntryPath(""), Err: errors.New(problem + "; put back what is missing, or accept what is there with fsmeta repair --accept-tree")}, nil
}

func same(a, b format.Names) bool { return a.Count == b.Count && a.Sum == b.Sum }

// withoutStrays returns the names that were found, without damaged entries that are no
// directories: the store has made none of these.
func (w *walk) withoutStrays() (format.Names, error) {
	found := w.found
	for _, d := range w.damage {
		dir, err := w.view.tree.IsDir(d.Entry)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
		if hash, ok := format.HashOfEntry(d.Entry); ok && !dir {
			found = found.Without(hash)
		}
	}
	return found, nil
}
