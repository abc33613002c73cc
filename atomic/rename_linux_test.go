package atomic

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A filesystem that doesn't know a flag of renameat2 says so in one of three ways. Other
// errors are final: the steps could succeed where the one call must not.
func TestUnsupported(t *testing.T) {
	for _, err := range []error{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.ENOTSUP} {
		if !unsupported(err) || !unsupported(&os.LinkError{Op: "rename", Err: err}) {
			t.Errorf("%v is not taken for an unknown flag", err)
		}
	}
	for _, err := range []error{nil, unix.EEXIST, unix.ENOENT, unix.EPERM, unix.EXDEV, unix.EBUSY, unix.ENOSPC} {
		if unsupported(err) {
			t.Errorf("%v is taken for an unknown flag", err)
		}
	}
}
