//go:build linux && amd64

package kill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/fsmeta/fsmeta/containerd/crash/apart"
	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"golang.org/x/sys/unix"
)

// filler is a file that fills a disk.
type filler struct{ *os.File }

// fill fills the disk, to the last block.
func (d disk) fill(t *testing.T) filler {
	t.Helper()
	f, err := os.Create(filepath.Join(d.path, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 512; {
		_, err := f.Write(make([]byte, size))
		if err == nil {
			err = f.Sync() // else the room that delayed allocation keeps comes back
		}
		switch {
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	return filler{f}
}

// leave makes so much room.
func (f filler) leave(room int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(max(0, info.Size()-room)), f.Sync())
}

// grow adds snapshots to a bbolt file.
func (w *world) grow(t *testing.T, dir string, n int) {
	t.Helper()
	file := filepath.Join(dir, metadata)
	ms, err := theirs.NewMetaStore(file)
	if err == nil {
		err = ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			for i := range n {
				if _, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, fmt.Sprint("active ", i), "layer1"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err = errors.Join(err, ms.Close()); err != nil {
		t.Fatal(err)
	}
	if w.content, err = read(peers.Bolt, file); err == nil {
		w.file, err = os.ReadFile(file)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// doFill is an import into a store of its own.
func doFill(dir string) error {
	ms, err := storage.NewMetaStore(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	return errors.Join(storage.Import(context.Background(), filepath.Join(dir, metadata), ms, nil), ms.Close())
}

// A filesystem that is full, or has room for a part of the work, gives an error that says so and what to do. What
// was there can be read as it was, and the same call succeeds when there is room.
func TestFullPort(t *testing.T) {
	for name, p := range map[string]struct {
		before, do func(dir string) error
		after      peers.Peer // of what is in the place when it has succeeded
		made       string     // what is new then, and of which kind
		kind       peers.Peer
	}{
		"an import":           {nil, doImport, peers.FS, metadata + ".bolt", peers.Bolt},
		"an import elsewhere": {nil, doFill, peers.Bolt, "store", peers.FS},
		"an export":           {doImport, doExport, peers.FS, back, peers.Bolt},
		"a way back":          {doImport, doGoBack, peers.Bolt, metadata + ".fsmeta", peers.FS},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, "ext4", 16)
			failed, done := 0, 0
			for i, room := range []int64{0, 1 << 10, 4 << 10, 16 << 10, 40 << 10, 100 << 10, 200 << 10, 400 << 10, 1 << 20, 2 << 20, 4 << 20} {
				dir := filepath.Join(d.path, fmt.Sprint(i))
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				w, before := beginImport(t, dir), peers.Bolt
				w.grow(t, dir, 200)
				if p.before != nil {
					before = peers.FS
					if err := p.before(dir); err != nil {
						t.Fatal(err)
					}
				}
				f, place := d.fill(t), filepath.Join(dir, metadata)
				if err := f.leave(room); err != nil {
					t.Fatal(err)
				}
				refused, after := p.do(dir), p.after
				if refused == nil {
					done++
				} else {
					failed, after = failed+1, before
					if text := refused.Error(); !errors.Is(refused, unix.ENOSPC) || !strings.Contains(text, "make room") || !strings.Contains(text, dir) {
						t.Errorf("with room for %d bytes: %v", room, refused)
					}
				}
				if err := w.like(after, place); err != nil {
					t.Errorf("with room for %d bytes: %v", room, err)
				}
				err := errors.Join(f.Close(), os.Remove(f.Name()))
				if refused != nil && err == nil {
					err = p.do(dir)
				}
				if err == nil {
					err = errors.Join(w.like(p.after, place), w.like(p.kind, filepath.Join(dir, p.made)), onlyHas(dir, metadata, metadata+".bolt", p.made))
				}
				if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
					t.Fatalf("when there is room for more than %d bytes: %v", room, err)
				}
			}
			if failed == 0 || done == 0 {
				t.Errorf("it has failed %d times, and succeeded %d times", failed, done)
			}
			t.Logf("it has failed %d times, and succeeded %d times", failed, done)
		})
	}
}

// A file or a store that is a mount of its own stays what and where it is, and the error says what to do.
func TestMountedPort(t *testing.T) {
	if !apart.Is() {
		traced.Skip(t, "only root can mount, where it may")
	}
	for _, w := range []way{{"a file", "import", true}, {"a store", "goback", true}} {
		t.Run(w.name, func(t *testing.T) {
			dir := t.TempDir()
			first, world := w.begin(t, dir), filepath.Join(dir, "world")
			place := filepath.Join(world, metadata)
			if err := unix.Mount(place, place, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			err := ports[w.work].do(world)
			if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "something is mounted at "+place) {
				t.Errorf("got %v", err)
			}
			if err := errors.Join(onlyHas(world, metadata, metadata+".bolt"), unix.Unmount(place, 0), ports[w.work].judge(first, world, false)); err != nil {
				t.Error(err)
			}
		})
	}
}
