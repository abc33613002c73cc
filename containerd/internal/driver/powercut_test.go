//go:build linux

package driver_test

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

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// disk is a filesystem on a file. Its power can be cut.
type disk struct {
	t           *testing.T
	image, path string
	mounted     bool
}

// newDisk makes and mounts one, until the test ends.
func newDisk(t *testing.T, filesystem string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	mkfs, err := exec.LookPath("mkfs." + filesystem)
	if err != nil {
		t.Skipf("mkfs.%s is missing: install it", filesystem)
	}
	dir := t.TempDir()
	d := &disk{t: t, image: filepath.Join(dir, "image"), path: filepath.Join(dir, "mount")}
	must(t, os.Mkdir(d.path, 0o700))
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, 512<<20))
	d.run(mkfs, "-q", d.image)
	t.Cleanup(d.unmount)
	d.mount()
	return d
}

func (d *disk) run(name string, arguments ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, out)
	}
}

func (d *disk) mount() {
	d.t.Helper()
	d.run("mount", "-o", "loop", d.image, d.path)
	d.mounted = true
}

func (d *disk) unmount() {
	if !d.mounted {
		return
	}
	d.mounted = false
	// Not at once: what a killed process had open is closed a moment after its end is known.
	err := unix.Unmount(d.path, 0)
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); err = unix.Unmount(d.path, 0) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		d.t.Errorf("unmount %s: %v", d.path, err)
		_ = unix.Unmount(d.path, unix.MNT_DETACH) // the error is reported
	}
}

// cut ends the power: from then on nothing gets to the disk, not what waits for it either.
func (d *disk) cut() {
	d.t.Helper()
	const (
		shutdown   = 0x8004587d // FS_IOC_SHUTDOWN
		noLogFlush = 2
	)
	dir, err := os.Open(d.path)
	must(d.t, err)
	defer dir.Close() //nolint:errcheck // nothing was written
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush); err != nil {
		d.t.Fatalf("the power of %s can't be cut: %v", d.path, err)
	}
}

// restart is what comes after a cut.
func (d *disk) restart() {
	d.t.Helper()
	d.unmount()
	d.mount()
	// It would still be without power where it was mounted elsewhere too.
	probe, err := os.Create(filepath.Join(d.path, "probe"))
	if err == nil {
		err = errors.Join(probe.Sync(), probe.Close(), os.Remove(probe.Name()))
	}
	if err != nil {
		d.t.Fatalf("the power of %s does not come back: %v", d.path, err)
	}
}

// onDisks runs a test with each snapshotter on each filesystem.
func onDisks(t *testing.T, fn func(t *testing.T, kind string, d *disk)) {
	for _, filesystem := range []string{"ext4", "xfs"} {
		for _, kind := range []string{"overlay", "native", "overlayShared"} {
			t.Run(filesystem+"/"+kind, func(t *testing.T) { fn(t, kind, newDisk(t, filesystem)) })
		}
	}
}

// A power cut in the very moment after a call has returned takes nothing of what that has
// promised, whichever call it was.
func TestPowerCutAfterEachCall(t *testing.T) {
	onDisks(t, func(t *testing.T, kind string, d *disk) {
		known, root := newKnown(), filepath.Join(d.path, "root")
		for round := range runs(t, 1) * 20 {
			c := known.start(t, workload{kind: kind, root: root, prefix: fmt.Sprint(round), workers: 1, steps: 1000, stepwise: true})
			c.hear(2 * (1 + round%20)) // the last of them says that a call has returned
			c.cut(d)
			c.kill()
			d.restart()
			if err := known.check(kind, root); err != nil {
				t.Fatalf("after %d rounds: %v", round, err)
			}
		}
	})
}

// A power cut at any other moment, while several calls are under way, doesn't either.
func TestPowerCutAtRandom(t *testing.T) {
	onDisks(t, func(t *testing.T, kind string, d *disk) {
		chance, known, root := randomly(t), newKnown(), filepath.Join(d.path, "root")
		for round := range runs(t, 12) {
			c := known.start(t, workload{kind: kind, root: root, prefix: fmt.Sprint(round), workers: 3, steps: 1000})
			c.hear(chance.IntN(80))
			time.Sleep(time.Duration(chance.IntN(3000)) * time.Microsecond) // a moment between two lines
			c.cut(d)
			c.kill()
			d.restart()
			if err := known.check(kind, root); err != nil {
				t.Fatalf("after %d rounds: %v", round, err)
			}
		}
	})
}

// A power cut while a root is made leaves one that the next call completes.
func TestPowerCutInOpen(t *testing.T) {
	for _, filesystem := range []string{"ext4", "xfs"} {
		t.Run(filesystem, func(t *testing.T) {
			chance, d := randomly(t), newDisk(t, filesystem)
			for round := range runs(t, 10) {
				known, root := newKnown(), filepath.Join(d.path, fmt.Sprint("root", round))
				c := known.start(t, workload{kind: "overlay", root: root, prefix: "0", workers: 1, steps: 1000})
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
					if _, err := os.Stat(root); err == nil {
						break // it has begun
					}
				}
				time.Sleep(time.Duration(chance.IntN(3000)) * time.Microsecond) // some moment after that
				c.cut(d)
				c.kill()
				d.restart()
				if err := known.check("overlay", root); err != nil {
					t.Fatalf("after %d rounds: %v", round, err)
				}
			}
		})
	}
}

// What was prepared and written before the root was opened anew is on disk too when it has
// been committed.
func TestPowerCutAfterCommitByTheNext(t *testing.T) {
	onDisks(t, func(t *testing.T, kind string, d *disk) {
		known, root := newKnown(), filepath.Join(d.path, "root")
		ctx := context.Background()
		reopened := func() snapshots.Snapshotter {
			s, err := kinds[kind](root)
			must(t, err)
			return s
		}
		s := reopened()
		mounts, err := s.Prepare(ctx, "key", "")
		must(t, err)
		must(t, writeContent(upperOf(mounts), "name"))
		must(t, s.Close())
		s = reopened()
		must(t, s.Commit(ctx, "name", "key"))
		must(t, known.hear("! commit key name", false))
		d.cut()
		_ = s.Close() // it can't write any more
		d.restart()
		must(t, known.check(kind, root))
	})
}

// Where the filesystem can't be synced as a whole, its files are synced one by one, and
// nothing is lost either.
func TestPowerCutWhereSyncfsFails(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace, which makes a sync fail, is missing: install it")
	}
	onDisks(t, func(t *testing.T, kind string, d *disk) {
		known, root := newKnown(), filepath.Join(d.path, "root")
		for round, lines := range []int{4, 8} {
			c := known.start(t, workload{kind: kind, root: root, prefix: fmt.Sprint(round), workers: 1, steps: 4, stepwise: true},
				strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO")
			c.hear(lines) // the last of them says that a commit has returned
			c.cut(d)
			c.kill()
			d.restart()
			if err := known.check(kind, root); err != nil {
				t.Fatalf("after %d rounds: %v", round, err)
			}
		}
	})
}

// Without sync, a power cut takes content of a snapshot, and leaves its commit. It is what
// that option says, and shows that the other tests would see it.
func TestPowerCutWithoutSync(t *testing.T) {
	for _, filesystem := range []string{"ext4", "xfs"} {
		t.Run(filesystem, func(t *testing.T) {
			d := newDisk(t, filesystem)
			known, root := newKnown(), filepath.Join(d.path, "root")
			c := known.start(t, workload{kind: "overlayUnsynced", root: root, prefix: "0", workers: 1, steps: 1, stepwise: true})
			c.hear(4) // prepare and commit, both announced and done
			c.cut(d)
			c.kill()
			d.restart()

			s, err := kinds["overlayUnsynced"](root)
			must(t, err)
			info, err := s.Stat(context.Background(), "layer-0-0-0")
			if err != nil || info.Kind != snapshots.KindCommitted {
				t.Errorf("the snapshot is %v: %v, want it committed", info.Kind, err)
			}
			must(t, s.Close())
			if err := known.check("overlayUnsynced", root); err == nil {
				t.Error("all content has survived the cut: it was none")
			}
		})
	}
}
