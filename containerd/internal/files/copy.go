//go:build linux

package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Copy copies what is in the directory source, and what is known of that itself, to the directory
// target, which is there and empty: owners, modes, times, extended attributes, hard links, devices, holes. Where the
// filesystem can share blocks, it does. What is mounted on something below source is left out. Extended
// attributes that can't be set here, such as those of a security module, are passed to skipped.
//
// source must not change meanwhile. An error, also of a context that ends, and a crash leave a part in target.
func Copy(ctx context.Context, target, source string, skipped func(path, attribute string, err error)) error {
	from, fromName, err := openTree(source)
	if err != nil {
		return err
	}
	defer from.close()
	to, toName, err := openTree(target)
	if err != nil {
		return err
	}
	defer to.close()
	root, err := to.down(toName)
	if err != nil {
		return err
	}
	defer root.close()
	c := &copier{ctx: ctx, skipped: skipped, root: root.fd, links: map[inode]string{}}
	is, err := from.stat(fromName)
	if err != nil {
		return err
	}
	if is.Mode&unix.S_IFMT != unix.S_IFDIR {
		return from.failed("copy", fromName, unix.ENOTDIR)
	}
	return c.directory(to, toName, from, fromName, is, "")
}

// CopyAttributes gives the directory target the owner, the mode and the extended attributes of the directory source, but
// for those of which leaveOut says so. Those that can't be set here are passed to skipped. An error or
// a crash leaves some of them.
func CopyAttributes(target, source string, leaveOut func(attribute string) bool, skipped func(path, attribute string, err error)) error {
	from, fromName, err := openTree(source)
	if err != nil {
		return err
	}
	defer from.close()
	to, toName, err := openTree(target)
	if err != nil {
		return err
	}
	defer to.close()
	is, err := from.stat(fromName)
	if err != nil {
		return err
	}
	c := &copier{skipped: skipped, leaveOut: leaveOut}
	return c.attributes(to, toName, from, fromName, is)
}

// copier is one Copy.
type copier struct {
	ctx      context.Context
	skipped  func(path, attribute string, err error)
	leaveOut func(attribute string) bool // nil where all are copied
	root     int                         // the target
	links    map[inode]string            // where below the target the first name of a file is that has several
	noClone  bool                        // the filesystem can't share blocks
	buffer   []byte                      // for what only reading and writing can copy
}

// entry copies what is at name in from to the same name in to. below is to's path below the target.
func (c *copier) entry(to, from *dir, name, below string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	is, err := from.stat(name)
	if errors.Is(err, ErrMounted) {
		return nil
	}
	if err != nil {
		return err
	}
	kind := is.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		if err := retry(func() error { return unix.Mkdirat(to.fd, name, 0o700) }); err != nil {
			return to.failed("make", name, err)
		}
		return c.directory(to, name, from, name, is, below+name+"/")
	}
	if is.Nlink > 1 {
		if first, copied := c.links[inodeOf(is)]; copied {
			return c.link(to, name, first)
		}
		c.links[inodeOf(is)] = below + name
	}
	switch kind {
	case unix.S_IFREG:
		err = c.file(to, from, name, is)
	case unix.S_IFLNK:
		err = symlink(to, from, name)
	default: // a device, a pipe or a socket
		device := unix.Mkdev(is.Rdev_major, is.Rdev_minor)
		err = to.failed("make", name, retry(func() error { return unix.Mknodat(to.fd, name, uint32(kind)|0o600, int(device)) }))
	}
	if err != nil {
		return err
	}
	return errors.Join(c.attributes(to, name, from, name, is), to.setTimes(name, is))
}

// directory copies what is in a directory, and then what is known of itself: its times change while it is filled.
func (c *copier) directory(to *dir, toName string, from *dir, fromName string, is *unix.Statx_t, below string) error {
	source, err := from.down(fromName)
	if err != nil {
		return err
	}
	target, err := to.down(toName)
	if err != nil {
		return errors.Join(err, source.up())
	}
	names, err := source.names()
	for _, name := range names {
		if err == nil {
			err = c.entry(target, source, name, below)
		}
	}
	for _, d := range []*dir{source, target} {
		if d.fd >= 0 { // else it could not be opened again
			err = errors.Join(err, d.up())
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(c.attributes(to, toName, from, fromName, is), to.setTimes(toName, is))
}

// link makes name in to a further name of the file first below the target.
func (c *copier) link(to *dir, name, first string) error {
	at, last, closer, err := openBelow(c.root, first)
	if err != nil {
		return to.failed("link", name, err)
	}
	defer closer()
	return to.failed("link", name, retry(func() error { return unix.Linkat(at, last, to.fd, name, 0) }))
}

// openBelow returns an open directory and a path in it that is short enough for a system call.
func openBelow(root int, path string) (at int, rest string, closer func(), err error) {
	at, closer = root, func() {}
	for len(path) >= unix.PathMax {
		cut := strings.LastIndexByte(path[:unix.PathMax-1], '/')
		next, err := openat(at, path[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		closer()
		if err != nil {
			return -1, "", nil, err
		}
		at, path = next, path[cut+1:]
		closer = func() { _ = unix.Close(next) } // it was only passed through
	}
	return at, path, closer, nil
}

func symlink(to, from *dir, name string) error {
	buffer := make([]byte, unix.PathMax)
	n := 0
	err := retry(func() (err error) { n, err = unix.Readlinkat(from.fd, name, buffer); return err })
	if err != nil {
		return from.failed("readlink", name, err)
	}
	return to.failed("symlink", name, retry(func() error { return unix.Symlinkat(string(buffer[:n]), to.fd, name) }))
}

// attributes copies what is known of a file beside its content and its times. The owner comes first, since a change of it
// takes capabilities and bits of the mode away.
func (c *copier) attributes(to *dir, toName string, from *dir, fromName string, is *unix.Statx_t) error {
	err := retry(func() error { return unix.Fchownat(to.fd, toName, int(is.Uid), int(is.Gid), unix.AT_SYMLINK_NOFOLLOW) })
	if errors.Is(err, unix.EPERM) {
		if now, serr := to.stat(toName); serr == nil && now.Uid == is.Uid && now.Gid == is.Gid {
			err = nil
		}
	}
	if err != nil {
		return to.failed("chown", toName, err)
	}
	if is.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := retry(func() error { return unix.Fchmodat(to.fd, toName, uint32(is.Mode)&0o7777, 0) }); err != nil {
			return to.failed("chmod", toName, err)
		}
	}
	return c.xattrs(to, toName, from, fromName)
}

func (d *dir) setTimes(name string, is *unix.Statx_t) error {
	times := []unix.Timespec{{Sec: is.Atime.Sec, Nsec: int64(is.Atime.Nsec)}, {Sec: is.Mtime.Sec, Nsec: int64(is.Mtime.Nsec)}}
	return d.failed("utimensat", name, retry(func() error { return unix.UtimesNanoAt(d.fd, name, times, unix.AT_SYMLINK_NOFOLLOW) }))
}

func (c *copier) xattrs(to *dir, toName string, from *dir, fromName string) error {
	source := from.proc(fromName)
	names, err := listXattrs(source)
	if err != nil {
		return from.failed("listxattr", fromName, err)
	}
	for _, name := range names {
		if c.leaveOut != nil && c.leaveOut(name) {
			continue
		}
		value, err := getXattr(source, name)
		if err == nil {
			err = retry(func() error { return unix.Lsetxattr(to.proc(toName), name, value, 0) })
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENODATA):
			c.skipped(to.path(toName), name, err)
		default:
			return to.failed("copy extended attribute "+strconv.Quote(name)+" of", toName, err)
		}
	}
	return nil
}

// proc returns a path of name in d for calls that take no descriptor.
func (d *dir) proc(name string) string { return "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + name }

func listXattrs(path string) ([]string, error) {
	list, err := grow(func(buffer []byte) (int, error) { return unix.Llistxattr(path, buffer) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	var names []string
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name != "" {
			names = append(names, name)
		}
	}
	return names, err
}

func getXattr(path, name string) ([]byte, error) {
	return grow(func(buffer []byte) (int, error) { return unix.Lgetxattr(path, name, buffer) })
}

// grow calls read with buffers that become larger until one is large enough.
func grow(read func(buffer []byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buffer, n := make([]byte, size), 0
		err := retry(func() (err error) { n, err = read(buffer); return err })
		if err == nil {
			return buffer[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size >= 1<<20 {
			return nil, err
		}
	}
}

// file copies the content of a regular file.
func (c *copier) file(to, from *dir, name string, is *unix.Statx_t) (err error) {
	in, _, err := from.open(name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(in), from.path(name))
	defer source.Close() //nolint:errcheck // it was only read
	out, err := openat(to.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return to.failed("create", name, err)
	}
	target := os.NewFile(uintptr(out), to.path(name))
	defer func() { err = errors.Join(err, target.Close()) }()
	if is.Size == 0 {
		return nil
	}
	if !c.noClone {
		err := unix.IoctlFileClone(out, in)
		if err == nil {
			return nil
		}
		for _, never := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV} {
			c.noClone = c.noClone || errors.Is(err, never)
		}
	}
	return c.data(target, source, int64(is.Size))
}

// data copies what is between the holes of a file.
func (c *copier) data(target, source *os.File, size int64) error {
	if err := target.Truncate(size); err != nil {
		return err
	}
	in := int(source.Fd())
	for at := int64(0); at < size; {
		start, err := unix.Seek(in, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole
		}
		end := size
		if err == nil {
			end, err = unix.Seek(in, start, unix.SEEK_HOLE)
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // it does not tell holes
			start, end, err = at, size, nil
		}
		if err != nil {
			return &os.PathError{Op: "seek", Path: source.Name(), Err: err}
		}
		if err := c.span(target, source, start, min(end, size)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// chunk is how much is copied between two looks at the context.
const chunk = 8 << 20

// span copies the bytes from at to end.
func (c *copier) span(target, source *os.File, at, end int64) error {
	for at < end {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := c.part(target, source, at, int(min(end-at, chunk)))
		if err != nil {
			return fmt.Errorf("copy to %s: %w", target.Name(), err)
		}
		if n == 0 {
			return fmt.Errorf("copy %s: it became shorter meanwhile", source.Name())
		}
		at += int64(n)
	}
	return nil
}

// part copies up to size bytes, in the kernel if it can.
func (c *copier) part(target, source *os.File, at int64, size int) (n int, err error) {
	if c.buffer == nil {
		from, to := at, at
		err = retry(func() (err error) {
			n, err = unix.CopyFileRange(int(source.Fd()), &from, int(target.Fd()), &to, size, 0)
			return err
		})
		switch {
		case err == nil:
			return n, nil
		case !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EOPNOTSUPP) &&
			!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM):
			return 0, err
		}
		c.buffer = make([]byte, 1<<20)
	}
	n, err = source.ReadAt(c.buffer[:min(size, len(c.buffer))], at)
	if n == 0 {
		return 0, err
	}
	return target.WriteAt(c.buffer[:n], at)
}
