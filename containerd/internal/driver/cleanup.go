//go:build linux

package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
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
	names, err := Directories(s.root)
	if err != nil {
		return nil, err
	}
	making := s.beingMade()
	kept, err := Kept(s.root)
	if err != nil {
		return nil, err
	}
	// Once before, so that the store has read everything when others wait for it.
	if err := s.read(ctx, func(ctx context.Context) error { _, err := storage.IDMap(ctx); return err }); err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
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
	why := map[string]int{}
	for _, name := range names {
		if _, known := ids[name]; known || making[name] {
			continue
		}
		if reason := kept(name); reason != "" {
			why[reason]++
		} else {
			orphans = append(orphans, name)
		}
	}
	for reason, n := range why {
		log.G(ctx).Warnf("%d directories in %s that belong to no snapshot are kept, since %s: fsmeta-snapshotter check names them", n, filepath.Join(s.root, snapshotsDir), reason)
	}
	return orphans, nil
}

// Kept returns what says why Cleanup keeps the content of an identifier that no snapshot
// has, "" where it deletes it. It is an error if that can't be told, and then it keeps all.
func Kept(root string) (func(id string) (why string), error) {
	aside, err := setAside(root)
	if err != nil {
		return nil, err
	}
	newer, err := afterBackup(root)
	if err != nil {
		return nil, err
	}
	return func(id string) string {
		switch {
		case aside[id]:
			return "a repair has set their snapshots aside: look at them, then move " + filepath.Join(root, metaDir, "damaged") + " away"
		case newer(id):
			return "they may have been made after the backup that the store was restored from: look at them, then delete " + backupFile(root)
		}
		return ""
	}, nil
}

// setAside returns the identifiers of snapshots that a repair of the store has set aside.
// Their content stays for as long as they are there. It is an error if one can't be told.
func setAside(root string) (map[string]bool, error) {
	meta := filepath.Join(root, metaDir)
	list, err := fsmeta.SetAside(meta)
	if err != nil {
		return nil, fmt.Errorf("no content is deleted, for it may be that of a snapshot which a repair has set aside: look at it, then move %s away: %w", filepath.Join(meta, "damaged"), err)
	}
	ids := map[string]bool{}
	for _, id := range list {
		ids[id] = true
	}
	return ids, nil
}

func backupFile(root string) string { return filepath.Join(root, metaDir, "backup") }

// afterBackup returns what tells the identifiers of snapshots that may have been made after
// the backup from which the store was restored: there are none where it was not.
func afterBackup(root string) (func(id string) bool, error) {
	data, err := os.ReadFile(backupFile(root))
	if errors.Is(err, fs.ErrNotExist) {
		return func(string) bool { return false }, nil
	}
	var backup struct{ IdentifiersTo uint64 }
	if err == nil {
		err = json.Unmarshal(data, &backup)
	}
	if err != nil {
		return nil, fmt.Errorf("no content is deleted, for it may be newer than the backup that the store was restored from: look at %s: %w", backupFile(root), err)
	}
	return func(id string) bool {
		n, err := strconv.ParseUint(id, 10, 64)
		return err == nil && n < backup.IdentifiersTo
	}, nil
}

// Directories returns the names in snapshots/ that can be a driver's: identifiers, and
// what containerd's own drivers call theirs before they have one and after. Others are
// not ours to delete.
func Directories(root string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(root, snapshotsDir))
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

// era is the identifiers from first on, up to those of the next era, which were got when so
// many syncs had failed.
type era struct {
	first  uint64
	failed uint64
}

// begin says that a snapshot with this new identifier is being made, until end.
func (s *Snapshotter) begin(id string) error {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return err
	}
	failed := s.sync.failures()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making[id] = true
	if len(s.made) == 0 || s.made[len(s.made)-1].failed < failed {
		s.made = append(s.made, era{n, failed})
	}
	return nil
}

// madeHere reports whether the content of an identifier was made since Open, and how many
// syncs had failed then, or fewer. Identifiers only grow, but for those of calls at once.
func (s *Snapshotter) madeHere(id string) (failed uint64, here bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.made {
		if n >= e.first {
			failed, here = e.failed, true
		}
	}
	return failed, here
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
