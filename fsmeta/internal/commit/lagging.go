package commit

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
)

// A name lags if its directory could not be brought up to its line: there is no room, or
// something keeps it from being changed. The journal goes on deciding for it, and a
// checkpoint carries it over. Everything else goes on.

// mostLagging is how many names may lag before nothing is added any more.
const mostLagging = 1000

// lags reports whether a name lags.
func (w *Writer) lags(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, lags := w.lagging[name]
	return lags
}

// noteLag notes which of the names lag now, and why. It logs the first that begins to lag, and
// that none lags any more: the operator may be able to remove the cause.
func (w *Writer) noteLag(names []string, lagging map[string]error) {
	w.mu.Lock()
	before := len(w.lagging)
	if before > 0 {
		for _, name := range names {
			delete(w.lagging, name)
		}
	}
	maps.Copy(w.lagging, lagging)
	after := len(w.lagging)
	w.mu.Unlock()
	switch {
	case before == 0 && after > 0:
		name := slices.Min(slices.Collect(maps.Keys(lagging)))
		slog.Warn("fsmeta: the directory of a snapshot can't be brought up to the journal, which decides for it; it is tried again at each checkpoint, and a check of the store lists all of them",
			"store", w.dir.Path, "name", name, "cause", lagging[name])
	case before > 0 && after == 0:
		slog.Info("fsmeta: the directories of all snapshots are brought up to the journal again", "store", w.dir.Path)
	}
}

// Lagging returns the names that lag, and why.
func (w *Writer) Lagging() map[string]error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.lagging)
}

// lagCause returns why nothing can be added because of names that lag, and the first of them.
func (w *Writer) lagCause() (name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(w.lagging)) {
		if err := w.lagging[name]; fault.NoRoom(err) || len(w.lagging) > mostLagging {
			return name, err
		}
	}
	return "", nil
}

// checkRoom refuses transactions that add or change snapshots while names lag for lack of
// room, or too many for any reason. It tries such a name again first. It is our turn.
func (w *Writer) checkRoom() error {
	for {
		name, cause := w.lagCause()
		if cause == nil {
			return nil
		}
		if err := w.Settle(w.view.Tip()); err != nil {
			return err
		}
		w.retry(name)
		if w.lags(name) {
			return fmt.Errorf("nothing can be added while directories can't be brought up to the journal (the first is of %.256q; make room, removing snapshots is possible): %w", name, cause)
		}
	}
}

// retry tries again to bring names up to what is settled.
func (w *Writer) retry(names ...string) {
	if len(names) == 0 {
		return
	}
	w.flush.Lock()
	defer w.flush.Unlock()
	w.bringUp(names, w.upTo(), false)
}

// retryLagging tries all names that lag again.
func (w *Writer) retryLagging() { w.retry(slices.Collect(maps.Keys(w.Lagging()))...) }

// bringUp makes the tree hold the versions of names at txn, which is durable. It notes those that
// lag. rebuild: what can be read of the tree may not be on disk.
func (w *Writer) bringUp(names []string, txn uint64, rebuild bool) {
	work := tree.Wanted(w.view.Versions(names, txn), rebuild)
	w.noteLag(names, w.tree.BringUp(work, nil))
	w.tree.Recycle(work)
}

// carryOver returns the transaction that names what lags, as it is, so that the lines
// before it can go: the new journal of a checkpoint ends with it. It changes nothing. It
// is nil where nothing lags.
func (w *Writer) carryOver(lagging map[string]error, old *journal.File, nextID uint64) *format.Txn {
	versions := w.view.Versions(slices.Collect(maps.Keys(lagging)), old.Tip())
	return format.CarryOver(old.Tip(), nextID, versions, time.Now())
}
