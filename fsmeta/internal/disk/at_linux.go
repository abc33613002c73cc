package disk

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// enterFlags opens a directory for nothing but calls relative to it, whether or not it may
// be read.
const enterFlags = unix.O_PATH

// open opens an entry. The descriptor is not passed on to other programs.
func (a At) open(name string, flags int, perm uint32) (fd int, err error) {
	err = retry(func() (err error) { fd, err = unix.Openat(a.fd, name, flags|unix.O_CLOEXEC, perm); return err })
	return fd, err
}

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
	if err != nil {
		return nil, a.pathError("open", name, err)
	}
	stat, err := a.statRegular(fd, name)
	if err != nil {
		return nil, err
	}
	return a.readAndClose(fd, name, stat.Size, max)
}

func renameNew(from int, old string, to int, name string) error {
	return unix.Renameat2(from, old, to, name, unix.RENAME_NOREPLACE)
}

func renameExchange(from int, old string, to int, name string) error {
	return unix.Renameat2(from, old, to, name, unix.RENAME_EXCHANGE)
}
