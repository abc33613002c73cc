package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"

	"golang.org/x/sys/unix"
)

// store is the parts of a store that a check and a repair need.
type store struct {
	dir       string
	problem   string // with the layout file, "" for none
	layout    *layout.Lock
	root      *disk.Dir
	owner     disk.Owner
	snapshots *disk.Dir
	tree      *tree.Tree
}

// probe tells whether dir holds a store: its absolute path and what is wrong with its layout
// file, "" for nothing; or, where there is nothing of a store, an ErrNotStore.
func probe(ctx context.Context, dir string) (path, problem string, err error) {
	if err := ctx.Err(); err != nil {
		return "", "", err
	}
	if dir == "" {
		return "", "", fmt.Errorf("%w: the path is empty: %w", fault.ErrNotStore, fs.ErrNotExist)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("%w: %w", fault.ErrNotStore, err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	if err = layout.Read(dir); err == nil {
		return dir, "", nil
	}
	if problem = layout.Problem(dir); problem == "" || !layout.LooksLikeStore(dir) {
		return "", "", err
	}
	if layout.CheckVacant(dir) == nil {
		return "", "", fmt.Errorf("%w; it is just being made, or its maker was killed: the next program that opens it for writing finishes that", err)
	}
	return dir, problem, nil
}

// path returns the path of a part of the store.
func (s *store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// metadata returns the path of a snapshot's file.
func (s *store) metadata(name string) string {
	return filepath.Join(s.tree.Path(name), format.MetadataFile)
}

func (s *store) openRoot() (err error) {
	if s.root, err = disk.OpenDir(s.dir, true); err == nil {
		s.owner, err = disk.OwnerOf(s.root.File)
	}
	return err
}

func (s *store) openTree() (err error) {
	if s.tree, err = tree.Open(s.root); err == nil {
		s.snapshots, err = s.root.OpenDirAt(format.SnapshotsDir)
	}
	return err
}

// close closes what was opened, and releases the lock on the layout.
func (s *store) close() error {
	var err error
	if s.tree != nil {
		err = s.tree.Close()
	}
	for _, d := range []*disk.Dir{s.snapshots, s.root} {
		if d != nil {
			err = errors.Join(err, d.Close())
		}
	}
	if s.layout != nil {
		err = errors.Join(err, s.layout.Release())
	}
	return err
}

// exists reports whether an entry of dir is there, and whether it is a directory.
func exists(dir *disk.Dir, entry string) (there, isDir bool, err error) {
	is, err := dir.Lstat(entry)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	return err == nil, err == nil && is.Type.IsDir(), err
}

// noDirectory reports whether an open failed for a symlink, or for something else in place of
// a directory.
func noDirectory(err error) bool {
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
