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
	unlock   func() error // of staging; nil in the states free and waiting, not nil in the others
	distrust bool         // the last wait for the turnstile was in vain

	mu sync.Mutex // guards the rest

	closed  bool
	taken   bool     // the turn has a holder
	holder  claim    // of the turn, where taken; the zero claim is the Turn itself
	queue   []*claim // the claims that wait for the turn, in order of arrival
	writers int

	idle      *time.Timer // gives the lock back when it is not used any more
	lingering bool        // idle is set
	uses      uint64      // how often the last writer has ended
	usesSeen  uint64      // uses when idle was set

	report    *time.Timer // reports waits that last long
	reporting bool        // report is set

	lookAt      time.Duration // when Look may look again
	ignore      time.Duration // for how long the turnstile was ignored last, 0 if it is trusted
	ignoreUntil time.Duration // until when it is ignored
}

// claim is one call of Take or TakeTurn.
type claim struct {
	caller  caller
	began   time.Duration // when it was made
	got     time.Duration // when it got the turn
	warned  bool          // its wait was reported
	granted chan error    // receives nil with the turn or the error that ends the wait; has room for one
}

// New returns a Turn that is free. It does not touch the disk.
func New(staging, turnstile *lock.Lock, hooks Hooks) *Turn {
	t := &Turn{staging: staging, turnstile: turnstile, hooks: hooks, born: time.Now()}
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
// A caller that waits over a second is told the holder of the turn: by a slog warning once per wait, and by the error
// when ctx ends. In this process the holder is the caller of Take (function and line of the first frame outside of this
// module's fsmeta packages), with the time since; in another it is the process's id and command, from /proc/locks, where that can be had.
//
// While the process has the lock and the turn is free, Take makes no system call but for one look at the turnstile in a
// millisecond.
func (t *Turn) Take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		t.Join()
		return err
	}
	ready, err := t.enter(ctx, 1, callerOfCaller())
	if err != nil {
		return err
	}
	if !ready {
		err = t.prepare(ctx)
	}
	if err == nil {
		err = t.hooks.Failed() // while the process had the lock all along
	}
	if err != nil {
		t.Release()
	}
	return err
}

// TakeTurn takes the goroutine's turn alone, by a caller that has Joined (so the lock is held or not needed). After nil
// the caller calls Release. It does not count a writer in: the End of the Join is enough.
func (t *Turn) TakeTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := t.enter(ctx, 0, callerOfCaller())
	return err
}

// Join counts a writer in that does not take the turn: the process keeps the lock until it calls End.
func (t *Turn) Join() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writers++
}

// enter counts writers in and waits for the turn. It reports whether the process is ready to
// write without prepare.
func (t *Turn) enter(ctx context.Context, writers int, from caller) (ready bool, err error) {
	now := t.now()
	t.mu.Lock()
	t.writers += writers
	if t.closed {
		t.mu.Unlock()
		return false, fault.ErrClosed
	}
	if t.taken {
		c := t.queueUpLocked(from, now)
		t.mu.Unlock()
		return false, t.await(ctx, c)
	}
	t.taken, t.holder = true, claim{caller: from, began: now, got: now}
	ready = t.is(held) && !t.lookDueLocked(now)
	t.mu.Unlock()
	return ready, nil
}

func (t *Turn) queueUpLocked(from caller, now time.Duration) *claim {
	c := &claim{caller: from, began: now, granted: make(chan error, 1)}
	t.queue = append(t.queue, c)
	t.watchLocked()
	return c
}

// await waits until the claim has the turn, ctx ends or Close ends the wait.
func (t *Turn) await(ctx context.Context, c *claim) error {
	select {
	case err := <-c.granted:
		return err
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.queue, c)
	if i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	}
	o := t.obstacleLocked()
	t.mu.Unlock()
	if i >= 0 {
		return t.gaveUp(ctx, c, o.String())
	}
	if err := <-c.granted; err != nil {
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
	next.got = t.now()
	t.holder = *next
	next.granted <- nil
}

// linger is how long a process keeps the lock that none of its writers uses, so that
// one transaction after the other need not take it anew. It is also how often the
// holder looks for waiters.
const linger = time.Millisecond

// End counts a writer out. The last one sees to it that the lock is given back: after linger, at once if
// another process waits or writing has ended. An unlock that fails is tried again every linger.
func (t *Turn) End() {
	failed := t.hooks.Failed() != nil
	t.mu.Lock()
	t.writers--
	if t.writers > 0 || t.taken || t.is(free) {
		t.mu.Unlock()
		return
	}
	if t.is(held) && !failed {
		t.uses++
		t.lingerLocked()
		t.mu.Unlock()
		return
	}
	t.taken, t.holder = true, claim{}
	t.mu.Unlock()
	t.retire()
}

// lingerLocked sets the timer idle unless it is set. It is not set anew for every
// transaction, because that wakes threads: when it fires, it compares uses.
func (t *Turn) lingerLocked() {
	if t.lingering {
		return
	}
	t.lingering, t.usesSeen = true, t.uses
	if t.idle == nil {
		t.idle = time.AfterFunc(linger, t.lingered)
	} else {
		t.idle.Reset(linger)
	}
}

// lingered gives the lock back if it was not used since the timer was set.
func (t *Turn) lingered() {
	t.mu.Lock()
	t.lingering = false
	if t.writers > 0 || t.taken || t.is(free) {
		t.mu.Unlock() // the last writer's End sets the timer again
		return
	}
	if t.is(held) && t.uses != t.usesSeen {
		t.lingerLocked()
		t.mu.Unlock()
		return
	}
	t.taken, t.holder = true, claim{}
	t.mu.Unlock()
	t.retire()
}

// retire gives the lock back, and then the turn, which the caller has.
func (t *Turn) retire() {
	_ = t.giveBack() // the process still has the lock, and the timer tries again
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.is(free) && !t.closed {
		t.lingerLocked()
	}
	t.releaseLocked()
}

// Close ends all waiting, and takes the turn for good; the lock stays as it is. Acquire then tries to take the lock on staging/
// without waiting, with take-over; Drop gives it back. Close waits for the holder of the turn. A second call does nothing.
func (t *Turn) Close() error {
	from := callerOfCaller()
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	for _, c := range t.queue {
		c.granted <- fault.ErrClosed
	}
	t.queue = nil
	if !t.taken {
		t.taken, t.holder = true, claim{}
		t.mu.Unlock()
		t.cancel()
		return nil
	}
	c := t.queueUpLocked(from, t.now())
	t.mu.Unlock()
	t.cancel()
	return t.await(context.Background(), c)
}
