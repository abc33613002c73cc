package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// transaction is one read-only or writable transaction.
type transaction struct {
	store    *Store
	outer    *transaction // of the context it began in, of whatever store
	writable bool
	index    *index
	reader   reader // read-only: where it stands

	mu   sync.Mutex
	done bool
	why  error // of done, what later calls get

	// Of a writable transaction: what it stands on, and what it changes.
	base     uint64
	used     bool      // it has changed something, and perhaps changed it back
	staged   func(int) // is told of progress at commit, where it is not nil
	nextID   uint64    // identifiers go on there at the lowest, once it is committed
	changes  map[string]*change
	children map[string]int    // by parent, against the base
	ids      map[string]string // identifiers of what it has changed, to names
}

type contextKey struct{}

// FromContext returns the store whose transaction ctx carries, of nested ones the
// innermost; nil where it carries none. It costs a look into the context.
func FromContext(ctx context.Context) *Store {
	if t, ok := ctx.Value(contextKey{}).(*transaction); ok {
		return t.store
	}
	return nil
}

// transactionOf returns the transaction of this store that ctx carries, nil where
// it carries none. One of another store alone is an error.
func (s *Store) transactionOf(ctx context.Context) (*transaction, error) {
	innermost, _ := ctx.Value(contextKey{}).(*transaction)
	for t := innermost; t != nil; t = t.outer {
		if t.store == s {
			return t, nil
		}
	}
	if innermost != nil {
		return nil, fmt.Errorf("%w: the one it carries is of the store %s, this is %s", ErrNoTransaction, innermost.store.dir, s.dir)
	}
	return nil, nil
}

// TransactionContext begins a transaction and returns a context that carries it to
// the other methods. The transaction must be ended by its Transactor, in every case.
//
// A read-only transaction sees the store as it stands now, for as long as it lasts.
// It takes no lock, never waits and makes nobody wait. One that is never ended costs
// the memory of what changes meanwhile.
//
// A writable transaction waits for its turn: one is open at a time, over all
// goroutines, which take turns in order of arrival, and processes. It sees its own
// changes; nobody else does until Commit. When the turn comes, what earlier
// transactions changed may not be durable yet, but it is before this one's Commit or
// Rollback returns.
//
// A transaction may begin inside another: it is independent of it. A context that ends
// later does not end the transaction. Errors are those
// of ctx if it ends before the turn has come, [ErrNestedTransaction] for a writable
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
	t := &transaction{store: s, writable: writable}
	t.outer, _ = ctx.Value(contextKey{}).(*transaction)
	if writable {
		return t, t.beginWrite(ctx)
	}
	return t, t.beginRead()
}

func (t *transaction) beginRead() error {
	if err := t.store.look(); err != nil {
		return err
	}
	for {
		t.index = t.store.index.Load()
		t.index.points.begin(&t.reader)
		if !t.index.stale.Load() {
			return nil
		}
		t.index.points.end(&t.reader) // replaced just now
	}
}

func (t *transaction) beginWrite(ctx context.Context) error {
	s := t.store
	if err := s.checkWritable(t.outer); err != nil {
		return err
	}
	if err := s.beginTurn(ctx); err != nil {
		s.leave()
		return err
	}
	t.index, t.base = s.index.Load(), s.tip()
	t.changes, t.children, t.ids = map[string]*change{}, map[string]int{}, map[string]string{}
	s.turn.hold(t)
	if s.closed.Load() {
		t.abort() // Close may have looked for us too early
		return ErrClosed
	}
	return nil
}

// checkWritable says why a turn to write can't be waited for where the context carries
// outer.
func (s *Store) checkWritable(outer *transaction) error {
	if s.readOnly {
		return fmt.Errorf("%w: the store was opened read-only", ErrReadOnlyTransaction)
	}
	for o := outer; o != nil; o = o.outer {
		if o.writable && o.store.sameStore(s) && o.open() {
			return ErrNestedTransaction
		}
	}
	return nil
}

func (t *transaction) open() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.done
}

// finish marks the transaction ended. It reports whether it wasn't yet.
func (t *transaction) finish(why error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return false
	}
	t.done, t.why = true, why
	return true
}

// abort ends a writable transaction because the Store is closed.
func (t *transaction) abort() {
	if t.finish(ErrClosed) {
		t.store.turn.release()
		t.store.leave()
	}
}

// Commit implements [Transactor].
func (t *transaction) Commit() error {
	if !t.finish(ErrTransactionClosed) {
		return fmt.Errorf("fsmeta: commit transaction: %w", t.why)
	}
	if !t.writable {
		t.index.points.end(&t.reader)
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

// commit writes what has changed, gives the turn on, and waits until it is durable.
// See Store.append and Store.settle for what a crash leaves.
func (t *transaction) commit() error {
	s := t.store
	defer s.leave()
	release := sync.OnceFunc(s.turn.release)
	defer release() // where the caller's progress panics
	changes := t.netChanges()
	txn, wrote, err := t.base, false, error(nil)
	first := uint64(0)
	if t.used {
		first, err = t.index.firstUse()
	}
	firstUse := first > t.base // which is to be seen even if it was all changed back
	if err == nil && (len(changes) > 0 || firstUse) {
		if txn, err = s.append(changes, t.nextID, t.staged); err == nil {
			wrote = true
		} else {
			txn = t.base
		}
	}
	if wrote && firstUse {
		t.index.noteUse(txn)
	}
	release()
	if wrote && s.relaxed {
		s.settleLater(txn)
		return nil
	}
	serr := s.settle(txn)
	if serr != nil && wrote {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, serr)
	}
	return errors.Join(err, serr)
}

// netChanges returns one change for each name that isn't as it was.
func (t *transaction) netChanges() []change {
	var changes []change
	for _, name := range slices.Sorted(maps.Keys(t.changes)) {
		if c := t.changes[name]; c.before != c.after {
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
		t.index.points.end(&t.reader)
		return nil
	}
	s := t.store
	defer s.leave()
	s.turn.release()
	if err := s.settle(t.base); err != nil {
		return fmt.Errorf("fsmeta: roll back transaction: %w", err)
	}
	return nil
}

// usableLocked returns why the transaction can't be used any more, if so. The caller
// holds mu.
func (t *transaction) usableLocked() error {
	if t.done {
		return t.why
	}
	if t.store.closed.Load() {
		return ErrClosed
	}
	return nil
}

// at is the point in time that the transaction reads at, its own changes apart.
func (t *transaction) at() uint64 {
	if t.writable {
		return t.base
	}
	return t.reader.at
}

// get returns what the transaction sees under name, nil if nothing.
func (t *transaction) get(name string) (*metadata, error) {
	if c := t.changes[name]; c != nil {
		return c.after, nil
	}
	return t.store.lookup(t.index, name, t.at())
}

// put changes what the transaction sees under name, from before, what get returns,
// to after.
func (t *transaction) put(name string, before, after *metadata) {
	c := t.changes[name]
	if c == nil {
		c = &change{name: name, before: before}
		t.changes[name] = c
	}
	t.used = true
	if before != nil {
		t.children[before.parent]--
		if t.ids[before.id] == name {
			delete(t.ids, before.id)
		}
	}
	if after != nil {
		t.children[after.parent]++
		t.ids[after.id] = name
	}
	c.after = after
	if c.before == nil && after == nil {
		delete(t.changes, name) // made and gone again
	}
}
