package fsck

import (
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"

	"golang.org/x/sys/unix"
)

// obstacleAt says what keeps an entry of a directory from being changed by this process, ""
// for nothing or where that can't be told.
func obstacleAt(dir *disk.Dir, entry string) string {
	switch flag := flagAt(dir, entry); {
	case flag != "":
		return flag
	case dir.IsMount(entry):
		return mountPoint
	case unix.Faccessat(int(dir.File.Fd()), entry, unix.W_OK, unix.AT_EACCESS) == unix.EACCES:
		return "not writable for this user: permission denied"
	}
	return ""
}

// flagAt says which flag keeps every process from changing an entry, "" for none.
func flagAt(dir *disk.Dir, entry string) string {
	var is unix.Statx_t
	err := unix.Statx(int(dir.File.Fd()), entry, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &is)
	switch {
	case err == nil && is.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
		return "immutable"
	case err == nil && is.Attributes&unix.STATX_ATTR_APPEND != 0:
		return "append-only"
	}
	return ""
}

// readOnly reports whether the filesystem of a directory is mounted read-only.
func readOnly(dir *disk.Dir) bool {
	var is unix.Statfs_t
	return unix.Fstatfs(int(dir.File.Fd()), &is) == nil && is.Flags&unix.ST_RDONLY != 0
}

// noRoom says that the filesystem is full, "" where it is not or that can't be told.
func noRoom(dir *disk.Dir) string {
	var is unix.Statfs_t
	if unix.Fstatfs(int(dir.File.Fd()), &is) == nil && (is.Bavail == 0 || is.Files > 0 && is.Ffree == 0) {
		return "the filesystem is full"
	}
	return ""
}
