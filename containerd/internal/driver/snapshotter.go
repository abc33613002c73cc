//go:build linux

package driver

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
)

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// RebaseCap is snapshots.RebaseCap, which containerd has since 2.4: what a snapshotter declares that gives a parent at Commit.
const RebaseCap = "rebase"

// errChanged: what a slow call was preparing for was replaced meanwhile. It begins again.
var errChanged = errors.New("replaced meanwhile")

// Stat returns what is known of a snapshot of any kind.
//
// Of one that is damaged the error is errdefs.ErrNotFound beside [fsmeta.ErrDamaged]. containerd stats each snapshot that it knows
// to list them, for CRI's statistics as well: it leaves out what is not found, and ends at any other error.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	var id string
	err = s.read(ctx, func(ctx context.Context) error {
		id, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err == nil {
		s.label(&info, id)
	}
	if s.onlyLocal(ctx, err) {
		err = beside{errdefs.ErrNotFound, err}
	}
	return info, err
}

// Update sets labels of a snapshot, see [storage.UpdateInfo].
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (after snapshots.Info, err error) {
	err = s.write(ctx, "update", info.Name, func(ctx context.Context) error {
		after, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		if err != nil || s.config.UpperLabel == "" {
			return err
		}
		id, _, _, err := storage.GetInfo(ctx, after.Name)
		if err == nil {
			s.label(&after, id)
		}
		return err
	})
	return after, err
}

// Usage returns what a snapshot takes, without its parents: of an active one, what its
// content takes now, which costs a look at each of its files; of others, what was
// recorded when they were committed.
func (s *Snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	var id string
	var info snapshots.Info
	err = s.read(ctx, func(ctx context.Context) error {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil || info.Kind != snapshots.KindActive {
		return usage, err
	}
	return s.measure(ctx, id)
}

func (s *Snapshotter) measure(ctx context.Context, id string) (snapshots.Usage, error) {
	usage, err := files.Usage(ctx, s.content.Upper(s.dir(id)))
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("measure the content of snapshot %s: %w", id, err)
	}
	return usage, nil
}

// Mounts returns how the active snapshot or view key is mounted.
func (s *Snapshotter) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		snapshot, err := storage.GetSnapshot(ctx, key)
		if err != nil {
			return err
		}
		_, info, _, err := storage.GetInfo(ctx, key)
		if err == nil {
			mounts = s.content.Mounts(snapshot, info.Labels, s.dir)
		}
		return err
	})
	return mounts, err
}

// Prepare makes the active snapshot key on the committed snapshot parent, or on nothing
// where parent is empty, and returns how to mount it. See the package's comment for what a
// crash leaves.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View is Prepare for a snapshot that is only read.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	base, err := apply(opts)
	if err != nil {
		return nil, err
	}
	for {
		mounts, err := s.tryCreate(ctx, kind, key, parent, base.Labels)
		if !errors.Is(err, errChanged) {
			return mounts, err
		}
	}
}

func apply(opts []snapshots.Opt) (base snapshots.Info, err error) {
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return base, err
		}
	}
	return base, nil
}

// tryCreate makes the content of a new snapshot, then the snapshot.
func (s *Snapshotter) tryCreate(ctx context.Context, kind snapshots.Kind, key, parent string, labels map[string]string) (mounts []mount.Mount, err error) {
	parentID, err := s.lookAhead(ctx, key, parent)
	if err != nil {
		return nil, err
	}
	id, err := s.newID(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := s.begin(id); err != nil {
		return nil, err
	}
	defer s.end(id)
	if s.remakes() {
		if err := s.unsettle(id); err != nil {
			return nil, err
		}
	}
	dir, err := s.makeDir(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() {
		// It may be what is found to be committed when the store is opened again.
		if err != nil && !errors.Is(err, fsmeta.ErrOutcomeUnknown) {
			s.delete(ctx, dir)
			s.settled(id)
		}
	}()
	if err := s.makeContent(ctx, key, dir, kind, id, parentID, labels); err != nil {
		if now, gone := s.lookAhead(ctx, key, parent); gone != nil {
			return nil, gone
		} else if now != parentID {
			return nil, errChanged
		}
		return nil, fmt.Errorf("make the content of snapshot %q: %w", key, err)
	}
	if !s.shared() {
		if dir, err = s.place(dir, id); err != nil {
			return nil, err
		}
	}
	err = s.write(ctx, "prepare", key, func(ctx context.Context) error {
		snapshot, err := storage.CreateSnapshotWithID(ctx, id, kind, key, parent, snapshots.WithLabels(labels))
		if err != nil {
			return err
		}
		if parent != "" && snapshot.ParentIDs[0] != parentID {
			return errChanged
		}
		if dir, err = s.place(dir, id); err != nil {
			return err
		}
		mounts = s.content.Mounts(snapshot, labels, s.dir)
		return nil
	})
	return mounts, err
}

// makeDir makes the directory in which the content of a new snapshot is made, and returns its
// path. It is errChanged where there is content under that identifier.
func (s *Snapshotter) makeDir(ctx context.Context, id string) (string, error) {
	dir := s.dir(id)
	aside := s.shared() || s.remakes()
	if aside {
		dir = filepath.Join(s.root, makingDir, id)
	}
	err := os.Mkdir(dir, 0o700)
	if _, there := os.Lstat(s.dir(id)); err == nil && aside && there == nil {
		s.delete(ctx, dir)
		err = iofs.ErrExist
	}
	if errors.Is(err, iofs.ErrExist) {
		// Which snapshot it is of can't be told, and it is not ours to touch.
		log.G(ctx).WithField("path", s.dir(id)).Error("there is content under an identifier that was never handed out: is the store older than the content?")
		return "", errChanged // with the next one
	}
	return dir, err
}

// place brings content that was made in dir to its place, and returns where it is then. Where the store is shared, it runs in
// the transaction that creates the snapshot, and the name in snapshots/ is on disk before that can be. A crash leaves the
// content at one place or the other.
//
// What can be made anew is not synced. It is whole under its name, also after a power cut: filesystems that keep a log bring the
// renaming to the disk with or after what was done before it.
func (s *Snapshotter) place(dir, id string) (string, error) {
	at := s.dir(id)
	if dir == at {
		return at, nil
	}
	if err := os.Rename(dir, at); err != nil {
		return dir, err
	}
	if s.config.Unsynced || s.remakes() {
		return at, nil
	}
	return at, atomicfs.SyncDir(filepath.Dir(at))
}

// lookAhead returns the identifier of parent, or why key can't be made on it, before
// anything is done for it.
func (s *Snapshotter) lookAhead(ctx context.Context, key, parent string) (parentID string, err error) {
	err = s.read(ctx, func(ctx context.Context) error {
		if parent != "" {
			id, info, _, err := storage.GetInfo(ctx, parent)
			if err != nil {
				return fmt.Errorf("parent: %w", err)
			}
			if info.Kind != snapshots.KindCommitted {
				return fmt.Errorf("parent %q is not committed: %w", parent, errdefs.ErrInvalidArgument)
			}
			parentID = id
		}
		return s.checkFree(ctx, key)
	})
	return parentID, err
}

// checkFree says if there is a snapshot of that name.
func (s *Snapshotter) checkFree(ctx context.Context, name string) error {
	_, _, _, err := storage.GetInfo(ctx, name)
	switch {
	case err == nil:
		return fmt.Errorf("snapshot %q: %w", name, errdefs.ErrAlreadyExists)
	case errdefs.IsNotFound(err):
		return nil
	default:
		return err
	}
}

// makeContent fills the directory of a new snapshot. When it returns nil, it is on disk, unless it can be
// made anew. A crash or an error leaves a directory that no snapshot has.
func (s *Snapshotter) makeContent(ctx context.Context, key, dir string, kind snapshots.Kind, id, parentID string, labels map[string]string) error {
	snapshot := storage.Snapshot{Kind: kind, ID: id}
	if parentID != "" {
		snapshot.ParentIDs = []string{parentID}
	}
	if err := s.fill(ctx, dir, snapshot, labels); err != nil {
		return err
	}
	if s.config.Unsynced || s.remakes() {
		return nil
	}
	return s.syncing(ctx, "prepare", key, func() error { return s.sync.added(ctx, dir) })
}

// fill makes the content of a new snapshot in an empty directory.
func (s *Snapshotter) fill(ctx context.Context, dir string, snapshot storage.Snapshot, labels map[string]string) error {
	parent := ""
	if len(snapshot.ParentIDs) > 0 {
		parent = s.dir(snapshot.ParentIDs[0])
	}
	return s.content.Fill(ctx, dir, parent, snapshot, labels)
}

// Commit makes the committed snapshot name of the active snapshot key, and records its
// usage. Its content is on disk before. See [storage.CommitActive] for labels,
// snapshots.WithParent and errors.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	for {
		err := s.tryCommit(ctx, name, key, opts)
		if !errors.Is(err, errChanged) {
			return err
		}
	}
}

func (s *Snapshotter) tryCommit(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	base, err := apply(opts)
	if err != nil {
		return err
	}
	var id string
	var info snapshots.Info
	err = s.read(ctx, func(ctx context.Context) (err error) {
		if id, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return err
		}
		if base.Parent != "" && info.Parent == "" && !s.content.Rebases() {
			return fmt.Errorf("snapshot %q was made without a parent, and %s content can't get one: don't declare the capability %q: %w",
				key, s.content.Kind(), RebaseCap, errdefs.ErrFailedPrecondition)
		}
		return s.checkFree(ctx, name)
	})
	if err != nil {
		return err
	}
	var usage snapshots.Usage
	if info.Kind == snapshots.KindActive { // else it fails below
		if usage, err = s.settle(ctx, key, id); err != nil {
			return errors.Join(s.checkStill(ctx, key, id), err)
		}
	}
	err = s.write(ctx, "commit", key, func(ctx context.Context) error {
		committed, err := storage.CommitActive(ctx, key, name, usage, opts...)
		if err == nil && committed != id {
			err = errChanged
		}
		return err
	})
	if err == nil {
		s.settled(id)
	}
	return err
}

// settle measures the content of an identifier and makes it durable.
func (s *Snapshotter) settle(ctx context.Context, key, id string) (snapshots.Usage, error) {
	usage, err := s.measure(ctx, id)
	if err == nil && !s.config.Unsynced {
		if err = s.syncing(ctx, "commit", key, func() error { return s.syncContent(ctx, id) }); err != nil {
			err = fmt.Errorf("sync the content of snapshot %s: %w", id, err)
		}
	}
	return usage, err
}

// checkStill says if key is not there any more, or is another snapshot: errChanged.
func (s *Snapshotter) checkStill(ctx context.Context, key, id string) error {
	return s.read(ctx, func(ctx context.Context) error {
		now, _, _, err := storage.GetInfo(ctx, key)
		if err == nil && now != id {
			err = errChanged
		}
		return err
	})
}

// syncContent makes the content of an identifier durable. After an error nothing is known
// of it.
func (s *Snapshotter) syncContent(ctx context.Context, id string) error {
	failed, here := s.madeHere(id)
	if n, err := strconv.ParseUint(id, 10, 64); !here && (err != nil || n < s.lostBelow) {
		return fmt.Errorf("%w (%s says so)", errLost, filepath.Join(s.root, unsyncedFile))
	}
	err := s.sync.filesystem(ctx, failed)
	unsupported := errors.Is(err, errors.ErrUnsupported)
	if err != nil && !unsupported || err == nil && here {
		return err
	}
	return s.sync.files(ctx, s.dir(id), failed) // what was written before the syncer was made, it can't vouch for
}

// Remove takes a snapshot out of the store, then deletes its content, or leaves that
// to Cleanup. A crash leaves the snapshot, or content that Cleanup deletes. So does a
// failure to delete it, which is only logged. A context that ends does not end it: a client
// that went away wants the snapshot removed all the same.
//
// Where the store refuses since snapshots are damaged or missing, the error is
// errdefs.ErrFailedPrecondition beside [fsmeta.ErrDamaged]: containerd's garbage collection goes on with the
// others then, and ends at any other error.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	ctx = context.WithoutCancel(ctx)
	s.readAhead(ctx)
	var id string
	err := s.write(ctx, "remove", key, func(ctx context.Context) (err error) {
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if s.onlyLocal(ctx, err) {
		return beside{errdefs.ErrFailedPrecondition, err}
	}
	if err != nil {
		return err
	}
	s.settled(id)
	if !s.config.AsyncRemove {
		s.delete(ctx, s.dir(id))
		return nil
	}
	// Under that name it is of no snapshot, also where Cleanup keeps what it does not know. Where that fails,
	// it is gone, or Cleanup can do with the other name, too.
	_ = os.Rename(s.dir(id), s.dir(removedPrefix+id))
	return nil
}

// readAhead reads every snapshot, once: the first removal looks at all, and in its transaction, for which others wait, it
// finds them in memory then. An error shows where it matters.
func (s *Snapshotter) readAhead(ctx context.Context) {
	s.ahead.Do(func() {
		err := s.read(ctx, func(ctx context.Context) error { _, err := fsmeta.FromContext(ctx).IDs(ctx); return err })
		if err != nil {
			log.G(ctx).WithError(err).Debug("read all snapshots ahead")
		}
	})
}

// beside is an error about damage that is of a class which containerd goes on after, too.
type beside struct{ class, err error }

func (e beside) Error() string   { return e.err.Error() }
func (e beside) Unwrap() []error { return []error{e.class, e.err} }

// Walk calls fn for every snapshot that one of the filters matches, see
// [storage.WalkInfo]. It is what containerd's garbage collection begins with, which an error would end:
// so damaged snapshots are left out, and logged once. One that stands on a snapshot which is left out comes
// without a parent, since containerd reaches what it removes from those without one;
// Stat says what its parent is. A damaged journal is an error, when all were visited.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	fn = s.labelling(fn)
	return s.read(ctx, func(ctx context.Context) error {
		visible, err := s.visible(ctx)
		if err != nil {
			return err
		}
		if visible == nil {
			return storage.WalkInfo(ctx, fn, filters...)
		}
		var ended error // by fn
		err = storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			if !visible[info.Parent] {
				info.Parent = ""
			}
			ended = fn(ctx, info)
			return ended
		}, filters...)
		if ended == nil && s.onlyLocal(ctx, err) {
			return nil
		}
		return err
	})
}

// visible returns the names of the snapshots that are not damaged, nil where none is. It returns any
// error but damage of single snapshots.
func (s *Snapshotter) visible(ctx context.Context) (map[string]bool, error) {
	err := storage.WalkInfo(ctx, func(context.Context, snapshots.Info) error { return nil })
	if !s.onlyLocal(ctx, err) {
		return nil, nil // the walk has the same error
	}
	names := map[string]bool{}
	err = storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		names[info.Name] = true
		return nil
	})
	if s.onlyLocal(ctx, err) {
		err = nil
	}
	return names, err
}
