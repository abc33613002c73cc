package fsck

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// content is the snapshots of a store.
type content struct {
	good    map[string]*format.Snapshot // by name; their parents may be wrong
	damaged map[string]*fault.Damaged   // the others, by entry of snapshots/
	decided map[string]bool             // names that lag: the journal decides, and the tree has something else
}

func newContent() *content {
	return &content{good: map[string]*format.Snapshot{}, damaged: map[string]*fault.Damaged{}, decided: map[string]bool{}}
}

// readTree reads the entries of snapshots/ as they are. It calls visit for each that is good,
// and notes the others.
func (c *content) readTree(t *tree.Tree, entries []string, visit func(*format.Snapshot) error) error {
	for _, entry := range entries {
		m, err := readEntry(t, entry)
		switch damage := fault.DamageOf(err); {
		case damage != nil:
			c.damaged[entry] = damage
		case err != nil:
			return err
		case m != nil:
			if err := visit(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// readEntry reads what an entry of snapshots/ holds, nil where it is gone.
func readEntry(t *tree.Tree, entry string) (*format.Snapshot, error) {
	name, hashed, ok := format.DecodeName(entry)
	if !ok {
		return nil, &fault.Damaged{Path: t.EntryPath(entry), Err: errors.New("the store gives no such name to what it puts here")}
	}
	if hashed {
		var err error
		if name, err = t.NameIn(entry); err != nil {
			return nil, err
		}
	}
	return t.Read(name)
}

// byName returns the good ones in order of their names.
func (c *content) byName() []*format.Snapshot {
	return slices.SortedFunc(maps.Values(c.good), func(a, b *format.Snapshot) int { return strings.Compare(a.Name, b.Name) })
}

// children returns the names of the good ones that stand on each name, in order.
func (c *content) children() map[string][]string {
	children := map[string][]string{}
	for _, m := range c.byName() {
		if m.Parent != "" {
			children[m.Parent] = append(children[m.Parent], m.Name)
		}
	}
	return children
}

// circles returns the names of the good ones with parents that lead back to them.
func (c *content) circles() map[string]bool {
	circles, seen := map[string]bool{}, map[string]int{} // seen: by which start
	start := 0
	for name := range c.good {
		start++
		at := name
		for c.good[at] != nil && seen[at] == 0 {
			seen[at] = start
			at = c.good[at].Parent
		}
		if c.good[at] == nil || seen[at] != start {
			continue // the parents end, or lead to where another start was
		}
		for ; !circles[at]; at = c.good[at].Parent {
			circles[at] = true
		}
	}
	return circles
}

// parentProblem says what is wrong with the parent of m, "" for nothing. Unusable: m can't
// be used for that.
func (c *content) parentProblem(m *format.Snapshot, circles map[string]bool) (problem string, unusable bool) {
	parent := c.good[m.Parent]
	switch {
	case m.Parent == "":
	case parent == nil && c.damaged[format.EncodeName(m.Parent)] == nil:
		return fmt.Sprintf("its parent %.256q is missing", m.Parent), true
	case circles[m.Name]:
		return "its parents lead back to it", true
	case parent != nil && parent.Kind != format.Committed:
		return fmt.Sprintf("its parent %.256q is not committed", m.Parent), false
	}
	return "", false
}

// linkProblem says what is wrong with the parent link of m, "" for nothing.
func linkProblem(t *tree.Tree, m *format.Snapshot) (string, error) {
	says, err := t.LinkedParent(format.EncodeName(m.Name))
	damage, want := fault.DamageOf(err), ""
	if m.Parent != "" {
		want = format.EncodeName(m.Parent)
	}
	switch {
	case damage != nil:
		return damage.Err.Error(), nil
	case err != nil || says == want:
		return "", err
	case says == "":
		return "the link is missing", nil
	case want == "":
		return fmt.Sprintf("there is a link, to %s, and its file says that it has no parent", says), nil
	default:
		return fmt.Sprintf("the link leads to %s, and its file says that its parent is %.256q", says, m.Parent), nil
	}
}

// vouched returns the snapshot in an entry of which the checksum is right, though it may say
// another name; nil where there is no such checksum.
func vouched(snapshots *disk.Dir, entry string) *format.Snapshot {
	data, err := snapshots.ReadFile(entry+"/"+format.MetadataFile, format.MaxFile)
	if err != nil || !bytes.HasPrefix(data, []byte("{\n  \"crc32c\": \"")) {
		return nil
	}
	m, err := format.DecodeFile(data)
	if err != nil {
		return nil
	}
	return m
}

// misplaced returns those of the damaged entries with a file of which the checksum is right,
// by entry: it says the name, and so where they belong. Left out are those that belong where
// something good is, and where two belong in one place, the older one.
func (c *content) misplaced(snapshots *disk.Dir) map[string]*format.Snapshot {
	found, at := map[string]*format.Snapshot{}, map[string]string{}
	for _, entry := range slices.Sorted(maps.Keys(c.damaged)) {
		m := vouched(snapshots, entry)
		if m == nil || c.good[m.Name] != nil || c.decided[m.Name] {
			continue
		}
		if other, two := at[m.Name]; two {
			if found[other].Txn >= m.Txn {
				continue
			}
			delete(found, other)
		}
		found[entry], at[m.Name] = m, entry
	}
	return found
}

// checkSnapshots reports what is damaged, missing, or stands on something that it can't
// stand on.
func (c *checker) checkSnapshots() {
	if c.lost != nil {
		c.found(Finding{Path: c.path(format.SnapshotsDir), Problem: problemOf(c.lost),
			Meaning: "enumerations end with an error, and a driver that deletes the content of what is missing can't get it back", Advice: adviseMissing})
	}
	children, circles := c.content.children(), c.content.circles()
	unusable := func(name string) string {
		if n := countAbove(children, name); n > 0 {
			return fmt.Sprintf("this snapshot can't be used, nor can the %d that stand on it", n)
		}
		return "this snapshot can't be used"
	}
	misplaced := c.content.misplaced(c.snapshots)
	for entry, damage := range c.content.damaged {
		f := Finding{Path: damage.Path, Name: damage.Name, Problem: damage.Err.Error(),
			Meaning: unusable(damage.Name) + "; the parent that its link says can't be removed", Advice: adviseSnapshot}
		switch m := misplaced[entry]; {
		case m != nil:
			f.Advice = fmt.Sprintf("stop what uses the store and run a repair: the checksum says that it is %.256q", m.Name)
		case damage.Name == "" && !format.IsHashed(entry):
			f.Meaning, f.Advice = "the store has no snapshot in it", "move it to where it belongs, or run a repair, which sets it aside"
		}
		c.found(f)
	}
	for _, m := range c.content.good {
		problem, bad := c.content.parentProblem(m, circles)
		f := Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: problem, Meaning: "what it stands on may change, or be removed", Advice: adviseRestore}
		switch {
		case problem == "":
			continue
		case circles[m.Name]:
			f.Meaning, f.Advice = "it can't be mounted or removed", adviseRepair
		case bad:
			f.Meaning, f.Advice = unusable(m.Name), adviseParent
		}
		c.found(f)
	}
}

// countAbove returns how many snapshots stand on name, or on one that does.
func countAbove(children map[string][]string, name string) int {
	seen := map[string]bool{name: true} // their parents may lead in a circle
	for next := []string{name}; len(next) > 0; next = next[1:] {
		for _, child := range children[next[0]] {
			if !seen[child] {
				seen[child] = true
				next = append(next, child)
			}
		}
	}
	return len(seen) - 1
}

// checkIdentifiers looks for identifiers that are not unique, or would not stay so.
func (c *checker) checkIdentifiers() {
	var next uint64 // the lowest that may be handed out
	if c.view != nil && !c.journalBad {
		next = c.view.Journal().NextID()
	}
	owners := map[string]string{}
	for _, m := range c.content.byName() {
		if other, two := owners[m.ID]; two {
			c.found(Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: fmt.Sprintf("snapshot %.256q has the same identifier, %s", other, m.ID),
				Meaning: "both have the same content, and removing one deletes it", Advice: "find out which of them the content is of, and remove or renumber the other, see docs/repair.md"})
		}
		owners[m.ID] = m.Name
		if id, err := format.ParseID(m.ID); err == nil && id >= next && next > 0 && !commit.UsedUp(next) {
			c.found(Finding{Path: c.metadata(m.Name), Name: m.Name, Problem: fmt.Sprintf("its identifier %s is not below %d, the next to be handed out", m.ID, next),
				Meaning: "it may be given to another snapshot, too", Advice: adviseRepair})
		}
	}
}
