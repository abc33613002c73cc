package atomic

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// RenameNew renames from to to, which must not exist, and is left alone if it
// does. Both must be on one filesystem; either may be a file of any kind or a
// directory.
//
// On Linux, check and rename are one step, whatever other processes do. Elsewhere,
// and on a filesystem that doesn't know RENAME_NOREPLACE, they are two, so that
// RenameNew is atomic only under a lock of the caller's that is held by every process
// that creates to; without it, a file or an empty directory created in between may be
// replaced.
//
// If the error is nil, to is there and from is not; durable once [SyncDir] of
// both directories has returned nil. A crash before that leaves either name;
// where the directories differ, a filesystem without a journal may leave both
// or none.
//
// An error is an *os.LinkError and leaves both as they were. It is an
// [fs.ErrExist] if to exists, and retrying helps only after to was removed.
func RenameNew(from, to string) error {
	return renameNew(from, to)
}

// Exchange gives a the name of b, and b that of a. Here b is what is published
// and a what was staged to replace it; both must exist, on one filesystem, as
// files of any kind or directories.
//
// On Linux, this is one step: at any time, and after a crash, a reader finds
// the one or the other at b, never nothing. Elsewhere, and on a filesystem that
// doesn't know RENAME_EXCHANGE, it is three renames, for which the caller must
// hold a lock: b to a+".old", a to b, a+".old" to a. A reader may then find b
// missing for a moment, and a crash may leave
//
//   - b missing, with a and a+".old" there: rename a to b to go on, or a+".old"
//     to b to go back;
//   - a missing, with b and a+".old" there: b is exchanged already; rename
//     a+".old" to a.
//
// If the error is nil, both are exchanged; durable once [SyncDir] of both
// directories has returned nil. Before that, a crash may undo the exchange.
//
// An error is, or where a step could not be undone joins, *os.LinkErrors.
// Usually it leaves both as they were and Exchange may be called again. The
// exceptions are the two states above: the first where b could not be put
// back, the second where the last rename failed. Where a+".old" exists, left by
// a crash, the three renames are not begun, and the error is an [fs.ErrExist].
func Exchange(a, b string) error {
	return exchange(a, b)
}

// TryExchange is [Exchange] where that is one step, on Linux on most filesystems. Elsewhere the
// error is [errors.ErrUnsupported], and nothing was done: for a caller with steps of its
// own that can tell what a crash between them leaves.
//
// If the error is nil, both are exchanged; durable once [SyncDir] of both directories has
// returned nil. Before that, a crash may undo the exchange. An error is an *os.LinkError and
// leaves both as they were; TryExchange may be called again.
func TryExchange(a, b string) error {
	return tryExchange(a, b)
}

// renameNewInSteps is RenameNew for systems without RENAME_NOREPLACE.
func renameNewInSteps(from, to string) error {
	_, err := os.Lstat(to)
	if err == nil {
		return linkError("rename", from, to, syscall.EEXIST)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return linkError("rename", from, to, err)
	}
	return os.Rename(from, to)
}

// exchangeInSteps is Exchange for systems without RENAME_EXCHANGE.
func exchangeInSteps(a, b string) error {
	// b goes beside a, not a beside b: leftovers belong with what is staged.
	old := filepath.Clean(a) + ".old"
	// A leftover may be the only copy of what was published; don't replace it.
	if err := renameNewInSteps(b, old); err != nil {
		return err
	}
	if err := os.Rename(a, b); err != nil {
		if undo := os.Rename(old, b); undo != nil {
			return errors.Join(err, undo)
		}
		return err
	}
	// No undoing from here: it would take b away again.
	return os.Rename(old, a)
}

// linkError names op and both paths, once only where err does so itself.
func linkError(op, from, to string, err error) error {
	if inner, ok := errors.AsType[*os.PathError](err); ok {
		err = inner.Err
	}
	return &os.LinkError{Op: op, Old: from, New: to, Err: err}
}
