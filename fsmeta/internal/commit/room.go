package commit

import (
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// Removals have to succeed on a full disk, since they make room. The journal is filled ahead
// for their lines, also where the store is closed, and grows with the room that they make.
//
// On btrfs that is not enough: on a full one renames fail for thousands of removals, and so do
// checkpoints. There the journal is filled ahead for all these removals, and not copied on
// write; and ballast is kept, which is given up where the journal has to grow, or a quota
// leaves no room to overwrite.
const (
	ahead      = checkpointSize + journal.FillChunk
	aheadBtrfs = 2 << 20
)

// Ahead returns how far a journal in dir is filled ahead, in bytes.
func Ahead(dir *disk.Dir) int {
	if onBtrfs(dir) {
		return aheadBtrfs
	}
	return ahead
}

// keepBallast makes the ballast where it is of use and missing.
func (w *Writer) keepBallast() {
	if w.ahead == aheadBtrfs {
		w.tree.KeepBallast(aheadBtrfs)
	}
}

// makeRoom makes room for a line that has found none: first spares and, for removals, the
// ballast are given up. Where that was not enough, the lines are dropped: a journal without
// lines needs less room, and that of the old one is free then.
func (w *Writer) makeRoom(try int, removal bool) bool {
	if try == 0 {
		w.tree.DropSpares()
		if removal && w.tree.DropBallast() {
			return true
		}
	}
	return try <= 1 && w.Fold() == nil
}
