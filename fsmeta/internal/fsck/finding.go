// Package fsck looks for what is wrong with a store, repairs it, and reads what repairs have
// set aside.
package fsck

import (
	"fmt"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
)

// Finding is something in a store that is not as the store left it, or not as it should
// stay. Package fsmeta converts it to its own type of that name.
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

// What a finding advises.
const (
	adviseNothing  = "nothing has to be done"
	adviseRepair   = "stop what uses the store and run a repair, or see docs/repair.md"
	adviseRestore  = "restore it from a backup, see docs/repair.md"
	adviseSnapshot = "stop what uses the store, then correct the file and delete its line with crc32c, or put the directory back from a backup, or else run a repair, which sets it aside"
	adviseStray    = "move it to where it belongs, or run a repair, which sets it aside"
	adviseNoDir    = "stop what uses the store, then move it away and put the snapshot's directory back from a backup, or else run a repair, which sets it aside"
	adviseNoFile   = "stop what uses the store, then put the directory back from a backup, or else run a repair, which sets it aside"
	adviseKind     = "look which of the two was edited by hand, and edit it back: the parent's kind or this one's parent, see docs/repair.md"
	adviseUnmount  = "unmount it (findmnt -R shows it)"
	adviseWait     = "the next program that writes, or its next checkpoint, tries to bring the tree up to it"

	adviseUnreadable = "give the user of the store access to it (chown -hR, chmod -R u+rwX), or look in dmesg for an error of the disk; a repair leaves it as it is, and what stands on it"
)

// adviseParent says what to do about a snapshot of which the parent is missing.
func (s *store) adviseParent() string {
	return "stop what uses the store, then put the parent back from a backup, damaged/ or lost+found: that mends all that stand on it; if it is gone for good, fsmeta repair --accept-tree " + s.dir + " sets them aside"
}

// strangeInStaging is the problem of an entry of staging/ that is not IsStaged.
const strangeInStaging = "the store puts nothing of that name here"

// counted returns one where n is 1, else many with the number in it.
func counted(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf(many, n)
}

// problemOf returns the problem in damage that says what to do, too, behind a semicolon; adviceOf
// the rest.
func problemOf(damage *fault.Damaged) string {
	problem, _, _ := strings.Cut(fault.ProblemOf(damage), "; ")
	return problem
}

func adviceOf(damage *fault.Damaged) string {
	_, advice, _ := strings.Cut(fault.ProblemOf(damage), "; ")
	return advice
}
