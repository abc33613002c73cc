//go:build linux

package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
)

// syncer brings content to the disk.
//
// Much of it is synced with the whole filesystem, which is what costs least while most of
// what is unwritten is content anyway. Those who wait meanwhile share the next one. It is
// done through one open file, to which the kernel tells every failure to write since it
// was opened, once: so one at a time. Only calls that sync wait for it.
//
// After a failure nothing is known of any content that was made before. The files don't
// tell: one that could not be written may have left the cache, and its error with it.
type syncer struct {
	dir    *os.File                 // snapshots/
	all    func(dir *os.File) error // syncs the filesystem
	begun  atomic.Uint64
	failed atomic.Uint64 // how many have failed: written by the holder of turn alone

	turn chan struct{} // holds a value while there is a sync under way
	good uint64        // the last one begun that has succeeded: of the holder of turn
}

// errLost: content may not have reached the disk, and never will.
var errLost = errors.New("something on this filesystem could not be written since the snapshot was made, and it can't be told what: " +
	"look for errors of the disk, and make the snapshot again")

func newSyncer(dir string) (*syncer, error) {
	f, err := os.Open(dir)
	return &syncer{dir: f, all: atomicfs.SyncFilesystem, turn: make(chan struct{}, 1)}, err
}

func (s *syncer) close() error { return s.dir.Close() }

// failures returns how many syncs have failed. It waits for none: content that is made while
// one is under way which fails then is lost, too.
func (s *syncer) failures() uint64 { return s.failed.Load() }

// added makes a new directory and everything in it durable, its name too. After an error
// nothing is known of it.
func (s *syncer) added(ctx context.Context, dir string) error {
	named := make(chan error, 1) // at once, for then the kernel needs one write for all
	go func() { named <- atomicfs.SyncDir(s.dir.Name()) }()
	return errors.Join(files.Sync(ctx, dir), <-named)
}

// filesystem syncs the whole filesystem, for content that was made when so many had
// failed. It is errors.ErrUnsupported where that can't be done, errLost where it, or
// one since then, has failed, and that of ctx if this ends while another one is under way.
func (s *syncer) filesystem(ctx context.Context, failed uint64) error {
	arrived := s.begun.Load()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for another sync of the filesystem: %w", ctx.Err())
	}
	defer func() { <-s.turn }()
	if s.failures() != failed {
		return errLost
	}
	if s.good > arrived {
		return nil // one that was begun later
	}
	n := s.begun.Add(1)
	err := s.all(s.dir)
	switch {
	case err == nil:
		s.good = n
	case !errors.Is(err, errors.ErrUnsupported):
		s.failed.Add(1)
		err = fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}
