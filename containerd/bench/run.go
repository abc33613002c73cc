//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// measureIn measures everything that is chosen, in an empty directory. It leaves there
// what it made.
func (o options) measureIn(ctx context.Context, dir, name, detail string, progress io.Writer) (filesystem, error) {
	fs := filesystem{Name: name, Detail: detail}
	b := &bench{sizes: o.sizes, ctx: ctx, dir: dir, filled: map[string]bool{}}
	steps := o.steps(b, &fs)
	if len(steps) == 0 {
		return fs, fmt.Errorf("-run: %q matches no operation", o.pattern)
	}
	for i, s := range steps {
		if err := ctx.Err(); err != nil {
			return fs, err
		}
		fmt.Fprintf(progress, "%s %d/%d  %s … ", name, i+1, len(steps), s.name)
		start := time.Now()
		if err := s.measure(); err != nil {
			fmt.Fprintln(progress, "failed")
			return fs, fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(progress, "%.1f s\n", time.Since(start).Seconds())
	}
	return fs, nil
}

// step is one measurement, which adds what it found to a filesystem.
type step struct {
	name    string
	measure func() error
}

// steps returns the measurements that are chosen, of both tables.
func (o options) steps(b *bench, fs *filesystem) []step {
	var steps []step
	for _, op := range operations(o.sizes) {
		chosen := op.chosen(o.pattern)
		if !slices.Contains(chosen, true) {
			continue
		}
		steps = append(steps, step{op.rows[0].name, func() error {
			all, err := op.measure(b)
			for i, s := range all {
				if chosen[i] {
					fs.Rows = append(fs.Rows, row{op.rows[i], s})
				}
			}
			return err
		}})
	}
	for _, op := range besideOperations(o.sizes) {
		if !o.pattern.MatchString(op.name) {
			continue
		}
		steps = append(steps, step{op.name, func() error {
			rows, err := op.measure(b, op.name)
			fs.Beside = append(fs.Beside, rows...)
			return err
		}})
	}
	return steps
}
