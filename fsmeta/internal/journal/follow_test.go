package journal

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// wantNext calls Next until there is nothing new, and compares the transactions.
func wantNext(t *testing.T, f *Follower, want string) {
	t.Helper()
	got := []string{}
	for {
		lines, err := f.Next()
		must(t, err)
		if len(lines) == 0 {
			break
		}
		for _, l := range lines {
			if _, err := l.Decode(); err != nil {
				t.Error(err)
			}
			got = append(got, fmt.Sprint(l.Txn))
		}
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %q, want %q", s, want)
	}
}

func follow(t *testing.T, s store, after uint64) *Follower {
	t.Helper()
	f, err := Follow(s.path, after)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFollow(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	f, late := follow(t, s, 10), follow(t, s, 13)
	wantNext(t, f, "")
	write(t, w, 2)
	wantNext(t, f, "11 12")
	wantNext(t, f, "")
	// Lines of a writer at work are passed on once they are published.
	must(t, w.Append(txn(w)))
	must(t, w.Append(txn(w)))
	wantNext(t, f, "")
	must(t, w.Publish(13))
	wantNext(t, f, "13")
	// Over a checkpoint; the lines of the old file are committed then.
	next := s.put(t, w, format.Header{Txn: 13, NextID: 9}, nil, ClosedFill)
	write(t, next, 1)
	wantNext(t, f, "14 15")
	wantNext(t, late, "14 15")
	must(t, next.Append(txn(next)))
	wantNext(t, f, "")
	must(t, next.Unlock())
	wantNext(t, f, "16")
	wantNext(t, f, "")
	_, err := Follow(s.path, 12)
	wantError(t, err, fault.ErrOutdated)
}

// A file that is not in its place for good is not gone on in.
func TestFollowWaitsForPlace(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	write(t, w, 1)
	f := follow(t, s, 10)
	next := s.put(t, w, format.Header{Txn: 11, NextID: 9}, nil, ClosedFill)
	_, err := next.file.WriteAt([]byte{0}, next.start-1)
	must(t, err)
	write(t, next, 1)
	wantNext(t, f, "11")
	must(t, next.Place())
	wantNext(t, f, "12")
}

func TestFollowOutdated(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, s store, w *File){
		"two checkpoints": func(t *testing.T, s store, w *File) {
			next := s.put(t, w, format.Header{Txn: w.Tip(), NextID: 9}, nil, ClosedFill)
			write(t, next, 2)
			s.put(t, next, format.Header{Txn: next.Tip(), NextID: 9}, nil, ClosedFill)
		},
		"another store": func(t *testing.T, s store, w *File) {
			must(t, w.Supersede())
			s.put(t, nil, format.Header{Txn: 11, NextID: 9, Prev: 1}, nil, ClosedFill)
		},
		"an older store": func(t *testing.T, s store, w *File) {
			must(t, w.Supersede())
			s.put(t, nil, format.Header{Txn: 3, NextID: 9, Prev: 1}, nil, ClosedFill)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			w := s.put(t, nil, first, nil, ClosedFill)
			f := follow(t, s, 10)
			write(t, w, 1)
			replace(t, s, w)
			lines, err := f.Next()
			if must(t, err); len(lines) != 1 || lines[0].Txn != 11 {
				t.Errorf("the line before: %v", lines)
			}
			for range 2 {
				_, err = f.Next()
				wantError(t, err, fault.ErrOutdated)
			}
		})
	}
}

func TestFollowDamaged(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	f := follow(t, s, 10)
	write(t, w, 2)
	_, err := w.file.WriteAt([]byte("x"), w.Size()-100)
	must(t, err)
	lines, err := f.Next()
	if must(t, err); len(lines) != 1 || lines[0].Txn != 11 {
		t.Errorf("the line before: %v", lines)
	}
	_, err = f.Next()
	wantError(t, err, fault.ErrDamaged)
	must(t, os.WriteFile(s.path, []byte("garbage\n"), 0o600))
	_, err = Follow(s.path, 10)
	wantError(t, err, fault.ErrDamaged)
}
