package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Finding is something in a store that is not as the store left it, or not as it should
// stay.
type Finding struct {
	Path    string // the file or directory to look at
	Name    string // of the snapshot, "" where it can't be known or it isn't one
	Problem string // what is the case
	Meaning string // what that means for who uses the store
	Advice  string // what to do

	// Harmless: nothing is lost, and the store goes on by itself.
	Harmless bool
	// Repaired is what Repair has done about it, "" where it has done nothing. Meaning and
	// Advice are empty then.
	Repaired string
	// Aside is where Repair has put a snapshot that the store does not have any more.
	Aside string
}

// String returns all of it in one line.
func (f Finding) String() string {
	s := f.Path + ": "
	if f.Name != "" {
		s += fmt.Sprintf("snapshot %.256q: ", f.Name)
	}
	if s += f.Problem; f.Repaired != "" {
		return s + "; repaired: " + f.Repaired
	}
	return s + "; " + f.Meaning + "; " + f.Advice
}

// What Check advises.
const (
	adviseNothing  = "nothing has to be done"
	adviseRepair   = "stop what uses the store and run a repair, or see 'Repairing by hand' in layout.md"
	adviseRestore  = "restore it from a backup, see 'Repairing by hand' in layout.md"
	adviseSnapshot = "stop what uses the store, then correct the file and delete its line with crc32c, or put the directory back from a backup, or else run a repair, which sets it aside"
	adviseParent   = "stop what uses the store, then put the parent back from a backup or from damaged/, or else run a repair, which sets this one aside"
)

// Check looks for everything that can be wrong with the store in dir: files that are
// missing, damaged or foreign, a journal that is damaged or does not agree with the tree,
// parents that are missing, active or lead in a circle, identifiers that two snapshots have
// or that could be handed out again, names that don't belong in their directories, and
// what a crash has left. It returns what it found, in order of the paths; what is Harmless
// is among it.
//
// It changes nothing, and can be used while others have the store open, on a read-only
// mount too; writers may wait for it for some milliseconds. Where one transaction holds the
// lock for longer than two seconds, the caller's own for one, that journal and tree agree is
// not checked, which is a finding then. It reads every snapshot, at some 30 microseconds
// each from memory. Progress, unless it is nil, is told how many of how many were read.
//
// An error means that it could not be checked: [ErrNotStore] where there is nothing of a
// store, the context's, and what the filesystem says.
func Check(ctx context.Context, dir string, progress func(done, total int)) ([]Finding, error) {
	c, err := newChecker(ctx, dir)
	if err == nil {
		err = errors.Join(c.check(progress), c.close())
	}
	if err != nil {
		return nil, fmt.Errorf("fsmeta: check %s: %w", dir, err)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return c.findings, nil
}

// checker is one run of Check.
type checker struct {
	ctx      context.Context
	store    *Store // read-only; without a journal, where that can't be opened
	findings []Finding

	journalBad bool                     // nothing of it can be relied on
	good       map[string]*metadata     // the snapshots, but the damaged ones
	damaged    map[string]*DamagedError // those, by their entries of snapshots/
	entries    []string                 // of snapshots/
}

func newChecker(ctx context.Context, dir string) (*checker, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, fmt.Errorf("%w: the path is empty: %w", ErrNotStore, fs.ErrNotExist)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotStore, err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &checker{ctx: ctx, store: newStore(dir, true), good: map[string]*metadata{}}
	if err := c.checkLayout(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *checker) found(f Finding) { c.findings = append(c.findings, f) }

// checkLayout refuses what is no store, and opens the file.
func (c *checker) checkLayout() error {
	s := c.store
	s.opened = func() error { return nil }
	path := filepath.Join(s.dir, layoutFile)
	if err := readLayout(s.dir); err != nil {
		problem := "it is not what a store has there"
		data, rerr := readFile(path)
		info, lerr := os.Lstat(path)
		switch _, ours := parseLayout(data); {
		case errors.Is(rerr, fs.ErrNotExist):
			problem = "the file is missing"
		case lerr == nil && !info.Mode().IsRegular(): // whatever reading it says
		case ours || rerr != nil:
			return err // of another version, or it can't be read
		}
		if !looksLikeStore(s.dir) {
			return err
		}
		if checkVacant(s.dir) == nil {
			return fmt.Errorf("%w; it is just being made, or who made it was killed: the next program that opens it for writing finishes that", err)
		}
		c.found(Finding{Path: path, Problem: problem, Meaning: "the store can't be opened", Advice: adviseRepair})
		return nil
	}
	opened, err := shareLayout(s.layout)
	if err == nil {
		s.opened = opened
	}
	return err
}

// alone reports whether nobody else has the store open.
func (c *checker) alone() (bool, error) {
	s := c.store
	if err := s.opened(); err != nil {
		return false, err
	}
	s.opened = func() error { return nil }
	unlock, alone, err := s.layout.TryLock()
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err == nil && alone {
		err = unlock()
	}
	if err != nil {
		return false, err
	}
	opened, err := shareLayout(s.layout)
	if err == nil {
		s.opened = opened
	}
	return alone, err
}

// looksLikeStore reports whether a directory without a layout was a store.
func looksLikeStore(dir string) bool {
	j, err := openJournal(filepath.Join(dir, journalFile), false)
	if err != nil {
		return false
	}
	return errors.Join(j.bad, j.file.Close()) == nil
}

func (c *checker) close() error {
	s := c.store
	s.closed.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeFiles()
}

func (c *checker) check(progress func(done, total int)) error {
	if err := c.checkBeside(); err != nil {
		return err
	}
	whole, err := c.checkDirectories()
	if err != nil || !whole {
		return err
	}
	err = c.openJournal()
	if err == nil {
		c.entries, err = c.store.tree.list()
	}
	if err == nil && !c.journalBad {
		err = c.checkQuiet()
	}
	if err == nil {
		err = c.readAll(progress)
	}
	if err != nil {
		return err
	}
	c.checkSnapshots()
	c.checkIdentifiers()
	c.checkAhead()
	return c.checkInside()
}

// checkDirectories looks whether there are those that the rest needs.
func (c *checker) checkDirectories() (whole bool, err error) {
	whole = true
	for _, dir := range []struct{ path, meaning string }{
		{c.store.tree.snapshots, "all snapshots are gone but those in the journal"},
		{c.store.tree.staging, "nothing can be written"},
	} {
		info, err := os.Lstat(dir.path)
		problem := "it is not a directory"
		switch {
		case errors.Is(err, fs.ErrNotExist) && dir.path == c.store.tree.staging: // see checkQuiet
			continue
		case errors.Is(err, fs.ErrNotExist):
			problem = "the directory is missing"
		case err != nil:
			return false, err
		case info.IsDir():
			continue
		}
		whole = false
		c.found(Finding{Path: dir.path, Problem: problem, Meaning: dir.meaning, Advice: adviseRestore})
	}
	return whole, nil
}

// checkBeside looks what is beside layout.
func (c *checker) checkBeside() error {
	names, err := readNames(c.store.dir)
	for _, name := range names {
		switch name {
		case layoutFile, journalFile, snapshotsDir, stagingDir, "lost+found":
		case backupFile:
			err = errors.Join(err, c.checkCopied())
		case damagedDir:
			err = errors.Join(err, c.checkAside())
		default:
			c.found(c.beside(filepath.Join(c.store.dir, name)))
		}
	}
	return err
}

// beside says what something is that is beside layout, and no part of the store.
func (c *checker) beside(path string) Finding {
	if readLayout(path) == nil {
		return Finding{Path: path, Harmless: true, Problem: "it is a store in the store, say a backup that was copied here",
			Meaning: "the store ignores it", Advice: "to restore a backup, put it in the place of the store, not into it"}
	}
	return Finding{Path: path, Harmless: true, Problem: "it is no part of the store", Meaning: "the store ignores it", Advice: adviseNothing}
}

// checkCopied looks at the file that a backup has.
func (c *checker) checkCopied() error {
	path := filepath.Join(c.store.dir, backupFile)
	_, err := readCopied(c.store.dir)
	if damage := damageOf(err); damage != nil {
		c.found(Finding{Path: path, Problem: damage.Err.Error(), Meaning: "nothing can be written", Advice: "delete it if the store was not restored from a backup, or stop what uses the store and run a repair"})
		return nil
	}
	if info, lerr := os.Lstat(path); lerr == nil && !info.Mode().IsRegular() {
		c.found(c.beside(path))
	}
	return err
}

// checkAside says what a repair has set aside.
func (c *checker) checkAside() error {
	path := filepath.Join(c.store.dir, damagedDir)
	times, err := readNames(path)
	if err != nil || len(times) == 0 {
		return err
	}
	snapshots := 0
	for _, time := range times {
		names, err := namesIn(filepath.Join(path, time, snapshotsDir))
		if err != nil {
			return err
		}
		snapshots += len(names)
	}
	c.found(Finding{Path: path, Harmless: true, Problem: fmt.Sprintf("repairs have set aside what is in it; %d of snapshots/", snapshots),
		Meaning: "the store does not have it any more", Advice: "look at it, and move it away when nothing of it is needed"})
	return nil
}

// openJournal opens the journal as a read-only Store does.
func (c *checker) openJournal() error {
	s := c.store
	err := s.openFiles()
	var damage *DamagedError
	if errors.As(err, &damage) && s.journal == nil {
		c.journalBad = true
		c.found(Finding{Path: damage.Path, Problem: damage.Err.Error(), Meaning: "the store can't be opened; the snapshots are in the tree", Advice: adviseRepair})
		return nil
	}
	if err != nil {
		return err
	}
	if bad := s.journalDamage(); bad != nil {
		c.found(Finding{Path: s.journal.path, Problem: bad.Err.Error(),
			Meaning: "what was removed last may still be shown", Advice: adviseRepair})
	}
	return nil
}

// journalDamage returns what is wrong with the journal.
func (s *Store) journalDamage() *DamagedError {
	s.mu.Lock()
	defer s.mu.Unlock()
	var damage *DamagedError
	errors.As(s.journal.bad, &damage)
	return damage
}

// quietTime is how long Check waits for writers.
const quietTime = 2 * time.Second

// checkQuiet checks what can be told only while nobody writes.
func (c *checker) checkQuiet() error {
	s := c.store
	ctx, cancel := context.WithTimeout(c.ctx, quietTime)
	defer cancel()
	unlock, err := s.waitForOthers(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.found(Finding{Path: s.tree.staging, Harmless: true,
			Problem: "the directory is missing", Meaning: "the next program that writes makes it", Advice: adviseNothing})
		return c.compare()
	case c.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		c.found(Finding{Path: s.tree.staging, Harmless: true, Problem: fmt.Sprintf("somebody has held the lock for %v", quietTime),
			Meaning: "whether the tree has what the journal says was not checked", Advice: fmt.Sprintf("check again (fuser -v %s shows who it is)", s.tree.staging)})
		return nil
	case err != nil:
		return err
	}
	return errors.Join(c.checkStaging(), c.compare(), unlock())
}

func (c *checker) checkStaging() error {
	path := c.store.tree.staging
	names, err := readNames(path)
	if err != nil || len(names) == 0 {
		return err
	}
	foreign := slices.DeleteFunc(slices.Clone(names), isStaged)
	for _, name := range foreign {
		c.found(Finding{Path: path + "/" + name, Problem: "the store puts nothing of that name here",
			Meaning: "the next program that writes deletes it; if it looks like a snapshot, it was moved here", Advice: "move it to where it belongs, before anything writes, or run a repair, which sets it aside"})
	}
	if len(foreign) == len(names) {
		return nil
	}
	alone, err := c.alone()
	if alone { // else they may be kept to be used again
		c.found(Finding{Path: path, Harmless: true, Problem: fmt.Sprintf("%d directories and files are left in it", len(names)-len(foreign)),
			Meaning: "a program was killed, or the power was cut, while it wrote, or it closed the store while another had it open", Advice: "the next program that writes deletes them"})
	}
	return err
}

// compare looks how the journal ends, and whether the tree has what the lines say.
func (c *checker) compare() error {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	tail, err := s.catchUpLocked(true, true)
	if err != nil || s.journal.bad != nil {
		return err
	}
	if !s.journal.settled { // when it was opened
		if s.journal.settled, err = s.journal.settledNow(); err != nil {
			return err
		}
	}
	if unclean(s.journal, tail) {
		c.found(Finding{Path: s.journal.path, Harmless: true, Problem: "its last writer did not finish",
			Meaning: "a program was killed, or the power was cut, while it wrote; transactions that were acknowledged are there", Advice: "the next program that writes finishes what is whole"})
	}
	names, err := s.namesLocked(s.journal.header.txn, s.journal.tip())
	for _, name := range names {
		m, known, ferr := s.index.Load().find(name, s.journal.tip())
		if err = errors.Join(err, ferr); !known || err != nil {
			continue
		}
		same, herr := s.tree.holds(name, m)
		if herr != nil || same {
			continue
		}
		if is, err := s.tree.read(name); err == nil && is != nil && is.txn > s.journal.tip() {
			c.foundAhead(is)
		} else {
			c.found(Finding{Path: s.tree.path(name), Name: name, Harmless: true, Problem: "the tree does not have what the journal says",
				Meaning: "the journal is believed", Advice: "the next program that writes brings the tree up to it"})
		}
	}
	return err
}

// readAll reads every snapshot: as a transaction sees them, or, where there is no
// journal, as the tree has them. A transaction that is outdated is begun again.
func (c *checker) readAll(progress func(done, total int)) error {
	for tries := 0; ; tries++ {
		c.good, c.damaged = map[string]*metadata{}, map[string]*DamagedError{}
		done := 0
		err := c.readOnce(func(m *metadata) error {
			c.good[m.name] = m
			if done++; progress != nil {
				progress(done, max(done, len(c.entries)))
			}
			return nil
		})
		if tries == 10 || !errors.Is(err, ErrOutdated) {
			return err
		}
	}
}

func (c *checker) readOnce(visit func(*metadata) error) error {
	if c.journalBad {
		return c.readTree(visit)
	}
	t, err := c.store.begin(c.ctx, false)
	if err != nil {
		return err
	}
	defer t.Rollback() //nolint:errcheck // a read-only transaction: it can't fail
	return t.walk(c.ctx, visit, func(err error) error {
		c.note(err)
		return nil
	})
}

func (c *checker) readTree(visit func(*metadata) error) error {
	for _, entry := range c.entries {
		m, err := c.store.readEntry(entry)
		switch {
		case errors.Is(err, ErrDamaged):
			c.note(err)
		case err != nil:
			return err
		case m != nil:
			if err := errors.Join(visit(m), c.ctx.Err()); err != nil {
				return err
			}
		}
	}
	return nil
}

// readEntry reads what an entry of snapshots/ holds.
func (s *Store) readEntry(entry string) (*metadata, error) {
	name, ok := s.tree.nameOf(entry)
	if !ok {
		return nil, s.unnamedDamage(entry)
	}
	return s.tree.read(name)
}

// note keeps what is wrong with a snapshot.
func (c *checker) note(err error) {
	if damage := damageOf(err); damage != nil {
		entry, _, _ := strings.Cut(strings.TrimPrefix(damage.Path, c.store.tree.snapshots+"/"), "/")
		c.damaged[entry] = damage
	}
}

// checkSnapshots says what is damaged, or stands on something that it can't stand on.
func (c *checker) checkSnapshots() {
	children := map[string][]string{}
	for _, m := range c.good {
		children[m.parent] = append(children[m.parent], m.name)
	}
	unusable := func(name string) string {
		if n := countAbove(children, name); n > 0 {
			return fmt.Sprintf("this snapshot can't be used, nor can the %d that stand on it", n)
		}
		return "this snapshot can't be used"
	}
	parents := committedIn(c.good)
	for entry, damage := range c.damaged {
		f := Finding{Path: damage.Path, Name: damage.Name, Problem: damage.Err.Error(),
			Meaning: unusable(damage.Name) + "; nothing that it may stand on can be removed", Advice: adviseSnapshot}
		switch {
		case c.store.tree.vouchedFor(entry, parents) != nil:
			f.Advice = "stop what uses the store and run a repair, which knows its name and its parent by the checksum"
		case damage.Name == "" && !isHashed(entry):
			f.Meaning, f.Advice = "the store has no snapshot in it", "move it to where it belongs, or run a repair, which sets it aside"
		}
		c.found(f)
	}
	for _, m := range c.good {
		path := c.store.tree.path(m.name) + "/" + parentLink
		parent := c.good[m.parent]
		switch {
		case m.parent == "":
		case parent == nil && c.damaged[encodeName(m.parent)] == nil:
			c.found(Finding{Path: path, Name: m.name, Problem: fmt.Sprintf("its parent %q is missing", m.parent), Meaning: unusable(m.name), Advice: adviseParent})
		case parent != nil && parent.kind != KindCommitted:
			c.found(Finding{Path: path, Name: m.name, Problem: fmt.Sprintf("its parent %q is not committed", m.parent),
				Meaning: "what it stands on may change, or be removed", Advice: adviseRestore})
		case inCircle(c.good, m):
			c.found(Finding{Path: path, Name: m.name, Problem: "its parents lead back to it", Meaning: "it can't be mounted or removed", Advice: adviseRepair})
		}
	}
}

// countAbove returns how many snapshots stand on name, or on one that does.
func countAbove(children map[string][]string, name string) int {
	if name == "" {
		return 0
	}
	seen := map[string]bool{name: true} // their parents may lead in a circle
	for next := []string{name}; len(next) > 0; {
		for _, child := range children[next[0]] {
			if !seen[child] {
				seen[child] = true
				next = append(next, child)
			}
		}
		next = next[1:]
	}
	return len(seen) - 1
}

// inCircle reports whether the parents of m lead back to m.
func inCircle(all map[string]*metadata, m *metadata) bool {
	for at, steps := all[m.parent], 0; at != nil && steps <= len(all); at, steps = all[at.parent], steps+1 {
		if at == m {
			return true
		}
	}
	return false
}

// checkIdentifiers looks for identifiers that are not unique, or would not stay so.
func (c *checker) checkIdentifiers() {
	next := c.store.nextReserved()
	owners := map[string]*metadata{}
	for _, m := range byName(c.good) {
		path := c.store.tree.path(m.name) + "/" + metadataFile
		if other := owners[m.id]; other != nil {
			c.found(Finding{Path: path, Name: m.name, Problem: fmt.Sprintf("snapshot %.256q has the same identifier, %s", other.name, m.id),
				Meaning: "both have the same content, and removing one deletes it", Advice: "find out whose content it is, and remove or renumber the other, see 'Repairing by hand' in layout.md"})
		}
		owners[m.id] = m
		if id, err := parseID(m.id); err == nil && id >= next && next > 0 && next < maxID-idBlock {
			c.found(Finding{Path: path, Name: m.name, Problem: fmt.Sprintf("its identifier %s is not below %d, the next to be handed out", m.id, next),
				Meaning: "it may be given to another snapshot, too", Advice: adviseRepair})
		}
	}
}

// checkAhead looks for snapshots that are later than the journal.
func (c *checker) checkAhead() {
	s := c.store
	if c.journalBad || s.damaged() {
		return
	}
	for _, m := range byName(c.good) {
		if m.txn > s.tip() {
			c.foundAhead(m)
			return
		}
	}
}

// foundAhead says that the tree has a version that the journal doesn't know.
func (c *checker) foundAhead(m *metadata) {
	c.found(Finding{Path: c.store.journal.path, Problem: fmt.Sprintf("it ends with transaction %d, and %s is of transaction %d", c.store.tip(), c.store.tree.path(m.name), m.txn),
		Meaning: "lines are lost, or an older journal has taken its place: what they did may be shown in part, and identifiers may be handed out twice", Advice: adviseRepair})
}

// nextReserved returns the lowest identifier that may be handed out, 0 where that is not
// known.
func (s *Store) nextReserved() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.journal
	if j == nil || j.bad != nil {
		return 0
	}
	next := j.header.nextID
	if j.tip() > j.header.txn {
		records, err := s.recordsLocked(j.tip()-1, j.tip())
		if err != nil {
			return 0
		}
		next = max(next, records[0].nextID)
	}
	return next
}

// checkInside looks for files that don't belong in the directories of snapshots.
func (c *checker) checkInside() error {
	for _, entry := range c.entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		path := c.store.tree.snapshots + "/" + entry
		names, err := readNames(path)
		if err != nil {
			continue // gone meanwhile, or reported already
		}
		for _, name := range names {
			if name != metadataFile && name != parentLink {
				c.found(Finding{Path: path + "/" + name, Harmless: true, Problem: "it is no part of the snapshot",
					Meaning: "the store ignores it, and deletes it with the next change of the snapshot", Advice: "move it away if it is needed"})
			}
		}
	}
	return nil
}

// byName returns the snapshots in order of their names.
func byName(all map[string]*metadata) []*metadata {
	return slices.SortedFunc(maps.Values(all), func(a, b *metadata) int { return strings.Compare(a.name, b.name) })
}
