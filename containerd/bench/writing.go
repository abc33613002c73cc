//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// item is what one write is about. Items are made outside of what is timed.
type item struct {
	key       string // of an active snapshot
	committed string // its name when it is committed
	parent    string // what it stands on
	filled    string // a snapshot that the store was filled with
	stamp     string // a value of a label that was not there before
	usage     snapshots.Usage
}

// items makes n new ones.
func (s *subject) items(n int) []item {
	items := make([]item, n)
	for i := range items {
		at := s.made + i
		items[i] = item{
			key: fmt.Sprintf("default/%d/k8s-bench", 1_000_000+at), committed: committedOf(at),
			parent: topOf(at, s.size), filled: nameOf(at % s.size),
			stamp: fmt.Sprintf("2026-01-02T03:04:05.%09dZ", at), usage: usageOf(at),
		}
	}
	s.made += n
	return items
}

// removeMade removes the snapshots with the keys of all items that were made.
func (s *subject) removeMade(ctx context.Context) error {
	n := s.made
	s.made = 0
	return s.WithTransaction(ctx, true, func(ctx context.Context) error {
		return write(remove).all(ctx, s, s.items(n))
	})
}

// write is an operation that changes the store.
type write func(ctx context.Context, s *subject, it item) error

var benchLabels = map[string]string{rootLabel: "2026-01-02T03:04:05Z"}

func create(ctx context.Context, s *subject, it item) error {
	_, err := s.CreateSnapshot(ctx, snapshots.KindActive, it.key, it.parent, snapshots.WithLabels(benchLabels))
	return err
}

func commit(ctx context.Context, s *subject, it item) error {
	_, err := s.CommitActive(ctx, it.key, it.committed, it.usage, snapshots.WithLabels(benchLabels))
	return err
}

func remove(ctx context.Context, s *subject, it item) error {
	_, _, err := s.Remove(ctx, it.key)
	return err
}

func removeCommitted(ctx context.Context, s *subject, it item) error {
	_, _, err := s.Remove(ctx, it.committed)
	return err
}

func update(ctx context.Context, s *subject, it item) error {
	info := snapshots.Info{Name: it.filled, Labels: map[string]string{rootLabel: it.stamp}}
	_, err := s.UpdateInfo(ctx, info, "labels."+rootLabel)
	return err
}

// all runs an operation for all items inside a transaction.
func (w write) all(ctx context.Context, s *subject, items []item) error {
	for _, it := range items {
		if err := w(ctx, s, it); err != nil {
			return err
		}
	}
	return nil
}

// alone runs an operation in a transaction of its own for each of the items.
func (w write) alone(ctx context.Context, s *subject, items []item) error {
	for _, it := range items {
		err := s.WithTransaction(ctx, true, func(ctx context.Context) error { return w(ctx, s, it) })
		if err != nil {
			return err
		}
	}
	return nil
}

// durable measures transactions of one operation each. What they need is prepared for
// all rounds by another operation, in one transaction that is not measured.
func durable(prepare, do write) func(*bench) ([]samples, error) {
	return func(b *bench) ([]samples, error) {
		return b.onBoth(b.fresh(b.small), b.rounds, 1, func(s *subject) (batch, error) {
			items := s.items(b.rounds * b.batch)
			if prepare != nil {
				err := s.WithTransaction(b.ctx, true, func(ctx context.Context) error { return prepare.all(ctx, s, items) })
				if err == nil {
					err = s.reopen(b.ctx)
				}
				if err != nil {
					return batch{}, err
				}
			}
			return b.durableBatch(s, do, items), nil
		})
	}
}

// durableBatch returns a batch that does something durable for the next of the items,
// of which there are enough for all rounds.
func (b *bench) durableBatch(s *subject, do write, items []item) batch {
	return batch{run: func() ([]float64, error) {
		now := items[:b.batch]
		items = items[b.batch:]
		return timed(len(now), func() error { return do.alone(b.ctx, s, now) })
	}}
}

// createAndRemove is a container that comes and goes.
func (s *subject) createAndRemove(ctx context.Context) error {
	items := s.items(1)
	if err := write(create).alone(ctx, s, items); err != nil {
		return err
	}
	return write(remove).alone(ctx, s, items)
}

// churning measures pairs of a create and a remove, one after the other for a long
// while, with whatever a store has put off.
func churning(b *bench) ([]samples, error) {
	return b.onBoth(b.fresh(b.small), b.slices, 1, func(s *subject) (batch, error) {
		return batch{run: func() ([]float64, error) {
			n, start := 0, time.Now()
			for time.Since(start) < b.churn/time.Duration(b.slices) {
				if err := s.createAndRemove(b.ctx); err != nil {
					return nil, err
				}
				n++
			}
			return []float64{float64(time.Since(start)) / float64(n)}, nil
		}}, nil
	})
}

// concurrent measures creates by several writers at once, each in a transaction of its
// own. The time is that of one create.
func concurrent(writers int) func(*bench) ([]samples, error) {
	return func(b *bench) ([]samples, error) {
		each := max(b.batch*2/writers, 2)
		return b.onBoth(b.fresh(b.small), b.rounds, 1, func(s *subject) (batch, error) {
			var items []item
			return batch{
				prepare: func() error { items = s.items(writers * each); return nil },
				run: func() ([]float64, error) {
					return timed(len(items), func() error { return b.createAtOnce(s, writers, items) })
				},
			}, nil
		})
	}
}

// createAtOnce shares the items out among that many writers.
func (b *bench) createAtOnce(s *subject, writers int, items []item) error {
	errs := make([]error, writers)
	var group sync.WaitGroup
	for share := range slices.Chunk(items, len(items)/writers) {
		writers--
		mine := &errs[writers]
		group.Go(func() { *mine = write(create).alone(b.ctx, s, share) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// insideLong measures operations inside a transaction that is rolled back after them.
func insideLong(b *bench) ([]samples, error) {
	return b.onBoth(b.fresh(b.small), b.rounds, 3, func(s *subject) (batch, error) {
		transactions, err := calibrate(b.ctx, b.least, func(n int) error {
			_, err := b.longTimes(s, n)
			return err
		})
		return batch{run: func() ([]float64, error) { return b.longTimes(s, transactions) }}, err
	})
}

// longTimes returns what a create, a commit and a remove take inside that many
// transactions with many of each.
func (b *bench) longTimes(s *subject, transactions int) ([]float64, error) {
	var sums [3]time.Duration
	items := s.items(b.long)
	for range transactions {
		ctx, tx, err := s.TransactionContext(b.ctx, true)
		if err != nil {
			return nil, err
		}
		for i, do := range []write{create, commit, removeCommitted} {
			start := time.Now()
			err = errors.Join(err, do.all(ctx, s, items))
			sums[i] += time.Since(start)
		}
		if err := errors.Join(err, tx.Rollback()); err != nil {
			return nil, err
		}
	}
	times := make([]float64, len(sums))
	for i, sum := range sums {
		times[i] = float64(sum) / float64(transactions*b.long)
	}
	return times, nil
}

// endingLong measures the Commit of a transaction that has created many snapshots.
func endingLong(b *bench) ([]samples, error) {
	return b.onBoth(b.fresh(b.small), b.rounds, 1, func(s *subject) (batch, error) {
		return batch{run: func() ([]float64, error) {
			items := s.items(b.long)
			ctx, tx, err := s.TransactionContext(b.ctx, true)
			if err != nil {
				return nil, err
			}
			if err := write(create).all(ctx, s, items); err != nil {
				return nil, errors.Join(err, tx.Rollback())
			}
			return timed(1, tx.Commit)
		}}, nil
	})
}

// empty measures transactions in which nothing is done.
func empty(b *bench) ([]samples, error) {
	nothing := func(ctx context.Context, s *subject, _ string) error {
		_, tx, err := s.TransactionContext(ctx, true)
		if err != nil {
			return err
		}
		return tx.Commit()
	}
	return b.onBoth(b.fresh(b.small), b.rounds, 1, func(s *subject) (batch, error) {
		return b.readBatch(s, read{names: []string{""}, do: nothing})
	})
}
