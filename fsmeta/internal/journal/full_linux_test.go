package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// full makes a store on a filesystem of its own with so many bytes.
func full(t *testing.T, bytes string) (s store, eat func(all bool)) {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes); err != nil {
		t.Skipf("mounting a small filesystem: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	must(t, os.Mkdir(filepath.Join(dir, "staging"), 0o700))
	return store{dir, filepath.Join(dir, "journal")}, func(all bool) {
		ballast := filepath.Join(dir, "ballast")
		if !all {
			must(t, os.Remove(ballast))
			return
		}
		file, err := os.Create(ballast)
		must(t, err)
		for err == nil {
			_, err = file.Write(zeros[:4096])
		}
		wantError(t, err, syscall.ENOSPC)
		must(t, file.Close())
	}
}

// Without room for a chunk the file grows by what the line needs. Without room for that nothing
// is written, and everything goes on when there is room again.
func TestAppendOnFullDisk(t *testing.T) {
	s, eat := full(t, "64k")
	reserve := filepath.Join(s.dir, "reserve")
	must(t, os.WriteFile(reserve, make([]byte, 20<<10), 0o600))
	w := s.put(t, nil, first, nil, 0)
	write(t, w, 3)
	if length := size(t, s.path); length > 44<<10 {
		t.Fatalf("the file has %d bytes", length)
	}
	eat(true)
	tip, before := w.Tip(), bytes.TrimRight(content(t, s.path), "\x00")
	var err error
	for range 200 {
		if err = w.Append(txn(w)); err != nil {
			break
		}
		must(t, w.Sync())
		must(t, w.Publish(w.Tip()))
		tip, before = w.Tip(), bytes.TrimRight(content(t, s.path), "\x00")
	}
	if !fault.NoRoom(err) || errors.Is(err, ErrDirty) || errors.Is(err, fault.ErrSync) {
		t.Fatal(err)
	}
	if w.Tip() != tip || !bytes.Equal(bytes.TrimRight(content(t, s.path), "\x00"), before) {
		t.Error("something was written")
	}
	must(t, w.Supersede()) // has its room
	must(t, w.Restore())
	must(t, os.Remove(reserve))
	write(t, w, 1)
	if v := scanOf(t, s.path); v.lines != int(tip-10)+1 || v.torn || v.damage != "" {
		t.Error(v)
	}
}

// A successor is as long as the lines in it say, even where there is no room for its NUL bytes.
func TestNextOnFullDisk(t *testing.T) {
	s, eat := full(t, "512k")
	w := s.put(t, nil, first, nil, 0)
	write(t, w, 2)
	long := txn(w)
	long.Changes[0].After.Labels = []format.Label{{Key: "long", Value: string(bytes.Repeat([]byte("x"), 150<<10))}}
	must(t, w.Append(long))
	write(t, w, 1)
	eat(true)
	if _, err := Prepare(s.path, filepath.Join(s.dir, "staging"), 256<<10, disk.Owner{}); !fault.NoRoom(err) {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(filepath.Join(s.dir, "staging")); err != nil || len(names) > 0 {
		t.Fatal(names, err)
	}
	// Removing the ballast makes room for the content, not for the NUL bytes behind it.
	eat(false)
	must(t, os.WriteFile(filepath.Join(s.dir, "half"), make([]byte, 190<<10), 0o600))
	n, err := Prepare(s.path, filepath.Join(s.dir, "staging"), 0, disk.Owner{})
	must(t, err)
	f, err := n.Write(w, format.Header{Txn: 13, NextID: 400}, nil, false)
	must(t, err)
	must(t, n.Replace())
	defer f.Close() //nolint:errcheck // the filesystem goes away
	if length := size(t, s.path); length < w.filled {
		t.Errorf("the file has %d bytes, less than the %d of its line", length, w.filled)
	}
	if v := scanOf(t, s.path); v != (verdict{lines: 1, published: 1}) {
		t.Error(v)
	}
	// Its lines stand in a hole. What finds no room there leaves nothing, and the mark has room.
	before := content(t, s.path)
	long = txn(f)
	long.Changes[0].After.Labels = []format.Label{{Key: "long", Value: string(bytes.Repeat([]byte("x"), 100<<10))}}
	if err := f.Append(long); !fault.NoRoom(err) || errors.Is(err, ErrDirty) {
		t.Fatal(err)
	}
	if f.filled < int64(100<<10)+f.Size() || !bytes.Equal(before, content(t, s.path)) {
		t.Error("a part of the line was left, or the file had to grow")
	}
	for err = nil; err == nil; {
		err = f.Append(txn(f))
	}
	if !fault.NoRoom(err) || errors.Is(err, ErrDirty) {
		t.Fatal(err)
	}
	must(t, f.Supersede())
	if v := scanOf(t, s.path); !v.superseded || v.lines != int(f.Tip()-13) || v.damage != "" {
		t.Error(v)
	}
}
