package commit

import (
	"fmt"
	"strconv"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// idBlock is how many identifiers a line reserves beyond those handed out. Reserved ones
// are lost in a crash, and when another process has written meanwhile.
const idBlock = 256

// MaxID is the highest identifier, and the highest nextID.
const MaxID = format.MaxNumber

// UsedUp reports whether no identifier is handed out any more, where the next would be next.
func UsedUp(next uint64) bool { return next >= MaxID-idBlock }

// ids are the identifiers that this process may hand out: from next on, those below safe.
type ids struct {
	next     uint64 // the next to be handed out
	reserved uint64 // those below are reserved by the last line
	safe     uint64 // those below are reserved by a durable line
}

// goOn goes on at next at the lowest, with nothing reserved: what others have reserved is
// theirs.
func (i *ids) goOn(next uint64) {
	i.next = max(i.next, next)
	i.reserved, i.safe = i.next, i.next
}

// reserve returns what a line that is written now has to reserve, where identifiers go on
// at next at the lowest.
func (i *ids) reserve(next uint64) (uint64, uint64) {
	next = max(i.next, next)
	reserved := i.reserved
	if next+idBlock/2 > reserved {
		reserved = max(reserved, min(next+idBlock, MaxID))
	}
	return next, reserved
}

// NextID is the next identifier to be handed out. It is our turn.
func (w *Writer) NextID() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids.next
}

// RaiseID makes identifiers go on at next at the lowest. It is our turn. It is durable with
// the next checkpoint or line.
func (w *Writer) RaiseID(next uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids.next = max(w.ids.next, min(next, MaxID))
}

// NewID returns an identifier that was never handed out, and never will be again even if
// the power is cut now: it is below a durable nextID. It is our turn.
func (w *Writer) NewID() (string, error) {
	for tries := 0; ; tries++ {
		w.mu.Lock()
		id := w.ids.next
		free := id < w.ids.safe
		if free {
			w.ids.next++
		}
		w.mu.Unlock()
		switch {
		case UsedUp(id):
			return "", w.usedUp(id)
		case free:
			return strconv.FormatUint(id, 10), nil
		}
		var err error
		if tries > 0 { // what the lines so far reserve is used up
			_, err = w.Append(nil, 0, nil)
		}
		if err == nil {
			err = w.Settle(w.view.Tip())
		}
		if err != nil {
			return "", fmt.Errorf("reserve identifiers: %w", err)
		}
	}
}

// usedUp is the error where the next identifier would be next. No store hands out that many.
func (w *Writer) usedUp(next uint64) error {
	return &fault.Damaged{Path: w.view.Journal().Path(), Err: fmt.Errorf("identifiers are used up: the next one would be %d, near 2^63; presumably an identifier in use was edited by hand: "+
		"correct it, then lower nextID, see 'A new journal header' in docs/repair.md", next)}
}

// Give returns a new identifier that Take accepts once. It is our turn.
func (w *Writer) Give() (string, error) {
	id, err := w.NewID()
	if err == nil {
		w.mu.Lock()
		w.given[id] = true
		w.mu.Unlock()
	}
	return id, err
}

// Take accepts an identifier that Give has returned and that was not taken yet. It is our
// turn.
func (w *Writer) Take(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.given[id] {
		return fmt.Errorf("identifier %.256q is not one of NewID, or was given before: %w", id, fault.ErrInvalidName)
	}
	delete(w.given, id)
	return nil
}

// Given reports whether Give has returned an identifier that no snapshot has got yet.
func (w *Writer) Given(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.given[id]
}
