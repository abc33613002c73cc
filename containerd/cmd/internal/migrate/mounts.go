//go:build linux

package migrate

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
)

// checkMounts refuses mounts that use a directory, as running containers have them. Those of
// other mount namespaces are not seen. Dir need not exist.
func checkMounts(dir string) error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	if users := mountsOf(mounts, dir); len(users) > 0 {
		return fmt.Errorf("%s is in use by %d mounts, %s: stop their containers, or unmount them: %w", dir, len(users), some(users), errdefs.ErrUnavailable)
	}
	return nil
}

// mountsOf returns where something is mounted that is in dir: overlays, bind mounts, and what
// is mounted inside. Where dir is a mount itself, that doesn't count.
func mountsOf(mounts []*mountinfo.Info, dir string) (where []string) {
	dirs := []string{dir}
	if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
		dirs = append(dirs, real)
	}
	home, inHome := homeOf(mounts, dirs[len(dirs)-1])
	for _, m := range mounts {
		bound := home != nil && m != home && m.Major == home.Major && m.Minor == home.Minor && within(m.Root, inHome)
		for _, d := range dirs {
			if bound || within(m.Mountpoint, d) && m.Mountpoint != d || m.FSType == "overlay" && overlayUses(m, d) {
				where = append(where, m.Mountpoint)
				break
			}
		}
	}
	return where
}

// homeOf returns the mount that dir is in, and its path from the root of that filesystem.
func homeOf(mounts []*mountinfo.Info, dir string) (home *mountinfo.Info, path string) {
	for _, m := range mounts {
		if within(dir, m.Mountpoint) && (home == nil || len(m.Mountpoint) >= len(home.Mountpoint)) {
			home = m // the last one covers those before
		}
	}
	if home == nil {
		return nil, ""
	}
	rel, err := filepath.Rel(home.Mountpoint, dir)
	if err != nil {
		return nil, ""
	}
	return home, filepath.Join(home.Root, rel)
}

// overlayUses reports whether an overlay has a layer in dir.
//
// containerd gives long lists of lower layers relative to the directory that they are all
// in, which can't be told afterwards; the upper layer is absolute, and in the same
// directory. Where there is none, the root of the mount has the inode of the first layer.
func overlayUses(m *mountinfo.Info, dir string) bool {
	var layers []string
	for option := range strings.SplitSeq(m.VFSOptions, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir":
			layers = append(layers, strings.Split(unescape(value), ":")...)
		}
	}
	if slices.ContainsFunc(layers, filepath.IsAbs) {
		return slices.ContainsFunc(layers, func(layer string) bool { return filepath.IsAbs(layer) && within(layer, dir) })
	}
	return len(layers) > 0 && sameInode(m.Mountpoint, filepath.Join(dir, layers[0]))
}

// sameInode reports whether two files have the same inode number, wherever they are.
func sameInode(a, b string) bool {
	var x, y syscall.Stat_t
	return syscall.Stat(a, &x) == nil && syscall.Stat(b, &y) == nil && x.Ino == y.Ino
}

var octal = regexp.MustCompile(`\\[0-7]{3}`)

// unescape undoes what the kernel does to blanks and the like in mountinfo.
func unescape(s string) string {
	return octal.ReplaceAllStringFunc(s, func(code string) string {
		n, err := strconv.ParseUint(code[1:], 8, 8)
		if err != nil {
			return code
		}
		return string([]byte{byte(n)})
	})
}
