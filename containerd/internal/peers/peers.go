// Package peers gives containerd's bbolt metastore and the one of this module the
// same interface, so that one test and one benchmark can run on both.
package peers

import (
	"context"

	bolt "github.com/containerd/containerd/v2/core/snapshots/storage"

	"github.com/containerd/containerd/v2/core/snapshots"
	fs "github.com/fsmeta/fsmeta/containerd/storage"
)

// Store is an open metastore of either kind. The methods are the functions of the
// two packages.
type Store interface {
	TransactionContext(ctx context.Context, writable bool) (context.Context, Transactor, error)
	WithTransaction(ctx context.Context, writable bool, fn func(context.Context) error) error
	GetInfo(ctx context.Context, key string) (string, snapshots.Info, snapshots.Usage, error)
	UpdateInfo(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error)
	WalkInfo(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error
	GetSnapshot(ctx context.Context, key string) (Snapshot, error)
	CreateSnapshot(ctx context.Context, kind snapshots.Kind, key, parent string, opts ...snapshots.Opt) (Snapshot, error)
	Remove(ctx context.Context, key string) (string, snapshots.Kind, error)
	CommitActive(ctx context.Context, key, name string, usage snapshots.Usage, opts ...snapshots.Opt) (string, error)
	IDMap(ctx context.Context) (map[string]string, error)
	Close() error
}

// Transactor is the Transactor of either package.
type Transactor interface {
	Commit() error
	Rollback() error
}

// Snapshot is the Snapshot of either package.
type Snapshot struct {
	Kind      snapshots.Kind
	ID        string
	ParentIDs []string
}

// A Peer is one of the two kinds of metastore.
type Peer struct {
	Name          string
	Open          func(path string) (Store, error)
	NoTransaction error // the package's ErrNoTransaction
}

// The two kinds.
var (
	Bolt = Peer{"bbolt", openBolt, bolt.ErrNoTransaction}
	FS   = Peer{"fsmeta", openFS, fs.ErrNoTransaction}
)

type boltStore struct{ *bolt.MetaStore }

func openBolt(path string) (Store, error) {
	ms, err := bolt.NewMetaStore(path)
	return boltStore{ms}, err
}

func (s boltStore) TransactionContext(ctx context.Context, writable bool) (context.Context, Transactor, error) {
	return s.MetaStore.TransactionContext(ctx, writable)
}

func (s boltStore) WithTransaction(ctx context.Context, writable bool, fn func(context.Context) error) error {
	return s.MetaStore.WithTransaction(ctx, writable, fn)
}

func (boltStore) GetInfo(ctx context.Context, key string) (string, snapshots.Info, snapshots.Usage, error) {
	return bolt.GetInfo(ctx, key)
}

func (boltStore) UpdateInfo(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return bolt.UpdateInfo(ctx, info, fieldpaths...)
}

func (boltStore) WalkInfo(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return bolt.WalkInfo(ctx, fn, filters...)
}

func (boltStore) GetSnapshot(ctx context.Context, key string) (Snapshot, error) {
	s, err := bolt.GetSnapshot(ctx, key)
	return Snapshot(s), err
}

func (boltStore) CreateSnapshot(ctx context.Context, kind snapshots.Kind, key, parent string, opts ...snapshots.Opt) (Snapshot, error) {
	s, err := bolt.CreateSnapshot(ctx, kind, key, parent, opts...)
	return Snapshot(s), err
}

func (boltStore) Remove(ctx context.Context, key string) (string, snapshots.Kind, error) {
	return bolt.Remove(ctx, key)
}

func (boltStore) CommitActive(ctx context.Context, key, name string, usage snapshots.Usage, opts ...snapshots.Opt) (string, error) {
	return bolt.CommitActive(ctx, key, name, usage, opts...)
}

func (boltStore) IDMap(ctx context.Context) (map[string]string, error) { return bolt.IDMap(ctx) }

type fsStore struct{ *fs.MetaStore }

func openFS(path string) (Store, error) {
	ms, err := fs.NewMetaStore(path)
	return fsStore{ms}, err
}

func (s fsStore) TransactionContext(ctx context.Context, writable bool) (context.Context, Transactor, error) {
	return s.MetaStore.TransactionContext(ctx, writable)
}

func (s fsStore) WithTransaction(ctx context.Context, writable bool, fn func(context.Context) error) error {
	return s.MetaStore.WithTransaction(ctx, writable, fn)
}

func (fsStore) GetInfo(ctx context.Context, key string) (string, snapshots.Info, snapshots.Usage, error) {
	return fs.GetInfo(ctx, key)
}

func (fsStore) UpdateInfo(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return fs.UpdateInfo(ctx, info, fieldpaths...)
}

func (fsStore) WalkInfo(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return fs.WalkInfo(ctx, fn, filters...)
}

func (fsStore) GetSnapshot(ctx context.Context, key string) (Snapshot, error) {
	s, err := fs.GetSnapshot(ctx, key)
	return Snapshot(s), err
}

func (fsStore) CreateSnapshot(ctx context.Context, kind snapshots.Kind, key, parent string, opts ...snapshots.Opt) (Snapshot, error) {
	s, err := fs.CreateSnapshot(ctx, kind, key, parent, opts...)
	return Snapshot(s), err
}

func (fsStore) Remove(ctx context.Context, key string) (string, snapshots.Kind, error) {
	return fs.Remove(ctx, key)
}

func (fsStore) CommitActive(ctx context.Context, key, name string, usage snapshots.Usage, opts ...snapshots.Opt) (string, error) {
	return fs.CommitActive(ctx, key, name, usage, opts...)
}

func (fsStore) IDMap(ctx context.Context) (map[string]string, error) { return fs.IDMap(ctx) }
