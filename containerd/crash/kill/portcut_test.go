//go:build linux && amd64

package kill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/crash/apart"
	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"golang.org/x/sys/unix"
)

// disk is a filesystem on a file. Its power can be cut.
type disk struct{ image, path string }

// newDisk makes and mounts one, until the test ends.
func newDisk(t *testing.T, filesystem string, megabytes int64) disk {
	t.Helper()
	if !apart.Is() {
		traced.Skip(t, "only root can mount, where it may")
	}
	mkfs, err := exec.LookPath("mkfs." + filesystem)
	if err != nil {
		traced.Skip(t, "mkfs.", filesystem, " is missing")
	}
	dir := traced.Memory(t)
	d := disk{filepath.Join(dir, "image"), filepath.Join(dir, "mount")}
	err = errors.Join(os.Mkdir(d.path, 0o700), os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, megabytes<<20), command(mkfs, "-q", d.image))
	if err == nil {
		err = d.mount()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.unmount(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func command(name string, arguments ...string) error {
	out, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, arguments, err, out)
	}
	return nil
}

func (d disk) mount() error { return command("mount", "-o", "loop", d.image, d.path) }

// unmount unmounts it when what a killed process had open is closed, a moment after its end is
// known.
func (d disk) unmount() error {
	err := unix.Unmount(d.path, 0)
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = unix.Unmount(d.path, 0) {
		time.Sleep(time.Millisecond)
	}
	return err
}

// cut ends the power: from then on nothing gets to the disk, not what waits for it either.
func (d disk) cut() error {
	const (
		shutdown   = 0x8004587d // FS_IOC_SHUTDOWN
		noLogFlush = 2
	)
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush), dir.Close())
}

// sync makes all durable that is on it.
func (d disk) sync() error {
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// restart is what comes after a cut.
func (d disk) restart() error {
	if err := d.unmount(); err != nil {
		return err
	}
	return d.mount()
}

// reaching are the kinds of calls by which something gets to the disk, or that must not get there
// alone. Between two of them, all others are as good.
var reaching = []string{"fsync", "fdatasync", "syncfs", "renameat", "renameat2", "unlinkat"}

// The power is cut at such calls of an import or an export, with all that was not synced lost, or
// when the process has ended.
func TestCutPort(t *testing.T) {
	traced.Need(t)
	for _, filesystem := range []string{"ext4", "xfs"} {
		for _, w := range ways {
			t.Run(filesystem+"/"+w.name, func(t *testing.T) {
				d, random := newDisk(t, filesystem, 512), traced.Random(t)
				calls := w.record(t, traced.Memory(t))
				all := traced.Every(calls)
				maps.DeleteFunc(all, func(kind string, _ []traced.Point) bool { return !slices.Contains(reaching, kind) })
				points := append(traced.Sample(all, traced.Runs(t, 6), random), traced.Point{}) // which is none: at the end
				var count traced.Tally
				for i, p := range points {
					ended, err := w.cut(t, d, fmt.Sprint(i), p)
					if err != nil {
						t.Errorf("the power was cut %v: %v", p, err)
					}
					count.Add(p.Kind, !ended || p == traced.Point{}, err)
				}
				t.Logf("of %d calls, the power was cut at some: %v", len(calls), &count)
			})
		}
	}
}

// cut does the work in a world of that name, cuts the power at a point or when it has ended, and
// judges what is left.
func (w way) cut(t *testing.T, d disk, name string, p traced.Point) (ended bool, err error) {
	t.Helper()
	outside, dir := t.TempDir(), filepath.Join(d.path, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return false, err
	}
	first := ports[w.work].begin(t, dir)
	if err := d.sync(); err != nil {
		return false, err
	}
	r, err := w.run(t, outside, dir, func(c traced.Call, made bool) traced.Do {
		if !p.Is(c, made) {
			return traced.Do{}
		}
		if cerr := d.cut(); cerr != nil {
			t.Errorf("the power can't be cut: %v", cerr)
		}
		return traced.Do{Kill: true}
	})
	if err != nil {
		return false, err
	}
	if ended = !r.Killed(); ended {
		if err = errors.Join(r.Bad(), d.cut()); err != nil {
			return ended, err
		}
	}
	if err := d.restart(); err != nil {
		t.Fatal(err)
	}
	if ended {
		err = ports[w.work].done(dir)
	}
	if err == nil {
		err = ports[w.work].judge(first, dir, !w.exchange)
	}
	return ended, errors.Join(err, os.RemoveAll(dir))
}

// An import is killed just after the exchange. What a driver commits to the store then survives a power
// cut, though the driver knows nothing of imports.
func TestCutAfterInterruptedImport(t *testing.T) {
	traced.Need(t)
	for _, filesystem := range []string{"ext4", "xfs"} {
		t.Run(filesystem, func(t *testing.T) {
			d, w := newDisk(t, filesystem, 512), ways[0]
			dir := filepath.Join(d.path, "world")
			w.begin(t, d.path)
			if err := d.sync(); err != nil {
				t.Fatal(err)
			}
			r, err := w.run(t, t.TempDir(), dir, func(c traced.Call, made bool) traced.Do {
				return traced.Do{Kill: made && c.Kind == "renameat2" && c.Path == ".metadata.db.import/store and metadata.db"}
			})
			if err != nil || !r.Killed() {
				t.Fatalf("it was not killed: %v", err)
			}
			place := filepath.Join(dir, metadata)
			ms, err := storage.NewMetaStore(place)
			if err == nil {
				err = ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
					_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "since", "")
					return err
				})
			}
			if err = errors.Join(err, d.cut()); err != nil {
				t.Fatal(err)
			}
			_ = ms.Close() // it can't write any more
			if err := errors.Join(d.restart(), doImport(dir)); err != nil {
				t.Fatal(err)
			}
			if c, err := read(peers.FS, place); err != nil || c.Infos["since"].Name == "" {
				t.Errorf("the store has %v: %v", c.IDs, err)
			}
		})
	}
}

// A way back and an export are killed just after their last rename. What the old driver commits to the file then is
// there after a power cut, at the path or where the next call says that it is.
func TestCutAfterInterruptedExport(t *testing.T) {
	traced.Need(t)
	for _, filesystem := range []string{"ext4", "xfs"} {
		for work, c := range map[string]struct{ file, stage string }{"goback": {metadata, ".metadata.db.goback"}, "export": {back, ".back.db.export"}} {
			t.Run(filesystem+"/"+work, func(t *testing.T) {
				d, w := newDisk(t, filesystem, 512), way{"", work, true}
				dir := filepath.Join(d.path, "world")
				w.begin(t, d.path)
				if err := d.sync(); err != nil {
					t.Fatal(err)
				}
				r, err := w.run(t, t.TempDir(), dir, func(call traced.Call, made bool) traced.Do {
					return traced.Do{Kill: made && call.Kind == "renameat2" && call.Path == c.stage+"/metadata.db and "+c.file}
				})
				if err != nil || !r.Killed() {
					t.Fatalf("it was not killed: %v", err)
				}
				place := filepath.Join(dir, c.file)
				ms, err := theirs.NewMetaStore(place)
				if err == nil {
					err = ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
						_, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "since", "")
						return err
					})
				}
				if err = errors.Join(err, d.cut()); err != nil {
					t.Fatal(err)
				}
				_ = ms.Close() // it can't write any more
				if err := d.restart(); err != nil {
					t.Fatal(err)
				}
				if info, err := os.Stat(place); err != nil || info.IsDir() {
					place = filepath.Join(dir, c.stage, "metadata.db")
					if err := ports[work].do(dir); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), place) {
						t.Errorf("the next call: %v", err)
					}
				}
				t.Logf("the file is %s", place)
				if c, err := read(peers.Bolt, place); err != nil || c.Infos["since"].Name == "" {
					t.Errorf("it has %v: %v", c.IDs, err)
				}
			})
		}
	}
}
