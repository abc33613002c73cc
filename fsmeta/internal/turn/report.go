package turn

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// long is how long a call may wait before a warning says for which process.
const long = time.Second

// report reports the wait of one call: for the turn, then for other processes.
type report struct {
	turn    *Turn
	began   time.Duration
	warning *time.Timer // nil before the call waits
}

// start plans the warning, unless it is planned. The caller calls stop.
func (r *report) start() {
	if r.warning != nil {
		return
	}
	t, began := r.turn, r.began
	r.warning = time.AfterFunc(began+long-t.now(), func() {
		slog.Warn("fsmeta: a writer waits for its turn: "+t.holder(), "waited", round(t.now()-began))
	})
}

func (r *report) stop() {
	if r.warning != nil {
		r.warning.Stop()
	}
}

// gaveUp is the error of a call that waited until ctx ended.
func (r *report) gaveUp(ctx context.Context) error {
	return fmt.Errorf("waited %v for the turn to write: %w: %s", round(r.turn.now()-r.began), ctx.Err(), r.turn.holder())
}

// holder says which process has the turn, and since when.
func (t *Turn) holder() string {
	t.mu.Lock()
	held := t.now() - t.since
	t.mu.Unlock()
	since := time.Now().Add(-held).Format("15:04:05.000")
	if !t.is(waiting) {
		return fmt.Sprintf("another writer of this process has had the turn since %s, for %v", since, round(held))
	}
	var all []string
	for _, h := range t.staging.Holders() {
		if h.PID == os.Getpid() {
			h.Command = "this one, through another Store"
		}
		all = append(all, h.String())
	}
	if len(all) == 0 {
		return "another process, it can't be told which, has or had the lock on staging/"
	}
	return strings.Join(all, ", ") + " has the lock on staging/, since " + since + " or longer"
}

// round cuts what does not matter off a time in a message.
func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
