package fsmeta

import (
	"context"
	"fmt"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// MetaStore keeps the metadata of a snapshot driver: which snapshots there are,
// by name and by identifier, what each stands on, and in which state it is.
// [Store] implements it.
//
// Every method takes the transaction from its context, see
// [Store.TransactionContext]. Reads (Stat, Walk, GetActive) without one run in
// a transaction of their own; writes (CreateActive, Remove, Commit) without one
// fail with [ErrNoTransaction].
type MetaStore interface {
	// TransactionContext begins a transaction and returns a context that
	// carries it to the other methods.
	TransactionContext(ctx context.Context, writable bool) (context.Context, Transactor, error)

	// Stat returns what is known of the snapshot named key, active or committed.
	Stat(ctx context.Context, key string) (Info, error)

	// Walk calls fn for every snapshot, in byte order of the names. Damage, and
	// snapshots that are missing, are an error in the end.
	Walk(ctx context.Context, fn func(context.Context, Info) error) error

	// CreateActive makes the active snapshot key on top of the committed
	// snapshot parent, or on nothing where parent is empty.
	CreateActive(ctx context.Context, key, parent string, readonly bool) (Active, error)

	// GetActive returns the identifiers by which a driver mounts the active snapshot key.
	GetActive(ctx context.Context, key string) (Active, error)

	// Remove takes the snapshot key out of the store and returns its
	// identifier, so that the driver can delete the content.
	Remove(ctx context.Context, key string) (string, error)

	// Commit turns the active snapshot key into the committed snapshot name
	// and returns its identifier, which stays the same.
	Commit(ctx context.Context, key, name string) (string, error)
}

// Transactor ends a transaction. Exactly one of the two methods takes effect,
// once: calling Rollback after Commit, whatever Commit returned, or a second
// time, does nothing and returns nil, so that it can be deferred. Commit after
// either fails with [ErrTransactionClosed].
type Transactor interface {
	// Commit makes the transaction's changes durable and visible. If it
	// returns nil they survive a power cut and the tree shows them (of a
	// [Relaxed] Store, soon). If it returns an error, none of them took effect, unless the error is
	// [ErrOutcomeUnknown].
	//
	// Read-only transactions are committed and rolled back alike: both end them.
	Commit() error

	// Rollback drops the transaction's changes and leaves nothing of them.
	// For a writable transaction it returns when everything that the
	// transaction could have read is on disk.
	Rollback() error
}

// Kind tells what can be done with a snapshot.
type Kind uint8

const (
	// KindActive is a snapshot that belongs to one user (a container, an
	// unpacking): it can be mounted and changed, committed if it is not
	// readonly, and removed. It can't be a parent.
	KindActive Kind = iota + 1
	// KindCommitted is a snapshot that never changes any more. Others can
	// stand on it; it can be removed while none does.
	KindCommitted
)

var kindNames = map[Kind]string{KindActive: "active", KindCommitted: "committed"}

// String returns "active" or "committed".
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// MarshalText returns what String does, as JSON and other encodings want it.
// It fails for a Kind that is neither of the constants.
func (k Kind) MarshalText() ([]byte, error) {
	if name, ok := kindNames[k]; ok {
		return []byte(name), nil
	}
	return nil, fmt.Errorf("fsmeta: no such kind: %d", uint8(k))
}

// UnmarshalText is the inverse of MarshalText.
func (k *Kind) UnmarshalText(text []byte) error {
	for kind, name := range kindNames {
		if string(text) == name {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("fsmeta: no such kind: %q", text)
}

// Usage is how much a snapshot's content takes, without its parents'. The driver
// measures it; the store keeps it.
type Usage struct {
	Inodes int64 `json:"inodes"` // files, directories, links and so on
	Size   int64 `json:"size"`   // bytes
}

// Info is the store's knowledge of one snapshot. The caller owns it: changing it, the labels
// too, changes nothing else.
type Info struct {
	ID       string            // decimal, unique for as long as the store exists; kept on commit
	Name     string            // the key of an active snapshot, the name of a committed one
	Parent   string            // name of the committed snapshot it stands on, "" for none
	Kind     Kind              // active or committed
	Readonly bool              // can't be changed by its user; true for every committed snapshot
	Labels   map[string]string // nil where there are none
	Created  time.Time         // UTC; for a committed snapshot, the time of its commit
	Updated  time.Time         // UTC; of the last change to labels or usage, else Created
	Usage    Usage             // as last set by the driver
}

// Active has the identifiers by which a driver mounts an active snapshot. The caller owns it.
type Active struct {
	ID string
	// ParentIDs are the identifiers of the snapshots below, from the lowest
	// base to the highest: the last element is the immediate parent. That is the order of
	// containerd's MetaStore interface of 2017. containerd's package storage has them the other way
	// round today, and so has the drop-in for it.
	ParentIDs []string
	Readonly  bool
}

// A SnapshotOption adds to what [Store.CreateWith] and [Store.CommitWith] record. Each
// option says which of the two takes it; the other fails with [ErrInvalidOption].
type SnapshotOption func(*snapshotOptions)

type snapshotOptions struct {
	labels []format.Label
	usage  *Usage
	parent *string
	id     string
}

// WithLabels gives the snapshot these labels. Both calls take it. The map is copied. Keys
// and values must be valid UTF-8, keys not empty and at most 32,768 bytes long. Values have no
// limit of their own: a snapshot takes 64 MiB at most with all its labels, as its file
// metadata.json. Else the call fails with [ErrInvalidName].
func WithLabels(labels map[string]string) SnapshotOption {
	own := format.LabelsOf(labels)
	return func(o *snapshotOptions) { o.labels = own }
}

// WithUsage records what the snapshot's content takes. Both calls take it.
func WithUsage(usage Usage) SnapshotOption {
	return func(o *snapshotOptions) { o.usage = &usage }
}

// WithID gives a new snapshot an identifier that [Store.NewID] of the same Store has
// returned. Each serves one creation that succeeds, also if its transaction is rolled back
// afterwards; a creation that fails leaves it to the caller, to be given again. The creation
// fails with [ErrInvalidName] for any other: one of another Store, also of the same directory,
// or from before a Close. An empty one stands for none, and the snapshot gets a new one.
//
// It is an option of [Store.CreateWith]: on commit an identifier stays as it is.
func WithID(id string) SnapshotOption {
	return func(o *snapshotOptions) { o.id = id }
}

// WithParent gives, at commit, an active snapshot that was created on nothing
// the committed snapshot parent to stand on (a "rebase": layers unpacked side by
// side are put on top of each other when they are done). An empty parent changes
// nothing. Naming the parent that the snapshot already has is allowed. Errors, in this
// order: [ErrParentSet] where it has another, [ErrNotExist], [ErrNotCommitted] where the
// parent is active.
//
// It is an option of [Store.CommitWith]: [Store.CreateWith] has an argument for the parent.
func WithParent(parent string) SnapshotOption {
	return func(o *snapshotOptions) { o.parent = &parent }
}

// infoOf returns a snapshot as callers see it, with labels of their own.
func infoOf(m *format.Snapshot) Info {
	return Info{
		ID: m.ID, Name: m.Name, Parent: m.Parent, Kind: Kind(m.Kind), Readonly: m.Readonly,
		Labels: format.LabelMap(m.Labels), Created: m.Created, Updated: m.Updated, Usage: Usage(m.Usage),
	}
}
