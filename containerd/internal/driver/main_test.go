//go:build linux

package driver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
)

// childVariable is set in a child process: its value says what it does, see Children.
const childVariable = "FSMETA_TEST_CHILD"

// Children are what this test binary does instead of testing, in a process of its own
// that a test has started.
var Children = map[string]func(arguments []string) error{"hold": holdRoot}

func TestMain(m *testing.M) {
	switch what := os.Getenv(childVariable); what {
	case "":
		if os.Geteuid() == 0 {
			os.Exit(runApart())
		}
		os.Exit(m.Run())
	case apart:
		must := func(err error) {
			if err != nil {
				fmt.Fprintln(os.Stderr, "a mount namespace for the tests:", err)
				os.Exit(1)
			}
		}
		must(os.Unsetenv(childVariable))
		must(leaveMounts())
		os.Exit(m.Run())
	default:
		if err := Children[what](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// apart is what the child process does that runs all tests.
const apart = "apart"

// runApart runs the tests in a mount namespace of their own. What they mount goes with
// them, and is not kept mounted by a namespace that others make meanwhile: the power of a
// disk could not come back then.
func runApart() (code int) {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), childVariable+"="+apart)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // the signal comes when the thread ends
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		fmt.Fprintln(os.Stderr, err)
	}
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// leaveMounts keeps mounts from going out, and lets those of others go that they may
// unmount.
func leaveMounts() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SLAVE, ""); err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Source, "/dev/loop") || m.Mountpoint == "/", false
	})
	if err != nil {
		return err
	}
	working, err := os.Getwd()
	for _, m := range mounts {
		holds := func(path string) bool { return strings.HasPrefix(path+"/", m.Mountpoint+"/") }
		if !holds(working) && !holds(os.TempDir()) && !holds(os.Args[0]) {
			_ = syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH) // fails where it went with another
		}
	}
	return err
}

// ChildCommand is how a child process is started, by the program of which the first
// words are given, if there are any.
func ChildCommand(what string, by []string, arguments ...string) *exec.Cmd {
	words := append(append(append([]string{}, by...), os.Args[0]), arguments...)
	cmd := exec.Command(words[0], words[1:]...)
	// Under -race, a process would sleep for a second when it ends.
	cmd.Env = append(os.Environ(), childVariable+"="+what, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// holdRoot opens a root directory, says so, and keeps it until its standard input ends.
func holdRoot(arguments []string) error {
	s, err := Open(arguments[0], &fake{}, Config{})
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return s.Close()
}

// startHolder returns when a child process has the root directory open. kill ends it.
func startHolder(t *testing.T, root string) (kill func()) {
	t.Helper()
	cmd := ChildCommand("hold", nil, root)
	_, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill() // fails where it has ended
		_ = cmd.Wait()         // says that it was killed
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "open" {
		t.Fatalf("the other process said %q: %v", line, err)
	}
	return kill
}
