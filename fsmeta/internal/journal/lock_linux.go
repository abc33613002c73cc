package journal

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// tryLock takes a lock of the open file description, on all bytes, now and later.
func (f *File) tryLock() (bool, error) {
	_, err := f.ofd(unix.F_OFD_SETLK, unix.F_WRLCK)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

func (f *File) unlock() error {
	_, err := f.ofd(unix.F_OFD_SETLK, unix.F_UNLCK)
	return err
}

// heldByOther asks for a lock that would keep this descriptor from reading: a writer's lock of
// another description. The file need not be open for writing.
func (f *File) heldByOther() (bool, error) {
	found, err := f.ofd(unix.F_OFD_GETLK, unix.F_RDLCK)
	return found == unix.F_WRLCK, err
}

// ofd makes one call about a lock on the whole file, and returns the type that it answers.
func (f *File) ofd(command int, kind int16) (int16, error) {
	lock := unix.Flock_t{Type: kind, Whence: io.SeekStart}
	err := f.control(func(fd uintptr) error { return unix.FcntlFlock(fd, command, &lock) })
	return lock.Type, err
}
