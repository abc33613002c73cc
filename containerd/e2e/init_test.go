//go:build linux

package e2e

import (
	"fmt"
	"syscall"
)

// runInit is the first process of the namespace. It makes the mounts that the tests need,
// starts them, and reaps what has lost its parent: containerd's shims. When it ends, the
// kernel kills every process of the namespace. It returns the exit status of the tests.
func runInit() int {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
	}{
		{"", "/", "", syscall.MS_REC | syscall.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{"tmpfs", "/run", "tmpfs", 0}, // shims, runc and ctr leave things in it
	} {
		if err := syscall.Mount(m.source, m.target, m.fstype, m.flags, ""); err != nil {
			return failed(fmt.Errorf("mount %s: %w", m.target, err))
		}
	}
	cmd, err := self("tests")
	if err != nil {
		return failed(err)
	}
	if err := cmd.Start(); err != nil {
		return failed(err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return failed(err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus()
		case pid == cmd.Process.Pid:
			return failed(fmt.Errorf("the tests were killed: %v", status.Signal()))
		}
	}
}
