//go:build linux

package driver

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"strconv"

	"github.com/containerd/log"
	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// Cleanup deletes content that belongs to no snapshot: of those removed, and of calls that
// did not finish. What other calls are just making it leaves alone, and what may belong to a
// snapshot that is damaged, missing, set aside or restored: see [Kept]. Content that a restored backup has
// brought a snapshot back for gets its name back. What can't be deleted, and what is kept, is logged,
// and left to the next call. So no damage of single snapshots is an error; that of the journal is, and so
// is content beside a store to which nothing was ever written, which is not the store of that content.
//
// A crash leaves directories that the next call deletes.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	found, err := s.unclaimed(ctx)
	if err != nil {
		return err
	}
	deleted := 0
	for _, name := range found.orphans {
		if err := ctx.Err(); err != nil {
			return err
		}
		if left := s.delete(ctx, s.dir(name)); left != "" {
			found.left = append(found.left, filepath.Base(left))
		} else {
			deleted++
		}
	}
	if deleted > 0 {
		log.G(ctx).WithField("directories", deleted).Debug("deleted content of no snapshot")
	}
	s.noteCleanup(ctx, found)
	return nil
}

// unclaimed is what a cleanup has found out about directories that no snapshot has.
type unclaimed struct {
	orphans []string          // to be deleted
	left    []string          // that could not be deleted
	kept    map[string]string // why, by name
}

// unclaimed returns the directories that no snapshot has or is about to have.
func (s *Snapshotter) unclaimed(ctx context.Context) (found unclaimed, err error) {
	// In this order: what is there and not being made is known to the store by now, or
	// was given up.
	names, err := Directories(s.root)
	if err != nil {
		return found, err
	}
	making := s.beingMade()
	ids, unknown, err := s.identifiers(ctx)
	if err != nil {
		return found, err
	}
	if len(ids) == 0 && !unknown {
		if err := s.checkUsed(ctx, names); err != nil {
			return found, err
		}
	}
	kept, err := Kept(s.root, s.meta.Path(), unknown)
	if err != nil {
		return found, err
	}
	found.kept = map[string]string{}
	removed := map[string]string{} // identifiers of snapshots that are back, by directory
	for _, name := range names {
		id, wasRemoved := idOf(name)
		_, known := ids[id]
		switch {
		case id != "" && known && wasRemoved:
			removed[name] = id
		case id != "" && (known || making[id]):
		default:
			if why := kept(name); why != "" {
				found.kept[name] = why
			} else {
				found.orphans = append(found.orphans, name)
			}
		}
	}
	return found, s.giveBack(ctx, removed, ids, found.kept)
}

// identifiers returns the names of the snapshots by identifier, and whether some can't be told. It
// reads what was not read yet, while no call waits for it.
func (s *Snapshotter) identifiers(ctx context.Context) (ids map[string]string, unknown bool, err error) {
	err = s.read(ctx, func(ctx context.Context) error { ids, err = fsmeta.FromContext(ctx).IDs(ctx); return err })
	if err == nil || s.onlyLocal(ctx, err) {
		s.noteAll(err)
		return ids, err != nil, nil
	}
	return nil, false, err
}

// giveBack gives directories of removed snapshots that are in the store again, since a backup was restored,
// their names back. Where there is another one in that place, or that fails, it is kept, which is noted in kept: the
// failure is logged, since the snapshot has no content until a later call succeeds. What is gone, another call has given
// its name back.
//
// Its transaction is there in any case: when it has ended, what was read in the store before is on
// disk, so that content can be deleted on the strength of it. And no snapshot is removed while
// its directory is renamed. A crash leaves some of them as they were, for the next call.
func (s *Snapshotter) giveBack(ctx context.Context, removed, names, kept map[string]string) error {
	return s.write(ctx, "clean up", "", func(ctx context.Context) error {
		for name, id := range removed {
			now, _, _, err := storage.GetInfo(ctx, names[id])
			if err != nil || now != id {
				continue // it is gone: the next call deletes it
			}
			entry := log.G(ctx).WithField("key", names[id]).WithField("path", s.dir(id))
			switch err := atomicfs.RenameNew(s.dir(name), s.dir(id)); {
			case err == nil:
				entry.Warn("a snapshot that was removed is back: its content has its name again")
			case errors.Is(err, fs.ErrNotExist):
			case errors.Is(err, fs.ErrExist):
				kept[name] = "their snapshots were removed and restored, and have other content now: look at both"
			default:
				kept[name] = "their snapshots were removed and restored, and they can't get their names back: the log says why"
				if s.health.first(err.Error()) {
					entry.WithError(err).Error("a snapshot that was removed is back, and its content can't get its name again: it is missing until a cleanup succeeds")
				}
			}
		}
		return nil
	})
}

// giveRestored is giveBack when the root is opened: before a snapshot that a backup has brought back is
// mounted. It costs a look at each snapshot, but only where a backup was restored, and content
// of a snapshot that was removed after it is still there.
func (s *Snapshotter) giveRestored(ctx context.Context) error {
	var below uint64
	err := s.read(ctx, func(ctx context.Context) (err error) {
		below, err = fsmeta.FromContext(ctx).RestoredBelow()
		return err
	})
	if err != nil || below == 0 {
		return nil // Cleanup heeds that it can't be told
	}
	names, err := Directories(s.root)
	if err != nil {
		return err
	}
	removed := map[string]string{}
	for _, name := range names {
		id, wasRemoved := idOf(name)
		if n, err := strconv.ParseUint(id, 10, 64); err == nil && wasRemoved && n < below {
			removed[name] = id
		}
	}
	if len(removed) == 0 {
		return nil
	}
	ids, _, err := s.identifiers(ctx)
	if err != nil {
		return nil // the calls that it matters for say so
	}
	maps.DeleteFunc(removed, func(_, id string) bool { _, known := ids[id]; return !known })
	if len(removed) == 0 {
		return nil
	}
	return s.giveBack(ctx, removed, ids, map[string]string{})
}

// delete deletes a directory with the content of no snapshot, under a name that says so: what is left of it
// must never be taken for all of it. So one that can't get that name is left as it is. What is mounted below stays. It
// returns where the rest is, "" where nothing is left. A crash or an error leaves some of it, which Cleanup deletes, or the
// next Open where the store is shared.
func (s *Snapshotter) delete(ctx context.Context, dir string) (left string) {
	if name := filepath.Base(dir); filepath.Dir(dir) == filepath.Join(s.root, snapshotsDir) {
		if id, _ := idOf(name); id != "" {
			part := s.dir(removedPrefix + id + partSuffix)
			err := atomicfs.RenameNew(dir, part)
			if errors.Is(err, fs.ErrNotExist) {
				return "" // another call deletes it
			}
			if err != nil {
				return s.undeleted(ctx, dir, err)
			}
			dir = part
		}
	}
	if err := files.Remove(dir); err != nil {
		return s.undeleted(ctx, dir, err)
	}
	return ""
}

// undeleted logs why a directory can't be deleted, once, and returns it.
func (s *Snapshotter) undeleted(ctx context.Context, dir string, err error) string {
	if s.health.first(err.Error()) {
		log.G(ctx).WithError(err).WithField("path", dir).Warn("content of no snapshot can't be deleted: each cleanup tries again")
	}
	return dir
}

// era is the identifiers from first on, up to those of the next era, with content that was begun when so
// many syncs had failed, or more.
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.making[id] = true
	failed := s.sync.failures()
	if len(s.made) == 0 || s.made[len(s.made)-1].failed < failed {
		// Calls at once come in any order: those with higher identifiers may have begun before.
		s.made = append(s.made, era{max(n, s.highest+1), failed})
	}
	s.highest = max(s.highest, n)
	return nil
}

// madeHere reports whether the content of an identifier was made since Open, and how many
// syncs had failed then, or fewer. Of content that it does not know to be made since Open it is 0.
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
