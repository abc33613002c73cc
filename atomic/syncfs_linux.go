package atomic

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

func syncFilesystem(f *os.File) error {
	return control(f, "syncfs", func(fd int) error {
		var stat unix.Statfs_t
		if err := retryEINTR(func() error { return unix.Fstatfs(fd, &stat) }); err != nil {
			return fmt.Errorf("%w on a filesystem that can't be told: %w", errors.ErrUnsupported, err)
		}
		switch int64(stat.Type) {
		case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		default: // overlayfs looks for errors in the wrong place, FUSE may do nothing at all
			return errors.ErrUnsupported
		}
		if !syncfsReports() {
			return errors.ErrUnsupported
		}
		return unix.Syncfs(fd)
	})
}

// syncfsReports reports whether syncfs tells of everything that could not be written: of
// data since Linux 5.8, of the rest since 5.17.
var syncfsReports = sync.OnceValue(func() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 5 || major == 5 && minor >= 17
})
