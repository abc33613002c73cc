package lock

import (
	"errors"
	"os"
	"syscall"

	"github.com/gofrs/flock"
)

// open returns a new, unlocked flock.Flock, which is to be locked once. A new
// one each time, since the kernel excludes open files from one another, not
// goroutines. Without O_CREATE, since a lock on what was just created would
// exclude nobody; read-only, since a directory can't be opened otherwise.
func open(path string) *flock.Flock {
	return flock.New(path, flock.SetFlag(os.O_RDONLY))
}

// try returns the lock, or nil if someone else holds it.
func try(path string, attempt func(*flock.Flock) (bool, error)) (*flock.Flock, error) {
	f := open(path)
	var ok bool
	err := retryEINTR(func() (err error) {
		ok, err = attempt(f)
		return err
	})
	if err != nil || !ok {
		return nil, err
	}
	return f, nil
}

// block waits in flock(2) until it is granted the exclusive lock. As the file
// may have been renamed or removed meanwhile, it then locks what path names by
// now, if that is another.
func block(path string) grant {
	for {
		f := open(path)
		if err := retryEINTR(f.Lock); err != nil {
			return grant{err: err}
		}
		locked, err := f.Stat()
		if err == nil {
			var named os.FileInfo
			named, err = os.Stat(path)
			if err == nil && os.SameFile(locked, named) {
				return grant{held: f}
			}
		}
		if err = errors.Join(err, unlock(f)); err != nil {
			return grant{err: err}
		}
	}
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
