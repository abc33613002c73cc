package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

// store is the parts of a store that a check and a repair need.
type store struct {
	ctx       context.Context
	progress  func(done, total int) // or nil
	dir       string
	problem   string // with the layout file, "" for none
	layout    *layout.Lock
	root      *disk.Dir
	owner     disk.Owner
	snapshots *disk.Dir
	tree      *tree.Tree
	view      *view.View // nil where the journal can't be opened
}

// open opens the directory of a store and takes the lock on its layout, unless there is a problem
// with that file. Where there is nothing of a store, the error is an ErrNotStore.
func (s *store) open(dir string, take func(*layout.Lock) error) (err error) {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if dir == "" {
		return fmt.Errorf("%w: the path is empty: %w", fault.ErrNotStore, fs.ErrNotExist)
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	s.layout = layout.NewLock(s.dir)
	err = layout.Read(s.dir)
	if damage := fault.DamageOf(err); damage != nil {
		s.problem, err = problemOf(damage), nil
	} else if err == nil {
		err = take(s.layout)
	}
	if err == nil {
		s.root, err = disk.OpenDir(s.dir, true)
	}
	if err == nil {
		s.owner, err = disk.OwnerOf(s.root.File)
	}
	return err
}

// mountedParts returns the parts of the store that something is mounted on.
func (s *store) mountedParts() []string {
	parts := []string{format.DamagedDir, format.JournalFile, format.LayoutFile, format.SnapshotsDir, format.StagingDir}
	return slices.DeleteFunc(parts, func(part string) bool { return !s.root.IsMount(part) })
}

// linkedPart returns where snapshots/ or journal is if a symlink that leads to it is in its place, ""
// else. The store follows none.
func (s *store) linkedPart(part string) string {
	target, err := s.root.At().Readlink(part)
	if err != nil {
		return ""
	}
	if !filepath.IsAbs(target) {
		target = s.path(target)
	}
	is, err := os.Stat(target)
	if err != nil || is.IsDir() != (part == format.SnapshotsDir) {
		return ""
	}
	return target
}

// linkedProblem says so, linkedAdvice what to do.
func linkedProblem(target string) string {
	return "it is a symlink, which the store does not follow; it leads to " + target
}

func (s *store) linkedAdvice(part, target string) string {
	return fmt.Sprintf("stop what uses the store, then put back what it leads to: rm %[1]s && mv -T %[2]s %[1]s", s.path(part), target)
}

func (s *store) openTree() (err error) {
	if s.tree, err = tree.Open(s.root); err == nil {
		s.snapshots, err = s.root.OpenDirAt(format.SnapshotsDir)
	}
	return err
}

// close closes what was opened, and releases the lock on the layout.
func (s *store) close() error {
	err := s.closeView()
	if s.tree != nil {
		err = errors.Join(err, s.tree.Close())
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

func (s *store) closeView() error {
	if s.view == nil {
		return nil
	}
	v := s.view
	s.view = nil
	return v.Close()
}

// path returns the path of a part of the store.
func (s *store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// metadata returns the path of a snapshot's file.
func (s *store) metadata(name string) string {
	return filepath.Join(s.tree.Path(name), format.MetadataFile)
}

// link returns the path of a snapshot's parent link.
func (s *store) link(name string) string {
	return filepath.Join(s.tree.Path(name), format.ParentLink)
}

// journalDamage returns err where it is damage of the journal, else nil.
func (s *store) journalDamage(err error) *fault.Damaged {
	if damage := fault.DamageOf(err); damage != nil && damage.Path == s.path(format.JournalFile) {
		return damage
	}
	return nil
}

// copiedDamage returns what is wrong with the file backup, or why it can't be read.
func (s *store) copiedDamage() *fault.Damaged {
	_, err := commit.ReadCopied(s.root)
	if damage := fault.DamageOf(err); damage != nil || err == nil {
		return damage
	}
	return &fault.Damaged{Path: s.path(format.BackupFile), Err: err}
}

// eachIn calls visit for each entry of a directory in dir, in order. Where there is no such
// directory, there are none.
func eachIn(dir *disk.Dir, name string, visit func(dir *disk.Dir, entry string) error) error {
	if _, isDir, err := dir.Exists(name); err != nil || !isDir {
		return err
	}
	d, err := dir.OpenDirAt(name)
	if err != nil {
		return err
	}
	entries, err := d.Names()
	slices.Sort(entries)
	for _, entry := range entries {
		if err == nil {
			err = visit(d, entry)
		}
	}
	return errors.Join(err, d.Close())
}
