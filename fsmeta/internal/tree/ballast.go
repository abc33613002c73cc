package tree

import (
	"errors"
	"io/fs"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Ballast is a file of staging/ that takes room, to be given up when a removal finds none: a
// filesystem that copies on write has to allocate even to overwrite, and a journal may have to
// grow. It stays while the store is closed.
const Ballast = "ballast"

// KeepBallast makes the ballast of size bytes, if there is none. It is for a full disk alone, so
// that nothing is reported where it can't be made. A crash leaves it, a part of it, or none.
func (t *Tree) KeepBallast(size int) {
	staging := t.staging.At()
	if _, err := staging.Lstat(Ballast); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := staging.Create(Ballast, make([]byte, size), format.FileMode, t.owner); err != nil {
		_ = staging.RemoveAll(Ballast) // a part of it is what there is no room for
	}
}

// DropBallast gives the ballast up, and reports whether there was any. A crash leaves it or not.
func (t *Tree) DropBallast() bool {
	return t.staging.At().Unlink(Ballast) == nil
}
