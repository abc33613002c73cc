package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fsck"
	"github.com/fsmeta/fsmeta/lock"
)

// Inspection looks at a store in whatever state it is: in use, closed, left by a crash,
// damaged, on a read-only mount. It is for people and tools that show a store; drivers use
// [Store]. It writes nothing, and no writer waits for it. Its methods may be called
// concurrently, but not beside Close.
type Inspection struct {
	dir  string
	look *fsck.Look
}

// Inspect opens the store in dir to look at it. All that it tells is of this moment, but for
// the log and the processes. Close must be called in the end.
//
// What is damaged is told by the methods. The error is [ErrNotStore] where there is nothing
// of a store, [ErrDamaged] where snapshots/ is missing or hidden by a mount, [ErrInUse]
// during a repair, after ten seconds; or what the filesystem says. A journal that can't be read
// is damage: the tree is shown without it. It costs what [Open] does.
func Inspect(dir string) (*Inspection, error) {
	look, err := fsck.OpenLook(dir)
	if err != nil {
		return nil, fmt.Errorf("fsmeta: inspect %s: %w", dir, err)
	}
	return &Inspection{dir, look}, nil
}

// Close ends the inspection.
func (i *Inspection) Close() error {
	if err := i.look.Close(); err != nil {
		return fmt.Errorf("fsmeta: inspect %s: %w", i.dir, err)
	}
	return nil
}

// Sight is one snapshot as an [Inspection] finds it. The caller owns it.
type Sight struct {
	// Info is what is known of it. Of a damaged one that is what its file says, where that can
	// be read; else the Name alone, "" where that can't be told.
	Info
	Path string // of its directory
	Txn  uint64 // the transaction that changed it last
	// Journal: a line of the journal names it, and so decides. Else its directory does.
	Journal bool
	// Lags says what its directory has instead of what the line says, and why, where that can
	// be told. It is "" where the two have the same. The next writer tries to bring it up.
	Lags string
	// Damage is why it can't be read, a [*DamagedError], or nil.
	Damage error
	Advice string // what to do about Lags or Damage, "" where it has neither
}

// All returns the snapshots: those that can be read in byte order of their names, and then
// the damaged ones, each with its Damage. After them come what is wrong with the store as a
// whole, each as an error that is [ErrDamaged]: snapshots that are missing, a damaged journal
// or layout. Any other error is the last: that of ctx, of the filesystem, or [ErrOutdated]
// where so much was written meanwhile that it has to be inspected again.
//
// It costs what [Store.Walk] does, and an open and a read more for each name in the journal; but
// it keeps no more in memory than the names, unless the journal can't be opened.
func (i *Inspection) All(ctx context.Context) iter.Seq2[Sight, error] {
	return func(yield func(Sight, error) bool) {
		bad, err := i.look.Walk(ctx, func(s fsck.Sight) error {
			if !yield(sightOf(s), nil) {
				return errStop
			}
			return nil
		})
		if err != nil {
			bad = append(bad, err)
		}
		for _, err := range bad {
			if errors.Is(err, errStop) || !yield(Sight{}, fmt.Errorf("fsmeta: inspect %s: %w", i.dir, err)) {
				return
			}
		}
	}
}

// Removed returns the names that lag in another way than those in [Inspection.All]: the journal
// says that the snapshot is removed, and its directory could not be. Each has Lags and Advice,
// and nothing else of a snapshot. The store has none of them: the name can be given to another
// one. They come in byte order. It costs a system call or two for each name that the journal removes.
func (i *Inspection) Removed() []Sight {
	var all []Sight
	for _, s := range i.look.Removed() {
		all = append(all, sightOf(s))
	}
	return all
}

// errStop ends a walk when its caller wants no more.
var errStop = errors.New("stop")

func sightOf(s fsck.Sight) Sight {
	sight := Sight{Info: Info{Name: s.Name}, Path: s.Path, Journal: s.Journal, Lags: s.Lags, Damage: s.Damage, Advice: s.Advice}
	if s.Snapshot != nil {
		sight.Info, sight.Txn = infoOf(s.Snapshot), s.Snapshot.Txn
	}
	return sight
}

// Log returns the transactions in the journal, oldest first: those since the last checkpoint.
// Where lines can't be read, it goes on behind an [ErrDamaged] that says which. Any other
// error is the last. It costs a read of the journal.
func (i *Inspection) Log() iter.Seq2[Transaction, error] {
	return func(yield func(Transaction, error) bool) {
		err := i.look.Log(func(l fsck.Line) error {
			t, err := Transaction{}, l.Lost
			if err == nil {
				t = transactionIn(l.Txn)
			}
			if !yield(t, err) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Transaction{}, fmt.Errorf("fsmeta: inspect %s: %w", i.dir, err))
		}
	}
}

// Summary is what an [Inspection] says of the store as a whole.
type Summary struct {
	Format      int       // the version of the file layout
	Transaction uint64    // the last one
	Counted     uint64    // how many snapshots there should be, as the journal says
	Known       bool      // whether it says so: not of a damaged journal, or one that a person wrote
	NextID      uint64    // identifiers below are handed out or reserved, 0 where that is not known
	Checkpoint  uint64    // the journal has the transactions after this one
	JournalSize int64     // of its file, in bytes, most of it filled ahead; 0 where it is missing, or no file
	OtherBoot   bool      // the journal was begun before the machine was started last
	SetAside    int       // how many snapshots repairs have set aside
	BackupOf    time.Time // when the backup was made from which the store was restored; zero for none

	Writer []lock.Holder // processes that have the lock of writers, now
	Users  []lock.Holder // other processes that have the store open, now
	Damage []error       // what is wrong with layout, journal and backup, each an [ErrDamaged]
}

// Summary says what the store is like. It costs a few system calls.
func (i *Inspection) Summary() (Summary, error) {
	s, err := i.look.Summary()
	if err != nil {
		return Summary{}, fmt.Errorf("fsmeta: inspect %s: %w", i.dir, err)
	}
	return Summary(s), nil
}
