package turn

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// caller is a call of an exported method: the innermost frames above it. They are resolved
// only when they are needed.
type caller struct {
	pcs [6]uintptr
	n   int // 0 for none
}

// callerOfCaller returns the frames above the function that calls it.
func callerOfCaller() (c caller) {
	c.n = runtime.Callers(3, c.pcs[:])
	return c
}

// String names the first frame outside of this module's fsmeta packages, as function and line. If there is none, it
// names the outermost one that is known.
func (c caller) String() string {
	name := "an unknown caller"
	frames := runtime.CallersFrames(c.pcs[:c.n])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if f.Function == "" || strings.HasPrefix(f.Function, "runtime.") {
			continue
		}
		name = fmt.Sprintf("%s (%s:%d)", f.Function, filepath.Base(f.File), f.Line)
		if !internal(f.Function) {
			break
		}
	}
	return name
}

// internal reports whether a function belongs to package fsmeta or to one inside it. Their external
// tests are callers.
func internal(function string) bool {
	const fsmeta = "github.com/fsmeta/fsmeta/fsmeta"
	slash := strings.LastIndexByte(function, '/')
	dot := strings.IndexByte(function[slash+1:], '.')
	if dot < 0 {
		return false
	}
	pkg := function[:slash+1+dot]
	return pkg == fsmeta || strings.HasPrefix(pkg, fsmeta+"/") && !strings.HasSuffix(pkg, "_test")
}

// obstacle is what a claim in the queue waits for, as of one instant.
type obstacle struct {
	t       *Turn
	holder  caller
	since   time.Duration // how long it has had the turn
	waiting bool          // for another process
}

func (t *Turn) obstacleLocked() obstacle {
	return obstacle{t, t.holder.caller, t.now() - t.holder.got, t.is(waiting)}
}

func (o obstacle) String() string {
	text := "this process is giving the lock on staging/ back"
	if o.holder.n > 0 {
		text = fmt.Sprintf("%v in this process has had the turn since %s, for %v", o.holder, clock(o.since), round(o.since))
	}
	if o.waiting {
		text += ", and waits: " + o.t.processes(o.since)
	}
	return text
}

// processes says which processes have the lock on staging/, and since when this one waits
// for them; how long they had it before is not known.
func (t *Turn) processes(waited time.Duration) string {
	var all []string
	for _, h := range t.staging.Holders() {
		switch {
		case h.PID == os.Getpid():
			all = append(all, fmt.Sprintf("process %d (this one, through another Store)", h.PID))
		case h.Command == "":
			all = append(all, fmt.Sprintf("process %d", h.PID))
		default:
			all = append(all, fmt.Sprintf("process %d (%s)", h.PID, h.Command))
		}
	}
	if len(all) == 0 {
		return "another process, it can't be told which, has or had the lock on staging/"
	}
	return strings.Join(all, ", ") + " has the lock on staging/, since " + clock(waited) + " or longer"
}

// clock returns the time of day that was so long ago.
func clock(ago time.Duration) string {
	return time.Now().Add(-ago).Format("15:04:05.000")
}

// gaveUp is the error of a claim that waited until ctx ended.
func (t *Turn) gaveUp(ctx context.Context, c *claim, why string) error {
	return fmt.Errorf("waited %v for the turn to write: %w: %s", round(t.now()-c.began), ctx.Err(), why)
}

// long is how long a claim may wait before a warning says what it waits for.
const long = time.Second

// watchLocked sets the timer report unless it is set. One timer serves all claims, so that
// a wait need not set one.
func (t *Turn) watchLocked() {
	if !t.reporting {
		t.setReportLocked(long)
	}
}

func (t *Turn) setReportLocked(d time.Duration) {
	t.reporting = true
	if t.report == nil {
		t.report = time.AfterFunc(d, t.reportLong)
	} else {
		t.report.Reset(d)
	}
}

// reportLong warns once for each claim that has waited long, and sets the timer for the next one.
func (t *Turn) reportLong() {
	type overdue struct {
		caller caller
		waited time.Duration
		behind *obstacle // nil for the holder of the turn, which waits for other processes
	}
	var all []overdue
	t.mu.Lock()
	now, next := t.now(), time.Duration(-1)
	o := t.obstacleLocked()
	look := func(c *claim, behind *obstacle) {
		switch waited := now - c.began; {
		case c.warned:
		case waited >= long:
			c.warned = true
			all = append(all, overdue{c.caller, waited, behind})
		case next < 0 || long-waited < next:
			next = long - waited
		}
	}
	for _, c := range t.queue {
		look(c, &o)
	}
	if o.waiting {
		look(&t.holder, nil)
	}
	if t.reporting = false; next >= 0 {
		t.setReportLocked(next)
	}
	t.mu.Unlock()

	for _, w := range all {
		why := ""
		if w.behind != nil {
			why = w.behind.String()
		} else {
			why = t.processes(w.waited)
		}
		slog.Warn("fsmeta: a writer waits for its turn: "+why, "waited", round(w.waited), "caller", w.caller.String())
	}
}

// round cuts what does not matter off a time in a message.
func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
