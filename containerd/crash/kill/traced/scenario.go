//go:build linux && amd64

package traced

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// variable makes a test binary the process that is traced.
const variable = "FSMETA_CRASH_TRACED"

// timeout is when a scenario, which takes less than a second, is said to hang.
const timeout = 2 * time.Minute

// Scenario is what the traced process does: some runs on one store, each of which opens and
// closes it.
type Scenario struct {
	Name    string
	Seed    uint64
	Writers int
	Runs    []int // of so many transactions of each writer
	Padding int
	Files   uint64 // as many can be open, 0 for any number
	Squeeze bool   // in the middle third of each run, no more can be opened
}

// order is what the traced process is told.
type order struct {
	Scenario
	Dir string
}

// Ended is how one run of a scenario has ended.
type Ended struct {
	Err    string
	Failed bool // ErrFailed: a sync failed
}

// Result is what has become of a scenario.
type Result struct {
	Status syscall.WaitStatus
	Hung   bool
	Stderr string
	Runs   [][]workload.Note // what each run has noted
	Ended  []Ended           // of each run; nothing where it was killed
}

// Main is to be called by TestMain: it does not return in the traced process.
func Main() {
	text := os.Getenv(variable)
	if text == "" {
		return
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	ended := o.run(os.NewFile(3, "log"))
	if err := json.NewEncoder(os.Stdout).Encode(ended); err != nil {
		panic(err)
	}
	os.Exit(0)
}

func (o order) run(log *os.File) []Ended {
	if o.Files > 0 {
		limitFiles(o.Files)
	}
	var all []Ended
	for i, txns := range o.Runs {
		if _, err := fmt.Fprintf(log, "{\"Writer\":-1,\"Txn\":%d}\n", i); err != nil {
			panic(err)
		}
		err := workload.Run(context.Background(), workload.Config{
			Dir: o.Dir, Seed: o.Seed + uint64(i), Writers: o.Writers, Txns: txns, Padding: o.Padding, Log: log, Found: true,
			Before: o.before(txns),
		})
		var e Ended
		if err != nil {
			e = Ended{Err: err.Error(), Failed: errors.Is(err, fsmeta.ErrFailed)}
		}
		all = append(all, e)
	}
	return all
}

// limitFiles limits how many files this process can have open.
func limitFiles(n uint64) {
	// What the language needs for itself is to be there: it can't do without.
	r, w, err := os.Pipe()
	if err == nil {
		err = errors.Join(r.Close(), w.Close(), unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}))
	}
	if err != nil {
		panic(err)
	}
}

// before returns what is called before each transaction of a run of so many.
func (o order) before(txns int) func(writer, txn int) {
	if !o.Squeeze {
		return nil
	}
	var taken []*os.File
	return func(_, txn int) {
		switch txn {
		case txns / 3:
			for {
				f, err := os.Open(os.DevNull)
				if err != nil {
					return
				}
				taken = append(taken, f)
			}
		case 2 * txns / 3:
			for _, f := range taken {
				_ = f.Close() // it can't fail, and if it does the transactions do
			}
		}
	}
}

// Stand is where a scenario runs.
type Stand struct {
	Binary string // which calls Main
	Dir    string // a directory for it, with everything that it leaves
	World  string // the part of it that is watched, and has the store; Dir/world where it is ""
	Links  bool   // calls on parent links fail, see workload.History
}

// world is the directory with the files that are watched.
func (s Stand) world() string {
	if s.World != "" {
		return s.World
	}
	return filepath.Join(s.Dir, "world")
}

// Store is the directory of the store. The one above it is missing at first, too.
func (s Stand) Store() string { return filepath.Join(s.world(), "above", "store") }

// Run runs a scenario under the tracer.
func (s Stand) Run(ctx context.Context, scenario Scenario, decide Decide) (*Result, error) {
	if err := errors.Join(os.MkdirAll(s.Dir, 0o700), os.MkdirAll(s.world(), 0o700)); err != nil {
		return nil, err
	}
	text, err := json.Marshal(order{scenario, s.Store()})
	if err != nil {
		return nil, err
	}
	r, err := Process(ctx, s.Binary, s.Dir, s.world(), variable+"="+string(text), decide)
	if err != nil {
		return nil, err
	}
	return r, r.read(s.Dir)
}

// Process runs a program, with one variable more in its environment, under the tracer. What it
// writes goes to the files stdout, stderr and log in dir, the last of which is its descriptor 3. Calls on
// files in world are of interest. Of the result, the status and the standard error are told.
func Process(ctx context.Context, binary, dir, world, variable string, decide Decide) (*Result, error) {
	attr := &os.ProcAttr{Env: append(os.Environ(), variable, "GOTRACEBACK=all", "GORACE=atexit_sleep_ms=0")}
	for _, name := range []string{os.DevNull, filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr"), filepath.Join(dir, "log")} {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // the process has written to it
		attr.Files = append(attr.Files, f)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r := &Result{}
	var err error
	if r.Status, err = trace(ctx, binary, world, attr, decide); err != nil {
		return nil, err
	}
	r.Hung = ctx.Err() != nil
	text, err := os.ReadFile(filepath.Join(dir, "stderr"))
	r.Stderr = string(text)
	return r, err
}

// read takes in what the process has written.
func (r *Result) read(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "stdout"))
	if err != nil {
		return err
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &r.Ended); err != nil {
			return err
		}
	}
	f, err := os.Open(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer f.Close()
	notes, err := workload.ReadLog(f)
	for _, n := range notes {
		if n.Writer < 0 {
			r.Runs = append(r.Runs, nil)
		} else {
			r.Runs[len(r.Runs)-1] = append(r.Runs[len(r.Runs)-1], n)
		}
	}
	return err
}

// Judge judges the store by what all processes that ran on it have noted. One that is not
// made yet is made.
func (s Stand) Judge(ctx context.Context, writers int, results ...*Result) error {
	h := workload.NewHistory(writers)
	h.Links = s.Links
	noted := 0
	for _, r := range results {
		for _, notes := range r.Runs {
			noted += len(notes)
			if err := h.Add(notes); err != nil {
				return err
			}
		}
	}
	if _, err := os.Stat(filepath.Join(s.Store(), "layout")); errors.Is(err, fs.ErrNotExist) {
		if noted > 0 {
			return errors.New("the store was opened, and is not there")
		}
		made, err := fsmeta.Open(s.Store())
		if err != nil {
			return err
		}
		if err := made.Close(); err != nil {
			return err
		}
	}
	if err := h.Verify(ctx, s.Store()); err != nil {
		return err
	}
	return s.tidy()
}

// tidy looks whether something was left that is not needed: the ballast stays.
func (s Stand) tidy() error {
	entries, err := os.ReadDir(filepath.Join(s.Store(), "staging"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() != "ballast" {
			return fmt.Errorf("after a clean end, staging/ has %v", entries)
		}
	}
	return nil
}

// Bad returns what is wrong with how a process has ended that was not killed, if
// anything is.
func (r *Result) Bad() error {
	switch {
	case r.Hung:
		return fmt.Errorf("it hung:\n%s", r.Stderr)
	case !r.Status.Exited() || r.Status.ExitStatus() != 0 || strings.Contains(r.Stderr, "panic"):
		return fmt.Errorf("it ended with %x:\n%s", r.Status, r.Stderr)
	}
	return nil
}

// Killed reports whether the process was.
func (r *Result) Killed() bool { return r.Status.Signaled() && r.Status.Signal() == syscall.SIGKILL }
