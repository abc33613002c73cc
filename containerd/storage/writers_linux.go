package storage

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// openForWriting reports whether a process has the file open for writing: the kernel grants no lease
// then. False means that there is none, or that the filesystem has no leases. It is an error where this process
// may have no lease, since the file belongs to another user and it has not the capability CAP_LEASE.
func openForWriting(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	conn, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var errno syscall.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETLEASE, syscall.F_RDLCK)
		if errno == 0 {
			// At once: another process that opens it waits for that.
			_, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_SETLEASE, syscall.F_UNLCK)
		}
	})
	if errno == syscall.EACCES {
		err = errors.Join(err, fmt.Errorf("whether a process has %s open for writing can't be told: do this as the owner of the file, or with the capability CAP_LEASE: %w", path, errno))
	}
	return errno == syscall.EAGAIN, err
}
