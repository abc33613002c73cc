package commit

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

// A checkpoint does not replace a journal that says that a sync of the tree has failed: the next
// process has to find the mark.
func TestNoCheckpointAfterAFailedSync(t *testing.T) {
	h := newStore(t)
	check(t, h.write("+one"))
	check(t, h.Begin(bg))
	// As syncTree does it where the sync fails.
	h.mu.Lock()
	_ = h.fail(errors.Join(fault.ErrSync, h.view.Journal().Supersede()))
	h.mu.Unlock()
	j := h.view.Journal()
	if err := h.replace(synced{txn: j.Tip(), names: []string{"one"}}, h.NextID(), nil); !errors.Is(err, fault.ErrFailed) {
		t.Errorf("replace: %v", err)
	}
	h.Release()
	h.End()
	left, err := journal.Open(filepath.Join(h.dir, format.JournalFile), false)
	check(t, err)
	if tail, err := left.Scan(true); err != nil || !tail.Superseded {
		t.Errorf("the journal has no mark: %+v, %v", tail, err)
	}
	check(t, left.Close())
}

// After a failed sync of the journal, the readers of the process that saw it find no less than
// those elsewhere.
func TestReadersAlikeAfterAFailedSync(t *testing.T) {
	h := newStore(t)
	check(t, h.write("+one"))
	other := open(t, h.dir)
	check(t, h.Begin(bg))
	two := &format.Snapshot{ID: "77", Name: "two", Kind: format.Active, Created: time.Now(), Updated: time.Now()}
	_, err := h.Append([]format.Change{{Name: "two", After: two}}, 0, nil)
	check(t, err)
	h.Release()
	// As flushLocked does it where the sync fails.
	h.mu.Lock()
	h.queue = nil
	h.mu.Unlock()
	_ = h.fail(fault.ErrSync)
	h.End()
	for h.turn.Held() { // until the lock is given back
		time.Sleep(time.Millisecond)
	}
	var at [2]uint64
	for i, v := range []*view.View{other.view, h.view} {
		var r view.Reader
		check(t, v.Begin(&r))
		at[i] = r.At
		v.End(&r)
	}
	if at[1] < at[0] {
		t.Errorf("a reader elsewhere reads at %d, and then one here at %d", at[0], at[1])
	}
}
