package view

import (
	"errors"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// children counts the snapshots that stand on each name at the tip.
type children struct {
	count  map[string]int      // by the parent's name
	linked map[string]int      // damaged ones, by the entry that their parent link says
	doubt  error               // why the counts can't be relied on
	shared map[string][]string // the names of the snapshots that had one identifier when they were counted
}

func (c *children) add(m *format.Snapshot, delta int) {
	if m == nil || m.Parent == "" {
		return
	}
	if n := c.count[m.Parent] + delta; n != 0 {
		c.count[m.Parent] = n
	} else {
		delete(c.count, m.Parent)
	}
}

var errNotCounted = errors.New("not counted")

// childrenOf returns how many stand on name, or an error where that is not known.
func (ix *index) childrenOf(name string) (int, error) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	c := ix.children
	if c == nil {
		return 0, errNotCounted
	}
	n := c.count[name]
	if len(c.linked) > 0 {
		n += c.linked[format.EncodeName(name)]
	}
	return n, c.doubt
}

// ChildrenOf returns how many snapshots stand on name at the tip. It is an ErrDamaged while
// that can't be known. The process has the lock on staging/.
func (v *View) ChildrenOf(p Point, name string) (int, error) {
	n, err := p.index.childrenOf(name)
	if err == nil {
		return n, nil
	}
	// Also again: a damaged snapshot may have been repaired.
	if err := v.countChildren(p); err != nil {
		return 0, err
	}
	return p.index.childrenOf(name)
}

// Sharing returns the names of the snapshots that have the identifier id at the tip, where there are
// several: a person has edited one. It costs a lookup, the first call on an index a walk. The process has
// the lock on staging/.
func (v *View) Sharing(p Point, id string) ([]string, error) {
	names, known := p.index.sharing(id)
	if known && names == nil {
		return nil, nil
	}
	// Also again: the names may be others by now.
	if err := v.countChildren(p); err != nil {
		return nil, err
	}
	names, _ = p.index.sharing(id)
	return names, nil
}

// sharing is Sharing as far as it was counted.
func (ix *index) sharing(id string) (names []string, known bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if ix.children == nil {
		return nil, false
	}
	return ix.children.shared[id], true
}

// countChildren counts anew, at p, which is the tip. Only the holder of the turn may call it:
// no other writer adds lines meanwhile.
func (v *View) countChildren(p Point) error {
	c := &children{count: map[string]int{}, linked: map[string]int{}, shared: map[string][]string{}}
	first := map[string]string{} // by identifier
	err := v.Walk(p, nil, func(m *format.Snapshot) error {
		c.add(m, +1)
		if name, again := first[m.ID]; !again {
			first[m.ID] = m.Name
		} else if c.shared[m.ID] = append(c.shared[m.ID], m.Name); len(c.shared[m.ID]) == 1 {
			c.shared[m.ID] = []string{name, m.Name}
		}
		return nil
	}, func(d Damage) error {
		doubt := d.Err
		if !d.Lost {
			parent, err := v.linkedParent(d.Entry)
			if err == nil {
				c.linked[parent]++
				return nil
			}
			doubt = &fault.Damaged{Path: v.tree.EntryPath(d.Entry), Err: errors.New("it may stand on the snapshot that is to be removed: neither its file nor its link says its parent")}
		}
		if c.doubt == nil {
			c.doubt = doubt
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.index.mu.Lock()
	defer p.index.mu.Unlock()
	p.index.children = c
	return nil
}

// linkedParent returns the entry on which the damaged snapshot in an entry stands, "" for
// none. An entry that is no directory is no snapshot.
func (v *View) linkedParent(at string) (string, error) {
	if _, dir, err := v.tree.ExistsEntry(at); err != nil || !dir {
		return "", err
	}
	return v.tree.LinkedParent(at)
}
