package fsck

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"

	"golang.org/x/sys/unix"
)

// Parts of a shelf beside those of the store.
const (
	replaced = "replaced" // what stood in the place of snapshots that were made anew, or had their files
	foreign  = "foreign"  // from snapshots/: what the store has not put there
)

// shelf is damaged/TIME, where a repair puts what it takes out of the store, or replaces:
// each thing under the path that it had. It belongs to the owner of the store.
type shelf struct {
	root  *disk.Dir
	owner disk.Owner
	time  string
	used  bool // something is on it, or on an earlier one
}

// path is where the shelf is.
func (s *shelf) path() string { return s.root.Path + "/" + format.DamagedDir + "/" + s.time }

// move moves an entry of a directory to a path on the shelf, durably. A crash leaves it here or
// there; so does an error.
func (s *shelf) move(from *disk.Dir, entry, to string) error {
	err := s.put(to, func(dir *disk.Dir, name string) error { return disk.RenameNew(from.At(), entry, dir.At(), name) })
	if err != nil {
		return err
	}
	return from.File.Sync()
}

// link puts another name of a regular file on the shelf, or, where the filesystem can't do that, a
// copy of one that is no larger than a snapshot's file may be, durably. A crash leaves it there or
// not, a copy perhaps in part; so does an error.
func (s *shelf) link(from *disk.Dir, entry, to string) error {
	return s.put(to, func(dir *disk.Dir, name string) error {
		if unix.Linkat(int(from.File.Fd()), entry, int(dir.File.Fd()), name, 0) == nil {
			return nil
		}
		return s.duplicate(from, entry, dir, name)
	})
}

// copy puts a copy of a regular file on the shelf that is no larger than a snapshot's file may be, durably. A
// crash leaves it there, in part, or not; so does an error.
func (s *shelf) copy(from *disk.Dir, entry, to string) error {
	return s.put(to, func(dir *disk.Dir, name string) error { return s.duplicate(from, entry, dir, name) })
}

func (s *shelf) duplicate(from *disk.Dir, entry string, dir *disk.Dir, name string) error {
	data, err := from.ReadFile(entry, format.MaxFile)
	if err != nil {
		return err
	}
	return s.create(dir, name, data)
}

// exchange puts a file with this content in the place of an entry of a directory, and the entry on the
// shelf, durably. A crash leaves the entry or the file, and perhaps a file on the shelf; an error the entry.
func (s *shelf) exchange(from *disk.Dir, entry, to string, data []byte) error {
	err := s.put(to, func(dir *disk.Dir, name string) error {
		err := s.create(dir, name, data)
		if err == nil {
			if err = disk.Exchange(from.At(), entry, dir.At(), name); err != nil {
				err = errors.Join(err, dir.At().Unlink(name))
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return from.File.Sync()
}

// write puts a file on the shelf, durably. A crash or an error leaves it, a part of it, or none.
func (s *shelf) write(to string, data []byte) error {
	return s.put(to, func(dir *disk.Dir, name string) error { return s.create(dir, name, data) })
}

func (s *shelf) create(dir *disk.Dir, name string, data []byte) error {
	if err := dir.At().Create(name, data, format.FileMode, s.owner); err != nil {
		return err
	}
	f, err := dir.OpenFile(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// put calls do with the directory and the name of a path on the shelf, and then makes all durable.
// Directories that are missing are made. A shelf that has the path already, which was mended
// since, is left for a new one.
func (s *shelf) put(to string, do func(dir *disk.Dir, name string) error) (err error) {
	if s.time == "" {
		s.time = time.Now().UTC().Format("20060102T150405.000000000Z")
	}
	dirs := []*disk.Dir{s.root}
	defer func() {
		for _, d := range dirs[1:] {
			err = errors.Join(err, d.Close())
		}
	}()
	above := []string{format.DamagedDir, s.time}
	if part := path.Dir(to); part != "." {
		above = append(above, part)
	}
	for i, name := range above {
		if err := dirs[i].At().Mkdir(name, format.DirMode, s.owner); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		d, err := dirs[i].OpenDirAt(name)
		if err != nil {
			return err
		}
		dirs = append(dirs, d)
	}
	dir, name := dirs[len(dirs)-1], path.Base(to)
	if there, _, err := dir.Exists(name); err != nil {
		return err
	} else if there {
		s.time = ""
		return s.put(to, do)
	}
	if err := do(dir, name); err != nil {
		return err
	}
	s.used = true
	for _, d := range slices.Backward(dirs) {
		if err := d.File.Sync(); err != nil {
			return err
		}
	}
	return nil
}
