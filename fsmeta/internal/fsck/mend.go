package fsck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// mendTree mends the damaged snapshots that can be, and then sets those that can't be used
// aside. A crash leaves each of them mended, set aside, or as it was. Its error ends the
// repair.
func (r *repair) mendTree() error {
	if err := r.countAgain(); err != nil {
		return err
	}
	for {
		c, err := r.read()
		if err != nil {
			return err
		}
		r.fail(r.path(format.JournalFile), r.renumber(c))
		r.fail(r.path(format.JournalFile), r.raiseIDs(c))
		changed := r.mendNames(c) || r.giveUp(c)
		if err := r.writer.Failed(); err != nil {
			return err
		}
		if changed {
			continue
		}
		if err := r.mendLinks(c); err != nil {
			return err
		}
		r.fail(r.path(format.SnapshotsDir), r.acceptTree(c))
		return nil
	}
}

// read reads all snapshots: those that lag from the journal, the rest from the tree.
func (r *repair) read() (*content, error) {
	c, err := r.readTree()
	if err != nil {
		return nil, err
	}
	r.overlayLagging(c)
	return c, nil
}

// overlayLagging takes over how the journal has the names that lag.
func (r *repair) overlayLagging(c *content) {
	c.overlay(r.view.Versions(slices.Collect(maps.Keys(r.writer.Lagging())), r.view.Tip()))
}

// mendLinks makes the parent links say what the files say, but those that may be right where the
// files can't be. A crash leaves some of them as they were.
func (r *repair) mendLinks(c *content) error {
	odd, err := r.oddLinks(c.byName())
	evidence := r.evidence(c)
	for _, name := range slices.Sorted(maps.Keys(odd)) {
		if !c.behind[name] && !evidence[name] && !r.fail(r.link(name), r.fixLink(c.good[name])) {
			r.mended(r.link(name), name, odd[name], "it was made to say what the file says")
		}
	}
	return err
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
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	} else if err == nil && is.Type != fs.ModeSymlink {
		err = r.shelf.move(dir, format.ParentLink, "links/"+entry)
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	return r.tree.FixLink(m)
}

// renumber writes the snapshots again of which the tree has a later version than the journal could
// know, so that the journal is behind no part of the tree. If an older journal is in place, others
// may have been there, and identifiers handed out: these go on far above. A crash or an error leaves
// it done or not.
func (r *repair) renumber(c *content) error {
	tip := r.view.Tip()
	var changes []format.Change
	for _, m := range c.byName() {
		if m.Txn > tip && !c.behind[m.Name] {
			after := *m
			changes = append(changes, format.Change{Name: m.Name, Before: m, After: &after})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	next := r.writer.NextID() + commit.UnknownIDs
	r.writer.RaiseID(next)
	if err := r.writer.Commit(changes); err != nil {
		return err
	}
	for _, change := range changes {
		c.good[change.Name] = change.After
		r.mended(r.metadata(change.Name), change.Name, fmt.Sprintf("it was of transaction %d, and the journal ended at %d", change.Before.Txn, tip),
			fmt.Sprintf("it was written again, as of transaction %d; identifiers go on at %d", change.After.Txn, r.writer.NextID()))
	}
	return nil
}

// raiseIDs makes sure that no identifier of what is there is handed out again. It is durable
// when it returns. A crash or an error leaves it done or not.
func (r *repair) raiseIDs(c *content) error {
	w := r.writer
	before, highest := w.NextID(), uint64(0)
	note := func(m *format.Snapshot) {
		if id, err := format.ParseID(m.ID); err == nil {
			highest = max(highest, id)
		}
	}
	for _, m := range c.good {
		note(m)
	}
	for entry := range c.damaged {
		if m := vouched(r.snapshots, entry); m != nil {
			note(m)
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
// It reports whether there were any that it had not tried before.
//
// A crash leaves each of them in snapshots/, under whatever entry, for the next repair, or a line
// in the journal that has them all.
func (r *repair) mendNames(c *content) bool {
	found := c.misplaced(r.snapshots)
	maps.DeleteFunc(found, func(entry string, _ *format.Snapshot) bool { return r.stuck[entry] })
	if len(found) == 0 {
		return false
	}
	at, err := r.makeAnew(c, found)
	for _, entry := range slices.Sorted(maps.Keys(found)) {
		damage, failed := c.damaged[entry], err
		if failed == nil {
			failed = r.shelf.move(r.snapshots, at[entry], replaced+"/"+entry)
		}
		if r.fail(damage.Path, failed) {
			r.stuck[entry], r.stuck[at[entry]], r.unmade[found[entry].Name] = true, true, true
		} else {
			r.mended(damage.Path, damage.Name, fault.ProblemOf(damage),
				fmt.Sprintf("it was made anew as %.256q, as the checksum says; what was there is in %s", found[entry].Name, r.shelf.path()))
		}
	}
	return true
}

// makeAnew makes snapshots where they belong, by a line of the journal, and empties that again. It
// returns where each entry is now: one that was where another belongs gets a name that no
// snapshot has. Anything else in their places is set aside. Crash and error as with mendNames.
func (r *repair) makeAnew(c *content, found map[string]*format.Snapshot) (at map[string]string, err error) {
	at = map[string]string{}
	var changes []format.Change
	var gone, places []string
	for _, entry := range slices.Sorted(maps.Keys(found)) {
		m := found[entry]
		at[entry] = entry
		gone, places = append(gone, entry), append(places, format.EncodeName(m.Name))
		after := *m
		changes = append(changes, format.Change{Name: m.Name, After: &after})
	}
	slices.SortFunc(changes, func(a, b format.Change) int { return strings.Compare(a.Name, b.Name) })
	names, _ := r.restate(c, places, gone, nil)
	for _, place := range places {
		there, _, err := r.snapshots.Exists(place)
		switch {
		case err != nil || !there:
		case found[place] != nil:
			at[place], err = r.displace(place)
		default:
			err = r.shelf.move(r.snapshots, place, replaced+"/"+place)
		}
		if err != nil {
			return at, err
		}
	}
	if err := r.writer.CommitAs(changes, names); err != nil {
		return at, err
	}
	return at, r.writer.Fold()
}

// displace gives an entry of snapshots/ that belongs elsewhere a name there that no snapshot has. A
// crash leaves it under either, an error under its own.
func (r *repair) displace(entry string) (to string, err error) {
	to = fmt.Sprintf(".misplaced-%x", time.Now().UnixNano())
	if err := disk.RenameNew(r.snapshots.At(), entry, r.snapshots.At(), to); err != nil {
		return entry, err
	}
	return to, nil
}

// countLeft counts those of u again that are still there, if they were not counted.
func (r *repair) countLeft(u uncounted) error {
	c, err := r.newContent()
	if err != nil {
		return err
	}
	r.overlayLagging(c)
	left := slices.DeleteFunc(u.Entries, func(entry string) bool { return !slices.Contains(c.entries, entry) })
	again := adjust(r.stated(), format.Names.With, left)
	if len(left) == 0 || again.Minus(count(c.entries)) != u.Missing {
		return nil
	}
	return r.writer.CommitAs(nil, again)
}

// loss is an entry of snapshots/ that is to be set aside, and the finding that says why.
type loss struct {
	entry string
	Finding
}

// own reports whether an entry of snapshots/ may be a snapshot's own: it is a directory, and no copy
// of another snapshot.
func (r *repair) own(entry string) (bool, error) {
	_, isDir, err := r.snapshots.Exists(entry)
	m := vouched(r.snapshots, entry)
	return isDir && (m == nil || format.EncodeName(m.Name) == entry), err
}

// losses returns what can't be used: what is damaged, what stands on something that is given up, or
// on itself; and, if what is there is to be accepted, what stands on something that is missing: that
// may be put back, and then all of it is whole again.
func (r *repair) losses(c *content) (all []loss) {
	seen := maps.Clone(r.stuck)
	add := func(entry string, f Finding) {
		if !seen[entry] && !c.behind[f.Name] {
			seen[entry] = true
			all = append(all, loss{entry, f})
		}
	}
	for _, entry := range slices.Sorted(maps.Keys(c.damaged)) {
		d := c.damaged[entry]
		if r.snapshots.IsMount(entry) || unreadable(d) { // it may be whole, and others stand on it
			r.stuck[entry] = true
			continue
		}
		add(entry, Finding{Path: d.Path, Name: d.Name, Problem: fault.ProblemOf(d)})
	}
	take := func(m *format.Snapshot, problem string) {
		add(format.EncodeName(m.Name), Finding{Path: r.metadata(m.Name), Name: m.Name, Problem: problem})
	}
	_, circles := c.standing()
	children := map[string][]*format.Snapshot{} // by the parent's entry: the name in that may not be known
	for _, m := range c.byName() {
		if m.Parent != "" {
			entry := format.EncodeName(m.Parent)
			children[entry] = append(children[entry], m)
		}
		// A parent that could not be made anew is there all the same, for the next repair.
		if problem, unusable := c.parentProblem(m, circles); unusable && !r.unmade[m.Parent] && (r.options.AcceptTree || circles[m.Name]) {
			take(m, problem)
		}
	}
	for i := 0; i < len(all); i++ {
		for _, child := range children[all[i].entry] {
			take(child, fmt.Sprintf("its parent %.256q is missing", child.Parent))
		}
	}
	return all
}

// giveUp sets aside what can't be used, and reports whether there was any that it had not tried
// before. What the journal has counted is adjusted before, which is written down: after a crash
// in between the next repair counts those again that are still there.
func (r *repair) giveUp(c *content) bool {
	all := r.losses(c)
	if len(all) == 0 {
		return false
	}
	var gone, made []string
	stray := map[string]bool{}
	for _, l := range all {
		gone = append(gone, l.entry)
		switch own, err := r.own(l.entry); {
		case err != nil:
		case own:
			made = append(made, l.entry)
		default:
			stray[l.entry] = true
		}
	}
	names, uncounted := r.restate(c, nil, gone, made)
	note, err := "", error(nil)
	if len(uncounted) > 0 {
		if note, err = r.noteUncounted(c, uncounted); err == nil {
			err = r.writer.CommitAs(nil, names)
		}
	}
	before := len(r.findings)
	for _, l := range slices.Backward(all) { // so that a kill leaves nothing without its parent
		failed, to := err, format.SnapshotsDir+"/"+l.entry
		if _, named := format.HashOfEntry(l.entry); stray[l.entry] && !(named && slices.Contains(uncounted, l.entry)) {
			to = foreign + "/" + l.entry // the journal has not counted it
		}
		if failed == nil {
			failed = r.setAside(r.snapshots, l.entry, to, l.Finding)
		}
		if failed == nil {
			r.findings[len(r.findings)-1].Aside = r.shelf.path() + "/" + to
		} else if cause, _ := r.cause(l.entry); cause != "" {
			failed = fmt.Errorf("%w: %s", failed, cause)
		}
		r.stuck[l.entry] = r.fail(l.Path, failed)
	}
	slices.Reverse(r.findings[before:])
	uncounted = slices.DeleteFunc(uncounted, func(entry string) bool { there, _, err := r.snapshots.Exists(entry); return !there && err == nil })
	if err == nil && len(uncounted) > 0 { // those stay
		err = r.writer.CommitAs(nil, adjust(names, format.Names.With, uncounted))
		r.fail(r.path(format.JournalFile), err)
	}
	if err == nil && note != "" {
		r.fail(r.path(note), r.root.At().Unlink(note))
	}
	return true
}

// uncountedFile is on a shelf while a repair sets aside what the journal counts no more.
const uncountedFile = "uncounted"

// uncounted is what it says.
type uncounted struct {
	Missing format.Names // what the journal has counted before, and is not there; no transaction changes that
	Entries []string     // of snapshots/, which the journal counts no more
}

// noteUncounted writes down what the journal will not count, and returns where. A crash leaves
// that, or nothing that can be read; so does an error.
func (r *repair) noteUncounted(c *content, entries []string) (path string, err error) {
	data, err := json.Marshal(uncounted{r.stated().Minus(count(c.entries)), entries})
	if err == nil {
		err = r.shelf.write(uncountedFile, data)
	}
	return format.DamagedDir + "/" + r.shelf.time + "/" + uncountedFile, err
}

// countAgain makes the journal count again what a repair that was killed has left in its place. A
// crash or an error leaves it done or not.
func (r *repair) countAgain() error {
	return eachIn(r.root, format.DamagedDir, func(damaged *disk.Dir, time string) error {
		return eachIn(damaged, time, func(dir *disk.Dir, name string) error {
			if name != uncountedFile {
				return nil
			}
			data, err := dir.ReadFile(name, format.MaxFile)
			if err != nil {
				return err
			}
			var u uncounted
			if json.Unmarshal(data, &u) == nil { // else it was never finished
				err = r.countLeft(u)
			}
			if err == nil {
				err = dir.At().Unlink(name)
			}
			return err
		})
	})
}

// adjust takes the names of entries to names, or from them: op says which.
func adjust(names format.Names, op func(format.Names, uint64) format.Names, entries []string) format.Names {
	for _, entry := range entries {
		if hash, ok := format.HashOfEntry(entry); ok {
			names = op(names, hash)
		}
	}
	return names
}

// count counts the snapshots in entries of snapshots/, damaged ones too.
func count(entries []string) format.Names {
	return adjust(format.Names{Known: true}, format.Names.With, entries)
}

// stated returns which snapshots the journal has counted.
func (r *repair) stated() format.Names { return r.view.Journal().NamesAt(r.view.Tip()) }

// restate returns which snapshots the journal should count when entries are gone, and then added,
// and the entries of gone that it counts now. If snapshots are missing besides, it goes on saying
// so: made are those of gone that it has counted then.
func (r *repair) restate(c *content, added, gone, made []string) (names format.Names, counted []string) {
	left := map[string]bool{}
	for _, entry := range c.entries {
		left[entry] = true
	}
	for _, entry := range gone {
		delete(left, entry)
	}
	for _, entry := range added {
		left[entry] = true
	}
	stated, after := r.stated(), count(slices.Collect(maps.Keys(left)))
	switch stated {
	case after: // it has counted neither
		return stated, nil
	case count(c.entries):
		return after, gone
	default:
		return adjust(stated, format.Names.Without, made), made
	}
}

// acceptTree records the snapshots that are there as the truth, if that was asked for. A crash
// or an error leaves it done or not.
func (r *repair) acceptTree(c *content) error {
	stated, found := r.stated(), count(c.entries)
	if found == stated || !r.options.AcceptTree {
		return nil
	}
	if err := r.writer.CommitAs(nil, found); err != nil {
		return err
	}
	r.mended(r.path(format.SnapshotsDir), "", fmt.Sprintf("the journal has counted %d snapshots, and %d are there, or others", stated.Count, found.Count),
		fmt.Sprintf("the %d that are there were recorded as the truth", found.Count))
	return r.writer.Fold()
}
