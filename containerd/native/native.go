//go:build linux

// Package native is a snapshotter that copies: each active snapshot is a directory with
// all of the content, made from the parent's. It works on every filesystem, and takes the
// room and the time of a copy for each snapshot. Its metadata is in an fsmeta store. It can
// be embedded in place of containerd's plugins/snapshots/native.
//
// Its root directory holds the store, meta/, beside the content, snapshots/ID/.
package native

import (
	"context"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// ErrInUse: another process serves the root directory.
var ErrInUse = driver.ErrInUse

// Opt is an option of [NewSnapshotter].
type Opt func(*driver.Config)

// AsynchronousRemove leaves the content of removed snapshots to Cleanup, which containerd
// calls after a garbage collection.
func AsynchronousRemove(c *driver.Config) { c.AsyncRemove = true }

// WithoutSync leaves it to the kernel when content reaches the disk. After a power cut,
// snapshots that were prepared or committed in the last half minute may lack content, and
// nothing says which.
func WithoutSync(c *driver.Config) { c.Unsynced = true }

// WithMetaStore keeps the metadata in ms instead of a store in root: for a driver that embeds this
// snapshotter and shares its store. Close closes ms; after an error of [NewSnapshotter] the
// caller does. It is the counterpart of overlay.WithMetaStore, which says more.
func WithMetaStore(ms *storage.MetaStore) Opt {
	return func(c *driver.Config) { c.Meta = ms }
}

// NewSnapshotter opens the snapshotter in the directory root, and makes one where it is
// empty or does not exist. One process at a time can have it open: [ErrInUse]. Others can
// read the store beside it.
//
// After a crash or a power cut, at any point, every snapshot in the store has its
// directory, and every committed one all of its content, unless [WithoutSync] is given.
// Directories that belong to no snapshot may be left; Cleanup deletes them. All methods may
// be called concurrently; nothing waits while a parent is copied.
func NewSnapshotter(root string, opts ...Opt) (snapshots.Snapshotter, error) {
	var c driver.Config
	for _, opt := range opts {
		opt(&c)
	}
	return driver.Open(root, content{}, c)
}

type content struct{}

func (content) Kind() string { return "native" }

func (content) Upper(dir string) string { return dir }

// Remakes says that copies have to be on disk.
func (content) Remakes() bool { return false }

// Rebases says that a copy stands on what it was made from.
func (content) Rebases() bool { return false }

// Fill copies the parent's content, but for what is mounted below it. A view shows that itself.
func (content) Fill(ctx context.Context, dir, parent string, s storage.Snapshot, _ map[string]string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if parent == "" || s.Kind == snapshots.KindView {
		return nil
	}
	return files.Copy(ctx, dir, parent, func(path, attribute string, err error) {
		log.G(ctx).WithError(err).Debugf("extended attribute %q of %s was not copied", attribute, path)
	})
}

func (content) Mounts(s storage.Snapshot, _ map[string]string, dir func(id string) string) []mount.Mount {
	source, access := dir(s.ID), "rw"
	if s.Kind == snapshots.KindView {
		access = "ro"
		if len(s.ParentIDs) > 0 {
			source = dir(s.ParentIDs[0])
		}
	}
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{"rbind", access}}}
}
