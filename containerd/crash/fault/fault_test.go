//go:build linux && amd64

package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// The calls of a process that makes a store and works on it fail.
func TestFault(t *testing.T) {
	traced.Need(t)
	for _, s := range traced.Scenarios {
		t.Run(s.Name, func(t *testing.T) {
			dir, random := traced.Memory(t), traced.Random(t)
			calls := traced.Record(t, traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, "record")}, s)
			var count traced.Tally
			traced.Each(orKilled(traced.Sample(every(calls), traced.Runs(t, 90), random), random), func(i int, f fault) {
				stand := traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, fmt.Sprint(i))}
				met, err := f.try(t, stand, s)
				if err = errors.Join(err, os.RemoveAll(stand.Dir)); err != nil {
					t.Errorf("%v: %v", f, err)
				}
				count.Add(f.kind+" "+unix.ErrnoName(f.errno), met, err)
			})
			t.Logf("of %d calls, some failed: %v", len(calls), &count)
		})
	}
}

// Each single call of some kinds fails. A read of a snapshot's file: no walk misses a
// snapshot without saying so. An fstatfs, by which a checkpoint of many snapshots chooses
// how to sync them: it syncs them the other way, and goes on. An open that a signal has
// interrupted: it is made again.
func TestFaultEach(t *testing.T) {
	traced.Need(t)
	for kind, c := range map[string]struct {
		scenario traced.Scenario
		errno    syscall.Errno
	}{
		"read":             {traced.Scenarios[0], unix.EIO},
		"fstatfs":          {traced.Scenarios[1], unix.EIO},
		"openat to create": {traced.Recovery, unix.EINTR},
		"openat to enter":  {traced.Recovery, unix.EINTR},
		"openat to read":   {traced.Recovery, unix.EINTR},
		"openat to write":  {traced.Recovery, unix.EINTR},
	} {
		t.Run(kind, func(t *testing.T) {
			dir, s := traced.Memory(t), c.scenario
			calls := traced.Record(t, traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, "record")}, s)
			var faults []fault
			for n := range traced.Counts(calls)[kind] {
				faults = append(faults, fault{kind: kind, n: n + 1, errno: c.errno})
			}
			if len(faults) == 0 {
				t.Skipf("no %s in %d calls: where much waits to be written, checkpoints don't ask", kind, len(calls))
			}
			traced.Each(faults, func(i int, f fault) {
				stand := traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, fmt.Sprint(i))}
				if _, err := f.try(t, stand, s); err != nil {
					t.Errorf("%v: %v", f, err)
				}
			})
			t.Logf("%d calls", len(faults))
		})
	}
}

// The calls of a process that recovers what a killed one has left fail.
func TestFaultInRecovery(t *testing.T) {
	traced.Need(t)
	dir, random := traced.Memory(t), traced.Random(t)
	many := traced.Runs(t, 12)
	var count traced.Tally
	for i, ruin := range traced.Ruins(t, dir, traced.Scenarios[0], min(many, 25), random) {
		whole := ruin.Stand.Copy(t, filepath.Join(dir, fmt.Sprint("whole", i)))
		calls := traced.Record(t, whole, traced.Recovery)
		traced.Each(orKilled(traced.Sample(every(calls), many, random), random), func(k int, f fault) {
			stand := ruin.Stand.Copy(t, filepath.Join(dir, fmt.Sprint(i, "-", k)))
			met, err := f.try(t, stand, traced.Recovery, ruin.Left)
			if err = errors.Join(err, os.RemoveAll(stand.Dir)); err != nil {
				t.Errorf("after a kill %v, %v: %v", ruin.At, f, err)
			}
			count.Add(f.kind+" "+unix.ErrnoName(f.errno), met, err)
		})
	}
	t.Logf("some calls of recoveries failed: %v", &count)
}

// try runs a scenario with a fault, and judges what becomes of it. It reports whether it
// came to the fault.
func (f fault) try(t *testing.T, stand traced.Stand, s traced.Scenario, before ...*traced.Result) (bool, error) {
	var met *traced.Call
	r, err := stand.Run(t.Context(), s, f.decide(&met))
	if err == nil && !r.Killed() {
		err = r.Bad()
	}
	if err != nil {
		return met != nil, err
	}
	before = append(before, r)
	stand.Links = met != nil && f.onLink(*met)
	if r.Killed() {
		return met != nil, stand.Judge(t.Context(), s.Writers, before...)
	}
	return met != nil, errors.Join(f.verdict(s, r, met), stand.Judge(t.Context(), s.Writers, before...))
}

// onLink reports whether a parent link may be missing, or say another parent, after calls have
// failed of which met is the first: the library goes on, for the file says the parent, too.
func (f fault) onLink(met traced.Call) bool {
	switch f.kind {
	case "readlinkat", "symlinkat", "unlinkat":
		return f.always || filepath.Base(met.Path) == "parent"
	}
	return false
}

// verdict judges what a process was told.
func (f fault) verdict(s traced.Scenario, r *traced.Result, met *traced.Call) error {
	runs := outcomes(s, r)
	var bad []outcome
	for _, o := range runs {
		if o.acked+o.failed < o.wanted && o.err == "" {
			return fmt.Errorf("a run ended early, and without an error: %v", runs)
		}
		if o.err != "" || o.failed > 0 {
			bad = append(bad, o)
		}
	}
	switch {
	case f.always:
		return nil
	case met == nil || f.errno == unix.EINTR && f.kind != "close":
		if len(bad) > 0 {
			return fmt.Errorf("it did not matter, and yet: %v", bad)
		}
	case f.kind == "fdatasync" && filepath.Base(met.Path) == "journal" && (len(bad) == 0 || !bad[0].syncFailed):
		return fmt.Errorf("the journal was not synced, and no caller was told: %v", runs)
	case len(bad) > 1 || len(bad) == 1 && bad[0].failed > 1:
		return fmt.Errorf("it went on failing: %v", bad)
	case len(bad) == 1 && bad[0].syncFailed && !givesUp[f.kind]:
		return fmt.Errorf("it gave up, and no sync had failed: %v", bad)
	}
	return nil
}

// outcome is how a run has ended.
type outcome struct {
	wanted, acked int
	failed        int // that were not refused because a sync had failed before
	err           string
	syncFailed    bool
	why           []string
}

func outcomes(s traced.Scenario, r *traced.Result) []outcome {
	var all []outcome
	for i, notes := range r.Runs {
		o := outcome{wanted: s.Writers * s.Runs[i], err: r.Ended[i].Err, syncFailed: r.Ended[i].Failed}
		for _, n := range notes {
			switch {
			case n.Found:
			case n.Acked:
				o.acked++
			case n.Failed != "":
				o.why = append(o.why, n.Failed)
				if !strings.Contains(n.Failed, fsmeta.ErrFailed.Error()) {
					o.failed++
				}
			}
		}
		all = append(all, o)
	}
	return all
}
