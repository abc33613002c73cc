//go:build linux

package files

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// syncs is how many syncs are under way at once; the kernel merges them.
const syncs = 64

// Sync makes path and everything below durable, but not its name. What vanishes meanwhile it leaves out, and what is mounted on
// something below. After an error nothing is known of any of it, see [Unwritten] as well.
func Sync(ctx context.Context, path string) error {
	above, name, err := openTree(path)
	if err != nil {
		return err
	}
	defer above.close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncs)
	err = above.syncTree(ctx, name, group)
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}

func (d *dir) syncTree(ctx context.Context, name string, group *errgroup.Group) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	is, err := d.stat(name)
	if err != nil {
		return err
	}
	kind := is.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return nil // symlinks and devices are on disk with their directory
	}
	fd, _, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	path := d.path(name)
	group.Go(func() error { return syncOpen(fd, path) })
	if kind == unix.S_IFREG {
		return nil
	}
	return d.each(name, func(d *dir, name string) error { return d.syncTree(ctx, name, group) })
}

// Unwritten reports whether an error of Sync is the kernel's that it could not write something. It says so once: a further Sync
// that succeeds tells nothing then. Sync returns such an error before any other.
func Unwritten(err error) bool {
	failed, ok := errors.AsType[*os.PathError](err)
	return ok && (failed.Op == "sync" || failed.Op == "close")
}

func syncOpen(fd int, path string) error {
	f := os.NewFile(uintptr(fd), path)
	return errors.Join(f.Sync(), f.Close())
}
