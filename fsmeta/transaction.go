package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

// transaction is one read-only or writable transaction.
type transaction struct {
	store    *Store
	outer    *transaction // of the context it began in, of whatever store
	writable bool
	reader   view.Reader // the point in time that it reads at, and that a writable one builds on

	mu  sync.Mutex
	why error // it has ended: what later calls return

	// Of a writable transaction: what it changes.
	used     bool      // it has changed something, and perhaps changed it back
	staged   func(int) // unless it is nil, it gets the progress of the commit
	nextID   uint64    // identifiers go on there at the lowest, once it is committed
	changes  map[string]*format.Change
	children map[string]int    // by parent, against the reader
	ids      map[string]string // identifiers of what it has changed, to names
}

type contextKey struct{}

// FromContext returns the store of the transaction that ctx carries, of nested ones the
// innermost; nil where it carries none. It costs a look into the context.
func FromContext(ctx context.Context) *Store {
	if t := innermost(ctx); t != nil {
		return t.store
	}
	return nil
}

// WithoutTransaction returns a context like ctx that carries no transaction: to begin one
// from it, or to read as it is now, where the transaction of ctx may have ended.
func WithoutTransaction(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, (*transaction)(nil))
}

// CarryTransaction returns a context like ctx that carries the transaction that from carries,
// or none where that carries none: to let one context end the wait for a transaction, and
// another be the one that its functions are given. The transaction of ctx is not in it.
func CarryTransaction(ctx, from context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, innermost(from))
}

// innermost returns the transaction that ctx carries, of nested ones the last to begin; nil
// for none.
func innermost(ctx context.Context) *transaction {
	t, _ := ctx.Value(contextKey{}).(*transaction)
	return t
}

// transactionOf returns the transaction of this store that ctx carries, nil where it carries
// none. One of another store alone is an error.
func (s *Store) transactionOf(ctx context.Context) (*transaction, error) {
	last := innermost(ctx)
	for t := last; t != nil; t = t.outer {
		if t.store == s {
			return t, nil
		}
	}
	if last != nil {
		return nil, fmt.Errorf("%w: the one it carries is of the store %s, this is %s", ErrNoTransaction, last.store.dir, s.dir)
	}
	return nil, nil
}

// TransactionContext begins a transaction and returns a context that carries it to
// the other methods. The transaction must be ended by its Transactor, in every case.
//
// A read-only transaction sees the store as it stands now, for as long as it lasts.
// It takes no lock, never waits and makes no other caller wait. One that is never ended costs
// the memory of what changes meanwhile.
//
// A writable transaction waits for its turn: one is open at a time, over all
// goroutines, which take turns in order of arrival, and processes. It sees its own
// changes; no other transaction does until Commit. When the turn comes, what earlier
// transactions changed may not be durable yet, but it is before this one's Commit or
// Rollback returns.
//
// A transaction may begin inside another: it is independent of it. A context that ends
// later does not end the transaction. Nor may one begin in the context of a transaction of this
// store that has ended: that is [ErrTransactionClosed], see [WithoutTransaction]. A writer that
// waits for over a second is told the holder of the turn, in a warning of log/slog, and in
// the error. Errors are those of ctx if it ends before the turn has come, [ErrNestedTransaction] for a writable
// transaction in a context that carries an open one of the same store,
// [ErrReadOnlyTransaction] for a writable one in a store opened [ReadOnly],
// [ErrClosed], [ErrFailed], and [ErrDamaged] where a damaged journal forbids writing.
//
// The methods that take the context may be called concurrently.
func (s *Store) TransactionContext(ctx context.Context, writable bool) (context.Context, Transactor, error) {
	t, err := s.begin(ctx, writable)
	if err != nil {
		return nil, nil, fmt.Errorf("fsmeta: begin transaction: %w", err)
	}
	return context.WithValue(ctx, contextKey{}, t), t, nil
}

// WithTransaction runs fn in a transaction: it commits when fn returns nil, and
// rolls back when fn returns an error, which it returns, or panics. Where the rollback
// fails, what fn has read may not be true, and the error is of the rollback's class. See
// [Store.TransactionContext] and [Transactor] for what can go wrong besides.
func (s *Store) WithTransaction(ctx context.Context, writable bool, fn func(context.Context) error) error {
	ctx, t, err := s.TransactionContext(ctx, writable)
	if err != nil {
		return err
	}
	defer t.Rollback() //nolint:errcheck // does nothing, unless fn panics
	if err := fn(ctx); err != nil {
		if undo := t.Rollback(); undo != nil {
			// Of this class alone: what fn has seen may never be on disk.
			err = fmt.Errorf("%w; before that: %v", undo, err)
		}
		return err
	}
	return t.Commit()
}

func (s *Store) begin(ctx context.Context, writable bool) (*transaction, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	t := &transaction{store: s, writable: writable, outer: innermost(ctx)}
	if err := t.checkOuter(); err != nil {
		return nil, err
	}
	if writable {
		return t, t.beginWrite(ctx)
	}
	return t, s.view.Begin(&t.reader)
}

// checkOuter returns why a transaction can't begin inside the one that its context carries.
func (t *transaction) checkOuter() error {
	s := t.store
	if t.writable && s.writer == nil {
		return fmt.Errorf("%w: the store was opened read-only", ErrReadOnlyTransaction)
	}
	var ended error
	for o := t.outer; o != nil; o = o.outer {
		why := o.ended()
		if why == nil && t.writable && o.writable && o.store.same(s) {
			return ErrNestedTransaction
		}
		if why != nil && ended == nil && o.store == s {
			ended = why
		}
	}
	return ended
}

// same reports whether two Stores are of one directory.
func (s *Store) same(o *Store) bool { return s == o || s.tree.Same(o.tree) }

func (t *transaction) beginWrite(ctx context.Context) error {
	s := t.store
	if err := s.writer.Begin(ctx); err != nil {
		s.writer.End()
		return err
	}
	t.reader.Point = s.view.Base()
	t.changes, t.children, t.ids = map[string]*format.Change{}, map[string]int{}, map[string]string{}
	s.hold(t)
	if s.closed.Load() {
		t.abort() // Close may have looked for us too early
		return ErrClosed
	}
	return nil
}

// ended returns why the transaction has ended, nil while it is open.
func (t *transaction) ended() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// finish marks the transaction ended. It reports whether it wasn't yet.
func (t *transaction) finish(why error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why != nil {
		return false
	}
	t.why = why
	return true
}

// abort ends a writable transaction because the Store is closed.
func (t *transaction) abort() {
	if t.finish(ErrClosed) {
		t.release()
		t.store.writer.End()
	}
}

// release gives the turn on.
func (t *transaction) release() {
	t.store.hold(nil)
	t.store.writer.Release()
}

// Commit implements [Transactor].
func (t *transaction) Commit() error {
	if !t.finish(ErrTransactionClosed) {
		return fmt.Errorf("fsmeta: commit transaction: %w", t.ended())
	}
	if !t.writable {
		t.store.view.End(&t.reader)
		if t.store.closed.Load() {
			return fmt.Errorf("fsmeta: commit transaction: %w", ErrClosed)
		}
		return nil
	}
	if err := t.commit(); err != nil {
		return fmt.Errorf("fsmeta: commit transaction: %w", err)
	}
	return nil
}

// commit writes what has changed, gives the turn on, and waits until it is durable. See
// package commit, Append and Settle, for what a crash leaves.
func (t *transaction) commit() error {
	w := t.store.writer
	defer w.End()
	release := sync.OnceFunc(t.release)
	defer release() // where the caller's progress panics
	txn, wrote, err := t.append()
	release()
	if wrote && t.store.relaxed {
		w.SettleLater(txn)
		return nil
	}
	settled := w.Settle(txn)
	if settled != nil && wrote {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, settled)
	}
	return errors.Join(err, settled)
}

// append writes what has changed, if anything, and returns the transaction that has to be
// durable before this one ends.
func (t *transaction) append() (txn uint64, wrote bool, err error) {
	v, changes, firstUse := t.store.view, t.netChanges(), false
	if t.used {
		firstUse = !v.FirstUse(t.reader.Point) // which is to be seen even if it was all changed back
	}
	if len(changes) == 0 && !firstUse {
		return t.reader.Point.At, false, nil
	}
	if txn, err = t.store.writer.Append(changes, t.nextID, t.staged); err != nil {
		return t.reader.Point.At, false, err
	}
	if firstUse {
		v.NoteUse(txn)
	}
	return txn, true, nil
}

// netChanges returns one change for each name that isn't as it was, in byte order.
func (t *transaction) netChanges() []format.Change {
	var changes []format.Change
	for _, name := range slices.Sorted(maps.Keys(t.changes)) {
		if c := t.changes[name]; c.Before != c.After {
			changes = append(changes, *c)
		}
	}
	return changes
}

// Rollback implements [Transactor].
func (t *transaction) Rollback() error {
	if !t.finish(ErrTransactionClosed) {
		return nil
	}
	if !t.writable {
		t.store.view.End(&t.reader)
		return nil
	}
	w := t.store.writer
	defer w.End()
	t.release()
	if err := w.Settle(t.reader.Point.At); err != nil {
		return fmt.Errorf("fsmeta: roll back transaction: %w", err)
	}
	return nil
}

// usableLocked returns why the transaction can't be used any more, if so. The caller
// holds mu.
func (t *transaction) usableLocked() error {
	if t.why != nil {
		return t.why
	}
	if t.store.closed.Load() {
		return ErrClosed
	}
	return nil
}

func (t *transaction) usable() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.usableLocked()
}

// point is the point in time that the transaction reads at, its own changes apart.
func (t *transaction) point() view.Point { return t.reader.Point }

// get returns what the transaction sees under name, nil if nothing.
func (t *transaction) get(name string) (*format.Snapshot, error) {
	if c := t.changes[name]; c != nil {
		return c.After, nil
	}
	return t.store.view.Lookup(t.point(), name)
}

// put changes what the transaction sees under name, from before, which is what get returns,
// to after.
func (t *transaction) put(name string, before, after *format.Snapshot) {
	c := t.changes[name]
	if c == nil {
		c = &format.Change{Name: name, Before: before}
		t.changes[name] = c
	}
	t.used = true
	if before != nil {
		t.children[before.Parent]--
		if t.ids[before.ID] == name {
			delete(t.ids, before.ID)
		}
	}
	if after != nil {
		t.children[after.Parent]++
		t.ids[after.ID] = name
	}
	c.After = after
	if c.Before == nil && after == nil {
		delete(t.changes, name) // made and gone again
	}
}

// walk calls fn for every snapshot that the transaction sees now, in order of the names, and
// then damaged for each part that could not be read. What fn does in the transaction does not
// change which snapshots are visited.
func (t *transaction) walk(ctx context.Context, fn func(*format.Snapshot) error, damaged func(error) error) error {
	t.mu.Lock()
	err := t.usableLocked()
	var changed []format.Change
	for _, name := range slices.Sorted(maps.Keys(t.changes)) {
		changed = append(changed, *t.changes[name])
	}
	point := t.point()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return t.store.view.Walk(point, changed, func(m *format.Snapshot) error {
		if err := errors.Join(t.usable(), ctx.Err()); err != nil {
			return err
		}
		return fn(m)
	}, func(d view.Damage) error { return damaged(d.Err) })
}
