package commit

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// A checkpoint carries lagging names over in one line, with the last images of the lines that it
// drops. The next checkpoint carries them on, until they can be brought up.
func TestCarryOver(t *testing.T) {
	h := newStore(t)
	h.mustWrite("+x", "+y", "+z")
	h.mustWrite("~z")
	check(t, h.inTurn(h.Fold))
	for _, name := range []string{"x", "z"} {
		path := filepath.Join(h.dir, format.SnapshotsDir, name)
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			t.Skip("nothing can be mounted: ", err)
		}
		defer func() { _ = unix.Unmount(path, unix.MNT_DETACH) }()
	}
	h.mustWrite("~x", "-z", "~y")
	h.mustWrite("~x")
	last := h.view.Tip()
	for n := range uint64(3) {
		check(t, h.inTurn(h.fold)) // Fold, but also where there is nothing to drop
		header, lines := h.lines()
		if header.Txn != last+n || len(lines) != 1 {
			t.Fatalf("header %+v, %d lines behind transaction %d", header, len(lines), last+n)
		}
		txn, err := lines[0].Decode()
		check(t, err)
		if !txn.CarriesOver() || len(txn.Changes) != 2 || txn.Changes[0].After.Usage.Size != 2 || txn.Changes[0].After.Txn != last || txn.Changes[1].After != nil {
			t.Errorf("carried over: %+v", txn)
		}
		if lines[0].Names != header.Names || lines[0].Names.Count != 2 {
			t.Errorf("names %+v, then %+v", header.Names, lines[0].Names)
		}
		h.want("x'' y'")
	}
	other := open(t, h.dir)
	other.mustWrite("+w")
	other.want("w x'' y'")
	for _, name := range []string{"x", "z"} {
		check(t, unix.Unmount(filepath.Join(h.dir, format.SnapshotsDir, name), 0))
	}
	check(t, other.inTurn(other.Fold))
	if header, lines := other.lines(); len(lines) > 0 || header.Names.Count != 3 {
		t.Errorf("header %+v, %d lines, when nothing lags", header, len(lines))
	}
	m, err := format.DecodeFile(h.file(format.SnapshotsDir, "x", format.MetadataFile))
	if err != nil || m.Usage.Size != 2 {
		t.Errorf("the tree has %+v, %v", m, err)
	}
	if _, err := os.Lstat(filepath.Join(h.dir, format.SnapshotsDir, "z")); !os.IsNotExist(err) {
		t.Errorf("of the removed name: %v", err)
	}
	h.want("w x'' y'")
}
