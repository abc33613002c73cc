package storage

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

// ErrNoTransaction is returned, as it is, by every function with a context that carries no
// transaction.
var ErrNoTransaction = errors.New("no transaction in context")

// classified is an error of the store that is also what containerd's package returns
// in its place, of package errdefs or of bbolt.
type classified struct {
	err   error
	class error
}

func (e classified) Error() string   { return e.err.Error() }
func (e classified) Unwrap() []error { return []error{e.class, e.err} }

// reclassified is classified where the store's error is of another class than
// containerd's: only the latter is to be seen.
type reclassified struct {
	err   error
	class error
}

func (e reclassified) Error() string { return e.err.Error() }
func (e reclassified) Unwrap() error { return e.class }

var classes = []struct{ ours, theirs error }{
	{fsmeta.ErrDamaged, errdefs.ErrDataLoss},
	{fsmeta.ErrOutdated, errdefs.ErrAborted},
	{fsmeta.ErrNotExist, errdefs.ErrNotFound},
	{fsmeta.ErrExist, errdefs.ErrAlreadyExists},
	{fsmeta.ErrNotActive, errdefs.ErrFailedPrecondition},
	{fsmeta.ErrNotCommitted, errdefs.ErrFailedPrecondition},
	{fsmeta.ErrHasChildren, errdefs.ErrFailedPrecondition},
	{fsmeta.ErrInvalidName, errdefs.ErrInvalidArgument},
}

// classify gives an error of the store the class that containerd's package gives it.
func classify(err error) error {
	switch {
	case errors.Is(err, fsmeta.ErrReadOnlyTransaction):
		return reclassified{err, errbolt.ErrTxNotWritable}
	case errors.Is(err, fsmeta.ErrTransactionClosed):
		return reclassified{err, errbolt.ErrTxClosed}
	}
	for _, c := range classes {
		if errors.Is(err, c.ours) {
			return classified{err, c.theirs}
		}
	}
	return err
}

// classifyLookup is classify for a call that looks for a snapshot: one with a name that is
// not possible is not there.
func classifyLookup(err error) error {
	if errors.Is(err, fsmeta.ErrInvalidName) {
		return reclassified{err, errdefs.ErrNotFound}
	}
	return classify(err)
}

// notFound says that nothing was ever written to the store.
func notFound(what string) error {
	return fmt.Errorf("%s: nothing was ever written to the store: %w", what, errdefs.ErrNotFound)
}

// checkNew says what is wrong with the name of a snapshot to be made. An empty one
// is what bbolt calls a bucket without a name.
func checkNew(name string) error {
	if name == "" {
		return reclassified{errors.New("a snapshot's name can't be empty"), errbolt.ErrBucketNameRequired}
	}
	if len(name) > bolt.MaxKeySize || !utf8.ValidString(name) {
		return fmt.Errorf("snapshot name %.256q is over %d bytes long or not valid UTF-8: %w", name, bolt.MaxKeySize, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkLabels says what is wrong with labels.
func checkLabels(labels map[string]string) error {
	for key, value := range labels {
		switch {
		case key == "":
			return reclassified{fmt.Errorf("a label's key can't be empty (its value is %.256q)", value), errbolt.ErrKeyRequired}
		case len(key) > bolt.MaxKeySize:
			return reclassified{fmt.Errorf("label key %.256q is over %d bytes long", key, bolt.MaxKeySize), errbolt.ErrKeyTooLarge}
		case !utf8.ValidString(key) || !utf8.ValidString(value):
			return fmt.Errorf("label %.256q=%.256q is not valid UTF-8: %w", key, value, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
