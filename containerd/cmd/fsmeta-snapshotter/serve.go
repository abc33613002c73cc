//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
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
	sock, err := openSocket(o.address) // before a root is made for nothing
	if err != nil {
		return err
	}
	sn, kind, err := open(o)
	if err != nil {
		return errors.Join(err, sock.listener.Close())
	}
	last, err := beginRun(o.root, tool.Version())
	if err != nil { // a full disk is no reason not to serve
		log.L.WithError(err).Warnf("%s can't be written, so the next start can't tell how this run ended", runningFile(o.root))
	}
	log.L.WithFields(log.Fields{"version": tool.Version(), "root": o.root, "snapshotter": kind, "address": sock.address, "last-stop": last}).Info("starting")
	err, inOrder := serveOn(ctx, o.root, kind, sn, sock)
	if err = errors.Join(err, closed(sn)); err == nil && inOrder {
		err = endRun(o.root)
	}
	return err
}

// closed closes a snapshotter. That the disk is full is no error of it: the journal has all,
// and is emptied when there is room again.
func closed(sn snapshots.Snapshotter) error {
	err := sn.Close()
	if err != nil && withoutFull(err) == nil {
		log.L.WithError(err).Warn("the disk is full, so the journal of the store is not emptied; nothing is lost")
		return nil
	}
	return err
}

// serveOn serves an open snapshotter on an open socket, which is closed then. inOrder says
// that ctx has ended, and nothing else was the reason to stop.
func serveOn(ctx context.Context, root, kind string, sn snapshots.Snapshotter, sock *socket) (_ error, inOrder bool) {
	healthy := health.NewServer()
	look, err := newProbe(root, sn, sock, func(ok bool) { setHealth(healthy, ok) })
	if err != nil {
		return errors.Join(err, sock.listener.Close()), false
	}
	server := newServer(&observed{Snapshotter: sn, root: root, count: func(string, codes.Code, time.Duration) {}, probe: look.soon}, healthy)
	served := make(chan error, 1)
	sock.serve = func(l net.Listener) {
		go func() {
			if err := server.Serve(l); err != nil {
				served <- fmt.Errorf("serve %s: %w", sock.address, err)
			}
		}()
	}
	sock.announce(healthy)
	sock.serve(sock.listener)
	notify(daemon.SdNotifyReady)
	log.L.Infof("serving the %s snapshotter of %s on %s", kind, root, sock.address)

	working, cancel := context.WithCancel(ctx)
	cleaned := make(chan struct{})
	go func() { // what the last run has left
		defer close(cleaned)
		if err := sn.(snapshots.Cleaner).Cleanup(working); err != nil && working.Err() == nil {
			tellKept(err)
		}
	}()
	probed := make(chan error, 1)
	go func() {
		if err := look.run(working); err != nil {
			probed <- err
		}
	}()
	select {
	case err = <-served:
	case err = <-probed:
		err = fmt.Errorf("only a new start can help: %w", err)
	case <-sn.(interface{ Failed() <-chan struct{} }).Failed():
		err = errors.New("a sync has failed: start again")
	case <-ctx.Done():
		log.L.Info("stopping")
		notify(daemon.SdNotifyStopping)
		inOrder = true
	}
	healthy.Shutdown()
	stop(server)
	cancel()
	<-cleaned
	return err, inOrder
}

// newServer returns a server of a snapshotter and of the health service.
func newServer(sn snapshots.Snapshotter, healthy *health.Server) *grpc.Server {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	healthapi.RegisterHealthServer(server, healthy)
	return server
}

// setHealth tells clients of the health service whether the daemon can do its work.
func setHealth(healthy *health.Server, ok bool) {
	now := healthapi.HealthCheckResponse_NOT_SERVING
	if ok {
		now = healthapi.HealthCheckResponse_SERVING
	}
	for _, service := range []string{"", snapshotsapi.Snapshots_ServiceDesc.ServiceName} {
		healthy.SetServingStatus(service, now)
	}
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
