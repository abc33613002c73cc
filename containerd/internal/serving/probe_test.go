//go:build linux

package serving

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/native"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// limit is how long a test waits for what comes as a rule at once.
const limit = time.Minute

// failing fails every Stat.
type failing struct {
	snapshots.Snapshotter
	err error
}

func (f failing) Stat(context.Context, string) (snapshots.Info, error) {
	return snapshots.Info{}, &os.PathError{Op: "open", Path: "x", Err: f.err}
}

func TestWhichErrorsProbe(t *testing.T) {
	for err, want := range map[error]bool{unix.EIO: true, unix.EROFS: true, unix.ENOSPC: false, errdefs.ErrNotFound: false} {
		p := &Probe{wake: make(chan struct{}, 1), writes: probeWrites}
		s := &Calls{Snapshotter: failing{err: err}, Root: t.TempDir(), Count: func(string, codes.Code, time.Duration) {}, Probe: p.Soon}
		_, _ = s.Stat(t.Context(), "key") // fails
		tick := make(chan time.Time, 1)
		if !want {
			tick <- time.Now()
		}
		p.pause(t.Context(), tick, time.Time{})
		if writes := p.writes == 0; writes != want {
			t.Errorf("%v makes a probe come at once and write then: %v, want %v", err, writes, want)
		}
	}
}

// A write to the disk that does not end is an error once it takes long, while the other steps go
// on. It is no sign of life much later. What it ends with counts.
func TestSlowWrite(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	sn, err := native.NewSnapshotter(root)
	must(t, err)
	t.Cleanup(func() { must(t, sn.Close()) })
	reached := 0
	p, err := NewProbe(root, sn, Hooks{Health: func(bool) {}, Reach: func(context.Context) error { reached++; return nil }})
	must(t, err)
	p.hooks.Interval = 0 // it does not wait for a write
	slow := func(lasts time.Duration) *diskWrite {
		p.write = &diskWrite{time.Now().Add(-lasts), make(chan error, 1)}
		return p.write
	}
	slow(0)
	if err := p.once(t.Context()); err != nil {
		t.Errorf("a write that is not late: %v", err)
	}
	slow(probeLimit)
	if err := p.once(t.Context()); err != errSlowWrite || hopeless(err) || p.lasts(writeLimit) {
		t.Errorf("a late write: %v; only opening anew can help: %v, and it is no sign of life: %v", err, hopeless(err), p.lasts(writeLimit))
	}
	before := reached
	write := slow(writeLimit)
	if err := p.once(t.Context()); err != errSlowWrite || !p.lasts(writeLimit) {
		t.Errorf("a write that is far too late: %v; it is no sign of life: %v", err, p.lasts(writeLimit))
	}
	if reached != before+1 {
		t.Error("the steps behind the write wait for it")
	}
	write.ended <- unix.EIO
	if err := p.once(t.Context()); !hopeless(err) || p.write != nil {
		t.Errorf("a write that has failed: %v; another is under way: %v", err, p.write != nil)
	}
	p.writes, p.hooks.Interval = 0, 2*limit
	if err := p.once(t.Context()); err != nil || p.writes != probeWrites || p.write != nil {
		t.Errorf("the next write: %v, begun: %v, ended: %v", err, p.writes == probeWrites, p.write == nil)
	}
}

// What is wrong with how calls come in says nothing of the root directory.
func TestReachIsBesideTheRoot(t *testing.T) {
	p := &Probe{hooks: Hooks{Reach: func(context.Context) error { return unix.EROFS }}}
	if err := p.reach(t.Context()); err == nil || hopeless(err) || !hopeless(unix.EROFS) {
		t.Errorf("%v: only opening the root directory anew can help: %v", err, hopeless(err))
	}
}
