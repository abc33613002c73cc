//go:build linux

package driver_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// lostRoot is a root of overlays as a crash has left it: with a layer, an active snapshot on it and one on nothing, a
// view, and what happens to it on the way.
func lostRoot(t *testing.T, before func(s snapshots.Snapshotter)) (root string, dirs map[string]string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	s, err := kinds["overlay"](root)
	must(t, err)
	ctx := t.Context()
	mounts, err := s.Prepare(ctx, "key", "")
	must(t, err)
	must(t, os.Chmod(upperOf(mounts), 0o711))
	must(t, s.Commit(ctx, "layer", "key"))
	mapped := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: "0:1234:10", snapshots.LabelSnapshotGIDMapping: "0:4321:10"})
	_, err = s.Prepare(ctx, "on layer", "layer", mapped)
	must(t, err)
	_, err = s.Prepare(ctx, "on nothing", "", snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": "ref"}))
	must(t, err)
	_, err = s.View(ctx, "view", "layer")
	must(t, err)
	before(s)
	crashed := filepath.Join(t.TempDir(), "root")
	must(t, os.CopyFS(crashed, os.DirFS(root)))
	must(t, s.Close())
	dirs = map[string]string{}
	ids, err := idsOf(ctx, filepath.Join(crashed, "meta"))
	must(t, err)
	for id, name := range ids {
		dirs[name] = filepath.Join(crashed, "snapshots", id)
	}
	if layer := dirs["layer"]; layer != "" {
		must(t, os.Chmod(filepath.Join(layer, "fs"), 0o711)) // copying heeds the umask
	}
	return crashed, dirs
}

// A power cut can take the directories of active snapshots and views. They are made anew as they were.
func TestLostDirectoriesAreMadeAnew(t *testing.T) {
	root, dirs := lostRoot(t, func(snapshots.Snapshotter) {})
	must(t, os.Mkdir(filepath.Join(root, ".fsmeta-making", "99"), 0o700)) // of a call that was under way
	for _, name := range []string{"on layer", "on nothing", "view"} {
		must(t, os.RemoveAll(dirs[name]))
	}
	s, err := kinds["overlay"](root)
	must(t, err)
	defer s.Close() //nolint:errcheck // it was used only
	for name, want := range map[string]struct {
		mode     fs.FileMode
		uid, gid uint32
		in       []string
	}{
		"on layer":   {0o711, 1234, 4321, []string{"fs", "work"}},
		"on nothing": {0o755, 0, 0, []string{"fs", "nothing", "work"}},
		"view":       {0o711, 0, 0, []string{"fs"}},
	} {
		entries, err := os.ReadDir(dirs[name])
		must(t, err)
		var in []string
		for _, e := range entries {
			in = append(in, e.Name())
		}
		is, err := os.Stat(filepath.Join(dirs[name], "fs"))
		must(t, err)
		owner := is.Sys().(*syscall.Stat_t)
		if !slices.Equal(in, want.in) || is.Mode().Perm() != want.mode || owner.Uid != want.uid || owner.Gid != want.gid {
			t.Errorf("%q has %q of mode %o and %d:%d, want %q of %o and %d:%d", name, in, is.Mode().Perm(), owner.Uid, owner.Gid, want.in, want.mode, want.uid, want.gid)
		}
		if _, err := s.Mounts(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(root, ".fsmeta-making"))
	if err != nil || len(left) > 0 {
		t.Errorf("what was being made is there still: %v, %v", left, err)
	}
}

// What a crash leaves of them is not touched, and gets what is missing beside it. (On btrfs, syncing a file brings the
// directories above it to the disk, and nothing else.)
func TestDirectoriesThatAreThereStay(t *testing.T) {
	root, dirs := lostRoot(t, func(snapshots.Snapshotter) {})
	file := filepath.Join(dirs["on layer"], "fs", "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Remove(filepath.Join(dirs["on layer"], "work")))
	must(t, os.Remove(filepath.Join(dirs["on nothing"], "fs")))
	s, err := kinds["overlay"](root)
	must(t, err)
	must(t, s.Close())
	for _, path := range []string{file, filepath.Join(dirs["on layer"], "work"), filepath.Join(dirs["on nothing"], "fs")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(root, ".fsmeta-making"))
	if err != nil || len(left) > 0 {
		t.Errorf("what was made beside is there still: %v, %v", left, err)
	}
}

// All directories are on disk after Close. One that is missing then was not taken by a power cut, and
// no empty one takes its place.
func TestNothingIsMadeAnewAfterClose(t *testing.T) {
	root, dirs := lostRoot(t, func(snapshots.Snapshotter) {})
	reopened := func() {
		t.Helper()
		s, err := kinds["overlay"](root)
		must(t, err)
		must(t, s.Close())
		if unsettled, err := driver.Unsettled(root); unsettled || err != nil {
			t.Fatalf("some directories may not be on disk after Close: %v, %v", unsettled, err)
		}
	}
	reopened()
	must(t, os.RemoveAll(dirs["on layer"]))
	reopened()
	if _, err := os.Stat(dirs["on layer"]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory was made anew: %v", err)
	}
}

// A layer is on disk when it is committed. One that is missing is never made anew.
func TestLayerIsNeverMadeAnew(t *testing.T) {
	root, dirs := lostRoot(t, func(snapshots.Snapshotter) {})
	must(t, os.RemoveAll(dirs["layer"]))
	must(t, os.RemoveAll(dirs["view"])) // stands on it
	must(t, os.RemoveAll(dirs["on nothing"]))
	s, err := kinds["overlay"](root)
	must(t, err)
	must(t, s.Close())
	for name, want := range map[string]bool{"layer": false, "view": false, "on nothing": true} {
		if _, err := os.Stat(dirs[name]); (err == nil) != want {
			t.Errorf("%q: %v, want it to be there: %v", name, err, want)
		}
	}
}

// A power cut that takes all directories there are is no filesystem that is not mounted, unless a
// layer is missing.
func TestOpenWithoutAnyDirectory(t *testing.T) {
	root, dirs := lostRoot(t, func(s snapshots.Snapshotter) {
		for _, name := range []string{"view", "on layer", "layer"} {
			must(t, s.Remove(context.Background(), name))
		}
	})
	must(t, os.RemoveAll(dirs["on nothing"]))
	s, err := kinds["overlay"](root)
	must(t, err)
	must(t, s.Close())

	root, dirs = lostRoot(t, func(snapshots.Snapshotter) {})
	for _, dir := range dirs {
		must(t, os.RemoveAll(dir))
	}
	if s, err := kinds["overlay"](root); err == nil {
		t.Error("a root that has lost its layers was opened: ", s.Close())
	}
}

// Content of a snapshot that was removed after the backup which was restored is not made anew, since it was not empty.
func TestRestoredSnapshotIsNotMadeAnew(t *testing.T) {
	var backup string
	root, dirs := lostRoot(t, func(s snapshots.Snapshotter) {
		meta, err := fsmeta.Open(filepath.Join(filepath.Dir(mountsOf(t, s, "view")), "..", "..", "meta"), fsmeta.ReadOnly())
		must(t, err)
		backup = filepath.Join(t.TempDir(), "backup")
		must(t, meta.Backup(t.Context(), backup, nil))
		must(t, meta.Close())
	})
	must(t, os.RemoveAll(dirs["on layer"]))
	must(t, os.RemoveAll(filepath.Join(root, "meta")))
	must(t, os.Rename(backup, filepath.Join(root, "meta")))
	s, err := kinds["overlay"](root)
	must(t, err)
	must(t, s.Close())
	if _, err := os.Stat(dirs["on layer"]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made anew: %v", err)
	}
}

// mountsOf returns the directory that the mount of a view shows.
func mountsOf(t *testing.T, s snapshots.Snapshotter, key string) string {
	t.Helper()
	mounts, err := s.Mounts(t.Context(), key)
	must(t, err)
	return mounts[0].Source
}

// After Close nothing is made that is not on disk.
func TestPrepareAfterClose(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	s, err := kinds["overlay"](root)
	must(t, err)
	must(t, s.Close())
	if _, err := s.Prepare(t.Context(), "key", ""); err == nil {
		t.Error("a snapshot was made after Close")
	}
	if unsettled, err := driver.Unsettled(root); unsettled || err != nil {
		t.Errorf("some directories may not be on disk: %v, %v", unsettled, err)
	}
}
