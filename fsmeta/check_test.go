package fsmeta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
)

// wanted is what a Finding must be.
type wanted struct {
	path     string // below the store's directory
	harmless bool
	problem  string // a part of it
}

// tamper is a store that a test tampers with by hand.
type tamper struct {
	t   *testing.T
	dir string
}

func (s *tamper) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// at returns the path of a part of the store.
func (s *tamper) at(path string) string { return filepath.Join(s.dir, path) }

// of returns the path of a part of a snapshot.
func (s *tamper) of(name, file string) string {
	return filepath.Join(s.dir, snapshotsDir, encodeName(name), file)
}

func (s *tamper) put(path, text string) {
	s.t.Helper()
	s.check(os.WriteFile(s.at(path), []byte(text), fileMode))
}

func (s *tamper) read(path string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.at(path))
	s.check(err)
	return string(data)
}

func (s *tamper) remove(path string) {
	s.t.Helper()
	s.check(os.RemoveAll(s.at(path)))
}

// swap exchanges two parts.
func (s *tamper) swap(a, b string) {
	s.t.Helper()
	s.check(atomicfs.Exchange(s.at(a), s.at(b)))
}

// set writes a snapshot's directory, with a checksum that is right.
func (s *tamper) set(m metadata) {
	s.t.Helper()
	dir := s.of(m.name, "")
	s.check(os.RemoveAll(dir))
	s.check(os.MkdirAll(dir, dirMode))
	s.check(os.WriteFile(dir+"/"+metadataFile, m.encodeFile(), fileMode))
	if m.parent != "" {
		s.check(os.Symlink(linkTarget(m.parent), dir+"/"+parentLink))
	}
}

// edit changes what a snapshot's directory says, with a checksum that is right.
func (s *tamper) edit(name string, change func(*metadata)) {
	s.t.Helper()
	m, err := newTree(s.dir).read(name)
	s.check(err)
	changed := *m
	change(&changed)
	s.set(changed)
}

// onto puts a snapshot onto another parent.
func (s *tamper) onto(name, parent string) {
	s.t.Helper()
	s.edit(name, func(m *metadata) { m.parent = parent })
}

// replaceIn replaces text in a file, which must be there.
func (s *tamper) replaceIn(path, old, text string) {
	s.t.Helper()
	data := s.read(path)
	if !strings.Contains(data, old) {
		s.t.Fatalf("%s does not have %q", path, old)
	}
	s.put(path, strings.Replace(data, old, text, 1))
}

// append writes behind the last line of the journal.
func (s *tamper) append(text string) {
	s.t.Helper()
	lines := strings.TrimRight(s.read(journalFile), "\x00")
	s.put(journalFile, lines+text+"\x00\x00\x00\x00")
}

var (
	meta    = func(name string) string { return filepath.Join(snapshotsDir, encodeName(name), metadataFile) }
	link    = func(name string) string { return filepath.Join(snapshotsDir, encodeName(name), parentLink) }
	dirOf   = func(name string) string { return filepath.Join(snapshotsDir, encodeName(name)) }
	crcLine = func(text string) string {
		_, rest, _ := strings.Cut(text, "\n")
		return rest[:strings.IndexByte(rest, '\n')+1]
	}
	unsigned = func(s *tamper, name string) { s.replaceIn(meta(name), crcLine(s.read(meta(name))), "") }
)

// checkTable is every kind of finding. The store is that of newSpecimen.
var checkTable = []struct {
	name   string
	killed bool
	tamper func(s *tamper)
	want   []wanted
}{
	{"set aside", false, func(s *tamper) {
		s.check(os.MkdirAll(s.at("damaged/20261125T000000.000000000Z/snapshots/a"), dirMode))
		s.check(os.MkdirAll(s.at("damaged/20261126T000000.000000000Z/staging"), dirMode))
		s.put("damaged/notes", "")
	}, []wanted{{"damaged", true, "1 of snapshots/"}}},
	{"nothing set aside", false, func(s *tamper) { s.check(os.Mkdir(s.at("damaged"), dirMode)) }, nil},
	{"a backup in the store", false, func(s *tamper) {
		s.check(os.Mkdir(s.at("copy"), dirMode))
		s.put("copy/layout", layoutContent)
	}, []wanted{{"copy", true, "a store in the store"}}},
	{"circle of one", false, func(s *tamper) { s.onto("base", "base") },
		[]wanted{{link("base"), false, "lead back"}}},
	{"circle of two", false, func(s *tamper) { s.onto("base", longDamageName) },
		[]wanted{{link("base"), false, "lead back"}, {link(longDamageName), false, "lead back"}}},
	{"circle of three", false, func(s *tamper) { s.onto("base", "top") },
		[]wanted{{link("base"), false, "lead back"}, {link(longDamageName), false, "lead back"}, {link("top"), false, "lead back"}}},
	{"parent is active", false, func(s *tamper) { s.onto("view", "alone") },
		[]wanted{{link("view"), false, "not committed"}}},
	{"parent is missing", false, func(s *tamper) { s.remove(dirOf("base")) },
		[]wanted{{link(longDamageName), false, `"base" is missing`}, {link("view"), false, `"base" is missing`}}},
	{"parent with a hashed name is missing", false, func(s *tamper) { s.remove(dirOf(longDamageName)) },
		[]wanted{{link("top"), false, "can't be known"}}},
	{"parent of a name that the journal decides is missing", true, func(s *tamper) { s.remove(dirOf("base")) },
		[]wanted{{link(longDamageName), false, `"base" is missing`}, {link("view"), false, `"base" is missing`}}},
	{"parent leads out of the store", false, func(s *tamper) {
		s.remove(link("view"))
		s.check(os.Symlink("../../../etc", s.at(link("view"))))
	}, []wanted{{link("view"), false, "no snapshot's directory"}}},
	{"parent is a file", false, func(s *tamper) {
		s.remove(link("view"))
		s.put(link("view"), "base")
	}, []wanted{{link("view"), false, "invalid argument"}}},
	{"two with one identifier", false, func(s *tamper) { s.edit("view", func(m *metadata) { m.id = "1" }) },
		[]wanted{{meta("view"), false, "same identifier, 1"}}},
	{"identifier that may be handed out", false, func(s *tamper) { s.edit("alone", func(m *metadata) { m.id = "5000" }) },
		[]wanted{{meta("alone"), false, "5000 is not below"}}},
	{"foreign file in snapshots", false, func(s *tamper) { s.put("snapshots/notes 2", "") },
		[]wanted{{"snapshots/notes 2", false, "no such name"}}},
	{"foreign directory in snapshots", false, func(s *tamper) { s.check(os.Mkdir(s.at("snapshots/.hidden"), dirMode)) },
		[]wanted{{"snapshots/.hidden", false, "no such name"}}},
	{"directory that could be a snapshot's", false, func(s *tamper) { s.check(os.Mkdir(s.at("snapshots/backup"), dirMode)) },
		[]wanted{{"snapshots/backup/metadata.json", false, "missing"}}},
	{"foreign file in a snapshot's directory", false, func(s *tamper) { s.put(dirOf("view")+"/notes", "") },
		[]wanted{{dirOf("view") + "/notes", true, "no part of the snapshot"}}},
	{"foreign file beside layout", false, func(s *tamper) { s.put("notes", "") },
		[]wanted{{"notes", true, "no part of the store"}}},
	{"what a repair has set aside", false, func(s *tamper) { s.check(os.MkdirAll(s.at("damaged/2026/snapshots/x"), dirMode)) }, nil},
	{"lost+found", false, func(s *tamper) { s.check(os.Mkdir(s.at("lost+found"), dirMode)) }, nil},
	{"leftovers in staging", false, func(s *tamper) { s.check(os.Mkdir(s.at("staging/0123abcd-1"), dirMode)) },
		[]wanted{{"staging", true, "1 directories and files are left"}}},
	{"staging is missing", false, func(s *tamper) { s.remove("staging") },
		[]wanted{{"staging", true, "missing"}}},
	{"staging is a file", false, func(s *tamper) { s.remove("staging"); s.put("staging", "") },
		[]wanted{{"staging", false, "not a directory"}}},
	{"staging is a symlink", false, func(s *tamper) { s.remove("staging"); s.check(os.Symlink(s.t.TempDir(), s.at("staging"))) },
		[]wanted{{"staging", false, "not a directory"}}},
	{"snapshots is missing", false, func(s *tamper) { s.remove("snapshots") },
		[]wanted{{"snapshots", false, "missing"}}},
	{"snapshots is a file", false, func(s *tamper) { s.remove("snapshots"); s.put("snapshots", "") },
		[]wanted{{"snapshots", false, "not a directory"}}},
	{"snapshots is a symlink", false, func(s *tamper) {
		s.check(os.Rename(s.at("snapshots"), s.at("lost+found")))
		s.check(os.Symlink("lost+found", s.at("snapshots")))
	}, []wanted{{"snapshots", false, "not a directory"}}},
	{"journal ends in a torn line", false, func(s *tamper) { s.append(`{"txn":`) },
		[]wanted{{"journal", true, "did not finish"}}},
	{"journal ends in a line that is not published", true, func(s *tamper) {
		s.put("journal", strings.TrimRight(s.read("journal"), "\n\x00")+"\x00\x00")
	}, []wanted{{"journal", true, "did not finish"}}},
	{"journal is cut right behind its last line", true, func(s *tamper) {
		s.put("journal", strings.TrimRight(s.read("journal"), "\n\x00"))
	}, []wanted{{"journal", true, "did not finish"}}},
	{"journal is cut behind a line that is published", true, func(s *tamper) {
		s.put("journal", strings.TrimRight(s.read("journal"), "\x00"))
	}, []wanted{{"journal", false, "cut off behind the line of transaction"}}},
	{"journal is cut behind its header", false, func(s *tamper) {
		s.put("journal", strings.TrimRight(s.read("journal"), "\x00"))
	}, []wanted{{"journal", false, "cut off behind the header"}}},
	{"header that a person wrote, and nothing behind it", false, func(s *tamper) {
		s.put("journal", `{"format":"fsmeta journal","version":1,"txn":99,"nextID":99}`+"\n")
	}, []wanted{{"journal", true, "did not finish"}}},
	{"header without its newline", false, func(s *tamper) { s.replaceIn("journal", "\n", "\x00") },
		[]wanted{{"journal", true, "did not finish"}}},
	{"journal is superseded without a successor", false, func(s *tamper) {
		h, ok := ownHeader([]byte(strings.TrimRight(s.read("journal"), "\n\x00")))
		if !ok {
			s.t.Fatal("no header")
		}
		s.append(string(encodeSuperseded(h.txn, h.prev)))
	}, []wanted{{"journal", true, "did not finish"}}},
	{"journal is damaged in the middle", true, func(s *tamper) { s.replaceIn("journal", `"synced":6`, `"synced":7`) },
		[]wanted{{"journal", false, "line of transaction"}}},
	{"last line of the journal is damaged", true, func(s *tamper) { s.replaceIn("journal", `"inodes":5`, `"inodes":7`) },
		[]wanted{{"journal", false, "line of transaction"}}},
	{"last line of the journal is lost", true, func(s *tamper) {
		text := strings.TrimRight(s.read("journal"), "\n\x00")
		s.put("journal", text[:strings.LastIndexByte(text, '\n')+1]+"\x00\x00")
	}, []wanted{{"journal", false, "transaction"}}},
	{"header is damaged", false, func(s *tamper) { s.replaceIn("journal", `"nextID":`, `"nextID":9`) },
		[]wanted{{"journal", false, "checksum does not match"}}},
	{"header of another version", false, func(s *tamper) {
		s.put("journal", `{"format":"fsmeta journal","version":2,"txn":9,"nextID":99}`+"\n\x00\x00")
	}, []wanted{{"journal", false, "version 2"}}},
	{"journal is missing", false, func(s *tamper) { s.remove("journal") },
		[]wanted{{"journal", false, "missing"}}},
	{"journal is empty", false, func(s *tamper) { s.put("journal", "") },
		[]wanted{{"journal", false, "nothing in it"}}},
	{"journal is a directory", false, func(s *tamper) { s.remove("journal"); s.check(os.Mkdir(s.at("journal"), dirMode)) },
		[]wanted{{"journal", false, "not a regular file"}}},
	{"journal is a symlink", false, func(s *tamper) {
		s.check(os.Rename(s.at("journal"), s.at("lost+found")))
		s.check(os.Symlink("lost+found", s.at("journal")))
	}, []wanted{{"journal", false, "not a regular file"}}},
	{"journal is missing, and so is a parent", false, func(s *tamper) { s.remove("journal"); s.remove(dirOf("base")) },
		[]wanted{{"journal", false, "missing"}, {link(longDamageName), false, `"base" is missing`}, {link("view"), false, `"base" is missing`}}},
	{"tree is behind the journal", true, func(s *tamper) { s.remove(dirOf("view")) },
		[]wanted{{dirOf("view"), true, "does not have what the journal says"}}},
	{"tree has what the journal says was removed", true, func(s *tamper) {
		s.set(metadata{id: "3", name: "gone", kind: KindActive, created: now(), updated: now(), txn: 1})
	}, []wanted{{dirOf("gone"), true, "does not have what the journal says"}}},
	{"tree is ahead of the journal", false, func(s *tamper) { s.edit("alone", func(m *metadata) { m.txn = 5000 }) },
		[]wanted{{"journal", false, "transaction 5000"}}},
	{"layout is missing", false, func(s *tamper) { s.remove("layout") },
		[]wanted{{"layout", false, "missing"}}},
	{"layout is garbage", false, func(s *tamper) { s.put("layout", "garbage") },
		[]wanted{{"layout", false, "not what a store has"}}},
	{"layout is empty", false, func(s *tamper) { s.put("layout", "") },
		[]wanted{{"layout", false, "not what a store has"}}},
	{"layout says no version", false, func(s *tamper) { s.replaceIn("layout", "version", "varsion") },
		[]wanted{{"layout", false, "not what a store has"}}},
	{"layout is a directory", false, func(s *tamper) { s.remove("layout"); s.check(os.Mkdir(s.at("layout"), dirMode)) },
		[]wanted{{"layout", false, "not what a store has"}}},
	{"layout is a symlink", false, func(s *tamper) {
		s.check(os.Rename(s.at("layout"), s.at("lost+found")))
		s.check(os.Symlink("lost+found", s.at("layout")))
	}, []wanted{{"layout", false, "not what a store has"}}},
	{"metadata of another name", false, func(s *tamper) { s.put(meta("alone"), s.read(meta("base"))) },
		[]wanted{{meta("alone"), false, `its name is "base"`}}},
	{"wrong checksum", false, func(s *tamper) { s.replaceIn(meta("view"), "active", "committed") },
		[]wanted{{meta("view"), false, "checksum does not match"}}},
	{"parent link is missing", false, func(s *tamper) { s.remove(link("view")) },
		[]wanted{{meta("view"), false, "checksum does not match"}}},
	{"checksum deleted by hand", false, func(s *tamper) { unsigned(s, "view") }, nil},
	{"checksum deleted by hand, with a typing error", false, func(s *tamper) {
		unsigned(s, "view")
		s.replaceIn(meta("view"), "readonly", "readnoly")
	}, []wanted{{meta("view"), false, "readnoly"}}},
	{"metadata is empty", false, func(s *tamper) { s.put(meta("view"), "") },
		[]wanted{{meta("view"), false, "empty"}}},
	{"metadata is missing", false, func(s *tamper) { s.remove(meta("view")) },
		[]wanted{{meta("view"), false, "missing"}}},
	{"metadata is a directory", false, func(s *tamper) { s.remove(meta("view")); s.check(os.Mkdir(s.at(meta("view")), dirMode)) },
		[]wanted{{meta("view"), false, "directory"}}},
}

// tampered writes a specimen to a directory of its own.
func tampered(t *testing.T, sp *specimen) *tamper {
	t.Helper()
	return &tamper{t, sp.parts.write(t, fastDir(t))}
}

// specimens returns a function that makes each of the two stores once.
func specimens(t *testing.T) func(killed bool) *specimen {
	made := map[bool]*specimen{}
	return func(killed bool) *specimen {
		if made[killed] == nil {
			made[killed] = newSpecimen(t, killed)
		}
		return made[killed]
	}
}

// wantFindings requires that these findings were made, in this order, beside what a repair
// has set aside, if anything.
func wantFindings(t *testing.T, dir string, got []Finding, want []wanted) {
	t.Helper()
	if !slices.ContainsFunc(want, func(w wanted) bool { return w.path == damagedDir }) {
		got = slices.DeleteFunc(slices.Clone(got), func(f Finding) bool { return f.Path == filepath.Join(dir, damagedDir) && f.Harmless })
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("not found: %+v", want[i])
		case i >= len(want):
			t.Errorf("found: %v", got[i])
		case got[i].Path != filepath.Join(dir, want[i].path) || got[i].Harmless != want[i].harmless || !strings.Contains(got[i].Problem, want[i].problem):
			t.Errorf("found: %+v\nwant: %+v", got[i], want[i])
		}
	}
}

// Everything that can be wrong is found, with its path, and nothing else.
func TestCheckFinds(t *testing.T) {
	specimen := specimens(t)
	for _, test := range checkTable {
		t.Run(test.name, func(t *testing.T) {
			s := tampered(t, specimen(test.killed))
			test.tamper(s)
			before := readParts(t, s.dir)
			got, err := Check(bg, s.dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			wantFindings(t, s.dir, got, test.want)
			for _, f := range got {
				if f.Problem == "" || f.Meaning == "" || f.Advice == "" || f.Repaired != "" {
					t.Errorf("it does not say what it should: %+v", f)
				}
			}
			if !reflect.DeepEqual(readParts(t, s.dir), before) {
				t.Error("checking has changed something")
			}
		})
	}
}

// A finding says how many others it is about, and one that is no snapshot's doesn't.
func TestCheckReach(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	s.put(meta("base"), "{")
	s.put(meta("alone"), "{")
	s.remove(dirOf("top"))
	s.check(os.Mkdir(s.at("snapshots/no name"), dirMode))
	findings, err := Check(bg, s.dir, nil)
	s.check(err)
	want := map[string]string{
		meta("base"):         "this snapshot can't be used, nor can the 2 that stand on it;",
		meta("alone"):        "this snapshot can't be used;",
		link(workDamageName): "this snapshot can't be used",
		"snapshots/no name":  "the store has no snapshot in it",
	}
	for _, f := range findings {
		path, err := filepath.Rel(s.dir, f.Path)
		if err != nil || want[path] == "" || !strings.HasPrefix(f.Meaning, want[path]) {
			t.Errorf("found %v", f)
		}
		delete(want, path)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
}

// Where a writer has the lock all the time, a check says what it could not look at.
func TestCheckBesideLongTransaction(t *testing.T) {
	s := openTest(t, filepath.Join(fastDir(t), "store"))
	err := s.WithTransaction(bg, true, func(ctx context.Context) error {
		wantCheck(t, s.dir, wanted{stagingDir, true, "somebody has held the lock"})
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// What is in staging/ while somebody has the store open is theirs.
func TestCheckLeftoversBesideOpenStore(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	openTest(t, s.dir, ReadOnly())
	s.check(os.Mkdir(s.at("staging/0123abcd-1"), dirMode))
	wantCheck(t, s.dir)
}

// A finding tells all it knows in one line.
func TestFindingString(t *testing.T) {
	f := Finding{Path: "/s/snapshots/a", Name: "a", Problem: "it is bad", Meaning: "it can't be used", Advice: "stop"}
	for want, f := range map[string]Finding{
		`/s/snapshots/a: snapshot "a": it is bad; it can't be used; stop`: f,
		`/s/journal: it is bad; it can't be used; stop`:                   {Path: "/s/journal", Problem: f.Problem, Meaning: f.Meaning, Advice: f.Advice},
		`/s/snapshots/a: snapshot "a": it is bad; repaired: set aside`:    {Path: f.Path, Name: "a", Problem: f.Problem, Repaired: "set aside"},
	} {
		if got := f.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// wantCheck requires that Check finds this and no more.
func wantCheck(t *testing.T, dir string, want ...wanted) {
	t.Helper()
	got, err := Check(bg, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFindings(t, dir, got, want)
}

// Nothing is wrong with a new store, an open one, or a large one.
func TestCheckHealthy(t *testing.T) {
	dir := filepath.Join(fastDir(t), "store")
	s := openTest(t, dir)
	wantCheck(t, dir)
	for i := range 100 {
		mustCreate(t, s, fmt.Sprint("key/", i))
	}
	wantCheck(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantCheck(t, dir)
}

// Progress counts up to all snapshots.
func TestCheckProgress(t *testing.T) {
	s := tampered(t, newSpecimen(t, true))
	var told []string
	if _, err := Check(bg, s.dir, func(done, total int) { told = append(told, fmt.Sprintf("%d/%d", done, total)) }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(told, " "); got != "1/6 2/6 3/6 4/6 5/6 6/6" {
		t.Errorf("progress %s", got)
	}
}

// What can't be checked is an error that says why.
func TestCheckRefuses(t *testing.T) {
	cancelled, cancel := context.WithCancel(bg)
	cancel()
	store := tampered(t, newSpecimen(t, false)).dir
	other := tampered(t, newSpecimen(t, false))
	other.replaceIn("layout", `"version":1`, `"version":2`)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, fileMode); err != nil {
		t.Fatal(err)
	}
	t.Chdir(store) // an empty path is not the working directory
	for name, test := range map[string]struct {
		ctx  context.Context
		dir  string
		want error
	}{
		"cancelled":               {cancelled, store, context.Canceled},
		"an empty directory":      {bg, t.TempDir(), ErrNotStore},
		"a directory of no store": {bg, filepath.Dir(file), ErrNotStore},
		"a file":                  {bg, file, ErrNotStore},
		"nothing":                 {bg, file + ".gone", fs.ErrNotExist},
		"nothing, as no store":    {bg, file + ".gone", ErrNotStore},
		"an empty path":           {bg, "", ErrNotStore},
		"another version":         {bg, other.dir, ErrNotStore},
	} {
		for what, run := range map[string]func(context.Context, string, func(int, int)) ([]Finding, error){"Check": Check, "Repair": Repair} {
			before := readParts(t, other.dir)
			findings, err := run(test.ctx, test.dir, nil)
			if !errors.Is(err, test.want) || len(findings) > 0 {
				t.Errorf("%s of %s: %v, %v, want %v", what, name, findings, err, test.want)
			}
			if !reflect.DeepEqual(readParts(t, other.dir), before) {
				t.Errorf("%s of %s has changed something", what, name)
			}
		}
	}
}

// A context that ends meanwhile ends the check.
func TestCheckCancelledMeanwhile(t *testing.T) {
	ctx, cancel := context.WithCancel(bg)
	s := tampered(t, newSpecimen(t, false))
	_, err := Check(ctx, s.dir, func(int, int) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Beside a writer in this process that commits and folds the journal all the time, nothing is found.
func TestCheckBesideWriter(t *testing.T) {
	checkBesideWriters(t, filepath.Join(fastDir(t), "store"), 300)
}

// Nor beside another process that does so, too.
func TestCheckBesideProcess(t *testing.T) {
	dir := filepath.Join(fastDir(t), "store")
	// It counts all snapshots in these two.
	err := countOne(openTest(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	other := startRole(t, "busy", dir)
	other.begin(t)
	checkBesideWriters(t, dir, 40) // each takes longer, for it makes ever more snapshots
	other.end(t)
}

// countOne makes what the other process counts in, for one snapshot.
func countOne(s *Store) error {
	return s.WithTransaction(bg, true, func(ctx context.Context) error {
		for _, name := range []string{"!count.a", "!count.b"} {
			if _, err := s.Create(ctx, name, "", false, WithUsage(Usage{Size: 1})); err != nil {
				return err
			}
		}
		_, err := s.CreateActive(ctx, "own/0", "", false)
		return err
	})
}

func checkBesideWriters(t *testing.T, dir string, checks int) {
	smallJournals(t, 3000)
	s := openTest(t, dir)
	if _, err := s.Stat(bg, "own/0"); err != nil {
		mustCreate(t, s, "own/0")
	}
	done := make(chan bool)
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if err := exchangeOwn(s, i); err != nil {
				t.Error(err)
				return
			}
		}
	})
	if damageThorough {
		checks *= 5
	}
	wrong := map[string]int{}
	for range checks {
		findings, err := Check(bg, dir, nil)
		if err != nil {
			wrong[err.Error()]++
		}
		for _, f := range findings {
			wrong[f.String()]++
		}
	}
	close(done)
	writers.Wait()
	for what, n := range wrong {
		t.Errorf("%d times of %d: %s", n, checks, what)
	}
}

// exchangeOwn makes one snapshot and removes another.
func exchangeOwn(s *Store, i int) error {
	return s.WithTransaction(bg, true, func(ctx context.Context) error {
		if _, err := s.CreateActive(ctx, "key", "", false); err != nil {
			return err
		}
		if _, err := s.Commit(ctx, "key", fmt.Sprint("own/", i)); err != nil {
			return err
		}
		_, err := s.Remove(ctx, fmt.Sprint("own/", i-1))
		return err
	})
}

// A journal that is folded again and again while it is checked is no error.
func TestCheckGap(t *testing.T) {
	smallJournals(t, 1)
	s := openTest(t, filepath.Join(fastDir(t), "store"))
	mustCreate(t, s, "a", "b", "c")
	foldAll(t, s)
	made := 0
	findings, err := Check(bg, s.dir, func(int, int) {
		for ; made%3 != 0 || made == 0; made++ {
			mustCreate(t, s, fmt.Sprint("x", made))
			foldAll(t, s)
		}
	})
	if err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
}

// A reader in a file that was superseded, and whose successor has been, too, does not see
// what came after it began, though the latest file is not there for good yet.
func TestReaderBehindTwoCheckpoints(t *testing.T) {
	s := openTest(t, filepath.Join(fastDir(t), "store"))
	keepLock(s)
	mustCreate(t, s, "a")
	reader := openTest(t, s.dir, ReadOnly())
	ctx, txn, err := reader.TransactionContext(bg, false)
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Rollback()
	for _, name := range []string{"b", "c"} {
		mustCreate(t, s, name)
		if err := fold(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.journal.file.WriteAt([]byte{0}, s.journal.start-1); err != nil {
		t.Fatal(err)
	}
	if info, err := reader.Stat(ctx, "c"); !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrOutdated) {
		t.Errorf("a transaction sees what came after it began: %+v, %v", info, err)
	}
}

// A journal that ends right behind its last newline, because more was committed during a
// checkpoint than its file was prepared for, is not taken for one that was cut.
func TestCheckJournalWithoutFill(t *testing.T) {
	s := openTest(t, filepath.Join(fastDir(t), "store"))
	mustCreate(t, s, "a", "b")
	if err := s.beginTurn(bg); err != nil {
		t.Fatal(err)
	}
	prepared, err := s.prepareJournal(1)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	err = s.replaceLocked(s.journal.header.txn, nil, prepared)
	s.mu.Unlock()
	s.turn.release()
	s.leave()
	if err != nil {
		t.Fatal(err)
	}
	wantCheck(t, s.dir)
	mustCreate(t, s, "c")
	wantCheck(t, s.dir)
}

// A checkpoint that was under way when Check began, and is finished when it looks, is not
// taken for one that was left unfinished.
func TestCheckDuringCheckpoint(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	journal := s.read(journalFile)
	s.put(journalFile, strings.Replace(journal, "\n", "\x00", 1))
	c, err := newChecker(bg, s.dir)
	s.check(err)
	s.check(c.openJournal())
	f, err := os.OpenFile(s.at(journalFile), os.O_WRONLY, 0)
	s.check(err)
	_, err = f.WriteAt([]byte(journal), 0)
	s.check(errors.Join(err, f.Close()))
	s.check(errors.Join(c.checkQuiet(), c.close()))
	wantFindings(t, s.dir, c.findings, nil)
}

// What a process keeps in staging/ that has opened the store after Check began is not
// taken for a leftover.
func TestCheckStagingOfLateProcess(t *testing.T) {
	dir := filepath.Join(fastDir(t), "store")
	if err := openTest(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	c, err := newChecker(bg, dir)
	if err != nil {
		t.Fatal(err)
	}
	s := openTest(t, dir)
	mustCreate(t, s, "own/0")
	if err := exchangeOwn(s, 1); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.check(nil), c.close()); err != nil {
		t.Fatal(err)
	}
	wantFindings(t, dir, c.findings, nil)
}

// role is a child process with one of the roles of process_test.go, which is a part of the
// same program.
type role struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	err   error // of its end, told when drained
	tail  chan bool
}

// startRole starts a child, and returns when it has the store open.
func startRole(t *testing.T, name, dir string) *role {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &role{cmd: exec.CommandContext(t.Context(), exe), tail: make(chan bool)}
	r.cmd.Env = append(os.Environ(), "FSMETA_TEST_ROLE="+name, "FSMETA_TEST_DIR="+dir, "FSMETA_TEST_NAME=child")
	r.cmd.Stderr = os.Stderr
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.stdin = stdin
	lines := bufio.NewReader(stdout)
	line, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(line, "ready") {
		t.Fatalf("the child says %q, %v", line, err)
	}
	go func() {
		defer close(r.tail)
		_, err := io.Copy(io.Discard, lines)
		r.err = errors.Join(err, r.cmd.Wait())
	}()
	return r
}

func (r *role) begin(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(r.stdin, "begin\n"); err != nil {
		t.Fatal(err)
	}
}

// end lets the child end, which must be content.
func (r *role) end(t *testing.T) {
	t.Helper()
	if err := r.stdin.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	<-r.tail
	if r.err != nil {
		t.Error(r.err)
	}
}
