//go:build linux && amd64

package kill

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
)

// A process that makes a store and works on it is killed at each of its calls.
func TestKill(t *testing.T) {
	traced.Need(t)
	for _, s := range traced.Scenarios {
		t.Run(s.Name, func(t *testing.T) {
			dir, random := traced.Memory(t), traced.Random(t)
			calls := traced.Record(t, traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, "record")}, s)
			var count traced.Tally
			traced.Each(traced.Sample(traced.Every(calls), traced.Runs(t, 100), random), func(i int, p traced.Point) {
				stand := traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, fmt.Sprint(i))}
				r, err := stand.Kill(t, s, p)
				if err == nil {
					err = stand.Judge(t.Context(), s.Writers, r)
				}
				if err = errors.Join(err, os.RemoveAll(stand.Dir)); err != nil {
					t.Errorf("killed %v: %v", p, err)
				}
				count.Add(p.Kind, r != nil && r.Killed(), err)
			})
			t.Logf("of %d calls, killed at some: %v", len(calls), &count)
		})
	}
}

// A process that recovers what a killed one has left is killed at each of its calls, too.
func TestKillRecovery(t *testing.T) {
	traced.Need(t)
	dir, random := traced.Memory(t), traced.Random(t)
	many := traced.Runs(t, 15)
	var count traced.Tally
	for i, ruin := range traced.Ruins(t, dir, traced.Scenarios[0], min(many, 50), random) {
		whole := ruin.Stand.Copy(t, filepath.Join(dir, fmt.Sprint("whole", i)))
		calls := traced.Record(t, whole, traced.Recovery)
		traced.Each(traced.Sample(traced.Every(calls), many, random), func(k int, p traced.Point) {
			stand := ruin.Stand.Copy(t, filepath.Join(dir, fmt.Sprint(i, "-", k)))
			r, err := stand.Kill(t, traced.Recovery, p)
			if err == nil {
				err = stand.Judge(t.Context(), traced.Recovery.Writers, ruin.Left, r)
			}
			if err = errors.Join(err, os.RemoveAll(stand.Dir)); err != nil {
				t.Errorf("after a kill %v, killed %v: %v", ruin.At, p, err)
			}
			count.Add(p.Kind, r != nil && r.Killed(), err)
		})
		t.Logf("after a kill %v, a recovery makes %d calls", ruin.At, len(calls))
	}
	t.Logf("killed at some calls of recoveries: %v", &count)
}
