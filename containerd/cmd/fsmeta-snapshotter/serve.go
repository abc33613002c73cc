//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/serving"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
)

// grace is how long calls may take to end when the daemon is stopped.
const grace = 10 * time.Second

type serveOptions struct {
	root, address, kind string
	metricsAddress      string // "" for none
	unsynced, remapIDs  bool
}

// serve serves the snapshotter until ctx ends. A crash leaves the sockets, which the next
// start removes, the file that says so, and what package driver says.
func serve(ctx context.Context, o serveOptions) error {
	if o.remapIDs {
		if ok, err := overlayutils.SupportsIDMappedMounts(); err != nil || !ok {
			return errors.Join(errors.New("this kernel can't do idmapped mounts of overlayfs: leave out --remap-ids here, and the capability remap-ids in containerd's config.toml"), err)
		}
	}
	s := &service{serveOptions: o, health: health.NewServer(), ended: make(chan error, 1)}
	if err := s.listen(ctx); err != nil { // before a root is made for nothing
		return err
	}
	if err := s.open(); err != nil {
		return errors.Join(err, s.unlisten())
	}
	inOrder, err := s.run(ctx)
	if err = errors.Join(err, serving.Close(ctx, s.sn)); err == nil && inOrder {
		err = serving.EndRun(s.root)
	}
	return err
}

// service is what serve serves.
type service struct {
	serveOptions
	socket  *socket
	scraped net.Listener // nil where no metrics are served
	sn      snapshots.Snapshotter
	health  *health.Server
	metrics *metrics
	probe   *serving.Probe
	gates   gates
	ended   chan error // why serving or probing has ended
}

func (s *service) listen(ctx context.Context) (err error) {
	if s.socket, err = openSocket(ctx, s.address); err != nil || s.metricsAddress == "" {
		return err
	}
	if s.scraped, err = listenMetrics(ctx, s.metricsAddress); err != nil {
		return errors.Join(err, s.unlisten())
	}
	return nil
}

// unlisten closes what is listened on, before it is served.
func (s *service) unlisten() error {
	err := s.socket.listener.Close()
	if s.scraped != nil {
		err = errors.Join(err, s.scraped.Close())
	}
	return err
}

// open opens the snapshotter, and says how it was left. After an error it is closed.
func (s *service) open() (err error) {
	s.sn, s.kind, err = open(s.serveOptions)
	if err != nil {
		return err
	}
	s.metrics = newMetrics(s.kind, s.root, s.sn)
	if observable, ok := s.sn.(interface{ Observe(driver.Observer) }); ok {
		observable.Observe(s.metrics.observer())
	}
	if s.probe, err = serving.NewProbe(s.root, s.sn, s.hooks()); err != nil {
		return errors.Join(err, s.sn.Close())
	}
	last, err := serving.BeginRun(s.root, tool.Version())
	if err != nil { // a full disk is no reason not to serve
		log.L.WithError(err).Warnf("%s can't be written, so the next start can't tell how this run ended", serving.RunningFile(s.root))
	}
	log.L.WithFields(log.Fields{"version": tool.Version(), "root": s.root, "snapshotter": s.kind, "address": s.socket.address, "last-stop": last}).Info("starting")
	return nil
}

// run serves until ctx ends, or there is another reason to stop. Only the former is an end in
// order. What was listened on is closed then.
func (s *service) run(ctx context.Context) (inOrder bool, err error) {
	s.start()
	working, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { serving.CleanUp(working, s.sn.(snapshots.Cleaner)) })
	if s.scraped != nil {
		work.Go(func() { s.metrics.serve(working, s.scraped) })
	}
	go func() { // a probe of a disk that hangs may never end
		if err := s.probe.Run(working); err != nil {
			s.ended <- fmt.Errorf("only a new start can help: %w", err)
		}
	}()
	select {
	case err = <-s.ended:
	case <-s.sn.(interface{ Failed() <-chan struct{} }).Failed():
		err = errors.New("a sync has failed: start again")
	case <-ctx.Done():
		log.L.Info("stopping")
		notify(daemon.SdNotifyStopping)
		inOrder = true
	}
	s.health.Shutdown()
	s.gates.stop()
	cancel()
	work.Wait()
	return inOrder, err
}

// start begins to serve on the socket, and says so.
func (s *service) start() {
	s.gates.server = newServer(&serving.Calls{Snapshotter: s.sn, Root: s.root, Count: s.metrics.count, Probe: s.probe.Soon}, s.health)
	s.socket.serve = func(l net.Listener) {
		s.gates.serve(l, func(err error) { s.ended <- fmt.Errorf("serve %s: %w", s.socket.address, err) })
	}
	s.socket.announce(s.health)
	s.socket.serve(s.socket.listener)
	notify(daemon.SdNotifyReady)
	log.L.Infof("serving the %s snapshotter of %s on %s", s.kind, s.root, s.socket.address)
}

// noteHealth tells clients of the health service, and the metrics, whether the daemon can do
// its work.
func (s *service) noteHealth(ok bool) {
	now := healthapi.HealthCheckResponse_NOT_SERVING
	if ok {
		now = healthapi.HealthCheckResponse_SERVING
	}
	for _, service := range []string{"", snapshotsapi.Snapshots_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(service, now)
	}
	s.metrics.health(ok)
}

// hooks are what the daemon has to do for each probe.
func (s *service) hooks() serving.Hooks {
	return serving.Hooks{Interval: interval(), Health: s.noteHealth, Alive: func() { notify(daemon.SdNotifyWatchdog) }, Reach: s.socket.keep}
}

// interval is short enough for the watchdog, where there is one.
func interval() time.Duration {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.L.WithError(err).Warn("systemd's watchdog is not fed: its environment variables can't be read")
	}
	if err == nil && watchdog > 0 {
		return min(serving.Interval, watchdog/3)
	}
	return serving.Interval
}

// newServer returns a server of a snapshotter and of the health service.
func newServer(sn snapshots.Snapshotter, healthy *health.Server) *grpc.Server {
	server := grpc.NewServer(grpc.ConnectionTimeout(grace/2), grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	healthapi.RegisterHealthServer(server, healthy)
	return server
}

// notify tells systemd, where that has started us.
func notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.L.WithError(err).Warnf("systemd was not told %q", state)
	}
}
