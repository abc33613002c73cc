//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/fsmeta/fsmeta/lock"
)

const (
	placeVariable  = "FSMETA_E2E_PLACE"
	daemonVariable = "FSMETA_E2E_DAEMON"
	placePrefix    = "fsmeta-e2e-"
)

// supervise runs the tests, in namespaces of their own, and removes everything that
// they leave. It returns the exit status.
func supervise() int {
	runtime.LockOSThread() // init is killed when the thread ends that has started it
	base := os.Getenv("FSMETA_E2E_DIR")
	if base == "" {
		base = os.TempDir()
	}
	if err := sweep(base); err != nil {
		return failed(err)
	}
	place, err := newPlace(base)
	if err != nil {
		return failed(err)
	}
	status, err := place.runTests()
	if err := errors.Join(err, place.remove()); err != nil {
		return failed(err)
	}
	return status
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 2
}

// runTests starts init, which runs the tests, and returns their exit status. When it
// returns, none of their processes is left.
func (p *place) runTests() (status int, err error) {
	daemon, err := buildDaemon(p.dir)
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	cmd, err := self("init", placeVariable+"="+p.dir, daemonVariable+"="+daemon)
	if err != nil {
		return 0, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the tests in namespaces of their own: %w", err)
	}
	if err := p.remember(cmd.Process.Pid); err != nil {
		return 0, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var interrupted error
	for {
		select {
		case s := <-signals:
			interrupted = fmt.Errorf("stopped by a signal: %v", s)
			_ = cmd.Process.Kill() // fails where it has ended
		case err := <-ended:
			var exit *exec.ExitError
			if interrupted != nil || err != nil && !errors.As(err, &exit) {
				return 0, errors.Join(interrupted, err)
			}
			if !cmd.ProcessState.Exited() {
				return 0, fmt.Errorf("the tests were killed: %v", cmd.ProcessState)
			}
			return cmd.ProcessState.ExitCode(), nil
		}
	}
}

// self is this binary again, with the same arguments, in another part.
func self(part string, environment ...string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Without the log of what a test opens, go test never takes an earlier result for
	// the present one. It does not know that this package depends on the daemon.
	arguments := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile")
	})
	cmd := exec.Command(path, arguments...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(append(os.Environ(), environment...), partVariable+"="+part)
	return cmd, nil
}

// buildDaemon returns the path of the fsmeta-snapshotter to test.
func buildDaemon(dir string) (string, error) {
	if path := os.Getenv(daemonVariable); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, "fsmeta-snapshotter")
	arguments := []string{"build", "-C", "../cmd", "-o", path}
	if raceDetector {
		arguments = append(arguments, "-race")
	}
	cmd := exec.Command("go", append(arguments, "./fsmeta-snapshotter")...)
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the daemon: %w\n%s", err, output)
	}
	return path, nil
}

// place is the directory of one run. Its lock says that the run goes on.
type place struct {
	dir    string
	unlock func() error
}

func newPlace(base string) (*place, error) {
	dir, err := os.MkdirTemp(base, placePrefix)
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	unlock, free, err := lock.New(dir).TryLock()
	if err == nil && !free {
		err = fmt.Errorf("%s, which was just made, is locked", dir)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &place{dir, unlock}, nil
}

// namespaceFile is where a place has the process namespace of its tests.
func namespaceFile(dir string) string { return filepath.Join(dir, "namespace") }

// remember writes down in which process namespace init is.
func (p *place) remember(init int) error {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return err
	}
	return os.WriteFile(namespaceFile(p.dir), []byte(namespace), 0o600)
}

// remove removes the directory and the control groups, and says if anything else is
// left of the run.
func (p *place) remove() error {
	defer func() { _ = p.unlock() }() // there is nothing more to lock
	namespace, err := os.ReadFile(namespaceFile(p.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // init was not started
		return err
	}
	if err := removeGroups(filepath.Base(p.dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	return leftOutside(p.dir, string(namespace))
}

// sweep removes what is left of runs with a killed supervisor.
func sweep(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, placePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		unlock, free, err := lock.New(dir).TryLock()
		if err != nil || !free {
			continue // another run is at work there, or has just removed it
		}
		if err := (&place{dir, unlock}).remove(); err != nil {
			return err
		}
	}
	return nil
}
