package tree

import (
	"errors"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// What makes a snapshot slow to create is its inodes: some filesystems take ten times as long
// for one, for minutes, after many were freed. So directories of removed snapshots and replaced
// metadata.json are kept in staging/ and filled again. They are for speed alone.
//
// One that is filled again may, after a power cut, be found under a name that it had before,
// with content that never became durable elsewhere. The journal's lines name it there until a
// checkpoint has synced that name. A reader that had opened the file finds another version in
// it, or a mixture, and asks the journal.
const maxSpares = 64 // of each kind

// spares are the entries of staging/ that a Tree keeps for later.
type spares struct {
	dirs  []spareDir
	files []string
}

// spareDir is a directory of a snapshot that is not used.
type spareDir struct {
	entry  string
	parent string // name of the parent that its link should say, "" for none
}

// takeDir takes a kept directory, one with a link to the parent rather than another. ok is
// false where there is none.
func (t *Tree) takeDir(parent string) (entry string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := len(t.spares.dirs) - 1
	if i < 0 {
		return "", false
	}
	for j := i; j >= 0; j-- {
		if t.spares.dirs[j].parent == parent {
			i = j
			break
		}
	}
	entry = t.spares.dirs[i].entry
	t.spares.dirs = slices.Delete(t.spares.dirs, i, i+1)
	return entry, true
}

// takeFile takes a kept file.
func (t *Tree) takeFile() (entry string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := len(t.spares.files) - 1
	if last < 0 {
		return "", false
	}
	entry = t.spares.files[last]
	t.spares.files = t.spares.files[:last]
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

// keep keeps an entry of staging/, unless there are enough or Stage could not have made it. Another process may make hard links of it later; so a file is looked at again when it is taken.
func (t *Tree) keep(l leftover) bool {
	t.mu.Lock()
	full := len(t.spares.dirs) >= maxSpares
	if l.file {
		full = len(t.spares.files) >= maxSpares
	}
	t.mu.Unlock()
	if full {
		return false
	}
	if l.file {
		is, err := t.staging.At().Lstat(l.entry)
		if err != nil || !is.Plain(format.FileMode, t.owner) {
			return false
		}
	} else if plain, err := t.plainDir(l.entry); err != nil || !plain {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.file {
		t.spares.files = append(t.spares.files, l.entry)
	} else {
		t.spares.dirs = append(t.spares.dirs, spareDir{l.entry, l.parent})
	}
	return true
}

// plainDir reports whether a directory in staging/ holds the files of a snapshot and nothing
// else.
func (t *Tree) plainDir(entry string) (bool, error) {
	dir, err := t.staging.At().EnterToRead(entry)
	if err != nil {
		return false, err
	}
	plain, err := plainSnapshot(dir, t.owner)
	return plain, errors.Join(err, dir.Close())
}

func plainSnapshot(dir disk.At, owner disk.Owner) (bool, error) {
	is, err := dir.Stat()
	if err != nil || is.Perm != format.DirMode || is.UID != owner.UID {
		return false, err
	}
	if is, err = dir.Lstat(format.MetadataFile); err != nil || !is.Plain(format.FileMode, owner) {
		return false, err
	}
	return dir.HoldsOnly(format.MetadataFile, format.ParentLink)
}

// DropSpares deletes the spares, to make room. An entry that can't be deleted is left for Clean. A
// crash or an error leaves a part.
func (t *Tree) DropSpares() { t.dropSpares() }

// dropSpares reports whether anything was kept.
func (t *Tree) dropSpares() bool {
	s := t.forget()
	for _, d := range s.dirs {
		_ = t.staging.At().RemoveAll(d.entry) // else Clean deletes it, or says why it can't be
	}
	for _, entry := range s.files {
		_ = t.staging.At().RemoveAll(entry) // likewise
	}
	return len(s.dirs)+len(s.files) > 0
}

// forget keeps nothing any more, and returns the spares.
func (t *Tree) forget() spares {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.spares
	t.spares = spares{}
	return s
}
