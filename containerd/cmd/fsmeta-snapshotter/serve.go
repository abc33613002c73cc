//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/fsmeta"
	"google.golang.org/grpc"
)

// grace is how long calls may take to end when the daemon is stopped.
const grace = 10 * time.Second

type serveOptions struct {
	root, address, kind string
	unsynced, remapIDs  bool
}

// serve serves the snapshotter until ctx ends. A crash leaves the socket, which the next
// start removes, and what package driver says.
func serve(ctx context.Context, o serveOptions) error {
	if o.remapIDs {
		if ok, err := overlayutils.SupportsIDMappedMounts(); err != nil || !ok {
			return errors.Join(errors.New("this kernel can't do idmapped mounts of overlayfs: leave out --remap-ids here, and the capability remap-ids in containerd's config.toml"), err)
		}
	}
	if _, err := checkAddress(o.address); err != nil { // before a root is made for nothing
		return err
	}
	sn, kind, err := open(o)
	if err != nil {
		return err
	}
	listener, err := listen(o.address)
	if err != nil {
		return errors.Join(err, sn.Close())
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	notify(daemon.SdNotifyReady)
	log.L.Infof("serving the %s snapshotter of %s on %s", kind, o.root, o.address)

	cleaning, cancel := context.WithCancel(ctx)
	defer cancel()
	cleaned := make(chan struct{})
	go func() { // what the last run has left
		defer close(cleaned)
		if err := sn.(snapshots.Cleaner).Cleanup(cleaning); err != nil && cleaning.Err() == nil {
			tellKept(err)
		}
	}()
	select {
	case err = <-served:
		err = fmt.Errorf("serve %s: %w", o.address, err)
	case <-sn.(interface{ Failed() <-chan struct{} }).Failed():
		err = errors.New("a sync has failed: start again")
		stop(server)
	case <-ctx.Done():
		log.L.Info("stopping")
		notify(daemon.SdNotifyStopping)
		stop(server)
	}
	cancel()
	<-cleaned
	return errors.Join(err, sn.Close())
}

// tellKept says why a Cleanup has deleted nothing.
func tellKept(err error) {
	if errors.Is(err, fsmeta.ErrDamaged) {
		log.L.WithError(err).Error("the metadata is damaged: run fsmeta-snapshotter check, which says what that means and what to do")
		return
	}
	log.L.WithError(err).Warn("directories that belong to no snapshot are kept")
}

// stop ends the calls under way, or breaks them off when they take too long.
func stop(server *grpc.Server) {
	late := time.AfterFunc(grace, func() {
		log.L.Warnf("calls have not ended after %v: breaking them off", grace)
		server.Stop()
	})
	defer late.Stop()
	server.GracefulStop()
}

// notify tells systemd, where that has started us.
func notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.L.WithError(err).Warnf("systemd was not told %q", state)
	}
}

// longestAddress is how long the path of a unix socket can be, in bytes.
const longestAddress = 107

// checkAddress looks whether a socket can be made, and reports whether one is there that
// nobody listens on any more.
func checkAddress(address string) (stale bool, err error) {
	if len(address) > longestAddress {
		return false, fmt.Errorf("%s is longer than the %d bytes that the path of a socket can have: choose another --address", address, longestAddress)
	}
	info, err := os.Lstat(address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode().Type() != fs.ModeSocket:
		return false, fmt.Errorf("%s is there and is no socket: choose another --address", address)
	}
	c, err := net.Dial("unix", address)
	if err == nil {
		_ = c.Close() // it was only to see whether somebody answers
		return false, fmt.Errorf("another program listens on %s: stop it, or choose another --address", address)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false, err
	}
	return true, nil
}

// listen makes the socket, with the directory that it is in. It takes the place of one that
// nobody listens on any more.
func listen(address string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(address), 0o711); err != nil {
		return nil, err
	}
	stale, err := checkAddress(address)
	if stale {
		err = os.Remove(address)
	}
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
