package atomic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MkdirAll makes the directory at path, and those above it that are missing, each
// durable in the one that it is in. Where path is a directory already it does nothing.
//
// If the error is nil, a crash leaves every directory that MkdirAll has made. After an
// error, an *os.PathError, or a crash, some of them are there, from the top on, and the
// lowest may not be durable: a call after that takes what is there for granted, so sync
// the directory above path if that matters. It may be called by several at once.
func MkdirAll(path string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent, mode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil {
		if target, lerr := os.Readlink(path); lerr == nil {
			return &fs.PathError{Op: "mkdir", Path: path, Err: fmt.Errorf("it is a symlink to %q, and nothing is there: %w", target, syscall.EEXIST)}
		}
		if info, lerr := os.Lstat(path); lerr != nil || !info.IsDir() {
			return err
		}
	}
	return SyncDir(parent)
}
