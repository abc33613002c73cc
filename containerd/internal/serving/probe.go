//go:build linux

package serving

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// Interval is how long it is between two probes where none is set.
const Interval = 10 * time.Second

const (
	probeRest   = time.Second      // at least between two, however many calls fail
	probeLimit  = 10 * time.Second // a longer one says that no call is answered
	probeWrites = 6                // each so many probes, one writes to the disk
	writeLimit  = 30 * time.Minute // a write to the disk that takes longer is no sign of life
)

// probeKey is a snapshot that never exists.
const probeKey = "probe of fsmeta-snapshotter"

// Hooks are what the daemon or the plugin adds to a probe. Each but Health may be left out.
type Hooks struct {
	Interval time.Duration               // between two probes, instead of [Interval]
	Health   func(ok bool)               // is told what each probe has found, by one goroutine or another
	Alive    func()                      // is called after each probe, as a sign of life
	Reach    func(context.Context) error // is the last step: that calls come in. Its errors say nothing of the root directory
}

// Probe looks again and again whether a snapshotter can do its work: whether its root directory
// is still the one that it was opened in, its disk can be read and written, its store
// reads and writes, and whatever [Hooks.Reach] looks at.
type Probe struct {
	root  string
	sn    snapshots.Snapshotter
	hooks Hooks

	parts  map[string]os.FileInfo // the root directory's, as they were at the start
	wake   chan struct{}
	writes int          // probes until one writes to the disk
	write  *diskWrite   // that has not ended, nil for none
	step   atomic.Value // a string: what it is doing
	last   string       // the error of the last one, "" for none
}

// NewProbe returns one for a snapshotter that was just opened.
func NewProbe(root string, sn snapshots.Snapshotter, hooks Hooks) (*Probe, error) {
	p := &Probe{root: root, sn: sn, hooks: hooks, parts: map[string]os.FileInfo{}, wake: make(chan struct{}, 1)}
	if p.hooks.Interval == 0 {
		p.hooks.Interval = Interval
	}
	for _, path := range []string{root, filepath.Join(root, "meta"), filepath.Join(root, "snapshots")} {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		p.parts[path] = info
	}
	return p, nil
}

// Soon makes Run look at once, as a call has failed for the disk's sake.
func (p *Probe) Soon() {
	select {
	case p.wake <- struct{}{}:
	default: // it will
	}
}

// Run probes until ctx ends, and logs what changes. It returns an error where only opening the root directory anew can
// help. On a disk that hangs it may never return.
func (p *Probe) Run(ctx context.Context) error {
	ticker := time.NewTicker(p.hooks.Interval)
	defer ticker.Stop()
	for {
		begin := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if hopeless(err) {
			p.hooks.Health(false)
			return err
		}
		p.tell(ctx, err)
		if p.hooks.Alive != nil && !p.lasts(writeLimit) {
			p.hooks.Alive()
		}
		if !p.pause(ctx, ticker.C, begin) {
			return nil
		}
	}
}

// pause returns when it is time for the next probe after one that has begun at begin, false
// when ctx ends. One that a failed call asks for writes to the disk.
func (p *Probe) pause(ctx context.Context, tick <-chan time.Time, begin time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-tick:
		return true
	case <-p.wake:
		p.writes = 0
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Until(begin.Add(probeRest))):
		return true
	}
}

// tell says what has changed since the last probe.
func (p *Probe) tell(ctx context.Context, err error) {
	p.hooks.Health(err == nil)
	said := ""
	if err != nil {
		said = err.Error()
	}
	switch {
	case said == p.last:
	case err != nil:
		log.G(ctx).WithError(err).Error("something is wrong, and a new start would not help: see what it says")
	default:
		log.G(ctx).Info("what was wrong is over")
	}
	p.last = said
}

// step is one of a probe.
type step struct {
	what string
	do   func(context.Context) error
}

// once does each step of a probe, up to the first error. Where it takes long, it says so. It
// leaves nothing on the disk but the time at which the root directory was changed. The write of
// that may go on: later probes wait for it.
func (p *Probe) once(ctx context.Context) error {
	slow := time.AfterFunc(probeLimit, func() {
		p.hooks.Health(false)
		log.G(ctx).Errorf("calls can't be answered: to %s takes longer than %v", p.step.Load(), probeLimit)
	})
	defer slow.Stop()
	steps := []step{
		{"see whether the root directory is still there", p.compare},
		{"read from the disk", p.readDisk},
		{"write to the disk", p.writeDisk},
		{"read and write the store", p.useStore},
	}
	if p.hooks.Reach != nil {
		steps = append(steps, step{"call through the socket", p.reach})
	}
	for _, s := range steps {
		p.step.Store(s.what)
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	if p.lasts(probeLimit) {
		return errSlowWrite
	}
	return nil
}

// errSlowWrite: a write to the disk has not ended in time, and all else that a probe does has.
var errSlowWrite = fmt.Errorf("a write to the disk of the root directory takes longer than %v: the disk is slow, or has much to write", probeLimit)

// ErrReplaced: the root directory, or a part of it, is not the one any more that was opened.
var ErrReplaced = errors.New("it was unmounted or replaced while it was served")

// compare looks whether the root directory and its parts are those of the start.
func (p *Probe) compare(context.Context) error {
	for path, before := range p.parts {
		now, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(before, now) {
			return fmt.Errorf("%s: %w", path, ErrReplaced)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readDisk reads a file of the store. A filesystem that was shut down fails that, even where
// the file is in memory.
func (p *Probe) readDisk(context.Context) error {
	_, err := os.ReadFile(filepath.Join(p.root, "meta", "layout"))
	return err
}

// diskWrite is a durable write to the disk that goes on beside the other steps of a probe: an
// unpack that has left much to the kernel to write may keep it for minutes.
type diskWrite struct {
	begin time.Time
	ended chan error // has room for the one that it is sent
}

// writeDisk begins to write to the disk, now and then, and returns what that has ended with. It
// waits for it only briefly.
func (p *Probe) writeDisk(ctx context.Context) error {
	if p.write == nil {
		if p.writes--; p.writes > 0 {
			return nil
		}
		p.writes = probeWrites
		p.write = &diskWrite{time.Now(), make(chan error, 1)}
		go func(w *diskWrite) { w.ended <- changeRoot(p.root) }(p.write)
	}
	ended, err := p.write.wait(ctx, p.write.begin.Add(p.hooks.Interval/2)) // within probeLimit, and in time for the watchdog
	if ended {
		p.write = nil
	}
	return err
}

// wait returns what the write has ended with, where it ends in time. One that has ended
// before counts, though the time is up.
func (w *diskWrite) wait(ctx context.Context, until time.Time) (ended bool, err error) {
	select {
	case err = <-w.ended:
		return true, err
	case <-time.After(time.Until(until)):
	case <-ctx.Done():
	}
	select {
	case err = <-w.ended:
		return true, err
	default:
		return false, nil
	}
}

// lasts reports whether a write to the disk that has not ended takes longer than limit.
func (p *Probe) lasts(limit time.Duration) bool {
	return p.write != nil && time.Since(p.write.begin) > limit
}

// changeRoot changes the times of the root directory, durably: a filesystem that has become
// read-only after an error shows in nothing else. No room is no error of it. A crash leaves the
// times as they were, or as they are now.
func changeRoot(root string) (err error) {
	now := time.Now()
	if err := os.Chtimes(root, now, now); err != nil {
		return WithoutFull(err)
	}
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := dir.Sync(); err != nil {
		return WithoutFull(fmt.Errorf("sync %s: %w", root, err))
	}
	return nil
}

// useStore looks for a snapshot that does not exist, once to read and once to change it. The
// latter waits for its turn to write, and until what it has read is on disk.
func (p *Probe) useStore(ctx context.Context) error {
	if _, err := p.sn.Stat(ctx, probeKey); !errdefs.IsNotFound(err) {
		return fmt.Errorf("read the store: %w", err)
	}
	if _, err := p.sn.Update(ctx, snapshots.Info{Name: probeKey}, "labels"); !errdefs.IsNotFound(err) {
		return fmt.Errorf("write to the store: %w", err)
	}
	return nil
}

// reach looks whether calls come in. The directory of the socket is on another filesystem than the root, as a
// rule, which says nothing of the root's.
func (p *Probe) reach(ctx context.Context) error {
	if err := p.hooks.Reach(ctx); err != nil {
		return besideRoot{err}
	}
	return nil
}

// besideRoot is an error that says nothing of the root directory.
type besideRoot struct{ error }

func (e besideRoot) Unwrap() error { return e.error }

// hopeless reports whether what a probe says can only be mended from outside, and found out by
// a new start. A damaged store is not: it goes on for what is whole. Nor is the socket, which is
// made again as soon as that works.
func hopeless(err error) bool {
	if _, beside := errors.AsType[besideRoot](err); beside {
		return false
	}
	return errors.Is(err, ErrReplaced) || OfDisk(err) && !errors.Is(err, fsmeta.ErrDamaged)
}
