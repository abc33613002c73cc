// Package turn orders the writers of a store: the goroutines of this process by arrival, and the
// processes by an flock on staging/ behind a turnstile. It is one state machine that owns both.
package turn

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/lock"
)

// Hooks are the owner's part of getting the lock on staging/ and of giving it back. Each is called by
// the holder of the turn, Failed by any goroutine. None is called under a mutex of the Turn, and none may panic.
type Hooks struct {
	// Make makes staging/ if it is missing; called before the lock is waited for.
	Make func() error
	// TakeOver takes in and finishes what others have left. It is called when the lock was just obtained. After an
	// error the lock is given back.
	TakeOver func() error
	// Settle finishes everything written. It is called before the lock is given back while writers go on.
	Settle func() error
	// Leave prepares for the lock to be given back; ok == false keeps it (say a checkpoint is under way). After
	// ok, TakeOver comes before the next write, even if the unlock fails.
	Leave func() (ok bool)
	// Failed reports that writing has ended: the lock is given back as soon as its last writer ends, without
	// lingering. It is called by every Take and End and must be fast.
	Failed func() error
}

// Turn is the right to write. The lock order is stated in package commit; mu is a leaf below all.
//
// A writer is a caller of Take or Join that has not called End. The holder of the turn is the one
// writer between Take and Release, or the Turn itself while it gives the lock back.
type Turn struct {
	staging   *lock.Lock // held by the process that writes
	turnstile *lock.Lock // held by the process that waits for staging
	hooks     Hooks
	born      time.Time       // now counts from here
	closing   context.Context // ends when Close begins
	cancel    context.CancelFunc

	state atomic.Uint32 // a state; see there for its changes

	// The holder of the turn alone uses these.
	unlock   func() error // of staging, from the state locked on
	distrust bool         // the last wait for the turnstile was in vain

	mu sync.Mutex // guards the rest

	taken   bool          // the turn has a holder
	since   time.Duration // when the holder got it
	queue   []chan error  // the claims that wait for the turn, in order of arrival: each receives nil with it, or why it won't come
	writers int
	ended   *sync.Cond // the last writer has

	idle      *time.Timer // gives the lock back when it is not used any more
	lingering bool        // idle is set
	used      bool        // the lock was used since then

	lookAt      time.Duration // when Look may look again
	ignore      time.Duration // for how long the turnstile was ignored last, 0 if it is trusted
	ignoreUntil time.Duration // until when it is ignored
}

// New returns a Turn that is free. It does not touch the disk.
func New(staging, turnstile *lock.Lock, hooks Hooks) *Turn {
	t := &Turn{staging: staging, turnstile: turnstile, hooks: hooks, born: time.Now()}
	t.ended = sync.NewCond(&t.mu)
	t.closing, t.cancel = context.WithCancel(context.Background())
	return t
}

// now is cheaper than time.Now.
func (t *Turn) now() time.Duration { return time.Since(t.born) }

// Take waits for the goroutine's turn and for the lock on staging/, with the take-over done. Every caller, whatever was
// returned, calls End once, when nothing of its work is under way any more. After nil it calls Release (once) when the next
// writer of the process may go on, before End. The error is ctx's (with the holder, see below), fault.ErrClosed after Close has begun,
// or that of a hook.
//
// A caller that waits over a second is told which process has the turn, and since when: by a slog warning once per wait, and
// by the error when ctx ends. Of another process that is its id and command, from /proc/locks, where that can be had.
//
// While the process has the lock and the turn is free, Take makes no system call but for one look at the turnstile in a
// millisecond.
func (t *Turn) Take(ctx context.Context) error {
	t.Join()
	return t.take(ctx, true)
}

// TakeTurn takes the goroutine's turn alone, by a caller that has Joined (so the lock is held or not needed). After nil
// the caller calls Release. It does not count a writer in: the End of the Join is enough.
func (t *Turn) TakeTurn(ctx context.Context) error { return t.take(ctx, false) }

// take is Take, or TakeTurn, without counting in. After an error the caller does not have the turn.
func (t *Turn) take(ctx context.Context, lock bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := report{turn: t, began: t.now()}
	defer r.stop()
	ready, err := t.enter(ctx, &r)
	if err != nil || !lock {
		return err
	}
	if !ready {
		err = t.prepare(ctx, &r)
	}
	if err == nil {
		err = t.hooks.Failed() // while the process had the lock all along
	}
	if err != nil {
		t.Release()
	}
	return err
}

// Join counts a writer in that does not take the turn: the process keeps the lock until it calls End.
func (t *Turn) Join() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writers++
}

// enter waits for the turn. It reports whether the process is ready to write without prepare.
func (t *Turn) enter(ctx context.Context, r *report) (ready bool, err error) {
	t.mu.Lock()
	if t.Closing() {
		t.mu.Unlock()
		return false, fault.ErrClosed
	}
	if t.taken {
		return false, t.awaitUnlock(ctx, r)
	}
	t.taken, t.since = true, r.began
	ready = t.is(held) && !t.lookDueLocked(r.began)
	t.mu.Unlock()
	return ready, nil
}

// awaitUnlock queues and unlocks mu. It waits until the claim has the turn, ctx ends or Close ends the wait.
func (t *Turn) awaitUnlock(ctx context.Context, r *report) error {
	granted := make(chan error, 1)
	t.queue = append(t.queue, granted)
	t.mu.Unlock()
	r.start()
	select {
	case err := <-granted:
		return err
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.queue, granted)
	if i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	}
	t.mu.Unlock()
	if i >= 0 {
		return r.gaveUp(ctx)
	}
	if err := <-granted; err != nil {
		return err
	}
	t.Release() // the turn came just then
	return ctx.Err()
}

// Release gives the turn to the claim that has waited longest.
func (t *Turn) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked()
}

func (t *Turn) releaseLocked() {
	if len(t.queue) == 0 {
		t.taken = false
		return
	}
	next := t.queue[0]
	t.queue = slices.Delete(t.queue, 0, 1)
	t.since = t.now()
	next <- nil
}

// linger is how long a process keeps the lock that none of its writers uses, so that
// one transaction after the other need not take it anew. It is also how often the
// holder looks for waiters.
const linger = time.Millisecond // without it a create of one writer takes 45 % longer, measured on tmpfs

// End counts a writer out. The last one sees to it that the lock is given back: after linger, at once if
// another process waits or writing has ended. An unlock that fails is tried again every linger.
func (t *Turn) End() {
	failed := t.hooks.Failed() != nil
	t.mu.Lock()
	if t.writers--; t.writers == 0 {
		t.ended.Broadcast()
	}
	t.used = true
	t.restUnlock(failed)
}

// lingered gives the lock back if it was not used since the timer was set.
func (t *Turn) lingered() {
	t.mu.Lock()
	t.lingering = false
	t.restUnlock(!t.used)
}

// restUnlock unlocks mu. Where no writer needs the lock, it gives it back, or lingers unless enough.
func (t *Turn) restUnlock(enough bool) {
	if t.writers > 0 || t.taken || t.is(free) {
		t.mu.Unlock() // the last writer's End comes here again
		return
	}
	if t.is(held) && !enough {
		t.lingerLocked()
		t.mu.Unlock()
		return
	}
	t.taken, t.since = true, t.now()
	t.mu.Unlock()
	t.retire()
}

// lingerLocked sets the timer idle unless it is set. It is not set anew for every
// transaction, because that wakes threads: when it fires, it looks at used.
func (t *Turn) lingerLocked() {
	if t.lingering {
		return
	}
	t.lingering, t.used = true, false
	if t.idle == nil {
		t.idle = time.AfterFunc(linger, t.lingered)
	} else {
		t.idle.Reset(linger)
	}
}

// retire gives the lock back, and then the turn, which the caller has.
func (t *Turn) retire() {
	_ = t.giveBack() // the process still has the lock, and the timer tries again
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.is(free) && !t.Closing() {
		t.lingerLocked()
	}
	t.releaseLocked()
}

// Close ends all waiting, and takes the turn for good; the lock stays as it is. Acquire then tries to take the lock on staging/
// without waiting, with take-over; Drop gives it back. Close waits for the holder of the turn. A second call does nothing.
func (t *Turn) Close() error {
	t.mu.Lock()
	if t.Closing() {
		t.mu.Unlock()
		return nil
	}
	t.cancel()
	for _, granted := range t.queue {
		granted <- fault.ErrClosed
	}
	t.queue = nil
	if t.taken {
		r := report{turn: t, began: t.now()}
		defer r.stop()
		return t.awaitUnlock(context.Background(), &r)
	}
	t.taken = true
	t.mu.Unlock()
	return nil
}

// Closing reports whether Close has begun. Any goroutine may ask.
func (t *Turn) Closing() bool { return t.closing.Err() != nil }

// AwaitEnd waits until all writers have called End.
func (t *Turn) AwaitEnd() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.writers > 0 {
		t.ended.Wait()
	}
}
