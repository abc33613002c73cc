package fsmeta

import "github.com/fsmeta/fsmeta/fsmeta/internal/fault"

// What can be wrong with the snapshot that a call names. Errors that the store
// returns wrap one of these with the operation and the name; test for them with
// errors.Is. Each has the marker method by which github.com/containerd/errdefs
// knows its class (NotFound, AlreadyExists, FailedPrecondition, …).
var (
	// ErrNotExist: there is no snapshot of that name. Also an fs.ErrNotExist.
	ErrNotExist error = fault.ErrNotExist
	// ErrExist: there is one already. Also an fs.ErrExist.
	ErrExist error = fault.ErrExist
	// ErrNotActive: the call needs an active snapshot, to commit one that is
	// not readonly either.
	ErrNotActive error = fault.ErrNotActive
	// ErrNotCommitted: a parent must be a committed snapshot.
	ErrNotCommitted error = fault.ErrNotCommitted
	// ErrHasChildren: others stand on the snapshot, so it can't be removed.
	ErrHasChildren error = fault.ErrHasChildren
	// ErrParentSet: a parent can't be given to a snapshot that has another.
	ErrParentSet error = fault.ErrParentSet
	// ErrInvalidName: a name that is empty, over 32,768 bytes or not valid
	// UTF-8; a label with such a key or a value that is not valid UTF-8; a snapshot
	// that takes more than 64 MiB with its labels; a field path that names no field
	// that can be updated; an identifier that [WithID] does not take; or what
	// [Store.Import] can't store.
	ErrInvalidName error = fault.ErrInvalidName
	// ErrInvalidOption: an option that the call does not take.
	ErrInvalidOption error = fault.ErrInvalidOption
	// ErrDamaged: a part of the store can't be what the store wrote, or snapshots
	// are missing. The error is, or wraps, a [*DamagedError] with the path.
	ErrDamaged error = fault.ErrDamaged
)

// What can be wrong with the transaction that a call runs in.
var (
	// ErrNoTransaction: the call writes, and its context carries no
	// transaction; or the context carries one of another store.
	ErrNoTransaction error = fault.ErrNoTransaction
	// ErrReadOnlyTransaction: the call writes, and its transaction doesn't.
	ErrReadOnlyTransaction error = fault.ErrReadOnlyTransaction
	// ErrTransactionClosed: the transaction was committed or rolled back.
	ErrTransactionClosed error = fault.ErrTransactionClosed
	// ErrNestedTransaction: a writable transaction was to begin inside a
	// writable one of the same store, which would wait for itself.
	ErrNestedTransaction error = fault.ErrNestedTransaction
	// ErrOutdated: checkpoints of another process have dropped journal lines
	// that this read-only transaction would have needed, so that it can't tell
	// any more how the store stood when it began. Begin it again.
	ErrOutdated error = fault.ErrOutdated
)

// What can be wrong with the store as a whole.
var (
	// ErrClosed: the Store was closed. Also an fs.ErrClosed.
	ErrClosed error = fault.ErrClosed
	// ErrNotStore: the path does not hold a store, or one in a layout that
	// this version of the package does not know.
	ErrNotStore error = fault.ErrNotStore
	// ErrUsed: something was committed to the store before, so that it can't be
	// filled with the snapshots of another.
	ErrUsed error = fault.ErrUsed
	// ErrInUse: another program has the store open, where none may, or has it for itself.
	ErrInUse error = fault.ErrInUse
	// ErrFailed: a sync failed earlier, so that the content of the disk is not
	// known any more. This Store writes nothing until it is closed and opened anew.
	ErrFailed error = fault.ErrFailed
	// ErrOutcomeUnknown: the sync of this very transaction failed. It may or
	// may not be there when the store is opened anew.
	ErrOutcomeUnknown error = fault.ErrOutcomeUnknown
)

// DamagedError says which part of the store can't be what the store wrote. Its fields are
// Name, of the snapshot, "" where it can't be known or it isn't one; Path, the file or
// directory to look at; and Err, what is wrong with it. It is an [ErrDamaged] and whatever
// Err is.
type DamagedError = fault.Damaged
