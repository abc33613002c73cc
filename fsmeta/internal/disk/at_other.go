//go:build !linux

package disk

import "golang.org/x/sys/unix"

const enterFlags = unix.O_RDONLY

func (a At) readBelow(entry, file, _ string, max int64) ([]byte, error) {
	return a.readInSteps(entry, file, max)
}

const renameNoReplace, renameExchange = 0, 0

func renameat2(int, string, int, string, uint) error { return unix.ENOSYS }
