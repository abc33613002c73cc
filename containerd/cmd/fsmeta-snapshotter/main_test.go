//go:build linux

package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// partVariable makes the test binary the daemon.
const partVariable = "FSMETA_SNAPSHOTTER_TEST_PART"

func TestMain(m *testing.M) {
	if os.Getenv(partVariable) == "daemon" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// limit is how long a test waits for what comes as a rule at once.
const limit = time.Minute

// self is this program as the daemon.
func self(arguments ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", arguments...)
	cmd.Env = append(os.Environ(), partVariable+"=daemon")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// process is a daemon in a process of its own.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has ended, and all that it says is in lines

	mu    sync.Mutex
	lines []string      // of its log
	more  chan struct{} // closed with the next one
}

// startDaemon starts a daemon, and kills it at the end of the test.
func startDaemon(t testing.TB, arguments ...string) *process {
	t.Helper()
	return startProcess(t, self(arguments...))
}

func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{}), more: make(chan struct{})}
	r, w, err := os.Pipe()
	must(t, err)
	cmd.Stdout, cmd.Stderr = w, w
	must(t, cmd.Start())
	must(t, w.Close())
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.add(lines.Text())
		}
		_ = cmd.Wait() // cmd.ProcessState has it
		_ = r.Close()  // nothing was written to it
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) add(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, line)
	close(p.more)
	p.more = make(chan struct{})
}

// log returns what it has said, and a channel that is closed when it says more.
func (p *process) log() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n"), p.more
}

// await returns the first line with text in it, and waits for it.
func (p *process) await(text string) string {
	p.t.Helper()
	late := time.After(limit)
	for {
		log, more := p.log()
		for line := range strings.Lines(log) {
			if strings.Contains(line, text) {
				return line
			}
		}
		select {
		case <-more:
		case <-p.ended:
			if log, _ := p.log(); !strings.Contains(log, text) {
				p.t.Fatalf("the daemon has ended (%v) and did not say %q:\n%s", p.cmd.ProcessState, text, log)
			}
		case <-late:
			p.t.Fatalf("the daemon does not say %q:\n%s", text, log)
		}
	}
}

// ready waits until it serves.
func (p *process) ready() *process {
	p.t.Helper()
	p.await("serving the ")
	return p
}

// end waits for its end, and returns its exit status, with all that it has said.
func (p *process) end() (status int, log string) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		log, _ := p.log()
		p.t.Fatalf("the daemon does not end:\n%s", log)
	}
	log, _ = p.log()
	return p.cmd.ProcessState.ExitCode(), log
}

// stop ends it in order.
func (p *process) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	if status, log := p.end(); status != 0 {
		p.t.Fatalf("the daemon was stopped and ends with status %d:\n%s", status, log)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails where it has ended
	<-p.ended
}

// newDisk makes a filesystem on a file, and returns where it is mounted until the test ends.
func newDisk(t *testing.T, filesystem string, options ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	mkfs, err := exec.LookPath("mkfs." + filesystem)
	if err != nil {
		t.Skipf("mkfs.%s is missing: install it", filesystem)
	}
	dir := t.TempDir()
	image, path := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	must(t, os.Mkdir(path, 0o700))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	execute(t, mkfs, append(append([]string{"-q"}, options...), image)...)
	execute(t, "mount", "-o", "loop", image, path)
	t.Cleanup(func() { // not at once: what a killed process had open is closed a moment later
		var err error
		for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if err = unix.Unmount(path, 0); err == nil || err == unix.EINVAL { // which is not mounted any more
				return
			}
		}
		t.Errorf("unmount %s: %v", path, err)
	})
	return path
}

// execute runs a program that succeeds, and returns what it says.
func execute(t testing.TB, name string, arguments ...string) string {
	t.Helper()
	out, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, bytes.TrimSpace(out))
	}
	return string(out)
}
