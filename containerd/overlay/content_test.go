//go:build linux

package overlay_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// owned is what is said of a directory.
type owned struct {
	UID, GID uint32
	Mode     os.FileMode
}

func ownedBy(t *testing.T, path string) owned {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	return owned{stat.Uid, stat.Gid, info.Mode()}
}

func mapping(uids, gids string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotUIDMapping: uids, snapshots.LabelSnapshotGIDMapping: gids,
	})
}

// The upper directory belongs to the user that the labels map root to, else to the owner of the parent's
// belongs, by now, else to root; the work directory to root. All as with containerd.
func TestOwnership(t *testing.T) {
	p := openPair(t, config{})
	for _, test := range []struct {
		name, parent string
		labels       []snapshots.Opt
		want         [2]uint32
	}{
		{"none", "", nil, [2]uint32{0, 0}},
		{"mapped", "", []snapshots.Opt{mapping("0:1000:65536", "0:2000:65536")}, [2]uint32{1000, 2000}},
		{"secondPart", "", []snapshots.Opt{mapping("1:5:9,0:1001:1", "10:100:1,0:2001:5")}, [2]uint32{1001, 2001}},
		{"inherited", "mapped", nil, [2]uint32{1000, 2000}},
		{"inheritedTwice", "inherited", nil, [2]uint32{1000, 2000}},
		{"mappedAnew", "mapped", []snapshots.Opt{mapping("0:3000:1", "0:4000:1")}, [2]uint32{3000, 4000}},
		{"mappedToRoot", "mapped", []snapshots.Opt{mapping("0:0:1", "0:0:1")}, [2]uint32{0, 0}},
		{"otherLabels", "mapped", []snapshots.Opt{snapshots.WithLabels(map[string]string{"a": "0:1:1"})}, [2]uint32{1000, 2000}},
	} {
		compare(t, p, test.name, func(s side) []owned {
			mounts, err := s.Prepare(t.Context(), test.name+"-key", test.parent, test.labels...)
			must(t, err)
			upper := upperOf(mounts)
			got := []owned{ownedBy(t, upper), ownedBy(t, filepath.Join(filepath.Dir(upper), "work"))}
			if got[0].UID != test.want[0] || got[0].GID != test.want[1] {
				t.Errorf("%s: it belongs to %d:%d, want %v", test.name, got[0].UID, got[0].GID, test.want)
			}
			must(t, s.Commit(t.Context(), test.name, test.name+"-key"))
			return got
		})
	}
}

// A parent with a directory that was given to another user since carries that on, to views too.
func TestOwnershipOfTheParentNow(t *testing.T) {
	p := openPair(t, config{})
	p.each(func(s side) {
		mounts, err := s.Prepare(t.Context(), "key", "")
		must(t, err)
		must(t, os.Chown(upperOf(mounts), 77, 88))
		must(t, s.Commit(t.Context(), "layer", "key"))
	})
	top := "layer"
	p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error { return commitLayer(ctx, s, "second", top) })
	for _, key := range []string{"active", "view"} {
		compare(t, p, key, func(s side) owned {
			make := s.Prepare
			if key == "view" {
				make = s.View
			}
			_, err := make(t.Context(), key, "second")
			must(t, err)
			return ownedBy(t, newest(t, s)+"/fs")
		})
	}
}

// newest returns the directory of the snapshot that was made last.
func newest(t *testing.T, s side) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
	must(t, err)
	last := ""
	for _, e := range entries {
		if len(e.Name()) > len(last) || len(e.Name()) == len(last) && e.Name() > last {
			last = e.Name()
		}
	}
	return filepath.Join(s.root, "snapshots", last)
}

// The directories that a container sees can be entered by all whatever the umask is, and
// those above by root alone. A view has no work directory.
func TestModesUnderAnyUmask(t *testing.T) {
	requireRoot(t)
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		old := syscall.Umask(umask)
		t.Cleanup(func() { syscall.Umask(old) })
		s := openOurs(t)
		mounts, err := s.Prepare(t.Context(), "key", "")
		syscall.Umask(old)
		must(t, err)
		upper := upperOf(mounts)
		for path, want := range map[string]os.FileMode{
			upper: 0o755,
			filepath.Join(filepath.Dir(upper), "work"): 0o711,
			filepath.Dir(upper):                        0o700 &^ os.FileMode(umask),
			filepath.Join(s.root, "snapshots"):         0o700 &^ os.FileMode(umask),
		} {
			if got := ownedBy(t, path).Mode.Perm(); got != want {
				t.Errorf("with umask %03o %s has the mode %03o, want %03o", umask, path, got, want)
			}
		}
		_, err = s.View(t.Context(), "view", "")
		must(t, err)
		if _, err := os.Stat(filepath.Join(newest(t, s), "work")); !os.IsNotExist(err) {
			t.Errorf("a view has a work directory: %v", err)
		}
	}
}

// A mapping that maps nothing to root, or is none, makes no snapshot and leaves nothing,
// as with containerd, and is said to be an invalid argument that the error shows.
func TestInvalidMappings(t *testing.T) {
	for _, test := range [][2]string{
		{"nonsense", "0:1:1"}, {"0:1:1", "nonsense"}, {"0:1", "0:1:1"}, {"0:1:1", "::"},
		{"0:1:1,", "0:1:1"}, {"-1:1:5", "0:1:1"}, {"0:-5:1", "0:1:1"}, {"0:1:-1", "0:1:1"},
		{"1:1:1", "0:1:1"}, {"0:1:1", "1:1:65535"}, {"0:1:0", "0:1:1"},
		{"0:4294967295:1", "0:1:1"}, {"0:1:1", "0:4294967295:1"}, {"0:4294967296:1", "0:1:1"},
		{"0:99999999999999999999:1", "0:1:1"},
	} {
		t.Run(test[0]+" "+test[1], func(t *testing.T) {
			p := openPair(t, config{})
			p.each(func(s side) {
				_, err := s.Prepare(t.Context(), "key", "", mapping(test[0], test[1]))
				if err == nil {
					t.Errorf("%s: there is no error", filepath.Base(s.root))
				} else if s == p.ours && !errdefs.IsInvalidArgument(err) {
					t.Errorf("Prepare says %v, want invalid argument", err)
				}
				if got := s.infos(t); len(got) > 0 {
					t.Errorf("%s: there is %v", filepath.Base(s.root), got)
				}
				entries, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
				must(t, err)
				if len(entries) > 0 {
					t.Errorf("%s: %v is left", filepath.Base(s.root), entries)
				}
			})
		})
	}
}

// measured is a usage and the class of the error.
type measured struct {
	Usage snapshots.Usage
	Class string
}

// compareUsage compares that of a snapshot with containerd's.
func compareUsage(t *testing.T, p pair, key string) {
	t.Helper()
	compare(t, p, "Usage of "+key, func(s side) measured {
		usage, err := s.Usage(t.Context(), key)
		return measured{usage, class(err)}
	})
}

// Usage of an active snapshot is what its own content takes now, that of a committed one
// what it took when it was committed, whatever happens to its labels or its files later.
func TestUsage(t *testing.T) {
	p := openPair(t, config{})
	p.layers(t, 1)
	uppers := map[string]string{}
	p.each(func(s side) {
		mounts, err := s.Prepare(t.Context(), "key", "layer1")
		must(t, err)
		uppers[s.root] = upperOf(mounts)
	})
	compareUsage(t, p, "key")
	write := func(name string, size int) {
		t.Helper()
		p.each(func(s side) {
			must(t, os.WriteFile(filepath.Join(uppers[s.root], name), make([]byte, size), 0o600))
		})
	}
	write("small", 1)
	write("large", 1<<20)
	p.each(func(s side) { must(t, os.Link(uppers[s.root]+"/large", uppers[s.root]+"/linked")) })
	compareUsage(t, p, "key")
	must(t, p.ours.Commit(t.Context(), "name", "key"))
	must(t, p.theirs.Commit(t.Context(), "name", "key"))
	compareUsage(t, p, "name")
	recorded, err := p.ours.Usage(t.Context(), "name")
	must(t, err)
	if recorded.Size < 1<<20 || recorded.Size >= 2<<20 || recorded.Inodes != 3 {
		t.Errorf("recorded is %+v, want a megabyte once and 3 inodes", recorded)
	}

	write("later", 1<<20)
	p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.Update(ctx, snapshots.Info{Name: "name", Labels: map[string]string{"a": "b"}})
		return err
	})
	compareUsage(t, p, "name")
	if now, err := p.ours.Usage(t.Context(), "name"); err != nil || now != recorded {
		t.Errorf("it is %+v now (%v), and %+v was recorded", now, err, recorded)
	}
	p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.View(ctx, "view", "name")
		return err
	})
	compareUsage(t, p, "view")
	compareUsage(t, p, "missing")
}

// What the root directory of a mount is like, it inherits from the parent: its mode, owner, access control list and
// other attributes, but none of overlayfs's own. So a container sees what the image says.
func TestRootOfAChild(t *testing.T) {
	s := openOurs(t)
	mounts, err := s.Prepare(t.Context(), "making", "")
	must(t, err)
	upper := upperOf(mounts)
	must(t, os.Chown(upper, 12, 34))
	must(t, os.Chmod(upper, 0o555|os.ModeSticky))
	const list = "\x02\x00\x00\x00\x01\x00\x05\x00\xff\xff\xff\xff\x02\x00\x07\x00\x2a\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"
	if err := syscall.Setxattr(upper, "system.posix_acl_access", []byte(list), 0); errors.Is(err, syscall.ENOTSUP) {
		t.Skip("the filesystem has no access control lists")
	} else {
		must(t, err)
	}
	must(t, syscall.Setxattr(upper, "trusted.test", []byte("kept"), 0))
	must(t, syscall.Setxattr(upper, "trusted.overlay.opaque", []byte("y"), 0))
	must(t, s.Commit(t.Context(), "layer", "making"))
	want := ownedBy(t, upper)

	for _, key := range []string{"active", "view"} {
		make := s.Prepare
		if key == "view" {
			make = s.View
		}
		_, err := make(t.Context(), key, "layer")
		must(t, err)
		child := newest(t, s) + "/fs"
		if got := ownedBy(t, child); got != want {
			t.Errorf("the root of the %s is %+v, want %+v", key, got, want)
		}
		for attribute, want := range map[string]string{"system.posix_acl_access": list, "trusted.test": "kept", "trusted.overlay.opaque": ""} {
			value := [100]byte{}
			n, err := syscall.Getxattr(child, attribute, value[:])
			if errors.Is(err, syscall.ENODATA) {
				n, err = 0, nil
			}
			must(t, err)
			if got := string(value[:n]); got != want {
				t.Errorf("%s of the root of the %s is %q, want %q", attribute, key, got, want)
			}
		}
	}
	_, err = s.Prepare(t.Context(), "mapped", "layer", mapping("0:1000:65536", "0:2000:65536"))
	must(t, err)
	if got := ownedBy(t, newest(t, s)+"/fs"); got.UID != 1000 || got.GID != 2000 || got.Mode != want.Mode {
		t.Errorf("with a mapping it is %+v, want its root's, and the mode %v", got, want.Mode)
	}
}
