package commit

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// takeOver makes this process the writer: it has just got the lock on staging/. It takes in
// what others have written and brings the tree up to the journal:
//
//   - If the last line is published, its writer has brought the tree up to it. Yet names may
//     lag, or a rename may have been lost with the power, so each name in the lines that this
//     Writer has not brought up is compared.
//   - If other bytes follow it, a writer died or the power was cut. Whole lines are
//     committed: they are made durable, the tree is brought up to them, and a checkpoint
//     comes before anything else. Unreadable bytes are not overwritten.
//
// A crash leaves it to the next process that takes the lock. So does an error.
func (w *Writer) takeOver() error {
	if err := w.Failed(); err != nil {
		return err
	}
	untouched, err := w.untouched()
	if untouched {
		w.view.Hold(true)
		err = w.view.Journal().Lock()
	} else if err == nil {
		err = w.catchUp()
	}
	if err != nil {
		w.view.Hold(false)
		return errors.Join(err, w.view.Journal().Unlock())
	}
	w.mu.Lock()
	w.away = false
	w.mu.Unlock()
	return nil
}

// untouched reports whether no other process has written since this one gave the lock back,
// with nothing left to do.
func (w *Writer) untouched() (bool, error) {
	j := w.view.Journal()
	w.mu.Lock()
	done := w.visited && w.condition == clean && w.settled == j.Tip() && w.left == mark{j, j.Tip()}
	w.mu.Unlock()
	if !done || j.Damage() != nil {
		return false, nil
	}
	if same, err := j.InPlace(); err != nil || !same {
		return false, err
	}
	return j.Quiet()
}

// catchUp takes in what others have written, and brings the tree up to it.
func (w *Writer) catchUp() error {
	tail, err := w.view.CatchUp()
	if err != nil {
		return err
	}
	w.view.Ready()
	if bad := w.view.Damage(); bad != nil {
		return bad
	}
	j := w.view.Journal()
	w.view.Hold(true) // from here on this process writes
	unfinished, err := w.unfinished(j, tail)
	if err != nil {
		return err
	}
	if unfinished || !w.visited {
		_ = w.tree.Clean() // garbage that can't be deleted harms nothing, and the next process tries again
	}
	if !w.visited && j.Header().Txn == 0 { // the maker of the store may have died before its last sync
		if err := w.syncDir(); err != nil {
			return err
		}
	}
	if unfinished {
		err = w.recover(tail)
	} else {
		err = w.goOn(j)
	}
	if err == nil && !w.visited {
		w.tree.KeepBallast(w.ahead) // behind recover, which may need the room
		err = w.withBallast(w.passCopied)
		w.visited = err == nil
	}
	return err
}

// unfinished reports whether the last holder of the lock left something to be done, or a
// file that this process can't go on in.
func (w *Writer) unfinished(j *journal.File, tail journal.Tail) (bool, error) {
	placed, err := j.Placed()
	return !placed || tail.Torn || tail.Superseded || j.Published() < j.Tip() ||
		j.OtherBoot() || !j.Header().Names.Known || w.inCondition() != clean, err
}

// goOn takes the journal's lock, and brings the tree up to the lines of others.
func (w *Writer) goOn(j *journal.File) error {
	if err := j.Lock(); err != nil {
		return err
	}
	if err := w.bringUpLines(max(w.upTo(), j.Header().Txn), false); err != nil {
		return err
	}
	if w.left != (mark{j, j.Tip()}) {
		w.mu.Lock()
		w.ids.goOn(j.NextID())
		w.mu.Unlock()
	}
	return nil
}

// recover finishes what a holder of the lock that is gone has left. Lines that may be known
// to the page cache alone become durable first, in a new file: the tree must not be ahead of
// them, and syncing the old file could succeed though an earlier sync of it has failed.
//
// A crash leaves the old file or one with the same lines, and the tree somewhere on its way
// up to them.
func (w *Writer) recover(tail journal.Tail) error {
	j := w.view.Journal()
	w.mu.Lock()
	w.ids.goOn(j.NextID())
	// Where a checkpoint was given up, the tree may not have got to disk though it can be
	// read: everything is built anew. The mark that says so stays until that is done.
	if tail.Superseded {
		w.condition = distrusted
	} else {
		w.condition = max(w.condition, dirty)
	}
	w.mu.Unlock()
	if j.Published() < j.Tip() {
		err := w.withBallast(func() error { return w.replace(synced{txn: j.Header().Txn}, w.NextID(), nil) })
		if err != nil {
			return err
		}
	} else if err := j.Lock(); err != nil {
		return err
	}
	rebuild := w.inCondition() == distrusted
	if err := w.bringUpLines(w.view.Journal().Header().Txn, rebuild); err != nil {
		return err
	}
	return w.withBallast(w.fold)
}

// bringUpLines makes the tree hold the last version of every name in the lines after from,
// and of those that lag. All of these lines are durable.
func (w *Writer) bringUpLines(from uint64, rebuild bool) error {
	j := w.view.Journal()
	names, err := j.Names(from, j.Tip())
	if err != nil {
		return err
	}
	names = slices.AppendSeq(names, maps.Keys(w.Lagging()))
	w.bringUp(names, j.Tip(), rebuild)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled = j.Tip()
	return nil
}

// syncDir makes the names in the store's directory durable. A failure ends writing.
func (w *Writer) syncDir() error {
	if err := w.dir.File.Sync(); err != nil {
		return w.fail(fmt.Errorf("%w: %w", fault.ErrSync, err))
	}
	return nil
}
