package fsck

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
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
	store
	ctx  context.Context
	view *view.View // nil where the journal can't be opened

	findings   []Finding
	journalBad bool     // the journal is damaged, and that is among the findings
	entries    []string // of snapshots/, in order
	content    *content
	lost       *fault.Damaged  // snapshots are missing, or there are too many
	odd        []string        // names of snapshots with a link that seemed to be wrong
	behind     map[string]bool // names of which the tree does not have what the journal says
	strangers  []string        // paths of what belongs to another user than the store
}

func newChecker(ctx context.Context, dir string) (*checker, error) {
	dir, problem, err := probe(ctx, dir)
	if err != nil {
		return nil, err
	}
	c := &checker{store: store{dir: dir, layout: layout.NewLock(dir), problem: problem}, ctx: ctx, content: newContent(), behind: map[string]bool{}}
	if problem != "" {
		c.found(Finding{Path: c.path(format.LayoutFile), Problem: problem, Meaning: "the store can't be opened", Advice: adviseRepair})
	} else {
		err = c.layout.Share()
	}
	if err == nil {
		err = c.openRoot()
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *checker) found(f Finding) { c.findings = append(c.findings, f) }

func (c *checker) closeView() error {
	if c.view == nil {
		return nil
	}
	v := c.view
	c.view = nil
	return v.Close()
}

func (c *checker) close() error { return errors.Join(c.closeView(), c.store.close()) }

func (c *checker) check(progress func(done, total int)) error {
	// 1. What there is, and of what kind.
	if err := c.checkBeside(); err != nil {
		return err
	}
	if whole, err := c.checkDirectories(); err != nil || !whole {
		return err
	}
	if err := c.open(); err != nil {
		return err
	}
	// 2. What can be told beside writers.
	if err := c.readAll(progress); err != nil {
		return err
	}
	if err := c.lookInside(); err != nil {
		return err
	}
	// 3. What can be told only while no process writes.
	if err := c.checkQuiet(); err != nil {
		return err
	}
	// 4. What that means.
	c.checkSnapshots()
	c.checkIdentifiers()
	c.checkOwners()
	return nil
}

// checkBeside looks at what is beside layout.
func (c *checker) checkBeside() error {
	names, err := c.root.Names()
	slices.Sort(names)
	for _, name := range names {
		switch name {
		case format.LayoutFile, format.JournalFile, format.SnapshotsDir, format.StagingDir:
			c.noteOwner(c.root, name)
		case format.BackupFile:
			err = errors.Join(err, c.checkCopied())
		case format.DamagedDir:
			c.noteOwner(c.root, name)
			err = errors.Join(err, c.checkAside())
		case "lost+found":
		default:
			c.foreign(name)
		}
	}
	return err
}

// foreign reports what is beside layout, and no part of the store.
func (c *checker) foreign(name string) {
	f := Finding{Path: c.path(name), Harmless: true, Problem: "it is no part of the store", Meaning: "the store ignores it", Advice: adviseNothing}
	if _, isDir, err := exists(c.root, name); err == nil && isDir && layout.Read(f.Path) == nil {
		f.Problem = "it is a store in the store, say a backup that was copied here"
		f.Advice = "to restore a backup, put it in the place of the store, not into it"
	}
	c.found(f)
}

// checkCopied looks at the file that a backup has.
func (c *checker) checkCopied() error {
	is, err := c.root.Lstat(format.BackupFile)
	if err != nil || is.Type != 0 {
		c.foreign(format.BackupFile)
		return err
	}
	if damage := copiedDamage(c.root); damage != nil {
		c.found(Finding{Path: damage.Path, Problem: damage.Err.Error(), Meaning: "nothing can be written",
			Advice: "delete it if the store was not restored from a backup, or stop what uses the store and run a repair"})
	}
	return nil
}

// copiedDamage returns what is wrong with the file backup, or why it can't be read.
func copiedDamage(root *disk.Dir) *fault.Damaged {
	_, err := commit.ReadCopied(root)
	damage := fault.DamageOf(err)
	if damage == nil && err != nil {
		damage = &fault.Damaged{Path: filepath.Join(root.Path, format.BackupFile), Err: err}
	}
	return damage
}

// checkAside counts what repairs have set aside.
func (c *checker) checkAside() error {
	if _, isDir, err := exists(c.root, format.DamagedDir); err != nil || !isDir {
		c.foreign(format.DamagedDir)
		return err
	}
	times, snapshots := 0, 0
	err := eachIn(c.root, format.DamagedDir, func(*disk.Dir, string) error { times++; return nil })
	err = errors.Join(err, eachAside(c.root, func(_ *disk.Dir, part, _ string) error {
		if part == format.SnapshotsDir {
			snapshots++
		}
		return nil
	}))
	if times > 0 {
		c.found(Finding{Path: c.path(format.DamagedDir), Harmless: true, Problem: fmt.Sprintf("repairs have set aside what is in it; %d of snapshots/", snapshots),
			Meaning: "the store does not have it any more", Advice: "look at it, and move it away when nothing of it is needed"})
	}
	return err
}

// checkDirectories looks whether there are those that the rest needs.
func (c *checker) checkDirectories() (whole bool, err error) {
	whole = true
	for _, dir := range []struct{ name, meaning string }{
		{format.SnapshotsDir, "all snapshots are gone but those in the journal"},
		{format.StagingDir, "nothing can be written"},
	} {
		there, isDir, err := exists(c.root, dir.name)
		f := Finding{Path: c.path(dir.name), Problem: "it is not a directory", Meaning: dir.meaning, Advice: adviseRestore}
		switch {
		case err != nil:
			return false, err
		case isDir, !there && dir.name == format.StagingDir: // see checkQuiet
			continue
		case !there:
			f.Problem = "the directory is missing"
		case dir.name == format.StagingDir:
			f.Advice = adviseRepair
		}
		whole = false
		c.found(f)
	}
	return whole, nil
}

// open opens the tree and the journal, as a read-only Store does.
func (c *checker) open() error {
	if err := c.openTree(); err != nil {
		return err
	}
	v, err := view.Open(c.dir, c.tree, false)
	if damage := journalDamage(c.dir, err); damage != nil {
		c.journalBad = true
		c.found(Finding{Path: damage.Path, Problem: problemOf(damage), Meaning: "the store can't be opened; the snapshots are in the tree", Advice: adviseRepair})
	} else if err != nil {
		return err
	} else {
		c.view = v
		c.foundDamage(v.Damage())
	}
	c.entries, err = c.tree.List()
	slices.Sort(c.entries)
	return err
}

// journalDamage returns err where it is damage of the journal in dir, else nil.
func journalDamage(dir string, err error) *fault.Damaged {
	damage := fault.DamageOf(err)
	if damage == nil || damage.Path != filepath.Join(dir, format.JournalFile) {
		return nil
	}
	return damage
}

// foundDamage reports damage of the journal, once.
func (c *checker) foundDamage(err error) {
	damage := journalDamage(c.dir, err)
	if damage == nil || c.journalBad {
		return
	}
	c.journalBad = true
	c.found(Finding{Path: damage.Path, Problem: problemOf(damage),
		Meaning: "nothing can be written, and what was removed last may still be shown", Advice: adviseRepair})
}

// readAll reads every snapshot: as a transaction sees them, or, where there is no journal, as
// the tree has them. A transaction that is outdated is begun again.
func (c *checker) readAll(progress func(done, total int)) error {
	for tries := 0; ; tries++ {
		c.content, c.lost = newContent(), nil
		done := 0
		err := c.readOnce(func(m *format.Snapshot) error {
			c.content.good[m.Name] = m
			if done++; progress != nil {
				progress(done, max(done, len(c.entries)))
			}
			return c.ctx.Err()
		})
		if journalDamage(c.dir, err) != nil && c.view != nil { // a line that is whole, and nonsense
			c.foundDamage(err)
			if err = c.closeView(); err == nil {
				continue
			}
		}
		if tries == 10 || !errors.Is(err, fault.ErrOutdated) {
			return err
		}
	}
}

func (c *checker) readOnce(visit func(*format.Snapshot) error) error {
	if c.view == nil {
		return c.content.readTree(c.tree, c.entries, visit)
	}
	var r view.Reader
	if err := c.view.Begin(&r); err != nil {
		return err
	}
	defer c.view.End(&r)
	return c.view.Walk(r.Point, nil, visit, func(d view.Damage) error {
		damage := fault.DamageOf(d.Err)
		if d.Lost {
			if journalDamage(c.dir, d.Err) == nil {
				c.lost = damage
			}
			c.foundDamage(d.Err)
			return nil
		}
		// One that is good but for its parent, which is missing, is among the good.
		if damage.Name != "" {
			if m, err := c.tree.Read(damage.Name); err == nil && m != nil {
				return visit(m)
			}
		}
		c.content.damaged[d.Entry] = damage
		return nil
	})
}
