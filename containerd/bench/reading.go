//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// read is an operation that writes nothing. The i-th time it is about names[i] where
// it is about one; it goes through all of them in turn.
type read struct {
	names []string
	do    func(ctx context.Context, s *subject, name string) error
	open  bool // do runs in a transaction that is open already
}

// names is how many different snapshots reads are about: more than fit into the
// innermost cache of a processor, as in a daemon that does other things too.
const names = 1000

// spreadNames returns names of the store's snapshots, spread evenly over all of it.
func spreadNames(s *subject) []string {
	n := min(names, s.size)
	all := make([]string, n)
	for i := range all {
		all[i] = nameOf(i * s.size / n)
	}
	return all
}

func getInfoAlone(s *subject) read {
	return read{names: spreadNames(s), do: func(ctx context.Context, s *subject, name string) error {
		ctx, tx, err := s.TransactionContext(ctx, false)
		if err != nil {
			return err
		}
		_, _, _, err = s.GetInfo(ctx, name)
		return errors.Join(err, tx.Rollback())
	}}
}

// inside makes a read one in a transaction that is open already.
func inside(of func(*subject) read) func(*subject) read {
	return func(s *subject) read {
		r := of(s)
		r.open = true
		return r
	}
}

func getInfo(s *subject) read {
	return read{names: spreadNames(s), do: func(ctx context.Context, s *subject, name string) error {
		_, _, _, err := s.GetInfo(ctx, name)
		return err
	}}
}

func getSnapshot(s *subject) read {
	var containers []string
	for i := layers; i < s.size && len(containers) < names; i += layers + 1 {
		containers = append(containers, nameOf(i))
	}
	return read{names: containers, do: func(ctx context.Context, s *subject, name string) error {
		got, err := s.GetSnapshot(ctx, name)
		if err == nil && len(got.ParentIDs) != layers {
			err = fmt.Errorf("%s has %d parents and should have %d", name, len(got.ParentIDs), layers)
		}
		return err
	}}
}

func walkAll(s *subject) read { return walking(s.size) }

// walkFiltered is a walk that looks for the one layer with that label.
func walkFiltered(*subject) read {
	return walking(1, fmt.Sprintf("labels.%q==%q", refLabel, nameOf(0)))
}

// walking is a walk that is to visit that many.
func walking(want int, filters ...string) read {
	return read{names: []string{""}, do: func(ctx context.Context, s *subject, _ string) error {
		n := 0
		err := s.WalkInfo(ctx, func(context.Context, snapshots.Info) error { n++; return nil }, filters...)
		if err == nil && n != want {
			err = fmt.Errorf("a walk visited %d snapshots and should visit %d", n, want)
		}
		return err
	}}
}

// reading measures a read on stores of that size.
func reading(size int, of func(*subject) read) func(*bench) ([]samples, error) {
	return func(b *bench) ([]samples, error) {
		return b.onBoth(b.kept(size), b.rounds, 1, func(s *subject) (batch, error) { return b.readBatch(s, of(s)) })
	}
}

// readBatch returns a batch of that read, as often as takes long enough.
func (b *bench) readBatch(s *subject, r read) (batch, error) {
	n, err := calibrate(b.ctx, b.least, func(n int) error {
		_, err := r.times(b.ctx, s, n)
		return err
	})
	return batch{run: func() ([]float64, error) { return r.times(b.ctx, s, n) }}, err
}

// times returns how long each of n reads takes.
func (r read) times(ctx context.Context, s *subject, n int) (_ []float64, err error) {
	if r.open {
		tctx, tx, err := s.TransactionContext(ctx, false)
		if err != nil {
			return nil, err
		}
		defer tx.Rollback() //nolint:errcheck // nothing was written
		ctx = tctx
	}
	return timed(n, func() error {
		for at := 0; n > 0; n-- {
			if err := r.do(ctx, s, r.names[at]); err != nil {
				return err
			}
			if at++; at == len(r.names) {
				at = 0
			}
		}
		return nil
	})
}

// pause is how long a reader beside a writer waits before it reads again, so that the
// writer gets on.
const pause = 200 * time.Microsecond

// besideWriter measures reads while another goroutine writes all the time.
func besideWriter(b *bench) ([]samples, error) {
	return b.onBoth(b.fresh(b.small), b.rounds, 2, func(s *subject) (batch, error) {
		r := getInfoAlone(s)
		return batch{run: func() ([]float64, error) {
			stop, err := s.keepWriting(b.ctx)
			if err != nil {
				return nil, err
			}
			times, err := r.apart(b.ctx, s, b.reads)
			return []float64{quantile(times, 0.5), quantile(times, 0.99)}, errors.Join(err, stop())
		}}, nil
	})
}

// apart returns the time of each of n reads, with a pause after each.
func (r read) apart(ctx context.Context, s *subject, n int) ([]float64, error) {
	times := make([]float64, n)
	for i := range times {
		one, err := timed(1, func() error { return r.do(ctx, s, r.names[i%len(r.names)]) })
		if err != nil {
			return nil, err
		}
		times[i] = one[0]
		time.Sleep(pause)
	}
	return times, nil
}

// keepWriting creates and removes in turn until it is told to stop. It returns when it
// has begun.
func (s *subject) keepWriting(ctx context.Context) (stop func() error, err error) {
	end, began, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for turn := 0; err == nil; turn++ {
			select {
			case <-end:
				ended <- nil
				return
			default:
			}
			if err = s.createAndRemove(ctx); turn == 0 {
				close(began)
			}
		}
		ended <- err
	}()
	<-began
	return func() error { close(end); return <-ended }, nil
}
