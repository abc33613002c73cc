//go:build linux

package files

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// Usage returns what path and everything below takes, as containerd's continuity counts it: inodes once, however many names
// they have, and their blocks. What vanishes meanwhile is not counted, nor what is mounted on
// something below; of path itself both are errors.
func Usage(ctx context.Context, path string) (snapshots.Usage, error) {
	above, name, err := openTree(path)
	if err != nil {
		return snapshots.Usage{}, err
	}
	defer above.close()
	m := measure{ctx: ctx, seen: map[inode]struct{}{}}
	err = m.count(above, name)
	return m.usage, err
}

// inode is a file, whatever its names are.
type inode struct {
	major, minor uint32
	ino          uint64
}

func inodeOf(is *unix.Statx_t) inode { return inode{is.Dev_major, is.Dev_minor, is.Ino} }

type measure struct {
	ctx   context.Context
	seen  map[inode]struct{}
	usage snapshots.Usage
}

func (m *measure) count(d *dir, name string) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	is, err := d.stat(name)
	if err != nil {
		return err
	}
	if _, again := m.seen[inodeOf(is)]; !again {
		m.seen[inodeOf(is)] = struct{}{}
		m.usage.Inodes++
		m.usage.Size += int64(is.Blocks) * 512
	}
	if is.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return d.each(name, m.count)
}

// each calls visit for everything in the directory name of d. Of what visit says is gone, or mounted on, it
// goes on to the next.
func (d *dir) each(name string, visit func(*dir, string) error) error {
	child, err := d.down(name)
	if err != nil {
		return err
	}
	names, err := child.names()
	for _, entry := range names {
		if err == nil {
			if err = visit(child, entry); gone(err) || errors.Is(err, ErrMounted) {
				err = nil
			}
		}
	}
	if child.fd < 0 { // it could not be opened again
		return err
	}
	return errors.Join(err, child.up())
}
