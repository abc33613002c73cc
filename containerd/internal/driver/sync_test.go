//go:build linux

package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// blockSyncs lets each sync of the filesystem wait, after it has sent on began, until release
// is called. It returns what the sync returns then.
func blockSyncs(s *Snapshotter) (began chan struct{}, release func(err error)) {
	began, result := make(chan struct{}, 10), make(chan error)
	s.sync.all = func(*os.File) error {
		began <- struct{}{}
		return <-result
	}
	return began, func(err error) { result <- err }
}

// commitBlocked begins to commit a snapshot, and the sync of the filesystem for that does not end before release.
func commitBlocked(t *testing.T, s *Snapshotter) (done chan error, release func(err error)) {
	t.Helper()
	prepare(t, s, "committing", "")
	began, release := blockSyncs(s)
	done = make(chan error, 1)
	go func() { done <- s.Commit(t.Context(), "committed", "committing") }()
	await(t, "the sync", began)
	return done, release
}

// While the filesystem is synced for a commit, no call waits that syncs no filesystem itself.
func TestNothingWaitsForASync(t *testing.T) {
	s, _ := openFake(t, Config{})
	layer(t, s, "base", "", 10)
	prepare(t, s, "active", "base")
	prepare(t, s, "going", "base")
	newOrphan(t, s)
	committed, release := commitBlocked(t, s)

	for _, call := range []struct {
		name string
		fn   func(context.Context) error
	}{
		{"Prepare", func(ctx context.Context) error { _, err := s.Prepare(ctx, "new", "base"); return err }},
		{"View", func(ctx context.Context) error { _, err := s.View(ctx, "view", "base"); return err }},
		{"Mounts", func(ctx context.Context) error { _, err := s.Mounts(ctx, "active"); return err }},
		{"Stat", func(ctx context.Context) error { _, err := s.Stat(ctx, "active"); return err }},
		{"Walk", func(ctx context.Context) error {
			return s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
		}},
		{"Usage", func(ctx context.Context) error { _, err := s.Usage(ctx, "active"); return err }},
		{"Update", func(ctx context.Context) error {
			_, err := s.Update(ctx, snapshots.Info{Name: "active", Labels: map[string]string{"a": "b"}})
			return err
		}},
		{"Remove", func(ctx context.Context) error { return s.Remove(ctx, "going") }},
		{"Cleanup", s.Cleanup},
	} {
		done := make(chan error, 1)
		go func() { done <- call.fn(t.Context()) }()
		if err := await(t, call.name, done); err != nil {
			t.Errorf("%s: %v", call.name, err)
		}
	}
	select {
	case err := <-committed:
		t.Errorf("Commit did not wait for its sync: %v", err)
	default:
	}
	release(nil)
	must(t, await(t, "Commit", committed))
}

// A commit that waits for another's sync ends with its context, and leaves the snapshot as it
// was. The next one syncs for itself.
func TestWaitForASyncCanBeLeft(t *testing.T) {
	s, _ := openFake(t, Config{})
	prepare(t, s, "waiting", "")
	committed, release := commitBlocked(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- s.Commit(ctx, "name", "waiting") }()
	cancel()
	if err := await(t, "the commit that was left", left); !errors.Is(err, context.Canceled) {
		t.Errorf("it says %v, want that of the context", err)
	}
	release(nil)
	must(t, await(t, "Commit", committed))
	info, err := s.Stat(t.Context(), "waiting")
	must(t, err)
	if info.Kind != snapshots.KindActive {
		t.Errorf("it is %v, want it active", info.Kind)
	}
	go release(nil)
	must(t, s.Commit(t.Context(), "name", "waiting"))
}

// Content that is made while a sync is under way which fails then is not promised either: the
// failure may have been about it.
func TestContentMadeDuringAFailingSync(t *testing.T) {
	s, _ := openFake(t, Config{})
	committed, release := commitBlocked(t, s)
	dir := prepare(t, s, "during", "")
	must(t, os.WriteFile(filepath.Join(dir, "fs", "file"), []byte("content"), 0o600))
	release(errors.New("the disk is gone"))
	if err := await(t, "Commit", committed); !errors.Is(err, errLost) {
		t.Errorf("the commit with the sync that failed says %v, want errLost", err)
	}
	if err := s.Commit(t.Context(), "name", "during"); !errors.Is(err, errLost) {
		t.Errorf("a commit of what was made meanwhile says %v, want errLost", err)
	}
	prepare(t, s, "after", "")
	go release(nil)
	must(t, s.Commit(t.Context(), "after it", "after"))
}
