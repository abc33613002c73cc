package powercut

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attach makes a block device of a file. It is gone again when the processes that have it open or
// mounted has closed it; the caller closes it, too. If direct, nothing that is written to
// it stays in memory.
func attach(file int, direct bool) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		loop, err := configure(fmt.Sprintf("/dev/loop%d", n), file, direct)
		if errors.Is(err, unix.EBUSY) {
			continue // another process was faster
		}
		return loop, err
	}
}

func configure(path string, file int, direct bool) (*os.File, error) {
	loop, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := unix.LoopConfig{Fd: uint32(file), Size: sectorSize, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	if direct {
		c.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &c); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", path, err), loop.Close())
	}
	info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
	if err == nil && info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 && direct {
		err = fmt.Errorf("%s doesn't do direct I/O", path)
	}
	if err != nil {
		return nil, errors.Join(err, loop.Close())
	}
	return loop, nil
}
