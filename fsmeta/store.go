package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

// Store is an open store. All methods may be called concurrently.
//
// A snapshot has a name, of which there is one snapshot at a time, and an
// identifier that is never given to another. It is active, then committed; the
// name of an active one is called its key. It stands on its parent, a committed
// snapshot, or on nothing.
type Store struct {
	dir     string
	relaxed bool // Commit does not wait for the disk
	root    *disk.Dir
	layout  *layout.Lock
	tree    *tree.Tree
	view    *view.View
	writer  *commit.Writer // nil where nothing is written

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	closed atomic.Bool

	mu      sync.Mutex
	current *transaction // the writable one that is open
}

// Open opens the store in dir. Where dir is empty or does not exist it makes one, with
// the directories above, unless [MustExist] or [ReadOnly] is given. Close must be called
// in the end.
//
// Any number of processes may have a store open, and each as often as it likes.
// What another process did and did not finish, because it died or the power was
// cut, is finished by the next writable transaction; reads see it already. Open waits
// for ten seconds at most (see [Patience]) for a program that has the whole store for itself, a repair
// for one; then the error is [ErrInUse].
//
// Other errors are [ErrNotStore] where dir is a file, holds something else or a layout
// this version does not know, or is on a filesystem with names shorter than 255
// bytes; [ErrDamaged] where a part of the store is missing, its file layout too, or is
// something else; and those of the filesystem,
// such as fs.ErrPermission. A crash or an error while a store is being made leaves none,
// and the next Open makes it.
//
// It costs some system calls and a read of the journal, which is a few hundred kilobytes at
// most; not more for a store of many snapshots.
func Open(dir string, opts ...Option) (*Store, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	s, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("fsmeta: open %s: %w", dir, err)
	}
	return s, nil
}

func open(dir string, o options) (*Store, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: the path is empty: %w", ErrNotStore, fs.ErrNotExist)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	err = layout.Read(dir)
	if errors.Is(err, fs.ErrNotExist) && !o.readOnly && !o.mustExist {
		err = layout.Make(dir, commit.Ahead)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, relaxed: o.relaxed, layout: layout.NewLock(dir)}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	if o.patience != nil {
		s.layout.Patience = *o.patience
	}
	err = s.layout.Share()
	if err == nil {
		err = s.openFiles(o)
	}
	if err != nil {
		s.closed.Store(true)
		return nil, errors.Join(err, s.closeFiles())
	}
	return s, nil
}

// openFiles opens directories and journal. It writes nothing.
func (s *Store) openFiles(o options) error {
	var err error
	if s.root, err = disk.OpenDir(s.dir, true); err != nil {
		return err
	}
	if s.tree, err = tree.Open(s.root); err != nil {
		return err
	}
	if s.view, err = view.Open(s.dir, s.tree, !o.readOnly); err != nil || o.readOnly {
		return err
	}
	s.writer = commit.New(commit.Config{Dir: s.root, Tree: s.tree, View: s.view})
	return nil
}

// Close ends the use of the store. Open transactions are rolled back; commits that are
// under way are finished first. Where no one else has the store open, a checkpoint empties
// the journal, but for names that can't be brought up to it. If Close returns an error, that
// or giving back a lock has failed, say because the disk is full; or, with [ErrFailed], a
// sync did earlier. Nothing that was committed is lost: the journal has it, and the next
// process that writes brings it into the tree. Every call after the first returns nil.
func (s *Store) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	s.cancel(ErrClosed)
	s.mu.Lock()
	t := s.current
	s.mu.Unlock()
	if t != nil {
		t.abort()
	}
	var err error
	if s.writer != nil {
		err = s.writer.Close(s.layout.Last)
	}
	if err = errors.Join(err, s.closeFiles()); err != nil {
		return fmt.Errorf("fsmeta: close %s: %w", s.dir, err)
	}
	return nil
}

// Dir returns the directory of the store, an absolute path, as it was when the store was opened.
func (s *Store) Dir() string { return s.dir }

// closeFiles closes what open has opened, as far as it got, and gives back the lock on
// layout.
func (s *Store) closeFiles() error {
	var err error
	if s.view != nil {
		err = s.view.Close()
	}
	if s.tree != nil {
		err = errors.Join(err, s.tree.Close())
	}
	if s.root != nil {
		err = errors.Join(err, s.root.Close())
	}
	return errors.Join(err, s.layout.Release())
}

// hold says that t is the writable transaction that is open, nil for none.
func (s *Store) hold(t *transaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = t
}

// nextReserved returns the lowest identifier that may be handed out, 0 where that is not
// known: the journal is damaged.
func (s *Store) nextReserved() uint64 {
	if s.view.Damage() != nil {
		return 0
	}
	return s.view.Journal().NextID()
}
