//go:build linux

package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// mountsFrom reads mounts as the kernel lists them.
func mountsFrom(t *testing.T, text string) []*mountinfo.Info {
	t.Helper()
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(text), nil)
	must(t, err)
	return mounts
}

func TestMountsOf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snap shots") // with a blank, which the kernel escapes
	must(t, os.MkdirAll(filepath.Join(dir, "7", "fs"), 0o700))
	list := strings.NewReplacer("DIR", strings.ReplaceAll(dir, " ", `\040`)).Replace(`22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
23 22 0:20 / /proc rw - proc proc rw
30 22 0:40 / /upper rw - overlay overlay rw,lowerdir=/a:/b,upperdir=DIR/3/fs,workdir=DIR/3/work
31 22 0:41 / /lower rw - overlay overlay ro,lowerdir=/a:DIR/3/fs:DIR/2/fs
32 22 0:42 / /relative rw - overlay overlay rw,lowerdir=9/fs:7/fs,upperdir=DIR/8/fs,workdir=DIR/8/work,index=off
33 22 0:43 / /added rw - overlay overlay ro,lowerdir+=/x,lowerdir+=DIR/3/fs
34 22 8:1 DIR/5 /bound rw - ext4 /dev/sda1 rw
35 22 0:44 / DIR/6 rw - tmpfs tmpfs rw
40 22 0:45 / /other rw - overlay overlay rw,lowerdir=/a:DIR2/3/fs,upperdir=/x,workdir=/y
41 22 0:46 / /missing rw - overlay overlay ro,lowerdir=7/fs:8/fs
46 22 0:49 / /another rw - overlay overlay rw,lowerdir=9/fs:7/fs,upperdir=/other/8/fs,workdir=/other/8/work,index=off
42 22 8:1 DIR2/5 /bound2 rw - ext4 /dev/sda1 rw
43 22 8:2 DIR/5 /bound3 rw - ext4 /dev/sda2 rw
44 22 0:47 / DIR2/6 rw - tmpfs tmpfs rw
45 22 0:48 / /named rw - tmpfs DIR rw
`)
	want := []string{"/upper", "/lower", "/relative", "/added", "/bound", dir + "/6"}
	if got := mountsOf(mountsFrom(t, list), dir); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := mountsOf(mountsFrom(t, list), filepath.Join(t.TempDir(), "none")); got != nil {
		t.Errorf("of another directory there is %q", got)
	}
	// Where the directory is on a filesystem of its own, of which a part is mounted.
	list = strings.NewReplacer("DIR", strings.ReplaceAll(dir, " ", `\040`), "TOP", strings.ReplaceAll(filepath.Dir(dir), " ", `\040`)).Replace(`22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:2 /part TOP rw - btrfs /dev/sdb rw
34 22 8:2 /part/snap\040shots/5 /bound rw - btrfs /dev/sdb rw
35 22 8:2 /snap\040shots/5 /other rw - btrfs /dev/sdb rw
36 22 8:2 / /whole rw - btrfs /dev/sdb rw
`)
	if got, want := mountsOf(mountsFrom(t, list), dir), []string{"/bound"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func mountsNow(t *testing.T) []*mountinfo.Info {
	t.Helper()
	mounts, err := mountinfo.GetMounts(nil)
	must(t, err)
	return mounts
}

// mounted mounts until the test ends.
func mounted(t *testing.T, source, target, fstype string, flags uintptr, data string) {
	t.Helper()
	must(t, os.MkdirAll(target, 0o700))
	err := syscall.Mount(source, target, fstype, flags, data)
	if errors.Is(err, syscall.EPERM) {
		t.Skip("can't mount: ", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, syscall.Unmount(target, syscall.MNT_DETACH)) })
}

func TestRefusesMounts(t *testing.T) {
	for _, through := range []string{"", "link"} {
		for name, mount := range map[string]func(t *testing.T, content, target string){
			"overlay": func(t *testing.T, content, target string) {
				must(t, os.MkdirAll(filepath.Join(content, "1", "work"), 0o700))
				mounted(t, "overlay", target, "overlay", 0, "lowerdir="+content+"/2/fs,upperdir="+content+"/1/fs,workdir="+content+"/1/work")
			},
			"layers": func(t *testing.T, content, target string) {
				mounted(t, "overlay", target, "overlay", 0, "lowerdir="+content+"/2/fs:"+content+"/1/fs")
			},
			"relative layers": func(t *testing.T, content, target string) {
				other := filepath.Join(t.TempDir(), "other")
				for _, layer := range []string{"1/fs", "2/fs"} {
					must(t, os.MkdirAll(filepath.Join(other, layer), 0o700))
				}
				t.Chdir(other)
				mounted(t, "overlay", target+"-other", "overlay", 0, "lowerdir=2/fs:1/fs")
				if users := mountsOf(mountsNow(t), content); users != nil {
					t.Errorf("another's mounts count: %q", users)
				}
				t.Chdir(content)
				mounted(t, "overlay", target, "overlay", 0, "lowerdir=2/fs:1/fs")
				t.Chdir("/")
			},
			"bind": func(t *testing.T, content, target string) {
				mounted(t, content+"/2/fs", target, "", syscall.MS_BIND, "")
			},
		} {
			t.Run(name+through, func(t *testing.T) {
				n := newNode(t, "overlayfs")
				o := n.options()
				if through != "" {
					o.ContainerdRoot += "-link"
					must(t, os.Symlink("containerd", o.ContainerdRoot))
				}
				target := filepath.Join(t.TempDir(), "rootfs")
				mount(t, n.paths().oldContent(), target)
				before := tree(t, o.ContainerdRoot)
				err := Run(t.Context(), o, nil)
				if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), target) {
					t.Errorf("got %v", err)
				}
				if after := tree(t, o.ContainerdRoot); len(after) != len(before) || exists(o.Root) {
					t.Error("something changed")
				}
			})
		}
	}
}

// On the same filesystem, but behind another mount, a rename is not possible either: that is said before anything
// is made.
func TestAnotherMount(t *testing.T) {
	n := newNode(t, "native")
	want, wantCollected := n.expected(false), n.expected(true)
	o := n.options()
	o.Root = filepath.Join(n.dir, "bound", "fsmeta")
	must(t, os.MkdirAll(filepath.Join(n.dir, "there"), 0o700))
	mounted(t, filepath.Join(n.dir, "there"), filepath.Dir(o.Root), "", syscall.MS_BIND, "")
	n.refuse(t, o, errdefs.IsFailedPrecondition, "not in the same mount")
	if exists(o.Root) {
		t.Error("it was made")
	}
	must(t, Run(t.Context(), n.options(), nil))
	n.check(want, wantCollected)
}

// Nor is it where containerd's directory of the snapshotter, or of the content, is a mount: of the same filesystem, or
// another one. Nothing is made, and what the error says to do helps.
func TestContainerdsDirectoryIsAMount(t *testing.T) {
	for name, below := range map[string]string{"snapshotter": "", "content": "snapshots"} {
		for _, filesystem := range []string{"same", "tmpfs"} {
			t.Run(name+"/"+filesystem, func(t *testing.T) {
				n := newNode(t, "overlayfs")
				want, wantCollected := n.expected(false), n.expected(true)
				dir, away := filepath.Join(n.paths().oldDir(), below), filepath.Join(n.dir, "away")
				must(t, os.Rename(dir, away))
				must(t, os.Mkdir(dir, 0o700))
				if filesystem == "same" {
					must(t, syscall.Mount(away, dir, "", syscall.MS_BIND, ""))
				} else {
					must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, ""))
					must(t, os.CopyFS(dir, os.DirFS(away)))
				}
				unmount := sync.OnceFunc(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
				t.Cleanup(unmount)
				n.refuse(t, n.options(), errdefs.IsFailedPrecondition, dir+" is a mount of its own")
				if exists(n.options().Root) {
					t.Error("a root was made")
				}
				if below != "" || filesystem != "same" {
					return
				}
				unmount()
				must(t, os.Remove(dir))
				must(t, os.Symlink(away, dir))
				o := n.options()
				o.Root = filepath.Join(away, "fsmeta")
				must(t, Run(t.Context(), o, nil))
				if exists(n.options().Root) || !exists(filepath.Join(o.Root, "snapshots")) {
					t.Error("the content is not in the new root")
				}
				must(t, os.Mkdir(filepath.Dir(n.options().Root), 0o700))
				must(t, os.Symlink(o.Root, n.options().Root)) // where check looks
				n.check(want, wantCollected)
			})
		}
	}
}

func TestAnotherFilesystem(t *testing.T) {
	n := newNode(t, "native")
	mounted(t, "tmpfs", filepath.Join(n.dir, "lib"), "tmpfs", 0, "")
	n.refuse(t, n.options(), errdefs.IsFailedPrecondition, "not on the same filesystem")
	if exists(n.options().Root) {
		t.Error("it was made")
	}
}
