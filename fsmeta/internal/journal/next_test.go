package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

func TestSuccessor(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	write(t, w, 3)
	must(t, w.Append(txn(w))) // not published, and so in the next
	r := s.open(t, false)
	_, err := r.Scan(true)
	must(t, err)
	old := content(t, s.path)
	carry := &format.Txn{Number: 15, NextID: 900, Synced: 14}
	next := s.put(t, w, format.Header{Txn: 12, NextID: 900, Names: format.Names{Count: 77}}, carry, ClosedFill)
	if next.Tip() != 15 || next.Published() != 15 || next.Foreign() || next.NamesAt(15) != w.NamesAt(14) || next.NamesAt(12) != w.NamesAt(12) {
		t.Errorf("tip %d, published %d, foreign %v, names %+v", next.Tip(), next.Published(), next.Foreign(), next.NamesAt(15))
	}
	if names, err := next.Names(12, 15); err != nil || len(names) != 2 {
		t.Error(names, err)
	}
	data := content(t, s.path)
	lines := old[w.nextLocked(12):w.nextLocked(14)]
	lines[len(lines)-1] = '\n'
	if !bytes.Contains(data, lines) {
		t.Error("the lines are not as they were")
	}
	f := s.open(t, false)
	tail, err := f.Scan(true)
	must(t, err)
	if must(t, f.Damage()); f.Tip() != 15 || f.Published() != 15 || tail.Torn || tail.Superseded || f.NextID() != 900 {
		t.Errorf("tip %d, published %d, %+v", f.Tip(), f.Published(), tail)
	}
	if h := f.Header(); h.Txn != 12 || h.Prev != w.crc(12) || h.Names != w.NamesAt(12) || h.Boot != bootID() || h.Filled != uint64(size(t, s.path)) {
		t.Errorf("header %+v", h)
	}
	write(t, next, 1)
	// The reader of the old file finds the mark, and goes on in the new one.
	if tail, err := r.Scan(false); err != nil || !tail.Superseded || r.Damage() != nil {
		t.Error(tail, err, r.Damage())
	}
	if in, err := r.InPlace(); in || err != nil {
		t.Error(in, err)
	}
	if !f.Continues(r) || !f.Continues(w) || r.Continues(f) || !f.Continues(f) {
		t.Error("which file continues which is wrong")
	}
	other := newStore(t).put(t, nil, format.Header{Txn: 12, NextID: 1, Prev: 1}, nil, 0)
	if other.Continues(r) {
		t.Error("another store's file continues this one")
	}
}

func TestSuccessorOfPerson(t *testing.T) {
	s := newStore(t)
	must(t, os.WriteFile(s.path, []byte(`{"format":"fsmeta journal","version":2,"txn":8,"nextID":7,"prev":"00000abc"}`+"\n"), 0o600))
	w := s.open(t, true)
	if quiet, err := w.Quiet(); !quiet || err != nil || w.Header().Names.Known {
		t.Error(quiet, err)
	}
	f := s.put(t, w, format.Header{Txn: 8, NextID: 7, Names: format.Names{Count: 77}}, nil, 0)
	if v := scanOf(t, s.path); v.damage != "" || v.torn {
		t.Error(v)
	}
	if h := f.Header(); !h.Sealed || h.Prev != 0xabc || h.Names.Count != 77 || !h.Names.Known {
		t.Errorf("header %+v", h)
	}
}

// The mark says that the tree is not to be trusted: a new file with unpublished lines keeps it.
func TestSuccessorWithMark(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	must(t, w.Append(txn(w)))
	n, err := Prepare(s.path, filepath.Join(s.dir, "staging"), ClosedFill, disk.Owner{})
	must(t, err)
	must(t, n.Sync())
	f, err := n.Write(w, first, nil, true)
	must(t, err)
	must(t, n.Replace())
	wantError(t, f.Append(txn(f)), ErrDirty)
	must(t, f.Supersede())
	if v := scanOf(t, s.path); v != (verdict{lines: 1, published: 1, superseded: true}) {
		t.Error(v)
	}
	if placed, err := s.open(t, false).Placed(); placed || err != nil {
		t.Error(placed, err)
	}
	must(t, f.Close())
}

func TestWriteRefuses(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	write(t, w, 2)
	for name, c := range map[string]struct {
		txn   uint64
		carry *format.Txn
	}{
		"before the header": {9, nil},
		"behind the tip":    {13, nil},
		"gap":               {12, &format.Txn{Number: 14}},
	} {
		n, err := Prepare(s.path, filepath.Join(s.dir, "staging"), 0, disk.Owner{})
		must(t, err)
		if _, err := n.Write(w, format.Header{Txn: c.txn, NextID: 1}, c.carry, false); err == nil {
			t.Errorf("%s: no error", name)
		}
		must(t, n.Discard())
	}
	// A line with changed bytes does not get into the next file.
	n, err := Prepare(s.path, filepath.Join(s.dir, "staging"), 0, disk.Owner{})
	must(t, err)
	_, err = w.file.WriteAt([]byte("x"), w.Size()-100)
	must(t, err)
	_, err = n.Write(w, first, nil, false)
	wantError(t, err, fault.ErrDamaged)
	wantError(t, w.Damage(), fault.ErrDamaged)
	must(t, n.Discard())
	must(t, n.Discard())
	must(t, (*Next)(nil).Discard())
	if names, err := os.ReadDir(filepath.Join(s.dir, "staging")); err != nil || len(names) > 0 {
		t.Error(names, err)
	}
}

func TestPrepareOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs to be root to hand a file over")
	}
	s := newStore(t)
	n, err := Prepare(s.path, filepath.Join(s.dir, "staging"), 300<<10, disk.Owner{UID: 1234, GID: 5678, Hand: true})
	must(t, err)
	f, err := n.Write(nil, first, nil, false)
	must(t, err)
	must(t, n.Replace())
	must(t, f.Close())
	info, err := os.Stat(s.path)
	must(t, err)
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 1234 || stat.Gid != 5678 || info.Mode().Perm() != 0o600 || info.Size() != 300<<10 {
		t.Errorf("user %d, group %d, %v, %d bytes", stat.Uid, stat.Gid, info.Mode(), info.Size())
	}
}
