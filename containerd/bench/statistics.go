//go:build linux

package main

import (
	"math"
	"slices"
)

// samples are the times of two that were measured in turn, in nanoseconds: what a
// round measured of either stands at the same place. In the first table a is bbolt's
// and b ours.
type samples struct{ a, b []float64 }

// ratios returns a round's time of a divided by its time of b, for every round. What
// slows the machine down for a while slows both, and falls out.
func (s samples) ratios() []float64 {
	ratios := make([]float64, len(s.a))
	for i := range s.a {
		ratios[i] = s.a[i] / s.b[i]
	}
	return ratios
}

// spread is a median between its quartiles.
type spread struct{ low, median, high float64 }

func spreadOf(values []float64) spread {
	return spread{quantile(values, 0.25), quantile(values, 0.5), quantile(values, 0.75)}
}

// quantile returns the value below which the share q of all values lies. Between two
// it interpolates linearly, as R, NumPy and spreadsheets do by default. Of no values it
// is NaN, so that it is not taken for a result.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}
