package commit

import (
	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
)

func onBtrfs(dir *disk.Dir) bool {
	var stat unix.Statfs_t
	return unix.Statfs(dir.Path, &stat) == nil && int64(stat.Type) == unix.BTRFS_SUPER_MAGIC
}
