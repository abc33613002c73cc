//go:build linux

package main

import (
	"math"
	"slices"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values  []float64
		q, want float64
	}{
		{[]float64{7}, 0.25, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{4, 1, 3, 2}, 0.25, 1.75},
		{[]float64{5, 1, 4, 2, 3}, 0.75, 4},
		{[]float64{5, 1, 4, 2, 3}, 0.99, 4.96},
		{[]float64{5, 1}, 0, 1},
		{[]float64{5, 1}, 1, 5},
	} {
		before := slices.Clone(test.values)
		if got := quantile(test.values, test.q); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", test.values, test.q, got, test.want)
		}
		if !slices.Equal(before, test.values) {
			t.Errorf("quantile changed %v to %v", before, test.values)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing is %v, want NaN", got)
	}
}

func TestSpread(t *testing.T) {
	if got, want := spreadOf([]float64{9, 1, 5, 3, 7}), (spread{3, 5, 7}); got != want {
		t.Errorf("spreadOf = %v, want %v", got, want)
	}
}

// A machine that is three times as slow in one round changes no ratio, although it
// changes the medians' own.
func TestRatiosArePairedByRound(t *testing.T) {
	s := samples{a: []float64{20, 60, 24}, b: []float64{10, 30, 6}}
	if got, want := s.ratios(), []float64{2, 2, 4}; !slices.Equal(got, want) {
		t.Errorf("ratios = %v, want %v", got, want)
	}
}
