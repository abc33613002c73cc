//go:build aix || linux || solaris

package atomic

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func syncData(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return &os.PathError{Op: "fdatasync", Path: "", Err: err} // f is nil
	}
	var syncErr error
	// Control, not f.Fd: it keeps f from being closed meanwhile, and fails only
	// where f was closed before.
	if conn.Control(func(fd uintptr) {
		syncErr = retryEINTR(func() error { return unix.Fdatasync(int(fd)) })
	}) != nil {
		syncErr = fs.ErrClosed
	}
	if syncErr != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: syncErr}
	}
	return nil
}
