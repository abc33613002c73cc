package fsmeta

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// A store on a read-only mount can be checked.
func TestCheckReadOnlyMount(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("nothing can be mounted: ", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	for _, killed := range []bool{false, true} {
		sp := newSpecimen(t, killed)
		at := sp.parts.write(t, dir)
		damaged := sp.parts.with(meta("alone"), part{content: "{"}).without(stagingDir).write(t, dir)
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		wantCheck(t, at)
		wantCheck(t, damaged, wanted{meta("alone"), false, "JSON"}, wanted{stagingDir, true, "missing"})
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// Who may only read the files can check them.
func TestCheckReadOnlyPermission(t *testing.T) {
	s := tampered(t, newSpecimen(t, true))
	for path, n := range readParts(t, s.dir) {
		switch n.kind {
		case fs.ModeDir:
			s.check(os.Chmod(s.at(path), 0o555))
			t.Cleanup(func() { s.check(os.Chmod(s.at(path), 0o755)) }) // so that it can be deleted
		case 0:
			s.check(os.Chmod(s.at(path), 0o444))
		}
	}
	s.check(os.Chmod(s.dir, 0o555))
	t.Cleanup(func() { s.check(os.Chmod(s.dir, 0o755)) })
	s.check(os.Chmod(filepath.Dir(s.dir), 0o755))
	if os.Geteuid() == 0 { // who may do anything is nobody on this thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		s.check(syscall.Setfsuid(65534))
		defer func() { s.check(syscall.Setfsuid(0)) }()
	}
	if err := os.WriteFile(s.at("x"), nil, 0o600); !errors.Is(err, fs.ErrPermission) {
		t.Skip("everything is allowed: ", err)
	}
	wantCheck(t, s.dir)
}
