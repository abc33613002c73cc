//go:build linux

package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountTmpfs mounts one on a new directory, and returns what unmounts it, wherever it is then.
func mountTmpfs(t *testing.T, path string) (unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	must(t, os.Mkdir(path, 0o700))
	must(t, syscall.Mount("fsmeta-test", path, "tmpfs", 0, ""))
	var is syscall.Stat_t
	must(t, syscall.Stat(path, &is))
	unmount = sync.OnceFunc(func() {
		t.Helper()
		mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return deviceOf(m) != is.Dev, false
		})
		must(t, err)
		for _, m := range mounts {
			must(t, syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH))
		}
	})
	t.Cleanup(unmount)
	return unmount
}

func deviceOf(m *mountinfo.Info) uint64 { return unix.Mkdev(uint32(m.Major), uint32(m.Minor)) }

// backUp returns a copy of the store of s.
func backUp(t *testing.T, s *Snapshotter) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "backup")
	store, err := fsmeta.Open(s.meta.Path(), fsmeta.ReadOnly())
	must(t, err)
	must(t, errors.Join(store.Backup(t.Context(), copied, nil), store.Close()))
	return copied
}

// restore puts a backup in the place of the store of s, while nothing runs, after change has changed
// what is there.
func restore(t *testing.T, s *Snapshotter, backup string, change func()) *Snapshotter {
	t.Helper()
	must(t, s.Close())
	meta := s.meta.Path()
	must(t, os.RemoveAll(meta))
	must(t, os.CopyFS(meta, os.DirFS(backup)))
	if change != nil {
		change()
	}
	s, err := Open(s.root, s.content, s.config)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func wantDirectories(t *testing.T, s *Snapshotter, when string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := directoriesOf(t, s); !slices.Equal(got, want) {
		t.Errorf("%s: there is %q, want %q", when, got, want)
	}
}

// A snapshot that was removed and is in the store again, after a restore, has its content again: at once,
// and after each cleanup.
func TestRestoredSnapshotHasItsContent(t *testing.T) {
	s, _ := openFake(t, Config{AsyncRemove: true})
	dir := layer(t, s, "layer", "", 10)
	backup := backUp(t, s)
	must(t, s.Remove(t.Context(), "layer"))
	wantDirectories(t, s, "after the removal", removedPrefix+filepath.Base(dir))
	s = restore(t, s, backup, nil)
	mounts, err := s.View(t.Context(), "view", "layer")
	must(t, err)
	if _, err := os.Stat(filepath.Join(mounts[0].Options[0], "fs", "file")); err != nil {
		t.Errorf("a view shows %v, and the content is not there: %v", mounts, err)
	}
	must(t, s.Remove(t.Context(), "view"))
	for range 2 {
		must(t, s.Cleanup(t.Context()))
		wantDirectories(t, s, "after a cleanup", filepath.Base(dir))
	}
	must(t, s.Remove(t.Context(), "layer"))
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "when it is removed again")
}

// So it is where nothing says that a backup was restored, with the first cleanup.
func TestStorePutBackByHand(t *testing.T) {
	s, _ := openFake(t, Config{AsyncRemove: true})
	dir := layer(t, s, "layer", "", 10)
	backup := backUp(t, s)
	must(t, s.Remove(t.Context(), "layer"))
	s = restore(t, s, backup, func() { must(t, os.Remove(filepath.Join(s.meta.Path(), "backup"))) })
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "after a cleanup", filepath.Base(dir))
}

// What is left of content that was being deleted is never taken for the content of a snapshot that
// comes back.
func TestPartOfContentIsNotRestored(t *testing.T) {
	s, _ := openFake(t, Config{})
	dir := layer(t, s, "layer", "", 10)
	unmount := mountTmpfs(t, filepath.Join(dir, "fs", "mounted"))
	backup := backUp(t, s)
	must(t, s.Remove(t.Context(), "layer"))
	part := removedPrefix + filepath.Base(dir) + partSuffix
	wantDirectories(t, s, "after the removal", part)
	s = restore(t, s, backup, nil)
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "after the restore", part)
	if state := s.State(); state.Orphaned != 1 {
		t.Errorf("the state is %+v, want one directory that can't be deleted", state)
	}
	unmount()
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "when it can be deleted")
}

// Content under both names is kept, as it can't be told which is the snapshot's.
func TestRestoredSnapshotWithTwoContents(t *testing.T) {
	s, _ := openFake(t, Config{AsyncRemove: true})
	id := filepath.Base(layer(t, s, "layer", "", 10))
	backup := backUp(t, s)
	must(t, s.Remove(t.Context(), "layer"))
	s = restore(t, s, backup, func() { must(t, os.Mkdir(s.dir(id), 0o700)) })
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "after a cleanup", id, removedPrefix+id)
	if state := s.State(); state.Kept != 1 {
		t.Errorf("the state is %+v, want one directory kept", state)
	}
}

// While a snapshot that a restore has brought back can't be read, content of a removed one may be its; not
// that of one which was made after the restore.
func TestRestoredSnapshotThatIsDamaged(t *testing.T) {
	s, _ := openFake(t, Config{AsyncRemove: true})
	id := filepath.Base(layer(t, s, "layer", "", 10))
	backup := backUp(t, s)
	must(t, s.Remove(t.Context(), "layer"))
	s = restore(t, s, backup, func() {
		must(t, os.WriteFile(filepath.Join(s.meta.Path(), "snapshots", "layer", "metadata.json"), nil, 0o600))
	})
	prepare(t, s, "new", "")
	must(t, s.Remove(t.Context(), "new"))
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "while it is damaged", removedPrefix+id)
	must(t, s.Close())
	_, err := fsmeta.Repair(t.Context(), s.meta.Path(), nil)
	must(t, err)
	s, err = Open(s.root, s.content, s.config)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "after a repair", removedPrefix+id)
	must(t, os.RemoveAll(filepath.Join(s.meta.Path(), "damaged")))
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "when nothing is set aside any more")
}

// Cleanups at once don't disturb each other: one finds what the other has given its name back.
func TestRestoredSnapshotBesideAnotherCleanup(t *testing.T) {
	s, _ := openFake(t, Config{})
	id := filepath.Base(layer(t, s, "layer", "", 10))
	kept := map[string]string{}
	must(t, s.giveBack(t.Context(), map[string]string{removedPrefix + id: id}, map[string]string{id: "layer"}, kept))
	if len(kept) > 0 {
		t.Errorf("it keeps %q", kept)
	}
	wantDirectories(t, s, "after it", id)
}

// Where content can't get its name back, the root is opened and cleaned all the same, and the content is kept until it can.
func TestRestoredSnapshotThatCannotGetItsContent(t *testing.T) {
	s, _ := openFake(t, Config{AsyncRemove: true})
	id := filepath.Base(layer(t, s, "layer", "", 10))
	other := filepath.Base(layer(t, s, "other", "", 10))
	backup := backUp(t, s)
	must(t, s.Remove(t.Context(), "layer"))
	must(t, s.Remove(t.Context(), "other"))
	removed := s.dir(removedPrefix + id)
	aside := filepath.Join(s.root, snapshotsDir, "aside")
	must(t, os.Rename(removed, aside))
	unmount := mountTmpfs(t, removed)
	s = restore(t, s, backup, nil)
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "while something is mounted on it", "aside", removedPrefix+id, other)
	if state := s.State(); state.Kept != 1 {
		t.Errorf("the state is %+v, want one directory kept", state)
	}
	unmount()
	must(t, os.Remove(removed))
	must(t, os.Rename(aside, removed))
	must(t, s.Cleanup(t.Context()))
	wantDirectories(t, s, "after a cleanup", id, other)
}

// All content of a removed snapshot is there as long as its name says so: it is not deleted under that name.
func TestNothingIsDeletedUnderTheNameOfAllOfIt(t *testing.T) {
	s, _ := openFake(t, Config{})
	removed, part := s.dir(removedPrefix+"1"), s.dir(removedPrefix+"1"+partSuffix)
	for _, dir := range []string{removed, part} {
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	}
	if left := s.delete(t.Context(), removed); left != removed {
		t.Errorf("it says that %q is left, want %q", left, removed)
	}
	if _, err := os.Stat(filepath.Join(removed, "file")); err != nil {
		t.Errorf("a part of it is gone: %v", err)
	}
	for range 2 { // the first deletes the part
		must(t, s.Cleanup(t.Context()))
	}
	wantDirectories(t, s, "after cleanups")
}

// Content that is newer than the store is kept: an older copy of it was put in its place. So it is once the store
// has handed out its identifier itself, until it is looked at, or its own store is back.
func TestContentNewerThanTheStore(t *testing.T) {
	s, _ := openFake(t, Config{})
	id := filepath.Base(layer(t, s, "layer", "", 10))
	must(t, s.Close())
	older, newer := t.TempDir(), t.TempDir()
	must(t, os.CopyFS(older, os.DirFS(s.meta.Path())))
	s, err := Open(s.root, s.content, s.config)
	must(t, err)
	newerID := filepath.Base(layer(t, s, "newer", "layer", 10))
	must(t, s.Close())
	must(t, os.CopyFS(newer, os.DirFS(s.meta.Path())))

	want := []string{id, newerID}
	s = restore(t, s, older, nil)
	for range 3 {
		must(t, s.Cleanup(t.Context()))
		wantDirectories(t, s, "with an older store", want...)
		if state := s.State(); state.Kept != 1 {
			t.Errorf("the state is %+v, want one directory kept", state)
		}
		want = append(want, filepath.Base(prepare(t, s, fmt.Sprint("later ", len(want)), "layer")))
		must(t, s.Close())
		s, err = Open(s.root, s.content, s.config)
		must(t, err)
	}
	must(t, os.RemoveAll(s.dir(newerID)))
	must(t, s.Close())
	s, err = Open(s.root, s.content, s.config)
	must(t, err)
	if list, err := readNewer(s.root); len(list) > 0 || err != nil {
		t.Errorf("%v is listed when it is gone: %v", list, err)
	}
	s = restore(t, s, newer, nil)
	must(t, s.Cleanup(t.Context()))
	if _, err := s.Stat(t.Context(), "newer"); err != nil {
		t.Errorf("with its own store: %v", err)
	}
}
