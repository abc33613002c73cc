package fsmeta

import "time"

// An Option changes how [Open] opens a store.
type Option func(*options)

type options struct {
	readOnly  bool // default: read and write
	mustExist bool // default: make the store where there is none
	relaxed   bool // default: Commit waits for the disk

	patience *time.Duration // default: ten seconds
}

// ReadOnly opens a store that exists and writes nothing to it, at no time and
// not to finish the work of a killed writer either: it works on a read-only mount.
// It sees the transactions that other processes commit meanwhile. Writable transactions fail with
// [ErrReadOnlyTransaction].
func ReadOnly() Option {
	return func(o *options) { o.readOnly = true }
}

// MustExist makes [Open] fail with [ErrNotStore] (and fs.ErrNotExist) where there
// is no store yet, instead of making one: for programs that would take an empty
// store, say because a filesystem is not mounted, for leave to delete all content.
// A store that has lost its file layout is [ErrDamaged], with and without this option.
func MustExist() Option {
	return func(o *options) { o.mustExist = true }
}

// Patience makes [Open] wait for that long, instead of ten seconds, for a program that has the whole
// store for itself. Where it is not positive, Open doesn't wait.
func Patience(d time.Duration) Option {
	return func(o *options) { o.patience = &d }
}

// Relaxed makes Commit return without waiting for the disk: for nodes that are rebuilt
// rather than repaired. Its transactions are synced, and shown to other processes and in
// the tree, a tenth of a second later, or as soon as the disk has done it. After a power
// cut the transactions of that last moment may be missing, the latest first and each as a
// whole; the store is consistent, and no identifier is handed out twice. When the process
// alone is killed, nothing is missing.
//
// A transaction that is rolled back, or has changed nothing, does wait until all that it
// could have read is on disk. So run an empty writable one before you delete the content of
// a snapshot that a transaction has removed; otherwise a power cut may leave
// the snapshot without its content. If a sync fails, transactions that were committed meanwhile may
// be lost: later transactions and Close fail with [ErrFailed].
//
// It is a matter of this Store alone: others that write to the same store may wait.
func Relaxed() Option {
	return func(o *options) { o.relaxed = true }
}
