//go:build linux

package driver

import (
	"context"
	"errors"
	"io/fs"
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

// remake makes directories anew that a power cut has taken from active snapshots and views. They were empty: what was written in
// them since was never synced. Where one can't be made, it is logged, and that snapshot can't be mounted.
//
// Those of snapshots that a restored backup has brought back are left out: their content was removed.
//
// A crash leaves some of them, and the file for the next call.
func (s *Snapshotter) remake(ctx context.Context) error {
	making := filepath.Join(s.root, makingDir)
	if err := files.Remove(making); err != nil {
		return err
	}
	if err := os.Mkdir(making, 0o700); err != nil {
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
			return nil // whether they are to be made anew can't be told
		}
		var lost []fsmeta.Info
		err = fsmeta.FromContext(ctx).Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
			if info.Kind == fsmeta.KindCommitted {
				return nil
			}
			s.settling.ids[info.ID] = true
			_, err := os.Lstat(s.dir(info.ID))
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if n, err := strconv.ParseUint(info.ID, 10, 64); err == nil && n >= below {
				lost = append(lost, info)
			}
			return nil
		})
		if err != nil && !s.onlyLocal(ctx, err) {
			return err
		}
		for _, info := range lost {
			entry := log.G(ctx).WithField("key", info.Name).WithField("path", s.dir(info.ID))
			if err := s.remakeOne(ctx, info); err != nil {
				entry.WithError(err).Error("the directory of an active snapshot was lost in a crash, and can't be made anew: remove the snapshot")
			} else {
				entry.Warn("the directory of an active snapshot was lost in a crash, and is made anew: what was written to it last is gone")
			}
		}
		return nil
	})
}

func (s *Snapshotter) remakeOne(ctx context.Context, info fsmeta.Info) error {
	snapshot, err := storage.GetSnapshot(ctx, info.Name)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.root, makingDir, info.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := s.fill(ctx, dir, snapshot, info.Labels); err != nil {
		return err
	}
	return atomicfs.RenameNew(dir, s.dir(info.ID))
}
