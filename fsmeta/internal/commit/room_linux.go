package commit

import (
	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
)

func onBtrfs(dir *disk.Dir) bool {
	var stat unix.Statfs_t
	var err error = unix.EINTR
	for err == unix.EINTR {
		err = unix.Statfs(dir.Path, &stat)
	}
	return err == nil && int64(stat.Type) == unix.BTRFS_SUPER_MAGIC
}
