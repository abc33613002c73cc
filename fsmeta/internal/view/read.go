package view

import (
	"errors"
	"fmt"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Lookup returns the snapshot name as it was at p, nil if there was none: as the lines say
// if they name it, else as the tree has it. After the tree was read the journal is asked once
// more: a line may have come, and its change been seen. What looks damaged is read again: its
// directory may just have been replaced.
func (v *View) Lookup(p Point, name string) (*format.Snapshot, error) {
	ix := p.index
	for again := false; ; again = true {
		generation := ix.generation()
		if m, known := ix.find(name, p.At); known {
			return m, nil
		}
		m, damage := v.tree.Read(name)
		if err := v.Look(); err != nil {
			return nil, err
		}
		if ix.stale.Load() {
			return nil, fault.ErrOutdated
		}
		if now := ix.generation(); now != generation {
			generation = now
			if m, known := ix.find(name, p.At); known {
				return m, nil
			}
		}
		if damage == nil && m != nil && m.Parent != "" {
			damage = v.checkParent(p, m)
		}
		if damage == nil {
			if !v.forgetful {
				ix.learn(name, m, generation)
			} else if m != nil {
				ix.notePresent(name, generation)
			}
			return m, nil
		}
		if again {
			return nil, damage
		}
	}
}

// checkParent reports a parent that is missing.
func (v *View) checkParent(p Point, m *format.Snapshot) error {
	ix := p.index
	generation := ix.generation()
	parent, known := ix.find(m.Parent, p.At)
	there, err := parent != nil, error(nil)
	if !known {
		if there = ix.present(m.Parent); !there {
			there, _, err = v.tree.Exists(m.Parent)
		}
		if there && v.forgetful {
			ix.notePresent(m.Parent, generation)
		}
	}
	if err == nil && !there {
		return &fault.Damaged{Name: m.Name, Path: v.tree.Path(m.Name), Err: fmt.Errorf("its parent %.256q is missing", m.Parent)}
	}
	return err
}

// Used reports whether anything was committed to the store up to p. Where neither the lines
// nor the header say so, it looks whether the tree does.
func (v *View) Used(p Point) (bool, error) {
	ix := p.index
	if ix.firstUse() <= p.At {
		return true, nil
	}
	entries, err := v.tree.List()
	if err == nil {
		err = v.Look() // a new entry has come by a line
	}
	if err != nil {
		return false, err
	}
	first := ix.firstUse()
	return first <= p.At || v.Damage() != nil || len(entries) > 0 && first == never, nil
}

// FirstUse returns whether something was committed up to p, as the lines and the header say.
func (v *View) FirstUse(p Point) (used bool) { return p.index.firstUse() <= p.At }

// NoteUse notes that the store is used from transaction txn on, though nothing may have
// changed in it.
func (v *View) NoteUse(txn uint64) { v.index.Load().noteUse(txn) }

// list returns every name that is known or in the tree, in order, and the entries of
// snapshots/ that have none. The slices are shared: don't change them.
func (v *View) list(ix *index) (entries []*entry, unnamed []string, err error) {
	entries, unnamed, ok := ix.listing()
	if !ok {
		if err := v.readListing(ix); err != nil {
			return nil, nil, err
		}
		entries, unnamed, _ = ix.listing()
	}
	if len(unnamed) > 0 {
		if unnamed, err = v.revisit(ix, unnamed); err == nil {
			entries, _, _ = ix.listing() // some may have got their names
		}
	}
	return entries, unnamed, err
}

// readListing lists the tree, and takes in what has come to the journal meanwhile.
func (v *View) readListing(ix *index) error {
	if err := v.Look(); err != nil {
		return err
	}
	dirents, err := v.tree.List()
	if err != nil {
		return err
	}
	var names, nameless []string
	for _, at := range dirents {
		if name, ok := v.nameOf(at); ok {
			names = append(names, name)
		} else {
			nameless = append(nameless, at)
		}
	}
	if err := v.Look(); err != nil {
		return err
	}
	return ix.setListing(names, nameless)
}

// nameOf returns the name of the snapshot in an entry, if that can be told.
func (v *View) nameOf(at string) (string, bool) {
	name, hashed, ok := format.DecodeName(at)
	if ok && hashed {
		var err error
		name, err = v.tree.NameIn(at)
		ok = err == nil
	}
	return name, ok
}

// revisit looks again at entries without a name, some of which may have one by now or be
// gone, and returns the others.
func (v *View) revisit(ix *index, unnamed []string) ([]string, error) {
	var left []string
	for _, at := range unnamed {
		there, _, err := v.tree.ExistsEntry(at)
		if err != nil {
			return nil, err
		}
		name, ok := v.nameOf(at)
		switch {
		case ok:
			ix.setName(at, name)
		case !there:
			ix.setName(at, "")
		default:
			left = append(left, at)
		}
	}
	return left, nil
}

// unnamedDamage returns what is wrong with an entry of snapshots/ that has no name: an
// ErrDamaged, or why that can't be told now.
func (v *View) unnamedDamage(at string) error {
	if format.IsHashed(at) {
		if _, err := v.tree.NameIn(at); err != nil {
			return err
		}
	}
	return &fault.Damaged{Path: v.tree.EntryPath(at), Err: errors.New("the store gives no such name to what it puts here")}
}

// Damage is one part of the snapshots that an enumeration could not return.
type Damage struct {
	Err   error  // a *fault.Damaged
	Entry string // of snapshots/, "" where it is not about one
	Lost  bool   // snapshots are missing, or the journal is damaged so that some may be
}

// FindID returns the names of the snapshots at p that have an identifier, or had it; the
// caller looks at each. It returns what could not be read, too. The first call reads every
// snapshot.
func (v *View) FindID(p Point, id string) (names []string, damage []Damage, err error) {
	if names, ok := p.index.owners(id); ok {
		if len(names) == 0 { // perhaps because of damage
			if bad := v.Damage(); bad != nil {
				damage = []Damage{{Err: bad, Lost: true}}
			}
		}
		return names, damage, nil
	}
	err = v.Walk(p, nil, func(m *format.Snapshot) error {
		if m.ID == id {
			names = append(names, m.Name)
		}
		return nil
	}, func(d Damage) error { damage = append(damage, d); return nil })
	if err == nil && len(damage) == 0 {
		p.index.indexIDs()
	}
	return names, damage, err
}

// Versions returns what the lines say of names at transaction txn; names that no line is
// about are left out.
func (v *View) Versions(names []string, txn uint64) map[string]*format.Snapshot {
	ix := v.index.Load()
	versions := make(map[string]*format.Snapshot, len(names))
	for _, name := range names {
		if m, known := ix.find(name, txn); known {
			versions[name] = m
		}
	}
	return versions
}
