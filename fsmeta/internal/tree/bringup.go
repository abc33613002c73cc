package tree

import (
	"bytes"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// BringUp brings the names of w up to it, the removals first (a commit's directory moves with its
// removal), and returns those that lag and why; nil for none. It goes on behind each failure. The names in skip
// lag already: what was staged for them is not used (renames out of order would be wrong); instead they are
// compared and built as with Wanted, for their version in w. The line that says so is durable, or the caller
// syncs the tree before the journal forgets it. A crash leaves each name before, after or between the steps;
// so may an error leave the name that it is about.
func (t *Tree) BringUp(w *Work, skip func(name string) bool) (lagging map[string]error) {
	note := func(name string, err error) {
		if err == nil {
			return
		}
		if lagging == nil {
			lagging = map[string]error{}
		}
		lagging[name] = err
	}
	for i := range w.steps {
		s := &w.steps[i]
		if skip != nil && (skip(s.name) || s.how == move && skip(w.steps[s.from].name)) {
			w.withdraw(s)
		}
	}
	// 1. Removals, which make room for the rest.
	for i := range w.steps {
		if s := &w.steps[i]; s.how == remove {
			note(s.name, t.clear(w, format.EncodeName(s.name), s.parent))
		}
	}
	// 2. Commits. Where one fails, key and name are brought up each by itself.
	for i := range w.steps {
		s := &w.steps[i]
		if s.how != move || t.move(w, s) == nil {
			continue
		}
		key := &w.steps[s.from]
		w.withdraw(s)
		note(key.name, t.clear(w, format.EncodeName(key.name), ""))
	}
	// 3. Snapshots that stay or are new.
	for i := range w.steps {
		s := &w.steps[i]
		if s.how == replace && t.update(w, s, format.EncodeName(s.name)) != nil {
			w.withdraw(s)
		}
		switch s.how {
		case create:
			note(s.name, t.build(w, s))
		case compare:
			note(s.name, t.compare(w, s))
		}
	}
	return lagging
}

// withdraw makes a step one that compares. Its staged entry is left over.
func (w *Work) withdraw(s *step) {
	if s.after == nil {
		return
	}
	w.leave(s, s.how != create)
	if s.how == move {
		w.steps[s.from].how = remove
	}
	s.how = compare
}

// leave makes the staged entry of a step, a file or a directory, one that is left over.
func (w *Work) leave(s *step, file bool) {
	if s.entry != "" {
		w.left = append(w.left, leftover{s.entry, file, s.after.Parent})
		s.entry = ""
	}
}

// move makes the directory of a key that of the snapshot that it was committed as: the
// file first, so that no crash leaves the name with the key's content. A crash leaves key and name
// before, after or between the steps; an error the same.
func (t *Tree) move(w *Work, s *step) error {
	key := format.EncodeName(w.steps[s.from].name)
	if err := t.update(w, s, key); err != nil {
		return err
	}
	return t.renameNew(w, t.snapshots.At(), key, format.EncodeName(s.name))
}

// update makes a directory of snapshots/ hold the version of s: its file and its link. A step that
// compares stages the file, unless the directory has it. A crash leaves the old file or the new one;
// an error the same, and perhaps the staged file.
func (t *Tree) update(w *Work, s *step, entry string) error {
	dir, err := t.snapshots.At().Enter(entry)
	if err != nil {
		return err
	}
	if s.how == compare && !holds(dir, s.after) {
		s.entry, err = t.stageFile(s.after)
	}
	if err == nil && s.entry != "" {
		err = t.putFile(w, s, dir)
	}
	if err == nil && (s.how == compare || s.parent != s.after.Parent) {
		_ = t.setLink(dir, s.after.Parent) // the file decides; a check finds the difference
	}
	return errors.Join(err, dir.Close())
}

// putFile gives the staged file of s the place of metadata.json in a directory. The old file
// goes to staging/, if there is one and the filesystem can do that. A crash or an error leaves
// the old one or the new one.
func (t *Tree) putFile(w *Work, s *step, dir disk.At) error {
	staging := t.staging.At()
	err := t.withRoom(func() error { return disk.Exchange(staging, s.entry, dir, format.MetadataFile) })
	if err == nil {
		w.left = append(w.left, leftover{entry: s.entry, file: true})
	} else if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrNotExist) {
		err = t.withRoom(func() error { return disk.Rename(staging, s.entry, dir, format.MetadataFile) })
	}
	if err == nil {
		s.entry = ""
	}
	return err
}

// compare makes the tree hold the version of s: nothing where it does, the file where its directory
// is there, else the directory. A crash leaves the old state, the version, or nothing; an error the
// same.
func (t *Tree) compare(w *Work, s *step) error {
	if w.rebuild {
		return t.build(w, s)
	}
	err := t.update(w, s, format.EncodeName(s.name))
	if err == nil {
		return nil
	}
	w.leave(s, true)
	berr := t.build(w, s)
	if berr == nil || errors.Is(err, fs.ErrNotExist) || noDirectory(err) {
		return berr
	}
	return errors.Join(err, berr)
}

// holds reports whether a directory has exactly this version's file. A file that can't be read
// is not it: replacing it succeeds, or returns the error.
func holds(dir disk.At, s *format.Snapshot) bool {
	want := format.EncodeFile(s)
	data, err := dir.ReadFile(format.MetadataFile, int64(len(want)))
	return err == nil && bytes.Equal(data, want)
}

// build puts the directory of s in its place: the staged one, or else one that it stages before the old
// one is taken away. A crash or an error leaves the old one, the version, or nothing.
func (t *Tree) build(w *Work, s *step) (err error) {
	if s.entry == "" {
		if s.entry, err = t.stageDir(s.after); err != nil {
			return err
		}
	}
	if err = t.renameNew(w, t.staging.At(), s.entry, format.EncodeName(s.name)); err != nil {
		w.leave(s, false)
	}
	s.entry = ""
	return err
}

// renameNew renames a directory to an entry of snapshots/. Anything in its place goes out to
// staging/ first. A crash or an error leaves the directory where it was, and its place as it was or
// empty.
func (t *Tree) renameNew(w *Work, from disk.At, old, entry string) error {
	rename := func() error { return disk.RenameNew(from, old, t.snapshots.At(), entry) }
	err := t.withRoom(rename)
	if errors.Is(err, fs.ErrExist) {
		if err = t.clear(w, entry, ""); err == nil {
			err = t.withRoom(rename)
		}
	}
	return err
}

// clear takes an entry out of snapshots/: to staging/, or, where it can't be renamed, by deleting
// it where it is. A mount point stays: its content is not the store's. parent is the parent that
// its link should say. A crash leaves it here, there or, while it is deleted, a part of it; an error the same.
func (t *Tree) clear(w *Work, entry, parent string) error {
	snapshots, to := t.snapshots.At(), t.newName()
	err := t.withRoom(func() error { return disk.Rename(snapshots, entry, t.staging.At(), to) })
	if err == nil {
		w.left = append(w.left, leftover{to, false, parent})
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) { // or it is staging/ that is gone
		if there, _, lerr := t.snapshots.Exists(entry); lerr == nil && !there {
			return nil
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return err
	}
	if rerr := snapshots.RemoveAll(entry, format.MetadataFile, format.ParentLink); rerr != nil {
		return errors.Join(err, rerr)
	}
	return nil
}

// withRoom makes a call that leaves nothing where it fails, and, if that is for lack of room,
// once more after the spares are deleted.
func (t *Tree) withRoom(call func() error) error {
	err := call()
	if fault.NoRoom(err) && t.DropSpares() {
		err = call()
	}
	return err
}
