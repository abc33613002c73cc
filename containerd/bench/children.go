//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/fsmeta/fsmeta/containerd/internal/peers"
)

// childVariable is the environment variable that makes this program one of its own
// children: it holds a job.
const childVariable = "FSMETA_BENCH_CHILD"

// job is what a child process is to do with a store.
type job struct {
	Do   string // a key of childJobs
	Peer string
	Path string
	Name string // of a snapshot
	Size int    // how many snapshots the store was filled with
}

var childJobs = map[string]func(j job, peer peers.Peer, in io.Reader, out *json.Encoder) error{
	"open": childOpen, "memory": childMemory, "watch": childWatch,
}

// beChild does the job that the environment names, if there is one, and does not return
// then.
func beChild() {
	text, child := os.LookupEnv(childVariable)
	if !child {
		return
	}
	if err := doJob(text, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func doJob(text string, in io.Reader, out io.Writer) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("%s: %w", childVariable, err)
	}
	do := childJobs[j.Do]
	for _, peer := range []peers.Peer{peers.Bolt, peers.FS} {
		if peer.Name == j.Peer && do != nil {
			return do(j, peer, in, json.NewEncoder(out))
		}
	}
	return fmt.Errorf("%s: no such job: %+v", childVariable, j)
}

// getInfoOf reads one snapshot in a transaction of its own.
func getInfoOf(store peers.Store, name string) error {
	s := &subject{Store: store}
	return getInfoAlone(s).do(context.Background(), s, name)
}

// childOpen answers with how long it takes to open a store and to ask for the first
// snapshot, in nanoseconds.
func childOpen(j job, peer peers.Peer, _ io.Reader, out *json.Encoder) error {
	start := time.Now()
	store, err := peer.Open(j.Path)
	if err != nil {
		return err
	}
	err = getInfoOf(store, j.Name)
	took := time.Since(start)
	return errors.Join(err, store.Close(), out.Encode(took.Nanoseconds()))
}

// memory is what a process has in memory, in bytes: in all, what only it has, and what
// it shares with the page cache.
type memory struct{ RSS, Anon, File float64 }

// childMemory answers with its memory when it has opened a store, and when it has
// walked over it twice.
func childMemory(j job, peer peers.Peer, _ io.Reader, out *json.Encoder) error {
	store, err := peer.Open(j.Path)
	if err != nil {
		return err
	}
	defer store.Close() //nolint:errcheck // nothing was written
	if err := getInfoOf(store, j.Name); err != nil {
		return err
	}
	var both [2]memory
	if both[0], err = memoryNow(); err != nil {
		return err
	}
	s := &subject{Store: store, size: j.Size}
	for range 2 {
		if err := s.warm(context.Background()); err != nil {
			return err
		}
	}
	if both[1], err = memoryNow(); err != nil {
		return err
	}
	runtime.KeepAlive(store)
	return out.Encode(both)
}

// memoryNow says what is in memory when garbage is not.
func memoryNow() (memory, error) {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return memory{}, err
	}
	return parseMemory(string(status))
}

func parseMemory(status string) (m memory, err error) {
	for name, value := range map[string]*float64{"VmRSS:": &m.RSS, "RssAnon:": &m.Anon, "RssFile:": &m.File} {
		_, rest, found := strings.Cut(status, "\n"+name)
		if _, serr := fmt.Sscanf(rest, "%f kB", value); !found || serr != nil {
			err = errors.Join(err, fmt.Errorf("/proc/self/status has no %s that can be read", name))
		}
		*value *= 1024
	}
	return m, err
}

// childWatch has a store open, and whenever it is told a name it answers with how
// long a read transaction with a GetInfo of it takes, in nanoseconds.
func childWatch(j job, peer peers.Peer, in io.Reader, out *json.Encoder) error {
	store, err := peer.Open(j.Path)
	if err != nil {
		return err
	}
	for told := bufio.NewScanner(in); told.Scan(); {
		start := time.Now()
		if err := getInfoOf(store, told.Text()); err != nil {
			return errors.Join(err, store.Close())
		}
		if err := out.Encode(time.Since(start).Nanoseconds()); err != nil {
			return errors.Join(err, store.Close())
		}
	}
	return store.Close()
}

// command returns the process that does a job: this program again.
func command(ctx context.Context, j job) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// ask has a job done by a process and returns its answer.
func ask[T any](ctx context.Context, j job) (answer T, err error) {
	cmd, err := command(ctx, j)
	if err != nil {
		return answer, err
	}
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err != nil {
		return answer, fmt.Errorf("child process (%s, %s): %w", j.Do, j.Peer, err)
	}
	return answer, nil
}

// coldProcess measures how long a process that starts takes to open a store and to
// have the first answer. The store was closed in order, and the page cache is warm.
func coldProcess(b *bench) ([]samples, error) {
	var both [2]batch
	for i, peer := range []peers.Peer{peers.Bolt, peers.FS} {
		path, err := b.keptPath(peer, b.big)
		if err != nil {
			return nil, err
		}
		asked := 0
		run := func() ([]float64, error) {
			name := nameOf(asked * 7919 % b.big) // another one each time, far from the last
			asked++
			took, err := ask[float64](b.ctx, job{Do: "open", Peer: peer.Name, Path: path, Name: name})
			return []float64{took}, err
		}
		if _, err := run(); err != nil { // warms the page cache
			return nil, err
		}
		both[i] = batch{name: peer.Name, run: run}
	}
	return interleave(b.cold, 1, b.settle, both[0], both[1])
}
