//go:build linux

package driver

import (
	"context"
	"errors"
	"fmt"
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
		s.delete(ctx, s.dir(name))
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
	kept, err := Kept(s.meta.Path())
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
	hint := ": fsmeta-snapshotter check names them"
	if s.shared() {
		hint = "" // it knows nothing of such a store
	}
	for reason, n := range why {
		log.G(ctx).Warnf("%d directories in %s that belong to no snapshot are kept, since %s%s", n, filepath.Join(s.root, snapshotsDir), reason, hint)
	}
	return orphans, nil
}

// removedPrefix begins the name of a directory whose snapshot was removed, before its
// identifier.
const removedPrefix = "rm-"

// ErrKept: no content is deleted, since it can't be told whose it is that a repair has set
// aside.
var ErrKept = errors.New("no content is deleted")

// Kept returns what says why Cleanup keeps the content of an identifier that no snapshot of the
// store in the directory meta has, "" where it deletes it. It is an error, of [ErrKept] or of the store, if that
// can't be told, and then it keeps all.
func Kept(meta string) (func(id string) (why string), error) {
	aside, err := setAside(meta)
	if err != nil {
		return nil, err
	}
	below, err := restoredBelow(meta)
	if err != nil {
		return nil, err
	}
	return func(id string) string {
		n, err := strconv.ParseUint(id, 10, 64)
		switch {
		case aside[id]:
			return "a repair has set their snapshots aside: look at them, then move " + filepath.Join(meta, "damaged") + " away"
		case err == nil && n < below:
			return "they may have been made after the backup that the store was restored from: look at them, then delete " + filepath.Join(meta, "backup")
		}
		return ""
	}, nil
}

// setAside returns the identifiers of snapshots that a repair of the store has set aside.
// Their content stays for as long as they are there. It is an error if one can't be told.
func setAside(meta string) (map[string]bool, error) {
	list, err := fsmeta.SetAside(meta)
	if err != nil {
		return nil, fmt.Errorf("%w, for it may be that of a snapshot which a repair has set aside: look at it, then move %s away: %w", ErrKept, filepath.Join(meta, "damaged"), err)
	}
	ids := map[string]bool{}
	for _, id := range list {
		ids[id] = true
	}
	return ids, nil
}

// restoredBelow returns the identifier below which content may be newer than the backup from
// which the store was restored, 0 where it was not.
func restoredBelow(meta string) (below uint64, err error) {
	store, err := fsmeta.Open(meta, fsmeta.ReadOnly())
	if err == nil {
		below, err = store.RestoredBelow()
		err = errors.Join(err, store.Close())
	}
	return below, err
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
		if strings.Trim(name, "0123456789") == "" || strings.HasPrefix(name, "new-") || strings.HasPrefix(name, removedPrefix) {
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
