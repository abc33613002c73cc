//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is a daemon that was started: containerd, or the one that is tested.
type program struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has ended, with err
	err   error
}

// start starts a program that adds what it says to a log file.
func start(t testing.TB, log string, name string, arguments ...string) *program {
	t.Helper()
	return startCommand(t, log, exec.Command(name, arguments...))
}

// startPassing starts a program with a socket that it gets as from systemd.
func startPassing(t testing.TB, log string, socket *os.File, name string, arguments ...string) *program {
	t.Helper()
	// LISTEN_PID is known in the process alone.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`, name}, arguments...)...)
	cmd.ExtraFiles = []*os.File{socket}
	return startCommand(t, log, cmd)
}

func startCommand(t testing.TB, log string, cmd *exec.Cmd) *program {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer out.Close() // the program has its own
	p := &program{name: filepath.Base(cmd.Path), log: log, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for the supervisor
	must(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p
}

// running returns nil while the program runs, and what it ended with afterwards.
func (p *program) running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended: %v\n%s", p.name, p.cmd.ProcessState, tail(p.log))
	default:
		return nil
	}
}

// awaitReady returns once ready returns nil. It fails the test if the program ends before.
func (p *program) awaitReady(t testing.TB, ready func() error) {
	t.Helper()
	var ended error
	err := poll(func() error {
		if ended = p.running(); ended != nil {
			return nil
		}
		return ready()
	})
	must(t, ended)
	if err != nil {
		t.Fatalf("%s does not become ready: %v\n%s", p.name, err, tail(p.log))
	}
}

// stop ends the program with SIGTERM, and fails the test if it does not end as it should.
func (p *program) stop(t testing.TB) {
	t.Helper()
	must(t, p.running())
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.kill()
		t.Fatalf("%s has not ended %v after SIGTERM\n%s", p.name, patience, tail(p.log))
	}
	if p.err != nil {
		t.Fatalf("%s was stopped and says %v\n%s", p.name, p.err, tail(p.log))
	}
}

// kill ends the program with SIGKILL.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // fails where it has ended
	<-p.ended
}

// tail returns the end of a log, without what containerd says whenever it starts.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(data)), "\n"), func(line string) bool {
		return strings.Contains(line, "loading plugin")
	})
	if n := len(lines) - 100; n > 0 {
		lines = lines[n:]
	}
	return fmt.Sprintf("the end of %s:\n%s", strings.TrimPrefix(path, diskDir+"/"), strings.Join(lines, "\n"))
}
