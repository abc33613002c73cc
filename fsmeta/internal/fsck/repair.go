package fsck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
	"github.com/fsmeta/fsmeta/lock"
)

// RepairOptions changes what Repair does.
type RepairOptions struct {
	AcceptTree bool // where snapshots are missing, or too many, record those that are there as the truth, but for those that stand on missing ones
}

// Repair mends what it safely can in the store in dir, which no program may have open: else
// the error is ErrInUse. It returns what it found, those mended with what was done in
// Repaired, and then what Check still finds. A part that can't be mended is a finding with the error
// in its Problem, and keeps nothing else from being mended. It deletes nothing but what a
// writer would delete; what it replaces or takes out is set aside, in damaged/TIME below dir.
//
// A crash or an error at any point leaves a store that is no more damaged than before, and
// that Repair can be run on again. Progress and other errors are as with Check.
func Repair(ctx context.Context, dir string, options RepairOptions, progress func(done, total int)) ([]Finding, error) {
	r := &repair{store: store{ctx: ctx, progress: progress}, options: options, failed: map[string]error{}, stuck: map[string]bool{}, unmade: map[string]bool{}}
	err := r.open(dir, (*layout.Lock).Take)
	if errors.Is(err, layout.ErrUnfinished) {
		if err = layout.Make(r.dir, commit.Ahead); err == nil {
			r.mended(r.path(format.LayoutFile), "", "the store was never finished, or has lost the file before anything was written to it", "it was made")
			err = r.open(dir, (*layout.Lock).Take)
		}
	}
	if err == nil {
		err = r.explainRefusal(errors.Join(r.run(), r.endWriting()))
	}
	err = errors.Join(err, r.close())
	var left []Finding
	if err == nil {
		left, err = Check(ctx, dir, progress)
	}
	if fault.NoRoom(err) {
		err = fmt.Errorf("%w; make some room on the filesystem and run it again", err)
	}
	if err != nil {
		return r.findings, fmt.Errorf("fsmeta: repair %s: %w", dir, err)
	}
	return append(r.findings, r.explain(left)...), nil
}

// repair is one run of Repair.
type repair struct {
	store
	options RepairOptions
	writer  *commit.Writer // has the turn
	shelf   shelf

	failed   map[string]error // what could not be done, by path
	stuck    map[string]bool  // entries of snapshots/ that could not be mended or set aside
	unmade   map[string]bool  // names that could not be made anew from entries elsewhere
	findings []Finding
}

// mended notes what was done.
func (r *repair) mended(path, name, problem, done string) {
	r.findings = append(r.findings, Finding{Path: path, Name: name, Problem: problem, Repaired: done})
}

// setAside moves an entry of a directory to the shelf, under the path to, and notes that in f, in
// front of what f says was done besides. A crash or an error leaves it here or there.
func (r *repair) setAside(from *disk.Dir, entry, to string, f Finding) error {
	if err := r.shelf.move(from, entry, to); err != nil {
		return err
	}
	f.Repaired = "it was set aside, in " + r.shelf.path() + f.Repaired
	r.findings = append(r.findings, f)
	return nil
}

// fail notes what could not be done, if err says so, and reports whether it does.
func (r *repair) fail(path string, err error) bool {
	if err != nil {
		r.failed[path] = errors.Join(r.failed[path], err)
	}
	return err != nil
}

// explain completes what Check has found with the errors of what could not be done.
func (r *repair) explain(left []Finding) []Finding {
	const cant = "it could not be repaired: "
	if r.shelf.used {
		if _, err := SetAside(r.dir); err == nil { // what is in it was reported
			left = slices.DeleteFunc(left, func(f Finding) bool { return f.Path == r.path(format.DamagedDir) && f.Harmless })
		}
	}
	for i, f := range left {
		if err := r.failed[f.Path]; err != nil {
			left[i].Problem += "; " + cant + err.Error()
			if errors.Is(err, errUntold) {
				left[i].Advice = r.adviseUntold()
			}
			delete(r.failed, f.Path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(r.failed)) {
		left = append(left, Finding{Path: path, Problem: cant + r.failed[path].Error(), Meaning: "the store is no more damaged than before", Advice: "remove the cause and run a repair again"})
	}
	return left
}

// explainRefusal adds to an error of something that no process may do the flags that are the cause.
func (r *repair) explainRefusal(err error) error {
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	for _, f := range r.flagged() {
		err = fmt.Errorf("%w; %s is %s: %s%[2]s", err, f.path, f.flag, unflag)
	}
	return err
}

// run repairs the parts of the store from the outside in: each needs those before it.
func (r *repair) run() error {
	if mounted := r.mountedParts(); len(mounted) > 0 {
		return &fault.Damaged{Path: r.path(mounted[0]), Err: disk.ErrMounted}
	}
	if err := r.refuseForeign(); err != nil {
		return err
	}
	if err := r.openTree(); err != nil {
		if damage := fault.DamageOf(err); damage != nil && !errors.Is(err, disk.ErrMounted) {
			err = &fault.Damaged{Path: damage.Path, Err: fmt.Errorf("%s; %s", problemOf(damage), adviseRestore)}
		}
		return err
	}
	r.shelf = shelf{root: r.root, owner: r.owner}
	if err := r.mendStaging(); err != nil {
		return err
	}
	err := r.locked(func() error {
		if err := r.mendLayout(); err != nil {
			return err
		}
		r.setAsideStaging(false)
		r.mendCopied()
		return r.saveMisplaced()
	})
	if err == nil {
		err = r.takeOver()
	}
	if errors.Is(err, errUntold) {
		r.fail(r.path(format.JournalFile), err)
		return nil
	}
	if err != nil {
		return err
	}
	// Only what the journal names no more can be mended in the tree.
	if !r.fail(r.path(format.JournalFile), r.writer.Fold()) {
		if err := r.mendTree(); err != nil {
			return err
		}
	}
	return r.writer.Failed()
}

// refuseForeign refuses what is whole, and not in its place or not for this program.
func (r *repair) refuseForeign() error {
	for _, part := range []string{format.JournalFile, format.SnapshotsDir} {
		if target := r.linkedPart(part); target != "" {
			return &fault.Damaged{Path: r.path(part), Err: fmt.Errorf("%s; %s", linkedProblem(target), r.linkedAdvice(part, target))}
		}
	}
	if version := otherVersion(r.root); version != 0 {
		return fault.OtherVersion("%s is of version %d of the format; %s", r.path(format.JournalFile), version, adviseVersion())
	}
	return nil
}

// endWriting ends what was begun. Where everything went well the journal has no lines then but for
// names that lag.
func (r *repair) endWriting() error {
	if r.writer == nil {
		return nil
	}
	r.writer.Release()
	return r.end(r.writer, true)
}

// locked calls do with the lock on staging/, which a writer takes by itself.
func (r *repair) locked(do func() error) error {
	staging := r.path(format.StagingDir)
	l := lock.New(staging)
	unlock, free, err := l.TryLock()
	if err == nil && !free {
		err = layout.InUse(l, staging)
	}
	if err != nil {
		return err
	}
	return errors.Join(do(), unlock())
}

// mendStaging makes staging/ where it is missing, or something else is in its place. A crash
// leaves it or not.
func (r *repair) mendStaging() error {
	there, isDir, err := r.root.Exists(format.StagingDir)
	if err == nil && there && !isDir {
		err = r.setAside(r.root, format.StagingDir, format.StagingDir,
			Finding{Path: r.path(format.StagingDir), Problem: "it is not a directory", Repaired: ", and made anew"})
	}
	if err != nil {
		return err
	}
	return r.tree.Prepare()
}

// mendLayout makes the layout again, if there is a problem with it, and takes its lock. A crash
// leaves the former one, in its place or set aside, or the new one.
func (r *repair) mendLayout() error {
	if r.problem == "" {
		return nil
	}
	if layout.Read(r.dir) == nil { // another repair was faster
		return r.layout.Take()
	}
	done := "it was written again"
	there, _, err := r.root.Exists(format.LayoutFile)
	if err == nil && there {
		err = r.shelf.move(r.root, format.LayoutFile, format.LayoutFile)
		done += "; the former one is in " + r.shelf.path()
	}
	if err == nil {
		err = layout.WriteLayout(r.dir, r.owner)
	}
	if err != nil {
		return err
	}
	r.mended(r.path(format.LayoutFile), "", r.problem, done)
	return r.layout.Take()
}

// mendCopied replaces a file backup that does not say what it should by one that says the most: the
// next writer goes on at identifiers far above, and no content below is an orphan until a person has
// looked and deleted it. A crash leaves the former or the new one.
func (r *repair) mendCopied() {
	damage := r.copiedDamage()
	if damage == nil {
		return
	}
	v, err := salvage(r.root)
	if err == nil {
		above := min(v.next+commit.UnknownIDs, commit.MaxID)
		all := format.Backup{Time: time.Now().UTC(), From: above - 1, To: above} // in use from the take-over on
		err = r.shelf.exchange(r.root, format.BackupFile, format.BackupFile, format.EncodeBackup(all))
	}
	if !r.fail(damage.Path, err) {
		aside := r.shelf.path() + "/" + format.BackupFile
		r.findings = append(r.findings, Finding{Path: damage.Path, Problem: fault.ProblemOf(damage), Aside: aside,
			Repaired: "it was set aside, in " + r.shelf.path() + ", and replaced by one that keeps the content of all identifiers so far from being deleted: look whether any of that is newer than the backup, and delete it then"})
	}
}

// saveMisplaced gives entries that belong elsewhere, and stand where a line of the journal is to be
// brought up, names that no snapshot has. Each may be the only copy. A crash leaves each with the one
// name or the other.
func (r *repair) saveMisplaced() error {
	v, err := salvage(r.root)
	if err != nil || len(v.last) == 0 {
		return err
	}
	c, err := r.readTree()
	if err != nil {
		return err
	}
	misplaced := c.misplaced(r.snapshots)
	for name := range v.last {
		if entry := format.EncodeName(name); misplaced[entry] != nil {
			if _, err := r.displace(entry); err != nil {
				return err // else the take-over deletes it
			}
		}
	}
	return nil
}

// setAsideStaging sets aside what doesn't belong in staging/, or all that is left there:
// beside a damaged journal it may be needed. What stays is deleted by the take-over.
func (r *repair) setAsideStaging(all bool) {
	left, path := 0, r.path(format.StagingDir)
	r.fail(path, eachIn(r.root, format.StagingDir, func(staging *disk.Dir, name string) error {
		to := format.StagingDir + "/" + name
		switch staged := tree.IsStaged(name); {
		case name == tree.Ballast, staged && !all:
		case !staged:
			r.fail(r.path(to), r.setAside(staging, name, to, Finding{Path: r.path(to), Problem: strangeInStaging}))
		case !r.fail(r.path(to), r.shelf.move(staging, name, to)):
			left++
		}
		return nil
	}))
	if left > 0 {
		r.mended(path, "", counted(left, "something was left in it", "%d directories and files were left in it"), "they were set aside, in "+r.shelf.path()+": the damaged journal may need them")
	}
}

// takeOver takes the store over as the next writer would, which brings the tree up to the
// journal. A journal with which that can't be done is made anew before.
func (r *repair) takeOver() error {
	for rebuilt := false; ; rebuilt = true {
		err := r.begin()
		damage := r.journalDamage(err)
		if damage == nil || rebuilt {
			return err
		}
		err = r.closeView()
		if err == nil {
			err = r.locked(func() error { return r.rebuild(damage) })
		}
		if err != nil {
			return err
		}
	}
}

func (r *repair) begin() (err error) {
	if r.view, err = view.Open(r.dir, r.tree, true); err == nil {
		err = r.keepJournal()
	}
	if err != nil {
		return err
	}
	w := commit.New(commit.Config{Dir: r.root, Tree: r.tree, View: r.view})
	if err := w.Begin(r.ctx); err != nil {
		return errors.Join(err, r.end(w, false))
	}
	r.writer = w
	return nil
}

// end ends writing. The last checkpoint is made where all went well.
func (r *repair) end(w *commit.Writer, well bool) error {
	w.End()
	return w.Close(func() (bool, error) { return well, nil })
}

// keepJournal sees to it that bringing the lines of the journal up, which the take-over does, can be undone,
// where it may be an older one or another store's: of snapshots that the tree has of a later transaction,
// or where there are other snapshots with its lines than it counts. It puts the former, and a copy of the
// journal, on the shelf. A crash or an error leaves some of it done.
func (r *repair) keepJournal() error {
	v, err := salvage(r.root)
	if err != nil || r.view.Damage() != nil || len(v.last) == 0 {
		return err
	}
	c, err := r.readTree()
	if err != nil {
		return err
	}
	saved, err := r.saveAhead(v, c)
	if err != nil {
		return err
	}
	c.overlay(v.last)
	if saved == 0 && (!v.names.Known || count(c.entries) == v.names) {
		return nil
	}
	if err := r.shelf.copy(r.root, format.JournalFile, format.JournalFile); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(v.last))
	text := fmt.Sprintf("%.256q", names[:min(len(names), 3)])
	if more := len(names) - 3; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	r.mended(r.path(format.JournalFile), "", "it does not go with the snapshots that are there: some are missing, or it is an older journal, or another store's",
		"its lines were brought up, of "+text+"; a copy of it as it was is in "+r.shelf.path())
	return nil
}

// saveAhead sets snapshots aside that lines are about and that the tree has of a later transaction than
// the journal: the lines take their places. It returns how many.
func (r *repair) saveAhead(v *salvaged, c *content) (saved int, err error) {
	for _, name := range slices.Sorted(maps.Keys(v.last)) {
		m := c.good[name]
		if m == nil || m.Txn <= r.view.Tip() {
			continue
		}
		entry := format.EncodeName(name)
		if err := r.shelf.move(r.snapshots, entry, replaced+"/"+entry); err != nil {
			return saved, err
		}
		saved++
		r.mended(r.metadata(name), name, fmt.Sprintf("the tree had it as of transaction %d, and the journal ends at %d", m.Txn, r.view.Tip()),
			"what the journal says took its place; what was there is in "+r.shelf.path()+"/"+replaced)
	}
	return saved, nil
}
