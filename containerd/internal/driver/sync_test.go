//go:build linux

package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"golang.org/x/sys/unix"
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

// failSync lets the next sync of the files of one snapshot fail.
func failSync(s *Snapshotter, err error) {
	s.sync.tree = func(context.Context, string) error {
		s.sync.tree = files.Sync
		return err
	}
}

// reopened makes the active snapshot "old", and opens the root again.
func reopened(t *testing.T) *Snapshotter {
	t.Helper()
	s, _ := openFake(t, Config{})
	prepare(t, s, "old", "")
	return reopen(t, s)
}

func reopen(t *testing.T, s *Snapshotter) *Snapshotter {
	t.Helper()
	must(t, s.Close())
	s, err := Open(s.root, s.content, s.config)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// The kernel says once that something could not be written. The content is lost all the same with the next call, and
// in the next process.
func TestContentThatCouldNotBeWritten(t *testing.T) {
	s := reopened(t)
	failSync(s, &os.PathError{Op: "sync", Path: "file", Err: unix.EIO})
	for _, when := range []string{"at once", "then", "later", "in the next process", "and the next"} {
		if err := s.Commit(t.Context(), "name", "old"); !errors.Is(err, errLost) {
			t.Errorf("%s, Commit says %v, want errLost", when, err)
		}
		if when != "at once" && when != "then" {
			s = reopen(t, s)
		}
		layer(t, s, "made "+when, "", 1)
	}
}

// Nothing is lost where the files could not be looked at.
func TestContentThatCouldNotBeRead(t *testing.T) {
	s := reopened(t)
	failSync(s, &os.PathError{Op: "open", Path: "file", Err: unix.EMFILE})
	if err := s.Commit(t.Context(), "name", "old"); !errors.Is(err, unix.EMFILE) {
		t.Errorf("Commit says %v, want EMFILE", err)
	}
	must(t, s.Commit(t.Context(), "name", "old"))
}

// A failure that another commit was told of may have been about content of an earlier process.
func TestFailureIsOfOldContentToo(t *testing.T) {
	s := reopened(t)
	committed, release := commitBlocked(t, s)
	release(unix.EIO)
	if err := await(t, "Commit", committed); !errors.Is(err, errLost) {
		t.Errorf("the commit with the sync that failed says %v, want errLost", err)
	}
	s.sync.all = func(*os.File) error { return nil }
	if err := s.Commit(t.Context(), "name", "old"); !errors.Is(err, errLost) {
		t.Errorf("a commit of what was made before says %v, want errLost", err)
	}
}

// Where what is kept of failures is damaged, all content of earlier processes may be lost.
func TestDamagedNoteOfFailures(t *testing.T) {
	s := reopened(t)
	must(t, os.WriteFile(filepath.Join(s.root, unsyncedFile), nil, 0o600))
	s = reopen(t, s)
	if err := s.Commit(t.Context(), "name", "old"); !errors.Is(err, errLost) || !strings.Contains(err.Error(), unsyncedFile) {
		t.Errorf("Commit says %v, want errLost with the file's name", err)
	}
	layer(t, s, "new", "", 1)
}

// Calls at once begin in any order. None counts a failure from before it has begun as one from after.
func TestFailuresBesideCallsAtOnce(t *testing.T) {
	s, _ := openFake(t, Config{})
	for _, call := range []struct {
		id     string
		failed uint64
	}{{"16", 0}, {"15", 1}, {"18", 1}, {"17", 2}, {"19", 2}} {
		s.sync.failed.Store(call.failed)
		must(t, s.begin(call.id))
	}
	for id, want := range map[string]uint64{"14": 0, "15": 0, "16": 0, "17": 1, "18": 1, "19": 2} {
		if failed, here := s.madeHere(id); failed != want || here != (want > 0 || id == "16") {
			t.Errorf("of %s it says %d failures, made here %t, want %d", id, failed, here, want)
		}
	}
}
