//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/serving"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/overlay"
)

// open opens the snapshotter of the kind that is asked for, and returns which that is.
func open(o serveOptions) (snapshots.Snapshotter, string, error) {
	kind, err := choose(o.root, o.kind)
	if err != nil {
		return nil, "", err
	}
	var sn snapshots.Snapshotter
	switch kind {
	case "overlay":
		sn, err = overlay.NewSnapshotter(o.root, overlayOptions(o)...)
	case "native":
		opts := []native.Opt{native.AsynchronousRemove}
		if o.unsynced {
			opts = append(opts, native.WithoutSync)
		}
		sn, err = native.NewSnapshotter(o.root, opts...)
	default:
		err = fmt.Errorf("there is no snapshotter %q: choose overlay, native or auto", kind)
	}
	return sn, kind, err
}

func overlayOptions(o serveOptions) []overlay.Opt {
	opts := []overlay.Opt{overlay.AsynchronousRemove}
	if o.remapIDs {
		opts = append(opts, overlay.WithRemapIDs)
	}
	if o.unsynced {
		opts = append(opts, overlay.WithoutSync)
	}
	return opts
}

// choose returns the kind of snapshotter for a root directory. As its first start decides
// that for good, auto takes native only where overlayfs is not supported, and never for an
// error that may be gone tomorrow. A crash may leave the root directory with a mount for
// trial in it.
func choose(root, kind string) (string, error) {
	if kind != "auto" {
		return kind, nil
	}
	kind, err := driver.Kind(root)
	if err != nil || kind != "" {
		return kind, err
	}
	if err := checkAuto(root); err != nil {
		return "", fmt.Errorf("%w (--snapshotter native copies instead, and needs no overlayfs)", err)
	}
	if err := atomic.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	err = serving.Supported(root)
	switch {
	case err == nil:
		return "overlay", nil
	case !errors.Is(err, serving.ErrUnsupported):
		return "", fmt.Errorf("find out whether overlayfs works in %s: %w (--snapshotter overlay or native decides it)", root, err)
	}
	log.L.WithError(err).Warnf("overlayfs is not supported in %s, so snapshots are copied there, from now on. To change that, once overlayfs is supported: "+
		"while it has no snapshots, stop, delete %s and start again; else use another --root", root, filepath.Join(root, "snapshotter"))
	return "native", nil
}

// checkAuto refuses to choose where overlayfs can't be tried.
func checkAuto(root string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can mount overlayfs: run this as root")
	}
	return overlay.CheckRoot(root)
}
