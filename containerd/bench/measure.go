//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// batch is what one round runs of one of two that are compared.
type batch struct {
	name    string
	prepare func() error              // not timed; nil where there is nothing to do
	run     func() ([]float64, error) // returns a time in nanoseconds for every row
}

// interleave runs a batch of a and one of b in every round, and they take turns at being the first
// turns: A B, B A, A B … What one of them leaves behind and what the machine does
// meanwhile hits both alike. settle runs in front of every timed part. It returns
// samples for each of the rows.
func interleave(rounds, rows int, settle func() error, a, b batch) ([]samples, error) {
	all := make([]samples, rows)
	for round := range rounds {
		for _, second := range []bool{round%2 == 1, round%2 == 0} {
			one := a
			if second {
				one = b
			}
			values, err := one.once(rows, settle)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", one.name, err)
			}
			for i, value := range values {
				if second {
					all[i].b = append(all[i].b, value)
				} else {
					all[i].a = append(all[i].a, value)
				}
			}
		}
	}
	return all, nil
}

// once runs a batch and refuses what can't be a time.
func (b batch) once(rows int, settle func() error) ([]float64, error) {
	if b.prepare != nil {
		if err := b.prepare(); err != nil {
			return nil, err
		}
	}
	if err := settle(); err != nil {
		return nil, err
	}
	values, err := b.run()
	if err != nil {
		return nil, err
	}
	if len(values) != rows {
		return nil, fmt.Errorf("%d times were measured where %d are needed", len(values), rows)
	}
	for _, value := range values {
		if !(value > 0) {
			return nil, fmt.Errorf("a time of %v ns was measured", value)
		}
	}
	return values, nil
}

// timed returns how long fn takes for one of the n times it does something.
func timed(n int, fn func() error) ([]float64, error) {
	start := time.Now()
	err := fn()
	return []float64{float64(time.Since(start)) / float64(n)}, err
}

// calibrate returns how often something has to be done to take at least that long. It
// doubles, so the last attempt has also warmed up what is measured.
func calibrate(ctx context.Context, least time.Duration, do func(n int) error) (int, error) {
	for n := 1; ; n *= 2 {
		start := time.Now()
		if err := do(n); err != nil {
			return 0, err
		}
		if time.Since(start) >= least {
			return n, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}
