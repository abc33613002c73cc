package fsck

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// mendTree mends the damaged snapshots that can be, and then sets those that can't be used
// aside. A crash leaves each of them mended, set aside, or as it was. Its error ends the
// repair.
func (r *repair) mendTree() error {
	for {
		c, err := r.read()
		if err != nil {
			return err
		}
		r.fail(r.path(format.JournalFile), r.raiseIDs(c))
		changed := r.mendNames(c)
		if !changed {
			changed = r.giveUp(c)
		}
		if err := r.writer.Failed(); err != nil {
			return err
		}
		if !changed {
			return r.mendLinks(c)
		}
	}
}

// read reads all snapshots: what lags from the journal, the rest from the tree.
func (r *repair) read() (*content, error) {
	entries, err := r.tree.List()
	if err != nil {
		return nil, err
	}
	c, done := newContent(), 0
	slices.Sort(entries)
	err = c.readTree(r.tree, entries, func(m *format.Snapshot) error {
		c.good[m.Name] = m
		if done++; r.progress != nil {
			r.progress(done, len(entries))
		}
		return r.ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	lagging, err := r.lagging()
	for name, m := range lagging {
		c.decided[name] = true
		delete(c.good, name)
		delete(c.damaged, format.EncodeName(name))
		if m != nil {
			c.good[name] = m
		}
	}
	return c, err
}

// lagging returns the names that lag, as the journal has them.
func (r *repair) lagging() (map[string]*format.Snapshot, error) {
	if r.writer == nil {
		return nil, nil
	}
	names := slices.Collect(maps.Keys(r.writer.Lagging()))
	return r.view.Versions(names, r.view.Tip())
}

// mendLinks makes the parent links say what the files say. A crash leaves some of them as
// they were.
func (r *repair) mendLinks(c *content) error {
	for _, m := range c.byName() {
		if c.decided[m.Name] {
			continue
		}
		problem, err := linkProblem(r.tree, m)
		if err != nil {
			return err
		}
		if problem == "" {
			continue
		}
		path := r.tree.Path(m.Name) + "/" + format.ParentLink
		if r.fail(path, r.fixLink(m)) {
			continue
		}
		r.mended(path, m.Name, problem, "it was made to say what the file says")
	}
	return nil
}

// fixLink makes the parent link of a snapshot anew. Something else in its place is set aside.
// A crash or an error leaves that, the link, or neither.
func (r *repair) fixLink(m *format.Snapshot) error {
	entry := format.EncodeName(m.Name)
	dir, err := r.snapshots.OpenDirAt(entry)
	if err != nil {
		return err
	}
	is, err := dir.Lstat(format.ParentLink)
	if err == nil && is.Type != fs.ModeSymlink {
		err = r.shelf.put("links", entry, func(_, to *disk.Dir) error {
			return disk.RenameNew(dir.At(), format.ParentLink, to.At(), entry)
		})
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	return r.tree.FixLink(m)
}

// raiseIDs makes sure that no identifier of what is there is handed out again. It is durable
// when it returns. A crash or an error leaves it done or not.
func (r *repair) raiseIDs(c *content) error {
	w := r.writer
	if r.unsure {
		w.RaiseID(min(w.NextID()+commit.UnknownIDs, commit.MaxID))
		r.unsure = false
	}
	before, highest := w.NextID(), uint64(0)
	for _, all := range []map[string]*format.Snapshot{c.good, c.misplaced(r.snapshots)} {
		for _, m := range all {
			if id, err := format.ParseID(m.ID); err == nil {
				highest = max(highest, id)
			}
		}
	}
	if highest >= before {
		// An older journal is in place, say: others may have been handed out above, and be gone.
		w.RaiseID(highest + 1 + commit.UnknownIDs)
	}
	if err := w.Fold(); err != nil {
		return err
	}
	if w.NextID() > before {
		r.mended(r.path(format.JournalFile), "", fmt.Sprintf("identifiers from %d on were to be handed out, and are in use", before), fmt.Sprintf("they go on at %d", w.NextID()))
	}
	return nil
}

// mendNames makes the entries anew where they belong of which the checksum says where that is.
// It reports whether it has done so with any.
//
// A crash leaves all of them as they were, with copies set aside, or a line in the journal by
// which the next writer does the rest: one may be where another belongs, of which there is
// no other copy.
func (r *repair) mendNames(c *content) bool {
	found := c.misplaced(r.snapshots)
	maps.DeleteFunc(found, func(entry string, _ *format.Snapshot) bool { return r.stuck[entry] })
	if len(found) == 0 {
		return false
	}
	if err := r.makeAnew(c, found); err != nil {
		for entry := range found {
			r.stuck[entry] = true
			r.fail(c.damaged[entry].Path, err)
		}
		return false
	}
	for _, entry := range slices.Sorted(maps.Keys(found)) {
		m, damage := found[entry], c.damaged[entry]
		done := fmt.Sprintf("it was made anew as %.256q, as the checksum says", m.Name)
		if !belongs(found, entry) {
			if r.fail(damage.Path, r.shelf.move(r.snapshots, format.SnapshotsDir, entry)) {
				r.stuck[entry] = true
				continue
			}
		}
		r.mended(damage.Path, damage.Name, damage.Err.Error(), done+"; what was there is in "+r.shelf.path())
	}
	return true
}

// belongs reports whether one of the snapshots belongs at an entry.
func belongs(found map[string]*format.Snapshot, entry string) bool {
	for _, m := range found {
		if format.EncodeName(m.Name) == entry {
			return true
		}
	}
	return false
}

// makeAnew makes snapshots where they belong, by a line of the journal, and empties that
// again. Copies of what is there are set aside before.
func (r *repair) makeAnew(c *content, found map[string]*format.Snapshot) error {
	var changes []format.Change
	var added, gone []string
	for entry, m := range found {
		after, at := *m, format.EncodeName(m.Name)
		changes = append(changes, format.Change{Name: m.Name, After: &after})
		there, _, err := exists(r.snapshots, at)
		if err == nil && there {
			err = r.shelf.copyDir(r.snapshots, format.SnapshotsDir, at)
		} else if err == nil {
			added = append(added, at)
		}
		if err != nil {
			return err
		}
		if !belongs(found, entry) {
			gone = append(gone, entry)
		}
	}
	slices.SortFunc(changes, func(a, b format.Change) int { return strings.Compare(a.Name, b.Name) })
	// The snapshots were there all the time, under other entries.
	names, _, err := r.restate(added, gone, nil)
	if err == nil {
		err = r.writer.CommitAs(changes, names)
	}
	if err == nil {
		err = r.writer.Fold()
	}
	return err
}

// loss is an entry of snapshots/ that is to be set aside.
type loss struct{ entry, name, path, problem string }

// losses returns what can't be used: what is damaged, what stands on something that is missing
// or given up, and what stands on itself.
func (r *repair) losses(c *content) []loss {
	var all []loss
	lost := map[string]bool{} // names
	for _, entry := range slices.Sorted(maps.Keys(c.damaged)) {
		if d := c.damaged[entry]; !r.stuck[entry] {
			all = append(all, loss{entry, d.Name, d.Path, d.Err.Error()})
		}
	}
	take := func(m *format.Snapshot, problem string) {
		if entry := format.EncodeName(m.Name); !lost[m.Name] && !r.stuck[entry] && !c.decided[m.Name] {
			lost[m.Name] = true
			all = append(all, loss{entry, m.Name, r.metadata(m.Name), problem})
		}
	}
	circles := c.circles()
	for _, m := range c.byName() {
		if problem, unusable := c.parentProblem(m, circles); unusable {
			take(m, problem)
		}
	}
	children := c.children()
	for i := 0; i < len(all); i++ {
		if all[i].name == "" {
			continue
		}
		for _, child := range children[all[i].name] {
			take(c.good[child], fmt.Sprintf("its parent %.256q is missing", all[i].name))
		}
	}
	return all
}

// giveUp sets aside what can't be used, and reports whether it has done so with anything. What
// the journal has counted is adjusted before: a crash in between is mended by the next repair.
func (r *repair) giveUp(c *content) (changed bool) {
	all := r.losses(c)
	if len(all) == 0 {
		return false
	}
	stop := func(l loss, err error) {
		r.stuck[l.entry] = true
		r.fail(l.path, err)
	}
	var gone, counted, back []string
	for _, l := range all {
		gone = append(gone, l.entry)
		_, isDir, err := exists(r.snapshots, l.entry)
		if m := vouched(r.snapshots, l.entry); err == nil && isDir && (m == nil || format.EncodeName(m.Name) == l.entry) {
			counted = append(counted, l.entry) // it is no copy of another, nor a person's file
		}
	}
	names, adjusted, err := r.restate(nil, gone, counted)
	if err == nil && len(adjusted) > 0 {
		err = r.writer.CommitAs(nil, names)
	}
	for _, l := range all {
		if err != nil {
			stop(l, err)
			continue
		}
		if err := r.shelf.move(r.snapshots, format.SnapshotsDir, l.entry); err != nil {
			stop(l, err)
			if there, _, _ := exists(r.snapshots, l.entry); there && slices.Contains(adjusted, l.entry) {
				back = append(back, l.entry)
			}
			continue
		}
		changed = true
		r.mended(l.path, l.name, l.problem, "it was set aside, in "+r.shelf.path())
		r.findings[len(r.findings)-1].Aside = r.shelf.path() + "/" + format.SnapshotsDir + "/" + l.entry
	}
	if len(back) > 0 {
		r.fail(r.path(format.JournalFile), r.writer.CommitAs(nil, adjust(names, format.Names.With, back...)))
	}
	return changed
}

// adjust takes the names of entries to names, or from them: op says which.
func adjust(names format.Names, op func(format.Names, uint64) format.Names, entries ...string) format.Names {
	for _, entry := range entries {
		if hash, ok := format.HashOfEntry(entry); ok {
			names = op(names, hash)
		}
	}
	return names
}

// restate returns which snapshots the journal should count when entries are added and gone,
// and from which entries of gone it differs from what it counts now. If snapshots are missing
// besides, it goes on saying so: counted are those of gone that it has counted then.
func (r *repair) restate(added, gone, counted []string) (format.Names, []string, error) {
	stated := r.stated()
	found, err := r.count()
	after := adjust(adjust(found, format.Names.With, added...), format.Names.Without, gone...)
	switch {
	case err != nil:
		return stated, nil, err
	case after == stated: // it has counted neither
		return stated, nil, nil
	case found == stated:
		return after, gone, nil
	default:
		return adjust(stated, format.Names.Without, counted...), counted, nil
	}
}

// stated returns which snapshots the journal has counted.
func (r *repair) stated() format.Names { return r.view.Journal().NamesAt(r.view.Tip()) }

// count counts the snapshots that are there, damaged ones too.
func (r *repair) count() (format.Names, error) {
	entries, err := r.tree.List()
	lagging, lerr := r.lagging()
	there := map[string]bool{}
	for _, entry := range entries {
		there[entry] = true
	}
	for name, m := range lagging {
		there[format.EncodeName(name)] = m != nil
	}
	maps.DeleteFunc(there, func(_ string, is bool) bool { return !is })
	return adjust(format.Names{Known: true}, format.Names.With, slices.Collect(maps.Keys(there))...), errors.Join(err, lerr)
}

// acceptTree records the snapshots that are there as the truth, if that was asked for. A crash
// or an error leaves it done or not.
func (r *repair) acceptTree() error {
	found, err := r.count()
	stated := r.stated()
	if err != nil || found == stated || !r.options.AcceptTree {
		return err
	}
	if err = r.writer.CommitAs(nil, found); err != nil {
		return err
	}
	r.mended(r.path(format.SnapshotsDir), "", fmt.Sprintf("the journal has counted %d snapshots, and %d are there, or others", stated.Count, found.Count),
		fmt.Sprintf("the %d that are there were recorded as the truth", found.Count))
	return r.writer.Fold()
}
