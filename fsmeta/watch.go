package fsmeta

import (
	"context"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// Transaction is a committed transaction, as [Store.Watch] returns it. The caller owns
// it.
type Transaction struct {
	Number  uint64    // 1, 2, 3, … without gaps
	Time    time.Time // when it was written, UTC
	Changes []Change  // one for each name, in byte order; none where it only served the journal
}

// Change is what a transaction did to one name.
type Change struct {
	Name   string
	Before *Info // nil where there was no snapshot of that name
	After  *Info // nil where there is none any more
}

// FromNow makes [Store.Watch] begin behind the last transaction that is committed when it
// is called, not when the loop over what it returns begins.
const FromNow = math.MaxUint64

// LastTransaction returns the number of the last transaction that ctx's transaction sees,
// or that is committed now, where it carries none: 0 where there was none yet. Watching
// from there on misses nothing and repeats nothing. In a writable transaction its own
// changes don't count. Errors are those of the transaction.
func (s *Store) LastTransaction(ctx context.Context) (uint64, error) {
	var last uint64
	err := s.read(ctx, func(t *transaction) error {
		last = t.point().At
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("fsmeta: last transaction: %w", err)
	}
	return last, nil
}

// Watch returns the transactions committed after the one of that number, whichever process
// commits them, in order and each once, and waits for more. It ends when ctx or the Store
// does, with that error, or the loop over it.
//
// The journal has the transactions since the last checkpoint. There is one after some
// hundreds of transactions, and when the last process closes the store. Where the journal
// doesn't have the next transaction any more, Watch ends with [ErrOutdated]: read the
// snapshots, and go on from the [Store.LastTransaction] of that. So it is with a loop that
// takes so long over a transaction that two checkpoints pass, and where there was no
// transaction of that number yet: the store was restored from a backup, say, which numbers
// them anew. Other errors are [ErrClosed], [ErrDamaged] where the journal is, and what the
// filesystem says.
//
// While it waits it looks for something new every now and then, after a tenth of a second
// at the latest, which costs one small read. It may be called concurrently, also on a
// read-only Store.
func (s *Store) Watch(ctx context.Context, after uint64) iter.Seq2[Transaction, error] {
	last, lerr := s.LastTransaction(context.Background())
	if after == FromNow {
		after = last
	}
	return func(yield func(Transaction, error) bool) {
		err := lerr
		if err == nil && after > max(last, s.view.Tip()) { // which a writer may have been told of
			err = fmt.Errorf("there was no transaction %d yet, the last is %d: %w", after, last, ErrOutdated)
		}
		if err == nil {
			err = s.watchFrom(ctx, after, func(t Transaction) bool { return yield(t, nil) })
		}
		if err != nil {
			yield(Transaction{}, fmt.Errorf("fsmeta: watch: %w", err))
		}
	}
}

// watchFrom calls fn for each transaction until it returns false, which is no error.
func (s *Store) watchFrom(ctx context.Context, after uint64, fn func(Transaction) bool) error {
	f, err := journal.Follow(filepath.Join(s.dir, format.JournalFile), after)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	for wait := newPause(); ; {
		lines, err := f.Next()
		if err != nil {
			return err
		}
		for i := range lines {
			t, err := lines[i].Decode()
			if err != nil {
				return &DamagedError{Path: filepath.Join(s.dir, format.JournalFile), Err: err}
			}
			if !fn(transactionIn(t)) {
				return nil
			}
		}
		if len(lines) > 0 {
			wait.reset()
			continue
		}
		if err := wait.sleep(ctx, s.ctx); err != nil {
			return err
		}
	}
}

// transactionIn returns a line as callers see it: without the names that it only carries
// over from one journal to the next.
func transactionIn(t *format.Txn) Transaction {
	w := Transaction{Number: t.Number, Time: t.Time}
	if t.CarriesOver() {
		return w
	}
	for _, c := range t.Changes {
		w.Changes = append(w.Changes, Change{c.Name, imageIn(c.Before), imageIn(c.After)})
	}
	return w
}

func imageIn(m *format.Snapshot) *Info {
	if m == nil {
		return nil
	}
	info := infoOf(m)
	return &info
}

// pause is how long to wait before the next look: longer each time.
type pause struct{ d time.Duration }

const longestPause = 100 * time.Millisecond

func newPause() *pause { return &pause{time.Millisecond} }

func (p *pause) reset() { p.d = time.Millisecond }

// sleep waits until the time has passed, or one of the contexts ends.
func (p *pause) sleep(ctx, closing context.Context) error {
	timer := time.NewTimer(p.d)
	defer timer.Stop()
	p.d = min(2*p.d, longestPause)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closing.Done():
		return ErrClosed
	}
}
