package powercut

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filesystem is one that the power is cut under.
type filesystem struct {
	name    string
	size    int64 // of the disk
	mkfs    []string
	options string // of the mount that is recorded: it commits sooner than by default, so that more of it is seen
}

var filesystems = []filesystem{
	{"ext4", 96 << 20, []string{"mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, "commit=1"},
	{"xfs", 320 << 20, []string{"mkfs.xfs", "-q"}, ""},
	{"btrfs", 160 << 20, []string{"mkfs.btrfs", "-q"}, "commit=1"},
}

// empty returns the image of a new filesystem.
func (f filesystem) empty(t *testing.T) image {
	t.Helper()
	path := filepath.Join(t.TempDir(), f.name)
	file, err := os.Create(path)
	if err == nil {
		err = errors.Join(file.Truncate(f.size), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(f.mkfs[0], append(f.mkfs[1:], path)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", f.mkfs[0], err, out)
	}
	m, err := readImage(path)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// mount makes a loop device of a file and mounts what is on it. Unmounting frees both.
func (f filesystem) mount(file int, dir string, direct bool, options string) error {
	loop, err := attach(file, direct)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.Mount(loop.Name(), dir, f.name, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", loop.Name(), dir, err)
	}
	return nil
}

// btrfsStartSync and btrfsWaitSync are _IOR(0x94, 24, __u64) and _IOW(0x94, 22, __u64).
const (
	btrfsStartSync = 0x80089418
	btrfsWaitSync  = 0x40089416
)

// commit makes the filesystem commit all that is its own, and not what is in files.
func (f filesystem) commit(file *os.File) error {
	if f.name != "btrfs" {
		return file.Sync()
	}
	var transaction uint64
	if err := ioctl(file, btrfsStartSync, &transaction); err != nil {
		return err
	}
	return ioctl(file, btrfsWaitSync, &transaction)
}

func ioctl(file *os.File, request uintptr, arg *uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), request, uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

func filesystemNamed(name string) (filesystem, error) {
	for _, f := range filesystems {
		if f.name == name {
			return f, nil
		}
	}
	return filesystem{}, fmt.Errorf("no filesystem is named %q", name)
}
