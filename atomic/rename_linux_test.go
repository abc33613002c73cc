package atomic

import (
	"errors"
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

// TryExchange exchanges in one step, or does nothing and says that it can't.
func TestTryExchange(t *testing.T) {
	dir := makeTree(t, "a=1 b/ b/f=2")
	if err := TryExchange(dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	const exchanged = "a/ a/f=2 b=1"
	if got := tree(t, dir); got != exchanged {
		t.Errorf("got %q", got)
	}
	// The kernel has one error for a flag that it does not know and for this.
	if err := TryExchange(dir+"/a", dir+"/a/f"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if got := tree(t, dir); got != exchanged {
		t.Errorf("got %q", got)
	}
}
