package fsmeta_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// A process that may only read the files can check them.
func TestCheckReadOnlyPermission(t *testing.T) {
	dir := newDir(t)
	crashed(t, dir, "layer base", "put a base", "remove a", "put b base")
	succeed(t, os.RemoveAll(filepath.Join(dir, "staging")), os.Mkdir(filepath.Join(dir, "staging"), 0o755))
	var paths []string
	succeed(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() != fs.ModeSymlink {
			paths = append(paths, path)
		}
		return err
	}))
	for _, path := range paths {
		succeed(t, os.Chmod(path, 0o555))
		t.Cleanup(func() { succeed(t, os.Chmod(path, 0o755)) }) // so that it can be deleted
	}
	succeed(t, os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755))
	if os.Geteuid() == 0 { // this thread alone is another user
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		succeed(t, syscall.Setfsuid(otherUser))
		defer func() { succeed(t, syscall.Setfsuid(0)) }()
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); !errors.Is(err, fs.ErrPermission) {
		t.Skip("everything is allowed: ", err)
	}
	wantClean(t, dir)
}
