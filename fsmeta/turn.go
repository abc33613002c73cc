package fsmeta

import (
	"context"
	"slices"
	"sync"
)

// turn hands the right to write from one goroutine to the next, in order of
// arrival. The zero turn is free.
type turn struct {
	mu      sync.Mutex
	taken   bool
	current *transaction    // whose turn it is, where it is a transaction's
	waiting []chan struct{} // each closed when it is that one's turn
	writers int             // who has the turn, waits for it, or had it and has not left yet
}

// take waits for the turn until ctx ends or the store is closed. Whatever it returns, the
// caller leaves in the end.
func (q *turn) take(ctx, closing context.Context) error {
	q.mu.Lock()
	q.writers++
	if !q.taken {
		q.taken = true
		q.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	q.waiting = append(q.waiting, mine)
	q.mu.Unlock()

	var err error
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-closing.Done():
		err = ErrClosed
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, mine)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		q.release() // it came just then
	}
	return err
}

// hold says that the turn is t's, so that Close can end it.
func (q *turn) hold(t *transaction) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.current = t
}

func (q *turn) holder() *transaction {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.current
}

// release gives the turn to who has waited longest.
func (q *turn) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.current = nil
	if len(q.waiting) == 0 {
		q.taken = false
		return
	}
	close(q.waiting[0])
	q.waiting = slices.Delete(q.waiting, 0, 1)
}

// join counts a writer in that does not take the turn.
func (q *turn) join() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writers++
}

// leave says that a writer has finished altogether. If it was the last, it has
// the turn again, to give the process's lock back, and releases it then.
func (q *turn) leave() (last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writers--
	if q.writers > 0 || q.taken {
		return false
	}
	q.taken = true
	return true
}

// takeIdle takes the turn if there is no writer at all.
func (q *turn) takeIdle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken || q.writers > 0 {
		return false
	}
	q.taken = true
	return true
}
