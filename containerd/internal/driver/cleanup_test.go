//go:build linux

package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// newOrphan makes content of no snapshot, as a crash in Prepare leaves it, and returns its identifier.
func newOrphan(t *testing.T, s *Snapshotter) string {
	t.Helper()
	id, err := s.meta.NewID(t.Context())
	must(t, err)
	must(t, os.MkdirAll(s.dir(id), 0o700))
	return id
}

// Cleanup deletes whatever can be a driver's and belongs to no snapshot, with its content,
// and nothing with a name that a driver doesn't give.
func TestCleanupSweepsOrphans(t *testing.T) {
	s, _ := openFake(t, Config{})
	kept := filepath.Base(prepare(t, s, "active", ""))
	committed := filepath.Base(layer(t, s, "layer", "", 10))
	foreign := []string{".hidden", "12a", "Rm-1", "lost+found", "new", "notes.txt"}
	orphans := []string{"0", newOrphan(t, s), "new-1234", "new-", "rm-4711"}
	for _, name := range slices.Concat(foreign, orphans) {
		must(t, os.MkdirAll(filepath.Join(s.root, snapshotsDir, name, "fs", "below"), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(s.root, snapshotsDir, "new-file"), nil, 0o600))

	must(t, s.Cleanup(t.Context()))
	want := append(slices.Clone(foreign), kept, committed)
	slices.Sort(want)
	if got := directoriesOf(t, s); !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
}

// use makes the store one that was written to, without a snapshot.
func use(t *testing.T, s *Snapshotter) {
	t.Helper()
	must(t, s.meta.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "gone", ""); err != nil {
			return err
		}
		_, _, err := storage.Remove(ctx, "gone")
		return err
	}))
}

// Cleanup works where there was never a snapshot, but keeps content that can't be of a store to which nothing
// was ever written.
func TestCleanupOfAnUnusedStore(t *testing.T) {
	s, _ := openFake(t, Config{})
	must(t, s.Cleanup(t.Context()))
	must(t, os.Mkdir(s.dir("1"), 0o700))
	checkError(t, s.Cleanup(t.Context()), snapshotsDir, metaDir, "nothing was ever written")
	if got := directoriesOf(t, s); !slices.Equal(got, []string{"1"}) {
		t.Errorf("%q is left", got)
	}
}

// A crash in the first Prepare leaves content of no snapshot, which goes.
func TestCleanupAfterACrashInTheFirstPrepare(t *testing.T) {
	for name, open := range map[string]func(root string, content Content) (*Snapshotter, error){
		"own store": func(root string, content Content) (*Snapshotter, error) { return Open(root, content, Config{}) },
		"shared store": func(root string, content Content) (*Snapshotter, error) {
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			must(t, err)
			return Open(root, content, Config{Meta: meta})
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, copied := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "root")
			content := &fake{}
			s, err := open(root, content)
			must(t, err)
			content.nextFill(func(string, string) error { return os.CopyFS(copied, os.DirFS(root)) })
			prepare(t, s, "key", "")
			must(t, s.Close())
			must(t, os.MkdirAll(filepath.Join(copied, snapshotsDir, "1"), 0o700))
			s, err = open(copied, content)
			must(t, err)
			must(t, s.Cleanup(t.Context()))
			if got := directoriesOf(t, s); len(got) > 0 {
				t.Errorf("%q is left", got)
			}
			must(t, s.Close())
		})
	}
}

// Content that another call is just making, and that no snapshot has yet, survives a
// Cleanup, beside which an orphan goes.
func TestCleanupLeavesWhatIsBeingMade(t *testing.T) {
	s, content := openFake(t, Config{})
	use(t, s)
	orphan := s.dir(newOrphan(t, s))
	filling, finish := make(chan string), make(chan struct{})
	content.nextFill(func(dir, _ string) error {
		filling <- dir
		<-finish
		return nil
	})
	done := make(chan error)
	go func() {
		_, err := s.Prepare(t.Context(), "key", "")
		done <- err
	}()
	dir := await(t, "Fill", filling)

	must(t, s.Cleanup(t.Context()))
	if _, err := os.Stat(filepath.Join(dir, "fs")); err != nil {
		t.Errorf("Cleanup has deleted what was being made: %v", err)
	}
	if _, err := os.Stat(orphan); !os.IsNotExist(err) {
		t.Errorf("the orphan is still there: %v", err)
	}
	close(finish)
	must(t, await(t, "Prepare", done))
	must(t, s.Cleanup(t.Context()))
	if _, err := os.Stat(filepath.Join(dir, "fs")); err != nil {
		t.Errorf("Cleanup has deleted a snapshot: %v", err)
	}
	checkNothingLeft(t, s)
}

// Whatever Cleanup runs beside, every snapshot that was made has its content, and what
// was removed goes.
func TestCleanupBesideEverything(t *testing.T) {
	s, _ := openFake(t, Config{Unsynced: true})
	ctx, stop := context.WithCancel(t.Context())
	cleaned := make(chan error)
	go func() {
		for ctx.Err() == nil {
			if err := s.Cleanup(context.WithoutCancel(ctx)); err != nil {
				cleaned <- err
				return
			}
		}
		cleaned <- nil
	}()
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			for i := range 10 {
				key := fmt.Sprintf("%d-%d", worker, i)
				mounts, err := s.Prepare(t.Context(), key, "")
				if err == nil {
					_, err = os.Stat(filepath.Join(mounts[0].Source, "fs"))
				}
				if err == nil {
					err = s.Commit(t.Context(), "layer "+key, key)
				}
				if err == nil && i%2 == 0 {
					err = s.Remove(t.Context(), "layer "+key)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	stop()
	must(t, await(t, "Cleanup", cleaned))
	checkNothingLeft(t, s)
	if got := namesOf(t, s); len(got) != 20 {
		t.Errorf("there are %d snapshots, want 20: %q", len(got), got)
	}
}

// Where a snapshot is damaged its identifier isn't known: what may be its content is kept, and what
// was removed is deleted. The log says why, once.
func TestCleanupWhereASnapshotIsDamaged(t *testing.T) {
	s, content := openFake(t, Config{})
	prepare(t, s, "good", "")
	prepare(t, s, "bad", "")
	must(t, s.Close())
	file := filepath.Join(s.root, metaDir, "snapshots", "bad", "metadata.json")
	must(t, os.WriteFile(file, []byte("{}"), 0o600))
	s, err := Open(s.root, content, Config{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	want := append(directoriesOf(t, s), "4711")
	for _, name := range []string{"4711", "rm-4712", "rm-4713-part", "new-4714"} {
		must(t, os.Mkdir(s.dir(name), 0o700))
	}
	ctx, caught := withLog(t.Context())
	for range 2 {
		must(t, s.Cleanup(ctx))
	}
	slices.Sort(want)
	if got := directoriesOf(t, s); !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	for _, line := range []string{"level=error", "2 directories in"} {
		if n := strings.Count(caught.String(), line); n != 1 {
			t.Errorf("the log has %q %d times:\n%s", line, n, caught)
		}
	}
	if !strings.Contains(caught.String(), file) {
		t.Errorf("the log does not name %s:\n%s", file, caught)
	}
}

// With AsyncRemove, removed snapshots are gone at once and their content with the next
// Cleanup.
func TestCleanupDeletesWhatRemoveHasLeft(t *testing.T) {
	s, _ := openFake(t, Config{AsyncRemove: true})
	dir := prepare(t, s, "key", "")
	must(t, s.Remove(t.Context(), "key"))
	if _, err := s.Stat(t.Context(), "key"); !errdefs.IsNotFound(err) {
		t.Errorf("Stat of what was removed says %v", err)
	}
	if got, want := directoriesOf(t, s), []string{removedPrefix + filepath.Base(dir)}; !slices.Equal(got, want) {
		t.Errorf("Remove leaves %q, want %q", got, want)
	}
	must(t, s.Cleanup(t.Context()))
	if got := directoriesOf(t, s); len(got) > 0 {
		t.Errorf("Cleanup leaves %q", got)
	}
}

// What can't be deleted is logged with its path, keeps nothing else from being deleted,
// and goes with the next Cleanup after that.
func TestCleanupGoesOnAfterWhatItCannotDelete(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	s, _ := openFake(t, Config{})
	use(t, s)
	stuck := s.dir(newOrphan(t, s))
	newOrphan(t, s)
	must(t, syscall.Mount("tmpfs", stuck, "tmpfs", 0, ""))
	unmount := sync.OnceValue(func() error { return syscall.Unmount(stuck, syscall.MNT_DETACH) })
	t.Cleanup(func() { must(t, unmount()) })

	ctx, caught := withLog(t.Context())
	must(t, s.Cleanup(ctx))
	if got := directoriesOf(t, s); !slices.Equal(got, []string{filepath.Base(stuck)}) {
		t.Errorf("there is %q, want only what is mounted on", got)
	}
	if !strings.Contains(caught.String(), "path="+stuck) {
		t.Errorf("the log does not name %s: %s", stuck, caught)
	}
	must(t, unmount())
	must(t, s.Cleanup(ctx))
	if got := directoriesOf(t, s); len(got) > 0 {
		t.Errorf("%q is left", got)
	}
}

// A context that has ended ends Cleanup.
func TestCleanupHeedsTheContext(t *testing.T) {
	s, _ := openFake(t, Config{})
	use(t, s)
	orphan := newOrphan(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Cleanup(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Cleanup says %v, want that of the context", err)
	}
	if got := directoriesOf(t, s); !slices.Equal(got, []string{orphan}) {
		t.Errorf("there is %q, want what was there", got)
	}
}

// However often a backup is restored, the first cleanup too leaves what was made since it;
// and what is removed afterwards is deleted.
func TestCleanupAfterEachRestore(t *testing.T) {
	s, content := openFake(t, Config{AsyncRemove: true})
	base := filepath.Base(layer(t, s, "base", "", 1))
	meta, backup := filepath.Join(s.root, metaDir), filepath.Join(t.TempDir(), "backup")
	store, err := fsmeta.Open(meta, fsmeta.ReadOnly())
	must(t, err)
	must(t, errors.Join(store.Backup(t.Context(), backup, nil), store.Close()))
	must(t, s.Close())
	want := []string{base}
	for range 3 {
		must(t, os.RemoveAll(meta))
		must(t, os.CopyFS(meta, os.DirFS(backup)))
		s, err := Open(s.root, content, Config{AsyncRemove: true})
		must(t, err)
		must(t, s.Cleanup(t.Context()))
		if got := directoriesOf(t, s); !slices.Equal(got, want) {
			t.Fatalf("there is %q, want %q", got, want)
		}
		want = append(want, filepath.Base(layer(t, s, "newer", "base", 1)))
		slices.Sort(want)
		prepare(t, s, "removed", "newer")
		must(t, s.Remove(t.Context(), "removed"))
		must(t, s.Cleanup(t.Context()))
		if got := directoriesOf(t, s); !slices.Equal(got, want) {
			t.Fatalf("after a removal there is %q, want %q", got, want)
		}
		must(t, s.Close())
	}
}

// A root that was left by a process which was killed while it tried overlayfs is taken; one
// with anything else in it isn't.
func TestOpenWhatIsNotEmpty(t *testing.T) {
	for name, taken := range map[string]bool{"fsutils-dummy123": true, "userxattr-check": true, "multiple-lowerdir-check1": true, "other": false,
		"lost+found": true, "aquota.user": true, "aquota.group": true, ".quota": true,
		"snapshots/lost+found": true, "snapshots/aquota.user": true, "snapshots/1": false} {
		root := filepath.Join(t.TempDir(), "root")
		must(t, os.Mkdir(root, 0o700))
		must(t, os.MkdirAll(filepath.Join(root, name), 0o700))
		s, err := Open(root, &fake{}, Config{})
		if (err == nil) != taken {
			t.Errorf("with %s in it: %v", name, err)
		}
		if err == nil {
			must(t, s.Close())
		}
	}
}

// Content that was made after a backup survives the cleanups after that is restored, and
// what a repair has set aside those after the repair, until a person has looked at it.
func TestCleanupAfterRestoreAndRepair(t *testing.T) {
	s, content := openFake(t, Config{})
	old := filepath.Base(prepare(t, s, "old", ""))
	meta, backup := filepath.Join(s.root, metaDir), filepath.Join(t.TempDir(), "backup")
	store, err := fsmeta.Open(meta, fsmeta.ReadOnly())
	must(t, err)
	must(t, errors.Join(store.Backup(t.Context(), backup, nil), store.Close()))
	newer := filepath.Base(prepare(t, s, "newer", ""))
	must(t, s.Close())
	must(t, os.RemoveAll(meta))
	must(t, os.CopyFS(meta, os.DirFS(backup)))

	again := func(want ...string) {
		t.Helper()
		s, err := Open(s.root, content, Config{})
		must(t, err)
		must(t, s.Cleanup(t.Context()))
		if got := directoriesOf(t, s); !slices.Equal(got, want) {
			t.Errorf("there is %q, want %q", got, want)
		}
		must(t, s.Close())
	}
	again(old, newer)
	must(t, os.Remove(filepath.Join(meta, "backup")))
	again(old)

	at := filepath.Join(meta, "snapshots", "old", "metadata.json")
	data, err := os.ReadFile(at)
	must(t, err)
	must(t, os.WriteFile(at, []byte(strings.Replace(string(data), "active", "actvie", 1)), 0o600))
	findings, err := fsmeta.Repair(t.Context(), meta, nil)
	must(t, err)
	if len(findings) != 2 || findings[0].Aside == "" || !findings[1].Harmless {
		t.Fatalf("repair: %v", findings)
	}
	// Which of them is its content can't be told; one of a removed snapshot is not.
	orphan := "1000"
	must(t, os.Mkdir(filepath.Join(s.root, snapshotsDir, orphan), 0o700))
	must(t, os.Mkdir(filepath.Join(s.root, snapshotsDir, "rm-1001"), 0o700))
	again(old, orphan)
	at = filepath.Join(findings[0].Aside, "metadata.json")
	must(t, os.WriteFile(at, data, 0o600))
	again(old)
	must(t, os.RemoveAll(filepath.Join(meta, "damaged")))
	again()
}

// A root that is a symlink to nothing is refused, and the error says where it leads.
func TestOpenDanglingSymlink(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	must(t, os.Symlink("/nowhere/at all", root))
	if _, err := Open(root, &fake{}, Config{}); err == nil || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "/nowhere/at all") {
		t.Errorf("Open says %v, want both paths", err)
	}
}
