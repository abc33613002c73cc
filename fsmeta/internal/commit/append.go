package commit

import (
	"errors"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// Append stages what changes and writes its line, and returns its transaction. It is our
// turn; the next writer builds on this transaction. Nothing is durable yet, see Settle.
// Identifiers go on at nextID at the lowest then. Where staged is not nil it is told how many
// changes are staged, after each.
//
// A crash leaves the transaction written or not: a whole line will be committed. An error
// leaves nothing of it, and Append can be called again.
func (w *Writer) Append(changes []format.Change, nextID uint64, staged func(int)) (uint64, error) {
	return w.append(format.Txn{Changes: changes}, nextID, staged)
}

// append is Append. Where t.Names is known, the line says that rather than the count so far.
func (w *Writer) append(t format.Txn, nextID uint64, staged func(int)) (uint64, error) {
	if err := w.Failed(); err != nil {
		return 0, err
	}
	if w.inCondition() != clean {
		if err := w.Fold(); err != nil {
			return 0, err
		}
	}
	if adds(t.Changes) {
		if err := w.checkRoom(); err != nil {
			return 0, err
		}
	}
	full, err := w.tryAppend(t, nextID, staged)
	for try := 0; full && w.makeRoom(try, !adds(t.Changes)); try++ {
		full, err = w.tryAppend(t, nextID, staged)
	}
	if err != nil {
		return 0, err
	}
	return w.view.Tip(), nil
}

// tryAppend is append, but for what has to come before. It is full where there is no room for
// the line.
func (w *Writer) tryAppend(t format.Txn, nextID uint64, staged func(int)) (full bool, err error) {
	t.Number = w.view.Tip() + 1
	for _, c := range t.Changes {
		if c.After != nil {
			c.After.Txn = t.Number
		}
	}
	work, err := w.tree.Stage(t.Changes, staged)
	if err != nil {
		return false, err
	}
	if err = w.writeLine(&t, nextID, work); err != nil {
		full = noRoom(err)
		return full, errors.Join(err, w.tree.Discard(work))
	}
	return false, nil
}

// adds reports whether changes need room: whether there is one that leaves a snapshot.
func adds(changes []format.Change) bool {
	for _, c := range changes {
		if c.After != nil {
			return true
		}
	}
	return false
}

// writeLine writes the line of a transaction with staged changes, and shows it to the
// writers after it.
func (w *Writer) writeLine(t *format.Txn, nextID uint64, work *tree.Work) error {
	j := w.view.Journal()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.Failed(); err != nil {
		return err // the journal may have been given up meanwhile
	}
	next, reserved := w.ids.reserve(nextID)
	t.Time, t.NextID, t.Synced = time.Now().UTC(), reserved, w.settled
	if !t.Names.Known { // else a repair states them
		t.Names = j.NamesAt(j.Tip()).After(t.Changes)
	}
	if err := j.Append(t); err != nil {
		if errors.Is(err, journal.ErrDirty) {
			w.condition = max(w.condition, dirty)
		}
		if errors.Is(err, fault.ErrSync) {
			return w.fail(err)
		}
		return err
	}
	w.ids.next, w.ids.reserved = next, reserved
	x := &written{txn: t.Number, nextID: reserved, work: work}
	for i := range t.Changes {
		x.names = append(x.names, t.Changes[i].Name)
	}
	w.queue = append(w.queue, x)
	w.view.Add(t)
	return nil
}
