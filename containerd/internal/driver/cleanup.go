//go:build linux

package driver

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// Cleanup deletes content that belongs to no snapshot: of those removed, and of calls that
// did not finish. What other calls are just making it leaves alone, and everything where a
// snapshot is damaged, as its identifier isn't known. What can't be deleted is logged, and
// left to the next call.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	orphans, err := s.orphans(ctx)
	if err != nil {
		return err
	}
	for _, name := range orphans {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.delete(ctx, name)
	}
	if len(orphans) > 0 {
		log.G(ctx).WithField("directories", len(orphans)).Debug("deleted content of no snapshot")
	}
	return nil
}

// orphans returns the names of directories that no snapshot has or is about to have.
func (s *Snapshotter) orphans(ctx context.Context) (orphans []string, err error) {
	// In this order: what is there and not being made is known to the store by now, or
	// was given up.
	names, err := s.directories()
	if err != nil {
		return nil, err
	}
	making := s.beingMade()
	var ids map[string]string
	// Writable, so that what it says is on disk when it has ended: see fsmeta.Store.IDs.
	err = s.write(ctx, "clean up", "", func(ctx context.Context) error {
		ids, err = storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // there was never a snapshot
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, known := ids[name]; !known && !making[name] {
			orphans = append(orphans, name)
		}
	}
	return orphans, nil
}

// directories returns the names in snapshots/ that can be a driver's: identifiers, and
// what containerd's own drivers call theirs before they have one and after. Others are
// not ours to delete.
func (s *Snapshotter) directories() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, snapshotsDir))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if strings.Trim(name, "0123456789") == "" || strings.HasPrefix(name, "new-") || strings.HasPrefix(name, "rm-") {
			names = append(names, name)
		}
	}
	return names, nil
}

// begin says that a snapshot with this new identifier is being made, until end.
func (s *Snapshotter) begin(id string) error {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making[id] = true
	if s.first == 0 || n < s.first {
		s.first = n
	}
	return nil
}

// madeHere reports whether the content of an identifier was made since Open: they only
// grow.
func (s *Snapshotter) madeHere(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.ParseUint(id, 10, 64)
	return err == nil && s.first != 0 && n >= s.first
}

func (s *Snapshotter) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.making, id)
}

func (s *Snapshotter) beingMade() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.making)
}
