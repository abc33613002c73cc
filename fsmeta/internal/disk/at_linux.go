package disk

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// enterFlags opens a directory for nothing but calls relative to it, whether or not it may
// be read.
const enterFlags = unix.O_PATH

// noOpenat2 is set where the kernel does not know the call or a filter forbids it.
var noOpenat2 atomic.Bool

// readBelow reads entry/file, which is name, in one call of open if it can be.
func (a At) readBelow(entry, file, name string, max int64) ([]byte, error) {
	if noOpenat2.Load() {
		return a.readInSteps(entry, file, max)
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	}
	var fd int
	err := retry(func() (err error) { fd, err = unix.Openat2(a.fd, name, &how); return err })
	if err == unix.ENOSYS || err == unix.EPERM {
		noOpenat2.Store(true)
		return a.readInSteps(entry, file, max)
	}
	return a.readOpen(fd, name, max, err)
}

const (
	renameNoReplace = unix.RENAME_NOREPLACE
	renameExchange  = unix.RENAME_EXCHANGE
)

func renameat2(from int, old string, to int, name string, flags uint) error {
	return unix.Renameat2(from, old, to, name, flags)
}
