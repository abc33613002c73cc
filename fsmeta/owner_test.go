//go:build linux

package fsmeta_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Root works on the store of another user without locking that user out.

// wantOwner requires that all of a store belongs to otherUser, but for what a checkpoint in the
// background is just making in staging/.
func wantOwner(t *testing.T, dir string) {
	t.Helper()
	succeed(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasPrefix(path, filepath.Join(dir, "staging")+"/.") {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err == nil {
			if stat := info.Sys().(*syscall.Stat_t); stat.Uid != otherUser || stat.Gid != otherUser {
				t.Errorf("%s belongs to %d:%d", path, stat.Uid, stat.Gid)
			}
		}
		return err
	}))
}

func TestRootLeavesTheStoreToItsOwner(t *testing.T) {
	for _, c := range []struct {
		name string
		root func(t *testing.T, dir string) // while the owner has the store open
	}{
		{"update", func(t *testing.T, dir string) { mustDo(t, useDamaged(t, dir), "label x root", "close") }},
		{"create", func(t *testing.T, dir string) {
			mustDo(t, useDamaged(t, dir), "put r", "layer rl base", "put r2 rl", "close")
		}},
		{"remove and create", func(t *testing.T, dir string) {
			mustDo(t, useDamaged(t, dir), "remove x", "put x", "commit x n", "put x", "close")
		}},
		{"checkpoints", func(t *testing.T, dir string) { mustDo(t, useDamaged(t, dir), "churn x 60", "close") }},
		{"still open", func(t *testing.T, dir string) { mustDo(t, useDamaged(t, dir), "label x root", "churn y 40") }},
		{"killed", func(t *testing.T, dir string) {
			r := start(t)
			mustDo(t, r, "open "+dir, "put r", "remove r", "put r", "churn x 40", "begin", "put s")
			r.kill()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := otherDir(t)
			owner := start(t, asOther)
			mustDo(t, owner, "open "+dir, "layer base", "put x base", "put y")
			wantOwner(t, dir)
			c.root(t, dir)
			wantOwner(t, dir)
			mustDo(t, owner, "label y owner", "walk", "remove y", "put y", "churn y 40")
			wantOwner(t, dir)
			another := start(t, asOther)
			mustDo(t, another, "open "+dir, "label x owner", "walk", "close")
			mustDo(t, owner, "put last", "close")
			wantOwner(t, dir)
		})
	}
}

// So it is when root repairs the store, or is the first to open it after a crash.
func TestRootRepairsTheStoreOfAnother(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{"whole", func(*testing.T, string) {}},
		{"link lost", func(t *testing.T, dir string) { succeed(t, os.Remove(entry(dir, "x/parent"))) }},
		{"snapshot damaged", func(t *testing.T, dir string) { flip(t, metadataPath(dir, "y"), 200) }},
		{"journal damaged", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "journal"), 10) }},
		{"staging lost", func(t *testing.T, dir string) { succeed(t, os.RemoveAll(filepath.Join(dir, "staging"))) }},
		{"layout lost", func(t *testing.T, dir string) { succeed(t, os.Remove(filepath.Join(dir, "layout"))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := otherDir(t)
			owner := start(t, asOther)
			mustDo(t, owner, "open "+dir, "layer base", "put x base", "put y", "put z")
			owner.kill()
			if c.name != "journal damaged" {
				fresh := start(t, asOther)
				mustDo(t, fresh, "open "+dir, "put w", "close")
			}
			c.damage(t, dir)
			repair(t, dir)
			wantOwner(t, dir)
			owner = start(t, asOther)
			mustDo(t, owner, "open "+dir, "label z owner", "put last", "walk", "close")
			wantOwner(t, dir)
		})
	}
}

// A backup by root can be put in the place of the store.
func TestRootBacksUpTheStoreOfAnother(t *testing.T) {
	dir := otherDir(t)
	owner := start(t, asOther)
	mustDo(t, owner, "open "+dir, "layer base", "put x base")
	root := useDamaged(t, dir)
	mustDo(t, root, "backup "+dir+".copy", "close")
	mustDo(t, owner, "close")
	wantOwner(t, dir+".copy")
	succeed(t, os.Rename(dir, dir+".old"), os.Rename(dir+".copy", dir))
	restored := start(t, asOther)
	mustDo(t, restored, "open "+dir, "put last", "walk", "close")
}

// A root that can't hand files over, for want of CAP_CHOWN, fails, and leaves nothing that its owner
// can't use.
func TestRootThatCannotHandOver(t *testing.T) {
	dir := otherDir(t)
	owner := start(t, asOther)
	mustDo(t, owner, "open "+dir, "put x", "put y")
	started := make(chan *remote)
	go func() {
		// This thread is never given back, so that no other goroutine runs without the right.
		runtime.LockOSThread()
		const capChown = 0
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capChown, 0, 0, 0); err != nil {
			t.Error(err)
		}
		started <- start(t)
	}()
	root := <-started
	if _, err := root.do("open " + dir); err == nil {
		for _, line := range []string{"label x root", "put r", "remove y", "churn x 40"} {
			_, _ = root.do(line)
			wantOwner(t, dir)
		}
	}
	root.kill()
	mustDo(t, owner, "label x owner", "put last", "churn x 40", "close")
	wantOwner(t, dir)
}
