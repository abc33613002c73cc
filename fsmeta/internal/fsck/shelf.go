package fsck

import (
	"errors"
	"io/fs"
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

// move moves an entry of a directory of the store to the shelf, durably; part is the
// directory's name, "" for the store itself. A crash leaves it here or there; so does an error.
func (s *shelf) move(from *disk.Dir, part, entry string) error {
	err := s.put(part, entry, func(_, to *disk.Dir) error { return disk.RenameNew(from.At(), entry, to.At(), entry) })
	if err != nil {
		return err
	}
	return from.File.Sync()
}

// copyFile puts another name of a file on the shelf, or, where there can't be one, a copy;
// what is no regular file is moved. A crash leaves it here, and there or not; so does an error.
func (s *shelf) copyFile(from *disk.Dir, part, entry string) error {
	if is, err := from.Lstat(entry); err != nil || is.Type != 0 {
		return errors.Join(err, s.move(from, part, entry))
	}
	return s.put(part, entry, func(_, to *disk.Dir) error { return link(from, to, entry, s.owner) })
}

// copyDir puts a copy of a directory on the shelf; what is none is moved. Pipes and the like
// are left out. A crash leaves it here, and there or not; so does an error.
func (s *shelf) copyDir(from *disk.Dir, part, entry string) error {
	_, isDir, err := exists(from, entry)
	if err != nil || !isDir {
		return errors.Join(err, s.move(from, part, entry))
	}
	return s.put(part, entry, func(shelf, to *disk.Dir) error {
		const unfinished = ".unfinished"
		if err := shelf.At().RemoveAll(unfinished); err != nil {
			return err
		}
		if err := s.copyInto(from, entry, shelf, unfinished); err != nil {
			return errors.Join(err, shelf.At().RemoveAll(unfinished))
		}
		return disk.RenameNew(shelf.At(), unfinished, to.At(), entry)
	})
}

// put calls do with the shelf and the directory on it for a part of the store, which it makes
// where they are missing, and then makes all durable. A shelf that has the entry already, which
// was mended since, is left for a new one.
func (s *shelf) put(part, entry string, do func(shelf, to *disk.Dir) error) (err error) {
	if s.time == "" {
		s.time = time.Now().UTC().Format("20060102T150405.000000000Z")
	}
	dirs := []*disk.Dir{s.root}
	defer func() {
		for _, d := range dirs[1:] {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, name := range []string{format.DamagedDir, s.time, part} {
		if name == "" {
			continue
		}
		dir := dirs[len(dirs)-1]
		if err := dir.At().Mkdir(name, format.DirMode, s.owner); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		inside, err := dir.OpenDirAt(name)
		if err != nil {
			return err
		}
		dirs = append(dirs, inside)
	}
	to := dirs[len(dirs)-1]
	if there, _, err := exists(to, entry); err != nil || there {
		s.time = ""
		if err == nil {
			err = s.put(part, entry, do)
		}
		return err
	}
	if err := do(dirs[2], to); err != nil {
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

// copyInto copies a directory to a new name. A crash or an error leaves a part.
func (s *shelf) copyInto(from *disk.Dir, entry string, to *disk.Dir, name string) error {
	source, err := from.OpenDirAt(entry)
	if err != nil {
		return err
	}
	err = to.At().Mkdir(name, format.DirMode, s.owner)
	if err == nil {
		var target *disk.Dir
		if target, err = to.OpenDirAt(name); err == nil {
			err = errors.Join(s.copyAll(source, target), target.Close())
		}
	}
	return errors.Join(err, source.Close())
}

// copyAll copies what is in a directory. A crash or an error leaves a part.
func (s *shelf) copyAll(from, to *disk.Dir) error {
	names, err := from.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		is, err := from.Lstat(name)
		switch {
		case err != nil:
		case is.Type.IsDir():
			err = s.copyInto(from, name, to, name)
		case is.Type == 0:
			err = link(from, to, name, s.owner)
		case is.Type == fs.ModeSymlink:
			var target string
			if target, err = from.At().Readlink(name); err == nil {
				err = to.At().Symlink(target, name, s.owner)
			}
		}
		if err != nil {
			return err
		}
	}
	return to.File.Sync()
}

// link gives a regular file a second name, in another directory, or, where the filesystem
// can't do that, makes a copy of one that is no larger than a snapshot's file may be. A crash leaves
// it or not, a copy perhaps in part. So does an error.
func link(from, to *disk.Dir, name string, owner disk.Owner) error {
	if unix.Linkat(int(from.File.Fd()), name, int(to.File.Fd()), name, 0) == nil {
		return nil
	}
	data, err := from.ReadFile(name, format.MaxFile)
	if err == nil {
		err = to.At().Create(name, data, format.FileMode, owner)
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
