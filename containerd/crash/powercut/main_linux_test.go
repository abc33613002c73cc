package powercut

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const (
	isolatedVariable = "FSMETA_CRASH_POWERCUT_ISOLATED" // the tests have mounts of their own
	machineVariable  = "FSMETA_CRASH_POWERCUT_MACHINE"  // makes this binary a machine
	workloadVariable = "FSMETA_CRASH_POWERCUT_WORKLOAD" // makes this binary a workload
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(workloadVariable) != "":
		os.Exit(become(workloadVariable, runWorkload))
	case os.Getenv(machineVariable) != "":
		os.Exit(become(machineVariable, runMachine))
	case os.Geteuid() != 0 || os.Getenv(isolatedVariable) != "":
		os.Exit(m.Run())
	}
	os.Exit(isolate(m))
}

// isolate runs the tests with mounts of their own, so that none is left however they end.
func isolate(m *testing.M) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolatedVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(1, exit.ExitCode())
	}
	return m.Run() // root that may not mount: need says so
}

// become makes this process what the variable says.
func become[T any](variable string, run func(T) error) int {
	var as T
	err := json.Unmarshal([]byte(os.Getenv(variable)), &as)
	if err == nil {
		err = run(as)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// command returns a command that runs a test binary as something else. It ends with this
// process.
func command(binary, variable string, as any) (*exec.Cmd, error) {
	text, err := json.Marshal(as)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), variable+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}
