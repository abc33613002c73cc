package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/lock"
)

// quietTime is how long Check waits for writers.
const quietTime = 2 * time.Second

// checkQuiet checks what can be told only while no process writes.
func (c *checker) checkQuiet() error {
	staging := c.path(format.StagingDir)
	l := lock.New(staging)
	ctx, cancel := context.WithTimeout(c.ctx, quietTime)
	defer cancel()
	unlock, err := c.queue(ctx, l)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.found(Finding{Path: staging, Harmless: true,
			Problem: "the directory is missing", Meaning: "the next program that writes makes it", Advice: adviseNothing})
		return c.compare()
	case c.ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		holder := "a process"
		if all := l.Holders(); len(all) > 0 {
			holder = all[0].String()
		}
		c.found(Finding{Path: staging, Harmless: true, Problem: fmt.Sprintf("%s has held the lock for %v", holder, quietTime),
			Meaning: "whether the tree has what the journal says was not checked, nor links and what is left here", Advice: "check again"})
		return nil
	case err != nil:
		return err
	}
	return errors.Join(c.checkStaging(), c.compare(), unlock())
}

// queue waits for the lock on staging/ as a writer does: at the turnstile, where a busy writer
// sees that another process waits. One that is stopped there hinders nothing for longer than a moment.
func (c *checker) queue(ctx context.Context, staging *lock.Lock) (unlock func() error, err error) {
	moment, cancel := context.WithTimeout(ctx, quietTime/2)
	defer cancel()
	pass, perr := lock.New(c.path(format.SnapshotsDir)).Lock(moment)
	unlock, err = staging.Lock(ctx)
	if perr != nil {
		return unlock, err // the turnstile is only fairness
	}
	if perr = pass(); perr != nil && err == nil {
		return nil, errors.Join(perr, unlock())
	}
	return unlock, err
}

// checkStaging looks at what is in staging/.
func (c *checker) checkStaging() error {
	left := 0
	err := eachIn(c.root, format.StagingDir, func(_ *disk.Dir, name string) error {
		switch {
		case name == tree.Ballast:
			return nil
		case tree.IsStaged(name):
			left++
			return nil
		}
		c.found(Finding{Path: c.path(format.StagingDir, name), Problem: strangeInStaging,
			Meaning: "the next program that writes deletes it; if it looks like a snapshot, it was moved here", Advice: "move it to where it belongs, before anything writes, or run a repair, which sets it aside"})
		return nil
	})
	if err != nil || left == 0 {
		return err
	}
	alone, err := c.alone()
	if alone { // else they may be kept to be used again
		c.found(Finding{Path: c.path(format.StagingDir), Harmless: true, Problem: counted(left, "something is left in it", "%d directories and files are left in it"),
			Meaning: "a program was killed, or the power was cut, while it wrote, or it closed the store while another had it open", Advice: "the next program that writes deletes them, if they can be deleted"})
	}
	return err
}

// alone reports whether no other program has the store open.
func (c *checker) alone() (bool, error) {
	if c.problem != "" {
		return true, nil
	}
	alone, err := c.layout.Last()
	if err == nil {
		err = c.layout.Share()
	}
	return alone, err
}

// compare looks how the journal ends, whether the tree has what its lines say, and whether
// the links that seemed to be wrong are.
func (c *checker) compare() error {
	if c.view != nil && !c.journalBad {
		tail, err := c.view.CatchUp()
		c.view.Ready()
		if err == nil && c.view.Damage() == nil {
			err = c.compareLines(tail)
		}
		if err := c.foundDamage(errors.Join(err, c.view.Damage())); err != nil {
			return err
		}
	}
	return c.checkLinks()
}

func (c *checker) compareLines(tail journal.Tail) error {
	j := c.view.Journal()
	placed, err := j.Placed()
	if err != nil {
		return err
	}
	if !placed || tail.Torn || tail.Superseded || j.Published() < j.Tip() {
		c.found(Finding{Path: j.Path(), Harmless: true, Problem: "its last writer did not finish",
			Meaning: "a program was killed, or the power was cut, while it wrote; transactions that were acknowledged are there", Advice: "the next program that writes finishes what is whole"})
	}
	if !j.Header().Names.Known {
		c.found(Finding{Path: j.Path(), Harmless: true, Problem: "its header does not say which snapshots there are: a person wrote it",
			Meaning: "it would not be noticed if some were missing", Advice: "the next program that writes counts them; look before that whether all are there"})
	}
	names, err := j.Names(j.Header().Txn, j.Tip())
	if err != nil {
		return err
	}
	versions := c.view.Versions(names, j.Tip())
	for _, name := range names {
		if m, known := versions[name]; known && !c.holds(name, m) {
			c.content.behind[name] = true
			c.found(c.lags(name))
		}
	}
	return err
}

// holds reports whether the tree has exactly this version of a name.
func (c *checker) holds(name string, m *format.Snapshot) bool {
	if m == nil {
		there, _, err := c.tree.Exists(name)
		return err == nil && !there
	}
	data, err := c.snapshots.ReadFile(format.EncodeName(name)+"/"+format.MetadataFile, format.MaxFile)
	return err == nil && bytes.Equal(data, format.EncodeFile(m))
}

// lags says that a name lags, and what keeps it from being brought up, if that can be told.
func (c *checker) lags(name string) Finding {
	f := Finding{Path: c.tree.Path(name), Name: name, Harmless: true, Problem: "the tree does not have what the journal says",
		Meaning: "the journal decides, and nothing is lost"}
	if m, err := c.tree.Read(name); err == nil && m != nil && m.Txn > c.view.Journal().Tip() {
		f.Problem = fmt.Sprintf("the tree has it as of transaction %d, and the journal ends at %d", m.Txn, c.view.Journal().Tip())
		f.Meaning = "the journal decides; after a power cut that is right, and if an older journal was put in place, what came after it is undone when a program writes"
		f.Advice = "if the journal is a copy that was put back, put the right one back before any program writes; else nothing has to be done"
		return f
	}
	cause, remedy := c.cause(format.EncodeName(name))
	if f.Advice = adviseLagging(cause, remedy); cause != "" {
		f.Harmless = false
		f.Problem += ": " + cause
	}
	return f
}

// adviseLagging says what to do about a name that lags for a cause, "" where that is not known, which
// the remedy takes away, "" likewise.
func adviseLagging(cause, remedy string) string {
	switch {
	case cause == "":
		return adviseWait
	case remedy == "":
		remedy = "remove the cause (lsattr, findmnt, df and ls show more)"
	}
	return remedy + "; then " + adviseWait
}

// mountPoint is what obstacleAt says of one. snapshots/ may be one.
const mountPoint = "a mount point"

// cause says what keeps an entry of snapshots/ from being changed, and what takes that away, each ""
// where it can't be told.
func (s *store) cause(entry string) (cause, remedy string) {
	if obstacle := obstacleAt(s.root, format.SnapshotsDir); obstacle != "" && obstacle != mountPoint {
		return "snapshots/ is " + obstacle, s.remedy(s.root, format.SnapshotsDir)
	}
	there, isDir, err := s.snapshots.Exists(entry)
	switch {
	case err != nil:
		return err.Error(), ""
	case !there:
		return noRoom(s.snapshots), ""
	case !isDir:
		return "it is not a directory", ""
	}
	if obstacle := obstacleAt(s.snapshots, entry); obstacle != "" {
		return "it is " + obstacle, s.remedy(s.snapshots, entry)
	}
	dir, err := s.snapshots.OpenDirAt(entry)
	if err != nil {
		return err.Error(), ""
	}
	defer dir.Close() //nolint:errcheck // it was only read
	if obstacle := obstacleAt(dir, format.MetadataFile); obstacle != "" {
		return format.MetadataFile + " is " + obstacle, s.remedy(dir, format.MetadataFile)
	}
	if _, err := dir.ReadFile(format.MetadataFile, format.MaxFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error(), ""
	}
	return noRoom(s.snapshots), ""
}

// remedy says what takes an obstacle away, "" where that is not one command.
func (s *store) remedy(dir *disk.Dir, entry string) string {
	switch path := dir.Path + "/" + entry; {
	case flagAt(dir, entry) != "":
		return unflag + path
	case dir.IsMount(entry):
		return "umount " + path
	}
	return ""
}

// checkLinks looks again at the links that seemed to be wrong.
func (c *checker) checkLinks() error {
	var again []*format.Snapshot
	evidence := c.evidence(c.content)
	for name := range c.odd {
		m, err := c.tree.Read(name)
		if err == nil && m != nil && !c.content.behind[name] && !evidence[name] { // else that is a finding of its own
			again = append(again, m)
		}
	}
	odd, err := c.oddLinks(again)
	for name, problem := range odd {
		c.found(Finding{Path: c.link(name), Name: name, Harmless: true, Problem: problem,
			Meaning: "the snapshot can be used: its file says the parent; ls and readlink don't", Advice: "a repair makes the link anew"})
	}
	return err
}

// lookInside looks at each entry of snapshots/: what is in it, what its link says, and which
// user it belongs to. An entry that is gone meanwhile is passed over.
func (c *checker) lookInside() (err error) {
	for _, entry := range c.content.entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		c.noteOwner(c.snapshots, entry)
		if c.snapshots.IsMount(entry) {
			c.mounted = append(c.mounted, entry)
		}
		dir, err := c.snapshots.OpenDirAt(entry)
		if err != nil {
			continue // gone, or reported already
		}
		names, err := dir.Names()
		c.noteOwner(dir, format.MetadataFile)
		if err = errors.Join(err, dir.Close()); err != nil {
			continue // as above
		}
		names = slices.DeleteFunc(names, func(name string) bool { return name == format.MetadataFile || name == format.ParentLink })
		if len(names) > 0 {
			f := Finding{Path: c.path(format.SnapshotsDir, entry, slices.Min(names)), Harmless: true, Problem: "it is no part of the snapshot",
				Meaning: "the store ignores it, and deletes it with the snapshot", Advice: "move it away if it is needed"}
			if len(names) > 1 {
				f.Problem += counted(len(names)-1, "; nor is another beside it", "; nor are %d others beside it")
			}
			c.found(f)
		}
	}
	c.odd, err = c.oddLinks(c.content.byName()) // perhaps they are just being changed
	return err
}

// noteOwner notes what belongs to another user than the store does.
func (c *checker) noteOwner(dir *disk.Dir, name string) {
	if is, err := dir.Lstat(name); err == nil && is.UID != c.owner.UID {
		c.strangers = append(c.strangers, dir.Path+"/"+name)
	}
}

func (c *checker) checkOwners() {
	if len(c.strangers) == 0 {
		return
	}
	f := Finding{Path: slices.Min(c.strangers), Problem: fmt.Sprintf("it belongs to another user than the store, user %d", c.owner.UID),
		Meaning: "programs of that user may not be able to use it", Advice: fmt.Sprintf("chown -hR --reference=%[1]s %[1]s", c.dir)}
	if n := len(c.strangers) - 1; n > 0 {
		f.Problem += counted(n, "; so does another", "; so do %d others")
	}
	c.found(f)
}
