//go:build linux

package main

import (
	"context"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

// recorder notes which batch does what, and returns a time that tells the round.
type recorder struct{ log []string }

func (r *recorder) batch(name string, unit float64) batch {
	round := 0.0
	return batch{
		name:    name,
		prepare: func() error { r.log = append(r.log, "prepare "+name); return nil },
		run: func() ([]float64, error) {
			r.log = append(r.log, name)
			round++
			return []float64{unit * round, 10 * unit * round}, nil
		},
	}
}

func (r *recorder) settle() error {
	r.log = append(r.log, "settle")
	return nil
}

func TestInterleave(t *testing.T) {
	var r recorder
	got, err := interleave(3, 2, r.settle, r.batch("a", 1), r.batch("b", 100))
	if err != nil {
		t.Fatal(err)
	}
	want := []samples{
		{a: []float64{1, 2, 3}, b: []float64{100, 200, 300}},
		{a: []float64{10, 20, 30}, b: []float64{1000, 2000, 3000}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("samples are %v, want %v", got, want)
	}
	order := strings.Join(r.log, ", ")
	a, b := "prepare a, settle, a", "prepare b, settle, b"
	if want := strings.Join([]string{a, b, b, a, a, b}, ", "); order != want {
		t.Errorf("order is\n%s, want\n%s", order, want)
	}
}

func TestInterleaveStopsAtErrors(t *testing.T) {
	var r recorder
	good, broken := r.batch("a", 1), errors.New("broken")
	for name, bad := range map[string]batch{
		"prepare":  {name: "b", prepare: func() error { return broken }, run: good.run},
		"run":      {name: "b", run: func() ([]float64, error) { return []float64{1, 1}, broken }},
		"too few":  {name: "b", run: func() ([]float64, error) { return []float64{1}, nil }},
		"no time":  {name: "b", run: func() ([]float64, error) { return []float64{1, 0}, nil }},
		"NaN time": {name: "b", run: func() ([]float64, error) { return []float64{1, math.NaN()}, nil }},
	} {
		got, err := interleave(2, 2, r.settle, good, bad)
		if err == nil || !strings.HasPrefix(err.Error(), "b: ") || got != nil {
			t.Errorf("%s: interleave = %v, %v, want an error of b and no samples", name, got, err)
		}
		if (name == "prepare" || name == "run") != errors.Is(err, broken) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if _, err := interleave(2, 2, func() error { return broken }, good, good); !errors.Is(err, broken) {
		t.Errorf("where settle fails, the error is %v", err)
	}
}

func TestCalibrateEnds(t *testing.T) {
	did := 0
	n, err := calibrate(context.Background(), 0, func(n int) error { did += n; return nil })
	if n != 1 || did != 1 || err != nil {
		t.Errorf("calibrate = %d, %v after %d, want 1 after 1", n, err, did)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := calibrate(ctx, math.MaxInt64, func(int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("calibrate in a context that has ended: %v", err)
	}
	broken := errors.New("broken")
	if _, err := calibrate(context.Background(), math.MaxInt64, func(int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("calibrate of what fails: %v", err)
	}
}
