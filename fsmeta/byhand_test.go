package fsmeta_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// To edit metadata.json, a person deletes the checksum. The file decides, also about the
// parent; the link is the person's to mend.
func TestEditedByHand(t *testing.T) {
	dir, _ := victimStore(t)
	entry := func(name string) string { return filepath.Join(dir, "snapshots", name) }
	byMember("labels", map[string]string{"by": "hand"})(t, entry("mid"))
	byMember("parent", "spare")(t, entry("work"))
	byMember("parent", nil)(t, entry("top"))
	byMember("usage", nil)(t, entry("lone"))

	s := openOnly(t, dir)
	equal(t, "labels", must(s.Stat(bg, "mid")).Labels, map[string]string{"by": "hand"})
	const edited = "base; *lone; mid < base; other; spare; top; *work < spare"
	s.want(bg, edited)
	s.agree(bg)
	s.removable(map[string]error{"spare": fsmeta.ErrHasChildren, "mid": nil, "top": nil})
	for _, name := range []string{"work", "top"} {
		equal(t, "findings about the link of "+name, len(findingsAt(t, dir, filepath.Join(entry(name), "parent"))), 1)
	}
	nilError(t, s.Close())

	nilError(t, os.Remove(filepath.Join(entry("top"), "parent")))
	byLink("../spare")(t, entry("work"))
	s = openStore(t, dir)
	s.want(bg, edited)
	s.write(func(ctx context.Context) {
		must(s.Update(ctx, fsmeta.Info{Name: "mid", Labels: map[string]string{"by": "us"}}, "labels.by"))
		must(s.Remove(ctx, "work"))
		must(s.Remove(ctx, "spare"))
	})
	equal(t, "labels", must(s.Stat(bg, "mid")).Labels, map[string]string{"by": "us"})
}

// Two snapshots with one identifier have one content, and the content of one of them is in no
// snapshot. Neither is deleted.
func TestIdentifierTwice(t *testing.T) {
	for _, pair := range [][2]string{{"lone", "work"}, {"other", "spare"}, {"lone", "spare"}, {"work", "other"}} {
		edited, twin := pair[0], pair[1]
		t.Run(edited+" "+twin, func(t *testing.T) {
			dir, _ := victimStore(t)
			s := openOnly(t, dir)
			lost, id := must(s.Stat(bg, edited)).ID, must(s.Stat(bg, twin)).ID
			nilError(t, s.Close())
			byMember("id", id)(t, filepath.Join(dir, "snapshots", edited))

			wantShared := func(err error) {
				t.Helper()
				wantError(t, err, fsmeta.ErrDamaged, edited, twin, "'Two snapshots with one identifier' in docs/repair.md")
			}
			s = openOnly(t, dir)
			orphans, err := s.Orphans(bg, []string{lost, id})
			wantShared(err)
			equal(t, "orphans", orphans, nil)
			names, err := s.IDs(bg)
			wantShared(err)
			equal(t, "identifiers", len(names), 6)
			before := must(s.walk(bg))
			for range 2 {
				for _, name := range pair {
					s.write(func(ctx context.Context) {
						err := drop(s.Remove(ctx, name))
						wantShared(err)
						wantDamaged(t, err, name, filepath.Join(dir, "snapshots", name, "metadata.json"))
						must(s.Stat(ctx, name))
					})
				}
			}
			equal(t, "snapshots", must(s.walk(bg)), before)
			if must(s.Stat(bg, edited)).Kind == fsmeta.KindActive { // one that is renamed is found under its new name
				s.write(func(ctx context.Context) { must(s.Commit(ctx, edited, "renamed")) })
				s.write(func(ctx context.Context) {
					wantError(t, drop(s.Remove(ctx, "renamed")), fsmeta.ErrDamaged, "renamed", twin)
					wantError(t, drop(s.Remove(ctx, twin)), fsmeta.ErrDamaged, "renamed", twin)
				})
			}
			s.write(func(ctx context.Context) { // others can be removed
				must(s.CreateActive(ctx, "new", "", false))
				must(s.Remove(ctx, "new"))
			})
		})
	}
}

// A parent that is not committed, or that leads back, is an edit too: calls that follow the
// parents fail, all others go on.
func TestParentsEditedByHand(t *testing.T) {
	for _, test := range []struct {
		name, parent string
		listed       string
		damaged      string // the snapshot that GetActive names
	}{
		{"itself", "mid", withoutMid, "mid"},
		{"a circle", "top", strings.Replace(victim, "mid < base", "mid < top", 1), ""},
		{"active", "lone", strings.Replace(victim, "mid < base", "mid < lone", 1), "lone"},
		{"missing", "absent", withoutMid, "mid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, _ := victimStore(t)
			entry := filepath.Join(dir, "snapshots", "mid")
			byMember("parent", test.parent)(t, entry)
			s := openOnly(t, dir)
			err := drop(s.GetActive(bg, "work"))
			wantError(t, err, fsmeta.ErrDamaged)
			if test.damaged != "" {
				wantDamaged(t, err, test.damaged, filepath.Join(dir, "snapshots", test.damaged))
			}
			must(s.Stat(bg, "top"))
			got, err := s.list(bg)
			equal(t, "listed", got, test.listed)
			equal(t, "whether listing fails", err != nil, test.listed == withoutMid)
			s.build("new < other")
			if len(findingsAt(t, dir, entry)) == 0 {
				t.Error("a check does not find it")
			}
		})
	}
}

// A store that may have been used does not count as unused.
func TestUnusedDamaged(t *testing.T) {
	s := openOnly(t, filepath.Join(t.TempDir(), "store"))
	s.build("a")
	nilError(t, s.Close())
	path := filepath.Join(s.dir, "journal")
	data := must(os.ReadFile(path))
	data[40] ^= 1
	overwrite(t, path, string(data))
	damaged := openOnly(t, s.dir)
	equal(t, "unused", must(damaged.Unused(bg)), false)
	wantError(t, damaged.Import(bg, importable(), 1, nil), fsmeta.ErrDamaged, path)
}

// A person may write a journal anew: a header without a checksum, and without the members
// that a person can't know. The next writer counts the snapshots and writes the rest.
func TestJournalWrittenByHand(t *testing.T) {
	s := openOnly(t, filepath.Join(t.TempDir(), "store"))
	s.build("a; *b < a")
	nilError(t, s.Close())
	header := `{"format":"fsmeta journal","version":2,"txn":9,"nextID":9}` + "\n"
	overwrite(t, filepath.Join(s.dir, "journal"), header)
	readonly := openOnly(t, s.dir, fsmeta.ReadOnly())
	readonly.want(bg, "a; *b < a")
	readonly.agree(bg)

	byHand := openStore(t, s.dir)
	equal(t, "unused", must(byHand.Unused(bg)), false)
	wantError(t, byHand.Import(bg, importable(), 1, nil), fsmeta.ErrUsed)
	byHand.write(func(ctx context.Context) {
		equal(t, "identifier", must(byHand.CreateActive(ctx, "c", "a", false)).ID, "9")
	})
	readonly.want(bg, "a; *b < a; *c < a")
	var written struct {
		Txn    int
		Count  int
		Names  string
		CRC32C string
	}
	nilError(t, json.Unmarshal(journalLines(t, s.dir)[0], &written))
	equal(t, "txn", written.Txn, 9)
	equal(t, "count", written.Count, 2)
	if len(written.Names) != 16 || len(written.CRC32C) != 8 {
		t.Errorf("the header that the writer made: %+v", written)
	}
}

// A nextID that a person has written too low gives no identifier to a second snapshot.
func TestHeaderByHandReusesNoIdentifier(t *testing.T) {
	for _, next := range []string{"1", "2", "300"} {
		dir := newDir(t)
		build(t, dir, "put a", "put b", "put c", "remove c")
		writeFile(t, filepath.Join(dir, "journal"), `{"format":"fsmeta journal","version":2,"txn":9,"nextID":`+next+"}\n")
		a := use(t, dir)
		ids := map[string]bool{mustDo(t, a, "id a"): true, mustDo(t, a, "id b"): true}
		mustDo(t, a, "put d")
		if id := mustDo(t, a, "id d"); ids[id] {
			t.Errorf("nextID %s: %s has two snapshots", next, id)
		}
		mustDo(t, a, "close")
		wantClean(t, dir)
	}
}
