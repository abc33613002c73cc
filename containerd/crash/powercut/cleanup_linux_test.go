package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// However the test is ended, all of its processes end, and so do their mounts and loop
// devices. A process would not that waits for a disk with a server that waits for it.
func TestNothingIsLeft(t *testing.T) {
	f := filesystems[0]
	need(t, f)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := choices(t)
	tmp := t.TempDir() // for what a killed test can't remove
	for range 5 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestPowerCut$/^"+f.name+"$")
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !serves(cmd.Process.Pid) {
			t.Fatal("it has not begun")
		}
		time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond) // any moment will do
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if !orphansEnd() {
			t.Fatal("some processes have not ended")
		}
	}
}

// serves waits until a process serves a disk.
func serves(pid int) bool {
	return within(time.Minute, func() bool {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
		return err == nil && bytes.Contains(mounts, []byte(" fuse.powercut "))
	})
}

// orphansEnd waits for the processes that have no other parent any more.
func orphansEnd() bool {
	return within(time.Minute, func() bool {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 {
				return errors.Is(err, syscall.ECHILD)
			}
		}
	})
}

// within reports whether something comes true in a time.
func within(limit time.Duration, yet func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if yet() {
			return true
		}
	}
	return false
}
