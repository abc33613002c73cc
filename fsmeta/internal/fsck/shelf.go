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
	err := s.put(to, func(_, dir *disk.Dir, name string) error { return disk.RenameNew(from.At(), entry, dir.At(), name) })
	if err != nil {
		return err
	}
	return from.File.Sync()
}

// copy puts a copy of a file or of a directory on the shelf; anything else is moved. A crash
// leaves it here, and there or not; so does an error.
func (s *shelf) copy(from *disk.Dir, entry, to string) error {
	if is, err := from.Lstat(entry); err != nil || is.Type != 0 && !is.Type.IsDir() {
		return errors.Join(err, s.move(from, entry, to))
	}
	return s.put(to, func(shelf, dir *disk.Dir, name string) error {
		const unfinished = ".unfinished"
		err := shelf.At().RemoveAll(unfinished)
		if err == nil {
			err = s.copyTo(from, entry, shelf, unfinished)
		}
		if err == nil {
			return disk.RenameNew(shelf.At(), unfinished, dir.At(), name)
		}
		return errors.Join(err, shelf.At().RemoveAll(unfinished))
	})
}

// put calls do with the shelf, and with the directory and the name of a path on it, and then makes
// all durable. Directories that are missing are made. A shelf that has the path already, which
// was mended since, is left for a new one.
func (s *shelf) put(to string, do func(shelf, dir *disk.Dir, name string) error) (err error) {
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
		d, err := s.makeDir(dirs[i], name)
		if err != nil {
			return err
		}
		dirs = append(dirs, d)
	}
	dir, name := dirs[len(dirs)-1], path.Base(to)
	if there, _, err := exists(dir, name); err != nil {
		return err
	} else if there {
		s.time = ""
		return s.put(to, do)
	}
	if err := do(dirs[2], dir, name); err != nil {
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

// makeDir makes a directory where there is none, and opens it. A crash leaves it or not.
func (s *shelf) makeDir(in *disk.Dir, name string) (*disk.Dir, error) {
	if err := in.At().Mkdir(name, format.DirMode, s.owner); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return in.OpenDirAt(name)
}

// copyTo copies an entry under a new name, durably but for the name. Pipes and the like are left
// out. A crash or an error leaves a part.
func (s *shelf) copyTo(from *disk.Dir, entry string, to *disk.Dir, name string) error {
	is, err := from.Lstat(entry)
	switch {
	case err != nil:
		return err
	case is.Type == 0:
		return s.link(from, entry, to, name)
	case is.Type == fs.ModeSymlink:
		target, err := from.At().Readlink(entry)
		if err != nil {
			return err
		}
		return to.At().Symlink(target, name, s.owner)
	case !is.Type.IsDir():
		return nil
	}
	source, err := from.OpenDirAt(entry)
	if err != nil {
		return err
	}
	target, err := s.makeDir(to, name)
	if err == nil {
		err = errors.Join(s.copyAll(source, target), target.Close())
	}
	return errors.Join(err, source.Close())
}

// copyAll is copyTo for everything in a directory.
func (s *shelf) copyAll(from, to *disk.Dir) error {
	names, err := from.Names()
	for _, name := range names {
		if err == nil {
			err = s.copyTo(from, name, to, name)
		}
	}
	return errors.Join(err, to.File.Sync())
}

// link gives a regular file a second name, in another directory, or, where the filesystem
// can't do that, makes a copy of one that is no larger than a snapshot's file may be. A crash leaves
// it or not, a copy perhaps in part. So does an error.
func (s *shelf) link(from *disk.Dir, entry string, to *disk.Dir, name string) error {
	if unix.Linkat(int(from.File.Fd()), entry, int(to.File.Fd()), name, 0) == nil {
		return nil
	}
	data, err := from.ReadFile(entry, format.MaxFile)
	if err == nil {
		err = to.At().Create(name, data, format.FileMode, s.owner)
	}
	if err != nil {
		return err
	}
	f, err := to.OpenFile(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
