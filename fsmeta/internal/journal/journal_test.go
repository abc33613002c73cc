package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// store is a directory with a staging/ and, once made, a journal.
type store struct{ dir, path string }

func newStore(t testing.TB) store {
	t.Helper()
	// Not for speed alone: tmpfs keeps a file that a test cuts and overwrites coherent anywhere.
	dir, err := os.MkdirTemp("/dev/shm", "fsmeta-journal-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Mkdir(filepath.Join(dir, "staging"), 0o700))
	return store{dir, filepath.Join(dir, "journal")}
}

// put makes a successor of old, or a first journal, and puts it in its place.
func (s store) put(t testing.TB, old *File, h format.Header, carry *format.Txn, size int) *File {
	t.Helper()
	n, err := Prepare(s.path, filepath.Join(s.dir, "staging"), size, disk.Owner{})
	must(t, err)
	f, err := n.Write(old, h, carry, false)
	must(t, err)
	if old != nil {
		must(t, old.Supersede())
	}
	must(t, n.Replace())
	must(t, f.Place())
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func (s store) open(t testing.TB, writable bool) *File {
	t.Helper()
	f, err := Open(s.path, writable)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// first is the header of the journals here: txn is not 0, so that no test passes for that.
var first = format.Header{Txn: 10, NextID: 5, Prev: 0xabcdef01, Names: format.Names{Count: 3, Sum: 99}}

// nasty are labels that read like the end of a line as far as labels can.
var nasty = []format.Label{
	{Key: `,"prev":"01234567","crc32c":"01234567"}`, Value: `,"prev":"01234567","crc32c":"01234567"}`},
	{Key: "arev", Value: "01234567"},
	{Key: "crc32c", Value: "01234567"},
	{Key: "prev", Value: "abcdef01"},
	{Key: "zrc32c", Value: "01234567"},
}

// txn is a transaction that makes a snapshot.
func txn(f *File, labels ...format.Label) *format.Txn {
	number := f.Tip() + 1
	at := time.Date(2026, 11, 22, 23, 51, 6, 90462040, time.UTC)
	s := &format.Snapshot{ID: fmt.Sprint(number), Name: fmt.Sprintf("key-%d", number), Kind: format.Active, Labels: labels, Created: at, Updated: at, Txn: number}
	t := &format.Txn{Number: number, Time: at, NextID: number + 300, Synced: f.Published(), Changes: []format.Change{{Name: s.Name, After: s}}}
	t.Names = f.NamesAt(f.Tip()).After(t.Changes)
	return t
}

// write appends n lines that are synced and published.
func write(t testing.TB, f *File, n int) {
	t.Helper()
	for range n {
		must(t, f.Append(txn(f)))
	}
	must(t, f.Sync())
	must(t, f.Publish(f.Tip()))
}

func content(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

func TestOpenRefuses(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"missing":   func(string) error { return nil },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"symlink":   func(path string) error { return os.Symlink("/dev/null", path) },
		"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"empty":     func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"NUL":       func(path string) error { return os.WriteFile(path, []byte("\x00{}\n"), 0o600) },
		"newline":   func(path string) error { return os.WriteFile(path, []byte("\n{}\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			must(t, make(s.path))
			_, err := Open(s.path, false)
			if d := fault.DamageOf(err); d == nil || d.Path != s.path {
				t.Errorf("got %v, want damage of %s", err, s.path)
			}
		})
	}
}

func TestHeader(t *testing.T) {
	const person = `{"format":"fsmeta journal","version":2,"nextID":7}`
	sealed := string(format.EncodeHeader(format.Header{Txn: 4, NextID: 7, Filled: 500}))
	for _, c := range []struct {
		content, damage string
		placed          bool
	}{
		{person + "\n", "", true},
		{person, "", false},
		{person + "\x00", "", false},
		{sealed + "\n" + strings.Repeat("\x00", 500-1-len(sealed)), "", true},
		{sealed + "\x00" + strings.Repeat("\x00", 500), "", false},
		{sealed + "\n" + strings.Repeat("\x00", 500-2-len(sealed)), "cut off: it has 499 bytes, and the header says that it had 500", true},
		{sealed, "cut off", false},
		{strings.Replace(sealed, `"txn":4`, `"txn":5`, 1) + "\n", "checksum", true},
		{`{"format":"fsmeta journal","version":1,"nextID":7}` + "\n", "version", true},
		{`{"format":"fsmeta journal","version":2,"txn":18446744073709551615,"nextID":7}` + "\n", "txn", true},
		{`{"format":"fsmeta journal","version":2,"txn":0,"nextID":18446744073709551615}` + "\n", "nextID", true},
		{"garbage", "header", false},
		{strings.Repeat("x", 2*maxHeader), "header", false},
	} {
		s := newStore(t)
		must(t, os.WriteFile(s.path, []byte(c.content), 0o600))
		f := s.open(t, true)
		if placed, err := f.Placed(); placed != c.placed || err != nil {
			t.Errorf("%.80q: placed %v, %v, want %v", c.content, placed, err, c.placed)
		}
		if _, err := f.Scan(true); err != nil {
			t.Errorf("%.80q: %v", c.content, err)
		}
		err := f.Damage()
		if c.damage == "" && err != nil || c.damage != "" && (err == nil || !strings.Contains(err.Error(), c.damage)) {
			t.Errorf("%.80q: damage %v, want one with %q", c.content, err, c.damage)
		}
		if c.damage != "" {
			wantError(t, err, fault.ErrDamaged)
			wantError(t, f.Append(txn(f)), fault.ErrDamaged)
		}
	}
}

func TestKnown(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	r := s.open(t, false)
	if w.Tip() != 10 || r.Tip() != 10 || w.NextID() != 5 || w.NamesAt(10).Count != 3 || w.NamesAt(11).Known {
		t.Error("a new journal is not as its header says")
	}
	write(t, w, 3)
	tail, err := r.Scan(false)
	must(t, err)
	if len(tail.Fresh) != 3 || tail.Fresh[2].Txn != 13 || !tail.Fresh[2].Newline {
		t.Errorf("the reader has found %+v", tail)
	}
	for name, f := range map[string]*File{"writer": w, "reader": r} {
		if f.Tip() != 13 || f.Published() != 13 || f.NextID() != 313 || f.NamesAt(12).Count != 5 || f.NamesAt(14).Known {
			t.Errorf("%s: tip %d, published %d, nextID %d, names %+v", name, f.Tip(), f.Published(), f.NextID(), f.NamesAt(12))
		}
		names, err := f.Names(11, 13)
		if must(t, err); fmt.Sprint(names) != "[key-12 key-13]" {
			t.Errorf("%s: names %v", name, names)
		}
		if names, err := f.Names(9, 11); err == nil {
			t.Errorf("%s: names %v of lines from before its header", name, names)
		}
	}
	if w.Foreign() || !r.Foreign() {
		t.Errorf("foreign: writer %v, reader %v", w.Foreign(), r.Foreign())
	}
	if size := w.Size(); size != r.Size() || content(t, s.path)[size] != '\n' || content(t, s.path)[size+1] != 0 {
		t.Errorf("size %d of the writer, %d of the reader", w.Size(), r.Size())
	}
	if in, err := r.InPlace(); !in || err != nil {
		t.Error("not in place", err)
	}
	must(t, os.Remove(s.path))
	if in, err := r.InPlace(); in || err != nil {
		t.Error("in place", err)
	}
}

// What this process has written is not read for its names; what has changed is damage.
func TestChangedLine(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	write(t, w, 2)
	r := s.open(t, false)
	_, err := r.Scan(false)
	must(t, err)
	data := content(t, s.path)
	data[w.Size()-100] ^= 1
	must(t, os.WriteFile(s.path, data, 0o600))
	if _, err := w.Names(10, 12); err != nil {
		t.Errorf("Names of the writer: %v", err)
	}
	_, err = r.Names(10, 12)
	wantError(t, err, fault.ErrDamaged)
	wantError(t, r.Damage(), fault.ErrDamaged)
	if !strings.Contains(err.Error(), "transaction 12 is damaged") {
		t.Error(err)
	}
}

func TestQuiet(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	r := s.open(t, false)
	quiet := func(want bool) {
		t.Helper()
		for range 2 {
			if got, err := r.Quiet(); got != want || err != nil {
				t.Errorf("quiet: %v, %v, want %v", got, err, want)
			}
		}
	}
	scan := func() Tail {
		t.Helper()
		tail, err := r.Scan(false)
		must(t, err)
		must(t, r.Damage())
		return tail
	}
	quiet(true)
	must(t, w.Append(txn(w)))
	must(t, w.Append(txn(w)))
	quiet(false)
	if tail := scan(); len(tail.Fresh) != 2 || r.Tip() != 12 || r.Published() != 10 {
		t.Errorf("found %+v, tip %d, published %d", tail, r.Tip(), r.Published())
	}
	quiet(true)
	must(t, w.Publish(11))
	quiet(false)
	if tail := scan(); len(tail.Fresh) != 0 || r.Published() != 11 {
		t.Errorf("found %+v, published %d", tail, r.Published())
	}
	quiet(true)
	must(t, w.Append(txn(w)))
	quiet(false)
	scan()
	quiet(true)
	must(t, w.Publish(13))
	quiet(false)
	scan()
	quiet(true)
	must(t, w.Supersede())
	quiet(false)
	if tail := scan(); !tail.Superseded || tail.Torn {
		t.Errorf("found %+v", tail)
	}
	must(t, os.Truncate(s.path, w.Size()+1))
	quiet(false)
	scanned, err := r.Scan(false)
	if must(t, err); scanned.Fresh != nil || r.Damage() == nil {
		t.Error("a cut file is not damaged")
	}
}
