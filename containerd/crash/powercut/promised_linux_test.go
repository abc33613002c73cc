package powercut

import (
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
)

// What a durable run says is settled at once. What a relaxed one says is settled a second
// later, when it has closed the store, or when the next run has taken it over.
func TestPromised(t *testing.T) {
	rec := newRecord(image{}, [][]workload.Note{{{}, {}}})
	add := func(e event, when time.Duration) {
		e.when = when
		rec.events = append(rec.events, e)
	}
	flushes := func(from, to time.Duration) {
		for when := from; when <= to; when += 50 * time.Millisecond {
			add(event{kind: flushed}, when)
		}
	}
	want := func(runs, settled int) {
		t.Helper()
		gotRuns, got := rec.promised(len(rec.events))
		if len(gotRuns) != runs || got != settled {
			t.Errorf("after %d events: %d runs and %d settled notes, want %d and %d", len(rec.events), len(gotRuns), got, runs, settled)
		}
	}
	want(1, 2)
	add(event{kind: begun}, 0)
	add(event{kind: noted}, 0)
	want(2, 3)
	add(event{kind: begun, relaxed: true}, 0)
	add(event{kind: noted}, 0)
	want(3, 3)
	flushes(0, 500*time.Millisecond)
	add(event{kind: noted}, time.Hour) // all stood still
	want(3, 3)
	flushes(time.Hour, time.Hour+500*time.Millisecond)
	want(3, 4)
	add(event{kind: closed}, time.Hour+500*time.Millisecond)
	want(3, 5)
	add(event{kind: begun, relaxed: true}, time.Hour+500*time.Millisecond)
	add(event{kind: noted}, time.Hour+500*time.Millisecond)
	want(4, 5)
	add(event{kind: begun, relaxed: true}, time.Hour+500*time.Millisecond)
	want(5, 5)
	add(event{kind: noted}, time.Hour+500*time.Millisecond)
	want(5, 6)
}
