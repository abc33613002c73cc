package storage

import (
	"os"
	"syscall"
)

// openForWriting reports whether a process has the file open for writing: the kernel grants no lease
// then. False means that there is none, or that the filesystem has no leases.
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
	return errno == syscall.EAGAIN, err
}
