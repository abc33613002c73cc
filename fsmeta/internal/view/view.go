// Package view is what the readers of one Store see: for a name that the journal names, the
// journal decides; for every other name, the tree does. It follows the journal, keeps what it
// has read, and gives each reader a point in time.
package view

import (
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// View is what the readers of one Store see. All methods may be called concurrently, but
// those for which the lock on staging/ is asked for.
//
// Lock order: mu, the index's, its points'.
type View struct {
	tree     *tree.Tree
	path     string // of the journal
	writable bool

	forgetful bool // see KeepNothing

	index     atomic.Pointer[index]        // changes under mu
	journal   atomic.Pointer[journal.File] // changes under mu
	held      atomic.Bool                  // this process writes: no other adds lines
	unsettled atomic.Bool                  // there are lines that are not published here: they are just taken in, or of a writer at work

	mu      sync.Mutex
	closed  bool
	strayed *journal.File // the damaged file of which the lines that verify were taken in
}

// Open opens the journal of the store in dir and takes in what it says. Where writable is
// set, the file can be written, too. It writes nothing.
func Open(dir string, t *tree.Tree, writable bool) (*View, error) {
	v := &View{tree: t, path: filepath.Join(dir, format.JournalFile), writable: writable}
	j, err := journal.Open(v.path, writable)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.journal.Store(j)
	v.resetLocked()
	if _, err := v.catchUpLocked(true, false); err != nil {
		_ = v.Journal().Close() // it was only read
		return nil, err
	}
	return v, nil
}

// Close ends all reading.
func (v *View) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	return v.Journal().Close()
}

// KeepNothing makes reads of the tree keep nothing in memory but the names. It is for a view
// that reads each snapshot once. It is called before the first read.
func (v *View) KeepNothing() { v.forgetful = true }

// Journal returns the file that is in use. It changes with a checkpoint.
func (v *View) Journal() *journal.File { return v.journal.Load() }

// Hold says whether this process is the one that writes, with everything known that others
// have written: then readers need not look for more.
//
// It waits for a reader that looks just now: what this process writes from now on, no reader
// takes in as another's line.
func (v *View) Hold(held bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !held { // after a failed sync, lines may be left for others to commit
		j := v.Journal()
		v.unsettled.Store(j.Published() < j.Tip())
	}
	v.held.Store(held)
}

// Damage returns what is wrong with the journal, a *fault.Damaged, or nil. That a line is nonsense
// is known when it was decoded, as by a walk or Ready.
func (v *View) Damage() error {
	if bad := v.Journal().Damage(); bad != nil {
		return bad
	}
	return v.index.Load().damage()
}

// Ready decodes what was taken in, so that later reads need not.
func (v *View) Ready() { v.index.Load().ready() }

// Tip is the last transaction that is known, committed or not.
func (v *View) Tip() uint64 {
	ix := v.index.Load()
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.tip
}

// Begin makes r a reader of the store as it stands now, until End.
func (v *View) Begin(r *Reader) error {
	if err := v.Look(); err != nil {
		return err
	}
	for {
		r.index = v.index.Load()
		r.index.points.begin(r)
		if !r.index.stale.Load() {
			return nil
		}
		r.index.points.end(r) // replaced just now
	}
}

// End ends a reader, and gives back the memory that was kept for it.
func (v *View) End(r *Reader) {
	ix := r.index
	if ix.points.end(r) && ix.leftovers.Load() {
		ix.trim()
	}
}

// Base is the point at which the holder of the lock writes: everything that is known.
func (v *View) Base() Point {
	ix := v.index.Load()
	tip := v.Tip()
	return Point{At: tip, index: ix, names: v.Journal().NamesAt(tip)}
}

// Add takes in a transaction that this process has just written the line of.
func (v *View) Add(t *format.Txn) { v.index.Load().addTxn(t) }

// Publish shows the transactions up to txn to this process's readers, while show, unless it
// is nil, shows them to other processes.
func (v *View) Publish(txn uint64, show func()) {
	v.index.Load().points.publish(txn, v.Journal().NamesAt(txn), show)
}

// Adopt goes on with a new journal, which this process has put in place: it has all lines
// of the old one after its header's, and, unless it is nil, carry. names are those that the
// dropped lines were about.
func (v *View) Adopt(j *journal.File, carry *format.Txn, names []string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	ix, old := v.index.Load(), v.Journal()
	if carry != nil {
		ix.addTxn(carry)
	}
	v.journal.Store(j)
	ix.points.publish(j.Tip(), j.NamesAt(j.Tip()), nil)
	v.unsettled.Store(false)
	ix.forget(names, j.Header().Txn)
	return old.Close()
}

// resetLocked starts anew from the journal's header.
func (v *View) resetLocked() {
	if old := v.index.Load(); old != nil {
		old.stale.Store(true)
	}
	h := v.Journal().Header()
	v.index.Store(newIndex(v.path, h.Txn, h.Names))
	v.strayed = nil
}

// Look takes in what other processes have written since. Where nothing is new it costs one
// small read, and none while this process writes.
func (v *View) Look() error {
	if v.held.Load() {
		return nil
	}
	// In this order: another reader may just be taking in what is new, see catchUpLocked.
	if quiet, err := v.Journal().Quiet(); quiet && err == nil && !v.unsettled.Load() {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return fault.ErrClosed
	}
	if v.held.Load() { // since the question above
		return nil
	}
	_, err := v.catchUpLocked(false, false)
	return err
}

// CatchUp takes in everything up to the end of the file. The holder of the lock on staging/
// calls it, and goes on in whatever file is in place. It returns what was found last.
func (v *View) CatchUp() (journal.Tail, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.catchUpLocked(true, true)
}

// catchUpLocked takes in the whole lines behind the last published one, and goes on in a new
// file where one has taken over. With whole it reads to the end of the file. The holder of
// the lock is alone.
func (v *View) catchUpLocked(whole, alone bool) (journal.Tail, error) {
	for {
		// As soon as the lines are read, the journal is quiet again: readers that begin before the
		// lines are published here come behind them. So it is with each file.
		v.unsettled.Store(true)
		j := v.Journal()
		if j.Damage() != nil {
			return journal.Tail{}, v.strayLocked()
		}
		tail, err := j.Scan(whole)
		if err != nil {
			return tail, err
		}
		if !tail.Replaced {
			v.index.Load().addLines(tail.Fresh)
			if err := v.settleLocked(alone); err != nil {
				return tail, err
			}
			if j.Damage() != nil {
				return tail, v.strayLocked()
			}
			if !tail.Superseded && !alone {
				return tail, nil
			}
		}
		if switched, err := v.switchLocked(tail.Replaced); err != nil || !switched {
			return tail, err
		}
	}
}

// settleLocked shows the committed lines to readers: for the holder of the lock, which is alone,
// all that are known.
func (v *View) settleLocked(alone bool) error {
	j := v.Journal()
	committed, err := j.Tip(), error(nil)
	if !alone {
		committed, err = j.Committed()
	}
	if err != nil {
		return err
	}
	v.index.Load().points.publish(committed, j.NamesAt(committed), nil)
	v.unsettled.Store(committed < j.Tip()) // not before: see Look
	return nil
}

// strayLocked takes in, once, the lines of a damaged journal that verify one by one. Reads
// make do with them and the tree; the one that has the later version of a name decides.
func (v *View) strayLocked() error {
	if j, ix := v.Journal(), v.index.Load(); v.strayed != j {
		lines, err := j.Stray()
		if err != nil {
			return err
		}
		v.strayed = j
		ix.addLines(lines)
		ix.ready()
		ix.points.publish(ix.preferTree(v.tree.Read), format.Names{}, nil)
	}
	v.unsettled.Store(false)
	return nil
}

// switchLocked goes on in the file that has taken the journal's place, if there is one, or in
// the content that has replaced its own. Where that does not continue the lines that are known, lines are missing:
// the index is dropped.
func (v *View) switchLocked(replaced bool) (bool, error) {
	old, ix := v.Journal(), v.index.Load()
	if !replaced {
		if same, err := old.InPlace(); same || err != nil {
			return false, err
		}
	}
	j, err := journal.Open(v.path, v.writable)
	if err != nil {
		return false, err
	}
	if replaced || j.Damage() != nil || !j.Continues(old) {
		v.journal.Store(j)
		v.resetLocked()
		return true, old.Close()
	}
	from, to := old.Header().Txn, j.Header().Txn
	ix.points.publish(to, j.NamesAt(to), nil)
	// A name that can't be forgotten now only costs memory.
	if names, err := old.Names(from, to); err == nil {
		ix.ready()
		ix.forget(names, to)
	}
	v.journal.Store(j)
	return true, old.Close()
}
