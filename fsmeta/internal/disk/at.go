package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// At is a directory for system calls relative to it: a [Dir], or one that was entered for
// a few calls. Names given to its methods are single entries, which are never followed
// where they are symlinks. Errors name operation and path.
type At struct {
	fd   int
	path string
}

// ErrNotRegular is the error of a file that should be regular and is not.
var ErrNotRegular = errors.New("not a regular file")

// Stat is the part of an entry's attributes that the store looks at.
type Stat struct {
	Type  fs.FileMode // the type bits
	Perm  fs.FileMode // the permission bits
	Links uint64
	UID   int
	Size  int64
}

// Plain reports whether a regular file may be overwritten in place: it has no other name
// by which a copy would change with it, and the mode and the owner that it needs.
func (s Stat) Plain(perm fs.FileMode, o Owner) bool {
	return s.Type == 0 && s.Links == 1 && s.Perm == perm && s.UID == o.UID
}

func statOf(s *unix.Stat_t) Stat {
	is := Stat{Perm: fs.FileMode(s.Mode) & fs.ModePerm, Links: uint64(s.Nlink), UID: int(s.Uid), Size: s.Size}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		is.Type = fs.ModeDir
	case unix.S_IFLNK:
		is.Type = fs.ModeSymlink
	default:
		is.Type = fs.ModeIrregular
	}
	return is
}

func (a At) join(name string) string {
	if name == "." {
		return a.path
	}
	return a.path + "/" + name
}

// pathError names what failed, nil for nil.
func (a At) pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if a.fd < 0 && a.fd != unix.AT_FDCWD {
		err = fs.ErrClosed
	}
	return &fs.PathError{Op: op, Path: a.join(name), Err: err}
}

// Enter opens a directory for calls relative to it; the caller closes it. Something else
// is an ENOTDIR, or an ELOOP, and is not opened.
func (a At) Enter(name string) (At, error) {
	fd, err := a.open(name, enterFlags|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return At{}, a.pathError("open", name, err)
	}
	return At{fd, a.join(name)}, nil
}

// Close ends an Enter.
func (a At) Close() error {
	if err := unix.Close(a.fd); err != nil {
		return &fs.PathError{Op: "close", Path: a.path, Err: err}
	}
	return nil
}

// Lstat looks at an entry.
func (a At) Lstat(name string) (Stat, error) {
	var stat unix.Stat_t
	err := retry(func() error { return unix.Fstatat(a.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return Stat{}, a.pathError("lstat", name, err)
	}
	return statOf(&stat), nil
}

// Stat looks at the directory itself.
func (a At) Stat() (Stat, error) {
	var stat unix.Stat_t
	if err := retry(func() error { return unix.Fstat(a.fd, &stat) }); err != nil {
		return Stat{}, &fs.PathError{Op: "stat", Path: a.path, Err: err}
	}
	return statOf(&stat), nil
}

// Names returns the entries, in no order.
func (a At) Names() ([]string, error) {
	dir, err := a.EnterToRead(".")
	if err != nil {
		return nil, err
	}
	var names []string
	err = dir.each(func(name string) bool { names = append(names, name); return true })
	return names, errors.Join(err, dir.Close())
}

// EnterToRead is Enter for a directory that HoldsOnly is called for.
func (a At) EnterToRead(name string) (At, error) {
	fd, err := a.open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return At{}, a.pathError("open", name, err)
	}
	return At{fd, a.join(name)}, nil
}

// HoldsOnly reports whether a directory from EnterToRead has entries of these names alone. It
// can be called once.
func (a At) HoldsOnly(allowed ...string) (bool, error) {
	only := true
	err := a.each(func(name string) bool {
		only = slices.Contains(allowed, name)
		return only
	})
	return only, err
}

// each calls fn with the entries of a directory from EnterToRead, once, until fn returns false.
func (a At) each(fn func(name string) bool) error {
	var buf [8192]byte
	var names []string
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.ReadDirent(a.fd, buf[:]); return err })
		if err != nil {
			return &fs.PathError{Op: "readdir", Path: a.path, Err: err}
		}
		if n <= 0 {
			return nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			if !fn(name) {
				return nil
			}
		}
	}
}

// Readlink returns what a symlink says. Anything else is an EINVAL.
func (a At) Readlink(name string) (string, error) {
	var buf [unix.PathMax]byte
	var n int
	err := retry(func() (err error) { n, err = unix.Readlinkat(a.fd, name, buf[:]); return err })
	if err != nil {
		return "", a.pathError("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// ReadFile reads a regular file of at most max bytes, as [Dir.ReadFile] does.
func (a At) ReadFile(name string, max int64) ([]byte, error) {
	fd, stat, err := a.openRegular(name)
	if err != nil {
		return nil, err
	}
	return a.readAndClose(fd, name, stat.Size, max)
}

// readInSteps reads entry/file by a descriptor of entry.
func (a At) readInSteps(entry, file string, max int64) ([]byte, error) {
	dir, err := a.Enter(entry)
	if err != nil {
		return nil, err
	}
	data, err := dir.ReadFile(file, max)
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return data, err
}

// openRegular opens a regular file for reading, without waiting for anything.
func (a At) openRegular(name string) (int, Stat, error) {
	fd, err := a.open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, Stat{}, a.pathError("open", name, err)
	}
	stat, err := a.statRegular(fd, name)
	return fd, stat, err
}

// statRegular looks at an open file, and closes it where it is not regular.
func (a At) statRegular(fd int, name string) (Stat, error) {
	var stat unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &stat) })
	if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		return Stat{}, errors.Join(a.pathError("open", name, err), a.pathError("close", name, unix.Close(fd)))
	}
	return statOf(&stat), nil
}

// readAndClose reads a file that is size bytes long, or meanwhile has another length.
func (a At) readAndClose(fd int, name string, size, max int64) ([]byte, error) {
	data, err := read(fd, size, max)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return data, a.pathError("read", name, err)
}

func read(fd int, size, max int64) ([]byte, error) {
	if size > max {
		return nil, fmt.Errorf("larger than %d bytes", max)
	}
	data := make([]byte, 0, size+1)
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.Read(fd, data[len(data):cap(data)]); return err })
		if err != nil {
			return nil, err
		}
		data = data[:len(data)+n]
		if int64(len(data)) > max { // it has grown meanwhile
			return nil, fmt.Errorf("larger than %d bytes", max)
		}
		if len(data) < cap(data) { // a regular file gives less than was asked for at its end alone
			return data, nil
		}
		data = append(data, 0)[:len(data)]
	}
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
