//go:build linux && amd64

package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"github.com/fsmeta/fsmeta/containerd/crash/workload"
	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// A store says when its disk is full, and goes on when there is room.
func TestFullForAWhile(t *testing.T) {
	onDisks(t, func(t *testing.T, disk string) {
		const from, to, all = 30, 60, 90
		dir := filepath.Join(disk, "store")
		var log bytes.Buffer
		err := workload.Run(t.Context(), workload.Config{
			Dir: dir, Seed: 8, Writers: 1, Txns: all, Padding: 24 << 10, Log: &log, Found: true,
			Before: func(_, txn int) {
				var err error
				if from <= txn && txn < to {
					err = fill(disk) // each time, for a checkpoint makes room
				} else {
					err = makeRoom(disk)
				}
				if err != nil {
					t.Error(err)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		notes, err := workload.ReadLog(&log)
		if err != nil {
			t.Fatal(err)
		}
		h := workload.NewHistory(1)
		if err := errors.Join(h.Add(notes), h.Verify(t.Context(), dir)); err != nil {
			t.Fatal(err)
		}
		failed := 0
		for _, n := range notes {
			if n.Failed == "" {
				continue
			}
			failed++
			if n.Txn < from || n.Txn >= to || !strings.Contains(n.Failed, unix.ENOSPC.Error()) {
				t.Errorf("transaction %d failed: %s", n.Txn, n.Failed)
			}
		}
		if failed == 0 || failed+h.Acked != all {
			t.Errorf("%d failed, %d were acknowledged, of %d", failed, h.Acked, all)
		}
		t.Logf("with a full disk %d of %d transactions failed", failed, to-from)
	})
}

// On a full disk, nothing can be made, and what is there can be read and removed.
func TestFullStillRemoves(t *testing.T) {
	onDisks(t, func(t *testing.T, disk string) {
		dir := filepath.Join(disk, "store")
		s, err := fsmeta.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		create := func(name string, size int) error {
			return s.WithTransaction(t.Context(), true, func(ctx context.Context) error {
				_, err := s.CreateWith(ctx, name, "", false, fsmeta.WithLabels(map[string]string{"l": strings.Repeat("+", size)}))
				return err
			})
		}
		remove := func(name string) error {
			return s.WithTransaction(t.Context(), true, func(ctx context.Context) error {
				_, err := s.Remove(ctx, name)
				return err
			})
		}
		for i := range 10 {
			if err := create(fmt.Sprint(i), 10); err != nil {
				t.Fatal(err)
			}
		}
		if err := fill(disk); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			if err := create("large", 1<<20); !errors.Is(err, unix.ENOSPC) || errors.Is(err, fsmeta.ErrOutcomeUnknown) {
				t.Errorf("making one on a full disk: %v", err)
			}
			if err := remove(fmt.Sprint(i)); err != nil {
				t.Errorf("removing one on a full disk: %v", err)
			}
			if _, err := s.Stat(t.Context(), "large"); !errors.Is(err, fsmeta.ErrNotExist) {
				t.Errorf("of what could not be made: %v", err)
			}
			if _, err := s.Stat(t.Context(), fmt.Sprint(i+5)); err != nil {
				t.Errorf("reading on a full disk: %v", err)
			}
		}
		if err := errors.Join(makeRoom(disk), create("large", 1<<20), s.Close()); err != nil {
			t.Error(err)
		}
		if findings, err := fsmeta.Check(t.Context(), dir, nil); err != nil || len(findings) > 0 {
			t.Error(findings, err)
		}
	})
}

// full is a run on a disk that becomes full at a point, and has room again so many calls later.
type full struct {
	at    traced.Point
	disk  string
	stand traced.Stand

	calls  int // since then
	noted  int // notes that there were when there was room again
	filled bool
	err    error
}

const fullFor = 120

func (f *full) decide(c traced.Call, made bool) traced.Do {
	switch {
	case f.filled:
		f.calls++
		if f.calls == fullFor {
			f.err = errors.Join(f.err, makeRoom(f.disk))
			log, err := os.ReadFile(filepath.Join(f.stand.Dir, "log"))
			f.noted, f.err = bytes.Count(log, []byte("\n")), errors.Join(f.err, err)
		}
	case f.at.Is(c, made):
		f.filled = true
		f.err = fill(f.disk)
	}
	return traced.Do{}
}

// A disk becomes full at each call of a process, those of a checkpoint too, and has room
// again some calls later.
func TestFullAtCall(t *testing.T) {
	traced.Need(t)
	onDisks(t, func(t *testing.T, disk string) {
		dir, random, s := traced.Memory(t), traced.Random(t), traced.Scenarios[0]
		stand := func(name string) traced.Stand {
			return traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, name), World: filepath.Join(disk, "world")}
		}
		recorded := stand("record")
		calls := traced.Record(t, recorded, s)
		if err := os.RemoveAll(recorded.World); err != nil {
			t.Fatal(err)
		}
		points := append(traced.Sample(inCheckpoints(calls), traced.Runs(t, 30), random),
			traced.Sample(traced.Every(calls), traced.Runs(t, 12), random)...)
		var count traced.Tally
		for i, at := range points {
			f := &full{at: at, disk: disk, stand: stand(fmt.Sprint(i))}
			err := f.try(t, s)
			if err = errors.Join(err, makeRoom(disk), os.RemoveAll(f.stand.World), os.RemoveAll(f.stand.Dir)); err != nil {
				t.Errorf("full %v: %v", at, err)
			}
			count.Add(at.Kind, f.filled, err)
		}
		t.Logf("of %d calls, the disk was full at some: %v", len(calls), &count)
	})
}

// inCheckpoints returns points before each call on a new journal, by their kinds.
func inCheckpoints(calls []traced.Call) map[string][]traced.Point {
	points := map[string][]traced.Point{}
	for _, c := range calls {
		if strings.Contains(c.Path, "staging/.journal") && c.Kind != "fcntl" && c.Kind != "close" {
			points[c.Kind] = append(points[c.Kind], traced.Point{Kind: c.Kind, N: c.N})
		}
	}
	return points
}

func (f *full) try(t *testing.T, s traced.Scenario) error {
	r, err := f.stand.Run(t.Context(), s, f.decide)
	if err == nil {
		err = r.Bad()
	}
	if err = errors.Join(err, f.err, makeRoom(f.disk)); err != nil {
		return err
	}
	return errors.Join(f.verdict(s, r), f.stand.Judge(t.Context(), s.Writers, r))
}

// verdict judges what the process was told: nothing but that the disk was full, and that
// only as long as it was.
func (f *full) verdict(s traced.Scenario, r *traced.Result) error {
	count := 0
	late := 0 // failures that were told when there was room again
	for i, notes := range r.Runs {
		count++ // the line that begins a run
		for _, n := range notes {
			count++
			if n.Failed == "" {
				continue
			}
			if !strings.Contains(n.Failed, unix.ENOSPC.Error()) {
				return fmt.Errorf("transaction %d failed, and not for the disk was full: %s", n.Txn, n.Failed)
			}
			if f.noted > 0 && count > f.noted {
				late++
			}
		}
		if e := r.Ended[i]; e.Failed || e.Err != "" && !strings.Contains(e.Err, unix.ENOSPC.Error()) {
			return fmt.Errorf("a run ended, and not for the disk was full: %v", e.Err)
		}
	}
	if late > s.Writers { // that were under way
		return fmt.Errorf("%d transactions failed when there was room again", late)
	}
	return nil
}
