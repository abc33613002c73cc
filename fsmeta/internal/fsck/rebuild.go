package fsck

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
)

// salvaged is what can be read of a damaged journal, and what the tree adds to that.
type salvaged struct {
	txn, next uint64                      // the highest that are known
	last      map[string]*format.Snapshot // the last version of each name that lines are about
	at        map[string]uint64           // the transactions of these
	names     format.Names                // after the last of the lines, or those of the header
	lost      string                      // which lines can't be read
	behind    uint64                      // the last transaction before the first of these
}

// salvage reads the header and the lines that verify one by one.
func salvage(root *disk.Dir) (*salvaged, error) {
	v := &salvaged{next: 1, last: map[string]*format.Snapshot{}, at: map[string]uint64{}}
	h, txns, err := readable(root)
	if err != nil {
		return nil, err
	}
	v.txn, v.next, v.names = h.Txn, max(h.NextID, 1), h.Names
	read := h.Txn
	for _, t := range txns {
		if lost := lostBetween(read, t.Number); lost != "" {
			if v.lost == "" {
				v.behind = read
			}
			v.lost += lost + ", "
		}
		read = t.Number
		v.txn, v.next, v.names = max(v.txn, t.Number), max(v.next, t.NextID), t.Names
		for _, c := range t.Changes {
			v.last[c.Name], v.at[c.Name] = c.After, t.Number
			if c.After != nil {
				v.at[c.Name] = c.After.Txn // of a line that carries it over, an earlier one
				v.note(c.After)
			}
		}
	}
	if v.lost == "" {
		v.behind = read
	}
	v.lost += "any"
	if read > 0 {
		v.lost += fmt.Sprintf(" after %d", read)
	}
	return v, nil
}

// readable returns the header of the journal, and the transactions of the lines that verify one by
// one, without those of which the writer wrote nonsense.
func readable(root *disk.Dir) (h format.Header, txns []*format.Txn, err error) {
	h, lines, err := journal.Salvage(root.Path + "/" + format.JournalFile)
	for i := range lines {
		if t, derr := lines[i].Decode(); derr == nil {
			txns = append(txns, t)
		}
	}
	return h, txns, err
}

// lostBetween says between which transactions no line can be read, "" for none.
func lostBetween(before, after uint64) string {
	switch {
	case after <= before+1:
		return ""
	case before == 0:
		return fmt.Sprintf("any before %d", after)
	case after == before+2:
		return fmt.Sprint(before + 1)
	}
	return fmt.Sprintf("%d to %d", before+1, after-1)
}

// otherVersion returns the version of the format that the journal's header says, 0 where that is ours or
// can't be told.
func otherVersion(root *disk.Dir) int {
	head, err := journal.Head(root.Path + "/" + format.JournalFile)
	if err != nil {
		return 0 // which opening it says, too
	}
	header, _, _ := bytes.Cut(head, []byte("\n"))
	version, ok := format.HeaderVersion(header)
	if !ok || version == format.Version {
		return 0
	}
	return version
}

func adviseVersion() string {
	return fmt.Sprintf("use the program that wrote it, or a newer one: this one knows version %d, and must not write here", format.Version)
}

// headerSays reports whether the header of the journal, damaged as it is, says these names. That is no
// accident: it has 64 bits of them.
func headerSays(root *disk.Dir, names format.Names) (bool, error) {
	head, err := journal.Head(root.Path + "/" + format.JournalFile)
	header, _, _ := bytes.Cut(head, []byte("\n"))
	return bytes.Contains(header, fmt.Appendf(nil, `,"count":%d,"names":"%016x",`, names.Count, names.Sum)), err
}

// note takes what a snapshot tells of the highest transaction and identifier.
func (v *salvaged) note(m *format.Snapshot) {
	v.txn = max(v.txn, m.Txn)
	if id, err := format.ParseID(m.ID); err == nil {
		v.next = max(v.next, min(id, commit.MaxID-1)+1)
	}
}

// rebuild replaces a journal that is missing or damaged. The new one carries over what can be read
// of it and the tree does not have, for the take-over to bring up, as reads had it; the old one is
// set aside. A crash or an error leaves the old one, with some that it says set aside, or the new
// one.
func (r *repair) rebuild(damage *fault.Damaged) error {
	v, err := salvage(r.root)
	if err != nil {
		return err
	}
	c, err := r.readTree()
	if err == nil {
		err = r.tellNames(v, c)
	}
	if err != nil {
		return err
	}
	r.setAsideStaging(true)
	for _, m := range c.good {
		v.note(m)
	}
	carried := r.carried(v, c)
	unsynced, err := r.tree.Sync(slices.Collect(maps.Keys(c.good)), true)
	if err != nil {
		return err
	}
	for name := range unsynced {
		there, _, err := r.tree.Exists(name) // else it was set aside just now
		if _, known := carried[name]; !known && (there || err != nil) {
			carried[name] = c.good[name]
		}
	}
	h, done := newHeader(v)
	done += fmt.Sprintf(" (fsmeta ls --json %s | jq 'select(.txn > %d)' shows which snapshots are of them)", r.dir, v.behind)
	is, err := r.root.Lstat(format.JournalFile)
	if !errors.Is(err, fs.ErrNotExist) {
		keep := r.shelf.move
		if is.Type == 0 {
			keep = r.shelf.link
		}
		if err == nil {
			err = keep(r.root, format.JournalFile, format.JournalFile)
		}
		if err != nil {
			return err
		}
		done += "; the former one was set aside, in " + r.shelf.path()
	}
	if err := layout.WriteJournal(r.root, r.owner, h, format.CarryOver(h.Txn, h.NextID, carried, time.Now()), journal.ClosedFill); err != nil {
		return err
	}
	r.mended(damage.Path, "", problemOf(damage), done)
	return nil
}

// carried returns the last versions that can be read, where they are later than what the tree has.
// What that has of them is set aside. A crash leaves each in its place or set aside.
func (r *repair) carried(v *salvaged, c *content) map[string]*format.Snapshot {
	carried, owners := map[string]*format.Snapshot{}, map[string]string{}
	for _, m := range slices.Concat(c.byName(), slices.Collect(maps.Values(c.misplaced(r.snapshots)))) {
		if after, read := v.last[m.Name]; read && after == nil && v.at[m.Name] >= m.Txn {
			continue // it goes, say because it was committed under another name
		}
		owners[m.ID] = m.Name
	}
	for _, name := range slices.Sorted(maps.Keys(v.last)) {
		after, f := v.last[name], Finding{Path: r.tree.Path(name), Name: name, Problem: "the journal says that it was removed"}
		if is := c.good[name]; is != nil && is.Txn >= v.at[name] {
			continue // a later line, which can't be read, has brought it there
		}
		entry := format.EncodeName(name)
		there, _, err := r.snapshots.Exists(entry)
		switch to := format.SnapshotsDir + "/" + entry; {
		case err != nil:
		case !there && (after == nil || owners[after.ID] != "" && owners[after.ID] != name):
			continue // it was committed under another name
		case after == nil:
			if err = r.setAside(r.snapshots, entry, to, f); err == nil {
				continue
			}
		case there:
			err = r.shelf.move(r.snapshots, entry, replaced+"/"+entry)
		}
		carried[name] = after
		if !r.fail(f.Path, err) {
			r.mended(f.Path, name, "the tree did not have what the journal says", "it is built from the journal")
		}
	}
	return carried
}

// errUntold says that a journal can't be made anew without a person.
var errUntold = errors.New("nothing tells which snapshots there were")

// adviseUntold says what that person has to do.
func (r *repair) adviseUntold() string {
	return "look whether those that are there are all (in the driver's content, a backup, lost+found), and put back what is missing; then run fsmeta repair --accept-tree " + r.dir
}

// tellNames makes sure that it is known which snapshots there were: from a line or the header, though
// that is damaged elsewhere, or because the repair is to accept those that are there.
func (r *repair) tellNames(v *salvaged, c *content) error {
	if v.names.Known {
		return nil
	}
	found := count(c.entries)
	says, err := headerSays(r.root, found)
	if err != nil {
		return err
	}
	if !r.options.AcceptTree && !says {
		return fmt.Errorf("%w, and %d are there", errUntold, found.Count)
	}
	v.names = found
	return nil
}

// newHeader returns the header of the new journal, and what it says in words.
func newHeader(v *salvaged) (h format.Header, done string) {
	// Transactions go on far enough from the limit.
	h = format.Header{Txn: min(v.txn, format.MaxNumber/2) + commit.UnknownIDs, NextID: min(v.next+commit.UnknownIDs, commit.MaxID), Names: v.names}
	done = fmt.Sprintf("it was made anew from the tree and the %d names that could be read in it, of %d snapshots; identifiers go on at %d; the tree decides what these transactions changed, since it has no readable line of them: %s",
		len(v.last), h.Names.Count, h.NextID, v.lost)
	return h, done
}
