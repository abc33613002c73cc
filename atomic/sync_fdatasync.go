//go:build aix || linux || solaris

package atomic

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func syncData(f *os.File) error { return control(f, "fdatasync", unix.Fdatasync) }

// control runs a system call on f's descriptor.
func control(f *os.File, op string, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return &os.PathError{Op: op, Path: "", Err: err} // f is nil
	}
	var callErr error
	// Control, not f.Fd: it keeps f from being closed meanwhile, and fails only
	// where f was closed before.
	if conn.Control(func(fd uintptr) {
		callErr = retryEINTR(func() error { return call(int(fd)) })
	}) != nil {
		callErr = fs.ErrClosed
	}
	if callErr != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: callErr}
	}
	return nil
}
