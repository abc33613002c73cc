//go:build linux

package files

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Remove deletes path and everything below, and goes on after what can't be deleted. What is mounted on something in
// it stays, with the directories above it: the error is ErrMounted then, and names the first. It
// is no error where nothing is there. A crash or an error leaves a part.
func Remove(path string) error {
	above, name, err := openTree(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer above.close()
	return above.remove(name)
}

// remove deletes what is at name, and returns the first error.
func (d *dir) remove(name string) error {
	err := retry(func() error { return unix.Unlinkat(d.fd, name, 0) })
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return d.failed("remove", name, ErrMounted)
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM): // POSIX allows the latter
		return d.failed("remove", name, err)
	}
	child, derr := d.down(name)
	switch {
	case errors.Is(derr, unix.ENOENT):
		return nil
	case gone(derr): // no directory: it is the first error that counts
		return d.failed("remove", name, err)
	case derr != nil:
		return derr
	}
	first := child.empty()
	if err := child.up(); err != nil { // then nothing more can be done in d
		return errors.Join(first, err)
	}
	if first != nil {
		return first
	}
	err = retry(func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.EBUSY) {
		err = ErrMounted
	}
	return d.failed("remove", name, err)
}

// empty deletes everything in d, and returns the first error. What is made meanwhile is deleted too, if it
// does not come faster.
func (d *dir) empty() (first error) {
	for range 3 {
		names, err := d.names()
		if errors.Is(err, unix.ENOENT) { // another call has deleted it
			err = nil
		}
		if err != nil || len(names) == 0 {
			return errors.Join(first, err)
		}
		for _, name := range names {
			if d.fd < 0 {
				return first // it could not be opened again
			}
			if err := d.remove(name); err != nil && first == nil {
				first = err
			}
		}
		if first != nil {
			return first
		}
	}
	return nil
}
