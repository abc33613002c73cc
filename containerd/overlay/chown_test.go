//go:build linux

package overlay_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
)

// Where the kernel has no idmapped mounts, containerd's client changes the owners of an image in a snapshot on top of it, and
// the container stands on that. With and without slow chown it finds the owners there that containerd's own snapshotter gives them.
func TestChownByTheClient(t *testing.T) {
	for name, c := range map[string]config{"slowChown": {slowChown: true}, "without": {}} {
		t.Run(name, func(t *testing.T) {
			p := openPair(t, c)
			p.each(func(s side) { image(t, s) })
			compare(t, p, "the container's files", func(s side) map[string]owned {
				changeOwners(t, s, "image", "image of a user namespace", 100000)
				mounts, err := s.Prepare(t.Context(), "container", "image of a user namespace", mapping("0:100000:65536", "0:100000:65536"))
				must(t, err)
				owners := owners(t, mountAt(t, mounts))
				for path, uid := range map[string]uint32{".": 100000, "file": 100000, "dir/of5": 100005} {
					if owners[path].UID != uid {
						t.Errorf("%s belongs to %d, want %d", path, owners[path].UID, uid)
					}
				}
				return owners
			})
		})
	}
}

// image makes the committed snapshot image, with files of several owners.
func image(t *testing.T, s side) {
	t.Helper()
	mounts, err := s.Prepare(t.Context(), "making image", "")
	must(t, err)
	upper := upperOf(mounts)
	must(t, os.Mkdir(filepath.Join(upper, "dir"), 0o750))
	must(t, os.WriteFile(filepath.Join(upper, "file"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(upper, "dir", "of5"), []byte("y"), 0o4755))
	must(t, os.Lchown(filepath.Join(upper, "dir", "of5"), 5, 6))
	must(t, s.Commit(t.Context(), "image", "making image"))
}

// changeOwners makes a committed snapshot of another, in which all belongs to users so much higher.
func changeOwners(t *testing.T, s side, parent, name string, by int) {
	t.Helper()
	mounts, err := s.Prepare(t.Context(), name+"-remap", parent)
	must(t, err)
	target := t.TempDir()
	must(t, mount.All(mounts, target))
	must(t, filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		return os.Lchown(path, int(stat.Uid)+by, int(stat.Gid)+by)
	}))
	must(t, mount.UnmountAll(target, 0))
	must(t, s.Commit(t.Context(), name, name+"-remap"))
}

// owners returns to what each path in a directory belongs.
func owners(t *testing.T, dir string) map[string]owned {
	t.Helper()
	found := map[string]owned{}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			name := strings.TrimPrefix(strings.TrimPrefix(path, dir), "/")
			if name == "" {
				name = "."
			}
			found[name] = ownedBy(t, path)
		}
		return err
	}))
	return found
}
