package fsmeta

import (
	"context"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fsck"
)

// Finding is something in a store that is not as the store left it, or not as it should
// stay.
type Finding struct {
	Path    string // the file or directory to look at
	Name    string // of the snapshot, "" where it can't be known or it isn't one
	Problem string // what is the case
	Meaning string // what that means for the users of the store
	Advice  string // what to do

	// Harmless: nothing is lost, and the store goes on by itself.
	Harmless bool
	// Repaired is what Repair has done about it, "" where it has done nothing. Meaning and
	// Advice are empty then.
	Repaired string
	// Aside is where Repair has put a snapshot that the store does not have any more, or
	// what else a person has to look at before content is deleted.
	Aside string
}

// String returns all of it in one line.
func (f Finding) String() string {
	s := printable(f.Path) + ": "
	if f.Name != "" {
		s += fmt.Sprintf("snapshot %.256q: ", f.Name)
	}
	if s += f.Problem; f.Repaired != "" {
		return s + "; repaired: " + f.Repaired
	}
	return s + "; " + f.Meaning + "; " + f.Advice
}

// printable quotes a path that would spoil the line: what stands in snapshots/ may have any name.
func printable(path string) string {
	for _, r := range path {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return strconv.Quote(path)
		}
	}
	return path
}

// Check looks for everything that can be wrong with the store in dir: files that are
// missing, damaged or foreign, a journal that is damaged, names that lag behind it,
// snapshots that are missing, parents that are missing, active or lead in a circle, links
// that do not say the parent, identifiers that two snapshots have or that could be handed
// out again, names that don't belong in their directories, and what a crash has left. It
// returns what it found, in order of the paths; findings that are Harmless are among it.
//
// It changes nothing, and can be used while others have the store open, on a read-only
// mount too; writers may wait for it for some milliseconds. Where one transaction holds the
// lock for longer than two seconds, the caller's own for one, that journal and tree agree is
// not checked, which is a finding then. It reads every snapshot, at some 30 microseconds
// each from memory. Progress, unless it is nil, gets how many of how many were read.
//
// An error means that it could not be checked: [ErrNotStore] where there is nothing of a
// store, the context's, and those of the filesystem.
func Check(ctx context.Context, dir string, progress func(done, total int)) ([]Finding, error) {
	findings, err := fsck.Check(ctx, dir, progress)
	return findingsOf(findings), err
}

// A RepairOption changes what [Repair] does.
type RepairOption func(*fsck.RepairOptions)

// AcceptTree makes [Repair] take the snapshots that are there for the truth, where the
// journal has counted others or more, or is lost: those that are missing are given up, and
// what stands on them is set aside.
func AcceptTree() RepairOption {
	return func(o *fsck.RepairOptions) { o.AcceptTree = true }
}

// Repair mends what it safely can in the store in dir, which no program may have open: else
// the error is [ErrInUse]. It returns what it found, those mended with what was done in
// Repaired, and then what [Check] still finds.
//
//   - A layout, journal or staging directory that is missing is made again.
//   - A file backup that is damaged is replaced by one that keeps all content so far, see
//     [Store.RestoredBelow].
//   - A journal that is damaged is replaced: by the tree, where needed completed from the
//     lines that can be read, just as reads of the damaged store had it. Where nothing in it
//     tells which snapshots there were, that takes [AcceptTree].
//   - A directory under a wrong name is moved to where its metadata belongs, and a parent
//     link that does not say the parent is made again.
//   - Every other snapshot that is damaged, with those that stand on it, and what
//     doesn't belong in snapshots/, is set aside, in damaged/TIME/ below dir.
//   - What can't be read for want of permission, or by an error of the disk, is left as it is,
//     and so is what stands on it.
//   - Snapshots that are missing stay missing, and a finding, and so are those that stand on
//     them, unless [AcceptTree] is given: put back, they mend all that.
//   - Where the tree is of a later transaction than the journal, identifiers and transactions
//     go on above it.
//   - A journal or snapshots/ that is a symlink to where it is, and a journal of a later version of
//     the format, are errors that say what to do.
//
// A part that can't be mended is a finding, and keeps no other from being mended. It deletes
// nothing but what a writer would delete; what it replaces is set aside, too. But the store
// does not know the identifiers of snapshots that were set aside any more: [Store.Orphans]
// and [SetAside] keep a driver from deleting their content. Identifiers that two snapshots
// have are left as they are.
//
// A crash or an error at any point leaves a store that is no more damaged than before, and
// that Repair can be run on again. Progress is as with Check. Other errors are as with
// Check.
func Repair(ctx context.Context, dir string, progress func(done, total int), opts ...RepairOption) ([]Finding, error) {
	var o fsck.RepairOptions
	for _, opt := range opts {
		opt(&o)
	}
	findings, err := fsck.Repair(ctx, dir, o, progress)
	return findingsOf(findings), err
}

func findingsOf(findings []fsck.Finding) []Finding {
	var out []Finding
	for _, f := range findings {
		out = append(out, Finding(f))
	}
	return out
}

// SetAside returns the identifiers of the snapshots that repairs of the store in dir have set
// aside, which it does not know any more: a driver keeps their content for as long as they
// are there. Some may be known all the same, of what was mended. [Store.Orphans] heeds it.
//
// Where the identifiers of some can't be told for sure, it returns the others, and an error
// that is [ErrDamaged] and names the paths: each may be any that no snapshot has, so content
// that is not known to be of a removed snapshot should be kept until a person has looked at
// them. Other errors are those of the filesystem. It reads each of them, and may be called
// while the store is in use, but not during a repair.
func SetAside(dir string) ([]string, error) { return fsck.SetAside(dir) }
