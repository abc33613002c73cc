//go:build linux

package driver

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/sirupsen/logrus"
)

// fake is content: a test can take part in its making and measuring.
type fake struct {
	filling   atomic.Pointer[func(dir, parent string) error] // called at the end of Fill
	measuring atomic.Pointer[func()]                         // called by Upper, which Commit and Usage begin with
}

// Kind is one of those that there are.
func (f *fake) Kind() string { return "native" }

func (f *fake) Rebases() bool { return true }

func (f *fake) Remakes() bool { return false }

func (f *fake) Fill(_ context.Context, dir, parent string, _ storage.Snapshot, _ map[string]string) error {
	if err := os.Mkdir(filepath.Join(dir, "fs"), 0o755); err != nil {
		return err
	}
	if fn := f.filling.Load(); fn != nil {
		return (*fn)(dir, parent)
	}
	return nil
}

func (f *fake) Upper(dir string) string {
	if fn := f.measuring.Load(); fn != nil {
		(*fn)()
	}
	return filepath.Join(dir, "fs")
}

// Mounts says nothing but where the snapshot and its parents are.
func (f *fake) Mounts(s storage.Snapshot, _ map[string]string, dir func(id string) string) []mount.Mount {
	m := mount.Mount{Type: "bind", Source: dir(s.ID)}
	for _, id := range s.ParentIDs {
		m.Options = append(m.Options, dir(id))
	}
	return []mount.Mount{m}
}

// nextFill calls fn in the next Fill, and only there, so that fn can make snapshots itself.
func (f *fake) nextFill(fn func(dir, parent string) error) {
	once := func(dir, parent string) error {
		f.filling.Store(nil)
		return fn(dir, parent)
	}
	f.filling.Store(&once)
}

// nextMeasure calls fn the next time that something is measured, and only then.
func (f *fake) nextMeasure(fn func()) {
	once := func() {
		f.measuring.Store(nil)
		fn()
	}
	f.measuring.Store(&once)
}

// openFake opens a new root directory, and closes it when the test ends.
func openFake(t *testing.T, config Config) (*Snapshotter, *fake) {
	t.Helper()
	content := &fake{}
	s, err := Open(filepath.Join(t.TempDir(), "root"), content, config)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, content
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// prepare makes an active snapshot and returns its directory.
func prepare(t *testing.T, s *Snapshotter, key, parent string) (dir string) {
	t.Helper()
	mounts, err := s.Prepare(t.Context(), key, parent)
	must(t, err)
	return mounts[0].Source
}

// layer makes a committed snapshot with one file of that many bytes, and returns its
// directory.
func layer(t *testing.T, s *Snapshotter, name, parent string, size int) (dir string) {
	t.Helper()
	dir = prepare(t, s, "making "+name, parent)
	must(t, os.WriteFile(filepath.Join(dir, "fs", "file"), make([]byte, size), 0o600))
	must(t, s.Commit(t.Context(), name, "making "+name))
	return dir
}

// directoriesOf returns what is in snapshots/.
func directoriesOf(t *testing.T, s *Snapshotter) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.root, snapshotsDir))
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkNothingLeft reports directories that no snapshot has, and snapshots that have none.
func checkNothingLeft(t *testing.T, s *Snapshotter) {
	t.Helper()
	var want []string
	must(t, s.read(t.Context(), func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		for id := range ids {
			want = append(want, id)
		}
		if errdefs.IsNotFound(err) {
			return nil // there was never a snapshot
		}
		return err
	}))
	slices.Sort(want)
	if got := directoriesOf(t, s); !slices.Equal(got, want) {
		t.Errorf("snapshots/ holds %q, the store has %q", got, want)
	}
}

func namesOf(t *testing.T, s *Snapshotter) []string {
	t.Helper()
	var names []string
	must(t, s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}))
	return names
}

// await returns what comes through a channel, and fails where nothing does: a deadline for
// what would hang otherwise.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("%s: nothing happened for a minute", what)
		panic("unreachable")
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// withLog returns a context with a log that is caught.
func withLog(ctx context.Context) (context.Context, *lines) {
	caught := &lines{}
	logger := logrus.New()
	logger.SetOutput(caught)
	logger.SetLevel(logrus.DebugLevel)
	return log.WithLogger(ctx, logrus.NewEntry(logger)), caught
}
