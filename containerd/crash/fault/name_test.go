//go:build linux && amd64

package fault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"github.com/fsmeta/fsmeta/containerd/crash/workload"
	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// obstructed is the entry of the one snapshot that can't be changed, of several that are made
// and removed again and again.
const obstructed = "above/store/snapshots/0%2F1"

// obstructedRuns opens a store four times. The last time, nothing fails any more. With this
// seed the snapshot is made, changed, committed and removed while it can't be, and is there
// each time that the store is closed. The labels are long, so that the first run makes
// a checkpoint besides.
var obstructedRuns = traced.Scenario{Seed: 18, Writers: 1, Runs: []int{20, 10, 4, 4}, Padding: 64 << 10}

// obstructions are the calls on the entry, and on what is in it, that fail.
var obstructions = map[string][]string{
	"it can't be renamed into its place, nor its file exchanged": {"renameat2"},
	"it can't be renamed out, nor its file replaced":             {"renameat"},
	"it can't be entered":                       {"openat to enter"},
	"it can't be opened":                        {"openat to read"},
	"it can be neither renamed out nor deleted": {"renameat", "unlinkat"},
	"nothing can be done with it":               {"renameat2", "renameat", "openat to enter", "openat to read", "unlinkat"},
}

// noRoom are the errors for which the store may refuse to add anything.
var noRoom = []syscall.Errno{unix.ENOSPC, unix.EDQUOT, unix.EMLINK}

// Calls on the entry of one snapshot fail, each time, until the store is opened for the last
// time. No transaction fails for that, unless the error is a lack of room: then those that
// leave a snapshot may be refused, and those that only remove some may not. All that was
// acknowledged is there: for the process, for another one meanwhile, and when the store is
// opened again. When nothing fails any more, nothing is left to be found.
func TestFaultOfOneName(t *testing.T) {
	traced.Need(t)
	errnos := append([]syscall.Errno{unix.EPERM, unix.EBUSY, unix.EIO, unix.EUCLEAN, unix.EOPNOTSUPP}, noRoom...)
	every := map[string][]obstruction{}
	for name, kinds := range obstructions {
		for _, errno := range errnos {
			every[name] = append(every[name], obstruction{name: name, kinds: kinds, errno: errno})
		}
	}
	dir := traced.Memory(t)
	all := traced.Sample(every, traced.Runs(t, 36), traced.Random(t))
	var failed, refused, looks atomic.Int64
	traced.Each(all, func(i int, o obstruction) {
		o.stand = traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, fmt.Sprint(i))}
		err := o.try(t)
		if err = errors.Join(err, os.RemoveAll(o.stand.Dir)); err != nil {
			t.Errorf("%s, %s: %v", o.name, unix.ErrnoName(o.errno), err)
		}
		failed.Add(int64(o.met))
		refused.Add(int64(o.refused))
		looks.Add(int64(o.looks))
	})
	t.Logf("in %d cases, %d calls have failed, %d transactions were refused for lack of room, and another process has looked %d times",
		len(all), failed.Load(), refused.Load(), looks.Load())
	if refused.Load() == 0 || looks.Load() == 0 {
		t.Error("too little was done to judge")
	}
}

// The tests see a library that forgets which names are not brought up yet.
func TestFaultOfOneNameSeesDefect(t *testing.T) {
	traced.Need(t)
	dir := traced.Memory(t)
	binary := traced.Defective(t, dir, forgotten)
	o := obstruction{kinds: []string{"renameat2"}, errno: unix.EPERM,
		stand: traced.Stand{Binary: binary, Dir: filepath.Join(dir, "stand")}}
	err := o.try(t)
	if err == nil {
		t.Error("the defect was not seen")
	}
	t.Logf("%.500v", err)
}

// obstruction is a run in which calls on one entry fail.
type obstruction struct {
	name  string
	kinds []string
	errno syscall.Errno
	stand traced.Stand

	commits chan struct{} // after some of them

	met     int // calls that have failed
	first   int // notes that there were when the first did
	refused int // transactions
	looks   int // of another process, at what it knows must be there
	err     error
}

func (o *obstruction) try(t *testing.T) error {
	o.commits = make(chan struct{}, 1)
	looked := make(chan error)
	go func() { looked <- o.lookOn(t) }()
	r, err := o.stand.Run(t.Context(), obstructedRuns, o.decide)
	close(o.commits)
	err = errors.Join(err, <-looked)
	if err == nil {
		err = errors.Join(r.Bad(), o.err)
	}
	if err != nil {
		return err
	}
	if o.met == 0 {
		return errors.New("it has not come to that")
	}
	o.stand.Links = slices.Contains(o.kinds, "unlinkat")
	return errors.Join(o.verdict(r), o.clean(t), o.stand.Judge(t.Context(), obstructedRuns.Writers, r))
}

// decide lets the calls fail in all runs but the last.
func (o *obstruction) decide(c traced.Call, made bool) traced.Do {
	if made && c.Kind == "fdatasync" {
		select {
		case o.commits <- struct{}{}:
		default:
		}
	}
	if made || !slices.Contains(o.kinds, c.Kind) || !slices.ContainsFunc(strings.Split(c.Path, " and "), inObstructed) {
		return traced.Do{}
	}
	log, err := o.log()
	o.err = errors.Join(o.err, err)
	runs := bytes.Count(log, []byte("{\"Writer\":-1,"))
	if runs == len(obstructedRuns.Runs) {
		return traced.Do{}
	}
	if o.met++; o.met == 1 {
		o.first = bytes.Count(log, []byte("\n")) - runs
	}
	return traced.Do{Errno: o.errno}
}

func inObstructed(path string) bool {
	return path == obstructed || strings.HasPrefix(path, obstructed+"/")
}

// log returns what the process has noted so far.
func (o *obstruction) log() ([]byte, error) { return os.ReadFile(filepath.Join(o.stand.Dir, "log")) }

// lookOn looks at the store as another process does, after commits of the second run (in the
// others the process is alone, so that it makes a checkpoint in the end). Where nothing was
// noted meanwhile it is known what must be there.
func (o *obstruction) lookOn(t *testing.T) error {
	var errs error
	for range o.commits {
		before, err := o.log()
		if errs = errors.Join(errs, err); bytes.Count(before, []byte("{\"Writer\":-1,")) != 2 {
			continue
		}
		notes, err := workload.ReadLog(bytes.NewReader(before))
		notes = slices.DeleteFunc(notes, func(n workload.Note) bool { return n.Writer < 0 })
		h := workload.NewHistory(obstructedRuns.Writers)
		err = errors.Join(err, h.Add(notes), h.Judge(t.Context(), o.stand.Store()))
		after, aerr := o.log()
		errs = errors.Join(errs, aerr)
		if len(after) != len(before) {
			continue
		}
		if o.looks++; err != nil {
			errs = errors.Join(errs, fmt.Errorf("another process, after %d notes: %w", len(notes), err))
		}
	}
	return errs
}

// clean returns what a check finds when the process has ended.
func (o *obstruction) clean(t *testing.T) error {
	findings, err := fsmeta.Check(t.Context(), o.stand.Store(), nil)
	for _, f := range findings {
		if o.stand.Links && f.Harmless && filepath.Base(f.Path) == "parent" {
			continue
		}
		err = errors.Join(err, fmt.Errorf("the process has ended: %v", f))
	}
	return err
}

// verdict judges what the process was told.
func (o *obstruction) verdict(r *traced.Result) error {
	count := 0
	var is, next workload.Names // what is there, and with the transaction under way
	for i, notes := range r.Runs {
		if e := r.Ended[i]; e.Err != "" {
			return fmt.Errorf("run %d has failed: %s", i, e.Err)
		}
		done := 0
		for _, n := range notes {
			count++
			switch {
			case n.Found, n.Acked:
				is, next = n.After, nil
			case n.Failed == "":
				next = n.After
				continue
			case !slices.Contains(noRoom, o.errno) || !strings.Contains(n.Failed, o.errno.Error()) ||
				count <= o.first || i == len(obstructedRuns.Runs)-1:
				return fmt.Errorf("run %d, transaction %d failed: %s", i, n.Txn, n.Failed)
			case next == nil:
				return fmt.Errorf("run %d, transaction %d failed before it was to be committed: %s", i, n.Txn, n.Failed)
			case onlyRemoves(is, next):
				return fmt.Errorf("run %d, transaction %d, which only removes, failed: %s", i, n.Txn, n.Failed)
			default:
				o.refused++
			}
			if !n.Found {
				done++
			}
		}
		if done != obstructedRuns.Runs[i] {
			return fmt.Errorf("of %d transactions of run %d, the outcome of %d is known", obstructedRuns.Runs[i], i, done)
		}
	}
	return nil
}

// onlyRemoves reports whether all that was there still is the same, or is not there.
func onlyRemoves(before, after workload.Names) bool {
	for name, s := range after {
		if was, ok := before[name]; !ok || was != s {
			return false
		}
	}
	return true
}
