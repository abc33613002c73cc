//go:build linux

// Package plugin registers fsmeta's snapshotter in a containerd that is built with it: as "fsmeta", beside the
// built-in "overlayfs", with no socket and no daemon between. It is imported for that alone, by a main package that is
// otherwise containerd's own:
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"os"
//
//		"github.com/containerd/containerd/v2/cmd/containerd/command"
//		_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
//		_ "github.com/fsmeta/fsmeta/containerd/plugin"
//	)
//
//	func main() {
//		if err := command.App().Run(context.Background(), os.Args); err != nil {
//			fmt.Fprintf(os.Stderr, "containerd: %s\n", err)
//			os.Exit(1)
//		}
//	}
//
// (In containerd 2.0 and 2.1, Run takes no context.) containerd's config.toml can have the options of [Config]; without any of them
// the snapshotter works as the built-in overlayfs does by default:
//
//	version = 3
//	[plugins."io.containerd.snapshotter.v1.fsmeta"]
//	  root_path = "/srv/fsmeta"
//
// Its root directory is that of the daemon fsmeta-snapshotter, so a node can move from one to the other. Only one of them can have it at a
// time: the second says so, and has no snapshots.
//
// # What goes wrong
//
// Where overlayfs is not supported, the plugin is skipped, as others are without their filesystem, unless an option asks for
// it, or its root directory has been used before. Options that contradict each other are an error, after which
// containerd serves nothing: a snapshotter that fails to load takes containerd's metadata with it. So nothing else is one. Where the root directory can't
// be opened, since another process has it, its disk is missing, or its store is damaged, the snapshotter is there all the same: it is opened
// every five seconds until that works. Meanwhile each call fails with errdefs.ErrUnavailable and the reason, and the log says it once.
//
// Every ten seconds, and when a call fails for the disk's sake, a probe looks whether the root directory is still there, and can be read and
// written. Where only opening it anew can help, which is after a failed sync, after an error of the disk, and where it was unmounted or
// replaced, the snapshotter does just that: it closes its root directory, so that this can be unmounted and mended,
// and opens it again, as above. containerd goes on, and is never ended. Calls that have begun before may end or fail.
//
// A crash or a power cut leaves what package overlay or native of this module says, and a file running, from which the next
// start sees that the last one has not ended in order.
package plugin

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/serving"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	"github.com/moby/sys/userns"
)

// ID is the name of the snapshotter.
const ID = "fsmeta"

// The capabilities of containerd's overlayfs plugin.
const (
	capRemapIDs     = "remap-ids"
	capOnlyRemapIDs = "only-remap-ids"
	capRebase       = driver.RebaseCap
)

// Config are the options in containerd's config.toml. Those that the built-in overlayfs plugin has, too, mean the same.
type Config struct {
	// RootPath is the root directory, instead of one in containerd's own.
	RootPath string `toml:"root_path"`

	// UpperdirLabel adds the label with the upper directory to what is known of a snapshot: see
	// overlay.WithUpperdirLabel.
	UpperdirLabel bool `toml:"upperdir_label"`

	// SyncRemove deletes content in the call that removes a snapshot, instead of after containerd's garbage collection.
	SyncRemove bool `toml:"sync_remove"`

	// SlowChown allows clients to change the owners of a whole image, file by file, where the kernel
	// has no idmapped mounts: see overlay.WithSlowChown.
	SlowChown bool `toml:"slow_chown"`

	// MountOptions are added to every overlay mount, and to no bind mount.
	MountOptions []string `toml:"mount_options"`

	// NoSync leaves it to the kernel when content reaches the disk: faster, and after a power cut snapshots of
	// the last half minute may lack content. The built-in plugin has no such option, and works so.
	NoSync bool `toml:"no_sync"`

	// Kind is "overlay" or "native", which copies, and works on every filesystem. Without it the kind is what the root directory has
	// already, so that one of the daemon goes on as it is, and else overlay: unlike the daemon's, a start of containerd never decides for
	// copying by itself. UpperdirLabel and MountOptions are overlay's alone. Where the root directory can't be read when
	// containerd starts, it is taken for an overlay: one that copies, on a disk that may come late, needs kind = "native".
	Kind string `toml:"kind"`
}

func init() {
	registry.Register(&plugin.Registration{Type: plugins.SnapshotPlugin, ID: ID, Config: &Config{}, InitFn: initialize})
}

// initialize is called by containerd once, when it starts.
func initialize(ic *plugin.InitContext) (any, error) {
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	config, ok := ic.Config.(*Config)
	if !ok {
		return nil, fmt.Errorf("the configuration of %s is a %T", ID, ic.Config)
	}
	o, err := config.options(ic.Properties[plugins.PropertyRootDir])
	if err != nil {
		return nil, err
	}
	ic.Meta.Capabilities = append(ic.Meta.Capabilities, o.capabilities()...)
	ic.Meta.Exports[plugins.SnapshotterRootDir] = o.root
	ctx := log.WithLogger(ic.Context, log.G(ic.Context).WithFields(fields))
	s := &snapshotter{root: o.root, open: o.open, retry: retry, interval: serving.Interval, grace: grace}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	return s.logged(), nil
}

// fields are in each line of the log.
var fields = log.Fields{"snapshotter": ID}

// options are what a Config means on this machine.
type options struct {
	Config
	root   string
	kind   string
	wanted bool // some option asks for the plugin, or there is a root directory of an earlier time
	remaps bool // the kernel has idmapped mounts of overlayfs
}

// options looks what they mean where root is the directory that containerd has for this plugin.
func (c *Config) options(root string) (options, error) {
	o := options{Config: *c, root: root, kind: c.Kind}
	if c.RootPath != "" {
		o.root = c.RootPath
	}
	begun, err := driver.Kind(o.root) // an error shows when it is opened
	o.wanted = c.RootPath != "" || c.Kind != "" || begun != "" || err != nil
	if o.kind == "" {
		o.kind = begun
	}
	switch o.kind {
	case "", overlayKind:
		o.kind = overlayKind
		ok, err := overlayutils.SupportsIDMappedMounts()
		o.remaps = err == nil && ok // an error says that it is not supported, too
	case nativeKind:
		if c.UpperdirLabel || len(c.MountOptions) > 0 {
			return o, errors.New("snapshots of the kind native have no overlay: leave out upperdir_label and mount_options")
		}
	default:
		return o, fmt.Errorf("there is no kind %q: choose overlay or native", o.kind)
	}
	return o, nil
}

const (
	overlayKind = "overlay"
	nativeKind  = "native"
)

// capabilities are what the built-in overlayfs plugin would have here, and none for native, as that has none: a copy can't get another
// parent.
func (o options) capabilities() (capabilities []string) {
	if o.kind != overlayKind {
		return nil
	}
	if o.remaps {
		capabilities = append(capabilities, capRemapIDs)
	}
	if !o.SlowChown {
		capabilities = append(capabilities, capOnlyRemapIDs)
	}
	if !userns.RunningInUserNS() { // where containerd can't make overlayfs's whiteouts
		capabilities = append(capabilities, capRebase)
	}
	return capabilities
}

// check says why there can be no overlay, before anything is written to a root directory. It is
// plugin.ErrSkipPlugin where the machine has no overlayfs, and nothing asks for the plugin. A crash may leave
// the directory, with a mount for trial in it.
func (o options) check() error {
	err := overlay.CheckRoot(o.root)
	if err == nil {
		err = atomic.MkdirAll(o.root, 0o700)
	}
	if err == nil {
		err = serving.Supported(o.root)
	}
	if !o.wanted && (errors.Is(err, overlay.ErrUnfit) || errors.Is(err, serving.ErrUnsupported)) {
		return fmt.Errorf("%w: %w", err, plugin.ErrSkipPlugin)
	}
	return err
}

// open opens the root directory. Errors are those of check, too. See [overlay.NewSnapshotter] for what a crash leaves.
func (o options) open() (snapshots.Snapshotter, error) {
	if o.kind == nativeKind {
		return native.NewSnapshotter(o.root, o.native()...)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	return overlay.NewSnapshotter(o.root, o.overlay()...)
}

func (o options) native() (opts []native.Opt) {
	if !o.SyncRemove {
		opts = append(opts, native.AsynchronousRemove)
	}
	if o.NoSync {
		opts = append(opts, native.WithoutSync)
	}
	return opts
}

func (o options) overlay() []overlay.Opt {
	opts := []overlay.Opt{overlay.WithMountOptions(o.MountOptions)}
	for _, one := range []struct {
		set bool
		opt overlay.Opt
	}{
		{o.UpperdirLabel, overlay.WithUpperdirLabel},
		{!o.SyncRemove, overlay.AsynchronousRemove},
		{o.remaps, overlay.WithRemapIDs},
		{o.SlowChown, overlay.WithSlowChown},
		{o.NoSync, overlay.WithoutSync},
	} {
		if one.set {
			opts = append(opts, one.opt)
		}
	}
	return opts
}
