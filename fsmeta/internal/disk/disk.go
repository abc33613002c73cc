// Package disk makes the system calls below one directory: by descriptor, following no symlink,
// bounded in what it reads, and with the ownership of the store.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"golang.org/x/sys/unix"
)

// Dir is an open directory. Its methods may be called concurrently, also with Close: a
// call that begins after Close returns fs.ErrClosed. None of them writes.
type Dir struct {
	File *os.File // open until Close
	Path string   // for errors

	mu sync.RWMutex // a call holds it for reading, so that Close waits for the call
	fd int          // of File, -1 once it is closed
}

// OpenDir opens the directory at path; a symlink is followed only where follow is true
// (a store's own directory may be reached through one, an entry inside never is).
func OpenDir(path string, follow bool) (*Dir, error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	return openDir(At{fd: unix.AT_FDCWD}, path, path, flags)
}

// OpenDirAt opens a directory inside d: no symlink is followed.
func (d *Dir) OpenDirAt(name string) (*Dir, error) {
	at := d.hold()
	defer d.mu.RUnlock()
	return openDir(at, name, at.join(name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

func openDir(at At, name, path string, flags int) (*Dir, error) {
	fd, err := at.open(name, flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{File: os.NewFile(uintptr(fd), path), Path: path, fd: fd}, nil
}

// Close closes the directory, after the calls that run.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fd = -1
	return d.File.Close()
}

// At returns d for calls that Close does not wait for: the caller does not close d
// meanwhile.
func (d *Dir) At() At { return At{d.fd, d.Path} }

// hold returns d, open until the caller unlocks d.mu for reading.
func (d *Dir) hold() At {
	d.mu.RLock()
	return d.At()
}

// ReadFile reads a regular file of at most max bytes, d/name (name may be "entry/metadata.json":
// then "entry" must be a directory, not a symlink). Another type of file, or a larger one,
// is an error that says so, and nothing of it is read; a pipe or device makes no caller wait.
func (d *Dir) ReadFile(name string, max int64) ([]byte, error) {
	at := d.hold()
	defer d.mu.RUnlock()
	if entry, file, below := strings.Cut(name, "/"); below {
		return at.readBelow(entry, file, name, max)
	}
	return at.ReadFile(name, max)
}

// OpenFile opens a regular file in d for reading. Anything else is an error that is
// [ErrNotRegular], or ELOOP for a symlink.
func (d *Dir) OpenFile(name string) (*os.File, error) {
	at := d.hold()
	defer d.mu.RUnlock()
	fd, err := at.open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, at.pathError("open", name, err)
	}
	f := os.NewFile(uintptr(fd), at.join(name))
	if _, err := fstatRegular(fd); err != nil {
		return nil, errors.Join(at.pathError("open", name, err), f.Close())
	}
	return f, nil
}

// Names returns the entries of d, in no order.
func (d *Dir) Names() ([]string, error) {
	at := d.hold()
	defer d.mu.RUnlock()
	return at.Names()
}

// Lstat looks at an entry of d without following it.
func (d *Dir) Lstat(name string) (Stat, error) {
	at := d.hold()
	defer d.mu.RUnlock()
	return at.Lstat(name)
}

// ErrLarger says that a file has more bytes than it may have.
var ErrLarger = errors.New("larger")

// Exists reports whether an entry of d is there, and whether it is a directory (not a symlink to one).
func (d *Dir) Exists(name string) (there, isDir bool, err error) {
	is, err := d.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	return err == nil, err == nil && is.Type.IsDir(), err
}

// CheckNames refuses a filesystem on which names of so many bytes are too long for entries of d, with a fault.ErrNotStore.
func (d *Dir) CheckNames(bytes int) error {
	at := d.hold()
	defer d.mu.RUnlock()
	var stat unix.Stat_t
	name := strings.Repeat("n", bytes)
	err := retry(func() error { return unix.Fstatat(at.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW) })
	if err == unix.ENAMETOOLONG {
		return fmt.Errorf("%w: the filesystem takes no names of %d bytes, which a store needs: %w", fault.ErrNotStore, bytes, err)
	}
	return nil
}

// Enter opens a directory in d, as [At.Enter] does.
func (d *Dir) Enter(name string) (At, error) {
	at := d.hold()
	defer d.mu.RUnlock()
	return at.Enter(name)
}
