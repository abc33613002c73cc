// Package lock excludes processes, and the goroutines of each, from one another
// with flock(2) on a directory or a file that exists.
//
// What excludes whom: every acquisition opens the path anew, and the kernel
// lets one open file hold the exclusive lock, or any number the shared one. So
// it makes no difference whether two acquisitions are made through one [Lock],
// through two of the same path, or in two processes. A goroutine that locks
// what it holds already waits for itself.
//
// The lock is advisory: it stops only those who ask for it. It belongs to the
// file that the path named when it was opened, not to the path. Whoever renames
// or removes that file lets others lock what takes its place.
//
// A process that ends, by SIGKILL as well, loses its locks: the kernel closes
// its files. A child that was forked keeps them open until it execs, and with
// them the lock of a process killed just then. An unlock takes effect at once
// all the same, because it is an explicit LOCK_UN.
//
// Not promised: that anything is excluded across hosts. On a network
// filesystem the lock may reach no further than the host, may need a file that
// can be opened for writing, or may not be had at all. Nor is the order in
// which those who wait are served.
package lock

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gofrs/flock"
)

// Lock locks one path. Any number of goroutines may use it. What they did
// before an unlock happens before what the next holder of the same Lock does,
// as with a [sync.RWMutex].
type Lock struct {
	path string

	// unlocks is counted up before each unlock and read after each lock: the
	// kernel orders the two in time, this orders memory.
	unlocks atomic.Uint64

	mu      sync.Mutex
	waiting []chan grant // guarded by mu; longest first
	blocked bool         // guarded by mu; whether serve runs
}

// grant is what a waiting Lock call is given: a lock that is held, or why not.
type grant struct {
	held *flock.Flock
	err  error
}

// New returns a Lock for path. It does not touch the disk.
func New(path string) *Lock {
	return &Lock{path: path}
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
// A wait in the kernel can't be called off: when ctx ends, a goroutine stays
// blocked there until the lock is granted. The next call that must wait takes
// that grant, so that a Lock never blocks more than one thread. If nobody waits
// when it comes, the lock is given back at once.
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
// whether it was. The lock can't be had while anyone holds it, shared or
// exclusive, nor for the instant in which a call of Lock that was cancelled
// gives it back. Unlock and errors are as with [Lock.Lock].
func (l *Lock) TryLock() (unlock func() error, ok bool, err error) {
	return l.try("lock", (*flock.Flock).TryLock)
}

// TryRLock takes the shared lock if it can be had without waiting; ok tells
// whether it was. Any number can hold it while nobody holds the exclusive
// lock. Unlock and errors are as with [Lock.Lock].
func (l *Lock) TryRLock() (unlock func() error, ok bool, err error) {
	return l.try("rlock", (*flock.Flock).TryRLock)
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
			err = unlock(held) // once more: a lock that stays blocks everyone
		}
		if err != nil {
			return pathError("unlock", l.path, err)
		}
		return nil
	}
}

// wait queues up for what serve is granted, and starts serve if it doesn't run.
func (l *Lock) wait(ctx context.Context) (*flock.Flock, error) {
	turn := make(chan grant, 1)
	l.mu.Lock()
	l.waiting = append(l.waiting, turn)
	if !l.blocked {
		l.blocked = true
		go l.serve()
	}
	l.mu.Unlock()

	select {
	case g := <-turn:
		return g.held, g.err
	case <-ctx.Done():
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, turn); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
		return nil, ctx.Err()
	}
	// The grant came first after all, and is in the channel.
	g := <-turn
	return g.held, g.err
}

// serve locks once for each waiting call, and ends when it has served the last
// of them, or when it is granted a lock that nobody waits for any more.
func (l *Lock) serve() {
	for l.give(block(l.path)) {
	}
}

// give passes a grant to the call that has waited longest, and reports whether
// others wait.
func (l *Lock) give(g grant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > 0 {
		l.waiting[0] <- g
		l.waiting = slices.Delete(l.waiting, 0, 1)
	} else if g.held != nil {
		// Under mu, so that the next serve doesn't block behind this one. The
		// error has nobody to go to; the file is closed when it is collected.
		_ = unlock(g.held)
	}
	l.blocked = len(l.waiting) > 0
	return l.blocked
}
