package fsck

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// salvaged is what can be read of a damaged journal, and what the tree adds to that.
type salvaged struct {
	txn, next uint64                      // the highest that are known
	last      map[string]*format.Snapshot // the last version of each name that lines are about
	at        map[string]uint64           // the transactions of these
	names     format.Names                // after the last of the lines, or those of the header
}

// salvage reads the header and the lines that verify one by one.
func salvage(root *disk.Dir) (*salvaged, error) {
	v := &salvaged{next: 1, last: map[string]*format.Snapshot{}, at: map[string]uint64{}}
	h, lines, err := readDamaged(root)
	if err != nil {
		return nil, err
	}
	v.txn, v.next, v.names = h.Txn, max(h.NextID, 1), h.Names
	for i := range lines {
		t, err := lines[i].Decode()
		if err != nil {
			continue // its writer wrote nonsense
		}
		v.txn, v.next, v.names = max(v.txn, t.Number), max(v.next, t.NextID), t.Names
		for _, c := range t.Changes {
			v.last[c.Name], v.at[c.Name] = c.After, t.Number
			if c.After != nil {
				v.at[c.Name] = c.After.Txn // of a line that carries it over, an earlier one
				v.note(c.After)
			}
		}
	}
	return v, nil
}

// readDamaged returns the header, zero where it can't be read, and the lines in order.
func readDamaged(root *disk.Dir) (h format.Header, lines []format.Line, err error) {
	j, err := journal.Open(root.Path+"/"+format.JournalFile, false)
	if err == nil {
		lines, err = j.Stray()
		return j.Header(), lines, errors.Join(err, j.Close())
	}
	if fault.DamageOf(err) == nil {
		return h, nil, err
	}
	data, err := root.ReadFile(format.JournalFile, format.MaxLine)
	if err != nil {
		return h, nil, nil // it is missing, or no file that a store has there
	}
	for raw := range bytes.FieldsFuncSeq(data, func(c rune) bool { return c == 0 || c == '\n' }) {
		if l, ok := format.ParseLine(raw); ok {
			lines = append(lines, l)
		}
	}
	slices.SortStableFunc(lines, func(a, b format.Line) int { return cmp.Compare(a.Txn, b.Txn) })
	return h, lines, nil
}

// note takes what a snapshot tells of the highest transaction and identifier.
func (v *salvaged) note(m *format.Snapshot) {
	v.txn = max(v.txn, m.Txn)
	if id, err := format.ParseID(m.ID); err == nil {
		v.next = max(v.next, min(id, commit.MaxID-1)+1)
	}
}

// rebuild replaces a journal that is missing or damaged. What can be read of it is brought to
// the tree, as reads had it; the old one is set aside. A crash or an error leaves the old one,
// and the tree somewhere on its way, or the new one.
func (r *repair) rebuild(damage *fault.Damaged) error {
	v, err := salvage(r.root)
	if err != nil {
		return err
	}
	r.setAsideStaging(true)
	c, err := r.readTree()
	if err != nil {
		return err
	}
	for _, m := range c.good {
		v.note(m)
	}
	lagging, err := r.bringToTree(v, c)
	if err != nil {
		return err
	}
	h, done, err := r.newHeader(v)
	if err != nil {
		return err
	}
	there, isDir, err := exists(r.root, format.JournalFile)
	keep := r.shelf.copy
	if isDir {
		keep = r.shelf.move // no file can take its place
	}
	if err == nil && there {
		err = keep(r.root, format.JournalFile, format.JournalFile)
		done += "; the former one was set aside, in " + r.shelf.path()
	}
	if err == nil {
		err = layout.WriteJournal(r.root, r.owner, h, carry(h, v, lagging), journal.ClosedFill)
	}
	if err == nil {
		r.mended(damage.Path, "", problemOf(damage), done)
	}
	return err
}

// bringToTree makes the tree have what the last lines say that can be read, where that is later
// than what it has, durably. It returns the names with which that can't be done, in order. A crash
// or an error leaves each name brought up, set aside, or as it was.
func (r *repair) bringToTree(v *salvaged, c *content) (lagging []string, err error) {
	owners := map[string]bool{}
	for _, m := range c.good {
		owners[m.ID] = true
	}
	for _, name := range slices.Sorted(maps.Keys(v.last)) {
		if r.fail(r.tree.Path(name), r.bringUp(name, v, c.good[name], owners)) {
			lagging = append(lagging, name)
		}
	}
	// All of them: what the other lines were about is not known.
	names := slices.AppendSeq(slices.Collect(maps.Keys(v.last)), maps.Keys(c.good))
	unsynced, err := r.tree.Sync(names, true)
	for name, failed := range unsynced {
		if _, read := v.last[name]; !read {
			return nil, failed
		}
		lagging = append(lagging, name)
	}
	slices.Sort(lagging)
	return slices.Compact(lagging), err
}

// bringUp brings one name up. owners are the identifiers that the tree has.
func (r *repair) bringUp(name string, v *salvaged, is *format.Snapshot, owners map[string]bool) error {
	after := v.last[name]
	if is != nil && is.Txn >= v.at[name] {
		return nil // a later line, which can't be read, has brought it there
	}
	there, err := r.tree.Exists(name)
	if err != nil || !there && (after == nil || owners[after.ID]) { // it was committed under another name
		return err
	}
	entry := format.EncodeName(name)
	f := Finding{Path: r.tree.Path(name), Name: name, Problem: "the journal says that it was removed"}
	if after == nil {
		return r.setAside(r.snapshots, entry, format.SnapshotsDir+"/"+entry, f)
	}
	if there {
		if err := r.shelf.move(r.snapshots, entry, format.SnapshotsDir+"/"+entry); err != nil {
			return err
		}
	}
	work := tree.Wanted(map[string]*format.Snapshot{name: after}, true)
	err = r.tree.BringUp(work, nil)[name]
	r.tree.Recycle(work)
	if err == nil {
		r.mended(f.Path, name, "the tree did not have what the journal says", "it was built from the journal")
	}
	return err
}

// newHeader returns the header of the new journal, and what it says in words.
func (r *repair) newHeader(v *salvaged) (h format.Header, done string, err error) {
	// Transactions go on far enough from the limit.
	h = format.Header{Txn: min(v.txn, format.MaxNumber/2) + commit.UnknownIDs, NextID: min(v.next+commit.UnknownIDs, commit.MaxID), Names: v.names}
	done = fmt.Sprintf("it was made anew from the tree and the %d names that could be read in it; identifiers go on at %d", len(v.last), h.NextID)
	if !h.Names.Known {
		var entries []string
		entries, err = r.tree.List()
		h.Names = count(entries)
		done += fmt.Sprintf("; nothing tells which snapshots there were: the %d that are there were counted", h.Names.Count)
	}
	return h, done, err
}

// carry returns the transaction that names what could not be brought to the tree, nil for
// nothing.
func carry(h format.Header, v *salvaged, lagging []string) *format.Txn {
	if len(lagging) == 0 {
		return nil
	}
	t := &format.Txn{Number: h.Txn + 1, Time: time.Now().UTC(), NextID: h.NextID, Synced: h.Txn}
	for _, name := range lagging {
		t.Changes = append(t.Changes, format.Change{Name: name, Before: v.last[name], After: v.last[name]})
	}
	return t
}
