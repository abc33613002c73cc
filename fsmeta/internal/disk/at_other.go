//go:build !linux

package disk

import "golang.org/x/sys/unix"

const enterFlags = unix.O_RDONLY

// open opens an entry. The descriptor is not passed on to other programs.
func (a At) open(name string, flags int, perm uint32) (fd int, err error) {
	err = retry(func() (err error) { fd, err = unix.Openat(a.fd, name, flags|unix.O_CLOEXEC, perm); return err })
	if err == unix.EMLINK && flags&unix.O_NOFOLLOW != 0 {
		err = unix.ELOOP // FreeBSD has this for a symlink, and it is no lack of room
	}
	return fd, err
}

func (a At) readBelow(entry, file, _ string, max int64) ([]byte, error) {
	return a.readInSteps(entry, file, max)
}

func renameNew(int, string, int, string) error { return unix.ENOSYS }

func renameExchange(int, string, int, string) error { return unix.ENOSYS }
