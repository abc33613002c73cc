//go:build linux

// Package driver is what the snapshotters of this module share: directories with the
// content of snapshots, beside an fsmeta store that says what they are.
//
// A root directory holds
//
//	snapshotter     one line: which kind of content it has, "overlay" or "native"
//	meta/           the fsmeta store
//	snapshots/ID/   the content of each snapshot, named after its identifier; once that
//	                is removed, rm-ID, and rm-ID-part while it is deleted
//	newer           identifiers of content that the store has not handed out, where there is such
//	unsynced        the identifier below which content may be lost, where a sync has failed
//	unsettled       while directories of active snapshots may not be on disk yet
//	.fsmeta-making/ID/
//	                what is being made, where it gets to its place at once: see [Content] and [Config.Meta]
//
// and is locked (flock) by the one process that serves it. The store can be opened by
// others beside it.
//
// What a crash or a power cut leaves, at any point: every snapshot in the store has its
// directory, and every committed one all of its content, unless the Snapshotter is
// [Config.Unsynced]. For that, a new directory is on disk before the transaction that
// creates its snapshot, or the next Open makes it anew, the content is before the one that commits it, and it
// is deleted after the one that removes it. What is left over are directories that the store knows nothing
// of; [Snapshotter.Cleanup] deletes them. As an identifier is never handed out twice, such
// a directory never gets in the way of another snapshot.
package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/lock"
)

const (
	markerFile   = "snapshotter"
	metaDir      = "meta"
	snapshotsDir = "snapshots"
	makingDir    = ".fsmeta-making"
)

// ErrInUse: another process serves the root directory.
var ErrInUse = errors.New("in use by another process")

// Content is what the kinds of snapshotter have of their own.
type Content interface {
	// Kind is the first line of the file "snapshotter".
	Kind() string

	// Fill makes the content of a new snapshot in its empty directory dir. parent is the
	// directory of the snapshot that it stands on, "" where there is none.
	Fill(ctx context.Context, dir, parent string, s storage.Snapshot, labels map[string]string) error

	// Remakes reports whether Fill makes nothing but directories, so that it makes the same once more where a power
	// cut has taken them.
	Remakes() bool

	// Upper returns where in the directory of a snapshot that is which was added to its
	// parents, and of which the size counts as its usage.
	Upper(dir string) string

	// Rebases reports whether content that was made without a parent can get one when it
	// is committed.
	Rebases() bool

	// Mounts returns how an active snapshot or a view is mounted. dir returns the
	// directory of an identifier.
	Mounts(s storage.Snapshot, labels map[string]string, dir func(id string) string) []mount.Mount
}

// Config says how a Snapshotter works.
type Config struct {
	// AsyncRemove leaves the content of removed snapshots to Cleanup.
	AsyncRemove bool

	// Unsynced leaves it to the kernel when content reaches the disk. After a power
	// cut, snapshots that were made or committed in the last half minute may lack
	// content, and nothing says which.
	Unsynced bool

	// UpperLabel is the label with which Stat, Update and Walk say which directory has what a snapshot adds to
	// its parents; "" for none. It is not in the store, so no filter of Walk finds it there.
	UpperLabel string

	// Meta is the store that the snapshotter shares with the driver that embeds it; nil for one of
	// its own in meta/. Close closes it. The driver may have directories of its own below root,
	// and, as containerd's snapshotters do, delete in a writable transaction what is in
	// snapshots/ and belongs to no snapshot: so content comes there in the transaction that creates
	// its snapshot.
	Meta *storage.MetaStore
}

// Snapshotter implements containerd's snapshots.Snapshotter and snapshots.Cleaner. All
// methods may be called concurrently.
type Snapshotter struct {
	root    string
	content Content
	config  Config
	meta    *storage.MetaStore
	sync    *syncer
	close   func() error
	holder  atomic.Pointer[holder]
	syncs   contentSyncs

	lostBelow uint64 // see readLost

	observer Observer

	ahead   sync.Once // see readAhead
	failing sync.Once
	failed  chan struct{}

	mu      sync.Mutex
	making  map[string]bool // identifiers of snapshots that are being made
	made    []era           // since Open
	highest uint64          // identifier in these

	settling settling

	health health
}

// Open opens the root directory of a snapshotter, and makes what is missing in one that is
// empty or does not exist. It returns [ErrInUse] where another process has it open. A root
// that has lost its store, or has content of another kind, is refused. A store that is shared
// stays open after an error.
//
// A crash leaves a root that is not marked yet and has no snapshots, which the next
// call completes.
func Open(root string, content Content, config Config) (_ *Snapshotter, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("open snapshotter %s: %w", root, err)
		}
	}()
	if err := atomicfs.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	unlock, err := Lock(root)
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{root: root, content: content, config: config, making: map[string]bool{}, failed: make(chan struct{}),
		settling: settling{ids: map[string]bool{}},
		health:   health{logged: map[string]bool{}, sizes: map[string]int64{}}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, unlock())
	}
	s.close = sync.OnceValue(func() error { return errors.Join(s.settleAll(), s.meta.Close(), s.sync.close(), unlock()) })
	return s, nil
}

// Lock takes the lock of a root directory, which must exist. See [ErrInUse].
func Lock(root string) (unlock func() error, err error) {
	unlock, free, err := lock.New(root).TryLock()
	if err == nil && !free {
		err = fmt.Errorf("%s is %w: stop that first (fuser -v %[1]s shows it)", root, ErrInUse)
	}
	return unlock, err
}

func (s *Snapshotter) open() error {
	kind, err := Kind(s.root)
	if err != nil {
		return err
	}
	if kind != "" && kind != s.content.Kind() {
		return fmt.Errorf("its content is of the kind %q, not %q: use the snapshotter %[1]s, or another root directory", kind, s.content.Kind())
	}
	switch {
	case s.shared():
		err = s.openShared(kind)
	case kind == "":
		err = s.make()
	default:
		if err = s.checkWhole(); err == nil {
			err = s.openMeta()
		}
	}
	if err != nil {
		return err
	}
	if err = s.checkContent(); err == nil {
		err = s.giveRestored(context.Background())
	}
	if err == nil && s.remakes() {
		err = s.remake(context.Background())
	}
	if err == nil {
		err = s.noteNewer()
	}
	if err == nil {
		s.lostBelow, err = readLost(s.root)
	}
	if err == nil {
		s.sync, err = newSyncer(filepath.Join(s.root, snapshotsDir))
		s.sync.lost = s.noteLost
	}
	if err != nil {
		return errors.Join(err, s.closeOwn())
	}
	return nil
}

// closeOwn closes the store that was opened here. One that is shared is the caller's until Open has succeeded.
func (s *Snapshotter) closeOwn() error {
	if s.shared() {
		return nil
	}
	return s.meta.Close()
}

// checkContent refuses a store with snapshots beside a directory with the content of none,
// say because a filesystem is not mounted.
func (s *Snapshotter) checkContent() error {
	if s.config.Unsynced {
		return nil // a power cut can leave just that
	}
	names, err := Directories(s.root)
	if err != nil || len(names) > 0 {
		return err
	}
	var filters []string
	if unsettled, err := Unsettled(s.root); err != nil {
		return err
	} else if unsettled {
		filters = []string{"kind==committed"} // a power cut can have taken all others
	}
	some := errors.New("some")
	err = s.read(context.Background(), func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(context.Context, snapshots.Info) error { return some }, filters...)
	})
	if errors.Is(err, some) {
		return fmt.Errorf("%s is empty, and the store has snapshots: restore it, or mount what it is on", filepath.Join(s.root, snapshotsDir))
	}
	return nil // what else is wrong with the store shows where it matters
}

// checkWhole says which part of a root directory is gone, say because a filesystem is not
// mounted. An empty one must not take its place: Cleanup would delete all content.
func (s *Snapshotter) checkWhole() error {
	for _, part := range []string{metaDir + "/layout", snapshotsDir + "/."} {
		if _, err := os.Stat(s.root + "/" + part); err != nil {
			return fmt.Errorf("%w: a part of it is gone: mount what it is on, or restore it; fsmeta-snapshotter check says more", err)
		}
	}
	return nil
}

// Kind returns of which kind the content of a root directory is, "" where that is not
// decided. It is an error where the marker names none.
func Kind(root string) (string, error) {
	path := filepath.Join(root, markerFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	switch kind := string(bytes.TrimSpace(data)); kind {
	case "overlay", "native":
		return kind, nil
	default:
		return "", fmt.Errorf("%s says %.100q, not overlay or native: if an import was interrupted, run it again", path, kind)
	}
}

// make makes the store and the directory for content, then the marker. A crash leaves
// some of them, and no marker before the rest is on disk.
func (s *Snapshotter) make() error {
	if err := checkVacant(s.root); err != nil {
		return err
	}
	content := filepath.Join(s.root, snapshotsDir)
	entries, err := os.ReadDir(content)
	if err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !isFilesystems(e.Name()) }) {
		return fmt.Errorf("%s is not empty, and there is no file %s that says what its content is: choose another root directory, "+
			"or write that file, overlay or native, if it was lost", content, filepath.Join(s.root, markerFile))
	}
	if err := os.Mkdir(content, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.openMeta(); err != nil {
		return err
	}
	err = Mark(s.root, s.content.Kind())
	if err != nil {
		return errors.Join(err, s.closeOwn())
	}
	return nil
}

// checkVacant refuses a directory that has anything else in it than what make leaves when it
// does not come to its end.
func checkVacant(root string) error {
	entries, err := os.ReadDir(root)
	for _, e := range entries {
		switch name := e.Name(); {
		case name == metaDir, name == snapshotsDir, isFilesystems(name):
		case strings.HasPrefix(name, "."): // the marker's temporary file
		case strings.HasPrefix(name, "multiple-lowerdir-check"), strings.HasPrefix(name, "fsutils-dummy"), name == "userxattr-check":
			// What looking whether overlayfs works leaves when it is killed.
		default:
			return fmt.Errorf("it is not empty, it has %q, and it is no snapshotter's: choose an empty directory, or one that does not exist", name)
		}
	}
	return err
}

// isFilesystems reports whether a name in the root directory of a filesystem is of what that has made, or the tools of
// quotas have.
func isFilesystems(name string) bool {
	return slices.Contains([]string{"lost+found", "aquota.user", "aquota.group", "quota.user", "quota.group", ".quota"}, name)
}

// Mark says durably of which kind the content of a root directory is. A crash leaves the
// former marker or the new one, perhaps with a temporary file beside it.
func Mark(root, kind string) error {
	for _, dir := range []string{root, filepath.Dir(root)} { // what the marker speaks of
		if err := atomicfs.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := atomicfs.WriteFile(filepath.Join(root, markerFile), root, []byte(kind+"\n")); err != nil {
		return err
	}
	return atomicfs.SyncDir(root)
}

// openMeta opens the store now, so that what is wrong with it shows now.
func (s *Snapshotter) openMeta() error {
	meta, err := storage.NewMetaStore(filepath.Join(s.root, metaDir))
	if err != nil {
		return err
	}
	s.meta = meta
	if err := s.tryMeta(); err != nil {
		return errors.Join(err, meta.Close())
	}
	return nil
}

// tryMeta opens the store, which a MetaStore does in its first transaction.
func (s *Snapshotter) tryMeta() error {
	return s.read(context.Background(), func(context.Context) error { return nil })
}

// Close ends the use of the root directory, and closes the store, one that is shared too. Calls that are under way may fail. Every call
// after the first returns what that did.
func (s *Snapshotter) Close() error { return s.close() }

// Failed is closed when the store takes no writes any more until it is opened anew, since a
// sync has failed. It was logged then.
func (s *Snapshotter) Failed() <-chan struct{} { return s.failed }

// dir returns the directory of an identifier.
func (s *Snapshotter) dir(id string) string {
	return filepath.Join(s.root, snapshotsDir, id)
}
