package turn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/lock"
)

// state says how far this process is with the lock on staging/.
//
//	        obtain           granted        TakeOver            Look
//	free ----------> waiting -------> locked -------> held <------------> awaited
//	 ^                  |              |  ^             |   Leave refuses    |
//	 +------------------+              |  +-------------+--------------------+
//	 |     given up                    |               Leave agrees
//	 +---------------------------------+
//	               unlock
//
// Only the holder of the turn changes it, in this file, but for the step from held to
// awaited, which any goroutine makes. After an unlock that fails the state stays locked.
type state uint32

const (
	free    state = iota // other processes may write
	waiting              // the holder of the turn waits for the lock
	locked               // the process has the lock, and may not write before a take-over
	held                 // the process may write
	awaited              // as held, and another process waits: the next holder of the turn lets it in
)

func (t *Turn) is(s state) bool { return state(t.state.Load()) == s }

func (t *Turn) become(s state) { t.state.Store(uint32(s)) }

// Held reports whether the process has the lock on staging/, with the take-over done. Any goroutine may ask.
func (t *Turn) Held() bool { return state(t.state.Load()) >= held }

// prepare makes sure that the process may write. A process that waits is let in first. The
// caller has the turn.
func (t *Turn) prepare(ctx context.Context, r *report) error {
	t.Look() // also while all transactions are empty
	if t.is(awaited) {
		if err := t.hooks.Settle(); err != nil {
			return err
		}
		if err := t.giveBack(); err != nil {
			return err
		}
	}
	if !t.Held() {
		if err := t.hooks.Failed(); err != nil {
			return err
		}
		if err := t.hooks.Make(); err != nil {
			return err
		}
		if err := t.obtain(ctx, r); err != nil {
			return err
		}
	}
	if t.Closing() {
		return fault.ErrClosed
	}
	return nil
}

// obtain waits for the lock until ctx ends, and takes over. After an error of the wait
// the state is free.
func (t *Turn) obtain(ctx context.Context, r *report) error {
	if t.is(free) {
		t.become(waiting)
		unlock, err := t.wait(ctx, r)
		if err != nil {
			t.become(free)
			return err
		}
		t.unlock = unlock
		t.become(locked)
	}
	return t.takeOver()
}

// takeOver runs the take-over; the process has the lock. After an error it gives the lock
// back. If that fails, the state stays locked, and the next Take begins with the take-over.
func (t *Turn) takeOver() error {
	if err := t.hooks.TakeOver(); err != nil {
		return errors.Join(err, t.drop())
	}
	t.become(held)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lookAt = t.now() + linger // it waited for this
	return nil
}

// giveBack gives the lock back, unless Leave refuses. Everything written is settled, or
// writing has ended. After an error the process still has the lock, and takes over before
// it writes again.
func (t *Turn) giveBack() error {
	if t.Held() && !t.hooks.Leave() {
		t.become(held) // Look sees the waiter again
		return nil
	}
	return t.drop()
}

// drop unlocks. After an error the state is locked.
func (t *Turn) drop() error {
	t.become(locked)
	if err := t.unlock(); err != nil {
		return err
	}
	t.become(free)
	return nil
}

// Acquire tries to take the lock on staging/ without waiting, with take-over. It reports
// whether the process has it. The caller has called Close, or is the only user of the Turn.
func (t *Turn) Acquire() (ok bool, err error) {
	if t.Held() {
		return true, nil
	}
	if t.is(free) {
		if err := t.hooks.Make(); err != nil {
			return false, err
		}
		unlock, ok, err := t.staging.TryLock()
		if err != nil || !ok {
			return false, err
		}
		t.unlock = unlock
		t.become(locked)
	}
	err = t.takeOver()
	return err == nil, err
}

// Drop gives the lock back, if the process has it. Its callers are those of Acquire. After
// an error the process still has the lock, and Drop may be called again.
func (t *Turn) Drop() error {
	if t.is(free) {
		return nil
	}
	if err := t.giveBack(); err != nil {
		return err
	}
	if !t.is(free) {
		return errors.New("the lock on staging/ is still in use")
	}
	return nil
}

// Look looks, at most every millisecond, whether another process waits at the turnstile, and remembers to let it in.
func (t *Turn) Look() {
	t.mu.Lock()
	now := t.now()
	due := t.is(held) && t.lookDueLocked(now)
	if due {
		t.lookAt = now + linger
	}
	t.mu.Unlock()
	if !due {
		return
	}
	unlock, alone, err := t.turnstile.TryLock()
	if alone {
		err = unlock()
	}
	if err != nil {
		return // the turnstile is only fairness: a wait for it reports the error
	}
	if !alone {
		t.state.CompareAndSwap(uint32(held), uint32(awaited))
		return
	}
	t.yielded(true)
}

func (t *Turn) lookDueLocked(now time.Duration) bool {
	return now >= t.lookAt && now >= t.ignoreUntil
}

// The turnstile is only fairness, so that a waiter that is stopped while it holds it
// stops nothing.
const (
	moment      = 20 * time.Millisecond // the longest wait for the turnstile
	shortMoment = 5 * time.Millisecond  // the same after a wait in vain; enough for a waiter to poll staging/
	maxIgnore   = time.Second           // the longest time for which it is ignored
)

// wait waits for the lock on staging/ until ctx ends or Close begins. An error leaves nothing
// locked.
func (t *Turn) wait(ctx context.Context, r *report) (unlock func() error, err error) {
	r.start()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.closing, cancel)()
	for first := true; unlock == nil && err == nil; first = false {
		unlock, err = t.tryBoth(inner, first)
	}
	switch {
	case err == nil:
		return unlock, nil
	case t.Closing():
		return nil, fault.ErrClosed
	case ctx.Err() != nil:
		return nil, r.gaveUp(ctx)
	}
	return nil, fmt.Errorf("wait for other processes: %w", err)
}

// tryBoth is one step of a wait. It tries for the turnstile, where the holder sees the
// waiter and queues behind it; in the first step for a moment. With the turnstile it waits for
// staging/ until ctx ends. Without, it waits for staging/ a moment and returns nil.
func (t *Turn) tryBoth(ctx context.Context, first bool) (unlock func() error, err error) {
	pass, ok, err := t.turnstile.TryLock()
	taken, waited := false, first && !ok && err == nil && !t.ignored()
	if waited {
		pass, taken, err = t.waitAtTurnstile(ctx)
	}
	if err != nil {
		return nil, err
	}
	t.distrust = pass == nil
	if pass != nil {
		t.yielded(true)
		unlock, err = t.staging.Lock(ctx)
		if perr := pass(); perr != nil && err == nil {
			return nil, errors.Join(perr, unlock())
		}
		return unlock, err
	}
	unlock, ok, err = t.staging.TryLock()
	if waited && err == nil {
		t.yielded(taken || !ok)
	}
	if ok || err != nil {
		return unlock, err
	}
	return within(ctx, t.staging, moment)
}

// waitAtTurnstile waits for the turnstile a moment. It returns nil if it was not granted, and
// whether another process was seen to have staging/ meanwhile. After the last wait was in
// vain, that is enough to go on: the turnstile does not order the waiters then. An error
// leaves nothing locked.
func (t *Turn) waitAtTurnstile(ctx context.Context) (pass func() error, taken bool, err error) {
	patience := moment
	if t.distrust {
		patience = shortMoment
	}
	for end := t.now() + patience; t.now() < end && !(taken && t.distrust); {
		// A process keeps the lock for linger at least, so this is often enough.
		pass, err = within(ctx, t.turnstile, linger/2)
		if pass != nil || err != nil {
			return pass, taken, err
		}
		unlock, ok, err := t.staging.TryRLock()
		if ok {
			err = unlock()
		}
		if err != nil {
			return nil, taken, err
		}
		taken = taken || !ok
	}
	return nil, taken, nil
}

// ignored reports whether the turnstile is ignored for now.
func (t *Turn) ignored() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now() < t.ignoreUntil
}

// yielded notes whether letting others in was any use: a process took the lock meanwhile, or
// none waits. If not, the process at the turnstile may be stopped. It is ignored for a
// time that doubles.
func (t *Turn) yielded(useful bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if useful {
		t.ignore, t.ignoreUntil = 0, 0
		return
	}
	t.ignore = min(max(2*t.ignore, moment), maxIgnore)
	t.ignoreUntil = t.now() + t.ignore
}

// within waits for the lock at most d. It returns nil and no error if it isn't granted by then.
func within(ctx context.Context, l *lock.Lock, d time.Duration) (unlock func() error, err error) {
	inner, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	unlock, err = l.Lock(inner)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return unlock, err
}
