package tree

import (
	"errors"
	"io/fs"
	"math/rand/v2"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Ballast is a file of staging/ that takes room, to be given up when a removal or a take-over finds
// none: a journal may have to grow, or to be made, and a filesystem that copies on write has to allocate
// even to overwrite. It stays while the store is closed.
const Ballast = "ballast"

// KeepBallast makes the ballast of size bytes, if it is not there, or only a part of it. It is for a
// full disk alone, so that nothing is reported where it can't be made. A crash leaves it, a part
// of it, or none.
func (t *Tree) KeepBallast(size int) {
	staging := t.staging.At()
	is, err := staging.Lstat(Ballast)
	if err == nil && is.Size >= int64(size) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	_ = staging.RemoveAll(Ballast) // what a crash has left, or nothing
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // no filesystem makes less of it
	if err := staging.Create(Ballast, data, format.FileMode, t.owner); err != nil {
		_ = staging.RemoveAll(Ballast) // a part of it is what there is no room for
	}
}

// DropBallast gives the ballast up, and reports whether there was any. A crash leaves it, an empty
// file or nothing.
func (t *Tree) DropBallast() bool {
	staging := t.staging.At()
	_ = staging.Overwrite(Ballast, nil, format.FileMode, t.owner) // xfs frees what a deleted file had later
	return staging.Unlink(Ballast) == nil
}

// AwaitRoom returns when the room of what was deleted can be used: btrfs frees it with a commit of
// the filesystem. Where that can't be asked for, a later try finds the room. It changes nothing,
// and says nothing of what is durable.
func (t *Tree) AwaitRoom() {
	dir, err := t.root.OpenDirAt(format.StagingDir) // not root: Sync must not miss an error that this is told
	if err != nil {
		return
	}
	_ = atomic.SyncFilesystem(dir.File)
	_ = dir.Close()
}
