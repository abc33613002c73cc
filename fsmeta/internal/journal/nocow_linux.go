package journal

import (
	"os"

	"golang.org/x/sys/unix"
)

// fsNoCOW is FS_NOCOW_FL of the kernel's fs.h.
const fsNoCOW = 0x00800000

// noCOW has an empty file overwritten in place where the filesystem would copy on write, so
// that lines need no room on a full one. Where that can't be done, nothing is lost: the
// checksum of each line is our own.
func noCOW(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&fsNoCOW == 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|fsNoCOW) // see above
	}
}
