// Package fault holds the errors of a store: the sentinels that callers test for, their
// classes, and the error that names what is damaged.
package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// What can be wrong with the snapshot that a call names.
var (
	ErrNotExist      error = notFound{"does not exist", fs.ErrNotExist}
	ErrExist         error = alreadyExists{"already exists", fs.ErrExist}
	ErrNotActive     error = failedPrecondition{"not active"}
	ErrNotCommitted  error = failedPrecondition{"not committed"}
	ErrHasChildren   error = failedPrecondition{"has children"}
	ErrParentSet     error = failedPrecondition{"has another parent"}
	ErrInvalidName   error = invalidParameter{"invalid name"}
	ErrInvalidOption error = invalidParameter{"invalid option"}
	ErrDamaged       error = dataLoss{"damaged"}
)

// What can be wrong with the transaction that a call runs in.
var (
	ErrNoTransaction       error = failedPrecondition{"no transaction in the context"}
	ErrReadOnlyTransaction error = failedPrecondition{"read-only transaction"}
	ErrTransactionClosed   error = failedPrecondition{"transaction closed"}
	ErrNestedTransaction   error = failedPrecondition{"writable transaction inside a writable one"}
	ErrOutdated            error = aborted{"transaction outdated"}
)

// What can be wrong with the store as a whole.
var (
	ErrClosed         error = closed{unavailable{"store closed"}}
	ErrNotStore       error = failedPrecondition{"not an fsmeta store"}
	ErrUsed           error = failedPrecondition{"not a new store"}
	ErrInUse          error = unavailable{"store in use"}
	ErrFailed         error = unavailable{"writing has ended"}
	ErrOutcomeUnknown error = unknown{"outcome unknown"}
)

// ErrSync marks the failure of a sync, as opposed to that of a step before it: what is on
// disk is not known any more. It is for use inside of the store.
var ErrSync = errors.New("what is on disk is not known any more")

// Damaged says which part of the store can't be what the store wrote.
type Damaged struct {
	Name string // of the snapshot, "" where it can't be known or it isn't one
	Path string // the file or directory to look at
	Err  error  // what is wrong with it
}

func (e *Damaged) Error() string {
	const next = "run fsmeta check, or see docs/repair.md"
	if e.Name == "" {
		return fmt.Sprintf("%v: %s: %s; %s", ErrDamaged, e.Path, ProblemOf(e), next)
	}
	return fmt.Sprintf("%v: snapshot %.256q: %s: %s; %s", ErrDamaged, e.Name, e.Path, ProblemOf(e), next)
}

// ProblemOf says what is wrong, without the path, which stands beside it.
func ProblemOf(e *Damaged) string {
	return strings.ReplaceAll(e.Err.Error(), " "+e.Path+": ", ": ")
}

// Unwrap makes the error an [ErrDamaged] and whatever Err is.
func (e *Damaged) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// DamageOf returns the first *Damaged in err, or nil.
func DamageOf(err error) *Damaged {
	var d *Damaged
	errors.As(err, &d)
	return d
}

// Unreadable turns an error of reading one snapshot's files into that snapshot's damage,
// unless the error says more about this process than about the disk.
func Unreadable(name, path string, err error) error {
	for _, ours := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, ours) {
			return err
		}
	}
	return &Damaged{Name: name, Path: path, Err: err}
}

// NoRoom reports whether err says that there is no room: on the filesystem, in the quota,
// or in a directory.
func NoRoom(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EMLINK)
}

// The classes of github.com/containerd/errdefs, each told by its marker method,
// so that nothing here needs to import it. Two values of a class are the same
// error only if their texts are.
type (
	text string

	notFound struct {
		text
		is error
	}
	alreadyExists struct {
		text
		is error
	}
	closed             struct{ unavailable }
	unavailable        struct{ text }
	failedPrecondition struct{ text }
	invalidParameter   struct{ text }
	dataLoss           struct{ text }
	aborted            struct{ text }
	unknown            struct{ text }
)

// otherVersion is an ErrNotStore of which the text does not say so: there is a store.
type otherVersion struct{ failedPrecondition }

// OtherVersion returns an ErrNotStore for a store that a program of another version of the format has
// written.
func OtherVersion(format string, a ...any) error {
	return otherVersion{failedPrecondition{text(fmt.Sprintf(format, a...))}}
}

func (otherVersion) Unwrap() error { return ErrNotStore }

func (t text) Error() string { return string(t) }

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
