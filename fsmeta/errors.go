package fsmeta

import (
	"fmt"
	"io/fs"
)

// What can be wrong with the snapshot that a call names. Errors that the store
// returns wrap one of these with the operation and the name; test for them with
// errors.Is. Each has the marker method by which github.com/containerd/errdefs
// knows its class (NotFound, AlreadyExists, FailedPrecondition, …).
var (
	// ErrNotExist: there is no snapshot of that name. Also an fs.ErrNotExist.
	ErrNotExist error = notFound{"does not exist", fs.ErrNotExist}
	// ErrExist: there is one already. Also an fs.ErrExist.
	ErrExist error = alreadyExists{"already exists", fs.ErrExist}
	// ErrNotActive: the call needs an active snapshot, to commit one that is
	// not readonly either.
	ErrNotActive error = failedPrecondition{"not active"}
	// ErrNotCommitted: a parent must be a committed snapshot.
	ErrNotCommitted error = failedPrecondition{"not committed"}
	// ErrHasChildren: others stand on the snapshot, so it can't be removed.
	ErrHasChildren error = failedPrecondition{"has children"}
	// ErrParentSet: a parent can't be given to a snapshot that has another.
	ErrParentSet error = failedPrecondition{"has another parent"}
	// ErrInvalidName: a name that is empty, over 32,768 bytes or not valid
	// UTF-8; a label with such a key or a value that is not valid UTF-8; or a field
	// path that names no field that can be updated.
	ErrInvalidName error = invalidParameter{"invalid name"}
	// ErrDamaged: what is on disk can't be what the store wrote. The error
	// is, or wraps, a [*DamagedError] with the path.
	ErrDamaged error = dataLoss{"damaged"}
)

// What can be wrong with the transaction that a call runs in.
var (
	// ErrNoTransaction: the call writes, and its context carries no
	// transaction; or the context carries one of another store.
	ErrNoTransaction error = failedPrecondition{"no transaction in the context"}
	// ErrReadOnlyTransaction: the call writes, and its transaction doesn't.
	ErrReadOnlyTransaction error = failedPrecondition{"read-only transaction"}
	// ErrTransactionClosed: the transaction was committed or rolled back.
	ErrTransactionClosed error = failedPrecondition{"transaction closed"}
	// ErrNestedTransaction: a writable transaction was to begin inside a
	// writable one of the same store, which would wait for itself.
	ErrNestedTransaction error = failedPrecondition{"writable transaction inside a writable one"}
	// ErrOutdated: another process has folded journal lines that this
	// read-only transaction would have needed, so that it can't tell any more
	// how the store stood when it began. Begin it again.
	ErrOutdated error = aborted{"transaction outdated"}
)

// What can be wrong with the store as a whole.
var (
	// ErrClosed: the Store was closed. Also an fs.ErrClosed.
	ErrClosed error = closed{unavailable{"store closed"}}
	// ErrNotStore: the path does not hold a store, or one in a layout that
	// this version of the package does not know.
	ErrNotStore error = failedPrecondition{"not an fsmeta store"}
	// ErrUsed: something was committed to the store before, so that it can't be
	// filled with the snapshots of another.
	ErrUsed error = failedPrecondition{"not a new store"}
	// ErrInUse: somebody has the store open, and nobody must.
	ErrInUse error = unavailable{"store in use"}
	// ErrFailed: a sync failed earlier, so that what is on disk is not known
	// any more. This Store writes nothing until it is closed and opened anew.
	ErrFailed error = unavailable{"writing has ended"}
	// ErrOutcomeUnknown: the sync of this very transaction failed. It may or
	// may not be there when the store is opened anew.
	ErrOutcomeUnknown error = unknown{"outcome unknown"}
)

// DamagedError says which part of the store can't be what the store wrote.
type DamagedError struct {
	Name string // of the snapshot, "" where it can't be known or it isn't one
	Path string // the file or directory to look at
	Err  error  // what is wrong with it
}

func (e *DamagedError) Error() string {
	const next = "run fsmeta check, or see 'Repairing by hand' in layout.md"
	if e.Name == "" {
		return fmt.Sprintf("%v: %s: %v; %s", ErrDamaged, e.Path, e.Err, next)
	}
	return fmt.Sprintf("%v: snapshot %.256q: %s: %v; %s", ErrDamaged, e.Name, e.Path, e.Err, next)
}

// Unwrap makes the error an [ErrDamaged] and whatever Err is.
func (e *DamagedError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// The classes of github.com/containerd/errdefs, each told by its marker method,
// so that nothing here needs to import it. Two values of a class are the same
// error only if their texts are.
type (
	notFound struct {
		text string
		is   error
	}
	alreadyExists struct {
		text string
		is   error
	}
	closed             struct{ unavailable }
	unavailable        struct{ text string }
	failedPrecondition struct{ text string }
	invalidParameter   struct{ text string }
	dataLoss           struct{ text string }
	aborted            struct{ text string }
	unknown            struct{ text string }
)

func (e notFound) Error() string           { return e.text }
func (e alreadyExists) Error() string      { return e.text }
func (e unavailable) Error() string        { return e.text }
func (e failedPrecondition) Error() string { return e.text }
func (e invalidParameter) Error() string   { return e.text }
func (e dataLoss) Error() string           { return e.text }
func (e aborted) Error() string            { return e.text }
func (e unknown) Error() string            { return e.text }

func (e notFound) Unwrap() error      { return e.is }
func (e alreadyExists) Unwrap() error { return e.is }
func (closed) Unwrap() error          { return fs.ErrClosed }

func (notFound) NotFound()                     {}
func (alreadyExists) AlreadyExists()           {}
func (unavailable) Unavailable()               {}
func (failedPrecondition) FailedPrecondition() {}
func (invalidParameter) InvalidParameter()     {}
func (dataLoss) DataLoss()                     {}
func (aborted) Aborted()                       {}
func (unknown) Unknown()                       {}
