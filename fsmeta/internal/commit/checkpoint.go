package commit

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// checkpointIfDue starts a checkpoint in the background when the lines are long enough, or
// where one has to show other processes what could not be published.
func (w *Writer) checkpointIfDue() {
	size := w.view.Journal().Size()
	w.mu.Lock()
	defer w.mu.Unlock()
	due := size >= max(w.checkpointAt, w.size) || w.condition == dirty && size >= w.checkpointAt
	if w.checkpointing || w.away || !due || w.turn.Closing() || w.Failed() != nil {
		return
	}
	w.checkpointing = true
	w.turn.Join() // so that the process keeps the lock, which it has now: see leave
	go func() {
		defer w.turn.End()
		err := w.checkpoint()
		size := w.view.Journal().Size()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.checkpointing = false
		if err != nil {
			// Nothing is lost: the journal is kept. Try again when it has grown. A failed
			// sync ends writing; anything else is returned by Close, if its own checkpoint
			// fails as well.
			w.checkpointAt = size + w.size
		}
	}()
}

// checkpoint drops the lines that the tree holds durably. The tree is synced while this
// process goes on committing; its writers wait for the change of files alone. Other
// processes wait for all of it: were they to sync the same files after a sync of ours has
// failed, theirs would seem to succeed.
//
// A crash leaves the old journal or the new one, and the tree with everything that the one
// at hand doesn't have. An error keeps the old one; if a sync has failed, writing has ended.
func (w *Writer) checkpoint() (err error) {
	w.retryLagging()
	j := w.view.Journal()
	s, err := w.syncTree(w.upTo())
	if err != nil {
		return err
	}
	next := w.prepareAhead()
	defer func() { err = errors.Join(err, next.Discard()) }()     // unless it is in place
	if err := w.turn.TakeTurn(context.Background()); err != nil { // at once when the Writer is closed
		return err
	}
	defer w.turn.Release()
	err = w.Settle(w.view.Tip())
	if err != nil || w.view.Journal() != j { // a transaction had to make a checkpoint itself
		return err
	}
	// A name may have come to lag since the tree was synced; its lines may be dropped.
	maps.Copy(s.lagging, w.Lagging())
	w.mu.Lock()
	reserved := w.ids.reserved
	w.mu.Unlock()
	if err = w.replace(s, reserved, next); err == nil {
		w.tree.KeepBallast(w.ahead) // not by a fold: that may be what makes room for a removal
	}
	return err
}

// Fold makes a checkpoint of everything: it leaves no line in the journal but one for the
// names that lag, which it tries again before. It is our turn, and the process has the lock.
func (w *Writer) Fold() error {
	if err := w.Settle(w.view.Tip()); err != nil {
		return err
	}
	w.retryLagging()
	if done, err := w.folded(); done || err != nil {
		return err
	}
	return w.fold()
}

// fold is Fold where everything is settled.
func (w *Writer) fold() error {
	s, err := w.syncTree(w.view.Journal().Tip())
	if err != nil {
		return err
	}
	w.mu.Lock()
	if w.condition == distrusted { // not any more: all of it was built anew, and synced
		w.condition = dirty
	}
	w.mu.Unlock()
	return w.replace(s, w.NextID(), nil) // the rest of the block of identifiers is given back
}

// folded reports whether the journal has no lines, and says what it should.
func (w *Writer) folded() (bool, error) {
	j := w.view.Journal()
	placed, err := j.Placed()
	w.mu.Lock()
	defer w.mu.Unlock()
	h := j.Header()
	return placed && j.Tip() == h.Txn && w.condition == clean && h.NextID == w.ids.next && h.Names.Known && !j.OtherBoot(), err
}

// synced is what the tree holds durably, so that the journal can forget it.
type synced struct {
	txn     uint64           // the last of the lines
	names   []string         // that the lines are about
	lagging map[string]error // those that the tree does not hold durably, and why
}

// syncTree makes the snapshots durable that the lines up to txn name, but for those that lag: also
// those that can't be opened. After a failed sync writing has ended, and the journal says so to
// the process that takes the lock next.
func (w *Writer) syncTree(txn uint64) (synced, error) {
	j, lagging := w.view.Journal(), w.Lagging()
	names, err := j.Names(j.Header().Txn, txn)
	if err != nil {
		return synced{}, err
	}
	sound := slices.DeleteFunc(slices.Clone(names), func(name string) bool { _, lags := lagging[name]; return lags })
	unsynced, err := w.tree.Sync(sound, j.Foreign())
	if !errors.Is(err, fault.ErrSync) {
		maps.Copy(lagging, unsynced)
		w.noteLag(nil, unsynced)
		return synced{txn, names, lagging}, err
	}
	// A journal that ends as if superseded, with no successor, has to be replayed in full.
	// That is the one in place now: a transaction may have made a checkpoint meanwhile.
	w.mu.Lock()
	defer w.mu.Unlock()
	return synced{}, w.fail(errors.Join(err, w.view.Journal().Supersede()))
}

// replace puts a new journal in place of the old one, without the lines that by s need not be kept:
// the tree holds what they say. It has a line for the names that lag. All lines are published, or
// known to be committed. Identifiers go on at nextID. It is our turn, and the process has the
// lock. next, unless it is nil, is a file made ready for it.
//
// A crash leaves either file. Nothing is acknowledged in the new one before it is in its
// place for good, which its header's newline says. An error keeps the old one, unless the
// directory could not be synced: then which of the two a power cut leaves is unknown, and
// writing has ended.
func (w *Writer) replace(s synced, nextID uint64, next *journal.Next) error {
	old := w.view.Journal()
	names, highest, err := w.namesAt(old, s.txn)
	if err != nil {
		return errors.Join(err, next.Discard())
	}
	if highest >= nextID { // others may have been handed out above, and be gone
		w.RaiseID(highest + 1 + UnknownIDs)
		nextID = w.NextID()
	}
	carry := w.carryOver(s.lagging, old, nextID)
	fill := w.ahead
	if w.turn.Closing() {
		fill = journal.ClosedFill
	}
	h := format.Header{Txn: s.txn, NextID: nextID, Names: names}
	j, err := w.putNext(old, h, carry, next, fill)
	if noRoom(err) { // filling ahead is for speed alone
		w.tree.DropSpares()
		j, err = w.putNext(old, h, carry, nil, 0)
	}
	if err != nil {
		return err
	}
	return w.adopt(j, carry, s.names)
}

// namesAt returns which snapshots there are after txn. Where a person wrote the header it counts
// them, and returns their highest identifier, too.
func (w *Writer) namesAt(j *journal.File, txn uint64) (names format.Names, highest uint64, err error) {
	if names := j.NamesAt(txn); names.Known {
		return names, 0, nil
	}
	at := w.view.Base()
	at.At = txn
	names, err = w.view.Count(at, func(m *format.Snapshot) {
		if id, err := format.ParseID(m.ID); err == nil {
			highest = max(highest, id)
		}
	})
	return names, highest, err
}

// putNext writes the file that takes the place of old, and puts it there: next, or where that is nil one
// that is filled so far. A crash leaves either file, and perhaps garbage in staging/; so may an error that is a
// fault.ErrSync. Another error leaves old.
func (w *Writer) putNext(old *journal.File, h format.Header, carry *format.Txn, next *journal.Next, fill int) (*journal.File, error) {
	var err error
	if next == nil {
		if next, err = w.prepare(fill); err != nil {
			return nil, err
		}
	}
	j, err := next.Write(old, h, carry, w.inCondition() == distrusted)
	if err != nil {
		return nil, errors.Join(err, next.Discard())
	}
	// Readers that find the mark look for the new file from now on, so it has to be there
	// before the old one is out of sight.
	if err = w.exchange(old, next); err == nil {
		err = w.syncDir()
	}
	if err != nil {
		return nil, errors.Join(err, next.Discard(), j.Close())
	}
	return j, nil
}

// prepare makes a file in staging/ that a journal can be written to.
func (w *Writer) prepare(fill int) (*journal.Next, error) {
	return journal.Prepare(filepath.Join(w.dir.Path, format.JournalFile), filepath.Join(w.dir.Path, format.StagingDir), fill, w.owner)
}

// prepareAhead is prepare before the writers of this process have to wait: to fill the file
// is what takes long. Where that fails it returns nil, and replace makes do with less.
func (w *Writer) prepareAhead() *journal.Next {
	next, err := w.prepare(w.ahead)
	if err == nil {
		err = next.Sync()
	}
	if err != nil {
		_ = next.Discard() // at once: it may be what there is no room for
		return nil
	}
	return next
}

// exchange ends old and puts next in its place, unless writing has ended: a sync of the tree may
// have failed meanwhile, and old says so then. A crash leaves either file, and old with its mark
// or not. An error leaves old, without its mark if that can be.
func (w *Writer) exchange(old *journal.File, next *journal.Next) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.Failed(); err != nil {
		return err
	}
	err := old.Supersede()
	if err == nil {
		err = next.Replace()
	}
	if err != nil {
		err = errors.Join(err, w.keepLocked(old))
	}
	return err
}

// keepLocked takes the mark of old back. Where it can't, the next transaction makes a
// checkpoint first; where a sync has failed, writing has ended.
func (w *Writer) keepLocked(old *journal.File) error {
	if w.condition == distrusted {
		return nil // the mark was there before
	}
	err := old.Restore()
	switch {
	case errors.Is(err, fault.ErrSync):
		return w.fail(err)
	case err != nil:
		w.condition = dirty
	}
	return err
}

// adopt goes on with the new journal, which is in its place for good.
func (w *Writer) adopt(j *journal.File, carry *format.Txn, names []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids.reserved, w.ids.safe = j.NextID(), j.NextID()
	w.checkpointAt = 0
	if carry != nil { // which may be long, and stays
		w.checkpointAt = j.Size() + w.size
	}
	if w.settled == w.view.Tip() { // else a recovery brings the tree up later
		w.settled = j.Tip()
	}
	err := w.view.Adopt(j, carry, names)
	placed := j.Place()
	switch {
	case w.condition == distrusted: // until the tree was built anew
	case placed != nil:
		w.condition = dirty
	default:
		w.condition = clean
	}
	return errors.Join(err, placed)
}
