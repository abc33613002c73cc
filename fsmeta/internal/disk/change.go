package disk

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Nothing in this file syncs: a crash leaves each change or not.

// Mkdir makes a directory that must not exist, and hands it over. An error leaves nothing, or
// joins that of deleting it.
func (a At) Mkdir(name string, perm fs.FileMode, o Owner) error {
	if err := a.call("mkdir", name, func() error { return unix.Mkdirat(a.fd, name, uint32(perm)) }); err != nil {
		return err
	}
	if err := o.GiveAt(a, name); err != nil {
		return errors.Join(err, a.pathError("rmdir", name, a.rmdir(name)))
	}
	return nil
}

// Symlink makes a symlink, which must not exist, and hands it over. An error leaves nothing, or
// joins that of deleting it.
func (a At) Symlink(target, name string, o Owner) error {
	if err := a.call("symlink", name, func() error { return unix.Symlinkat(target, a.fd, name) }); err != nil {
		return err
	}
	if err := o.GiveAt(a, name); err != nil {
		return errors.Join(err, a.Unlink(name))
	}
	return nil
}

// Create makes a file with content, which must not exist, and hands it over. A crash may
// leave a part of the content. An error leaves nothing, or joins that of deleting it.
func (a At) Create(name string, data []byte, perm fs.FileMode, o Owner) error {
	fd, err := a.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, uint32(perm))
	if err != nil {
		return a.pathError("create", name, err)
	}
	if err = o.give(fd, a.join(name)); err == nil {
		err = a.pathError("write", name, write(fd, data))
	}
	err = errors.Join(err, a.pathError("close", name, unix.Close(fd)))
	if err != nil {
		return errors.Join(err, a.Unlink(name))
	}
	return nil
}

// Overwrite replaces the content of a plain file (see [Stat.Plain]) in place; another is an
// error and stays as it is. A crash or another error leaves any mixture.
func (a At) Overwrite(name string, data []byte, perm fs.FileMode, o Owner) error {
	fd, err := a.open(name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return a.pathError("open", name, err)
	}
	err = overwrite(fd, data, perm, o)
	return errors.Join(a.pathError("overwrite", name, err), a.pathError("close", name, unix.Close(fd)))
}

func overwrite(fd int, data []byte, perm fs.FileMode, o Owner) error {
	is, err := fstat(fd)
	if err != nil {
		return err
	}
	if !is.Plain(perm, o) {
		return errNotPlain
	}
	if err := write(fd, data); err != nil {
		return err
	}
	if is.Size <= int64(len(data)) {
		return nil
	}
	return retry(func() error { return unix.Ftruncate(fd, int64(len(data))) })
}

var errNotPlain = errors.New("not a file that may be overwritten")

// write writes data to the start of a file.
func write(fd int, data []byte) error {
	for off := 0; off < len(data); {
		var n int
		err := retry(func() (err error) { n, err = unix.Pwrite(fd, data[off:], int64(off)); return err })
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Link gives an entry of another directory a second name in this one, which must not exist; a
// symlink itself rather than its target. An error leaves nothing.
func (a At) Link(from At, old, name string) error {
	return linkError("link", from, old, a, name, retry(func() error { return unix.Linkat(from.fd, old, a.fd, name, 0) }))
}

// Unlink deletes an entry that is no directory. An error leaves it.
func (a At) Unlink(name string) error {
	return a.call("unlink", name, func() error { return unix.Unlinkat(a.fd, name, 0) })
}

// Rename gives an entry of from a place in to, instead of the file that may be there. An
// error leaves both.
func Rename(from At, old string, to At, name string) error {
	err := retry(func() error { return unix.Renameat(from.fd, old, to.fd, name) })
	return linkError("rename", from, old, to, name, err)
}

// RenameNew gives an entry of from a place in to, where nothing may be: that is an
// fs.ErrExist. An error leaves both. Where the filesystem can't check it in the same step,
// others must not write in to meanwhile.
func RenameNew(from At, old string, to At, name string) error {
	err := retry(func() error { return renameat2(from.fd, old, to.fd, name, renameNoReplace) })
	if unsupported(err) {
		return renameNewInSteps(from, old, to, name)
	}
	return linkError("rename", from, old, to, name, err)
}

func renameNewInSteps(from At, old string, to At, name string) error {
	_, err := to.Lstat(name)
	if err == nil {
		return linkError("rename", from, old, to, name, unix.EEXIST)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return Rename(from, old, to, name)
}

// Exchange swaps an entry of one directory with one of another, both of which must exist.
// The error is [errors.ErrUnsupported] where the filesystem or the system may not be able to;
// each error leaves both.
func Exchange(from At, old string, to At, name string) error {
	err := retry(func() error { return renameat2(from.fd, old, to.fd, name, renameExchange) })
	if unsupported(err) {
		err = errors.Join(err, errors.ErrUnsupported)
	}
	return linkError("exchange", from, old, to, name, err)
}

// unsupported reports whether the filesystem or the kernel may not know a flag of renameat2.
// EINVAL has other reasons too, for which a plain rename fails likewise.
func unsupported(err error) bool {
	return err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP
}

func linkError(op string, from At, old string, to At, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: from.join(old), New: to.join(name), Err: err}
}

// RemoveAll deletes an entry with everything in it, and of a directory the entries in first
// before the others. It follows no symlink and does not enter a mount point: that stays, with
// an EBUSY, as do the directories around it. Nothing to delete is no error. A crash or an
// error leaves a part.
func (a At) RemoveAll(name string, first ...string) error {
	err := retry(func() error { return unix.Unlinkat(a.fd, name, 0) })
	if err == nil || err == unix.ENOENT {
		return nil
	}
	// rmdir refuses a mount point before it looks at the content: ENOTEMPTY means that the
	// directory is not one.
	switch derr := a.rmdir(name); derr {
	case nil, unix.ENOENT:
		return nil
	case unix.ENOTDIR:
		return a.pathError("unlink", name, err)
	case unix.ENOTEMPTY, unix.EEXIST:
	default:
		return a.pathError("rmdir", name, derr)
	}
	dir, err := a.EnterToRead(name)
	if err != nil {
		return err
	}
	err = errors.Join(dir.empty(first), dir.Close())
	if rerr := a.rmdir(name); rerr != nil && rerr != unix.ENOENT {
		return errors.Join(err, a.pathError("rmdir", name, rerr))
	}
	return nil
}

// empty deletes the entries of a directory from EnterToRead, and goes on behind an error. A
// crash or an error leaves a part.
func (a At) empty(first []string) error {
	for _, name := range first {
		if err := a.RemoveAll(name); err != nil {
			return err
		}
	}
	var names []string // all before the first is deleted: that may move the others
	err := a.each(func(name string) bool { names = append(names, name); return true })
	for _, name := range names {
		err = errors.Join(err, a.RemoveAll(name))
	}
	return err
}

func (a At) rmdir(name string) error {
	return retry(func() error { return unix.Unlinkat(a.fd, name, unix.AT_REMOVEDIR) })
}
