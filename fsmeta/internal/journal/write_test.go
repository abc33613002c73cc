package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}

// The file grows in chunks, and no line says that it is longer than it is.
func TestAppendGrows(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, 0)
	sizes := map[int64]bool{size(t, s.path): true}
	for range 1000 {
		filled := w.filled
		x := txn(w, nasty...)
		must(t, w.Append(x))
		length := size(t, s.path)
		sizes[length] = true
		if x.Filled > uint64(length) || x.Filled < uint64(filled) {
			t.Fatalf("the line of %d says %d, before it was %d, the file has %d bytes", x.Number, x.Filled, filled, length)
		}
		if left := length - w.Size(); left < room(0) {
			t.Fatalf("behind the line of %d there are %d bytes", x.Number, left)
		}
	}
	if len(sizes) < 3 || len(sizes) > 10 {
		t.Errorf("the file had %d sizes", len(sizes))
	}
	r := s.open(t, false)
	tail, err := r.Scan(true)
	must(t, err)
	if must(t, r.Damage()); len(tail.Fresh) != 1000 || tail.Torn || tail.Fresh[999].Filled != uint64(w.filled) {
		t.Errorf("%d lines, torn %v", len(tail.Fresh), tail.Torn)
	}
}

// A file that another process has left longer than a line says is made durable, not believed.
func TestAppendKeepsFilledSmall(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, 0)
	must(t, os.Truncate(s.path, 1<<30))
	write(t, w, 2)
	if w.filled > 2*FillChunk || size(t, s.path) != 1<<30 {
		t.Errorf("filled %d, size %d", w.filled, size(t, s.path))
	}
}

func TestAppendRefuses(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, format.Header{Txn: format.MaxNumber - 1, NextID: 1}, nil, ClosedFill)
	x := txn(w)
	x.Number++
	if err := w.Append(x); err == nil {
		t.Error("a line that leaves a gap was written")
	}
	must(t, w.Append(txn(w)))
	if err := w.Append(txn(w)); err == nil {
		t.Error("a line beyond the highest number was written")
	}
	must(t, w.Supersede())
	wantError(t, w.Append(txn(w)), ErrDirty)
	must(t, w.Close())
	wantError(t, w.Sync(), fault.ErrSync)
}

// Torn bytes are not written over.
func TestAppendBehindTorn(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, 4*ClosedFill)
	write(t, w, 1)
	_, err := w.file.WriteAt([]byte("torn"), w.Size()+1)
	must(t, err)
	tail, err := w.Scan(true)
	must(t, err)
	if must(t, w.Damage()); !tail.Torn {
		t.Fatal(tail)
	}
	before := content(t, s.path)
	wantError(t, w.Append(txn(w)), ErrDirty)
	if !bytes.Equal(before, content(t, s.path)) {
		t.Error("something was written")
	}
	// The mark is, and then it can be read.
	must(t, w.Supersede())
	r := s.open(t, false)
	if tail, err := r.Scan(true); err != nil || r.Damage() != nil || !tail.Superseded {
		t.Error(tail, err, r.Damage())
	}
}

func TestRestore(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, 4*ClosedFill)
	write(t, w, 1)
	before := content(t, s.path)
	must(t, w.Supersede())
	must(t, w.Supersede())
	if bytes.Equal(before, content(t, s.path)) {
		t.Error("no mark")
	}
	must(t, w.Restore())
	if !bytes.Equal(before, content(t, s.path)) {
		t.Error("the mark was not taken back")
	}
	write(t, w, 1)
	if v := scanOf(t, s.path); v.lines != 2 || v.published != 2 || v.superseded || v.torn || v.damage != "" {
		t.Error(v)
	}
}

func scanOf(t *testing.T, path string) verdict {
	t.Helper()
	b := &bench{store: store{filepath.Dir(path), path}}
	return b.scan(t)
}

// A reader beside a writer finds what is published, in order, and never damage.
func TestReadWhileWriting(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, 0)
	var published atomic.Uint64
	published.Store(10)
	done := make(chan error, 1)
	go func() {
		random := rand.New(rand.NewPCG(3, 4))
		for w.Tip() < 1500 {
			for range 1 + random.IntN(3) {
				if err := w.Append(txn(w, nasty[:random.IntN(4)]...)); err != nil {
					done <- err
					return
				}
			}
			if err := errors.Join(w.Sync(), w.Publish(w.Tip())); err != nil {
				done <- err
				return
			}
			published.Store(w.Tip())
		}
		done <- nil
	}()
	r := s.open(t, false)
	for whole := false; r.Published() < 1500; whole = !whole {
		want := published.Load()
		if _, err := r.Scan(whole); err != nil {
			t.Fatal(err)
		}
		must(t, r.Damage())
		if r.Published() < want {
			t.Fatalf("transaction %d is published, and the reader has found %d", want, r.Published())
		}
	}
	must(t, <-done)
}
