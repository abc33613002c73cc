// Package lock excludes processes, and the goroutines of each, from one another
// with flock(2) on a directory or a file that exists.
//
// Every acquisition opens the path anew, and the kernel lets one open file hold
// the exclusive lock, or any number the shared one. So it makes no difference
// whether two acquisitions are made through one [Lock], through two of the same
// path, or in two processes. A goroutine that locks a path twice waits for
// itself.
//
// The lock is advisory: it stops only the processes that ask for it. It belongs
// to the file that the path named when the lock was granted, not to the path. A
// process that renames or removes that file lets others lock its successor.
//
// A process that ends, by SIGKILL as well, loses its locks: the kernel closes
// its files. A child that was forked keeps them open until it execs, and with
// them the lock of a process killed just then. An unlock takes effect at once
// all the same, because it is an explicit LOCK_UN.
//
// Not promised: that anything is excluded across hosts. On a network
// filesystem the lock may reach no further than the host, may need a file that
// can be opened for writing, or may not be had at all. Nor is the order in
// which waiters are served.
//
// Package fsmeta is built on this one. Drivers may use it by itself: its interface
// is as stable as that of fsmeta.
package lock

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
)

// Lock locks one path. Any number of goroutines may use it. An unlock
// happens before the next lock through the same Lock returns, as with a
// [sync.RWMutex].
type Lock struct {
	path string

	// unlocks is counted up before each unlock and read after each lock: the
	// kernel orders the two in time, this orders memory.
	unlocks atomic.Uint64

	// polling is full while one of the waiters polls. The others queue here.
	polling chan struct{}
}

// New returns a Lock for path. It does not touch the disk.
func New(path string) *Lock {
	return &Lock{path: path, polling: make(chan struct{}, 1)}
}

// Lock waits for the exclusive lock until ctx ends. Nothing is ever created:
// the path must exist.
//
// If the error is nil, the lock is held until unlock is called; a further call
// of unlock does nothing and returns nil. If unlock returns an error, the lock
// may still be held, and unlock may be called again.
//
// Otherwise nothing is held, and the error is an *os.PathError. It is the
// error of ctx, after which Lock may be called again, or that of opening or
// locking the path, such as [io/fs.ErrNotExist].
//
// A wait polls, because a wait in the kernel can't be called off: the pauses
// between two tries begin at 20 µs and grow by a quarter each, to at most 1 ms.
// So the lock is got up to a millisecond later than it is free, and a long wait
// takes a few hundredths of a processor: a thousand times a second a timer, and
// open, flock and close. One waiter of a Lock polls, the others queue behind it. A wait that is given up leaves nothing behind: no thread, no
// goroutine, no descriptor.
func (l *Lock) Lock(ctx context.Context) (unlock func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, pathError("lock", l.path, err)
	}
	held, err := try(l.path, (*flock.Flock).TryLock)
	if held == nil && err == nil {
		held, err = l.wait(ctx)
	}
	if err != nil {
		return nil, pathError("lock", l.path, err)
	}
	return l.unlocker(held), nil
}

// TryLock takes the exclusive lock if it can be had without waiting; ok tells
// whether it was. The lock can't be had while any process holds it, shared or
// exclusive. Unlock and errors are as with [Lock.Lock].
func (l *Lock) TryLock() (unlock func() error, ok bool, err error) {
	return l.try("lock", (*flock.Flock).TryLock)
}

// TryRLock takes the shared lock if it can be had without waiting; ok tells
// whether it was. Any number can hold it while the exclusive lock is free.
// Unlock and errors are as with [Lock.Lock].
func (l *Lock) TryRLock() (unlock func() error, ok bool, err error) {
	return l.try("rlock", (*flock.Flock).TryRLock)
}

// Holder is a process that holds a lock.
type Holder struct {
	PID     int    // as this process sees it
	Command string // the name of its program, at most 15 bytes; "" where it can't be told
	Stopped bool   // by a signal or a debugger: it goes on when it is sent SIGCONT, and holds the lock till then
}

// String says which process it is, for messages, and whether it is stopped.
func (h Holder) String() string {
	text := "process " + strconv.Itoa(h.PID)
	if h.Command != "" {
		text += " (" + h.Command + ")"
	}
	if h.Stopped {
		text += ", which is stopped (kill -CONT " + strconv.Itoa(h.PID) + " lets it go on)"
	}
	return text
}

// Holders returns the processes that hold the lock, shared or exclusive, as
// /proc/locks lists them: those that took it, even if another process has
// inherited the open file. It is meant for messages. Nil means that there is no
// holder or that none can be told, as in another PID namespace and on systems
// other than Linux.
func (l *Lock) Holders() []Holder {
	return holders(l.path)
}

func (l *Lock) try(op string, attempt func(*flock.Flock) (bool, error)) (func() error, bool, error) {
	held, err := try(l.path, attempt)
	if err != nil {
		return nil, false, pathError(op, l.path, err)
	}
	if held == nil {
		return nil, false, nil
	}
	return l.unlocker(held), true, nil
}

// unlocker returns the function that gives held back.
func (l *Lock) unlocker(held *flock.Flock) func() error {
	l.unlocks.Load()
	return func() error {
		l.unlocks.Add(1)
		err := unlock(held)
		if err != nil {
			err = unlock(held) // once more: a lock that stays blocks every process
		}
		if err != nil {
			return pathError("unlock", l.path, err)
		}
		return nil
	}
}

// The pauses between two tries of a waiter.
const (
	minPause = 20 * time.Microsecond
	maxPause = time.Millisecond
)

// wait tries for the exclusive lock until it is granted or ctx ends. It holds no
// descriptor while it pauses.
func (l *Lock) wait(ctx context.Context) (*flock.Flock, error) {
	select {
	case l.polling <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.polling }()

	pause := minPause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		held, err := try(l.path, (*flock.Flock).TryLock)
		if held != nil || err != nil {
			return held, err
		}
		pause = min(pause+pause/4, maxPause)
		timer.Reset(pause)
	}
}
