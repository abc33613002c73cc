package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
)

// unknownIDs is how many identifiers a repaired journal leaves out: nobody knows how many
// of those that were lost with it were handed out.
const unknownIDs = 1_000_000

// Repair mends what it safely can in the store in dir, which nobody must have open: else
// the error is [ErrInUse]. It returns what it found, those mended with what was done in
// Repaired, and then what [Check] still finds.
//
//   - A layout, journal or staging directory that is missing is made again.
//   - A journal that is damaged is replaced: by the tree, where needed completed from the
//     lines that can be read, just as reads of the damaged store had it.
//   - A directory under a wrong name, or with a wrong link to its parent, is mended if the
//     checksum of its metadata says what is right.
//   - Every other snapshot that is damaged or stands on one that is missing, and what
//     doesn't belong in snapshots/, is set aside, in damaged/TIME/ below dir.
//
// It deletes nothing but what a writer would delete; what it replaces is set aside, too.
// But the store does not know the identifiers of snapshots that were set aside any more,
// and a driver may delete their content: look at them before it runs again. Identifiers
// that two snapshots have are left as they are.
//
// A crash or an error at any point leaves a store that is no more damaged than before, and
// that Repair can be run on again. Progress is as with Check. Other errors are as with
// Check.
func Repair(ctx context.Context, dir string, progress func(done, total int)) ([]Finding, error) {
	r := &repair{ctx: ctx, progress: progress}
	err := r.begin(dir)
	if err == nil {
		err = errors.Join(r.run(), r.end())
	}
	var left []Finding
	if err == nil {
		left, err = Check(ctx, dir, progress)
	}
	if err != nil {
		return r.findings, fmt.Errorf("fsmeta: repair %s: %w", dir, err)
	}
	if r.aside != "" { // which was said
		left = slices.DeleteFunc(left, func(f Finding) bool { return f.Path == filepath.Join(r.store.dir, damagedDir) })
	}
	return append(r.findings, left...), nil
}

// repair is one run of Repair.
type repair struct {
	ctx      context.Context
	progress func(done, total int)
	store    *Store
	unlock   []func() error
	aside    string // where things are set aside, "" before the first is
	unsure   bool   // which identifiers were handed out
	findings []Finding
}

// mended notes what was done.
func (r *repair) mended(path, name, problem, done string) {
	r.findings = append(r.findings, Finding{Path: path, Name: name, Problem: problem, Repaired: done})
}

// begin makes sure that it is a store that nobody else has open, and that it has a layout
// and a staging directory. A crash leaves them there or not.
func (r *repair) begin(dir string) error {
	c, err := newChecker(r.ctx, dir)
	if err != nil {
		return err
	}
	dir = c.store.dir
	if err := c.close(); err != nil {
		return err
	}
	r.store = newStore(dir, false)
	s := r.store
	s.opened = func() error { return nil }
	if err := mkdir(s.tree.staging); err != nil {
		return err
	}
	for _, path := range []string{s.tree.snapshots, s.tree.staging, filepath.Join(dir, damagedDir)} {
		info, err := os.Lstat(path)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", path)
		}
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && filepath.Base(path) == damagedDir) {
			return fmt.Errorf("%w: %s", err, adviseRestore)
		}
	}
	if err := r.lock(s.staging.TryLock); err != nil {
		return err
	}
	err = r.lock(s.layout.TryLock)
	if len(c.findings) > 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		if err = r.writeLayout(c.findings[0].Problem); err == nil {
			err = r.lock(s.layout.TryLock) // which is another file now
		}
	}
	if err != nil {
		return errors.Join(err, r.end())
	}
	return nil
}

// writeLayout makes the layout again. A crash leaves the former one, in its place or set
// aside, or the new one.
func (r *repair) writeLayout(problem string) error {
	path := filepath.Join(r.store.dir, layoutFile)
	done := "it was written again"
	if err := r.setAside(path, layoutFile); err != nil {
		return err
	}
	if r.aside != "" {
		done += "; the former one is in " + r.aside
	}
	if err := atomicfs.WriteFile(path, r.store.tree.staging, []byte(layoutContent)); err != nil {
		return err
	}
	r.mended(path, "", problem, done)
	return atomicfs.SyncDir(r.store.dir)
}

func (r *repair) lock(try func() (func() error, bool, error)) error {
	unlock, free, err := try()
	if err == nil && !free {
		err = fmt.Errorf("%w: stop what has it open (fuser -v %s shows it)", ErrInUse, filepath.Join(r.store.dir, layoutFile))
	}
	if err == nil {
		r.unlock = append(r.unlock, unlock)
	}
	return err
}

// end gives back what begin took.
func (r *repair) end() error {
	s := r.store
	s.closed.Store(true)
	s.idle.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.closeFiles()
	for _, unlock := range slices.Backward(r.unlock) {
		err = errors.Join(err, unlock())
	}
	return err
}

func (r *repair) run() error {
	err := r.setAsideStaging(false)
	if err == nil {
		err = r.mendCopied()
	}
	if err == nil {
		err = r.openJournal()
	}
	if d := damageOf(err); d != nil && d.Path == filepath.Join(r.store.dir, journalFile) {
		if err = r.rebuildJournal(err); err == nil {
			err = r.openJournal()
		}
	}
	if err != nil {
		return err
	}
	for {
		changed, err := r.mendTree()
		if err != nil {
			return err
		}
		if !changed {
			break
		}
	}
	return r.raiseIDs()
}

// mendCopied sets the file of a backup aside that does not say what it should.
func (r *repair) mendCopied() error {
	_, err := readCopied(r.store.dir)
	damage := damageOf(err)
	if damage == nil {
		return err
	}
	if err := r.setAside(damage.Path, backupFile); err != nil {
		return err
	}
	r.unsure = true
	r.mended(damage.Path, "", damage.Err.Error(), fmt.Sprintf("it was set aside, in %s; identifiers go on %d higher", r.aside, unknownIDs))
	return nil
}

// openJournal goes on with the journal as the next writer would, which brings the tree up
// to it, and then empties it: from then on the tree decides. It is an ErrDamaged where
// that can't be done, and where the tree has versions that are later, which is to say that
// lines are lost or an older journal has taken its place.
func (r *repair) openJournal() error {
	s := r.store
	j, err := openJournal(filepath.Join(s.dir, journalFile), true)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.journal = j
	s.resetIndexLocked()
	s.checkpointAt = math.MaxInt64 // none in the background
	_, err = s.catchUpLocked(true, true)
	if err == nil && s.journal.bad == nil {
		err = s.checkTornLocked()
	}
	s.mu.Unlock()
	if err == nil {
		err = s.takeOver(func() error { return nil })
	}
	if err != nil {
		return errors.Join(err, r.closeJournal())
	}
	return s.fold()
}

func (r *repair) closeJournal() error {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.journal.file.Close()
	s.journal = nil
	return err
}

// salvaged is what can be read of a damaged journal.
type salvaged struct {
	txn, next uint64             // the highest there are
	last      map[string]*change // of each name; before is nil
	at        map[string]uint64  // the transactions of these
}

func salvage(path string) (*salvaged, error) {
	v := &salvaged{next: 1, last: map[string]*change{}, at: map[string]uint64{}}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return v, nil
	}
	var data []byte
	if err == nil {
		data, err = readFile(path)
	}
	if err != nil {
		return nil, err
	}
	raw, _ := cutLine(data)
	if h, err := parseHeader(raw); err == nil {
		v.txn, v.next = h.txn, min(h.nextID, maxID)
	}
	var all scanned
	all.scanRest(data, 0, 0)
	for i := range all.stray {
		record, err := all.stray[i].decode()
		if err != nil {
			continue
		}
		v.txn, v.next = max(v.txn, record.txn), max(v.next, min(record.nextID, maxID))
		for _, c := range record.changes {
			if record.txn >= v.at[c.name] {
				v.last[c.name], v.at[c.name] = &change{name: c.name, after: c.after}, record.txn
			}
		}
	}
	return v, nil
}

// rebuildJournal replaces a journal that is missing or damaged. What can be read of it is
// brought to the tree, as reads had it; the old one is set aside. A crash leaves the old
// one, and the tree somewhere on its way, or the new one.
func (r *repair) rebuildJournal(damage error) error {
	s := r.store
	path := filepath.Join(s.dir, journalFile)
	v, err := salvage(path)
	if err != nil {
		return err
	}
	if err := r.setAsideStaging(true); err != nil {
		return err
	}
	good, _, err := r.readTree()
	if err != nil {
		return err
	}
	owners := map[string]string{}
	for _, m := range good {
		owners[m.id] = m.name
		v.note(m)
	}
	for _, c := range v.last {
		if c.after != nil {
			v.note(c.after)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.last)) {
		if err := r.bringToTree(v, name, good[name], owners); err != nil {
			return err
		}
	}
	// All of them: who knows what the lines were about that can't be read.
	names := slices.AppendSeq(slices.Collect(maps.Keys(v.last)), maps.Keys(good))
	if err := s.tree.sync(names, true); err != nil {
		return err
	}
	next, txn := min(v.next+unknownIDs, maxID), v.txn+unknownIDs // of what is set aside, too
	done := fmt.Sprintf("it was made anew from the tree and the %d names that could be read in it; identifiers go on at %d", len(v.last), next)
	if _, err := os.Lstat(path); err == nil {
		if err := r.copyAside(path, journalFile); err != nil {
			return err
		}
		done += "; the former one was set aside, in " + r.aside
	}
	content := append(encodeHeader(header{txn: txn, nextID: next}), '\n')
	content = append(content, make([]byte, closedFill)...)
	if err := atomicfs.WriteFile(path, s.tree.staging, content); err != nil {
		return err
	}
	if err := atomicfs.SyncDir(s.dir); err != nil {
		return err
	}
	r.mended(path, "", damageOf(damage).Err.Error(), done)
	return nil
}

// note takes what a snapshot tells of the highest transaction and identifier.
func (v *salvaged) note(m *metadata) {
	v.txn = max(v.txn, m.txn)
	if id, err := parseID(m.id); err == nil {
		v.next = max(v.next, min(id+1, maxID))
	}
}

// bringToTree makes the tree have what the last readable line says of a name, if that is
// later than what it has.
func (r *repair) bringToTree(v *salvaged, name string, is *metadata, owners map[string]string) error {
	s, after := r.store, v.last[name].after
	if is != nil && is.txn >= v.at[name] {
		return nil
	}
	there, err := s.tree.exists(name)
	if err != nil {
		return err
	}
	if !there && after != nil && owners[after.id] != "" {
		return nil // it was committed under that name
	}
	if there {
		if err := r.setAside(s.tree.path(name), filepath.Join(snapshotsDir, encodeName(name))); err != nil {
			return err
		}
	}
	switch {
	case after != nil:
		r.mended(s.tree.path(name), name, "the tree did not have what the journal says", "it was built from the journal")
		return s.tree.bringUp(name, after, false)
	case there:
		r.mended(s.tree.path(name), name, "the journal says that it was removed", "it was set aside, in "+r.aside)
	}
	return nil
}

// readTree reads every entry of snapshots/: those that are good by their names, and why
// the others are damaged.
func (r *repair) readTree() (good map[string]*metadata, damaged map[string]error, err error) {
	s := r.store
	entries, err := s.tree.list()
	if err != nil {
		return nil, nil, err
	}
	good, damaged = map[string]*metadata{}, map[string]error{}
	for i, entry := range entries {
		m, err := s.readEntry(entry)
		switch {
		case errors.Is(err, ErrDamaged):
			damaged[entry] = err
		case err != nil:
			return nil, nil, err
		case m != nil:
			good[m.name] = m
		}
		if r.progress != nil {
			r.progress(i+1, len(entries))
		}
		if err := r.ctx.Err(); err != nil {
			return nil, nil, err
		}
	}
	return good, damaged, nil
}

// mendTree mends the damaged snapshots that can be, or, where none can, sets those that
// can't be used aside. It reports whether it has changed anything: others may stand on what
// is mended or gone now. A crash leaves each of them mended, set aside, or as it was.
func (r *repair) mendTree() (changed bool, err error) {
	good, damaged, err := r.readTree()
	if err != nil {
		return false, err
	}
	if changed, err = r.mendNames(good, damaged); err != nil || changed {
		return changed, err
	}
	for _, entry := range slices.Sorted(maps.Keys(damaged)) {
		d := damageOf(damaged[entry])
		if err := r.giveUp(entry, d.Path, d.Name, d.Err.Error()); err != nil {
			return false, err
		}
	}
	for _, m := range byName(good) {
		problem := ""
		if m.parent != "" && good[m.parent] == nil {
			problem = fmt.Sprintf("its parent %q is missing", m.parent)
		} else if inCircle(good, m) {
			problem = "its parents lead back to it"
		}
		if problem == "" {
			continue
		}
		changed = true
		if err := r.giveUp(encodeName(m.name), r.store.tree.path(m.name), m.name, problem); err != nil {
			return false, err
		}
	}
	return changed, nil
}

// giveUp sets an entry of snapshots/ aside.
func (r *repair) giveUp(entry, path, name, problem string) error {
	if err := r.setAside(r.store.tree.snapshots+"/"+entry, filepath.Join(snapshotsDir, entry)); err != nil {
		return err
	}
	r.mended(path, name, problem, "it was set aside, in "+r.aside)
	r.findings[len(r.findings)-1].Aside = filepath.Join(r.aside, snapshotsDir, entry)
	return nil
}

func damageOf(err error) *DamagedError {
	var d *DamagedError
	errors.As(err, &d)
	return d
}

// mendNames mends the damaged entries of which the checksum of their metadata says what
// their names and parents are: it makes them anew where they belong, unless something good
// is there. It reports whether there were any.
//
// A crash leaves all of them as they were, with copies set aside, or a line in the journal
// that makes the next who writes do the rest: one may be where another belongs, whose only
// copy is elsewhere.
func (r *repair) mendNames(good map[string]*metadata, damaged map[string]error) (bool, error) {
	found := r.misplaced(good, damaged)
	if len(found) == 0 {
		return false, nil
	}
	belong := map[string]bool{} // where they belong
	var changes []change
	for _, m := range byName(found) {
		belong[encodeName(m.name)] = true
		changes = append(changes, change{name: m.name, after: m})
	}
	for _, entry := range slices.Sorted(maps.Keys(belong)) {
		if err := r.copyDirAside(entry); err != nil {
			return false, err
		}
	}
	if err := r.commit(changes); err != nil {
		return false, err
	}
	for _, entry := range slices.Sorted(maps.Keys(found)) {
		if !belong[entry] {
			if err := r.setAside(r.store.tree.snapshots+"/"+entry, filepath.Join(snapshotsDir, entry)); err != nil {
				return false, err
			}
		}
		m, d := found[entry], damageOf(damaged[entry])
		r.mended(d.Path, d.Name, d.Err.Error(), fmt.Sprintf("name and parent were set to %q and %q, as the checksum says; what was there is in %s", m.name, m.parent, r.aside))
	}
	return true, nil
}

// misplaced returns those of the damaged entries, by where they are, of which the checksum
// says what they are, unless something good is where that belongs.
func (r *repair) misplaced(good map[string]*metadata, damaged map[string]error) map[string]*metadata {
	found := map[string]*metadata{}
	known, parents := maps.Clone(good), committedIn(good)
	for before := -1; len(found) > before; { // one may stand on another
		before = len(found)
		for _, entry := range slices.Sorted(maps.Keys(damaged)) {
			if found[entry] != nil {
				continue
			}
			m := r.store.tree.vouchedFor(entry, parents)
			if m == nil || known[m.name] != nil {
				continue
			}
			if m.kind == KindCommitted {
				parents = append(parents, m.name)
			}
			found[entry], known[m.name] = m, m
		}
	}
	return found
}

// committedIn returns the names that something can stand on, "" for nothing.
func committedIn(all map[string]*metadata) []string {
	names := []string{""}
	for name, m := range all {
		if m.kind == KindCommitted {
			names = append(names, name)
		}
	}
	return names
}

// commit writes changes as a transaction does, and empties the journal again: the tree goes
// on deciding.
func (r *repair) commit(changes []change) error {
	_, err := r.store.append(changes, 0, nil)
	if err == nil {
		err = r.store.fold()
	}
	return errors.Join(err, r.store.tree.dropSpares())
}

// raiseIDs makes sure that no identifier that a snapshot has is handed out again.
func (r *repair) raiseIDs() error {
	s := r.store
	good, _, err := r.readTree()
	if err != nil {
		return err
	}
	if r.unsure {
		s.nextID = min(s.nextID+unknownIDs, maxID)
		if err := s.fold(); err != nil {
			return err
		}
	}
	before := s.nextID
	for _, m := range good {
		if id, err := parseID(m.id); err == nil {
			s.nextID = max(s.nextID, min(id+1, maxID))
		}
	}
	if s.nextID == before {
		return nil
	}
	if err := s.fold(); err != nil {
		return err
	}
	r.mended(filepath.Join(s.dir, journalFile), "", fmt.Sprintf("identifiers from %d on were to be handed out, and are in use", before), fmt.Sprintf("they go on at %d", s.nextID))
	return nil
}

// setAside moves what is at from, if it is there, to where it can be looked at, as that
// part of the store. A crash leaves it here or there.
func (r *repair) setAside(from, part string) error {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	to, err := r.placeAside(part)
	if err == nil {
		err = atomicfs.RenameNew(from, to)
	}
	if err == nil {
		err = r.syncAside(to)
	}
	if err != nil {
		return err
	}
	return atomicfs.SyncDir(filepath.Dir(from))
}

// copyAside is setAside for a file that is about to be replaced, and stays until then.
func (r *repair) copyAside(from, part string) error {
	info, err := os.Lstat(from)
	if err != nil || !info.Mode().IsRegular() {
		return r.setAside(from, part)
	}
	to, err := r.placeAside(part)
	if err != nil {
		return err
	}
	if os.Link(from, to) != nil { // not every filesystem has links
		data, err := readFile(from)
		if err == nil {
			err = atomicfs.WriteFile(to, filepath.Dir(to), data)
		}
		if err != nil {
			return err
		}
	}
	return r.syncAside(to)
}

// copyDirAside copies an entry of snapshots/, if it is there, to where it can be looked at.
// A crash leaves a part of the copy.
func (r *repair) copyDirAside(entry string) error {
	from := r.store.tree.snapshots + "/" + entry
	info, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	to, perr := r.placeAside(filepath.Join(snapshotsDir, entry))
	if err = errors.Join(err, perr); err != nil {
		return err
	}
	if !info.IsDir() {
		return r.copyAside(from, filepath.Join(snapshotsDir, entry))
	}
	unfinished := filepath.Join(filepath.Dir(to), ".unfinished")
	err = copyDir(from, unfinished)
	if err == nil {
		err = atomicfs.RenameNew(unfinished, to)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return r.syncAside(to)
}

// copyDir copies a directory with what is in it, but for pipes and the like, durably. A crash
// or an error leaves a part.
func copyDir(from, to string) error {
	if err := os.MkdirAll(to, dirMode); err != nil {
		return err
	}
	names, err := readNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		source, target := filepath.Join(from, name), filepath.Join(to, name)
		info, err := os.Lstat(source)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			err = copyDir(source, target)
		case info.Mode().IsRegular():
			var data []byte
			if data, err = readFile(source); err == nil {
				err = atomicfs.WriteFile(target, to, data)
			}
		case info.Mode().Type() == fs.ModeSymlink:
			var link string
			if link, err = os.Readlink(source); err == nil {
				err = os.Symlink(link, target)
			}
		}
		if err != nil {
			return err
		}
	}
	return atomicfs.SyncDir(to)
}

// placeAside returns where a part is to be set aside, in a directory that it makes.
func (r *repair) placeAside(part string) (string, error) {
	if r.aside != "" {
		if _, err := os.Lstat(filepath.Join(r.aside, part)); err == nil {
			r.aside = "" // it was set aside before, and mended
		}
	}
	if r.aside == "" {
		r.aside = filepath.Join(r.store.dir, damagedDir, time.Now().UTC().Format("20060102T150405.000000000Z"))
	}
	to := filepath.Join(r.aside, part)
	return to, os.MkdirAll(filepath.Dir(to), dirMode)
}

// syncAside syncs the directories above what was set aside.
func (r *repair) syncAside(to string) error {
	for dir := filepath.Dir(to); strings.HasPrefix(dir, r.store.dir); dir = filepath.Dir(dir) {
		if err := atomicfs.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// setAsideStaging sets aside what doesn't belong in staging/, or all that is left there:
// with a damaged journal nobody knows whether it is garbage.
func (r *repair) setAsideStaging(all bool) error {
	names, err := readNames(r.store.tree.staging)
	for _, name := range names {
		if !all && isStaged(name) {
			continue
		}
		if serr := r.setAside(r.store.tree.staging+"/"+name, filepath.Join(stagingDir, name)); serr != nil {
			err = errors.Join(err, serr)
			continue
		}
		r.mended(r.store.tree.staging+"/"+name, "", "nobody knows whether it is needed", "it was set aside, in "+r.aside)
	}
	return err
}
