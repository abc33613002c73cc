package powercut

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
)

// kind is what happened.
type kind int

const (
	written kind = iota // bytes reached the disk
	flushed             // all that was written before is there for good
	begun               // a run of the workload has begun
	noted               // the workload has said something
	closed              // a run has closed the store, without an error
)

// event is one thing that happened.
type event struct {
	kind    kind
	when    time.Duration // since the record began
	offset  int64         // of what was written
	data    []byte        // likewise, never changed
	note    workload.Note // of what was noted
	relaxed bool          // of a run that has begun
}

// record is what has happened to a disk and to what ran on it, in order.
//
// A write or a flush has its place when the disk answers, before the machine can know of
// it. So a write that stands before a flush is one that the flush was to wait for, or may
// have been; and what is noted after a flush may have waited for it.
type record struct {
	base  image             // what was there before, for good
	prior [][]workload.Note // what was noted before, of which nothing acknowledged is lost

	mu     sync.Mutex
	began  time.Time
	now    image
	events []event
}

func newRecord(base image, prior [][]workload.Note) *record {
	return &record{base: base, prior: prior, began: time.Now(), now: base.clone()}
}

func (r *record) add(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.when = time.Since(r.began)
	if e.kind == written {
		r.now.write(e.offset, e.data)
	}
	r.events = append(r.events, e)
}

func (r *record) read(offset int64, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.read(offset, data)
}

// patience is how long a relaxed commit may take to be there for good, as the clock goes.
const patience = time.Second

// clock tells the time in which a disk does its work. Between two flushes, of which the
// neighbour makes many each second, no more than a tenth of a second passes: where all of
// the machine is slow, the time is, too.
type clock struct{ passed, flush time.Duration }

func (c *clock) at(e event) time.Duration {
	now := c.passed + min(e.when-c.flush, time.Second/10)
	if e.kind == flushed {
		c.passed, c.flush = now, e.when
	}
	return now
}

// timeAt returns the time of the last of some events.
func timeAt(events []event) time.Duration {
	var c clock
	var now time.Duration
	for _, e := range events {
		now = c.at(e)
	}
	return now
}

// promised returns what the workload had said at a point of the record, by its runs, and
// how many of the notes, those of earlier records too, are settled: what they acknowledge
// is there whatever happens.
func (r *record) promised(at int) (runs [][]workload.Note, settled int) {
	runs = slices.Clone(r.prior)
	count := 0
	for _, run := range runs {
		count += len(run)
	}
	settled = count
	relaxed := false
	cut := timeAt(r.events[:at])
	var c clock
	for _, e := range r.events[:at] {
		now := c.at(e)
		switch e.kind {
		case begun:
			runs = append(runs, nil)
			relaxed = e.relaxed
		case noted:
			if len(runs[len(runs)-1]) == 0 {
				settled = count // it has taken the store over
			}
			runs[len(runs)-1] = append(runs[len(runs)-1], e.note)
			count++
			if !relaxed || now+patience <= cut {
				settled = count
			}
		case closed:
			settled = count
		}
	}
	return runs, settled
}

// String says what happened, in a line.
func (e event) String() string {
	switch e.kind {
	case written:
		return fmt.Sprintf("%v write %d+%d", e.when, e.offset, len(e.data))
	case flushed:
		return fmt.Sprintf("%v flush", e.when)
	case begun:
		return fmt.Sprintf("%v run begins, relaxed: %v", e.when, e.relaxed)
	case closed:
		return fmt.Sprintf("%v run has closed the store", e.when)
	}
	if e.note.Acked || e.note.Failed != "" {
		return fmt.Sprintf("%v writer %d, transaction %d: acknowledged: %v %s", e.when, e.note.Writer, e.note.Txn, e.note.Acked, e.note.Failed)
	}
	return fmt.Sprintf("%v writer %d, transaction %d: %v", e.when, e.note.Writer, e.note.Txn, e.note.After)
}

// keepRecord writes what happened to a file, a line for each event, numbered from 1 as the
// points of cuts are.
func keepRecord(path string, r *record) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for i, e := range r.events {
		fmt.Fprintln(w, i+1, e)
	}
	return errors.Join(w.Flush(), f.Close())
}
