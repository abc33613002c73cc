//go:build linux

// Package files deletes, measures, syncs and copies trees of files, and crosses no mount on
// the way, not one of the same filesystem either: what is mounted below is another's. It goes by
// descriptors, so that paths may have any length, and a directory that is replaced by a symlink
// meanwhile leads nowhere else.
package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrMounted: something is mounted there.
var ErrMounted = errors.New("something is mounted on it")

// deepest is how many directories above the one that is looked at are kept open.
const deepest = 100

// dir is an open directory of a tree.
type dir struct {
	parent *dir // nil for the one above the tree
	name   string
	depth  int
	fd     int // -1 while it is closed, far above the one that is looked at
	mount  string
	is     unix.Stat_t
}

// openTree opens the directory above a tree, whatever is mounted there.
func openTree(path string) (above *dir, name string, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, "", err
	}
	d := &dir{name: filepath.Dir(path)}
	d.fd, err = openat(unix.AT_FDCWD, d.name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", d.failed("open", "", err)
	}
	return d, filepath.Base(path), nil
}

// path is for messages: it may be longer than what a system call takes.
func (d *dir) path(name string) string {
	names := []string{name}
	for ; d != nil; d = d.parent {
		names = append(names, d.name)
	}
	slices.Reverse(names)
	return strings.TrimSuffix(strings.Join(names, "/"), "/")
}

func (d *dir) failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: d.path(name), Err: err}
}

func (d *dir) close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd) // it was only read
	}
	d.fd = -1
}

// down opens the directory name in d, which must be left by up or close. It is ErrMounted where something is mounted on it, and
// unix.ENOTDIR or unix.ELOOP where it is no directory.
func (d *dir) down(name string) (*dir, error) {
	child := &dir{parent: d, name: name, depth: d.depth + 1}
	var err error
	child.fd, child.mount, err = d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		err = child.failed("stat", "", retry(func() error { return unix.Fstat(child.fd, &child.is) }))
	}
	if err != nil {
		child.close()
		return nil, err
	}
	if child.depth > deepest {
		d.close()
	}
	return child, nil
}

// up closes d, and opens the directory above again if that was closed. After an error that one stays
// closed: what d is in by now may be any other directory.
func (d *dir) up() error {
	defer d.close()
	above := d.parent
	if above.fd >= 0 {
		return nil
	}
	var err error
	if above.fd, err = openat(d.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return above.failed("open", "", fmt.Errorf("%w: %v", errMoved, err))
	}
	var now unix.Stat_t
	if err := retry(func() error { return unix.Fstat(above.fd, &now) }); err != nil {
		above.close()
		return above.failed("stat", "", fmt.Errorf("%w: %v", errMoved, err))
	}
	if now.Dev != above.is.Dev || now.Ino != above.is.Ino {
		above.close()
		return above.failed("open", "", errMoved)
	}
	return nil
}

// errMoved: what is left to be done in a directory can't be found any more.
var errMoved = errors.New("a directory in it was moved meanwhile")

// unsupported says what the kernel does not know, or a filter forbids. Tests set it.
var unsupported struct {
	openat2   atomic.Bool
	mountRoot atomic.Bool
}

// open opens name in d, no symlink, and returns which mount it is on where that can't be told
// otherwise. It is ErrMounted where that is another than d's.
func (d *dir) open(name string, flags int) (fd int, mount string, err error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	}
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS}
	if !unsupported.openat2.Load() {
		err = retry(func() (err error) { fd, err = unix.Openat2(d.fd, name, &how); return err })
		switch {
		case err == nil:
			return fd, "", nil
		case errors.Is(err, unix.EXDEV):
			return -1, "", d.failed("open", name, ErrMounted)
		case !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM):
			return -1, "", d.failed("open", name, err)
		}
		if errors.Is(err, unix.ENOSYS) {
			unsupported.openat2.Store(true)
		}
	}
	if fd, err = openat(d.fd, name, flags, 0); err != nil {
		return -1, "", d.failed("open", name, err)
	}
	mount, err = mountOf(fd)
	if err == nil && d.mount == "" {
		d.mount, err = mountOf(d.fd)
	}
	if err == nil && mount != d.mount {
		err = ErrMounted
	}
	if err != nil {
		_ = unix.Close(fd) // it was only opened
		return -1, "", d.failed("open", name, err)
	}
	return fd, mount, nil
}

// stat returns what name in d is, a symlink too. It is ErrMounted where something is mounted on it.
func (d *dir) stat(name string) (*unix.Statx_t, error) {
	is := &unix.Statx_t{}
	err := retry(func() error {
		return unix.Statx(d.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, is)
	})
	switch {
	case err != nil:
	case is.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || unsupported.mountRoot.Load():
		var fd int
		if fd, _, err = d.open(name, unix.O_PATH); err != nil {
			return nil, err
		}
		err = unix.Close(fd)
	case is.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0:
		err = ErrMounted
	}
	if err != nil {
		return nil, d.failed("stat", name, err)
	}
	return is, nil
}

// names returns what is in d.
func (d *dir) names() ([]string, error) {
	var names []string
	if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
		return nil, d.failed("read", "", err)
	}
	buffer := make([]byte, 32<<10)
	for {
		n := 0
		err := retry(func() (err error) { n, err = unix.Getdents(d.fd, buffer); return err })
		if err != nil {
			return nil, d.failed("read", "", err)
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}

// mountOf returns the identifier of the mount that an open file is on.
func mountOf(fd int) (string, error) {
	data, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(data) {
		if id, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return string(bytes.TrimSpace(id)), nil
		}
	}
	return "", fmt.Errorf("/proc/self/fdinfo/%d does not tell the mount", fd)
}

func openat(at int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() (err error) { fd, err = unix.Openat(at, name, flags|unix.O_CLOEXEC, mode); return err })
	if err != nil {
		fd = -1
	}
	return fd, err
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR { //nolint:errorlint // of a system call
			return err
		}
	}
}

// gone reports whether an error says that there is nothing of that name any more, or that it is something
// else by now.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}
