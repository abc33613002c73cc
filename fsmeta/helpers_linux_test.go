package fsmeta_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that only root can do.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// needProgram skips a test where a program is missing.
func needProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs the program %s: %v", name, err)
	}
}

// otherUser is a user that is not root, and owns nothing.
const otherUser = 65534

// asOther makes a child run as otherUser. The path of the test binary may be closed to it.
func asOther(cmd *exec.Cmd) {
	cmd.Path = "/proc/self/exe"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: otherUser, Gid: otherUser}
}

// otherDir is newDir for stores of otherUser.
func otherDir(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir, err := os.MkdirTemp("", "fsmeta")
	succeed(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	succeed(t, os.Chown(dir, otherUser, otherUser))
	return filepath.Join(dir, "store")
}

// underStrace makes a child's system calls fail, as strace's option -e inject= says.
func underStrace(t testing.TB, inject string) func(*exec.Cmd) {
	t.Helper()
	needProgram(t, "strace")
	strace, err := exec.LookPath("strace")
	succeed(t, err)
	call, _, _ := strings.Cut(inject, ":")
	return func(cmd *exec.Cmd) {
		cmd.Args = append([]string{strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", "inject=" + inject, "--", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = strace
	}
}

// Inode flags, from linux/fs.h.
const (
	immutableFlag = 0x10
	appendFlag    = 0x20
)

// setFlag sets or clears an inode flag, such as chattr does.
func setFlag(path string, flag int, on bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if flags |= flag; !on {
		flags &^= flag
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

// mount mounts until the end of the test, or until the function that it returns is called. The
// mount may have moved until then, with a directory above it.
func mount(t testing.TB, source, target, fstype string, flags uintptr, data string) (unmount func()) {
	t.Helper()
	needRoot(t)
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		t.Skipf("mount %s on %s: %v", source, target, err)
	}
	below := filepath.Dir(t.TempDir())
	unmount = func() {
		if unix.Unmount(target, unix.MNT_DETACH) == nil {
			return
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		succeed(t, err)
		for line := range strings.Lines(string(mounts)) {
			if path := strings.Fields(line)[1]; strings.HasPrefix(path, below) {
				succeed(t, unix.Unmount(path, unix.MNT_DETACH))
			}
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// image makes a filesystem in a file, by words such as "mkfs.ext4 -b 1024", and mounts it.
func image(t testing.TB, megabytes int64, mkfs string) string {
	t.Helper()
	needRoot(t)
	words := strings.Fields(mkfs)
	needProgram(t, words[0])
	dir := t.TempDir()
	file, target := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	succeed(t, os.Mkdir(target, 0o700), os.WriteFile(file, nil, 0o600), os.Truncate(file, megabytes<<20))
	if out, err := exec.Command(words[0], append(words[1:], file)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", file, target).CombinedOutput(); err != nil {
		t.Skipf("needs loop devices: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", target).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
			_ = unix.Unmount(target, unix.MNT_DETACH)
		}
	})
	return target
}

// remount unmounts the filesystem of image that a path is in, and mounts it again.
func remount(t testing.TB, path string) {
	t.Helper()
	for filepath.Base(path) != "mount" {
		path = filepath.Dir(path)
	}
	for _, command := range [][]string{{"umount", path}, {"mount", "-o", "loop", filepath.Join(filepath.Dir(path), "image"), path}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
	}
}

// fill takes all room of the filesystem below dir, in a file there. It returns what gives
// the room back.
func fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	succeed(t, err)
	full := func(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
	block := make([]byte, 1<<20)
	for size := len(block); size >= 512; size /= 2 {
		for err = nil; err == nil; {
			if _, err = f.Write(block[:size]); err == nil && size < 64<<10 {
				err = f.Sync() // else the room that delayed allocation reserved comes back
			}
		}
		if !full(err) {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil && !full(err) {
			t.Fatal(err)
		}
	}
	succeed(t, f.Close())
	return func() { succeed(t, os.Remove(path)) }
}

// tasks returns how many threads a process has, and how many descriptors are open.
func tasks(t testing.TB, pid int) (threads, descriptors int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	task, err := os.ReadDir(proc + "task")
	fd, err2 := os.ReadDir(proc + "fd")
	succeed(t, err, err2)
	return len(task), len(fd)
}

// flocked holds the exclusive flock on a path until the function that it returns is called.
func flocked(t testing.TB, path string) (release func()) {
	t.Helper()
	f, err := os.Open(path)
	succeed(t, err)
	succeed(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return func() { _ = f.Close() }
}
