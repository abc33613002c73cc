// Package apart runs the tests of a package with mounts of their own. However they end, none of
// their mounts is left. And no other process makes a copy of the mounts, by leaving for
// mounts of its own: a copy keeps a filesystem from ending, so that one of which the power was
// cut could not be mounted anew.
package apart

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// variable is set where the tests have mounts of their own.
const variable = "FSMETA_CRASH_APART"

// Main runs the tests, apart where this process may mount, and returns how the process is to exit.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 || Is() {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), variable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // the signal comes when the thread ends
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	}
	return m.Run() // root that may not mount
}

// Is tells whether the tests have mounts of their own.
func Is() bool { return os.Getenv(variable) != "" }
