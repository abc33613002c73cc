//go:build linux

package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mountAt mounts what a snapshotter returned until the test ends, and returns where.
func mountAt(t *testing.T, mounts []mount.Mount) string {
	t.Helper()
	target := t.TempDir()
	must(t, mount.All(mounts, target))
	t.Cleanup(func() { must(t, mount.UnmountAll(target, 0)) })
	return target
}

// tree returns the content of a directory: files with what is in them, symlinks with
// where they lead, directories with nothing.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		switch {
		case entry.IsDir():
			found[name+"/"] = ""
		case entry.Type() == fs.ModeSymlink:
			found[name], err = os.Readlink(path)
		default:
			var data []byte
			data, err = os.ReadFile(path)
			found[name] = string(data)
		}
		return err
	}))
	return found
}

// write writes files: each two strings are a name and a content.
func write(t *testing.T, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(files[i+1]), 0o644))
	}
}

// The three layers that are unpacked below, each into its upper directory: with a
// whiteout for a file and one for a directory, and a directory that hides what is below it.
var unpacking = map[string]func(t *testing.T, dir string){
	"low": func(t *testing.T, dir string) {
		write(t, dir, "kept", "low", "changed", "low", "removed", "low", "gone/file", "low", "opaque/below", "low", "both/low", "low")
		must(t, os.Symlink("kept", filepath.Join(dir, "link")))
	},
	"middle": func(t *testing.T, dir string) {
		write(t, dir, "changed", "middle", "opaque/above", "middle", "both/middle", "middle", "added", "middle")
		must(t, unix.Mknod(filepath.Join(dir, "removed"), unix.S_IFCHR, 0))
		must(t, unix.Mknod(filepath.Join(dir, "gone"), unix.S_IFCHR, 0))
		must(t, unix.Setxattr(filepath.Join(dir, "opaque"), "trusted.overlay.opaque", []byte("y"), 0))
	},
	"high": func(t *testing.T, dir string) {
		write(t, dir, "removed", "anew", "both/high", "high")
		must(t, unix.Mknod(filepath.Join(dir, "added"), unix.S_IFCHR, 0))
	},
}

var unpacked = map[string]string{
	"kept": "low", "link": "kept", "changed": "middle", "removed": "anew", "opaque/": "", "opaque/above": "middle",
	"both/": "", "both/low": "low", "both/middle": "middle", "both/high": "high",
}

// Layers that were prepared without a parent and unpacked at the same time, and given
// their parents when they are committed, show what they show when they are unpacked one
// after the other: in a view and in a container.
func TestRebase(t *testing.T) {
	p := openPair(t, config{})
	p.each(func(s side) {
		var group sync.WaitGroup
		for _, name := range slices.Sorted(maps.Keys(unpacking)) { // both sides in one order
			unpack := unpacking[name]
			mounts, err := s.Prepare(t.Context(), "unpacking "+name, "")
			must(t, err)
			group.Go(func() { unpack(t, upperOf(mounts)) })
		}
		group.Wait()
		must(t, s.Commit(t.Context(), "low", "unpacking low"))
		must(t, s.Commit(t.Context(), "middle", "unpacking middle", withParent("low")))
		must(t, s.Commit(t.Context(), "high", "unpacking high", withParent("middle")))
		view, err := s.View(t.Context(), "view", "high")
		must(t, err)
		active, err := s.Prepare(t.Context(), "container", "high")
		must(t, err)
		for key, mounts := range map[string][]mount.Mount{"view": view, "container": active} {
			if diff := gocmp.Diff(unpacked, tree(t, mountAt(t, mounts))); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", key, filepath.Base(s.root), diff)
			}
		}
	})
	compare(t, p, "what is there", func(s side) []snapshots.Info { return s.infos(t) })
	compare(t, p, "Mounts of the container", func(s side) []mount.Mount {
		mounts, err := s.Mounts(t.Context(), "container")
		must(t, err)
		return s.normal(t, mounts)
	})
	// They stand on each other: none but the highest can go.
	for _, m := range []misuse{remove("low"), remove("middle")} {
		compare(t, p, m.name, func(s side) string { return class(m.call(t.Context(), s)) })
	}
}

// A container that changes, removes and replaces what is below becomes a layer that shows
// the same, and leaves what is below as it was.
func TestCommitOfAContainer(t *testing.T) {
	s := openOurs(t)
	mounts, err := s.Prepare(t.Context(), "first", "")
	must(t, err)
	unpacking["low"](t, mountAt(t, mounts))
	must(t, s.Commit(t.Context(), "low", "first"))

	mounts, err = s.Prepare(t.Context(), "second", "low")
	must(t, err)
	dir := mountAt(t, mounts)
	must(t, os.Remove(filepath.Join(dir, "removed")))
	must(t, os.RemoveAll(filepath.Join(dir, "gone")))
	must(t, os.RemoveAll(filepath.Join(dir, "opaque")))
	write(t, dir, "changed", "second", "opaque/above", "second")
	want := tree(t, dir)
	must(t, mount.UnmountAll(dir, 0))
	must(t, s.Commit(t.Context(), "high", "second"))

	below := viewOf(t, s, "low")
	if got := tree(t, below); got["removed"] != "low" || got["opaque/below"] != "low" {
		t.Errorf("what is below has changed: %v", got)
	}
	if diff := gocmp.Diff(want, tree(t, viewOf(t, s, "high"))); diff != "" {
		t.Errorf("the layer is not what the container was (-want +got):\n%s", diff)
	}
	// A view of one layer is that layer, read only.
	if err := os.WriteFile(filepath.Join(below, "file"), nil, 0o600); err == nil {
		t.Error("a view can be written to")
	}
}

// viewOf mounts a view of a layer.
func viewOf(t *testing.T, s side, name string) string {
	t.Helper()
	mounts, err := s.View(t.Context(), "view of "+name, name)
	must(t, err)
	return mountAt(t, mounts)
}

// A parent can be given at commit only where there is none, and must be committed; else
// the snapshot stays active, and can be committed after all.
func TestRebaseThatIsRefused(t *testing.T) {
	p := openPair(t, config{})
	p.both(t, fill)
	for _, m := range []misuse{
		commit("new", "onLow", withParent("high")),
		commit("new", "active", withParent("missing")),
		commit("new", "active", withParent("onLow")),
	} {
		compare(t, p, m.name, func(s side) string {
			err := m.call(t.Context(), s)
			if err == nil {
				t.Errorf("%s has worked", m.name)
			}
			return class(err)
		})
	}
	p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error {
		return s.Commit(ctx, "same", "onLow", withParent("low")) // the one it has
	})
	p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error {
		return s.Commit(ctx, "rebased", "active", withParent("same"))
	})
	compare(t, p, "what is there", func(s side) []snapshots.Info { return s.infos(t) })
}

// With WithRemapIDs, a container with another user as root sees the layers below, which
// belong to root, and what it writes itself, as its own, as with containerd.
func TestRemappedMount(t *testing.T) {
	p := openPair(t, config{remapIDs: true})
	if ok, err := overlayutils.SupportsIDMappedMounts(); !ok {
		t.Skipf("the kernel can't map identifiers in mounts of overlayfs: %v", err)
	}
	compare(t, p, "the owners", func(s side) map[string]owned {
		mounts, err := s.Prepare(t.Context(), "unpacking", "")
		must(t, err)
		unpacking["low"](t, upperOf(mounts))
		must(t, s.Commit(t.Context(), "low", "unpacking"))
		mounts, err = s.Prepare(t.Context(), "container", "low", snapshots.WithLabels(mappings["mapping"]))
		must(t, err)
		dir := mountAt(t, mounts)
		must(t, os.Mkdir(filepath.Join(dir, "mine"), 0o755))
		must(t, os.Chown(filepath.Join(dir, "mine"), 1000, 2000)) // the container's root
		found := map[string]owned{"written": ownedBy(t, filepath.Join(upperOf(mounts), "mine"))}
		for _, name := range []string{".", "kept", "gone", "mine"} {
			found[name] = ownedBy(t, filepath.Join(dir, name))
		}
		if got := found["kept"]; got.UID != 1000 || got.GID != 2000 {
			t.Errorf("a file of root belongs to %d:%d in the container, want 1000:2000", got.UID, got.GID)
		}
		return found
	})
}

// With WithRemapIDs, the root of a container owns the layers that it sees and what it writes, whatever it stands on:
// in a view, and in an active snapshot, where it can write. containerd's own snapshotter maps no view of one layer,
// and maps twice what stands on nothing.
func TestRemappedMounts(t *testing.T) {
	needNewest(t) // core/mount, too
	s := openOurs(t, overlay.WithRemapIDs)
	if ok, err := overlayutils.SupportsIDMappedMounts(); !ok {
		t.Skipf("the kernel can't map identifiers in mounts of overlayfs: %v", err)
	}
	for parents, parent := range []string{"", "layer1", "layer2"} {
		if parent != "" {
			mounts, err := s.Prepare(t.Context(), "making", []string{"", "layer1"}[parents-1])
			must(t, err)
			must(t, os.WriteFile(filepath.Join(upperOf(mounts), parent), nil, 0o600))
			must(t, s.Commit(t.Context(), parent, "making"))
		}
		for kind, make := range map[string]func(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error){"active": s.Prepare, "view": s.View} {
			t.Run(fmt.Sprintf("%s/%dParents", kind, parents), func(t *testing.T) {
				mounts, err := make(t.Context(), kind+parent, parent, snapshots.WithLabels(mappings["mapping"]))
				must(t, err)
				dir := mountAt(t, mounts)
				if kind == "active" {
					writeAs(t, dir, "mine", 1000, 2000)
				} else if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
					t.Errorf("writing to a view says %v, want EROFS", err)
				}
				found := map[string]string{".": "1000:2000"}
				entries, err := os.ReadDir(dir)
				must(t, err)
				for _, e := range entries {
					found[e.Name()] = ""
				}
				want := parents
				if kind == "active" {
					want++
				}
				if len(entries) != want {
					t.Errorf("it has %v, want %d files", entries, want)
				}
				for name := range found {
					if got := ownedBy(t, filepath.Join(dir, name)); got.UID != 1000 || got.GID != 2000 {
						t.Errorf("%s belongs to %d:%d, want 1000:2000", name, got.UID, got.GID)
					}
				}
			})
		}
	}
}

// writeAs makes a file as another user.
func writeAs(t *testing.T, dir, name string, uid, gid int) {
	t.Helper()
	at, err := os.Open(dir)
	must(t, err)
	defer at.Close() //nolint:errcheck // it was only read
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // which ends with it
		if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
			done <- err
			return
		}
		fd, err := unix.Openat(int(at.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Close(fd)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Errorf("the container's root can't write: %v", err)
	}
}
