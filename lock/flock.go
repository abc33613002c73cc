package lock

import (
	"errors"
	"os"
	"syscall"

	"github.com/gofrs/flock"
)

// open returns a new, unlocked flock.Flock, which is to be locked once. A new
// one each time, since the kernel excludes open files from one another, not
// goroutines. Without O_CREATE, since a lock on a file created just now excludes
// no other process; read-only, since a directory can't be opened otherwise.
func open(path string) *flock.Flock {
	return flock.New(path, flock.SetFlag(os.O_RDONLY))
}

// try returns the lock on the file that path names, or nil if it is held
// already. The attempt opens the path and closes it again if the lock isn't
// granted. An error leaves nothing held and nothing open.
func try(path string, attempt func(*flock.Flock) (bool, error)) (*flock.Flock, error) {
	for {
		f := open(path)
		var ok bool
		err := retryEINTR(func() (err error) {
			ok, err = attempt(f)
			return err
		})
		if err != nil || !ok {
			return nil, err
		}
		same, err := inPlace(f, path)
		if same {
			return f, nil
		}
		if err = errors.Join(err, unlock(f)); err != nil {
			return nil, err
		}
	}
}

// inPlace reports whether path still names the file that f has locked. It may
// have been renamed or removed since it was opened.
func inPlace(f *flock.Flock, path string) (bool, error) {
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(locked, named), nil
}

// unlock is LOCK_UN and close. It does nothing if f is not locked.
func unlock(f *flock.Flock) error {
	return retryEINTR(f.Unlock)
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// pathError names op and path, once only where err does so itself.
func pathError(op, path string, err error) error {
	if inner, ok := errors.AsType[*os.PathError](err); ok {
		err = inner.Err
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
