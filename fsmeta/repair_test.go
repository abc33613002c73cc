package fsmeta_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// The tests of package fsck have every repair. Here are its promises beside Stores.

// Repair refuses a store that any process has open, in any way, and changes nothing.
func TestRepairInUse(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, dir string) (end func()){
		"here": func(t *testing.T, dir string) func() {
			s := useDamaged(t, dir)
			return func() { mustDo(t, s, "close") }
		},
		"here, read-only": func(t *testing.T, dir string) func() {
			s := useDamaged(t, dir, fsmeta.ReadOnly())
			return func() { mustDo(t, s, "close") }
		},
		"in another process": func(t *testing.T, dir string) func() {
			r := start(t)
			mustDo(t, r, "open "+dir)
			return r.kill
		},
		"in another process, read-only": func(t *testing.T, dir string) func() {
			r := start(t)
			mustDo(t, r, "open "+dir+" readonly")
			return r.kill
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, "put a", "put b")
			writeFile(t, metadataPath(dir, "a"), "")
			end := open(t, dir)
			before := fingerprint(t, dir)
			if findings, err := fsmeta.Repair(t.Context(), dir, nil); !errors.Is(err, fsmeta.ErrInUse) || len(findings) > 0 {
				t.Errorf("%v, %v", findings, err)
			}
			if fingerprint(t, dir) != before {
				t.Error("something has changed")
			}
			end()
			findings, err := fsmeta.Repair(t.Context(), dir, nil)
			if err != nil || len(findings) != 2 || findings[0].Name != "a" || findings[0].Repaired == "" || !findings[1].Harmless {
				t.Fatalf("once it is closed: %v, %v", findings, err)
			}
			if _, err := os.Stat(filepath.Join(findings[0].Aside, "metadata.json")); err != nil {
				t.Errorf("it is not where the finding says: %v", err)
			}
			mustSay(t, use(t, dir), "walk", "b")
		})
	}
}

// A store that was repaired hands out no identifier again: not of a snapshot that was set aside,
// and not one that the damaged journal may have had.
func TestRepairKeepsIdentifiers(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a")
	w := start(t)
	mustDo(t, w, "open "+dir, "put b")
	ids := []string{mustDo(t, w, "id a"), mustDo(t, w, "id b"), mustDo(t, w, "put c")}
	w.kill()
	path := filepath.Join(dir, "journal")
	flip(t, path, slices.Index([]byte(readFile(t, path)), '\n')+20)
	writeFile(t, metadataPath(dir, "a"), "")
	s := useDamaged(t, dir)
	mustFail(t, s, "put d", fsmeta.ErrDamaged)
	mustDo(t, s, "close")
	repair(t, dir)
	if aside, err := fsmeta.SetAside(dir); !errors.Is(err, fsmeta.ErrDamaged) {
		t.Errorf("set aside are %q, %v: the identifier in an empty file can't be told", aside, err)
	}
	s = use(t, dir)
	mustSay(t, s, "walk", "b c")
	if id := mustDo(t, s, "put d"); slices.Contains(ids, id) {
		t.Errorf("identifier %s is handed out again", id)
	}
}

// An older journal in the place of the store's own does not say which identifiers were handed
// out. After a repair none is handed out again, not of a snapshot that was removed either.
func TestRepairOlderJournal(t *testing.T) {
	dir := newDir(t)
	path := filepath.Join(dir, "journal")
	build(t, dir, "put first")
	old := readFile(t, path)
	s := useDamaged(t, dir)
	used := []string{mustDo(t, s, "put second"), mustDo(t, s, "put third")}
	mustDo(t, s, "remove third", "close")
	writeFile(t, path, old)
	wantFinding(t, dir, "is not below")
	repair(t, dir, fsmeta.AcceptTree())
	s = use(t, dir)
	mustSay(t, s, "walk", "first second")
	if id := mustDo(t, s, "put fourth"); slices.Contains(used, id) {
		t.Errorf("identifier %s is handed out again", id)
	}
}
