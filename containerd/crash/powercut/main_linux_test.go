package powercut

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/apart"
)

const (
	machineVariable  = "FSMETA_CRASH_POWERCUT_MACHINE"  // makes this binary a machine
	workloadVariable = "FSMETA_CRASH_POWERCUT_WORKLOAD" // makes this binary a workload
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(workloadVariable) != "":
		os.Exit(become(workloadVariable, runWorkload))
	case os.Getenv(machineVariable) != "":
		os.Exit(become(machineVariable, runMachine))
	}
	os.Exit(apart.Main(m))
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
