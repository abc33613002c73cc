//go:build linux

package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// On a full filesystem every snapshot can be removed.

// disk makes a filesystem and returns a directory in it.
type disk struct {
	name string
	make func(t *testing.T) string
}

// disks are one of each kind; with -short, one.
func disks() []disk {
	if testing.Short() {
		return allDisks[:1]
	}
	return allDisks
}

var allDisks = []disk{
	{"ext4", func(t *testing.T) string { return image(t, 64, "mkfs.ext4 -q -b 1024") }},
	{"xfs", func(t *testing.T) string { return image(t, 320, "mkfs.xfs -q") }},
	{"btrfs", func(t *testing.T) string { return image(t, 256, "mkfs.btrfs -q") }},
	{"btrfs at a limit", func(t *testing.T) string {
		dir := filepath.Join(image(t, 512, "mkfs.btrfs -q"), "sub")
		for _, command := range [][]string{
			{"quota", "enable", filepath.Dir(dir)}, {"subvolume", "create", dir}, {"qgroup", "limit", "48M", dir},
		} {
			if out, err := exec.Command("btrfs", command...).CombinedOutput(); err != nil {
				t.Fatalf("btrfs %q: %v: %s", command, err, out)
			}
		}
		return dir
	}},
}

// numbered makes snapshots, in transactions of a hundred.
func numbered(t *testing.T, a actor, from, to int, format string) {
	t.Helper()
	for i := from; i < to; i += 100 {
		mustDo(t, a, "begin")
		for n := i; n < min(i+100, to); n++ {
			mustDo(t, a, "put "+fmt.Sprintf(format, n))
		}
		mustDo(t, a, "end")
	}
}

// removeAll removes numbered snapshots, each in a transaction of its own, with a pause behind
// each in which the store can do what it does in the background.
func removeAll(t *testing.T, a actor, from, to int, format string, pause time.Duration) {
	t.Helper()
	failed, first := 0, error(nil)
	for i := from; i < to; i++ {
		if _, err := a.do("remove " + fmt.Sprintf(format, i)); err != nil {
			if failed++; first == nil {
				first = err
			}
		}
		time.Sleep(pause)
	}
	if failed > 0 {
		t.Fatalf("%d of %d removals failed, the first: %v", failed, to-from, first)
	}
}

func TestRemoveOnAFullDisk(t *testing.T) {
	for _, disk := range disks() {
		for _, c := range []struct {
			name   string
			many   int
			pause  time.Duration
			reopen bool // after the disk is full
			long   bool
		}{
			{"500", 500, 3 * time.Millisecond, false, false},
			{"500 after reopening", 500, 0, true, false},
			{"3000", 3000, 0, false, true},
		} {
			t.Run(disk.name+"/"+c.name, func(t *testing.T) {
				if c.long {
					longForm(t)
				}
				root := disk.make(t)
				dir := filepath.Join(root, "store")
				a := use(t, dir)
				numbered(t, a, 0, c.many, "s%d")
				mustDo(t, a, "put keep")
				if c.reopen {
					mustDo(t, a, "close")
				}
				free := fill(t, root)
				if c.reopen {
					a = useDamaged(t, dir)
				}
				removeAll(t, a, 0, c.many, "s%d", c.pause)
				mustSay(t, a, "walk", "keep")
				reader := start(t)
				mustDo(t, reader, "open "+dir+" readonly")
				mustSay(t, reader, "walk", "keep")
				free()
				mustDo(t, a, "put new", "label keep 1", "close")
				mustSay(t, useDamaged(t, dir), "walk", "keep new")
			})
		}
	}
}

// The same after an unclean end: the next process has to take over before it removes, and needs
// room for that.
func TestTakeOverOnAFullDisk(t *testing.T) {
	const many, batch = 500, 20
	for _, disk := range disks() {
		for _, c := range []struct {
			name  string
			end   func(t *testing.T, w *remote, dir string) // of the writer, before the disk is full
			kills int                                       // when it is full, each of a process that removes a batch
			again bool                                      // and the filesystem is mounted again after each
		}{
			{"killed", func(t *testing.T, w *remote, dir string) { w.kill(); unpublish(t, dir) }, 0, false},
			{"restarted", func(t *testing.T, w *remote, dir string) { w.kill(); otherBoot(t, dir); unpublish(t, dir) }, 0, false},
			{"closed, restarted", func(t *testing.T, w *remote, dir string) { mustDo(t, w, "close"); otherBoot(t, dir) }, 0, false},
			{"killed often", func(_ *testing.T, w *remote, _ string) { w.kill() }, 5, false},
			{"mounted again", func(_ *testing.T, w *remote, _ string) { w.kill() }, 5, true},
		} {
			t.Run(disk.name+"/"+c.name, func(t *testing.T) {
				if testing.Short() && c.kills > 0 {
					t.Skip("takes long: run it without -short")
				}
				root := disk.make(t)
				dir := filepath.Join(root, "store")
				open := func() *remote { w := start(t); mustDo(t, w, "open "+dir); return w }
				w := open()
				numbered(t, w, 0, many, "s%d")
				mustDo(t, w, "put keep")
				c.end(t, w, dir)
				free := fill(t, root)
				for n := range c.kills {
					w := open()
					for i := range batch {
						w.send(fmt.Sprintf("remove s%d", n*batch+i))
					}
					if _, err := w.receive("remove"); err != nil {
						t.Fatalf("remove after %d kills: %v", n, err)
					}
					w.kill() // in one of the others
					if c.again {
						remount(t, root)
					}
				}
				a := useDamaged(t, dir)
				for i := range many {
					_, err := a.do(fmt.Sprintf("remove s%d", i))
					if err != nil && (i >= c.kills*batch || !errors.Is(err, fsmeta.ErrNotExist)) {
						t.Fatalf("remove the %dth: %v", i, err)
					}
				}
				mustSay(t, a, "walk", "keep")
				free()
				mustDo(t, a, "put new", "close")
				wantClean(t, dir)
			})
		}
	}
}

// Additions that fail for want of room leave nothing, those that were acknowledged stay, and
// after both each snapshot can be removed, by this process and by the next one.
func TestAddOnAFullDisk(t *testing.T) {
	for _, disk := range disks() {
		t.Run(disk.name, func(t *testing.T) {
			root := disk.make(t)
			dir := filepath.Join(root, "store")
			a := use(t, dir)
			numbered(t, a, 0, 100, "s%d")
			removeAll(t, a, 0, 60, "s%d", 0)
			free := fill(t, root)
			long := strings.Repeat("l", 76)
			var there, missing []string
			for i := 0; i < 2000 && len(missing) < 10; i++ {
				name := fmt.Sprintf("%s%04d", long, i)
				if _, err := a.do("put " + name); err == nil {
					there = append(there, name)
				} else {
					missing = append(missing, name)
				}
				time.Sleep(3 * time.Millisecond) // for what the store does in the background
			}
			t.Logf("%d were added, %d were not", len(there), len(missing))
			mustDo(t, a, "remove s70", "remove s71")
			r := start(t)
			mustDo(t, r, "open "+dir)
			for _, a := range []actor{a, r} {
				for _, name := range there {
					mustSay(t, a, "stat "+name, "active v= on=")
				}
			}
			removeAll(t, r, 72, 80, "s%d", 0)
			for i, name := range there {
				mustDo(t, []actor{a, r}[i%2], "remove "+name)
			}
			mustDo(t, r, "begin")
			r.kill()
			removeAll(t, a, 80, 100, "s%d", 3*time.Millisecond)
			mustSay(t, a, "walk", "s60 s61 s62 s63 s64 s65 s66 s67 s68 s69")
			removeAll(t, a, 60, 70, "s%d", 0)
			mustSay(t, a, "walk", "")
			free()
			mustDo(t, a, "put "+long, "close")
		})
	}
}

// longForm skips a test that takes long, unless FSMETA_TEST_RUNS is set.
func longForm(t *testing.T) {
	t.Helper()
	if os.Getenv("FSMETA_TEST_RUNS") == "" {
		t.Skip("takes long: FSMETA_TEST_RUNS=1 runs it")
	}
}

// A directory that can take no more entries refuses more snapshots; all else goes on, and what
// was acknowledged is there.
func TestFullDirectory(t *testing.T) {
	longForm(t)
	for _, c := range []struct {
		name, mkfs string
		most       int
		format     string
	}{
		{"links", "mkfs.ext4 -q -N 160000 -O ^dir_nlink", 66_000, "s%d"},
		{"index", "mkfs.ext4 -q -b 1024 -N 160000 -O ^large_dir", 80_000, strings.Repeat("n", 200) + "%d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := image(t, 1500, c.mkfs)
			dir := filepath.Join(root, "store")
			a := use(t, dir)
			numbered(t, a, 0, 10, "early%d")
			added, refused := 0, 0
			var last error
			for ; added < c.most && refused < 5; added += 50 {
				err := a.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
					for i := range 50 {
						if _, err := a.store.CreateActive(ctx, fmt.Sprintf(c.format, added+i), "", false); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					refused++
					last = err
				}
			}
			if refused == 0 {
				t.Fatalf("%d snapshots were added, and the directory is not full", added)
			}
			t.Logf("%d were tried until %v", added, last)
			removeAll(t, a, 0, 5, "early%d", 0)
			r := start(t)
			mustDo(t, r, "open "+dir, "remove early5", "remove early6")
			mustFail(t, r, "stat early5", fsmeta.ErrNotExist)
			r.kill()
			removeAll(t, a, 0, 100, c.format, 0)
			for i := added - 500; i < added; i++ { // those that lag among them
				if _, err := a.do("remove " + fmt.Sprintf(c.format, i)); err != nil && !errors.Is(err, fsmeta.ErrNotExist) {
					t.Errorf("remove the %dth: %v", i, err)
				}
			}
			mustDo(t, a, "put again", "label early9 1", "close")
		})
	}
}
