package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leastWait is for how long a call waits for its turn to write, whatever its context says.
// containerd's package heeds no context, and drivers remove what they must with one that has
// ended. An ended context can't simply fail where another writer has the turn: that
// may be a checkpoint, or a process that keeps the lock for a millisecond, and a caller
// can know of neither. In this time writers come and go; what keeps the turn for longer is
// what a context is for.
const leastWait = 250 * time.Millisecond

// wait runs begin, which waits for the turn to write, with ctx. Where ctx ends that before leastWait has
// passed, it runs begin again for the rest of that time, with a context that has the values of
// ctx. If that is in vain, too, the error is ctx's.
func wait(ctx context.Context, begin func(context.Context) error) error {
	if ctx.Done() == nil {
		return begin(ctx)
	}
	began := time.Now()
	err := begin(ctx)
	left := leastWait - time.Since(began)
	if err == nil || left <= 0 || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	inner, cancel := context.WithTimeout(context.WithoutCancel(ctx), left)
	defer cancel()
	again := begin(inner)
	if errors.Is(again, context.DeadlineExceeded) {
		return fmt.Errorf("%w; and then: %v", err, again) // which says which writer has the turn
	}
	return again
}

// neverEnding returns a context with the values of ctx, to be handed to a walk of the store, which
// would end with it.
func neverEnding(ctx context.Context) context.Context {
	if ctx.Done() == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}
