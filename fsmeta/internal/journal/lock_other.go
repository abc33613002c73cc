//go:build !linux

package journal

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Without locks of open file descriptions, flock does: it cannot be asked for, so that a
// reader takes it shared for an instant.

func (f *File) tryLock() (bool, error) { return f.flock(unix.LOCK_EX | unix.LOCK_NB) }

func (f *File) unlock() error {
	_, err := f.flock(unix.LOCK_UN)
	return err
}

// heldByOther takes the lock for an instant. Two callers at a time are one holder, which does no
// harm.
func (f *File) heldByOther() (bool, error) {
	free, err := f.flock(unix.LOCK_SH | unix.LOCK_NB)
	if err != nil || !free {
		return err == nil, err
	}
	return false, f.unlock()
}

func (f *File) flock(how int) (bool, error) {
	err := f.control(func(fd uintptr) error { return unix.Flock(int(fd), how) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
