package journal

import (
	"errors"
	"fmt"
	"os"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Follower passes on committed transactions in order, over checkpoints, on descriptors of its own,
// so that what others forget is still there. It is not for use by several goroutines at once.
type Follower struct {
	after   uint64 // transactions up to here are known, or not to be passed on
	file    *File
	pending []format.Line // known and not passed on
}

// Follow begins behind transaction after. It is a fault.ErrOutdated where the journal begins
// behind that. The caller calls Close in the end. Nothing is ever written.
func Follow(path string, after uint64) (*Follower, error) {
	file, err := Open(path, false)
	if err != nil {
		return nil, err
	}
	f := &Follower{after: after, file: file}
	if err = file.damage; err == nil && file.header.Txn > after {
		err = fmt.Errorf("the journal has only what came after transaction %d: %w", file.header.Txn, fault.ErrOutdated)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// Close ends the following.
func (f *Follower) Close() error { return f.file.Close() }

// Next returns the committed lines that follow, nil if there is nothing new. Lines without
// newline are committed where their writer is not at work, as for every reader. It is a
// fault.ErrOutdated where lines are missing, and a *fault.Damaged where one is damaged, after
// those before it were returned.
func (f *Follower) Next() ([]format.Line, error) {
	for {
		superseded, err := f.look()
		if err != nil {
			return nil, err
		}
		if !superseded {
			break
		}
		next, err := f.successor()
		if err != nil {
			return nil, err
		}
		if next == nil {
			break
		}
		// All known lines of the old file are committed: the new one is in its place.
		if lines := f.pass(f.file.Tip()); len(lines) > 0 {
			return lines, next.Close()
		}
		if err := f.switchTo(next); err != nil {
			return nil, errors.Join(err, next.Close())
		}
	}
	committed, err := f.file.Committed()
	if err != nil {
		return nil, err
	}
	lines := f.pass(committed)
	if damage := f.file.Damage(); damage != nil && len(lines) == 0 {
		return nil, damage
	}
	return lines, nil
}

// look takes in what was written, and reports whether the file is superseded.
func (f *Follower) look() (superseded bool, err error) {
	if quiet, err := f.file.Quiet(); quiet || err != nil {
		return false, err
	}
	tail, err := f.file.Scan(false)
	if err == nil && tail.Replaced {
		err = fmt.Errorf("the journal was overwritten by another program: %w", fault.ErrOutdated)
	}
	f.take(tail)
	return tail.Superseded, err
}

// take notes the lines that are to be passed on.
func (f *Follower) take(tail Tail) {
	for _, l := range tail.Fresh {
		if l.Txn > f.after {
			f.pending, f.after = append(f.pending, l), l.Txn
		}
	}
}

// pass returns the pending lines up to txn.
func (f *Follower) pass(txn uint64) []format.Line {
	n := 0
	for n < len(f.pending) && f.pending[n].Txn <= txn {
		n++
	}
	lines := f.pending[:n:n]
	f.pending = f.pending[n:]
	return lines
}

// successor opens the file that has taken the journal's place for good. It is nil where
// there is none yet.
func (f *Follower) successor() (*File, error) {
	next, err := Open(f.file.path, false)
	if err != nil {
		return nil, err
	}
	placed, err := next.Placed()
	if err != nil || !placed || os.SameFile(next.info, f.file.info) {
		return nil, errors.Join(err, next.Close())
	}
	return next, nil
}

// switchTo goes on in another file, behind the last line of the old one.
func (f *Follower) switchTo(next *File) error {
	old, tip := f.file, f.file.Tip()
	if next.header.Txn > tip {
		return fmt.Errorf("the journal begins behind transaction %d, and transaction %d was the last to be seen: %w", next.header.Txn, tip, fault.ErrOutdated)
	}
	tail, err := next.Scan(false)
	if err != nil {
		return err
	}
	if err := next.Damage(); err != nil && next.Tip() < tip {
		return err
	}
	if next.Tip() < tip || next.crc(tip) != old.crc(tip) {
		return fmt.Errorf("the journal does not go on behind transaction %d, that of another store has taken its place: %w", tip, fault.ErrOutdated)
	}
	f.take(tail)
	f.file = next
	_ = old.Close() // it was only read
	return nil
}
