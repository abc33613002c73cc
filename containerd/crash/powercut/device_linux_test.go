package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device is a file that is a disk: what is written to it is recorded.
type device struct {
	fs.Inode
	record *record
	size   int64
}

var (
	_ fs.NodeGetattrer = (*device)(nil)
	_ fs.NodeOpener    = (*device)(nil)
	_ fs.NodeReader    = (*device)(nil)
	_ fs.NodeWriter    = (*device)(nil)
	_ fs.NodeFsyncer   = (*device)(nil)
	_ fs.NodeFlusher   = (*device)(nil)
	_ fs.NodeAllocater = (*device)(nil)
)

// diskName is the name of the device in the filesystem that serves it.
const diskName = "disk"

// serve mounts a filesystem on dir that has the device in it. Nothing in this process may
// use what is on the device: where it ends meanwhile, it would wait for itself. When it
// ends, the kernel fails all that is on its way to the device.
func (d *device) serve(dir string) (unmount func() error, err error) {
	const maxWrite = 1 << 20
	// go-fuse would let children have the connection, too, so that it would not end.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,max_read=%d", fd, unix.S_IFDIR, maxWrite)
	if err := unix.Mount("powercut", dir, "fuse.powercut", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), unix.Close(fd))
	}
	root := &fs.Inode{}
	_, err = fs.Mount(fmt.Sprintf("/dev/fd/%d", fd), root, &fs.Options{
		MountOptions: fuse.MountOptions{MaxWrite: maxWrite},
		OnAdd: func(ctx context.Context) {
			root.AddChild(diskName, root.NewPersistentInode(ctx, d, fs.StableAttr{Mode: fuse.S_IFREG}), false)
		},
	})
	// The loop device may keep the file for a moment more.
	unmount = func() error { return unix.Unmount(dir, unix.MNT_DETACH) }
	if err != nil {
		return nil, errors.Join(err, unmount())
	}
	return unmount, nil
}

// Getattr implements [fs.NodeGetattrer].
func (d *device) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = fuse.S_IFREG|0o600, uint64(d.size)
	return 0
}

// Open implements [fs.NodeOpener].
func (d *device) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read implements [fs.NodeReader].
func (d *device) Read(_ context.Context, _ fs.FileHandle, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	dest = dest[:max(0, min(int64(len(dest)), d.size-offset))]
	d.record.read(offset, dest)
	return fuse.ReadResultData(dest), 0
}

// Write implements [fs.NodeWriter].
func (d *device) Write(_ context.Context, _ fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	if offset+int64(len(data)) > d.size {
		return 0, syscall.ENOSPC
	}
	d.record.add(event{kind: written, offset: offset, data: bytes.Clone(data)})
	return uint32(len(data)), 0
}

// Fsync implements [fs.NodeFsyncer]. It is what a loop device makes of a flush.
func (d *device) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.record.add(event{kind: flushed})
	return 0
}

// Flush implements [fs.NodeFlusher]. It is about closing the file, and promises nothing.
func (d *device) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

// Allocate implements [fs.NodeAllocater]: the disk doesn't discard, and zeros are written
// to it like anything else.
func (d *device) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}
