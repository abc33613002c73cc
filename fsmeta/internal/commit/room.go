package commit

import (
	"errors"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// Removals have to succeed on a full disk, since they make room. The journal is filled ahead
// for their lines, also where the store is closed, and grows with the room that they make. After an
// unclean end a take-over comes first, which may have to make a journal: ballast of the size
// of one is kept, and given up for that, or where the journal has to grow.
//
// On btrfs that is not enough: on a full one renames fail for thousands of removals, and so do
// checkpoints. There the journal is filled ahead for all these removals, and not copied on
// write; and the ballast is given up, too, where a quota leaves no room to overwrite.
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

// withBallast makes a call that removals can't do without, once more where it finds no room: then
// the ballast is given up before. A crash or an error leaves the ballast or not, and of the call
// what that leaves.
func (w *Writer) withBallast(call func() error) error {
	err := call()
	if noRoom(err) {
		w.tree.DropBallast()
		w.tree.AwaitRoom()
		err = call()
	}
	return err
}

// noRoom reports whether err says that there is no room, and that nothing else is wrong.
func noRoom(err error) bool { return fault.NoRoom(err) && !errors.Is(err, fault.ErrSync) }

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
