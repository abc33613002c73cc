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
		switch s := &w.steps[i]; s.how {
		case create:
			note(s.name, t.create(w, s))
		case replace:
			note(s.name, t.replace(w, s))
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
	if s.entry != "" {
		w.left = append(w.left, leftover{s.entry, s.how != create, s.after.Parent})
		s.entry = ""
	}
	if s.how == move {
		w.steps[s.from].how = remove
	}
	s.how = compare
}

// create puts a staged directory in its place. A crash leaves it there or in staging/; an error
// leaves it in staging/, and its place as it was or empty.
func (t *Tree) create(w *Work, s *step) error {
	err := t.place(w, s.entry, format.EncodeName(s.name))
	if err != nil {
		w.left = append(w.left, leftover{s.entry, false, s.after.Parent})
	}
	s.entry = ""
	return err
}

// replace puts a staged file in the place of the old one, or builds the directory anew where
// that can't be done. A crash leaves the old file, the new one, or no directory; an error the same.
func (t *Tree) replace(w *Work, s *step) error {
	dir, err := t.snapshots.At().Enter(format.EncodeName(s.name))
	if err == nil {
		err = t.putFile(w, s, dir)
		if err == nil && s.parent != s.after.Parent {
			_ = t.setLink(dir, s.after.Parent) // the file decides; a check finds the difference
		}
		err = errors.Join(err, dir.Close())
	}
	if err == nil {
		return nil
	}
	w.withdraw(s)
	return t.buildAfter(err, w, s)
}

// move makes the directory of a key that of the snapshot that it was committed as: the
// file first, so that no crash leaves the name with the key's content. A crash leaves key and name
// before, after or between the steps; an error the same.
func (t *Tree) move(w *Work, s *step) error {
	snapshots := t.snapshots.At()
	key, entry := format.EncodeName(w.steps[s.from].name), format.EncodeName(s.name)
	dir, err := snapshots.Enter(key)
	if err != nil {
		return err
	}
	err = t.putFile(w, s, dir)
	if err == nil && s.parent != s.after.Parent {
		_ = t.setLink(dir, s.after.Parent) // the file decides; a check finds the difference
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return err
	}
	return t.renameNew(w, snapshots, key, entry)
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
	dir, err := t.snapshots.At().Enter(format.EncodeName(s.name))
	if err != nil {
		return t.buildAfter(err, w, s)
	}
	if !holds(dir, s.after) {
		if s.entry, err = t.stageFile(s.after); err == nil {
			err = t.putFile(w, s, dir)
		}
	}
	if err == nil {
		_ = t.setLink(dir, s.after.Parent) // the file decides; a check finds the difference
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		if s.entry != "" {
			w.left = append(w.left, leftover{entry: s.entry, file: true})
			s.entry = ""
		}
		return t.buildAfter(err, w, s)
	}
	return nil
}

// holds reports whether a directory has exactly this version's file. A file that can't be read
// is not it: replacing it succeeds, or returns the error.
func holds(dir disk.At, s *format.Snapshot) bool {
	want := format.EncodeFile(s)
	data, err := dir.ReadFile(format.MetadataFile, int64(len(want)))
	return err == nil && bytes.Equal(data, want)
}

// buildAfter builds the directory of s because of err, and forgets err if it can.
func (t *Tree) buildAfter(err error, w *Work, s *step) error {
	berr := t.build(w, s)
	if berr == nil || errors.Is(err, fs.ErrNotExist) || noDirectory(err) {
		return berr
	}
	return errors.Join(err, berr)
}

// build stages the directory of s and puts it in its place. The directory is staged before the
// old one is taken away. A crash or an error leaves the old one, the version, or nothing.
func (t *Tree) build(w *Work, s *step) error {
	entry, err := t.stageDir(s.after)
	if err != nil {
		return err
	}
	if err = t.place(w, entry, format.EncodeName(s.name)); err != nil {
		w.left = append(w.left, leftover{entry, false, s.after.Parent})
	}
	return err
}

// place renames a staged directory to an entry of snapshots/. A crash or an error leaves it in
// staging/, and its place as it was or empty.
func (t *Tree) place(w *Work, staged, entry string) error {
	return t.renameNew(w, t.staging.At(), staged, entry)
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
	snapshots, staging, to := t.snapshots.At(), t.staging.At(), t.newName()
	rename := func() error { return disk.Rename(snapshots, entry, staging, to) }
	err := rename()
	if errors.Is(err, fs.ErrNotExist) { // or it is staging/ that is gone
		if there, lerr := t.ExistsEntry(entry); lerr == nil && !there {
			return nil
		}
	}
	if err != nil && !errors.Is(err, unix.EBUSY) && t.dropSpares() {
		err = rename()
	}
	if err == nil {
		w.left = append(w.left, leftover{to, false, parent})
		return nil
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
	if fault.NoRoom(err) && t.dropSpares() {
		err = call()
	}
	return err
}
