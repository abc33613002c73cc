package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

// Check looks for everything that can be wrong with the store in dir, and returns what it
// found, in order of the paths. It writes nothing, and can be used beside writers, which may
// wait for it for some milliseconds. Where one transaction holds the lock for longer than
// quietTime, what can be told only while no process writes is not checked, which is a finding
// then. Progress, unless it is nil, gets how many snapshots of how many were read.
//
// An error means that the store could not be checked: ErrNotStore where there is nothing of a
// store, ErrInUse during a repair, the context's, and those of the filesystem.
func Check(ctx context.Context, dir string, progress func(done, total int)) ([]Finding, error) {
	c := &checker{store: store{ctx: ctx, progress: progress}}
	err := c.open(dir, (*layout.Lock).Share)
	if err == nil {
		err = c.check()
	}
	if err = errors.Join(err, c.close()); err != nil {
		return nil, fmt.Errorf("fsmeta: check %s: %w", dir, err)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return c.findings, nil
}

// checker is one run of Check.
type checker struct {
	store
	findings   []Finding
	journalBad bool // the journal is damaged, and that is among the findings
	content    *content
	lost       *fault.Damaged    // snapshots are missing, or there are too many
	odd        map[string]string // see oddLinks
	mounted    []string          // entries of snapshots/ that something is mounted on
	strangers  []string          // paths of what belongs to another user than the store
}

func (c *checker) found(f Finding) { c.findings = append(c.findings, f) }

func (c *checker) check() error {
	// 1. What there is, and of what kind.
	if c.problem != "" {
		c.found(Finding{Path: c.path(format.LayoutFile), Problem: c.problem, Meaning: "the store can't be opened", Advice: adviseRepair})
	}
	if strings.HasSuffix(c.dir, format.UnfinishedEnd) {
		c.found(Finding{Path: c.dir, Problem: "it is what a backup has left that was killed, or one that is being made", Meaning: "snapshots may be missing from it",
			Advice: "delete it when no backup is running; do not put it in the place of a store"})
	}
	if err := c.checkBeside(); err != nil {
		return err
	}
	c.checkWritable()
	if mounted := c.mountedParts(); len(mounted) > 0 {
		for _, part := range mounted {
			c.foundMounted(c.path(part))
		}
		return nil
	}
	if whole, err := c.checkDirectories(); err != nil || !whole {
		return err
	}
	for _, step := range []func() error{
		// 2. What can be told beside writers.
		c.openJournal, c.readAll, c.lookInside,
		// 3. What can be told only while no process writes.
		c.checkQuiet,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	// 4. What that means.
	c.checkSnapshots()
	c.checkIdentifiers()
	c.checkAhead()
	c.checkOwners()
	return nil
}

// checkBeside looks at what is beside layout.
func (c *checker) checkBeside() error {
	names, err := c.root.Names()
	slices.Sort(names)
	for _, name := range names {
		is, lerr := c.root.Lstat(name)
		switch {
		case errors.Is(lerr, fs.ErrNotExist): // it is gone meanwhile
		case lerr != nil:
			err = errors.Join(err, lerr)
		case slices.Contains([]string{format.LayoutFile, format.JournalFile, format.SnapshotsDir, format.StagingDir}, name):
			c.noteOwner(c.root, name)
		case name == format.BackupFile:
			c.checkCopied()
		case name == format.DamagedDir && (is.Type.IsDir() || is.Type == fs.ModeSymlink):
			c.noteOwner(c.root, name)
			err = errors.Join(err, c.checkAside())
		case name == format.DamagedDir:
			c.found(Finding{Path: c.path(name), Harmless: true, Problem: "it is not a directory",
				Meaning: "a repair has no place to set anything aside", Advice: "move it away"})
		case name != "lost+found":
			c.foreign(name, is.Type.IsDir())
		}
	}
	return err
}

// foreign reports what is beside layout, and no part of the store.
func (c *checker) foreign(name string, isDir bool) {
	f := Finding{Path: c.path(name), Harmless: true, Problem: "it is no part of the store", Meaning: "the store ignores it", Advice: adviseNothing}
	if isDir && layout.Read(f.Path) == nil {
		f.Problem = "it is a store in the store, say a backup that was copied here"
		f.Advice = "to restore a backup, put it in the place of the store, not into it"
	}
	c.found(f)
}

// checkCopied looks at the file that a backup has.
func (c *checker) checkCopied() {
	if damage := c.copiedDamage(); damage != nil {
		c.found(Finding{Path: damage.Path, Problem: fault.ProblemOf(damage), Meaning: "nothing can be written",
			Advice: "move it away if the store was not restored from a backup, or stop what uses the store and run a repair"})
	}
}

// checkAside counts what repairs have set aside and imports have left out.
func (c *checker) checkAside() error {
	things, snapshots, unknown := 0, 0, 0
	err := eachIn(c.root, format.DamagedDir, func(damaged *disk.Dir, time string) error {
		return eachIn(damaged, time, func(*disk.Dir, string) error { things++; return nil })
	})
	err = errors.Join(err, eachAside(c.root, func(dir *disk.Dir, part, entry string) error {
		if part == format.SnapshotsDir {
			snapshots++
		}
		_, err := idIn(dir, part, entry)
		if fault.DamageOf(err) != nil {
			unknown, err = unknown+1, nil
		}
		return err
	}))
	if damage := fault.DamageOf(err); damage != nil {
		c.found(Finding{Path: damage.Path, Problem: problemOf(damage), Meaning: "what repairs have set aside can't be told, so no content counts as an orphan, and drivers delete none", Advice: adviceOf(damage)})
		return nil
	}
	if things == 0 {
		return err
	}
	f := Finding{Path: c.path(format.DamagedDir), Harmless: true, Problem: fmt.Sprintf("it has what repairs have set aside or an import has left out; %d of snapshots/", snapshots),
		Meaning: "the store does not have it any more", Advice: "look at it, and move it away when nothing of it is needed"}
	if unknown > 0 {
		f.Problem += fmt.Sprintf(", and of %d the identifier can't be told", unknown)
		f.Meaning += "; until it is moved away, no content counts as an orphan, and drivers delete none"
	}
	c.found(f)
	return err
}

// checkWritable looks for what keeps any process from writing.
func (c *checker) checkWritable() {
	for _, f := range c.flagged() {
		c.found(Finding{Path: f.path, Problem: "it is " + f.flag, Meaning: "programs can't write, or get no further than the journal", Advice: unflag + f.path})
	}
	if cause := noRoom(c.root); cause != "" {
		c.found(Finding{Path: c.dir, Harmless: true, Problem: cause, Meaning: "snapshots can be removed, and nothing can be added or changed",
			Advice: "make room: df and df -i show whether it lacks blocks or inodes"})
	}
	if readOnly(c.root) {
		c.found(Finding{Path: c.dir, Harmless: true, Problem: "its filesystem is mounted read-only", Meaning: "the store can be read, and nothing can be written",
			Advice: "if that is not meant, look in dmesg for an error of the disk before mounting it anew"})
	}
}

// flagged is a part of the store that a flag keeps from being changed, even by root.
type flagged struct{ path, flag string }

// unflag takes both flags from the path behind it.
const unflag = "chattr -i -a "

func (s *store) flagged() (all []flagged) {
	for _, part := range []string{".", format.JournalFile, format.SnapshotsDir, format.StagingDir} {
		if flag := flagAt(s.root, part); flag != "" {
			all = append(all, flagged{s.path(part), flag})
		}
	}
	return all
}

// checkDirectories looks whether there are those that the rest needs. For a staging/ that is
// missing see checkQuiet.
func (c *checker) checkDirectories() (whole bool, err error) {
	there, isDir, err := c.root.Exists(format.SnapshotsDir)
	staging, stagingIsDir, serr := c.root.Exists(format.StagingDir)
	if err = errors.Join(err, serr); err != nil {
		return false, err
	}
	const problem = "it is not a directory"
	if f := (Finding{Path: c.path(format.SnapshotsDir), Problem: problem, Meaning: "all snapshots are gone but those in the journal", Advice: adviseRestore}); !isDir {
		if !there {
			f.Problem = "the directory is missing"
		}
		if target := c.linkedPart(format.SnapshotsDir); target != "" {
			f.Problem, f.Meaning, f.Advice = linkedProblem(target), "the store can't be used", c.linkedAdvice(format.SnapshotsDir, target)
		}
		c.found(f)
	}
	if staging && !stagingIsDir {
		c.found(Finding{Path: c.path(format.StagingDir), Problem: problem, Meaning: "nothing can be written", Advice: adviseRepair})
	}
	if !isDir || staging != stagingIsDir {
		return false, nil
	}
	if err = c.openTree(); errors.Is(err, disk.ErrMounted) { // or it is a subvolume
		c.foundMounted(c.path(format.SnapshotsDir))
		return false, nil
	}
	return err == nil, err
}

func (c *checker) foundMounted(path string) {
	c.found(Finding{Path: path, Problem: "something is mounted on it, or it is a filesystem of its own", Meaning: "the store can't be used; what it has there is below the mount", Advice: adviseUnmount})
}

// openJournal opens the journal, as a read-only Store does.
func (c *checker) openJournal() error {
	v, err := view.Open(c.dir, c.tree, false)
	if err == nil {
		c.view, err = v, v.Damage()
	}
	return c.foundDamage(err)
}

// foundDamage reports an error that is damage of the journal, once, and returns any other.
func (c *checker) foundDamage(err error) error {
	damage := c.journalDamage(err)
	if damage == nil {
		return err
	}
	f := Finding{Path: damage.Path, Problem: problemOf(damage), Meaning: "nothing can be written, and what was removed last may still be shown", Advice: adviseRepair}
	if c.view == nil {
		f.Meaning = "the store can't be opened; the snapshots are in the tree"
	}
	if target := c.linkedPart(format.JournalFile); target != "" {
		f.Problem, f.Advice = linkedProblem(target), c.linkedAdvice(format.JournalFile, target)
	}
	if version := otherVersion(c.root); version != 0 {
		f.Advice = adviseVersion()
	}
	if !c.journalBad {
		c.journalBad = true
		c.found(f)
	}
	return nil
}

// readAll reads every snapshot: as a transaction sees them, or, where there is no journal, as
// the tree has them. A transaction that is outdated is begun again.
func (c *checker) readAll() error {
	for tries := 0; ; tries++ {
		err := c.readOnce()
		if tries == 10 || !errors.Is(err, fault.ErrOutdated) {
			return err
		}
	}
}

func (c *checker) readOnce() (err error) {
	c.lost = nil
	if c.view == nil {
		c.content, err = c.readTree()
		return err
	}
	if c.content, err = c.newContent(); err != nil {
		return err
	}
	var r view.Reader
	if err := c.view.Begin(&r); err != nil {
		return err
	}
	defer c.view.End(&r)
	take := func(m *format.Snapshot) error { return c.take(c.content, m) }
	return c.view.Walk(r.Point, nil, take, func(d view.Damage) error {
		damage := fault.DamageOf(d.Err)
		if d.Lost {
			if c.journalDamage(d.Err) == nil {
				c.lost = damage
				return nil
			}
			return c.foundDamage(d.Err)
		}
		// One that is good but for its parent, which is missing, is among the good.
		if damage.Name != "" {
			if m, err := c.tree.Read(damage.Name); err == nil && m != nil {
				return take(m)
			}
		}
		c.content.damaged[d.Entry] = damage
		return nil
	})
}
