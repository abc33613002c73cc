package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

// Transactor ends a transaction. After it has ended, both methods return bbolt's
// ErrTxClosed: it ends even if Commit fails.
type Transactor interface {
	// Commit makes the changes durable and visible: they survive a power cut if it
	// returns nil. After an error none of them took effect, unless it is
	// [fsmeta.ErrOutcomeUnknown]. A read-only transaction can't be committed: bbolt's
	// ErrTxNotWritable, and it goes on.
	Commit() error

	// Rollback drops the changes. It ends read-only transactions, too.
	Rollback() error
}

// Snapshot is what a driver needs to mount an active snapshot or a view. It belongs
// to the caller.
type Snapshot struct {
	Kind snapshots.Kind
	ID   string
	// ParentIDs are the identifiers of the snapshots below, the immediate parent
	// first, the lowest base last; nil where there are none.
	ParentIDs []string
}

// MetaStore is the metadata of one snapshot driver. All methods may be called
// concurrently.
type MetaStore struct {
	dir       string
	opts      bolt.Options
	importing *importing // nil without WithImport

	mu    sync.Mutex // guards opening
	store atomic.Pointer[fsmeta.Store]
}

// NewMetaStore returns the metadata store in the directory path. It is made with the
// first transaction if there is none then; the directory above must exist. Where path
// is a file, say one of bbolt's, the error says what to do, see [WithImport]. Where there is
// nothing at path, and what was there is beside it, where [TakeOver] or [GoBack] has put it, no store is made: the
// first transaction fails, and the error says what to do.
func NewMetaStore(path string, opts ...Opt) (*MetaStore, error) {
	dir := path
	if path != "" { // which is no path, and says so when the store is opened
		var err error
		if dir, err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	ms := &MetaStore{dir: dir}
	var err error
	if ms.opts, err = boltOptions(dir, ms.own(opts)); err != nil {
		return nil, err
	}
	if ms.importing != nil && path != "" && !ms.opts.ReadOnly {
		if err := ms.importing.takeOver(context.Background(), dir); err != nil {
			return nil, err
		}
	}
	if err := refuseFile(dir); err != nil {
		return nil, err
	}
	return ms, nil
}

// refuseFile says what to do where a store is to be and a file is.
func refuseFile(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return nil // what else may be wrong shows when it is opened
	}
	err = notBolt(path)
	if errdefs.IsInvalidArgument(err) {
		return fmt.Errorf("%s is a file and no store: %w", path, fsmeta.ErrNotStore)
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is a bbolt file: to put a store in its place, stop what uses the file and run: fsmeta import %[1]s %[1]s; "+
		"or give NewMetaStore the option WithImport: %w", path, fsmeta.ErrNotStore)
}

// open returns the store, and opens it first if that has not been done.
func (ms *MetaStore) open() (*fsmeta.Store, error) {
	if s := ms.store.Load(); s != nil {
		return s, nil
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if s := ms.store.Load(); s != nil {
		return s, nil
	}
	opts := storeOptions(&ms.opts)
	s, err := fsmeta.Open(ms.dir, append(opts, fsmeta.MustExist())...)
	if errors.Is(err, fs.ErrNotExist) {
		s, err = ms.make(opts)
	}
	if errors.Is(err, fsmeta.ErrInUse) && ms.opts.Timeout != 0 {
		err = reclassified{err, errbolt.ErrTimeout}
	}
	if err != nil {
		return nil, err
	}
	if !ms.opts.ReadOnly {
		// Now, when it is certain that the store is in place, and before anything is committed to it.
		if err := syncInterrupted(ms.dir); err != nil {
			return nil, errors.Join(fmt.Errorf("open metadata store %s: %w", ms.dir, err), s.Close())
		}
	}
	ms.store.Store(s)
	return s, nil
}

// make makes the store where there is none, as bbolt makes a file: the directory above
// must exist. Where a filesystem was not mounted, there must be no empty store.
func (ms *MetaStore) make(opts []fsmeta.Option) (*fsmeta.Store, error) {
	if _, err := os.Stat(filepath.Dir(ms.dir)); err != nil {
		return nil, fmt.Errorf("open metadata store %s: %w", ms.dir, err)
	}
	if ms.dir != "" && !ms.opts.ReadOnly {
		if refused := refuseNew(ms.dir); refused != nil {
			// Once more: an import may have put it in place meanwhile.
			s, err := fsmeta.Open(ms.dir, append(opts, fsmeta.MustExist())...)
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("open metadata store %s: %w", ms.dir, refused)
			}
			return s, err
		}
	}
	s, err := fsmeta.Open(ms.dir, opts...)
	if errors.Is(err, fs.ErrNotExist) { // read-only
		return nil, reclassified{err, fs.ErrNotExist}
	}
	return s, err
}

// TransactionContext begins a transaction and returns a context that carries it to the
// functions of this package. See [fsmeta.Store.TransactionContext] for what a
// transaction promises, and for the errors; a writable one in a store that is
// open read-only is bbolt's ErrDatabaseReadOnly, one after Close its
// ErrDatabaseNotOpen. With an error it returns ctx as it was.
//
// A context matters while a writable transaction waits for its turn, and for nothing else: it ends
// that wait, but not before a quarter of a second has passed. So a call with a context that has ended
// before it fails only where another writer keeps the turn for that long. A driver that
// must have its transaction, however long that takes, passes [context.WithoutCancel].
func (ms *MetaStore) TransactionContext(ctx context.Context, writable bool) (context.Context, Transactor, error) {
	s, err := ms.open()
	if err != nil {
		return ctx, nil, err
	}
	tctx, tx, err := begin(ctx, s, writable)
	if err != nil {
		switch {
		case errors.Is(err, fsmeta.ErrReadOnlyTransaction):
			err = reclassified{err, errbolt.ErrDatabaseReadOnly}
		case errors.Is(err, fsmeta.ErrClosed):
			err = reclassified{err, errbolt.ErrDatabaseNotOpen}
		}
		return ctx, nil, err
	}
	return tctx, &transactor{tx: tx, writable: writable}, nil
}

// begin begins a transaction of s. A writable one waits for its turn, see wait; a read-only one waits
// for nothing.
func begin(ctx context.Context, s *fsmeta.Store, writable bool) (tctx context.Context, tx fsmeta.Transactor, err error) {
	if !writable {
		return beginAny(ctx, s, false)
	}
	err = wait(ctx, func(ctx context.Context) error {
		tctx, tx, err = beginAny(ctx, s, true)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil { // what was waited with may be another context
		tctx = fsmeta.CarryTransaction(ctx, tctx)
	}
	return tctx, tx, nil
}

// beginAny begins a transaction. That ctx carries one that has ended is no reason not to: containerd's
// package does not mind.
func beginAny(ctx context.Context, s *fsmeta.Store, writable bool) (context.Context, fsmeta.Transactor, error) {
	tctx, tx, err := s.TransactionContext(ctx, writable)
	if errors.Is(err, fsmeta.ErrTransactionClosed) {
		return s.TransactionContext(fsmeta.WithoutTransaction(ctx), writable)
	}
	return tctx, tx, err
}

// transactor ends a transaction as bbolt's do.
type transactor struct {
	tx       fsmeta.Transactor
	writable bool
	done     atomic.Bool
}

func (t *transactor) Commit() error {
	if t.done.Load() {
		return errbolt.ErrTxClosed
	}
	if !t.writable {
		return errbolt.ErrTxNotWritable
	}
	if t.done.Swap(true) {
		return errbolt.ErrTxClosed
	}
	return t.tx.Commit()
}

func (t *transactor) Rollback() error {
	if t.done.Swap(true) {
		return errbolt.ErrTxClosed
	}
	return t.tx.Rollback()
}

// TransactionCallback is what [MetaStore.WithTransaction] runs.
type TransactionCallback func(ctx context.Context) error

// WithTransaction runs fn in a transaction. A writable one is committed if fn returns
// nil. In every other case, a panic of fn included, the transaction is rolled back. The
// error is fn's, or that of the rollback if that fails, or the commit's.
func (ms *MetaStore) WithTransaction(ctx context.Context, writable bool, fn TransactionCallback) error {
	ctx, tx, err := ms.TransactionContext(ctx, writable)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing, unless fn panics
	if err := fn(ctx); err != nil || !writable {
		if undo := tx.Rollback(); undo != nil {
			// Of this class alone: what fn has seen may never be on disk.
			err = fmt.Errorf("rollback failed: %w; before that: %v", undo, err)
		}
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit failed: %w", err)
	}
	return nil
}

// NewID returns an identifier for [CreateSnapshotWithID], which no other call gets: a driver
// can make content under it, and sync it, before the transaction that creates the snapshot.
// containerd's package has no such method. See [fsmeta.Store.NewID], and
// [MetaStore.TransactionContext] for what ctx is heeded for.
func (ms *MetaStore) NewID(ctx context.Context) (id string, err error) {
	s, err := ms.open()
	if err != nil {
		return "", err
	}
	err = wait(ctx, func(ctx context.Context) error {
		id, err = s.NewID(ctx)
		return err
	})
	return id, err
}

// Path returns the absolute path of the store's directory. containerd's package has no such
// method.
func (ms *MetaStore) Path() string { return ms.dir }

// Close ends the use of the store, see [fsmeta.Store.Close]. Open transactions are
// rolled back. Closing it again, or where there was no transaction yet, does nothing.
func (ms *MetaStore) Close() error {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if s := ms.store.Load(); s != nil {
		return s.Close()
	}
	return nil
}
