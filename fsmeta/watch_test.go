package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// told returns what transactions did to names, such as "+a" "-a" "~a".
func told(t Transaction) string {
	var s []string
	for _, c := range t.Changes {
		switch {
		case c.Before == nil:
			s = append(s, "+"+c.Name)
		case c.After == nil:
			s = append(s, "-"+c.Name)
		default:
			s = append(s, "~"+c.Name)
		}
	}
	return strings.Join(s, " ")
}

// take returns what the first transactions did that a watch finds, n that changed
// something.
func take(t *testing.T, s *Store, after uint64, n int) string {
	t.Helper()
	var all []string
	for txn, err := range s.Watch(t.Context(), after) {
		if err != nil {
			t.Fatal(err)
		}
		if len(txn.Changes) > 0 {
			all = append(all, told(txn))
		}
		if len(all) == n {
			break
		}
	}
	return strings.Join(all, "; ")
}

// A watch from the beginning finds all that was committed, with both images.
func TestWatch(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a")
	err := s.WithTransaction(bg, true, func(ctx context.Context) error {
		if _, err := s.Commit(ctx, "a", "b"); err != nil {
			return err
		}
		_, err := s.CreateActive(ctx, "c", "b", true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.WithTransaction(bg, true, func(ctx context.Context) error {
		_, err := s.Update(ctx, Info{Name: "c", Labels: map[string]string{"k": "v"}}, "labels.k")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, store := range map[string]*Store{"the same": s, "another": openTest(t, s.dir), "a read-only": openTest(t, s.dir, ReadOnly())} {
		if got, want := take(t, store, 0, 3), "+a; -a +b +c; ~c"; got != want {
			t.Errorf("%s Store: %s, want %s", name, got, want)
		}
	}
	for txn, err := range s.Watch(bg, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if told(txn) != "~c" {
			continue
		}
		c := txn.Changes[0]
		now, err := s.Stat(bg, "c")
		if err != nil || c.Before.Labels != nil || fmt.Sprint(*c.After) != fmt.Sprint(now) || c.Before.ID != now.ID {
			t.Errorf("%+v, %v: %+v", now, err, c)
		}
		break
	}
}

// What is committed after a read is what a watch from there finds, whichever process
// commits it and however many checkpoints come.
func TestWatchGoesOn(t *testing.T) {
	smallJournals(t, 3000)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	other := openTest(t, s.dir)
	mustCreate(t, s, "a")
	last, err := s.LastTransaction(bg)
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	got := make(chan string, n)
	go func() {
		defer close(got)
		number := last
		for txn, err := range s.Watch(t.Context(), last) {
			if err != nil || txn.Number != number+1 {
				got <- fmt.Sprintf("transaction %d behind %d: %v", txn.Number, number, err)
				return
			}
			number = txn.Number
			if len(txn.Changes) == 0 {
				continue
			}
			got <- told(txn)
			if txn.Changes[0].Name == fmt.Sprintf("%03d", n-1) {
				return
			}
		}
	}()
	var want []string
	for i := range n {
		writer := s
		if i%50 > 40 {
			writer = other
		}
		mustCreate(t, writer, fmt.Sprintf("%03d", i))
		want = append(want, fmt.Sprintf("+%03d", i))
		// In step, so that no two checkpoints pass unseen.
		if what := <-got; what != want[i] {
			t.Fatalf("%s, want %s", what, want[i])
		}
	}
}

// From now on means: all that is committed after the call, and nothing that was before, in
// a relaxed store neither.
func TestWatchFromNow(t *testing.T) {
	for _, opts := range [][]Option{nil, {Relaxed()}} {
		s := openTest(t, filepath.Join(t.TempDir(), "store"), opts...)
		mustCreate(t, s, "a", "b")
		transactions := s.Watch(t.Context(), FromNow)
		mustCreate(t, s, "c")
		for range 2 { // each loop begins anew
			for txn, err := range transactions {
				if err != nil || told(txn) != "+c" {
					t.Errorf("%s, %v, want +c", told(txn), err)
				}
				break
			}
		}
	}
}

// What a writable transaction says was the last is where a watch can begin.
func TestWatchFromWritable(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	stop := make(chan bool)
	var others sync.WaitGroup
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := create(s, fmt.Sprint("x", i), ""); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 300 {
		err := s.WithTransaction(bg, true, func(ctx context.Context) error {
			last, err := s.LastTransaction(ctx)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(bg)
			transactions := s.Watch(ctx, last)
			cancel()
			for _, err := range transactions {
				if !errors.Is(err, context.Canceled) && err != nil {
					t.Errorf("behind transaction %d: %v", last, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	others.Wait()
}

// Where the history is gone, a watch says so and gives nothing.
func TestWatchOutdated(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a", "b")
	foldAll(t, s)
	mustCreate(t, s, "c")
	var got []string
	for txn, err := range s.Watch(bg, 1) {
		if !errors.Is(err, ErrOutdated) {
			t.Errorf("%v, %v", txn, err)
		}
		got = append(got, told(txn))
	}
	if !slices.Equal(got, []string{""}) {
		t.Errorf("%q, want one error", got)
	}
	// It is the history of another store, which was longer.
	for txn, err := range s.Watch(bg, 1000) {
		if !errors.Is(err, ErrOutdated) {
			t.Errorf("behind what is to come: %v, %v", txn, err)
		}
	}
	// The loop is slower than two checkpoints.
	last, err := s.LastTransaction(bg)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, "d")
	got = nil
	for txn, err := range s.Watch(bg, last) {
		if err != nil {
			got = append(got, fmt.Sprint(errors.Is(err, ErrOutdated)))
			continue
		}
		got = append(got, told(txn))
		if len(got) > 1 {
			continue
		}
		for _, name := range []string{"e", "f"} {
			mustCreate(t, s, name)
			foldAll(t, s)
		}
	}
	if want := []string{"+d", "+e", "true"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A watch ends with its context, and with the Store.
func TestWatchEnds(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	mustCreate(t, s, "a")
	var last error
	for _, err := range s.Watch(ctx, 0) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("after its context: %v", last)
	}
	for _, err := range s.Watch(bg, 0) {
		if last = err; err == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(last, ErrClosed) {
		t.Errorf("after Close: %v", last)
	}
}
