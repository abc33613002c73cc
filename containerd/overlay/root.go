//go:build linux

package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnfit: no overlay can be mounted from a directory, whatever is in it: its path has a
// colon, a comma or a backslash, which have a meaning in the options of a mount, or it is on
// overlayfs, which takes no upper directory on overlayfs.
var ErrUnfit = errors.New("no overlay can be mounted from it")

// special are the bytes that mean something in the options of an overlay mount.
const special = `:,\`

// CheckRoot returns [ErrUnfit] where [NewSnapshotter] would refuse a root directory, which
// need not exist yet. It changes nothing.
func CheckRoot(root string) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	if i := strings.IndexAny(root, special); i >= 0 {
		return fmt.Errorf("root %s: %w: its path has a %q, which separates the options of a mount: choose a path without", root, ErrUnfit, root[i])
	}
	on, err := filesystem(root)
	if err != nil {
		return fmt.Errorf("root %s: find out on which filesystem it is: %w", root, err)
	}
	if on == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("root %s: %w: it is on overlayfs itself, as in a container: choose a directory on another filesystem, say a volume", root, ErrUnfit)
	}
	return nil
}

// filesystem returns the type of the filesystem that a directory is on, or will be.
func filesystem(dir string) (int64, error) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return int64(s.Type), err //nolint:unconvert // an int32 on some machines
		}
		dir = filepath.Dir(dir)
	}
}
