// Package commit takes a transaction from the writer's turn to its acknowledgement: it
// writes lines, makes them durable for all that wait, brings the tree up to them and
// publishes them. It also does what has to come before and after: take-over, checkpoint,
// the reservation of identifiers, and the end of writing after a failed sync.
package commit

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/turn"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
	"github.com/fsmeta/fsmeta/lock"
)

// Writer writes to one store. All methods may be called concurrently; those for which the
// turn is asked for are called by its holder alone.
//
// Lock order: the turn, flush, mu, then those of the view.
type Writer struct {
	dir   *disk.Dir // the store, open since before the first write
	owner disk.Owner
	tree  *tree.Tree
	view  *view.View
	turn  *turn.Turn
	size  int64 // of the lines, from which on a checkpoint is due
	ahead int   // how far a journal is filled ahead, and the size of the ballast

	failure atomic.Pointer[error]

	// The holder of the turn may use these.
	visited bool // this Writer has held the lock on staging/ before
	left    mark // where the journal was when the lock was given back

	// flush is held by the goroutine that flushes a batch.
	flush sync.Mutex

	mu            sync.Mutex
	condition     condition
	ids           ids
	given         map[string]bool  // identifiers that NewID has returned and no snapshot has got
	queue         []*written       // lines written and not published, oldest first
	settled       uint64           // every line up to here is durable and published, and the tree brought up to it but for the lagging names
	lagging       map[string]error // names that could not be brought up, and why
	away          bool             // the lock on staging/ was given back, or not taken yet
	checkpointing bool
	checkpointAt  int64       // size of the journal from which on a checkpoint is due
	later         *time.Timer // relaxed: until settleLater settles, nil where there is nothing to settle
}

// written is a transaction with a written line, on its way to be published.
type written struct {
	txn    uint64
	nextID uint64
	names  []string
	work   *tree.Work
}

// mark is a place in a journal: a file and its tip.
type mark struct {
	file *journal.File
	tip  uint64
}

// condition says what has to happen before the next line.
type condition uint8

const (
	clean      condition = iota
	dirty                // the journal takes no more lines: a checkpoint has to come first
	distrusted           // besides, what can be read of the tree may not be on disk: a sync of it has failed
)

// Config is what a Writer needs. It works on what is open already.
type Config struct {
	Dir  *disk.Dir
	Tree *tree.Tree
	View *view.View
}

// checkpointSize is how long the lines may get, in bytes, before a checkpoint drops them.
// It bounds what opening a store reads.
const checkpointSize = 256 << 10

// CheckpointSize is checkpointSize but in tests.
var CheckpointSize int64 = checkpointSize

// New returns a Writer. It does nothing yet: the store is taken over when the first turn
// is taken.
func New(c Config) *Writer {
	w := &Writer{
		dir: c.Dir, owner: c.Tree.Owner(), tree: c.Tree, view: c.View, size: CheckpointSize,
		given: map[string]bool{}, lagging: map[string]error{}, away: true,
	}
	w.turn = turn.New(lock.New(filepath.Join(c.Dir.Path, format.StagingDir)), lock.New(filepath.Join(c.Dir.Path, format.SnapshotsDir)), turn.Hooks{
		Make:     w.tree.Prepare,
		TakeOver: w.enter,
		Settle:   func() error { return w.Settle(w.view.Tip()) },
		Leave:    w.leave,
		Failed:   w.Failed,
	})
	return w
}

// Begin waits for the turn, with everything known that others have written. The caller
// calls End in the end, whatever is returned, and after nil Release before.
func (w *Writer) Begin(ctx context.Context) error { return w.turn.Take(ctx) }

// enter is the take-over, unless the lock was got on another directory than the store's staging/. An error
// gives the lock back.
func (w *Writer) enter() error {
	if err := w.tree.Confirm(); err != nil {
		return err
	}
	if w.ahead == 0 { // the first time
		if err := w.dir.CheckNames(format.MaxEntry); err != nil {
			return err
		}
		w.ahead = Ahead(w.dir)
	}
	return w.takeOver()
}

// Release gives the turn to the next writer of this process.
func (w *Writer) Release() { w.turn.Release() }

// End says that nothing of a writer's is under way any more. The last one sees to it that
// the lock on staging/ is given back.
func (w *Writer) End() { w.turn.End() }

// leave prepares for the lock on staging/ to be given back. It is our turn, and nothing is
// written that is not published, unless the Writer has failed.
func (w *Writer) leave() bool {
	w.mu.Lock()
	busy := w.checkpointing
	w.away = !busy // from here on, no checkpoint begins
	w.mu.Unlock()
	if busy {
		return false
	}
	j := w.view.Journal()
	w.left = mark{j, j.Tip()}
	w.view.Hold(false)
	if err := j.Unlock(); err != nil {
		_ = w.fail(fmt.Errorf("unlock %s: %w", j.Path(), err)) // others would take our lines for unfinished
	}
	return true
}

// Failed returns why nothing can be written any more, if so.
func (w *Writer) Failed() error {
	if err := w.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail ends writing until the store is opened anew.
func (w *Writer) fail(err error) error {
	err = fmt.Errorf("%w until the store is closed and opened anew: %w", fault.ErrFailed, err)
	w.failure.CompareAndSwap(nil, &err)
	return w.Failed()
}

func (w *Writer) inCondition() condition {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.condition
}
