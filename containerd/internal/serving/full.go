//go:build linux

package serving

import (
	"errors"
	"fmt"
	"slices"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Below these a filesystem counts as full: a call that found it so may have given back a few.
const (
	fewInodes = 16
	fewBytes  = 1 << 20
)

// onlyFull reports whether an error says that the disk is full, as does each that is joined in it.
func onlyFull(err error) bool {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(several.Unwrap(), func(one error) bool { return !onlyFull(one) })
	}
	if cause := errors.Unwrap(err); cause != nil {
		return onlyFull(cause)
	}
	return err == unix.ENOSPC || err == unix.EDQUOT
}

// WithoutFull drops an error that says that the disk is full, and nothing else.
func WithoutFull(err error) error {
	if onlyFull(err) {
		return nil
	}
	return err
}

// adviseFull returns what is used up where an error says that there is no room, and what to
// do, "" for any other error.
func adviseFull(root string, err error) string {
	if errors.Is(err, unix.EDQUOT) {
		return "a quota of the filesystem is used up: remove images that nothing uses (crictl rmi --prune), or raise it"
	}
	if !errors.Is(err, unix.ENOSPC) {
		return ""
	}
	var s unix.Statfs_t
	if serr := unix.Statfs(root, &s); serr != nil {
		return fmt.Sprintf("it can't be told of what: statfs %s: %v", root, serr)
	}
	bytes := s.Bavail * uint64(s.Bsize)
	switch {
	case s.Files > 0 && s.Ffree < fewInodes:
		return fmt.Sprintf("inodes are used up, %d of %d are free, and %s of room: remove images that nothing uses (crictl rmi --prune); "+
			"a filesystem made with more inodes for its size holds more (mkfs.ext4 -i 8192)", s.Ffree, s.Files, units.BytesSize(float64(bytes)))
	case bytes < fewBytes:
		return fmt.Sprintf("room is used up, %s of %s are free, and %d inodes: remove images that nothing uses (crictl rmi --prune), or enlarge the filesystem",
			units.BytesSize(float64(bytes)), units.BytesSize(float64(s.Blocks*uint64(s.Bsize))), s.Ffree)
	default:
		return fmt.Sprintf("%s and %d inodes are free: it may have been room for a moment, or one directory can take no more entries (dmesg says so)", units.BytesSize(float64(bytes)), s.Ffree)
	}
}
