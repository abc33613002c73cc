//go:build linux

// Package processes lets several processes read and write one store while they are
// killed, and judges what each of them saw: transactions must be one after the other, each
// reading what those before it have written, in an order that agrees with real time
// (strict serializability).
//
//	go test ./processes                               # some seconds
//	FSMETA_CRASH_SECONDS=300 go test -v ./processes   # as long as you like
package processes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// names is how many snapshots there are at most.
const names = 6

// state is the value of each name, "" where there is no snapshot. No value is written twice.
type state [names]string

// event is a line of a client's log.
type event struct {
	Client int
	Op     int   // counted for each client
	At     int64 // nanoseconds of a clock that all processes share
	Done   bool
	Failed bool  // done, and nothing of it took effect
	Saw    state // what it read, before it wrote
	Wrote  map[int]string
}

// client runs one transaction after the other, and logs each before and after.
type client struct {
	store  *fsmeta.Store
	number int
	writes bool
	rand   *rand.Rand
	log    *log
}

// log takes events, each in one write: what is killed leaves a last line without its end.
type log struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *log) add(e event) error {
	e.At = now()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(line, '\n'))
	return err
}

// now is the time since the machine was started, the same for all processes.
func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // there is such a clock
	}
	return t.Nano()
}

// run works until the context ends. Between two transactions it waits for a moment, for
// what can be judged is a few thousand at a time.
func (c *client) run(ctx context.Context) error {
	for op := 0; ctx.Err() == nil; op++ {
		if err := c.transaction(ctx, op); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(c.rand.IntN(4000)) * time.Microsecond):
		}
	}
	return nil
}

// transaction reads everything, and changes some of it. It logs what it is about to do
// before it does it, so that the log of a killed process tells what may have taken effect.
func (c *client) transaction(ctx context.Context, op int) error {
	e := event{Client: c.number, Op: op}
	if err := c.log.add(e); err != nil {
		return err
	}
	tctx, t, err := c.store.TransactionContext(ctx, c.writes)
	if err == nil {
		err = c.work(tctx, t, &e)
	}
	switch {
	case errors.Is(err, fsmeta.ErrOutdated), errors.Is(err, context.Canceled):
		e.Failed, err = true, nil // allowed: it was a reader for too long, or the end
	case err != nil:
		return fmt.Errorf("client %d, transaction %d: %w", c.number, op, err)
	}
	e.Done = true
	return c.log.add(e)
}

func (c *client) work(ctx context.Context, t fsmeta.Transactor, e *event) error {
	err := c.read(ctx, e)
	if err == nil && c.writes {
		if err = c.write(ctx, e); err == nil {
			err = c.log.add(*e)
		}
	}
	if err != nil {
		return errors.Join(err, t.Rollback())
	}
	return t.Commit()
}

// read reads every name, in one of two ways.
func (c *client) read(ctx context.Context, e *event) error {
	if c.rand.IntN(2) == 0 {
		return c.store.Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
			var i int
			if _, err := fmt.Sscanf(info.Name, "name-%d", &i); err != nil || i >= names {
				return fmt.Errorf("there is a snapshot %q", info.Name)
			}
			e.Saw[i] = value(info)
			return nil
		})
	}
	for _, i := range c.rand.Perm(names) {
		info, err := c.store.Stat(ctx, name(i))
		if err != nil && !errors.Is(err, fsmeta.ErrNotExist) {
			return err
		}
		if err == nil {
			e.Saw[i] = value(info)
		}
	}
	return nil
}

// write changes one or two names: makes, labels and removes snapshots.
func (c *client) write(ctx context.Context, e *event) error {
	e.Wrote = map[int]string{}
	for n, i := range c.rand.Perm(names)[:1+c.rand.IntN(2)] {
		// Long, so that checkpoints come often.
		labels := map[string]string{"value": fmt.Sprintf("%d.%d.%d.%d", unix.Getpid(), c.number, e.Op, n), "room": strings.Repeat("x", 2000)}
		var err error
		switch {
		case e.Saw[i] == "":
			_, err = c.store.CreateWith(ctx, name(i), "", false, fsmeta.WithLabels(labels))
		case c.rand.IntN(3) == 0:
			labels = nil
			_, err = c.store.Remove(ctx, name(i))
		default:
			_, err = c.store.Update(ctx, fsmeta.Info{Name: name(i), Labels: labels})
		}
		if err != nil {
			return err
		}
		e.Wrote[i] = labels["value"]
	}
	return nil
}

func name(i int) string { return fmt.Sprintf("name-%d", i) }

// value is what tells one version of a snapshot from all others.
func value(info fsmeta.Info) string { return info.Labels["value"] }
