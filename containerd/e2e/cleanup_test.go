//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// howVariable says how TestThatEndsBadly ends.
const howVariable = "FSMETA_E2E_HOW"

// However tests end while containers run, nothing is left of them: no process, no mount,
// no loop device, no control group and no file.
func TestNothingIsLeft(t *testing.T) {
	need(t)
	base := filepath.Join(os.Getenv(placeVariable), "inner")
	must(t, os.Mkdir(base, 0o700))
	for _, how := range []struct {
		name   string
		signal os.Signal // for the supervisor
	}{
		{"test fails", nil},
		{"test panics", nil},
		{"goroutine panics", nil}, // as when the tests take too long
		{"tests exit", nil},
		{"supervisor is terminated", syscall.SIGTERM},
		{"supervisor is killed", syscall.SIGKILL},
	} {
		t.Run(how.name, func(t *testing.T) {
			inner := startInner(t, base, how.name, "^TestThatEndsBadly$")
			place := inner.awaitReady(t)
			namespace, err := os.ReadFile(namespaceFile(place))
			must(t, err)
			inner.namespace = string(namespace)
			processes, err := processesIn(inner.namespace)
			must(t, err)
			loops, err := loopsOf(place)
			must(t, err)
			groups, err := groupsOf(place)
			must(t, err)
			if len(processes) == 0 || len(loops) == 0 || len(groups) == 0 {
				t.Errorf("while the inner tests run, the processes %q, the loop devices %q and the groups %q are found", processes, loops, groups)
			}
			if how.signal != nil {
				must(t, inner.cmd.Process.Signal(how.signal))
			} else {
				must(t, inner.stdin.Close())
			}
			if err := inner.wait(t); err == nil {
				t.Error("the inner tests have passed")
			}
			if how.signal == syscall.SIGKILL { // the next run does what it couldn't do
				must(t, startInner(t, base, "", "^$").wait(t))
			}
			must(t, leftOutside(place, inner.namespace))
			if entries, err := os.ReadDir(base); err != nil || len(entries) > 0 {
				t.Errorf("%d entries are left in the directory for temporary files: %v", len(entries), err)
			}
			checkNothingLeft(t, base)
		})
	}
}

// What a test leaves behind is found and taken away.
func TestLeftOvers(t *testing.T) {
	need(t)
	dir := newDirectory(t)
	outer, inner := filepath.Join(dir, "outer"), filepath.Join(dir, "outer", "inner")
	for _, path := range []string{outer, inner} {
		must(t, os.Mkdir(path, 0o755))
		must(t, unix.Mount("tmpfs", path, "tmpfs", 0, ""))
	}
	cmd := exec.Command(busybox, "sleep", "1000")
	must(t, cmd.Start())
	found := func() (found []string) {
		t.Helper()
		pids, err := others()
		must(t, err)
		for _, pid := range pids {
			found = append(found, describe(strconv.Itoa(pid)))
		}
		mounts, err := mountsBelow(dir)
		must(t, err)
		return append(found, mounts...)
	}
	want := []string{fmt.Sprintf("%d: %s sleep 1000 ", cmd.Process.Pid, busybox), inner, outer}
	if diff := cmp.Diff(want, found()); diff != "" {
		t.Errorf("what is found (-want +got):\n%s", diff)
	}
	must(t, endAll(dir))
	if err := cmd.Wait(); err == nil {
		t.Error("the process was not killed")
	}
	if got := found(); len(got) > 0 {
		t.Errorf("%q is left", got)
	}
	must(t, os.RemoveAll(dir))
}

// inner is a run of the tests that a test has started.
type inner struct {
	cmd       *exec.Cmd
	stdin     io.Closer
	stdout    io.Closer
	out       *bufio.Scanner
	said      bytes.Buffer
	namespace string // of its processes, once they are ready
}

// startInner starts the tests that match the pattern.
func startInner(t *testing.T, base, how, pattern string) *inner {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	cmd := exec.Command(path, "-test.run", pattern, "-test.v")
	cmd.Env = append(os.Environ(), partVariable+"=", "FSMETA_E2E_DIR="+base, howVariable+"="+how)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	return &inner{cmd: cmd, stdin: stdin, stdout: stdout, out: bufio.NewScanner(stdout)}
}

const ready = "ready in "

// awaitReady returns the directory of the run once its container runs.
func (in *inner) awaitReady(t *testing.T) (place string) {
	t.Helper()
	for in.out.Scan() {
		fmt.Fprintln(&in.said, in.out.Text())
		if _, place, ok := strings.Cut(in.out.Text(), ready); ok {
			return place
		}
	}
	t.Fatalf("the inner tests did not become ready: %v", in.wait(t))
	return ""
}

// wait returns when the inner tests have ended, and with an error if they have not passed.
// It fails the test when that takes too long.
func (in *inner) wait(t *testing.T) error {
	t.Helper()
	late := time.AfterFunc(3*patience, func() {
		pids, err := processesIn(in.namespace)
		t.Errorf("the inner tests have not ended after %v: %v", 3*patience, err)
		for _, pid := range pids {
			state, _ := os.ReadFile("/proc/" + pid + "/stat") // none of those that have just ended
			t.Errorf("still there: %s", state)
		}
		_ = in.cmd.Process.Kill() // fails where it has ended
		_ = in.stdout.Close()     // ends the loop below
	})
	defer late.Stop()
	for in.out.Scan() {
		fmt.Fprintln(&in.said, in.out.Text())
	}
	if err := in.cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, &in.said)
	}
	return nil
}

// This runs a container and then ends in the way that TestNothingIsLeft asks for, once
// standard input ends.
func TestThatEndsBadly(t *testing.T) {
	how := os.Getenv(howVariable)
	if how == "" {
		t.Skip("TestNothingIsLeft runs it")
	}
	s := startStand(t)
	im := importChanging(t, s)
	s.run(im.name, "running", "exec sleep 1000", "--detach")
	fmt.Printf("%s%s\n", ready, os.Getenv(placeVariable))
	for n := 1; n > 0; {
		n, _ = os.Stdin.Read(make([]byte, 1)) // nothing comes but its end
	}
	switch how {
	case "test fails":
		t.Fatal("as it should")
	case "test panics":
		panic("as it should")
	case "goroutine panics":
		go panic("as it should")
		select {}
	case "tests exit":
		os.Exit(1)
	default:
		select {} // until a signal ends it
	}
}
