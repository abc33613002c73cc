package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spareStore is a store with the committed snapshot base, and one spare directory that
// the active snapshot old on base has left, and its path when it was a snapshot's.
func spareStore(t *testing.T, before func(dir string)) *Store {
	t.Helper()
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "key")
	write(t, s, func(ctx context.Context) error { _, err := s.Commit(ctx, "key", "base"); return err })
	if err := create(s, "old", "base"); err != nil {
		t.Fatal(err)
	}
	for { // what the commit of base has left is not to be used
		d, ok := s.tree.takeSpare("", "")
		if !ok {
			break
		}
		if err := s.tree.discard(d.path); err != nil {
			t.Fatal(err)
		}
	}
	if before != nil {
		before(s.tree.path("old"))
	}
	write(t, s, func(ctx context.Context) error { _, err := s.Remove(ctx, "old"); return err })
	return s
}

func write(t *testing.T, s *Store, fn func(ctx context.Context) error) {
	t.Helper()
	if err := s.WithTransaction(bg, true, fn); err != nil {
		t.Fatal(err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(path, err)
	}
	return stat.Ino
}

// A removed snapshot's directory becomes the next one's, whatever that stands on.
func TestSpareIsUsedAgain(t *testing.T) {
	for _, parent := range []string{"", "base"} {
		var dir, file uint64
		s := spareStore(t, func(path string) { dir, file = inode(t, path), inode(t, path+"/"+metadataFile) })
		if err := create(s, "new", parent); err != nil {
			t.Fatal(err)
		}
		path := s.tree.path("new")
		if inode(t, path) != dir || inode(t, path+"/"+metadataFile) != file {
			t.Errorf("parent %q: a new directory was made", parent)
		}
		again := openTest(t, crashed(t, s), ReadOnly())
		info, err := again.Stat(bg, "new")
		if err != nil || info.Parent != parent {
			t.Errorf("parent %q: got %+v, %v", parent, info, err)
		}
	}
}

// What others have put into or made of a snapshot's directory is neither changed nor
// carried to another snapshot.
func TestSpareThatIsNotPlain(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "keep")
	for name, before := range map[string]func(path string) error{
		"a copy by hard links": func(path string) error { return os.Link(path+"/"+metadataFile, keep) },
		"a file of others":     func(path string) error { return os.WriteFile(path+"/notes", nil, 0o600) },
		"another mode":         func(path string) error { return os.Chmod(path+"/"+metadataFile, 0o640) },
		"another link":         func(path string) error { return os.Symlink("x", path+"/other") },
	} {
		t.Run(name, func(t *testing.T) {
			var was []byte
			s := spareStore(t, func(path string) {
				var err error
				if was, err = os.ReadFile(path + "/" + metadataFile); err == nil {
					err = before(path)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			if err := create(s, "new", "base"); err != nil {
				t.Fatal(err)
			}
			entries, err := readNames(s.tree.path("new"))
			if err != nil || len(entries) != 2 {
				t.Errorf("the new directory has %q, %v", entries, err)
			}
			if info, err := os.Stat(s.tree.path("new") + "/" + metadataFile); err != nil || info.Mode() != fileMode {
				t.Errorf("the new file: %v, %v", info.Mode(), err)
			}
			if is, err := os.ReadFile(keep); name == "a copy by hard links" && (err != nil || string(is) != string(was)) {
				t.Errorf("the copy has become %s, %v", is, err)
			}
			wantNames(t, openTest(t, crashed(t, s), ReadOnly()), bg, "base new")
		})
	}
}

// Another process may have deleted what is kept in staging/, or begun to.
func TestSpareThatIsGone(t *testing.T) {
	for _, gone := range []string{".", metadataFile, parentLink} {
		t.Run(gone, func(t *testing.T) {
			s := spareStore(t, nil)
			d := s.tree.spares.dirs[0]
			if err := os.RemoveAll(filepath.Join(d.path, gone)); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if err := create(s, fmt.Sprint("new", i), "base"); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 3 { // in the tree: the journal has it right in any case
				m, err := s.tree.read(fmt.Sprint("new", i))
				if err != nil || m == nil || m.parent != "base" {
					t.Errorf("the tree has %+v, %v", m, err)
				}
			}
		})
	}
}

// Parent links are links of one symlink, where the filesystem can do that. Where it has as
// many as it can have, or the symlink is gone, another is made.
func TestParentLinksAreShared(t *testing.T) {
	s := spareStore(t, nil)
	var links []uint64
	for i := range 4 {
		key := fmt.Sprint("new", i)
		if i == 2 {
			for _, source := range s.tree.spares.sources {
				if err := os.Remove(source); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := create(s, key, "base"); err != nil {
			t.Fatal(err)
		}
		link := s.tree.path(key) + "/" + parentLink
		links = append(links, inode(t, link))
		if target, err := os.Readlink(link); err != nil || target != "../base" {
			t.Errorf("%s says %q, %v", link, target, err)
		}
	}
	// The first is in a directory that is used again.
	if links[1] == links[2] || links[2] != links[3] {
		t.Errorf("the links are %v", links)
	}
}

// No more is kept than there is room for, and nothing when the store is closed.
func TestSparesAreFew(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	const n = 2 * maxSources
	write(t, s, func(ctx context.Context) error {
		for i := range n {
			key, base := fmt.Sprint("key", i), fmt.Sprint("base", i)
			_, err := s.CreateActive(ctx, key, "", false)
			if err == nil {
				_, err = s.Commit(ctx, key, base)
			}
			for _, key := range []string{key, key + "b"} {
				if err == nil {
					_, err = s.CreateActive(ctx, key, base, false)
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	write(t, s, func(ctx context.Context) error {
		for i := range n {
			if _, err := s.Remove(ctx, fmt.Sprint("key", i)); err != nil {
				return err
			}
		}
		return nil
	})
	entries, err := readNames(s.tree.staging)
	if err != nil || len(entries) <= maxSpares || len(entries) > maxSpares+maxSources {
		t.Errorf("%d entries in staging, %v, want %d and up to %d symlinks", len(entries), err, maxSpares, maxSources)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err = readNames(s.tree.staging); err != nil || len(entries) != 0 {
		t.Errorf("after Close staging has %q, %v", entries, err)
	}
}

// A power cut may leave a directory under the name it had before, with what was written
// there since: the journal knows better. A checkpoint in between makes no difference.
func TestSpareUnderItsOldName(t *testing.T) {
	s := spareStore(t, nil)
	if err := create(s, "new", "base"); err != nil {
		t.Fatal(err)
	}
	dir := crashed(t, s)
	newTree := func(name string) string { return filepath.Join(dir, snapshotsDir, name) }
	if err := os.Rename(newTree("new"), newTree("old")); err != nil {
		t.Fatal(err)
	}
	for _, opts := range [][]Option{{ReadOnly()}, nil} {
		again := openTest(t, dir, opts...)
		wantNames(t, again, bg, "base new")
		if _, err := again.Stat(bg, "old"); !errors.Is(err, ErrNotExist) {
			t.Errorf("Stat of what was removed: %v", err)
		}
	}
	again := openTest(t, dir)
	if err := create(again, "newer", "new"); !errors.Is(err, ErrNotCommitted) {
		t.Error(err)
	}
	if _, err := os.Lstat(newTree("old")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the take-over has left it: %v", err)
	}
}

// A process that has written gives the lock back soon, though it may go on at any time,
// and to one that waits while it writes.
func TestLockIsGivenBack(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	other := openTest(t, s.dir)
	mustCreate(t, s, "a")
	mustCreate(t, other, "b") // waits until s has given the lock back, or the test times out
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := create(s, fmt.Sprint("busy", i), ""); err != nil {
				done <- err
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	for i := range 5 {
		err := other.WithTransaction(ctx, true, func(ctx context.Context) error {
			_, err := other.CreateActive(ctx, fmt.Sprint("other", i), "", false)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := names(t, s, bg); !strings.Contains(got, "other0 other1 other2 other3 other4") {
		t.Errorf("walk sees %q", got)
	}
}

// Many names are synced with their filesystem, few or on a busy machine one by one. A sync
// of the filesystem that fails counts as one of theirs: the files don't tell.
func TestSyncManyNames(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	var keys []string
	for i := range 2 * manyNames {
		keys = append(keys, fmt.Sprint("key", i))
	}
	mustCreate(t, s, keys...)
	if s.tree.root == nil {
		t.Fatal("the store's directory is not open")
	}
	for _, foreign := range []bool{false, true} {
		if err := s.tree.sync(append(keys, "gone"), foreign); err != nil {
			t.Error(err)
		}
	}
	if err := s.tree.root.Close(); err != nil { // syncing the filesystem fails
		t.Fatal(err)
	}
	if all, err := s.tree.syncAll(); all || err != nil && !errors.Is(err, errSync) {
		t.Errorf("a sync of the filesystem that fails: %v, %v", all, err)
	}
	if err := s.tree.sync(keys, true); err != nil { // one by one it works
		t.Error(err)
	}
	s.tree.root = nil
}

// A power cut may leave a directory under each name that it had since the tree was last
// synced. It is not filled for one of these again: what is found there would look like a
// version that was committed.
func TestSpareIsNotUsedForItsOldNames(t *testing.T) {
	s := spareStore(t, nil) // of old
	dir := inode(t, s.tree.spares.dirs[0].path)
	step := func(key string, want bool) {
		t.Helper()
		s.tree.spares.dirs = slices.DeleteFunc(s.tree.spares.dirs, func(d spareDir) bool { return inode(t, d.path) != dir })
		if err := create(s, key, "base"); err != nil {
			t.Fatal(err)
		}
		if got := inode(t, s.tree.path(key)) == dir; got != want {
			t.Errorf("used for %s: %v, want %v", key, got, want)
		}
	}
	remove := func(key string) {
		write(t, s, func(ctx context.Context) error { _, err := s.Remove(ctx, key); return err })
	}
	step("old", false)
	remove("old")
	step("x", true)
	remove("x")
	for range 2 {
		step("old", false)
		step("x", false)
		remove("old")
		remove("x")
	}
	step("y", true)
	if err := fold(s); err != nil { // from now on, y is its only name
		t.Fatal(err)
	}
	remove("y")
	step("old", true)
	if err := s.tree.syncEach(nil); err != nil { // which tells the tree nothing
		t.Fatal(err)
	}
	remove("old")
	step("y", false)
	// The same for changes of one snapshot.
	seen := map[uint64]bool{}
	for i := range 10 {
		write(t, s, func(ctx context.Context) error {
			_, err := s.Update(ctx, Info{Name: "y", Labels: map[string]string{"i": fmt.Sprint(i)}})
			return err
		})
		ino := inode(t, s.tree.path("y"))
		if seen[ino] {
			t.Errorf("change %d is in a directory that y had before", i)
		}
		seen[ino] = true
	}
}

// What another process may have filled again, under names that only it knows, is not kept.
func TestSpareOfOthers(t *testing.T) {
	s := spareStore(t, nil)
	other := openTest(t, s.dir)
	for i, store := range []*Store{other, s, other} {
		write(t, store, func(ctx context.Context) error {
			_, err := store.Update(ctx, Info{Name: "base", Labels: map[string]string{"i": fmt.Sprint(i)}})
			return err
		})
	}
	if n := len(other.tree.spares.dirs); n > 0 {
		t.Errorf("%d directories are kept", n)
	}
	if err := fold(other); err != nil {
		t.Fatal(err)
	}
	write(t, other, func(ctx context.Context) error {
		_, err := other.Update(ctx, Info{Name: "base"})
		return err
	})
	if n := len(other.tree.spares.dirs); n != 1 {
		t.Errorf("%d directories are kept after a checkpoint, want 1", n)
	}
}
