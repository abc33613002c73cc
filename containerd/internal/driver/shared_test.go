//go:build linux

package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/storage"
	errbolt "go.etcd.io/bbolt/errors"
)

// openShared opens a root with metadata.db in it as its store.
func openShared(t *testing.T, root string) (*Snapshotter, *fake, *storage.MetaStore) {
	t.Helper()
	meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
	must(t, err)
	content := &fake{}
	s, err := Open(root, content, Config{Meta: meta})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, content, meta
}

// What one side does in a store that is shared, the other sees; and Close closes the store.
func TestSharedStore(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s, _, meta := openShared(t, root)
	must(t, os.Mkdir(filepath.Join(root, "gcroots"), 0o700)) // the driver's own
	layer(t, s, "layer", "", 1)
	must(t, meta.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		view, err := storage.CreateSnapshot(ctx, snapshots.KindView, "view", "layer")
		if err != nil {
			return err
		}
		return os.Mkdir(s.dir(view.ID), 0o700)
	}))
	if got, want := namesOf(t, s), []string{"layer", "view"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	must(t, s.Cleanup(t.Context()))
	checkNothingLeft(t, s)
	must(t, s.Remove(t.Context(), "view"))
	must(t, s.Close())
	if err := meta.WithTransaction(t.Context(), false, func(context.Context) error { return nil }); !errors.Is(err, errbolt.ErrDatabaseNotOpen) {
		t.Errorf("the store says %v after Close", err)
	}
	must(t, meta.Close()) // as the driver may, too
	again, _, _ := openShared(t, root)
	if got, want := namesOf(t, again), []string{"layer"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(root, metaDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a store in %s: %v", metaDir, err)
	}
}

// sweep deletes what in snapshots/ belongs to no snapshot, in a writable transaction, as containerd's
// own snapshotters do and the drivers that embed them.
func sweep(ctx context.Context, root string, meta *storage.MetaStore) error {
	return meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(root, snapshotsDir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, known := ids[e.Name()]; !known {
				err = errors.Join(err, os.RemoveAll(filepath.Join(root, snapshotsDir, e.Name())))
			}
		}
		return err
	})
}

// The driver can delete what belongs to no snapshot while content is made.
func TestDriverSweepsASharedStore(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s, content, meta := openShared(t, root)
	layer(t, s, "layer", "", 1)
	content.nextFill(func(string, string) error { return sweep(t.Context(), root, meta) })
	dir := prepare(t, s, "key", "layer")
	if _, err := os.Stat(filepath.Join(dir, "fs")); err != nil {
		t.Errorf("the content was deleted: %v", err)
	}
	checkNothingLeft(t, s)

	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			for range 30 {
				key := "key" + string(rune('0'+i))
				mounts, err := s.Prepare(t.Context(), key, "layer")
				if err == nil {
					_, err = os.Stat(filepath.Join(mounts[0].Source, "fs"))
				}
				if err = errors.Join(err, s.Remove(t.Context(), key)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 30 {
		must(t, sweep(t.Context(), root, meta))
	}
	all.Wait()
	must(t, s.Cleanup(t.Context()))
	checkNothingLeft(t, s)
}

// Where Prepare fails, in a store that is shared nothing is left of it either, nor of what was
// being made in a crash.
func TestSharedStoreLeavesNothing(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s, content, meta := openShared(t, root)
	failed := errors.New("failed")
	content.nextFill(func(string, string) error { return failed })
	if _, err := s.Prepare(t.Context(), "key", ""); !errors.Is(err, failed) {
		t.Errorf("Prepare says %v", err)
	}
	// The key is taken meanwhile.
	content.nextFill(func(string, string) error {
		return meta.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "key", "")
			return err
		})
	})
	if _, err := s.Prepare(t.Context(), "key", ""); err == nil {
		t.Error("there are two of one name")
	}
	must(t, s.Remove(t.Context(), "key"))
	checkNothingLeft(t, s)
	making := filepath.Join(root, makingDir)
	entries, err := os.ReadDir(making)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%v is left", entries)
	}
	must(t, s.Close())
	must(t, os.MkdirAll(filepath.Join(making, "4711", "fs"), 0o700))
	s, _, _ = openShared(t, root)
	if _, err := os.Stat(filepath.Join(making, "4711")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was being made in a crash is still there: %v", err)
	}
	// Content under an identifier that was never handed out is left alone.
	dir := prepare(t, s, "first", "")
	must(t, os.MkdirAll(filepath.Join(root, snapshotsDir, next(t, dir)), 0o700))
	second := prepare(t, s, "second", "")
	if filepath.Base(second) == next(t, dir) {
		t.Errorf("%s was taken for another snapshot", second)
	}
}

// next returns the identifier after that of a directory.
func next(t *testing.T, dir string) string {
	t.Helper()
	name := []byte(filepath.Base(dir))
	if name[len(name)-1] == '9' {
		t.Skip("the identifier ends with 9")
	}
	name[len(name)-1]++
	return string(name)
}

// A store that can't be the one of the content is refused, and stays open; content that containerd's
// own snapshotter has made is taken with its metadata.
func TestOpenSharedRefuses(t *testing.T) {
	foreign := func(t *testing.T, root string) {
		must(t, os.MkdirAll(filepath.Join(root, snapshotsDir, "1", "fs"), 0o700))
	}
	for name, test := range map[string]struct {
		spoil func(t *testing.T, root string)
		words []string // of the error, none where it opens
	}{
		"content and no store": {foreign, []string{"/" + snapshotsDir, "/metadata.db", "import"}},
		"content and an unused store": {func(t *testing.T, root string) {
			foreign(t, root)
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			must(t, err)
			must(t, meta.WithTransaction(t.Context(), false, func(context.Context) error { return nil }))
			must(t, meta.Close())
		}, []string{"/" + snapshotsDir, "/metadata.db", "import"}},
		"content and its store": {func(t *testing.T, root string) {
			foreign(t, root)
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			must(t, err)
			must(t, meta.WithTransaction(t.Context(), true, func(ctx context.Context) error {
				_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "key", "")
				return err
			}))
			must(t, meta.Close())
		}, nil},
		"the store is gone": {func(t *testing.T, root string) {
			s, _, _ := openShared(t, root)
			must(t, s.Close())
			must(t, os.RemoveAll(filepath.Join(root, "metadata.db")))
		}, []string{"/metadata.db", "gone"}},
		"a new store in its place": {func(t *testing.T, root string) {
			s, _, _ := openShared(t, root)
			layer(t, s, "layer", "", 1)
			must(t, s.Close())
			must(t, os.RemoveAll(filepath.Join(root, "metadata.db")))
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			must(t, err)
			must(t, meta.WithTransaction(t.Context(), false, func(context.Context) error { return nil }))
			must(t, meta.Close())
		}, []string{"/" + snapshotsDir, "/metadata.db", "import"}},
		"the content is gone": {func(t *testing.T, root string) {
			s, _, _ := openShared(t, root)
			layer(t, s, "layer", "", 1)
			must(t, s.Close())
			must(t, os.RemoveAll(filepath.Join(root, snapshotsDir)))
		}, []string{"/" + snapshotsDir, "is empty"}},
		"the root has a store of its own": {func(t *testing.T, root string) {
			s, err := Open(root, &fake{}, Config{})
			must(t, err)
			must(t, s.Close())
		}, []string{"/" + metaDir, "/metadata.db"}},
		"other kind": {func(t *testing.T, root string) {
			must(t, os.MkdirAll(root, 0o700))
			must(t, os.WriteFile(filepath.Join(root, markerFile), []byte("overlay\n"), 0o600))
		}, []string{`"overlay"`, `"native"`}},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			test.spoil(t, root)
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			must(t, err)
			s, err := Open(root, &fake{}, Config{Meta: meta})
			if test.words == nil {
				must(t, err)
				must(t, s.Cleanup(t.Context()))
				checkNothingLeft(t, s)
				must(t, s.Close())
				return
			}
			checkError(t, err, append(test.words, root)...)
			err = meta.WithTransaction(t.Context(), false, func(context.Context) error { return nil })
			must(t, err) // it is still open
			must(t, meta.Close())
		})
	}
}
