package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// euid returns the user that this process acts as.
var euid = os.Geteuid

// adviseDenied says what to do where this process was denied something in the store in dir.
func adviseDenied(err error, dir string) string {
	path := dir
	var failed *fs.PathError
	if errors.As(err, &failed) {
		path = failed.Path
	}
	switch owner, known := ownerOf(dir); {
	case errors.Is(err, syscall.EPERM) && (euid() == 0 || known && owner == euid()):
		return fmt.Sprintf("look whether the file or its directory is immutable or append-only (lsattr -d %s; chattr -i -a takes that away), or a security module refuses it (dmesg)", path)
	case euid() == 0:
		return "root is denied it: look for a network filesystem that takes root for another user, a user namespace, and a security module (dmesg)"
	case known && owner == euid():
		return fmt.Sprintf("the store is this user's, and the mode is wrong: chmod -R u+rwX %s", path)
	case known:
		return fmt.Sprintf("run it as user %d, which the store belongs to, or as root", owner)
	}
	return "run it as the user that the store belongs to, or as root"
}

// ownerOf returns the user that a file belongs to, if that can be told.
func ownerOf(path string) (user int, known bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(is.Uid), true
}
