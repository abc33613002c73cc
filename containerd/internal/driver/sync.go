//go:build linux

package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"golang.org/x/sync/errgroup"
)

// syncs is how many syncs are under way at once; the kernel merges them.
const syncs = 64

// syncer brings content to the disk.
//
// Much of it is synced with the whole filesystem, which is what costs least while most of
// what is unwritten is content anyway. Those who wait meanwhile share the next one. It is
// done through one open file, to which the kernel tells every failure to write since it
// was opened, once: so one at a time, and after a failure never again. The files
// themselves tell then which of them failed.
type syncer struct {
	dir   *os.File // snapshots/
	begun atomic.Uint64

	mu     sync.Mutex
	good   uint64 // the last one begun that has succeeded
	failed bool
}

func newSyncer(dir string) (*syncer, error) {
	f, err := os.Open(dir)
	return &syncer{dir: f}, err
}

func (s *syncer) close() error { return s.dir.Close() }

// added makes a new directory and everything in it durable, its name too. After an error
// nothing is known of it.
func (s *syncer) added(ctx context.Context, dir string) error {
	named := make(chan error, 1) // at once, for then the kernel needs one write for all
	go func() { named <- atomicfs.SyncDir(s.dir.Name()) }()
	return errors.Join(syncEach(ctx, dir), <-named)
}

// filesystem syncs the whole filesystem. It reports whether that has succeeded, and can be
// believed for what was written since the syncer was made.
func (s *syncer) filesystem() bool {
	arrived := s.begun.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed {
		return false
	}
	if s.good > arrived {
		return true // somebody's who began later
	}
	n := s.begun.Add(1)
	if atomicfs.SyncFilesystem(s.dir) != nil {
		s.failed = true
		return false
	}
	s.good = n
	return true
}

// syncEach syncs every file and directory below dir, and dir.
func syncEach(ctx context.Context, dir string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncs)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			group.Go(func() error { return atomicfs.SyncDir(path) })
		case entry.Type().IsRegular():
			group.Go(func() error { return atomicfs.SyncFile(path) })
		} // symlinks and devices are on disk with their directory
		return nil
	})
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}
