//go:build linux

// Package overlay is a snapshotter over overlayfs with its metadata in an fsmeta store. It
// can be embedded in place of containerd's plugins/snapshots/overlay.
//
// Its root directory holds the store, meta/, beside the content: snapshots/ID/fs is what a
// snapshot adds to those below, snapshots/ID/work is overlayfs's own. See [NewSnapshotter]
// for what a crash or a power cut leaves of them.
package overlay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// ErrInUse: another process serves the root directory.
var ErrInUse = driver.ErrInUse

// SnapshotterConfig is what options set.
type SnapshotterConfig struct {
	driver  driver.Config
	content content
}

// Opt is an option of [NewSnapshotter].
type Opt func(*SnapshotterConfig) error

// AsynchronousRemove leaves the content of removed snapshots to Cleanup, which containerd
// calls after a garbage collection.
func AsynchronousRemove(c *SnapshotterConfig) error {
	c.driver.AsyncRemove = true
	return nil
}

// WithoutSync leaves it to the kernel when content reaches the disk. It makes unpacking
// faster. After a power cut, snapshots that were prepared or committed in the last half
// minute may lack content, and nothing says which: it is for nodes that are rebuilt then.
// What is in the store survives as ever.
func WithoutSync(c *SnapshotterConfig) error {
	c.driver.Unsynced = true
	return nil
}

// upperdirLabel is containerd's name for the label of [WithUpperdirLabel].
const upperdirLabel = "containerd.io/snapshot/overlay.upperdir"

// WithUpperdirLabel makes Stat, Update and Walk say where the content of each snapshot is that it adds to its
// parents, in the label "containerd.io/snapshot/overlay.upperdir". A view, which adds nothing, has a directory too. As in containerd's
// own package the label is not recorded, and no filter of Walk finds it; one of that name that a client has set is hidden. It costs
// Walk a lookup for each snapshot.
func WithUpperdirLabel(c *SnapshotterConfig) error {
	c.driver.UpperLabel = upperdirLabel
	return nil
}

// WithSlowChown says that clients may change the owners of a whole image, file by file, for a container in a
// user namespace where the kernel has no idmapped mounts. It changes nothing in the snapshotter, here as in containerd's own
// package: the client does that, in a snapshot of its own on top of the image's, unless the plugin has the
// capability "only-remap-ids". In either case the directory that is written to belongs to the container's root.
func WithSlowChown(*SnapshotterConfig) error { return nil }

// WithRemapIDs mounts snapshots that have labels with a mapping of user and group
// identifiers with it, instead of leaving that to the client. The kernel must support it:
// see overlayutils.SupportsIDMappedMounts.
func WithRemapIDs(c *SnapshotterConfig) error {
	c.content.remapIDs = true
	return nil
}

// WithMountOptions adds options to every overlay mount. Bind mounts, which is what a
// snapshot without parents and a view of a single one get, don't have them.
func WithMountOptions(options []string) Opt {
	return func(c *SnapshotterConfig) error {
		c.content.options = append(c.content.options, options...)
		return nil
	}
}

// WithMetaStore keeps the metadata in ms instead of a store in root: for a driver that embeds this
// snapshotter and has metadata of its own snapshots, or looks up those of this one, in the same
// store. Close closes ms, and so does the driver's own Close. After an error of [NewSnapshotter] the caller closes it.
//
// What else is in root is the driver's, and may be there before: a root of containerd's own
// overlay snapshotter can be used, with ms made of its metadata.db. As with that snapshotter, the driver
// may look in a writable transaction which directories in snapshots/ belong to no snapshot, and delete
// these; a snapshot's own comes there in the transaction that creates it. All of root must be one filesystem.
// [NewSnapshotter] refuses content beside a store to which nothing was ever written, and a root that has lost its store
// gone since.
func WithMetaStore(ms *storage.MetaStore) Opt {
	return func(c *SnapshotterConfig) error {
		c.driver.Meta = ms
		return nil
	}
}

// NewSnapshotter opens the snapshotter in the directory root, and makes one where it is
// empty or does not exist. One process at a time can have it open: [ErrInUse]. Others can
// read the store beside it.
//
// After a crash or a power cut, at any point, every snapshot in the store has its
// directory, and every committed one all of its content, unless [WithoutSync] is given:
// content is synced before the transaction that promises it, and outside of it, so that
// no call waits for another's files. Directories that belong to no snapshot may be left;
// Cleanup deletes them. All methods may be called concurrently.
//
// The filesystem of root must support d_type, and overlayfs on it: see
// overlayutils.Supported. A root that no overlay can be mounted from is refused, before
// anything is made: see [ErrUnfit].
func NewSnapshotter(root string, opts ...Opt) (snapshots.Snapshotter, error) {
	var c SnapshotterConfig
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return nil, err
		}
	}
	if err := CheckRoot(root); err != nil {
		return nil, err
	}
	if err := atomic.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	supported, err := fs.SupportsDType(root)
	if err != nil {
		return nil, err
	}
	if !supported {
		return nil, fmt.Errorf("the filesystem of %s has no d_type, which overlayfs needs: choose another, on xfs one made with ftype=1", root)
	}
	if err := c.content.completeOptions(root); err != nil {
		return nil, err
	}
	return driver.Open(root, c.content, c.driver)
}

// content is what the driver asks of an overlay.
type content struct {
	remapIDs bool
	options  []string // of every overlay mount
}

// completeOptions adds the mount options that this machine needs.
func (c *content) completeOptions(root string) error {
	if !c.has("userxattr") {
		needed, err := overlayutils.NeedsUserXAttr(root)
		if err != nil {
			return fmt.Errorf("find out whether overlayfs needs the option userxattr: %w", err)
		}
		if needed {
			c.options = append(c.options, "userxattr")
		}
	}
	// With an index, the kernel refuses directories that were used in another overlay.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil && !c.has("index") {
		c.options = append(c.options, "index=off")
	}
	return nil
}

func (c *content) has(option string) bool {
	for _, o := range c.options {
		if name, _, _ := strings.Cut(o, "="); name == option {
			return true
		}
	}
	return false
}

func (c content) Kind() string { return "overlay" }

func (c content) Upper(dir string) string { return filepath.Join(dir, "fs") }

func work(dir string) string { return filepath.Join(dir, "work") }

// nothing is an empty directory, for an overlay over nothing.
func nothing(dir string) string { return filepath.Join(dir, "nothing") }

// Remakes says that nothing but empty directories is made.
func (c content) Remakes() bool { return true }

// Rebases says that an upper directory can be put on any parent when it is committed.
func (c content) Rebases() bool { return true }

// labelSnapshotRef is snapshots.LabelSnapshotRef, which containerd has since 2.4: the layer that is unpacked.
const labelSnapshotRef = "containerd.io/snapshot.ref"

// isLayer reports whether a snapshot without a parent is for a layer to be unpacked in. It
// may get its parent when it is committed, so what the layer deletes has to be kept as
// overlayfs's own whiteouts, which containerd makes in an overlay mount alone.
func isLayer(s storage.Snapshot, labels map[string]string) bool {
	return s.Kind == snapshots.KindActive && len(s.ParentIDs) == 0 && labels[labelSnapshotRef] != ""
}

// Fill makes the upper and the work directory. The upper one is what the root directory of the mount shows: it has
// the mode and the extended attributes of the parent's, such as access control lists, and belongs to the
// user that a mapping in the labels makes root, or to the owner of the parent's.
func (c content) Fill(ctx context.Context, dir, parent string, s storage.Snapshot, labels map[string]string) error {
	upper := c.Upper(dir)
	if err := mkdir(upper, 0o755); err != nil {
		return err
	}
	if s.Kind == snapshots.KindActive {
		if err := mkdir(work(dir), 0o711); err != nil {
			return err
		}
	}
	if isLayer(s, labels) {
		if err := mkdir(nothing(dir), 0o755); err != nil {
			return err
		}
	}
	if parent != "" {
		err := files.CopyAttributes(upper, c.Upper(parent), isOverlays, func(path, attribute string, err error) {
			log.G(ctx).WithError(err).Debugf("extended attribute %q of %s was not copied", attribute, path)
		})
		if err != nil {
			return err
		}
	}
	uid, gid, err := mappedRoot(labels)
	if err != nil || uid < 0 {
		return err
	}
	return chown(upper, uid, gid)
}

// isOverlays reports whether an extended attribute is overlayfs's own: it says what becomes of the directories
// below, not how a directory is.
func isOverlays(attribute string) bool {
	return strings.HasPrefix(attribute, "trusted.overlay.") || strings.HasPrefix(attribute, "user.overlay.")
}

// chown gives a directory to another user, and keeps its mode, of which that may take bits away.
func chown(path string, uid, gid int) error {
	info, err := os.Stat(path)
	if err == nil {
		err = os.Lchown(path, uid, gid)
	}
	if err == nil {
		err = os.Chmod(path, info.Mode())
	}
	return err
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// mkdir makes a directory of that mode, whatever the umask is.
func mkdir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Mounts says how snapshots are mounted. It differs from containerd's own snapshotter where a mapping is in the
// labels, since core/mount maps the bind mount of an active snapshot, and none that is read-only:
//
//   - A snapshot that stands on nothing is not mapped. Its directory belongs to the container's root already,
//     and so does what the container writes, as in the upper directory of an overlay; mapped once more, no
//     user of the container could write.
//   - A view of one layer is an overlay of that and of its own directory, which is empty.
func (c content) Mounts(s storage.Snapshot, labels map[string]string, dir func(id string) string) []mount.Mount {
	var options []string
	uids, gids := labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping]
	if c.remapIDs && uids != "" {
		options = append(options, "uidmap="+uids)
	}
	if c.remapIDs && gids != "" {
		options = append(options, "gidmap="+gids)
	}
	var lower []string
	switch {
	case s.Kind == snapshots.KindActive && len(s.ParentIDs) == 0 && isDir(nothing(dir(s.ID))): // see isLayer
		options = append(options, "workdir="+work(dir(s.ID)), "upperdir="+c.Upper(dir(s.ID)))
		lower = []string{nothing(dir(s.ID))}
	case len(s.ParentIDs) == 0 && s.Kind == snapshots.KindActive: // overlayfs needs something below
		return bind(c.Upper(dir(s.ID)), []string{"rw"})
	case len(s.ParentIDs) == 0:
		return bind(c.Upper(dir(s.ID)), []string{"ro"})
	case len(s.ParentIDs) == 1 && s.Kind == snapshots.KindView && len(options) == 2:
		lower = []string{c.Upper(dir(s.ParentIDs[0])), c.Upper(dir(s.ID))}
		return c.overlay(lower, options)
	case len(s.ParentIDs) == 1 && s.Kind == snapshots.KindView:
		return bind(c.Upper(dir(s.ParentIDs[0])), append(options, "ro"))
	case s.Kind == snapshots.KindActive:
		options = append(options, "workdir="+work(dir(s.ID)), "upperdir="+c.Upper(dir(s.ID)))
	}
	for _, id := range s.ParentIDs {
		lower = append(lower, c.Upper(dir(id)))
	}
	return c.overlay(lower, options)
}

func (c content) overlay(lower, options []string) []mount.Mount {
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, c.options...)}}
}

func bind(source string, options []string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: append(options, "rbind")}}
}
