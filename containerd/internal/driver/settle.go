//go:build linux

package driver

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/containerd/log"
	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sync/errgroup"
)

// unsettledFile is there while directories of active snapshots and views may not be on disk yet, though their snapshots
// are: a power cut may take them then, and the next Open makes them anew. It is empty.
const unsettledFile = "unsettled"

// settling is which directories may not be on disk yet.
type settling struct {
	mu    sync.Mutex
	noted bool // the file says so
	ended bool // by Close
	ids   map[string]bool
}

// remakes reports whether directories of new snapshots need not be on disk before their snapshots are. In a
// store that is shared, others have snapshots, too, and directories of their own for these.
func (s *Snapshotter) remakes() bool { return s.content.Remakes() && !s.shared() }

// Unsettled reports whether directories of active snapshots in a root that is not in use may have been lost in a crash,
// so that the next Open makes them anew.
func Unsettled(root string) (bool, error) {
	_, err := os.Lstat(filepath.Join(root, unsettledFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// unsettle says durably that a directory is made which is not synced, before its snapshot is. It costs nothing but the
// first time. A crash leaves the file, or not yet, and then not the snapshot either.
func (s *Snapshotter) unsettle(id string) error {
	s.settling.mu.Lock()
	defer s.settling.mu.Unlock()
	if s.settling.ended {
		return fsmeta.ErrClosed
	}
	if !s.settling.noted {
		err := atomicfs.WriteFile(filepath.Join(s.root, unsettledFile), s.root, nil)
		if err == nil {
			err = atomicfs.SyncDir(s.root)
		}
		if err != nil {
			return err
		}
		s.settling.noted = true
	}
	s.settling.ids[id] = true
	return nil
}

// settled says that the directory of an identifier is on disk, or of no active snapshot any more.
func (s *Snapshotter) settled(id string) {
	s.settling.mu.Lock()
	defer s.settling.mu.Unlock()
	delete(s.settling.ids, id)
}

// settleAll brings all directories to the disk, without what is in their files, and says so. It is the last use of the root. A
// crash, and an error, leaves the file that says the opposite.
func (s *Snapshotter) settleAll() error {
	s.settling.mu.Lock()
	defer s.settling.mu.Unlock()
	s.settling.ended = true
	if !s.settling.noted {
		return nil
	}
	var group errgroup.Group
	group.SetLimit(16) // the kernel merges them
	for id := range s.settling.ids {
		group.Go(func() error { return syncDirs(s.dir(id)) })
	}
	err := group.Wait()
	if err == nil {
		err = atomicfs.SyncDir(filepath.Join(s.root, snapshotsDir))
	}
	if err == nil {
		err = os.Remove(filepath.Join(s.root, unsettledFile))
	}
	return err
}

// syncDirs syncs a directory of a snapshot and those in it, if it is there.
func syncDirs(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() && err == nil {
			err = atomicfs.SyncDir(filepath.Join(dir, e.Name()))
		}
	}
	if err == nil {
		err = atomicfs.SyncDir(dir)
	}
	return err
}

// remake makes directories anew that a power cut has taken from active snapshots and views, and what it has taken of them. They were
// empty: what was written in them since was never synced. Where one can't be made, it is logged, and that snapshot can't be mounted.
//
// Those of snapshots that a restored backup has brought back are left out: their content was removed.
//
// A crash leaves some of them, and the file for the next call.
func (s *Snapshotter) remake(ctx context.Context) error {
	if err := s.emptyMaking(); err != nil {
		return err
	}
	unsettled, err := Unsettled(s.root)
	if err != nil || !unsettled {
		return err
	}
	s.settling.noted = true
	return s.read(ctx, func(ctx context.Context) error {
		below, err := fsmeta.FromContext(ctx).RestoredBelow()
		if err != nil {
			below = math.MaxUint64 // which are to be made anew can't be told; Close brings what is there to the disk
		}
		var all []fsmeta.Info
		err = fsmeta.FromContext(ctx).Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
			if info.Kind == fsmeta.KindCommitted {
				return nil
			}
			s.settling.ids[info.ID] = true
			if n, err := strconv.ParseUint(info.ID, 10, 64); err == nil && n >= below {
				all = append(all, info)
			}
			return nil
		})
		if err != nil && !s.onlyLocal(ctx, err) {
			return err
		}
		for _, info := range all {
			s.remakeOne(ctx, info)
		}
		return nil
	})
}

// remakeOne is remake for one snapshot. A crash leaves what was missing, or some of it, and garbage in the directory for what
// is being made.
func (s *Snapshotter) remakeOne(ctx context.Context, info fsmeta.Info) {
	dir, made := s.dir(info.ID), filepath.Join(s.root, makingDir, info.ID)
	snapshot, err := storage.GetSnapshot(ctx, info.Name)
	if err == nil {
		err = os.Mkdir(made, 0o700)
	}
	if err == nil {
		err = s.fill(ctx, made, snapshot, info.Labels)
	}
	lost := false
	if err == nil {
		lost, err = complete(dir, made)
	}
	entry := log.G(ctx).WithField("key", info.Name).WithField("path", dir)
	if _, gone := os.Lstat(dir); err != nil && gone != nil {
		entry.WithError(err).Error("the directory of an active snapshot was lost in a crash, and can't be made anew: remove the snapshot")
	} else if lost {
		entry.Warn("the directory of an active snapshot was lost in a crash, and is made anew: what was written to it last is gone")
	}
}

// complete gives dir what it lacks of made, a directory on the same filesystem, or makes made dir, and reports whether it lacked
// anything. What is left of made is deleted. A crash or an error leaves some at one place and the rest at the other.
func complete(dir, made string) (lacked bool, err error) {
	err = atomicfs.RenameNew(made, dir)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	entries, err := os.ReadDir(made)
	for _, e := range entries {
		renamed := atomicfs.RenameNew(filepath.Join(made, e.Name()), filepath.Join(dir, e.Name()))
		if !errors.Is(renamed, fs.ErrExist) {
			lacked, err = true, errors.Join(err, renamed)
		}
	}
	return lacked, errors.Join(err, files.Remove(made))
}
