package tree

import (
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// What makes a snapshot slow to create is its inodes: some filesystems take ten times as long
// for one, for minutes, after many were freed. So directories of removed snapshots and replaced
// metadata.json are kept in staging/ and filled again. They are for speed alone. (Measured on ext4
// and xfs, each alone: without kept files an update takes 30 to 48 % longer and a commit 34 to
// 52 %, without kept directories create and remove in turn 28 to 31 %.)
//
// One that is filled again may, after a power cut, be found under a name that it had before,
// with content that never became durable elsewhere. The journal's lines name it there until a
// checkpoint has synced that name. A reader that had opened the file finds another version in
// it, or a mixture, and asks the journal.
const maxSpares = 64 // of each kind

// takeSpare takes a kept file or directory; of the directories one with a link to the parent rather
// than another. ok is false where there is none.
func (t *Tree) takeSpare(file bool, parent string) (entry string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.spares[file]
	i := len(kept) - 1
	if i < 0 {
		return "", false
	}
	for j := i; j >= 0 && !file; j-- {
		if kept[j].parent == parent {
			i = j
			break
		}
	}
	entry = kept[i].entry
	t.spares[file] = slices.Delete(kept, i, i+1)
	return entry, true
}

// Recycle keeps what BringUp has left over in staging/ to be used again, or deletes it. It needs no lock
// of the caller, so that committers need not wait for it. An entry that can't be deleted is left for Clean. A
// crash leaves all of it.
func (t *Tree) Recycle(w *Work) {
	for _, l := range w.left {
		if w.rebuild || !t.keep(l) { // the old inodes of a rebuilt snapshot may not be on disk
			_ = t.staging.At().RemoveAll(l.entry) // else Clean deletes it, or says why it can't be
		}
	}
	w.left = nil
}

// keep keeps an entry of staging/, unless there are enough or Stage could not have made it. Another process
// may make hard links of it later; so a file is looked at again when it is taken.
func (t *Tree) keep(l leftover) bool {
	t.mu.Lock()
	full := len(t.spares[l.file]) >= maxSpares
	t.mu.Unlock()
	if full || !t.plain(l) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spares[l.file] = append(t.spares[l.file], l)
	return true
}

// plain reports whether an entry of staging/ is a file that may be overwritten, or a directory
// that holds the files of a snapshot and nothing else.
func (t *Tree) plain(l leftover) bool {
	staging := t.staging.At()
	if l.file {
		is, err := staging.Lstat(l.entry)
		return err == nil && is.Plain(format.FileMode, t.owner)
	}
	dir, err := staging.EnterToRead(l.entry)
	if err != nil {
		return false
	}
	plain := plainSnapshot(dir, t.owner)
	return dir.Close() == nil && plain
}

func plainSnapshot(dir disk.At, owner disk.Owner) bool {
	is, err := dir.Stat()
	if err != nil || is.Perm != format.DirMode || is.UID != owner.UID {
		return false
	}
	if is, err = dir.Lstat(format.MetadataFile); err != nil || !is.Plain(format.FileMode, owner) {
		return false
	}
	only, err := dir.HoldsOnly(format.MetadataFile, format.ParentLink)
	return err == nil && only
}

// DropSpares deletes the spares and the kept links, to make room, and reports whether there were any
// spares. An entry that can't be deleted is left for Clean. A crash or an error leaves a part.
func (t *Tree) DropSpares() bool {
	t.dropLinks()
	s := t.forget()
	for _, l := range slices.Concat(s[true], s[false]) {
		_ = t.staging.At().RemoveAll(l.entry) // else Clean deletes it, or says why it can't be
	}
	return len(s[true])+len(s[false]) > 0
}

// forget keeps nothing any more, links neither, and returns the spares.
func (t *Tree) forget() map[bool][]leftover {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.spares
	t.spares, t.links = map[bool][]leftover{}, map[string]string{}
	return s
}
