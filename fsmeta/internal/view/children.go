package view

import (
	"errors"
	"maps"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// children counts the snapshots that stand on each name at the tip.
type children struct {
	count   map[string]int  // by the parent's name
	linked  map[string]int  // damaged ones, by the entry that their parent link says
	unknown map[string]bool // damaged ones with a link that says nothing
	lost    error           // snapshots are missing: see View.compare
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

func (c *children) change(change *format.Change) {
	c.add(change.Before, -1)
	c.add(change.After, +1)
}

// of returns how many stand on name.
func (c *children) of(name string) int {
	n := c.count[name]
	if len(c.linked) > 0 {
		n += c.linked[format.EncodeName(name)]
	}
	return n
}

// reliable returns why the counts can't be relied on.
func (c *children) reliable(snapshots string) error {
	if len(c.unknown) > 0 {
		at := slices.Min(slices.Collect(maps.Keys(c.unknown)))
		return &fault.Damaged{Path: snapshots + "/" + at, Err: errors.New("it may stand on the snapshot that is to be removed: neither its file nor its link says its parent")}
	}
	return c.lost
}

// ChildrenOf returns how many snapshots stand on name at the tip. It is an ErrDamaged while
// that can't be known. The process has the lock on staging/.
func (v *View) ChildrenOf(p Point, name string) (int, error) {
	ix := p.index
	ix.mu.RLock()
	c := ix.children
	known := c != nil && c.reliable("") == nil
	n := 0
	if known {
		n = c.of(name)
	}
	ix.mu.RUnlock()
	if known {
		return n, nil
	}
	// Also again: a damaged snapshot may have been repaired.
	if err := v.countChildren(p); err != nil {
		return 0, err
	}
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.children.of(name), ix.children.reliable(v.tree.EntryPath(""))
}

// countChildren counts anew, at p, which is the tip. Only the holder of the turn may call it:
// no other writer adds lines meanwhile.
func (v *View) countChildren(p Point) error {
	c := &children{count: map[string]int{}, linked: map[string]int{}, unknown: map[string]bool{}}
	err := v.Walk(p, nil, func(m *format.Snapshot) error { c.add(m, +1); return nil }, func(d Damage) error {
		if d.Lost {
			c.lost = d.Err
			return nil
		}
		parent, err := v.linkedParent(d.Entry)
		switch {
		case err != nil:
			c.unknown[d.Entry] = true
		case parent != "":
			c.linked[parent]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	ix := p.index
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.children = c
	return nil
}

// linkedParent returns the entry on which the damaged snapshot in an entry stands, "" for
// none. An entry that is no directory is no snapshot.
func (v *View) linkedParent(at string) (string, error) {
	if dir, err := v.tree.IsDir(at); err != nil || !dir {
		return "", err
	}
	return v.tree.LinkedParent(at)
}
