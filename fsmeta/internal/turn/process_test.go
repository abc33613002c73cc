package turn_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/lock"
)

// childDir is set for a child process: for each line that it reads it takes its turn in that
// directory and says so. It keeps the turn until the next line.
const childDir = "TURN_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(dir string) {
	p := start(&testing.T{}, dir)
	in := bufio.NewScanner(os.Stdin)
	fmt.Println("ready")
	for in.Scan() {
		if err := p.Take(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("taken")
		in.Scan()
		p.Release()
		p.End()
	}
}

// peer is a child process.
type peer struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startPeer(t *testing.T, dir string) *peer {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// Under -race, a process would sleep for a second when it ends.
	cmd.Env = append(os.Environ(), childDir+"="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p := &peer{t, cmd, in, bufio.NewReader(out)}
	if err := p.expect("ready"); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) say() error {
	_, err := fmt.Fprintln(p.in)
	return err
}

func (p *peer) expect(want string) error {
	line, err := p.out.ReadString('\n')
	if got := strings.TrimSpace(line); got != want {
		return fmt.Errorf("child said %q (%v), want %q", got, err, want)
	}
	return nil
}

// stop returns when the child is stopped.
func (p *peer) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if must(p.t, err); status.Stopped() {
			return
		}
		p.t.Fatalf("child has ended: %v", status)
	}
}

// awaitTurnstile returns when another process holds the turnstile.
func awaitTurnstile(t *testing.T, p *process) {
	t.Helper()
	for {
		unlock, ok, err := lock.New(p.turnstile()).TryLock()
		must(t, err)
		if !ok {
			return
		}
		must(t, unlock())
		runtime.Gosched()
	}
}

// A waiter that is stopped at the turnstile does not stop the process that writes, and is
// served when it goes on.
func TestStoppedWaiter(t *testing.T) {
	dir := t.TempDir()
	a := start(t, dir)
	a.take()
	b := startPeer(t, dir)
	must(t, b.say())
	awaitTurnstile(t, a)
	b.stop()
	a.Release()
	a.End()

	deadline := time.Now().Add(30 * time.Second) // it takes some 0.2 s
	rounds := 0
	for ; rounds < 1000 || a.count("Settle") < 4; rounds++ {
		a.round()
		if time.Now().After(deadline) {
			t.Fatalf("%d rounds, %d yields in half a minute", rounds, a.count("Settle"))
		}
	}
	awaitTurnstile(t, a) // so it was stopped there all the time

	must(t, b.cmd.Process.Signal(syscall.SIGCONT))
	taken := make(chan error, 1)
	go func() { // a waits in Take while b has the turn
		err := b.expect("taken")
		taken <- err
		must(t, errors.Join(err, b.say()))
	}()
	for len(taken) == 0 {
		a.round()
		if time.Now().After(deadline) {
			t.Fatal("the waiter that goes on is not served")
		}
	}
	must(t, <-taken)
}

// A process that writes all the time lets the waiter of another process in.
func TestWaiterOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	a := start(t, dir)
	b := startPeer(t, dir)
	const services = 10
	var asked, served atomic.Int64
	ended := make(chan error, 1)
	go func() {
		for range services {
			asked.Add(1)
			err := errors.Join(b.say(), b.expect("taken"))
			served.Add(1)
			if err = errors.Join(err, b.say()); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	const most = 1_000_000
	rounds := 0
	for before := int64(0); len(ended) == 0; rounds++ {
		a.round()
		if n := served.Load(); n != before {
			rounds, before = 0, n
		}
		if rounds > most {
			t.Fatalf("%d rounds, and the waiter is not served; it was %d times before", most, served.Load())
		}
	}
	must(t, <-ended)
	// A waiter that gets no processor for a while may miss its chance.
	if yields := a.count("Settle"); yields > 5*services {
		t.Errorf("%d yields for %d services", yields, services)
	}
}

// The error names the process that has the turn, with its command.
func TestErrorNamesProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc/locks")
	}
	dir := t.TempDir()
	a := start(t, dir)
	b := startPeer(t, dir)
	must(t, errors.Join(b.say(), b.expect("taken")))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := a.Take(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	command := filepath.Base(os.Args[0])
	wantText(t, err.Error(), fmt.Sprintf("process %d (%s) has the lock", b.cmd.Process.Pid, command[:min(len(command), 15)]))
	a.End()
	must(t, b.say())
}

// A process that is killed while it has the turn loses it.
func TestKilledHolder(t *testing.T) {
	dir := t.TempDir()
	a := start(t, dir)
	b := startPeer(t, dir)
	must(t, errors.Join(b.say(), b.expect("taken")))
	got := make(chan error, 1)
	go func() { got <- a.Take(context.Background()) }()
	must(t, b.cmd.Process.Kill())
	must(t, <-got)
	a.Release()
	a.End()
	a.wantCalls("Make TakeOver")
}
