package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"time"
)

// Transaction is a committed transaction, as [Store.Watch] returns it. It belongs to whom
// it was returned to.
type Transaction struct {
	Number  uint64    // 1, 2, 3, … without gaps
	Time    time.Time // when it was written, UTC
	Changes []Change  // one for each name, in byte order; none where it only reserved identifiers
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
		last = t.at()
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
// The journal has the transactions since the last checkpoint or two, a few hundred at
// least. Where it doesn't have the next one any more, Watch ends with [ErrOutdated]: read
// what there is, and go on from its [Store.LastTransaction]. So it is with a loop that
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
		if err == nil && after > max(last, s.tip()) { // which a writer may have been told of
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

// follower reads a journal on its own, so that what the Store forgets is still there.
type follower struct {
	path string
	j    *journal
	txn  uint64 // the last transaction that was passed on
	crc  uint32 // of its line
	off  int64  // where its successor's begins
}

// watchFrom calls fn for each transaction until it returns false, which is no error.
func (s *Store) watchFrom(ctx context.Context, after uint64, fn func(Transaction) bool) error {
	f := &follower{path: filepath.Join(s.dir, journalFile)}
	defer f.close()
	if err := f.start(after); err != nil {
		return err
	}
	for wait := newPause(); ; {
		lines, successor, err := f.next()
		if err != nil {
			return err
		}
		for i := range lines {
			t, err := lines[i].transaction()
			if err != nil {
				return errors.Join(&DamagedError{Path: f.path, Err: err}, closeUnused(successor))
			}
			if t.Number > after && !fn(t) {
				return closeUnused(successor)
			}
			f.pass(&lines[i])
		}
		if successor != nil {
			if err := f.switchTo(successor); err != nil {
				return err
			}
		}
		if len(lines) > 0 || successor != nil {
			wait.reset()
			continue
		}
		if err := wait.sleep(ctx, s.ctx); err != nil {
			return err
		}
	}
}

func (f *follower) close() {
	_ = closeUnused(f.j) // it was only read
}

func closeUnused(j *journal) error {
	if j == nil {
		return nil
	}
	return j.file.Close()
}

// start opens the journal, which must have everything that came after transaction after.
func (f *follower) start(after uint64) error {
	j, err := openJournal(f.path, false)
	if err != nil {
		return err
	}
	f.j, f.txn, f.crc, f.off = j, j.header.txn, j.header.prev, j.start
	if j.bad != nil {
		return j.bad
	}
	if f.txn > after {
		return fmt.Errorf("the journal has only what came after transaction %d: %w", f.txn, ErrOutdated)
	}
	return nil
}

// next returns the committed lines that follow, and the file that goes on behind them, if
// one has taken the journal's place for good.
func (f *follower) next() ([]line, *journal, error) {
	if (&watch{file: f.j.file}).quiet(f.off) {
		return nil, nil, nil
	}
	tail, err := f.scan()
	if err != nil {
		return nil, nil, err
	}
	if !tail.superseded {
		return tail.lines[:tail.published], nil, nil
	}
	successor, err := openJournal(f.path, false)
	if err != nil {
		return nil, nil, err
	}
	if os.SameFile(successor.info, f.j.info) || !successor.settled {
		return tail.lines[:tail.published], nil, successor.file.Close()
	}
	return tail.lines, successor, nil // all of them are committed
}

// scan reads the lines that follow. Where one is damaged it may just have been written
// while it was read; if so, it is whole when it is read again.
func (f *follower) scan() (scanned, error) {
	for before := -1; ; {
		buf, err := f.j.readFrom(f.off, before >= 0)
		if err != nil {
			return scanned{}, err
		}
		tail := scan(buf, f.off, f.txn, f.crc)
		if !tail.damaged {
			return tail, nil
		}
		if len(tail.lines) == before {
			return tail, f.j.damage(tail.why(f.txn + uint64(before) + 1))
		}
		before = len(tail.lines)
	}
}

func (f *follower) pass(l *line) {
	f.txn, f.crc, f.off = l.txn, l.crc, l.off+int64(len(l.raw))+1
}

// switchTo goes on in a new file.
func (f *follower) switchTo(j *journal) error {
	if err := f.find(j); err != nil {
		return errors.Join(err, j.file.Close())
	}
	old := f.j
	f.j = j
	return old.file.Close()
}

// find sets where to go on in a new file.
func (f *follower) find(j *journal) error {
	if j.bad != nil {
		return j.bad
	}
	if j.header.txn > f.txn {
		return fmt.Errorf("the journal begins behind transaction %d, and transaction %d was the last to be seen: %w", j.header.txn, f.txn, ErrOutdated)
	}
	buf, err := j.readFrom(j.start, false)
	if err != nil {
		return err
	}
	txn, crc, off := j.header.txn, j.header.prev, j.start
	for _, l := range scan(buf, j.start, txn, crc).lines {
		if txn == f.txn {
			break
		}
		txn, crc, off = l.txn, l.crc, l.off+int64(len(l.raw))+1
	}
	if txn != f.txn || crc != f.crc {
		return fmt.Errorf("the journal does not go on behind transaction %d, another store has taken its place: %w", f.txn, ErrOutdated)
	}
	f.off = off
	return nil
}

// transaction returns what a line says to who watches.
func (l *line) transaction() (Transaction, error) {
	r, err := l.decode()
	if err != nil {
		return Transaction{}, err
	}
	t := Transaction{Number: l.txn, Time: r.time}
	for _, c := range r.changes {
		t.Changes = append(t.Changes, Change{c.name, infoOf(c.before), infoOf(c.after)})
	}
	return t, nil
}

func infoOf(m *metadata) *Info {
	if m == nil {
		return nil
	}
	info := m.info()
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
