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

// ErrMounted is the error of a part of the store that hides the store's own.
var ErrMounted = errors.New("something is mounted on it (findmnt shows it), or it is a subvolume: unmount it; all of a store is one mount of one filesystem")

// Stat is the part of an entry's attributes that the store looks at.
type Stat struct {
	Type  fs.FileMode // the type bits
	Perm  fs.FileMode // the permission bits
	Links uint64
	UID   int
	Size  int64
	Dev   uint64 // the filesystem
}

// Plain reports whether a regular file may be overwritten in place: it has no other name
// by which a copy would change with it, and the mode and the owner that it needs.
func (s Stat) Plain(perm fs.FileMode, o Owner) bool {
	return s.Type == 0 && s.Links == 1 && s.Perm == perm && s.UID == o.UID
}

func statOf(s *unix.Stat_t) Stat {
	is := Stat{Perm: fs.FileMode(s.Mode) & fs.ModePerm, Links: uint64(s.Nlink), UID: int(s.Uid), Size: s.Size, Dev: uint64(s.Dev)}
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

// open opens an entry. The descriptor is not passed on to other programs.
func (a At) open(name string, flags int, perm uint32) (fd int, err error) {
	err = retry(func() (err error) { fd, err = unix.Openat(a.fd, name, flags|unix.O_CLOEXEC, perm); return err })
	if err == unix.EMLINK && flags&unix.O_NOFOLLOW != 0 && flags&unix.O_CREAT == 0 {
		err = unix.ELOOP // FreeBSD has this for a symlink, and it is no lack of room
	}
	return fd, err
}

// call makes a system call about an entry, again where a signal interrupted it.
func (a At) call(op, name string, do func() error) error {
	return a.pathError(op, name, retry(do))
}

// Enter opens a directory for calls relative to it; the caller closes it. Something else
// is an ENOTDIR, or an ELOOP, and is not opened.
func (a At) Enter(name string) (At, error) {
	return a.enter(name, enterFlags)
}

// EnterToRead is Enter for a directory that HoldsOnly is called for.
func (a At) EnterToRead(name string) (At, error) {
	return a.enter(name, unix.O_RDONLY)
}

func (a At) enter(name string, flags int) (At, error) {
	fd, err := a.open(name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	return At{fd, a.join(name)}, a.pathError("open", name, err)
}

// Close ends an Enter.
func (a At) Close() error { return a.pathError("close", ".", unix.Close(a.fd)) }

// Lstat looks at an entry.
func (a At) Lstat(name string) (Stat, error) {
	var stat unix.Stat_t
	err := a.call("lstat", name, func() error { return unix.Fstatat(a.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW) })
	return statOf(&stat), err
}

// Stat looks at the directory itself.
func (a At) Stat() (Stat, error) {
	stat, err := fstat(a.fd)
	return stat, a.pathError("stat", ".", err)
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
		err := a.call("readdir", ".", func() (err error) { n, err = unix.ReadDirent(a.fd, buf[:]); return err })
		if err != nil || n <= 0 {
			return err
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
	err := a.call("readlink", name, func() (err error) { n, err = unix.Readlinkat(a.fd, name, buf[:]); return err })
	return string(buf[:max(n, 0)]), err
}

// ReadFile reads a regular file of at most max bytes, as [Dir.ReadFile] does.
func (a At) ReadFile(name string, max int64) ([]byte, error) {
	fd, err := a.open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	return a.readOpen(fd, name, max, err)
}

// readInSteps reads entry/file by a descriptor of entry.
func (a At) readInSteps(entry, file string, max int64) ([]byte, error) {
	dir, err := a.Enter(entry)
	if err != nil {
		return nil, err
	}
	data, err := dir.ReadFile(file, max)
	return data, errors.Join(err, dir.Close())
}

// readOpen reads a file that was opened, with the error of that, and closes it.
func (a At) readOpen(fd int, name string, max int64, err error) ([]byte, error) {
	if err != nil {
		return nil, a.pathError("open", name, err)
	}
	var data []byte
	stat, err := fstatRegular(fd)
	if err == nil {
		data, err = read(fd, stat.Size, max)
	}
	return data, a.pathError("read", name, errors.Join(err, unix.Close(fd)))
}

func fstat(fd int) (Stat, error) {
	var stat unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &stat) })
	return statOf(&stat), err
}

func fstatRegular(fd int) (Stat, error) {
	stat, err := fstat(fd)
	if err == nil && stat.Type != 0 {
		err = ErrNotRegular
	}
	return stat, err
}

// read reads a file that is size bytes long, or meanwhile has another length.
func read(fd int, size, max int64) ([]byte, error) {
	if size > max {
		return nil, fmt.Errorf("%w than %d bytes", ErrLarger, max)
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
			return nil, fmt.Errorf("%w than %d bytes", ErrLarger, max)
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
