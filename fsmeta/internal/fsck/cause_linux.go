package fsck

import (
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"

	"golang.org/x/sys/unix"
)

// obstacleAt says what keeps an entry of a directory from being changed by any process, ""
// for nothing or where that can't be told.
func obstacleAt(dir *disk.Dir, entry string) string {
	var is unix.Statx_t
	if unix.Statx(int(dir.File.Fd()), entry, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &is) != nil {
		return ""
	}
	switch {
	case is.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
		return "immutable"
	case is.Attributes&unix.STATX_ATTR_APPEND != 0:
		return "append-only"
	case is.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return mountPoint
	case unix.Faccessat(int(dir.File.Fd()), entry, unix.W_OK, unix.AT_EACCESS) == unix.EACCES:
		return "not writable for this user: permission denied"
	}
	return ""
}

// noRoom says that the filesystem is full, "" where it is not or that can't be told.
func noRoom(dir *disk.Dir) string {
	var is unix.Statfs_t
	if unix.Fstatfs(int(dir.File.Fd()), &is) == nil && (is.Bavail == 0 || is.Files > 0 && is.Ffree == 0) {
		return "the filesystem is full"
	}
	return ""
}
