//go:build linux

package plugin

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/internal/serving"
	"google.golang.org/grpc/codes"
)

const (
	retry = 5 * time.Second  // between two tries to open the root directory anew
	grace = 10 * time.Second // how long calls may take to end when containerd is stopped
)

// snapshotter serves a root directory for as long as containerd runs. Where the daemon ends, to be started again, it closes
// the root directory; and it opens it, again and again, until that works.
type snapshotter struct {
	root            string
	open            func() (snapshots.Snapshotter, error)
	retry, interval time.Duration // of opening anew, and of probes
	grace           time.Duration

	stop    context.CancelFunc
	stopped chan struct{} // closed once the goroutine that opens anew has ended
	close   func() error
	found   bool // the root directory was opened: it is never made anew. Of that goroutine

	mu  sync.Mutex
	run *run  // nil while the root directory is closed
	why error // it is
}

// run is the time from one opening of the root directory to its closing.
type run struct {
	snapshots.Snapshotter
	probe *serving.Probe
	calls sync.WaitGroup // that have begun: it grows under the snapshotter's mu, while that has this run
}

// begin opens the root directory, now or later, and begins to look after it. Its only error is plugin.ErrSkipPlugin.
func (s *snapshotter) begin(ctx context.Context) error {
	first, err := s.tryOpen(ctx)
	if plugin.IsSkipPlugin(err) {
		return err
	}
	if err != nil {
		log.G(ctx).WithError(err).Errorf("the root directory can't be opened: trying again every %v; calls fail until then", s.retry)
	}
	s.stopped = make(chan struct{})
	working, cancel := context.WithCancel(ctx)
	s.stop = cancel
	s.close = sync.OnceValue(func() error { return s.end(ctx) })
	go func() {
		defer close(s.stopped)
		s.look(working, first)
	}()
	return nil
}

// newRun opens the root directory, and logs how its last run has ended. A crash leaves the file running, and
// what a crash of the snapshotter leaves.
func (s *snapshotter) newRun(ctx context.Context) (*run, error) {
	sn, err := s.open()
	if err != nil {
		return nil, err
	}
	probe, err := serving.NewProbe(s.root, sn, serving.Hooks{Interval: s.interval, Health: func(bool) {}})
	if err != nil {
		return nil, errors.Join(err, sn.Close())
	}
	last, err := serving.BeginRun(s.root, programVersion())
	if err != nil { // a full disk is no reason not to serve
		log.G(ctx).WithError(err).Warnf("%s can't be written, so the next start can't tell how this run ended", serving.RunningFile(s.root))
	}
	kind, err := driver.Kind(s.root)
	if err != nil {
		return nil, errors.Join(err, sn.Close())
	}
	log.G(ctx).WithFields(log.Fields{"version": programVersion(), "root": s.root, "kind": kind, "last-stop": last}).Info("serving snapshots")
	return &run{Snapshotter: sn, probe: probe}, nil
}

// programVersion says what is running.
func programVersion() string {
	const module = "github.com/fsmeta/fsmeta/containerd"
	own := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == module {
				own = m.Version
			}
		}
	}
	return fmt.Sprintf("%s in containerd %s", own, version.Version)
}

// look looks after the root directory until ctx ends: it opens it where it is closed, and closes it where that alone can help.
func (s *snapshotter) look(ctx context.Context, r *run) {
	for {
		if r == nil {
			if r = s.reopen(ctx); r == nil {
				return
			}
		}
		why := s.probe(ctx, r)
		if why == nil {
			return
		}
		s.drop(why)
		log.G(ctx).WithError(why).Errorf("only opening the root directory anew can help: closing it, and trying to open it every %v; calls fail until then", s.retry)
		if !awaitCalls(ctx, r) {
			return
		}
		if err := r.Close(); err != nil {
			log.G(ctx).WithError(err).Warn("the root directory was closed with an error")
		}
		r = nil
	}
}

// probe probes until ctx ends, when it returns nil, or there is a reason to open the root directory anew. It cleans up
// beside.
func (s *snapshotter) probe(ctx context.Context, r *run) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hopeless := make(chan error, 1)
	go func() { // on a disk that hangs it may never end
		if err := r.probe.Run(ctx); err != nil {
			hopeless <- err
		}
	}()
	go serving.CleanUp(ctx, s)
	select {
	case err := <-hopeless:
		return err
	case <-r.Snapshotter.(interface{ Failed() <-chan struct{} }).Failed():
		return errors.New("a sync has failed")
	case <-ctx.Done():
		return nil
	}
}

// drop makes calls fail from now on, and returns the run in which those are that have begun, nil where there is none.
func (s *snapshotter) drop(why error) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.run
	s.run, s.why = nil, why
	return r
}

// awaitCalls waits for the calls of a run that was dropped. It returns false where ctx ends before.
func awaitCalls(ctx context.Context, r *run) bool {
	ended := make(chan struct{})
	go func() {
		r.calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// reopen opens the root directory as soon as that works. It returns nil where ctx ends before.
func (s *snapshotter) reopen(ctx context.Context) *run {
	for last := s.reason(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.retry):
		}
		r, err := s.tryOpen(ctx)
		if err == nil {
			return r
		}
		if said := err.Error(); said != last {
			log.G(ctx).WithError(err).Error("the root directory can't be opened")
			last = said
		}
	}
}

// reason says why the root directory is closed.
func (s *snapshotter) reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why.Error()
}

// tryOpen opens the root directory for calls, or says why it is closed.
func (s *snapshotter) tryOpen(ctx context.Context) (*run, error) {
	err := s.checkFound()
	var r *run
	if err == nil {
		r, err = s.newRun(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.why = r, err
	s.found = s.found || err == nil
	return r, err
}

// checkFound refuses a root directory that was opened, and is missing now: what it is on may not be mounted, and an empty one must not
// take its place.
func (s *snapshotter) checkFound() error {
	if !s.found {
		return nil
	}
	kind, err := driver.Kind(s.root)
	if err == nil && kind == "" {
		err = fmt.Errorf("%s has no snapshots any more: mount what it was on, or restore it", s.root)
	}
	return err
}

// Close ends the use of the root directory, when the calls that are under way have ended; those take ten seconds at most, or the error
// says that they haven't, and the root directory is left as a crash leaves it. Every call after the first returns what
// that did.
func (s *snapshotter) Close() error { return s.close() }

var errClosed = errors.New("containerd has closed it")

func (s *snapshotter) end(ctx context.Context) error {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	s.stop()
	select {
	case <-s.stopped: // nothing opens it anew
	case <-late.Done():
		s.drop(errClosed)
		return fmt.Errorf("close %s: its disk has not answered for %v", s.root, s.grace)
	}
	r := s.drop(errClosed)
	if r == nil {
		return nil // it was closed
	}
	if !awaitCalls(late, r) {
		return fmt.Errorf("close %s: calls have not ended after %v", s.root, s.grace)
	}
	if err := serving.Close(ctx, r.Snapshotter); err != nil {
		return err
	}
	return serving.EndRun(s.root)
}

// logged returns s with its calls in the log.
func (s *snapshotter) logged() snapshots.Snapshotter {
	return &serving.Calls{Snapshotter: s, Root: s.root, Fields: fields, Count: func(string, codes.Code, time.Duration) {}, Probe: s.probeSoon}
}

// probeSoon makes the probe look now.
func (s *snapshotter) probeSoon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil {
		s.run.probe.Soon()
	}
}

// enter begins a call, which ends with Done of calls.
func (s *snapshotter) enter() (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil { // the class is that of a daemon that can't be reached, whatever that of the reason is
		return nil, fmt.Errorf("%w: the root directory %s is closed: %v", errdefs.ErrUnavailable, s.root, s.why)
	}
	s.run.calls.Add(1)
	return s.run, nil
}

// call makes a call of the snapshotter that has the root directory open.
func call[T any](s *snapshotter, fn func(snapshots.Snapshotter) (T, error)) (result T, err error) {
	r, err := s.enter()
	if err != nil {
		return result, err
	}
	defer r.calls.Done()
	return fn(r.Snapshotter)
}

// try is call for a call that returns nothing but an error.
func try(s *snapshotter, fn func(snapshots.Snapshotter) error) error {
	_, err := call(s, func(sn snapshots.Snapshotter) (struct{}, error) { return struct{}{}, fn(sn) })
	return err
}

func (s *snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return call(s, func(sn snapshots.Snapshotter) (snapshots.Info, error) { return sn.Stat(ctx, key) })
}

func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return call(s, func(sn snapshots.Snapshotter) (snapshots.Info, error) { return sn.Update(ctx, info, fieldpaths...) })
}

func (s *snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return call(s, func(sn snapshots.Snapshotter) (snapshots.Usage, error) { return sn.Usage(ctx, key) })
}

func (s *snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return call(s, func(sn snapshots.Snapshotter) ([]mount.Mount, error) { return sn.Mounts(ctx, key) })
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return call(s, func(sn snapshots.Snapshotter) ([]mount.Mount, error) { return sn.Prepare(ctx, key, parent, opts...) })
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return call(s, func(sn snapshots.Snapshotter) ([]mount.Mount, error) { return sn.View(ctx, key, parent, opts...) })
}

func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return try(s, func(sn snapshots.Snapshotter) error { return sn.Commit(ctx, name, key, opts...) })
}

func (s *snapshotter) Remove(ctx context.Context, key string) error {
	return try(s, func(sn snapshots.Snapshotter) error { return sn.Remove(ctx, key) })
}

func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return try(s, func(sn snapshots.Snapshotter) error { return sn.Walk(ctx, fn, filters...) })
}

// Cleanup is the call by which containerd ends a garbage collection.
func (s *snapshotter) Cleanup(ctx context.Context) error {
	return try(s, func(sn snapshots.Snapshotter) error { return sn.(snapshots.Cleaner).Cleanup(ctx) })
}
