package commit

import (
	"errors"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
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
	if err := w.writeLine(&format.Txn{Number: txn, Changes: changes, Names: names}, 0, work); err != nil {
		return errors.Join(err, w.tree.Discard(work))
	}
	return w.Settle(txn)
}

// UsedUp reports whether no identifier is handed out any more, where the next would be next.
func UsedUp(next uint64) bool { return next >= MaxID-idBlock }
