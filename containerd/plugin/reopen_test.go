//go:build linux

package plugin_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/plugin"
	"golang.org/x/sys/unix"
)

// opened is a snapshotter with syncs that a test can fail.
type opened struct {
	snapshots.Snapshotter
	failed chan struct{}
}

func (o *opened) Failed() <-chan struct{} { return o.failed }

func (o *opened) Cleanup(ctx context.Context) error {
	return o.Snapshotter.(snapshots.Cleaner).Cleanup(ctx)
}

// served is a root directory that the plugin serves.
type served struct {
	snapshots.Snapshotter
	root   string
	log    *lines
	tries  atomic.Int32 // to open it
	opened chan *opened // has room for all
}

// often are times with which a test need not wait.
var often = plugin.Times{Retry: 10 * time.Millisecond, Interval: 50 * time.Millisecond, Grace: limit}

// serve serves a root directory by copying, until the test ends.
func serve(t *testing.T, root string, times plugin.Times) *served {
	t.Helper()
	c := &containerd{log: &lines{}}
	s := &served{root: root, log: c.log, opened: make(chan *opened, 1000)}
	open := func() (snapshots.Snapshotter, error) {
		s.tries.Add(1)
		sn, err := native.NewSnapshotter(root)
		if err != nil {
			return nil, err
		}
		o := &opened{sn, make(chan struct{})}
		s.opened <- o
		return o, nil
	}
	var err error
	s.Snapshotter, err = plugin.Begin(c.context(t.Context()), root, open, times)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() }) // a test that is about it looks
	return s
}

// awaitStat waits until Stat of a snapshot returns an error of that class, nil for none.
func (s *served) awaitStat(t *testing.T, key string, want func(error) bool) (err error) {
	t.Helper()
	ctx := (&containerd{log: &lines{}}).context(t.Context()) // it asks often, and its failures say nothing
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if _, err = s.Stat(ctx, key); want(err) {
			return err
		}
		if time.Now().After(deadline) {
			t.Fatalf("Stat returns %v; the log says:\n%s", err, s.log)
		}
	}
}

func fine(err error) bool { return err == nil }

// After a failed sync, the root directory is opened anew, when the calls that had begun have ended. Until then
// calls fail and say why.
func TestFailedSync(t *testing.T) {
	s := serve(t, filepath.Join(tempDir(t), "root"), often)
	layer(t, s, "before")
	first := <-s.opened
	must(t, s.Walk(t.Context(), func(context.Context, snapshots.Info) error {
		close(first.failed)
		err := s.awaitStat(t, "before", errdefs.IsUnavailable)
		if !strings.Contains(err.Error(), "a sync has failed") || !strings.Contains(err.Error(), s.root) {
			t.Errorf("a call fails, and does not say why: %v", err)
		}
		if len(s.opened) > 0 {
			t.Error("it is opened anew while a call lasts")
		}
		_, err = first.Stat(t.Context(), "before") // it is not closed under the call
		return err
	}))
	s.awaitStat(t, "before", fine)
	<-s.opened
	layer(t, s, "after")
	if n := strings.Count(s.log.String(), "only opening the root directory anew can help"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, s.log)
	}
	must(t, s.Close())
}

// A root directory that was replaced is opened anew, and one that lacks a part as soon as that is back.
func TestReplaced(t *testing.T) {
	s := serve(t, filepath.Join(tempDir(t), "root"), often)
	layer(t, s, "before")
	<-s.opened
	must(t, os.Rename(s.root, s.root+".old"))
	must(t, os.CopyFS(s.root, os.DirFS(s.root+".old")))
	s.log.await(t, "unmounted or replaced")
	<-s.opened
	s.awaitStat(t, "before", fine)

	content := filepath.Join(s.root, "snapshots")
	must(t, os.Rename(content, content+".away"))
	s.log.await(t, "a part of it is gone")
	s.awaitStat(t, "before", errdefs.IsUnavailable)
	must(t, os.Rename(content+".away", content))
	s.awaitStat(t, "before", fine)
	must(t, s.Close())
}

// shutdown makes every use of a filesystem fail.
func shutdown(t *testing.T, disk string) {
	t.Helper()
	dir, err := os.Open(disk)
	must(t, err)
	defer dir.Close()                    //nolint:errcheck // nothing was written
	const request, flags = 0x8004587d, 2 // FS_IOC_SHUTDOWN, without what was not written
	must(t, unix.IoctlSetPointerInt(int(dir.Fd()), request, flags))
}

// A disk that is gone can be unmounted under containerd, and is served again when it is back. Meanwhile no root directory is
// made where it was.
func TestDiskGone(t *testing.T) {
	for filesystem, options := range map[string]string{"ext4": "loop", "xfs": "loop,nouuid"} {
		t.Run(filesystem, func(t *testing.T) {
			image, disk := newDisk(t, filesystem)
			s := serve(t, filepath.Join(disk, "root"), plugin.Times{Retry: 10 * time.Millisecond, Interval: time.Hour, Grace: limit})
			t.Cleanup(func() { must(t, s.Close()) }) // before the disk is unmounted
			layer(t, s, "before")
			shutdown(t, disk)
			if _, err := s.Prepare(t.Context(), "key", ""); err == nil {
				t.Error("a call on a disk that is gone has succeeded")
			}
			err := s.awaitStat(t, "before", errdefs.IsUnavailable)
			t.Logf("calls fail so: %v", err)
			for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
				if err = unix.Unmount(disk, 0); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("unmount: %v; the log says:\n%s", err, s.log)
				}
			}
			s.log.await(t, "has no snapshots any more")
			entries, err := os.ReadDir(disk)
			if err != nil || len(entries) > 0 {
				t.Errorf("below the mount there is %v: %v", entries, err)
			}
			// Of a copy: another process that leaves for mounts of its own may keep the filesystem that was shut down.
			execute(t, "cp", "--sparse=always", image, image+".mended")
			mountDisk(t, image+".mended", disk, options)
			s.awaitStat(t, "before", fine)
			layer(t, s, "after")
		})
	}
}

// A stop of containerd does not wait for ever for a call that hangs.
func TestCloseWhileACallHangs(t *testing.T) {
	times := often
	times.Grace = 10 * time.Millisecond
	s := serve(t, filepath.Join(tempDir(t), "root"), times)
	layer(t, s, "a")
	must(t, s.Walk(t.Context(), func(context.Context, snapshots.Info) error {
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "calls have not ended") {
			t.Errorf("Close returns %v", err)
		}
		return nil
	}))
	must(t, (<-s.opened).Close())
	if !isThere(t, filepath.Join(s.root, "running")) {
		t.Error("the end counts as one in order")
	}
}

// Close waits for calls that have begun.
func TestCloseWaits(t *testing.T) {
	s := serve(t, filepath.Join(tempDir(t), "root"), often)
	layer(t, s, "a")
	closed, looked := make(chan error, 1), false
	must(t, s.Walk(t.Context(), func(ctx context.Context, _ snapshots.Info) error {
		go func() { closed <- s.Close() }()
		s.awaitStat(t, "a", errdefs.IsUnavailable)
		looked = len(closed) == 0
		return nil
	}))
	must(t, <-closed)
	if !looked {
		t.Error("Close returns while a call lasts")
	}
}

// A root directory that can't be opened when containerd starts, not even read, is opened as soon as that works; and made, where there
// was never one.
func TestOpenedLater(t *testing.T) {
	root := filepath.Join(tempDir(t), "root")
	must(t, os.WriteFile(root, nil, 0o600)) // in its place
	s := serve(t, root, often)
	if err := s.awaitStat(t, "none", errdefs.IsUnavailable); !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a call fails so: %v", err)
	}
	s.awaitStat(t, "none", func(error) bool { return s.tries.Load() > 2 })
	must(t, os.Remove(root))
	s.awaitStat(t, "none", errdefs.IsNotFound)
	layer(t, s, "a")
	if n := strings.Count(s.log.String(), "can't be opened"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, s.log)
	}
	must(t, s.Close())
}
