package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// changed returns the changes of a transaction, such as "+a", "-a", "~a".
func changed(txn fsmeta.Transaction) string {
	var all []string
	for _, c := range txn.Changes {
		sign := "~"
		switch {
		case c.Before == nil:
			sign = "+"
		case c.After == nil:
			sign = "-"
		}
		all = append(all, sign+c.Name)
	}
	return strings.Join(all, " ")
}

// A watch from the beginning finds all that was committed, with both images.
func TestWatch(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir)
	mustDo(t, s, "put a", "begin", "commit a b", "put c b", "end", "begin", "end", "label c 1")
	for name, x := range map[string]*local{"the same": s, "another": useDamaged(t, dir), "a read-only": useDamaged(t, dir, fsmeta.ReadOnly())} {
		var got []string
		var last fsmeta.Transaction
		for txn, err := range x.store.Watch(t.Context(), 0) {
			succeed(t, err)
			if last = txn; len(txn.Changes) > 0 {
				got = append(got, changed(txn))
			}
			if len(got) == 3 {
				break
			}
		}
		if want := []string{"+a", "-a +b +c", "~c"}; !slices.Equal(got, want) {
			t.Fatalf("%s Store: %q, want %q", name, got, want)
		}
		now, err := s.store.Stat(t.Context(), "c")
		succeed(t, err)
		if c := last.Changes[0]; c.Before.Labels != nil || fmt.Sprint(*c.After) != fmt.Sprint(now) || c.Before.ID != now.ID {
			t.Errorf("%s Store: %+v, want %+v", name, c, now)
		}
		if x != s {
			mustDo(t, x, "close")
		}
	}
}

// A watch finds every transaction that is committed after a read, by whichever process and over any
// number of checkpoints.
func TestWatchGoesOn(t *testing.T) {
	smallJournals(t, 3000)
	dir := newDir(t)
	s, other := use(t, dir), useDamaged(t, dir)
	mustDo(t, s, "put a")
	last, err := s.store.LastTransaction(t.Context())
	succeed(t, err)
	const n = 150
	got := make(chan string, n)
	go func() {
		defer close(got)
		number := last
		for txn, err := range s.store.Watch(t.Context(), last) {
			if err != nil || txn.Number != number+1 {
				got <- fmt.Sprintf("transaction %d behind %d: %v", txn.Number, number, err)
				return
			}
			number = txn.Number
			if len(txn.Changes) > 0 {
				got <- changed(txn)
			}
		}
	}()
	for i := range n {
		writer := s
		if i%50 > 40 {
			writer = other
		}
		mustDo(t, writer, fmt.Sprintf("put b%03d", i))
		// In step, so that no two checkpoints pass unseen.
		if is, want := <-got, fmt.Sprintf("+b%03d", i); is != want {
			t.Fatalf("%s, want %s", is, want)
		}
	}
	if h := header(t, dir); h.Txn <= last {
		t.Error("no checkpoint was made")
	}
	mustDo(t, other, "close")
}

// From now on means: all that is committed after the call, and nothing that was before, in
// a relaxed store neither.
func TestWatchFromNow(t *testing.T) {
	for _, opts := range [][]fsmeta.Option{nil, {fsmeta.Relaxed()}} {
		s := use(t, newDir(t), opts...)
		mustDo(t, s, "put a", "put b")
		transactions := s.store.Watch(t.Context(), fsmeta.FromNow)
		mustDo(t, s, "put c")
		for range 2 { // each loop begins anew
			for txn, err := range transactions {
				if err != nil || changed(txn) != "+c" {
					t.Errorf("%s, %v, want +c", changed(txn), err)
				}
				break
			}
		}
	}
}

// Where a writable transaction says the last one was, a watch can begin.
func TestWatchFromWritable(t *testing.T) {
	s := use(t, newDir(t))
	stop := make(chan bool)
	var others sync.WaitGroup
	others.Go(func() {
		x := &local{store: s.store}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := x.do(fmt.Sprint("put x", i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 200 {
		err := s.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			last, err := s.store.LastTransaction(ctx)
			if err != nil {
				return err
			}
			ended, cancel := context.WithCancel(t.Context())
			transactions := s.store.Watch(ended, last)
			cancel()
			for _, err := range transactions {
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("behind transaction %d: %v", last, err)
				}
			}
			return nil
		})
		succeed(t, err)
	}
	close(stop)
	others.Wait()
}

// watchAll returns the transactions of a watch, and the error that ends it. After each transaction it
// calls fn.
func watchAll(t *testing.T, s *local, after uint64, fn func(n int)) (got []string, err error) {
	t.Helper()
	for txn, err := range s.store.Watch(t.Context(), after) {
		if err != nil {
			return got, err
		}
		got = append(got, changed(txn))
		fn(len(got))
	}
	t.Fatalf("the watch has ended without an error, after %q", got)
	return nil, nil
}

// Where the history is gone, a watch says so and gives nothing wrong.
func TestWatchOutdated(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir)
	mustDo(t, s, "put a", "put b")
	fold(t, dir)
	mustDo(t, s, "put c")
	nothing := func(int) {}
	for name, after := range map[string]uint64{"dropped": 1, "to come, of a store that was longer": 1000} {
		if got, err := watchAll(t, s, after, nothing); !errors.Is(err, fsmeta.ErrOutdated) || len(got) > 0 {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	// The loop is slower than two checkpoints.
	last, err := s.store.LastTransaction(t.Context())
	succeed(t, err)
	mustDo(t, s, "put d")
	got, err := watchAll(t, s, last, func(n int) {
		if n == 1 {
			for _, line := range []string{"put e", "put f"} {
				mustDo(t, s, line)
				fold(t, dir)
			}
		}
	})
	if want := []string{"+d", "+e"}; !errors.Is(err, fsmeta.ErrOutdated) || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// A watch ends with its context, and with the Store.
func TestWatchEnds(t *testing.T) {
	s := use(t, newDir(t))
	mustDo(t, s, "put a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, last = range s.store.Watch(ctx, 0) {
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("after its context: %v", last)
	}
	if _, err := watchAll(t, s, 0, func(n int) {
		if n == 1 {
			mustDo(t, s, "close")
		}
	}); !errors.Is(err, fsmeta.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
