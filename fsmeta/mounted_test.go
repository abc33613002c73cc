//go:build linux

package fsmeta_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Another filesystem over snapshots/ hides a store; it is no store without snapshots. Nothing
// opens it, and no repair takes what is seen there for the truth.
func TestFilesystemOverSnapshots(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer base", "put x base")
	gone := mount(t, "none", filepath.Join(dir, "snapshots"), "tmpfs", 0, "")
	for _, opts := range [][]fsmeta.Option{nil, {fsmeta.ReadOnly()}, {fsmeta.MustExist()}} {
		s, err := fsmeta.Open(dir, opts...)
		if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), "unmount") {
			t.Errorf("open: %v, want that it is damaged, and to unmount", err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	wantFinding(t, dir, "another filesystem is mounted on it")
	for _, opts := range [][]fsmeta.RepairOption{nil, {fsmeta.AcceptTree()}} {
		if _, err := fsmeta.Repair(t.Context(), dir, nil, opts...); err == nil || !strings.Contains(err.Error(), "unmount") {
			t.Errorf("repair: %v, want to unmount", err)
		}
	}
	gone()
	mustSay(t, use(t, dir), "walk", "base x")
}

// Check compares the tree with the journal also beside a process that writes all the time.
func TestCheckBesideABusyWriter(t *testing.T) {
	dir := newDir(t)
	w := start(t)
	mustDo(t, w, "open "+dir, "put x")
	_, stop := repeatedly(t, w, "label x 1")
	for range 5 {
		findings, err := fsmeta.Check(t.Context(), dir, nil)
		if err != nil || len(findings) > 0 {
			t.Errorf("check beside a writer: %v, %v", findings, err)
		}
	}
	stop()
}
