package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
)

// lookup returns the snapshot name as it was at g, nil if there was none: as the
// lines say if they name it, else as the tree has it. After the tree was read the
// journal is asked once more: a line may have come, and its rename been seen. What
// looks damaged is read again, for its directory may just have been replaced.
func (s *Store) lookup(ix *index, name string, g uint64) (*metadata, error) {
	for again := false; ; again = true {
		generation := ix.generation()
		if m, known, err := ix.find(name, g); known || err != nil {
			return m, err
		}
		m, damage := s.tree.read(name)
		if err := s.look(); err != nil {
			return nil, err
		}
		if ix.stale.Load() {
			return nil, ErrOutdated
		}
		if now := ix.generation(); now != generation {
			generation = now
			if m, known, err := ix.find(name, g); known || err != nil {
				return m, err
			}
		}
		if damage == nil && m != nil && m.parent != "" {
			damage = s.checkParent(ix, m, g)
		}
		if damage == nil {
			ix.learn(name, m, generation)
			return m, nil
		}
		if again {
			return nil, damage
		}
		if err := ix.ready(); err != nil { // a line may tell a parent's name
			return nil, err
		}
	}
}

// checkParent reports a parent symlink that dangles.
func (s *Store) checkParent(ix *index, m *metadata, g uint64) error {
	parent, known, err := ix.find(m.parent, g)
	there := parent != nil
	if err == nil && !known {
		there, err = s.tree.exists(m.parent)
	}
	if err == nil && !there {
		return &DamagedError{Name: m.name, Path: s.tree.path(m.name) + "/" + parentLink, Err: fmt.Errorf("its parent %q is missing", m.parent)}
	}
	return err
}

// usedBy reports whether anything was committed to the store up to g. Where neither the
// lines nor the header say so, it looks whether the tree does.
func (s *Store) usedBy(ix *index, g uint64) (bool, error) {
	first, err := ix.firstUse()
	if first <= g || err != nil {
		return true, err
	}
	entries, err := s.tree.list()
	if err == nil {
		err = s.look() // what has just come there has come by a line
	}
	if err != nil {
		return false, err
	}
	first, err = ix.firstUse()
	return first <= g || s.damaged() || len(entries) > 0 && first == never, err
}

// list returns every name that is known or in the tree, in order, and the entries
// of snapshots/ that have none. The slices are shared: don't change them.
func (s *Store) list(ix *index) (entries []*entry, unnamed []string, err error) {
	for {
		entries, unnamed, ok, err := ix.listing()
		if err != nil {
			return nil, nil, err
		}
		if ok && len(unnamed) > 0 {
			if unnamed, err = s.revisit(ix, unnamed); err == nil {
				entries, _, _, err = ix.listing() // some may have got their names
			}
		}
		if ok {
			return entries, unnamed, err
		}
		if err := s.look(); err != nil {
			return nil, nil, err
		}
		if err := ix.ready(); err != nil { // names that entries don't spell out are in lines, too
			return nil, nil, err
		}
		dirents, err := s.tree.list()
		if err != nil {
			return nil, nil, err
		}
		var names, nameless []string
		for _, entry := range dirents {
			if name, ok := s.tree.nameOf(entry); ok {
				names = append(names, name)
			} else {
				nameless = append(nameless, entry)
			}
		}
		if err := s.look(); err != nil {
			return nil, nil, err
		}
		if ix.stale.Load() {
			return nil, nil, ErrOutdated
		}
		if err := ix.setListing(names, nameless); err != nil {
			return nil, nil, err
		}
	}
}

// revisit looks again at entries without a name, some of which may have one by now
// or be gone, and returns the others.
func (s *Store) revisit(ix *index, unnamed []string) ([]string, error) {
	var left []string
	for _, entry := range unnamed {
		_, err := os.Lstat(s.tree.snapshots + "/" + entry)
		name, ok := s.tree.nameOf(entry)
		switch {
		case ok:
			ix.setName(entry, name)
		case errors.Is(err, fs.ErrNotExist):
			ix.setName(entry, "")
		case err != nil:
			return nil, err
		default:
			left = append(left, entry)
		}
	}
	return left, nil
}

// unnamedDamage says what is wrong with an entry of snapshots/ that has no name: an
// ErrDamaged, or why that can't be told now.
func (s *Store) unnamedDamage(entry string) error {
	path := s.tree.snapshots + "/" + entry
	if isHashed(entry) {
		if _, err := s.tree.readName(entry); err != nil {
			return err
		}
	}
	return &DamagedError{Path: path, Err: errors.New("the store gives no such name to what it puts here")}
}

// allUnnamed is unnamedDamage of all of them.
func (s *Store) allUnnamed(unnamed []string) (damage []error, err error) {
	for _, entry := range unnamed {
		err := s.unnamedDamage(entry)
		if !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		damage = append(damage, err)
	}
	return damage, nil
}

// readAll reads every snapshot that is not known yet, so that the index is whole. It
// returns what is damaged, and, as the second error, what else went wrong.
func (s *Store) readAll(ix *index, g uint64) (damage, err error) {
	if err := ix.ready(); err != nil {
		return nil, err
	}
	ix.mu.RLock()
	done := ix.allRead
	ix.mu.RUnlock()
	if done {
		return nil, nil
	}
	entries, unnamed, err := s.list(ix)
	if err != nil {
		return nil, err
	}
	damaged, err := s.allUnnamed(unnamed)
	if err != nil {
		return nil, err
	}
	for i, v := range ix.versions(make([]*version, 0, len(entries)), entries, g) {
		if v != nil {
			continue
		}
		_, err := s.lookup(ix, entries[i].name, g)
		if errors.Is(err, ErrDamaged) {
			damaged = append(damaged, err)
		} else if err != nil {
			return nil, err
		}
	}
	if len(damaged) == 0 {
		ix.mu.Lock()
		ix.allRead = true
		ix.mu.Unlock()
	}
	return errors.Join(damaged...), nil
}

// childrenOf returns how many snapshots stand on name at the tip. It is an
// ErrDamaged while some snapshot's parent can't be known. The process has the lock.
func (s *Store) childrenOf(ix *index, name string, g uint64) (int, error) {
	n, known, orphans := ix.childCount(name)
	if known && len(orphans) == 0 {
		return n, nil
	}
	// Or again: a damaged snapshot may have been repaired.
	if _, err := s.readAll(ix, g); err != nil {
		return 0, err
	}
	ix.countChildren(s.tree.guessParent)
	n, _, orphans = ix.childCount(name)
	if len(orphans) > 0 {
		return 0, &DamagedError{Name: orphans[0], Path: s.tree.snapshots, Err: errors.New("it may stand on what is to be removed: its parent can't be known")}
	}
	return n, nil
}

// walkBatch is how many versions a walk looks up at once.
const walkBatch = 256

// walk calls fn for every snapshot that t sees now, in order of the names, then
// reports the damaged ones one by one. What fn does in the transaction does not
// change what is visited.
func (t *transaction) walk(ctx context.Context, fn func(*metadata) error, damaged func(error) error) error {
	entries, unnamed, changed, at, err := t.freeze()
	if err != nil {
		return err
	}
	var damage []error
	visit := func(m *metadata, err error) error {
		if errors.Is(err, ErrDamaged) {
			damage = append(damage, err)
			return nil
		}
		if err == nil {
			err = errors.Join(t.usable(), ctx.Err())
		}
		if err != nil || m == nil {
			return err
		}
		return fn(m)
	}
	batch := make([]*version, 0, walkBatch)
	for len(entries) > 0 {
		n := min(len(entries), walkBatch)
		batch = t.index.versions(batch[:0], entries[:n], at)
		for i, e := range entries[:n] {
			for len(changed) > 0 && changed[0].name < e.name {
				if err := visit(changed[0].after, nil); err != nil {
					return err
				}
				changed = changed[1:]
			}
			var m *metadata
			var err error
			switch {
			case len(changed) > 0 && changed[0].name == e.name:
				m, changed = changed[0].after, changed[1:]
			case batch[i] != nil:
				m = batch[i].meta
			default:
				m, err = t.store.lookup(t.index, e.name, at)
			}
			if err := visit(m, err); err != nil {
				return err
			}
		}
		entries = entries[n:]
	}
	for _, c := range changed {
		if err := visit(c.after, nil); err != nil {
			return err
		}
	}
	nameless, err := t.store.allUnnamed(unnamed)
	if err != nil {
		return err
	}
	for _, err := range append(damage, nameless...) {
		if err := damaged(err); err != nil {
			return err
		}
	}
	return nil
}

// freeze returns what a walk is to visit: the entries of the index and the unnamed
// ones, see Store.list, what the transaction has changed, in order of the names, and
// the point in time it reads at.
func (t *transaction) freeze() (entries []*entry, unnamed []string, changed []change, at uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usableLocked(); err != nil {
		return nil, nil, nil, 0, err
	}
	for _, name := range slices.Sorted(maps.Keys(t.changes)) {
		changed = append(changed, *t.changes[name])
	}
	entries, unnamed, err = t.store.list(t.index)
	return entries, unnamed, changed, t.at(), err
}

func (t *transaction) usable() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.usableLocked()
}
