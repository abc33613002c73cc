package commit

import (
	"errors"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// CommitAs is Commit, with a line that says which snapshots there are after it: a repair
// states what it knows better than the count so far. Changes may be nil. It is our turn.
//
// A crash leaves the transaction whole or not at all; so does an error.
func (w *Writer) CommitAs(changes []format.Change, names format.Names) error {
	if err := w.Failed(); err != nil {
		return err
	}
	if w.inCondition() != clean {
		if err := w.Fold(); err != nil {
			return err
		}
	}
	txn := w.view.Tip() + 1
	for _, c := range changes {
		if c.After != nil {
			c.After.Txn = txn
		}
	}
	work, err := w.tree.Stage(changes, nil)
	if err != nil {
		return err
	}
	if err := w.writeLineAs(&format.Txn{Number: txn, Changes: changes, Names: names}, work); err != nil {
		return errors.Join(err, w.tree.Discard(work))
	}
	return w.Settle(txn)
}

// writeLineAs is writeLine, with the names as they are in t.
func (w *Writer) writeLineAs(t *format.Txn, work *tree.Work) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, reserved := w.ids.reserve(0)
	t.Time, t.NextID, t.Synced = time.Now().UTC(), reserved, w.settled
	if err := w.view.Journal().Append(t); err != nil {
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

// UsedUp reports whether no identifier is handed out any more, where the next would be next.
func UsedUp(next uint64) bool { return next >= MaxID-idBlock }
