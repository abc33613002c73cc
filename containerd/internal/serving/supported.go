//go:build linux

package serving

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

// ErrUnsupported: the kernel has no overlayfs, or none over this filesystem.
var ErrUnsupported = errors.New("overlayfs is not supported")

// Supported returns nil where an overlay can be mounted in root, and ErrUnsupported where
// none ever can until the machine or the filesystem is another. Any other error says nothing
// of that. A crash may leave a directory with a mount in it.
func Supported(root string) error {
	if typed, err := fs.SupportsDType(root); err != nil {
		return err
	} else if !typed {
		return fmt.Errorf("%w: the filesystem has no d_type", ErrUnsupported)
	}
	err := overlayutils.Supported(root)
	for _, refusal := range []error{unix.ENODEV, unix.EINVAL, unix.EOPNOTSUPP} { // no overlayfs; not over this filesystem
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
	}
	return err
}
