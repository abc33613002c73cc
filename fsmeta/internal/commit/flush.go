package commit

import (
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Settle returns when everything up to txn is durable, in the tree but for what lags, and
// published. The first to come does it for all that wait by then.
//
// A crash before the sync leaves each of them whole or not at all, after it all of them. If
// Settle returns an error, the sync failed: which of them are there is unknown until the
// store is opened anew.
func (w *Writer) Settle(txn uint64) error {
	w.flush.Lock()
	if w.upTo() >= txn {
		w.flush.Unlock()
		return nil
	}
	batch, err := w.flushLocked()
	w.flush.Unlock()
	if err != nil {
		return err
	}
	for _, x := range batch {
		w.tree.Recycle(x.work)
	}
	w.checkpointIfDue()
	return nil
}

// upTo is the last transaction that is settled.
func (w *Writer) upTo() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settled
}

// flushLocked syncs, brings up and publishes everything that is written, and returns it. The
// caller holds flush.
func (w *Writer) flushLocked() ([]*written, error) {
	if err := w.Failed(); err != nil {
		return nil, err
	}
	j := w.view.Journal()
	w.mu.Lock()
	batch := w.queue
	w.queue = nil
	w.mu.Unlock()
	if len(batch) == 0 {
		return nil, nil
	}
	if err := j.Sync(); err != nil { // the instant of commit
		return nil, w.fail(err)
	}
	for _, x := range batch {
		w.noteLag(x.names, w.tree.BringUp(x.work, w.lags))
	}
	w.publish(batch)
	w.turn.Look()
	return batch, nil
}

// publish shows durable transactions to the readers of all processes. A reader that begins
// in this process while others are shown them waits, so that it does not find less than one
// elsewhere that began before.
func (w *Writer) publish(batch []*written) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := batch[len(batch)-1]
	w.view.Publish(last.txn, func() {
		err := w.view.Journal().Publish(last.txn)
		if fault.NoRoom(err) && w.tree.DropBallast() {
			err = w.view.Journal().Publish(last.txn)
		}
		if err != nil {
			// Committed all the same. A checkpoint will show it to the others.
			w.condition = max(w.condition, dirty)
		}
	})
	w.ids.safe = last.nextID
	w.settled = last.txn
}

// relaxedFor is how long a relaxed commit may have to wait before its sync begins.
const relaxedFor = 100 * time.Millisecond

// SettleLater shows a transaction with a written line to this process's readers, and sees
// to it that it is settled soon. Until then the process keeps the lock.
//
// A crash of the process leaves it committed, a power cut whole or not at all.
func (w *Writer) SettleLater(txn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view.Publish(txn, nil)
	if w.later != nil {
		return
	}
	w.turn.Join()
	w.later = time.AfterFunc(relaxedFor, func() {
		w.mu.Lock()
		w.later = nil
		w.mu.Unlock()
		_ = w.Settle(w.view.Tip()) // a failure ends writing, and is returned from then on
		w.turn.End()
	})
}

// stopLater calls off what SettleLater has planned; the caller settles.
func (w *Writer) stopLater() {
	w.mu.Lock()
	planned := w.later != nil && w.later.Stop()
	if planned {
		w.later = nil
	}
	w.mu.Unlock()
	if planned {
		w.turn.End()
	}
}

// Commit writes changes, as a transaction that nothing else of this process can come
// between, and returns when it is durable. It is our turn.
func (w *Writer) Commit(changes []format.Change) error { return w.CommitAs(changes, format.Names{}) }

// CommitAs is Commit. Where names is known, the line says that these snapshots are there after it:
// a repair knows better than the count so far.
//
// A crash leaves the transaction whole or not at all; so does an error.
func (w *Writer) CommitAs(changes []format.Change, names format.Names) error {
	txn, err := w.append(format.Txn{Changes: changes, Names: names}, 0, nil)
	if err == nil {
		err = w.Settle(txn)
	}
	return err
}
