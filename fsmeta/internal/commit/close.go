package commit

import (
	"errors"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
)

// Close finishes what was written and ends writing. Where last reports that no other Store
// has the store open, the journal is emptied: others would have to drop what they know. If
// Close returns an error, that or giving back the lock has failed; nothing that was committed
// is lost then: the journal has it.
//
// A crash leaves what is durable, for the next process that takes the lock.
func (w *Writer) Close(last func() (bool, error)) error {
	err := w.turn.Close() // behind it, no checkpoint begins
	w.stopLater()
	w.turn.AwaitEnd() // writers clean up behind their flush; a checkpoint ends
	if err == nil && w.turn.Held() {
		err = w.Settle(w.view.Tip())
	}
	if err == nil && w.Failed() == nil && w.view.Damage() == nil {
		err = w.closeLast(last)
	}
	if w.turn.Held() {
		w.tree.DropSpares() // what is left is deleted with the rest of staging/ later
		err = errors.Join(err, w.turn.Drop())
	}
	return errors.Join(err, w.Failed())
}

func (w *Writer) closeLast(last func() (bool, error)) error {
	alone, err := last()
	if err != nil || !alone {
		return err
	}
	if !w.turn.Held() {
		held, err := w.turn.Acquire()
		if errors.Is(err, fault.ErrDamaged) {
			return nil // every use of the store returns it
		}
		if err != nil || !held {
			return err
		}
	}
	if err := w.Fold(); err != nil {
		return err
	}
	_ = w.tree.Clean() // what is left is deleted by the next process that takes the lock
	return nil
}
