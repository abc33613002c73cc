package view

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// walkBatch is how many versions a walk looks up at once.
const walkBatch = 256

// walk is one run of Walk.
type walk struct {
	view    *View
	point   Point
	changed []format.Change // those of the transaction that are still to come, by name
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
	if err := w.compare(); err != nil {
		return err
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
// names. It calls visit for those that can be read.
func (v *View) Count(p Point, visit func(*format.Snapshot)) (format.Names, error) {
	w := &walk{view: v, point: p, fn: func(m *format.Snapshot) error { visit(m); return nil }}
	err := w.run()
	return w.found, err
}

// run visits everything but the damage.
func (w *walk) run() error {
	w.found.Known = true
	entries, unnamed, err := w.view.list(w.point.index)
	if err != nil {
		return err
	}
	batch := make([]*version, 0, min(len(entries), walkBatch))
	for part := range slices.Chunk(entries, walkBatch) {
		batch = w.point.index.versions(batch[:0], part, w.point.At)
		for i, e := range part {
			if err := w.visit(e, batch[i]); err != nil {
				return err
			}
		}
	}
	for _, c := range w.changed {
		if err := w.pass(c.After); err != nil {
			return err
		}
	}
	return w.addUnnamed(unnamed)
}

// visit counts the snapshot of an entry, and passes on what the transaction has made of it, after
// the names before it that only the transaction has.
func (w *walk) visit(e *entry, known *version) (err error) {
	var m *format.Snapshot
	if known != nil {
		m = known.meta
	} else if m, err = w.view.Lookup(w.point, e.name); errors.Is(err, fault.ErrDamaged) {
		w.found = w.found.With(e.hash)
		w.damage = append(w.damage, Damage{Err: err, Entry: format.EncodeName(e.name)})
	} else if err != nil {
		return err
	}
	if m != nil {
		w.found = w.found.With(e.hash)
	}
	for len(w.changed) > 0 && w.changed[0].Name <= e.name {
		c := w.changed[0]
		w.changed = w.changed[1:]
		if c.Name == e.name {
			m = c.After
		} else if err := w.pass(c.After); err != nil {
			return err
		}
	}
	return w.pass(m)
}

// pass calls fn for a snapshot, if it is one.
func (w *walk) pass(m *format.Snapshot) error {
	if m == nil {
		return nil
	}
	return w.fn(m)
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

// compare notes what is wrong with the snapshots as a whole: others than the journal has
// counted, or another number of them. A damaged journal does not tell.
func (w *walk) compare() error {
	want, found := w.point.names, w.found
	if !want.Known || want == found || w.view.Damage() != nil {
		return nil
	}
	found, err := w.withoutStrays()
	if err != nil || want == found {
		return err
	}
	var problem string
	dir := filepath.Dir(w.view.path)
	advice := "put back what is missing, from a backup, damaged/ or lost+found, before anything deletes content; to accept what is there as the truth, run fsmeta repair --accept-tree " + dir
	switch {
	case found.Count+1 == want.Count:
		problem = fmt.Sprintf("1 of %d snapshots is missing", want.Count)
	case found.Count < want.Count:
		problem = fmt.Sprintf("%d of %d snapshots are missing", want.Count-found.Count, want.Count)
	case found.Count > want.Count:
		problem = fmt.Sprintf("there are %d snapshots, and the journal counts %d", found.Count, want.Count)
		advice = fmt.Sprintf("look which of them were put there by hand, or by lines that can't be read (fsmeta ls --json %s | jq -s 'sort_by(.txn)[-%d:][]' shows the latest %[2]d); "+
			"then run fsmeta repair %[1]s, which sets aside what is none of the store's, and with --accept-tree to accept what is there", dir, found.Count-want.Count)
	default:
		problem = fmt.Sprintf("the %d snapshots that are there are not those that the journal counts: at least one is missing, and another is in its place", want.Count)
	}
	lost := &fault.Damaged{Path: w.view.tree.EntryPath(""), Err: errors.New(problem + "; " + advice)}
	w.damage = append(w.damage, Damage{Err: lost, Lost: true})
	return nil
}

// withoutStrays returns the names that were found, without damaged entries that are no
// directories: the store has made none of these.
func (w *walk) withoutStrays() (format.Names, error) {
	found := w.found
	for _, d := range w.damage {
		_, dir, err := w.view.tree.ExistsEntry(d.Entry)
		if err != nil {
			return found, err
		}
		if hash, ok := format.HashOfEntry(d.Entry); ok && !dir {
			found = found.Without(hash)
		}
	}
	return found, nil
}
