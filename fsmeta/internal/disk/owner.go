package disk

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Owner is the user that a store belongs to. What this process makes in the store is handed
// to that user where the process runs as another (root).
type Owner struct {
	UID, GID int
	Hand     bool // this process runs as another user: hand over what it makes
}

// OwnerOf returns the owner of an open directory.
func OwnerOf(dir *os.File) (Owner, error) {
	var stat unix.Stat_t
	if err := retry(func() error { return unix.Fstat(int(dir.Fd()), &stat) }); err != nil {
		return Owner{}, &fs.PathError{Op: "stat", Path: dir.Name(), Err: err}
	}
	return Owner{UID: int(stat.Uid), GID: int(stat.Gid), Hand: int(stat.Uid) != os.Geteuid()}, nil
}

// Give hands an open file over, if need be. Its error names the path. A crash leaves the
// file with the one owner or the other; an error leaves it with this process.
func (o Owner) Give(f *os.File) error { return o.give(int(f.Fd()), f.Name()) }

func (o Owner) give(fd int, path string) error {
	if !o.Hand {
		return nil
	}
	if err := retry(func() error { return unix.Fchown(fd, o.UID, o.GID) }); err != nil {
		return &fs.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}

// GiveAt hands over an entry of a directory, a symlink itself rather than its target, if
// need be. A crash leaves the one owner or the other; an error leaves this process.
func (o Owner) GiveAt(at At, name string) error {
	if !o.Hand {
		return nil
	}
	return at.call("chown", name, func() error { return unix.Fchownat(at.fd, name, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW) })
}
