package tree

import (
	"errors"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Work is what brings names up to a line, or to several: staged for a transaction (Stage), or found by
// comparing (Wanted).
type Work struct {
	steps   []step
	rebuild bool // build also versions that the tree seems to hold
	left    []leftover
}

// step is the work on one name.
type step struct {
	name   string
	after  *format.Snapshot // nil for no directory
	how    way
	entry  string // in staging/: a directory (create), or a file (replace, move); "" for nothing
	from   int    // move: the step that removes the key
	parent string // of the version that the directory has now, "" for none
}

// way is how a step brings its name up.
type way uint8

const (
	compare way = iota // look at the tree, and build after if it differs
	remove             // after is nil
	create             // entry is the directory
	replace            // entry is the file
	move               // entry is the file, and the directory that of the key
	moved              // of the key: the step of the name does it
)

// leftover is an entry of staging/ that no step needs.
type leftover struct {
	entry  string
	file   bool
	parent string // of a directory: the parent that its link should say
}

// Stage builds the changes of a transaction under staging/: the directory of a created snapshot, the file of
// a changed or committed one. Nothing is synced. staged, unless it is nil, is told how many of the
// changes are staged. An error leaves nothing but what can't be deleted, for Clean. A crash leaves garbage
// in staging/.
func (t *Tree) Stage(changes []format.Change, staged func(int)) (*Work, error) {
	w := plan(changes)
	for i := range w.steps {
		s := &w.steps[i]
		var err error
		switch s.how {
		case create:
			s.entry, err = t.stageDir(s.after)
		case replace, move:
			s.entry, err = t.stageFile(s.after)
		}
		if err != nil {
			return nil, errors.Join(err, t.Discard(w))
		}
		if staged != nil {
			staged(i + 1)
		}
	}
	return w, nil
}

// plan decides how each change is brought up.
func plan(changes []format.Change) *Work {
	w := &Work{steps: make([]step, len(changes))}
	removed, created := 0, 0
	for i, c := range changes {
		s := step{name: c.Name, after: c.After, how: replace}
		if c.Before != nil {
			s.parent = c.Before.Parent
		}
		switch {
		case c.After == nil:
			s.how = remove
			removed++
		case c.Before == nil:
			s.how = create
			created++
		}
		w.steps[i] = s
	}
	if removed > 0 && created > 0 {
		w.pair(changes)
	}
	return w
}

// pair finds the commits: a key that is gone, and a new name with the same identifier.
func (w *Work) pair(changes []format.Change) {
	keys := map[string]int{}
	for i, c := range changes {
		if c.Before != nil && c.After == nil {
			keys[c.Before.ID] = i
		}
	}
	for i, c := range changes {
		if c.Before != nil || c.After == nil {
			continue
		}
		key, ok := keys[c.After.ID]
		if !ok {
			continue
		}
		delete(keys, c.After.ID)
		w.steps[key].how = moved
		w.steps[i].how, w.steps[i].from, w.steps[i].parent = move, key, changes[key].Before.Parent
	}
}

// Wanted returns the work that makes the tree hold these versions (nil: no directory), of which
// nothing is staged: BringUp compares each with the tree and builds those that differ; with rebuild
// all (a version that can be read may not be on disk).
func Wanted(versions map[string]*format.Snapshot, rebuild bool) *Work {
	w := &Work{steps: make([]step, 0, len(versions)), rebuild: rebuild}
	for name, s := range versions {
		how := compare
		if s == nil {
			how = remove
		}
		w.steps = append(w.steps, step{name: name, after: s, how: how})
	}
	return w
}

// Discard deletes the staged entries of a transaction that has written no line. A crash or an
// error leaves a part, for Clean.
func (t *Tree) Discard(w *Work) error {
	var err error
	for i := range w.steps {
		if s := &w.steps[i]; s.entry != "" {
			err = errors.Join(err, t.staging.At().RemoveAll(s.entry))
			s.entry = ""
		}
	}
	return err
}

// stageDir builds the directory of a snapshot in staging/, of a kept one where there is one,
// and returns its entry. A crash leaves garbage; an error leaves nothing, or joins that of deleting it.
func (t *Tree) stageDir(s *format.Snapshot) (string, error) {
	data := format.EncodeFile(s)
	if entry, ok := t.takeSpare(false, s.Parent); ok {
		if t.fill(entry, data, s, true) == nil {
			return entry, nil
		}
		// It is gone, or has changed, or can't be changed. A new one succeeds, or returns the error.
		_ = t.staging.At().RemoveAll(entry) // else Clean deletes it
	}
	var entry string
	err := t.withRoom(func() (err error) { entry, err = t.newDir(data, s); return err })
	return entry, err
}

// newDir builds the directory of a snapshot anew. A crash leaves garbage; an error leaves
// nothing, or joins that of deleting it.
func (t *Tree) newDir(data []byte, s *format.Snapshot) (string, error) {
	staging, entry := t.staging.At(), t.newName()
	if err := staging.Mkdir(entry, format.DirMode, t.owner); err != nil {
		return "", err
	}
	if err := t.fill(entry, data, s, false); err != nil {
		return "", errors.Join(err, staging.RemoveAll(entry))
	}
	return entry, nil
}

// fill writes the file and the link into a directory in staging/, a kept one or an empty
// one. The file decides, so a link that can't be made anew fails nothing, unless for room or for its
// owner. A crash or an error leaves any mixture in it.
func (t *Tree) fill(entry string, data []byte, s *format.Snapshot, kept bool) error {
	dir, err := t.staging.At().Enter(entry)
	if err != nil {
		return err
	}
	if kept {
		err = dir.Overwrite(format.MetadataFile, data, format.FileMode, t.owner)
		if err == nil {
			err = t.setLink(dir, s.Parent)
		}
		return errors.Join(err, dir.Close())
	}
	err = dir.Create(format.MetadataFile, data, format.FileMode, t.owner)
	if err == nil && s.Parent != "" {
		err = t.makeLink(dir, s.Parent)
		if !t.owner.Hand && !fault.NoRoom(err) {
			err = nil
		}
	}
	return errors.Join(err, dir.Close())
}

// stageFile builds the metadata.json of a snapshot in staging/, of a kept one where there is
// one, and returns its entry. A crash leaves garbage; an error leaves nothing, or joins that of deleting it.
func (t *Tree) stageFile(s *format.Snapshot) (string, error) {
	data, staging := format.EncodeFile(s), t.staging.At()
	if entry, ok := t.takeSpare(true, ""); ok {
		if staging.Overwrite(entry, data, format.FileMode, t.owner) == nil {
			return entry, nil
		}
		// As in stageDir.
		_ = staging.RemoveAll(entry) // else Clean deletes it
	}
	entry := t.newName()
	err := t.withRoom(func() error { return staging.Create(entry, data, format.FileMode, t.owner) })
	if err != nil {
		return "", err
	}
	return entry, nil
}
