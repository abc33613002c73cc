//go:build linux

package processes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/fsmeta/fsmeta/fsmeta"
)

const (
	storeVariable   = "FSMETA_CRASH_PROCESS_STORE" // makes this binary one of the processes
	secondsVariable = "FSMETA_CRASH_SECONDS"
	clients         = 3 // of each process, one of which only reads
	processCount    = 4
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(storeVariable); dir != "" {
		if err := process(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// process is one of the processes: it works until it is terminated, or killed.
func process(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := fsmeta.Open(dir)
	if err != nil {
		return err
	}
	l := &log{w: os.Stdout}
	var group sync.WaitGroup
	errs := make([]error, clients)
	for i := range clients {
		c := &client{store: s, number: i, writes: i > 0, rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), log: l}
		group.Go(func() { errs[i] = c.run(ctx) })
	}
	group.Wait()
	return errors.Join(append(errs, s.Close())...)
}

// child is a running process and its log.
type child struct {
	cmd *exec.Cmd
	out bytes.Buffer
	err bytes.Buffer
}

func start(t *testing.T, dir string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), storeVariable+"="+dir)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// end sends a signal and waits. A process that has not ended by it, or in order, has failed.
func (c *child) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	err := c.cmd.Wait()
	var exit *exec.ExitError
	byIt := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == s
	if err != nil && !byIt {
		t.Errorf("a process failed: %v\n%s", err, c.err.String())
	}
}

// All that the processes saw, killed ones too, fits one order of transactions. It is tried
// in rounds on one store.
func TestProcesses(t *testing.T) {
	dir := filepath.Join(shm(t), "store")
	var now state
	rounds, killed, transactions := 0, 0, 0
	for end := time.Now().Add(duration(t)); time.Now().Before(end) && !t.Failed(); rounds++ {
		ended := round(t, dir)
		begin := porcupine.Operation{Input: input{wrote: now.asWrites()}}
		ops := []porcupine.Operation{begin}
		for i, c := range ended {
			events, err := readEvents(&c.out)
			if err != nil {
				t.Fatal(err)
			}
			ops = append(ops, operations(events, 1+i*clients)...)
		}
		var last porcupine.Operation
		last, now = final(t, dir, 1+len(ended)*clients)
		judge(t, append(ops, last))
		killed += len(ended) - processCount
		transactions += len(ops)
	}
	t.Logf("%d transactions in %d rounds, in which %d processes were killed", transactions, rounds, killed)
	if killed == 0 || transactions < 100 {
		t.Error("too little was done to judge")
	}
}

// round runs the processes for a while, kills some and starts others, and returns all of
// them when they have ended.
func round(t *testing.T, dir string) (ended []*child) {
	running := make([]*child, processCount)
	for i := range running {
		running[i] = start(t, dir)
	}
	for range 4 {
		// Long enough for some transactions of each; how many doesn't matter.
		time.Sleep(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		i := rand.IntN(processCount)
		running[i].end(t, syscall.SIGKILL)
		ended = append(ended, running[i])
		running[i] = start(t, dir)
	}
	for _, c := range running {
		c.end(t, syscall.SIGTERM)
		ended = append(ended, c)
	}
	return ended
}

// final returns what is there in the end, and that as one more transaction.
func final(t *testing.T, dir string, number int) (porcupine.Operation, state) {
	t.Helper()
	begin := now()
	s, err := fsmeta.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var e event
	c := &client{store: s, rand: rand.New(rand.NewPCG(1, 2))}
	if err := errors.Join(c.read(context.Background(), &e), s.Close()); err != nil {
		t.Fatal(err)
	}
	findings, err := fsmeta.Check(t.Context(), dir, nil)
	if err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
	return porcupine.Operation{ClientId: number, Call: begin, Return: now(), Input: input{saw: e.Saw, known: true}}, e.Saw
}

func judge(t *testing.T, ops []porcupine.Operation) {
	t.Helper()
	switch result := porcupine.CheckOperationsTimeout(model, ops, 5*time.Minute); result {
	case porcupine.Ok:
	case porcupine.Illegal:
		explain(t, ops)
		t.Error("no order of the transactions explains what they saw")
	default:
		t.Errorf("it could not be decided in time: %v", result)
	}
}

// The model finds what must not be: a read of what was overwritten before it began, a
// torn read, and an acknowledged write that is lost.
func TestModelSees(t *testing.T) {
	write := func(client int, call, end int64, saw state, name int, value string) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Call: call, Return: end, Input: input{saw: saw, known: true, wrote: map[int]string{name: value}}}
	}
	read := func(client int, call, end int64, saw state) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Call: call, Return: end, Input: input{saw: saw, known: true}}
	}
	both := porcupine.Operation{ClientId: 0, Call: 1, Return: 2, Input: input{known: true, wrote: map[int]string{0: "a", 1: "b"}}}
	for name, c := range map[string]struct {
		want bool
		ops  []porcupine.Operation
	}{
		"in order":    {true, []porcupine.Operation{write(0, 1, 2, state{}, 0, "a"), read(1, 3, 4, state{"a"})}},
		"at once":     {true, []porcupine.Operation{write(0, 1, 4, state{}, 0, "a"), read(1, 2, 3, state{})}},
		"stale":       {false, []porcupine.Operation{write(0, 1, 2, state{}, 0, "a"), write(0, 3, 4, state{"a"}, 0, "b"), read(1, 5, 6, state{"a"})}},
		"torn":        {false, []porcupine.Operation{both, read(1, 1, 3, state{"a"})}},
		"lost":        {false, []porcupine.Operation{write(0, 1, 2, state{}, 0, "a"), read(1, 3, 4, state{})}},
		"lost update": {false, []porcupine.Operation{write(0, 1, 4, state{}, 0, "a"), write(1, 1, 4, state{}, 0, "b")}},
	} {
		if got := porcupine.CheckOperations(model, c.ops); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// What a killed process was about to do may have happened or not.
func TestOperations(t *testing.T) {
	log := `{"Client":1,"Op":0,"At":1}
{"Client":1,"Op":0,"At":2,"Saw":["","","","","",""],"Wrote":{"0":"a"}}
{"Client":1,"Op":0,"At":3,"Done":true,"Saw":["","","","","",""],"Wrote":{"0":"a"}}
{"Client":1,"Op":1,"At":4}
{"Client":1,"Op":1,"At":5,"Saw":["a","","","","",""],"Wrote":{"0":"b"}}
{"Client":1,"Op":1,"At":6,"Do`
	for _, saw := range []state{{"a"}, {"b"}, {"c"}} {
		events, err := readEvents(io.Reader(bytes.NewBufferString(log)))
		if err != nil {
			t.Fatal(err)
		}
		ops := append(operations(events, 10), porcupine.Operation{ClientId: 1, Call: 7, Return: 8, Input: input{saw: saw, known: true}})
		if got, want := porcupine.CheckOperations(model, ops), saw[0] != "c"; got != want {
			t.Errorf("%q: %v, want %v", saw[0], got, want)
		}
	}
}

// shm returns a directory in memory, where there is one: the disk is not what is tried.
func shm(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fsmeta-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func duration(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(secondsVariable)
	if text == "" {
		return 5 * time.Second
	}
	seconds, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%s: %v", secondsVariable, text, err)
	}
	return time.Duration(seconds) * time.Second
}
