package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
)

// done is what Repair must say that it has done.
type done struct {
	path   string // below the store's directory
	repair string // a part of Repaired
}

const (
	isAside  = "it was set aside"
	isMended = "it was made anew as"
	isLinked = "made to say what the file says"
)

// repairTable is each repair: what it does, what is set aside, and which snapshots are there
// afterwards.
var repairTable = []struct {
	name   string
	killed bool
	tamper func(s *tamper)
	want   []done
	aside  []string // paths below damaged/TIME/ of files and symlinks
	gone   []string // snapshots that are set aside
	left   []wanted // what is still wrong
}{
	{"nothing", false, func(*tamper) {}, nil, nil, nil, nil},
	{"nothing, after a kill", true, func(*tamper) {}, nil, nil, nil, nil},
	{"layout missing", false, func(s *tamper) { s.remove("layout") }, []done{{"layout", "written again"}}, nil, nil, nil},
	{"layout garbage", false, func(s *tamper) { s.put("layout", "garbage") }, []done{{"layout", "written again"}}, []string{"layout"}, nil, nil},
	{"staging missing", false, func(s *tamper) { s.remove("staging") }, nil, nil, nil, nil},
	{"staging a symlink", false, func(s *tamper) { s.link("staging", "snapshots") }, []done{{"staging", isAside}}, []string{"staging"}, nil, nil},
	{"foreign file in staging", false, func(s *tamper) { s.put("staging/notes", "x"); s.put("staging/0123abcd-1", "x") },
		[]done{{"staging/notes", isAside}}, []string{"staging/notes"}, nil, nil},
	{"backup garbage", false, func(s *tamper) { s.put("backup", "{") }, []done{{"backup", isAside}}, []string{"backup"}, nil, nil},

	{"journal missing", false, func(s *tamper) { s.remove("journal") }, []done{{"journal", "of 6 snapshots; identifiers go on at 1000007; the tree decides what these transactions changed, since it has no readable line of them: any"}}, nil, nil, nil},
	{"journal empty", false, func(s *tamper) { s.put("journal", "") }, []done{{"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal with a damaged header", false, func(s *tamper) { s.replaceIn("journal", "nextID", "nextId") },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal with a header of NUL bytes", true, func(s *tamper) {
		data := s.read("journal")
		s.put("journal", strings.Repeat("\x00", 10)+data[10:])
	}, []done{{"journal", "the 4 names that could be read"}}, []string{"journal"}, nil, nil},
	{"journal a symlink", false, func(s *tamper) { s.remove("journal"); s.link("journal", "nowhere") },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal a directory", false, func(s *tamper) { s.remove("journal"); s.mkdir("journal"); s.put("journal/note", "") },
		[]done{{"journal", "made anew"}}, []string{"journal/note"}, nil, nil},
	{"journal a pipe", false, func(s *tamper) { s.remove("journal"); s.check(syscall.Mkfifo(s.at("journal"), format.FileMode)) },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal a socket", false, func(s *tamper) {
		s.remove("journal")
		s.t.(*testing.T).Chdir(s.dir) // the path may be too long
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "journal"})
		s.check(err)
		l.SetUnlinkOnClose(false)
		s.check(l.Close())
	}, []done{{"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal damaged in the middle", true, func(s *tamper) { s.damageLine(2) }, []done{{"journal", "no readable line of them: 9, any after 11 (fsmeta ls"}}, []string{"journal"}, nil, nil},
	{"last line of the journal damaged", true, func(s *tamper) { s.damageLine(0) }, []done{{"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal damaged, with files in staging", true, func(s *tamper) { s.damageLine(0); s.put("staging/0123abcd-1", "x") },
		[]done{{"staging", "may need them"}, {"journal", "made anew"}}, []string{"journal", "staging/0123abcd-1"}, nil, nil},
	{"journal damaged, and the tree behind it", true, func(s *tamper) { s.damageLine(2); s.remove(dirOf(work)) },
		[]done{{dirOf(work), "built from the journal"}, {"journal", "made anew"}}, []string{"journal"}, nil, nil},
	{"journal damaged, and one is missing", true, func(s *tamper) { s.damageLine(2); s.remove(dirOf("alone")) },
		[]done{{"journal", "made anew"}}, []string{"journal"}, []string{"alone"}, []wanted{{"snapshots", false, "1 of 6"}}},
	{"tree behind the journal", true, func(s *tamper) { s.remove(dirOf(work)) }, nil, nil, nil, nil},

	{"directory under another name", false, func(s *tamper) { s.move(dirOf("top"), dirOf("other")) },
		[]done{{meta("other"), isMended}}, []string{"replaced/other/metadata.json", "replaced/other/parent"}, nil, nil},
	{"directory under no name", false, func(s *tamper) { s.move(dirOf("top"), "snapshots/to p") },
		[]done{{"snapshots/to p", isMended}}, []string{"replaced/to p/metadata.json", "replaced/to p/parent"}, nil, nil},
	{"directories under each other's name", false, func(s *tamper) {
		s.move(dirOf("top"), "lost+found")
		s.move(dirOf("base"), dirOf("top"))
		s.move("lost+found", dirOf("base"))
	}, []done{{meta("base"), isMended}, {meta("top"), isMended}}, []string{"replaced/base/metadata.json", "replaced/base/parent", "replaced/top/metadata.json"}, nil, nil},
	{"a damaged file, and a copy under another name", false, func(s *tamper) {
		s.check(os.CopyFS(s.at(dirOf("other")), os.DirFS(s.at(dirOf("alone")))))
		s.put(meta("alone"), "{")
		s.put(dirOf("alone")+"/notes", "x")
	}, []done{{meta("other"), isMended}}, []string{"replaced/alone/metadata.json", "replaced/alone/notes", "replaced/other/metadata.json"}, nil, nil},
	{"a copy under another name", false, func(s *tamper) { s.check(os.CopyFS(s.at(dirOf("other")), os.DirFS(s.at(dirOf("alone"))))) },
		[]done{{meta("other"), isAside}}, []string{"foreign/other/metadata.json"}, nil, nil},
	{"a directory under another name, and one is missing", false, func(s *tamper) { s.move(dirOf("top"), dirOf("other")); s.remove(dirOf("alone")) },
		[]done{{meta("other"), isMended}}, []string{"replaced/other/metadata.json", "replaced/other/parent"}, []string{"alone"}, []wanted{{"snapshots", false, "1 of 6"}}},

	{"link to another parent", false, func(s *tamper) { s.link(linkOfName("view"), format.LinkTarget("top")) }, []done{{linkOfName("view"), isLinked}}, nil, nil, nil},
	{"link to nowhere", false, func(s *tamper) { s.link(linkOfName("view"), "/etc") }, []done{{linkOfName("view"), isLinked}}, nil, nil, nil},
	{"link where none should be", false, func(s *tamper) { s.link(linkOfName("alone"), format.LinkTarget("base")) }, []done{{linkOfName("alone"), isLinked}}, nil, nil, nil},
	{"links missing", true, func(s *tamper) { s.remove(linkOfName("top"), linkOfName(long)) }, []done{{linkOfName(long), isLinked}}, nil, nil, nil},

	{"wrong checksum", false, func(s *tamper) { s.replaceIn(meta("alone"), "active", "octive") },
		[]done{{meta("alone"), isAside}}, []string{meta("alone")}, []string{"alone"}, nil},
	{"wrong checksum of what others stand on", false, func(s *tamper) { s.replaceIn(meta("top"), "commit", "commut") },
		[]done{{meta("top"), isAside}, {meta(work), isAside}},
		[]string{meta(work), linkOfName(work), meta("top"), linkOfName("top")}, []string{"top", work}, nil},
	{"wrong checksum, and another is missing", false, func(s *tamper) { s.replaceIn(meta("view"), "active", "octive"); s.remove(dirOf("alone")) },
		[]done{{meta("view"), isAside}}, []string{meta("view"), linkOfName("view")}, []string{"view", "alone"}, []wanted{{"snapshots", false, "1 of 5"}}},
	{"base of all missing", false, func(s *tamper) { s.remove(dirOf("base")) },
		nil, nil, nil, []wanted{{"snapshots", false, "1 of 6"}, {meta(long), false, `"base" is missing`}, {meta("view"), false, `"base" is missing`}}},
	{"parent missing of a name that the journal decides", true, func(s *tamper) { s.replaceIn(meta("base"), "commit", "commut") },
		[]done{{meta("base"), isAside}, {meta(long), isAside}, {meta("view"), isAside}, {meta("top"), isAside}, {meta(work), isAside}},
		[]string{meta("base"), meta(work), linkOfName(work), meta(long), linkOfName(long), meta("top"), linkOfName("top"), meta("view"), linkOfName("view")},
		[]string{"base", long, "top", "view", work}, nil},
	{"circle, and what stands on it", false, func(s *tamper) { s.onto("base", long) },
		[]done{{meta("base"), isAside}, {meta(long), isAside}, {meta("view"), isAside}, {meta("top"), isAside}, {meta(work), isAside}},
		[]string{meta("base"), linkOfName("base"), meta(work), linkOfName(work), meta(long), linkOfName(long), meta("top"), linkOfName("top"), meta("view"), linkOfName("view")},
		[]string{"base", long, "top", "view", work}, nil},
	{"snapshot a symlink", false, func(s *tamper) { s.move(dirOf("alone"), "lost+found"); s.link(dirOf("alone"), "../lost+found") },
		[]done{{meta("alone"), isAside}}, []string{dirOf("alone")}, []string{"alone"}, nil},
	{"foreign file in snapshots", false, func(s *tamper) { s.put("snapshots/notes 2", "x") },
		[]done{{"snapshots/notes 2", isAside}}, []string{"foreign/notes 2"}, nil, nil},
	{"foreign directory in snapshots", false, func(s *tamper) { s.mkdir("snapshots/backup"); s.put("snapshots/backup/x", "x") },
		[]done{{"snapshots/backup/metadata.json", isAside}}, []string{"snapshots/backup/x"}, nil, nil},
	{"identifiers that two have, and a parent that is active", false, func(s *tamper) {
		s.edit("view", func(m *format.Snapshot) { m.ID, m.Parent = "1", "alone" })
	}, nil, nil, nil, []wanted{{meta("view"), false, "not committed"}, {meta("view"), false, "same identifier"}}},
	{"identifier that may be handed out", false, func(s *tamper) { s.edit("alone", func(m *format.Snapshot) { m.ID = "5000" }) },
		[]done{{"journal", "go on at 1005001"}}, nil, nil, nil},
	{"several things", false, func(s *tamper) {
		s.remove("layout", "staging")
		s.put("snapshots/.x", "x")
		s.put(meta("alone"), "")
	}, []done{{"layout", "written again"}, {"snapshots/.x", isAside}, {meta("alone"), isAside}}, []string{"foreign/.x", meta("alone")}, []string{"alone"}, nil},
}

// untold is those of repairTable in which nothing tells which snapshots there were: a person has to.
var untold = []string{"journal missing", "journal empty", "journal a symlink", "journal a directory", "journal a pipe", "journal a socket"}

// wantRepair requires that Repair does this, and that this is still wrong.
func (s *tamper) wantRepair(o RepairOptions, want []done, left []wanted) []Finding {
	s.t.Helper()
	findings, err := Repair(bg, s.dir, o, nil)
	s.check(err)
	mended := slices.IndexFunc(findings, func(f Finding) bool { return f.Repaired == "" })
	if mended < 0 {
		mended = len(findings)
	}
	wantFindings(s.t, s.dir, findings[mended:], left)
	for i := range max(mended, len(want)) {
		if i >= mended || i >= len(want) || findings[i].Path != s.at(want[i].path) || !strings.Contains(findings[i].Repaired, want[i].repair) {
			s.t.Fatalf("found and repaired:\n%+v\nwant %+v", findings, want)
		}
	}
	return findings
}

// Each repair says what it has done, and sets aside what it replaces; nothing more is left
// than it says, and a second one does nothing.
func TestRepair(t *testing.T) {
	for _, test := range repairTable {
		t.Run(test.name, func(t *testing.T) {
			s := specimen(t, test.killed)
			test.tamper(s)
			options := RepairOptions{AcceptTree: slices.Contains(untold, test.name)}
			if options.AcceptTree {
				before := parts(t, s.dir)
				s.wantRepair(RepairOptions{}, nil, []wanted{{"journal", false, "nothing tells which snapshots there were, and 6 are there"}})
				if !reflect.DeepEqual(parts(t, s.dir), before) {
					t.Error("a repair that does not know which snapshots there were has changed something")
				}
			}
			s.wantRepair(options, test.want, test.left)
			slices.Sort(test.aside)
			if got := s.asideParts(); !slices.Equal(got, test.aside) {
				t.Errorf("set aside:\n%q\nwant %q", got, test.aside)
			}
			s.wantCheck(test.left...)
			if len(test.left) == 0 && !strings.HasPrefix(test.name, "identifier") {
				s.wantList(test.gone...)
			}
			before := parts(t, s.dir)
			s.wantRepair(RepairOptions{}, nil, test.left)
			if !reflect.DeepEqual(parts(t, s.dir), before) {
				t.Error("the second time something changes")
			}
			// It can be written to.
			h := openStore(t, s.dir)
			h.create("newcomer", "", format.Active)
			h.close(true)
		})
	}
}

// The snapshots in the tree are the truth only if that was asked for.
func TestRepairAcceptTree(t *testing.T) {
	for _, killed := range []bool{false, true} {
		s := specimen(t, killed)
		s.remove(dirOf("alone"))
		s.set(snapshot("4000", "other", "", format.Active))
		missing := []wanted{{"snapshots", false, "are not those"}}
		var raised []done
		if killed {
			raised = append(raised, done{"journal", "its lines were brought up, of"})
		}
		raised = append(raised, done{"journal", "go on at 1004001"})
		s.wantRepair(RepairOptions{}, raised, missing)
		if _, damage := s.list(); len(damage) != 1 {
			t.Errorf("a reader finds %v", damage)
		}
		s.wantRepair(RepairOptions{AcceptTree: true}, []done{{"snapshots", "the 6 that are there were recorded"}}, nil)
		s.wantCheck()
		if found, damage := s.list(); len(damage) > 0 || found["other"] == "" || len(found) != 6 {
			t.Errorf("%v, %v", found, damage)
		}
	}
}

// Lost snapshots can be put back after a repair, and all is right again.
func TestRepairThenPutBack(t *testing.T) {
	s := specimen(t, false)
	s.move(dirOf("alone"), "lost+found")
	s.replaceIn(meta("view"), "active", "octive")
	s.wantRepair(RepairOptions{}, []done{{meta("view"), isAside}}, []wanted{{"snapshots", false, "1 of 5"}})
	s.move("lost+found", dirOf("alone"))
	s.wantCheck()
	s.wantList("view")
}

// What stands on a missing snapshot stays, and is whole again once that is put back; only where what is
// there is accepted is it set aside.
func TestRepairThenPutBackParent(t *testing.T) {
	for _, killed := range []bool{false, true} {
		s := specimen(t, killed)
		s.move(dirOf("base"), "lost+found")
		_, err := Repair(bg, s.dir, RepairOptions{}, nil)
		s.check(err)
		s.move("lost+found", dirOf("base"))
		if killed {
			s.wantCheck(wanted{"damaged", true, "it has what repairs have set aside or an import has left out; 0 of snapshots/"}) // the journal
		} else {
			s.wantCheck()
		}
		s.wantList()
	}
	s := specimen(t, false)
	s.remove(dirOf("base"))
	s.wantRepair(RepairOptions{AcceptTree: true}, []done{{meta(long), isAside}, {meta("view"), isAside}, {meta("top"), isAside}, {meta(work), isAside}, {"snapshots", "the 1 that are there"}}, nil)
	s.wantList("base", long, "top", "view", work)
}

// A part that is a symlink to where it is, or a journal of a later version, is not for a repair: it says
// what to do, and changes nothing.
func TestRepairRefusesWhatIsWhole(t *testing.T) {
	later := `{"format":"fsmeta journal","version":3,"txn":56,"nextID":31}` + "\n"
	for name, test := range map[string]struct {
		tamper func(s *tamper)
		mend   func(s *tamper)
		want   string
	}{
		"journal": {func(s *tamper) { s.move("journal", "lost+found"); s.link("journal", "lost+found") },
			func(s *tamper) { s.remove("journal"); s.move("lost+found", "journal") }, "it leads to STORE/lost+found; stop what uses the store, then put back what it leads to: rm STORE/journal && mv -T STORE/lost+found STORE/journal"},
		"snapshots": {func(s *tamper) { s.move("snapshots", "lost+found"); s.link("snapshots", s.at("lost+found")) },
			func(s *tamper) { s.remove("snapshots"); s.move("lost+found", "snapshots") }, "mv -T STORE/lost+found STORE/snapshots"},
		"later journal": {func(s *tamper) { s.put("old", s.read("journal")); s.put("journal", later) },
			func(s *tamper) { s.remove("journal"); s.move("old", "journal") }, "STORE/journal is of version 3 of the format; use the program that wrote it, or a newer one"},
		"later journal without layout": {func(s *tamper) { s.put("old", s.read("journal")); s.put("journal", later); s.remove("layout") },
			func(s *tamper) { s.remove("journal"); s.move("old", "journal"); s.put("layout", format.LayoutContent) }, "must not write here"},
	} {
		t.Run(name, func(t *testing.T) {
			s := specimen(t, false)
			test.tamper(s)
			before := parts(t, s.dir)
			_, err := Repair(bg, s.dir, RepairOptions{AcceptTree: true}, nil)
			if want := strings.ReplaceAll(test.want, "STORE", s.dir); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
			if !reflect.DeepEqual(parts(t, s.dir), before) {
				t.Error("it has changed something")
			}
			test.mend(s)
			s.wantCheck()
			s.wantList()
		})
	}
}

// A journal of another store is brought up, since nothing tells it from this one's; a repair says so, and
// keeps it as it was.
func TestRepairKeepsJournalOfAnotherStore(t *testing.T) {
	s, other := specimen(t, false), &tamper{t, filepath.Join(t.TempDir(), "store")}
	h := openStore(t, other.dir)
	h.create("stranger", "", format.Active)
	h.close(false)
	lines := other.read(format.JournalFile)
	s.put(format.JournalFile, lines)
	again := "it was written again, as of transaction"
	s.wantRepair(RepairOptions{}, []done{{"journal", `of ["stranger"]; a copy of it as it was is in`}, {meta("alone"), again}, {meta(long), again}, {meta("top"), again}, {meta("view"), again}, {meta(work), again}},
		[]wanted{{"snapshots", false, "and the journal counts 1"}, {meta("stranger"), false, "the same identifier, 1"}})
	if got := s.asideParts(); !slices.Equal(got, []string{format.JournalFile}) {
		t.Errorf("set aside: %q", got)
	}
	times, err := os.ReadDir(s.at(format.DamagedDir))
	s.check(err)
	if s.read(format.DamagedDir+"/"+times[0].Name()+"/"+format.JournalFile) != lines {
		t.Error("the copy is not the journal as it was")
	}
}

// Where an older journal has other versions of the same names, a repair keeps those of the tree on the shelf,
// so that no content of theirs is an orphan.
func TestRepairKeepsWhatAnOlderJournalReplaces(t *testing.T) {
	s := &tamper{t, filepath.Join(t.TempDir(), "store")}
	h := openStore(t, s.dir)
	h.create("a", "", format.Active)
	old := s.read(format.JournalFile)
	h.close(true)
	h = openStore(t, s.dir)
	h.commit(map[string]*format.Snapshot{"a": nil})
	h.create("a", "", format.Active)
	h.close(true)
	newer := s.get("a")
	s.put(format.JournalFile, old)
	findings, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	if len(findings) < 2 || findings[0].Name != "a" || !strings.Contains(findings[0].Repaired, "replaced") {
		t.Fatalf("found and repaired: %+v", findings)
	}
	ids, err := SetAside(s.dir)
	s.check(err)
	if s.get("a").ID == newer.ID || !slices.Contains(ids, newer.ID) {
		t.Errorf("a has identifier %s, set aside are %q, want %s among them", s.get("a").ID, ids, newer.ID)
	}
}

// An older journal in the place of the store's own loses what was removed and made since; what the
// tree has is counted as missing or too many, and no identifier is handed out twice.
func TestRepairOlderJournal(t *testing.T) {
	s := &tamper{t, filepath.Join(t.TempDir(), "store")}
	h := openStore(t, s.dir)
	h.create("first", "", format.Active)
	h.close(true)
	old := s.read(format.JournalFile)
	h = openStore(t, s.dir)
	h.create("second", "", format.Active)
	h.close(true)
	s.put(format.JournalFile, old)
	s.wantCheck(wanted{"snapshots", false, "there are 2"}, wanted{meta("second"), false, "is not below"}, wanted{meta("second"), false, "it is of transaction 4, and the journal ends at 2"})
	s.wantRepair(RepairOptions{AcceptTree: true}, []done{{meta("second"), "go on at 1000002"}, {"snapshots", "the 2 that are there"}}, nil)
	h = openStore(t, s.dir)
	h.create("third", "", format.Active)
	h.close(true)
	if id := s.get("third").ID; id != "1000002" {
		t.Errorf("identifier %s", id)
	}
}

// A part that can't be mended keeps no other from being mended, and the error is told.
func TestRepairGoesOn(t *testing.T) {
	s := specimen(t, false)
	s.put("damaged", "in the way")
	s.put(meta("alone"), "")
	s.remove(linkOfName("view"))
	s.edit("top", func(m *format.Snapshot) { m.ID = "5000" })
	s.wantRepair(RepairOptions{}, []done{{"journal", "go on at 1005001"}, {linkOfName("view"), isLinked}},
		[]wanted{{meta("alone"), false, "the file is empty; it could not be repaired: open " + s.at("damaged") + ": not a directory"}})
	s.remove("damaged")
	s.wantRepair(RepairOptions{}, []done{{meta("alone"), isAside}}, nil)
	s.wantCheck()
}

// A line with a right checksum that is nonsense is damage of the journal, whatever reads it first.
func TestNonsenseLine(t *testing.T) {
	s := specimen(t, true)
	j, err := journal.Open(s.at("journal"), true)
	s.check(err)
	_, err = j.Scan(true)
	s.check(err)
	same := snapshot("9", "nonsense", "", format.Active)
	s.check(j.Append(&format.Txn{Number: j.Tip() + 1, NextID: j.NextID(), Names: j.NamesAt(j.Tip()),
		Changes: []format.Change{{Name: "b", After: same}, {Name: "a", After: same}}}))
	s.check(errors.Join(j.Publish(j.Tip()), j.Close()))
	if found, damage := s.list(); len(found) != 6 || len(damage) != 1 || !strings.Contains(damage[0].Error(), "line of transaction") {
		t.Errorf("reads find %v, %v; want all snapshots, and the damage", found, damage)
	}
	s.wantCheck(wanted{"journal", false, "line of transaction"})
	s.wantRepair(RepairOptions{}, []done{{"journal", "made anew"}}, nil)
	s.wantList()
}

// What Repair sets aside is as it was, and is told.
func TestRepairSetsAsideUnchanged(t *testing.T) {
	s := specimen(t, false)
	s.replaceIn(meta("view"), "active", "acteve")
	want := s.read(meta("view"))
	findings := s.wantRepair(RepairOptions{}, []done{{meta("view"), isAside}}, nil)
	data, err := os.ReadFile(filepath.Join(findings[0].Aside, format.MetadataFile))
	target, lerr := os.Readlink(filepath.Join(findings[0].Aside, format.ParentLink))
	if s.check(errors.Join(err, lerr)); string(data) != want || target != format.LinkTarget("base") {
		t.Errorf("set aside: %s, link to %s", data, target)
	}
}

// Repair refuses a store that is open, and changes nothing.
func TestRepairInUse(t *testing.T) {
	s := specimen(t, false)
	s.put(meta("view"), "")
	lock := layout.NewLock(s.dir)
	s.check(lock.Share())
	before := parts(t, s.dir)
	if findings, err := Repair(bg, s.dir, RepairOptions{}, nil); !errors.Is(err, fault.ErrInUse) || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
	if !reflect.DeepEqual(parts(t, s.dir), before) {
		t.Error("something has changed")
	}
	s.check(lock.Release())
	s.wantRepair(RepairOptions{}, []done{{meta("view"), isAside}}, nil)
}

// A symlink in the place of a directory leads to no change elsewhere.
func TestRepairFollowsNoLinks(t *testing.T) {
	for _, path := range []string{format.SnapshotsDir, format.StagingDir, format.DamagedDir} {
		s := specimen(t, false)
		elsewhere := &tamper{t, t.TempDir()}
		elsewhere.mkdir("precious")
		elsewhere.put("precious/metadata.json", "x")
		elsewhere.put("file", "x")
		s.put(meta("view"), "")
		if path != format.DamagedDir {
			s.move(path, "lost+found")
		}
		s.link(path, elsewhere.dir)
		before := parts(t, elsewhere.dir)
		_, err := Repair(bg, s.dir, RepairOptions{}, nil)
		if !reflect.DeepEqual(parts(t, elsewhere.dir), before) {
			t.Errorf("%s: something elsewhere has changed: %v", path, parts(t, elsewhere.dir))
		}
		if (err != nil) != (path == format.SnapshotsDir) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// harm does to a store what needs most of what Repair can do.
func harm(s *tamper) {
	s.damageLine(2)
	s.remove(dirOf(work))
	s.move(dirOf("top"), dirOf("other"))
	s.move(dirOf("base"), "lost+found") // each is in the way of the other's only copy
	s.move(dirOf(long), dirOf("base"))
	s.move("lost+found", dirOf(long))
	s.remove(linkOfName("view"))
	s.put(dirOf("view")+"/notes", "the only copy")
	s.put(dirOf("base")+"/notes", "another only copy")
	s.check(syscall.Mkfifo(s.at(dirOf("view")+"/pipe"), format.FileMode))
	s.replaceIn(meta("alone"), "active", "acteve")
	s.put("snapshots/notes 2", "x")
}

// judgeHarmed requires that the store that was harmed can be repaired, with nothing lost.
func (s *tamper) judgeHarmed(before map[string]string) {
	s.t.Helper()
	_, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	left, err := Check(bg, s.dir, nil)
	s.check(err)
	for _, f := range left {
		if !f.Harmless {
			s.t.Errorf("left: %+v", f)
		}
	}
	s.wantList("alone")
	after := map[string]bool{}
	for _, n := range parts(s.t, s.dir) {
		after[n] = true
	}
	for path, n := range before {
		if !after[n] {
			s.t.Errorf("the only copy of %s is gone", path)
		}
	}
	h := openStore(s.t, s.dir)
	h.create("newcomer", "", format.Active)
	h.close(true)
	if id, err := format.ParseID(s.get("newcomer").ID); err != nil || id < commit.UnknownIDs {
		s.t.Errorf("identifier %d may be handed out again", id)
	}
}

// All at once is repaired.
func TestRepairHarmed(t *testing.T) {
	s := specimen(t, true)
	harm(s)
	s.judgeHarmed(parts(t, s.dir))
}

// A repair with a context that ends can be repeated.
func TestRepairCancelled(t *testing.T) {
	for stop := range 12 {
		s := specimen(t, true)
		harm(s)
		before := parts(t, s.dir)
		ctx, cancel := context.WithCancel(bg)
		n := 0
		_, err := Repair(ctx, s.dir, RepairOptions{}, func(int, int) {
			if n++; n > stop {
				cancel()
			}
		})
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		s.judgeHarmed(before)
	}
}

const repairVariable = "FSMETA_TEST_REPAIR"

// TestRepairChild is the process that is killed by the next tests.
func TestRepairChild(t *testing.T) {
	dir := os.Getenv(repairVariable)
	if dir == "" {
		t.Skip("it is run by other tests")
	}
	if _, err := Repair(bg, dir, RepairOptions{}, nil); err != nil {
		t.Fatal(err)
	}
}

// injected runs Repair in a process that something happens to at the nth system call of
// a kind, and reports whether it got that far.
func injected(t *testing.T, dir, calls, what string, n int) bool {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-o", log, "-e", "trace="+calls,
		"-e", fmt.Sprintf("inject=%s:%s:when=%d", calls, what, n), exe, "-test.run=^TestRepairChild$")
	cmd.Env = append(os.Environ(), repairVariable+"="+dir, "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("ptrace")) {
		t.Skipf("strace does not work here: %s", out)
	}
	traced, lerr := os.ReadFile(log)
	if lerr != nil {
		t.Fatal(lerr)
	}
	hit := bytes.Contains(traced, []byte("killed by")) || bytes.Contains(traced, []byte("(INJECTED)"))
	if !hit && err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return hit
}

// eachInjection repeats a repair that something happens to, at every point. After each
// the store can be repaired, with nothing lost.
func eachInjection(t *testing.T, what string, calls ...string) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	for _, call := range calls {
		for n := 1; ; n++ {
			s := specimen(t, true)
			harm(s)
			before := parts(t, s.dir)
			if !injected(t, s.dir, call, what, n) {
				break
			}
			t.Run(fmt.Sprint(call, " ", n), func(t *testing.T) { (&tamper{t, s.dir}).judgeHarmed(before) })
		}
	}
}

// A repair that is killed at any point can be repeated, and has lost nothing.
func TestRepairKilled(t *testing.T) {
	eachInjection(t, "signal=KILL", "renameat2", "renameat", "linkat")
}

// So can one that fails at any point.
func TestRepairFails(t *testing.T) {
	eachInjection(t, "error=ENOSPC", "renameat2", "linkat", "fsync")
}

// A repair that is killed while it sets snapshots aside takes each out of the count once, also
// where others are missing: putting those back makes all of it right.
func TestRepairKilledBesideMissing(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	eachKill := func(call string) {
		for n := 1; ; n++ {
			s := specimen(t, false)
			s.move(dirOf("view"), "lost+found")
			s.replaceIn(meta("alone"), "active", "acteve")
			s.replaceIn(meta("top"), "commit", "commut")
			if !injected(t, s.dir, call, "signal=KILL", n) {
				return
			}
			t.Run(fmt.Sprint(call, " ", n), func(t *testing.T) {
				s := &tamper{t, s.dir}
				_, err := Repair(bg, s.dir, RepairOptions{}, nil)
				s.check(err)
				s.wantCheck(wanted{"snapshots", false, "1 of 3"})
				s.move("lost+found", dirOf("view"))
				s.wantCheck()
				s.wantList("alone", "top", work)
			})
		}
	}
	for _, call := range []string{"renameat2", "pwrite64", "unlinkat"} {
		eachKill(call)
	}
}

// A file in the place of a snapshot's directory does not hide that the snapshot is lost: its
// identifier can't be told.
func TestRepairFileInPlaceOfASnapshot(t *testing.T) {
	s := specimen(t, false)
	s.remove(dirOf("alone"))
	s.put(dirOf("alone"), "notes")
	s.put("snapshots/notes.txt", "notes")
	s.wantRepair(RepairOptions{}, []done{{meta("alone"), isAside}, {meta("notes.txt"), isAside}}, []wanted{{"snapshots", false, "1 of 6"}})
	if _, err := SetAside(s.dir); err != nil {
		t.Errorf("beside a person's file, so that it is not known which was counted: %v", err)
	}

	s = specimen(t, false)
	s.remove(dirOf("alone"))
	s.put(dirOf("alone"), "notes")
	s.wantRepair(RepairOptions{}, []done{{meta("alone"), isAside}}, nil)
	if _, err := SetAside(s.dir); !errors.Is(err, fault.ErrDamaged) {
		t.Errorf("%v, want that its identifier can't be told", err)
	}
}

// A file backup that a repair sets aside is replaced by one that keeps all content so far, whenever the
// repair was killed.
func TestRepairKeepsWhatABackupProtects(t *testing.T) {
	for name, tamper := range map[string]func(s *tamper){
		"garbage": func(s *tamper) { s.put("backup", "{") }, "a directory": func(s *tamper) { s.mkdir("backup") }, "a symlink": func(s *tamper) { s.link("backup", "layout") },
	} {
		for kill := 0; ; kill++ {
			s := specimen(t, false)
			tamper(s)
			killed := kill > 0 && injected(t, s.dir, "fsync", "signal=KILL", kill)
			findings, err := Repair(bg, s.dir, RepairOptions{}, nil)
			s.check(err)
			if kill == 0 && (len(findings) != 1 || findings[0].Path != s.at("backup") || findings[0].Aside == "") {
				t.Errorf("%s: %+v", name, findings)
			}
			root, err := disk.OpenDir(s.dir, true)
			s.check(err)
			copied, err := commit.ReadCopied(root)
			s.check(errors.Join(err, root.Close()))
			if below := copied.Below(1); below < commit.UnknownIDs {
				t.Errorf("%s, killed at fsync %d: content is kept below %d alone", name, kill, below)
			}
			h := openStore(t, s.dir)
			h.create("newcomer", "", format.Active)
			h.close(true)
			if id, err := format.ParseID(s.get("newcomer").ID); err != nil || id < commit.UnknownIDs {
				t.Errorf("%s, killed at fsync %d: identifier %d may be handed out again", name, kill, id)
			}
			if kill > 0 && !killed || kill == 0 && exec.Command("strace", "-V").Run() != nil {
				break
			}
		}
	}
}

// A snapshot with its directory under a name that a line of the journal is about is not lost
// when that line is brought up.
func TestRepairSavesWhatStandsInTheWayOfALine(t *testing.T) {
	s := specimen(t, true) // its lines are about view
	s.move(dirOf("alone"), "lost+found")
	s.move(dirOf("view"), dirOf("alone"))
	s.move("lost+found", dirOf("view"))
	_, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	for _, f := range must(Check(bg, s.dir, nil)) {
		if !f.Harmless {
			t.Errorf("left: %+v", f)
		}
	}
	s.wantList()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What a repair replaces keeps its identifier from being taken for an orphan's.
func TestSetAsideKnowsWhatWasReplaced(t *testing.T) {
	older := func(s *tamper, to string) { // an older copy of view, which has identifier 5
		s.check(os.CopyFS(s.at(to), os.DirFS(s.at(dirOf("view")))))
	}
	known := func(s *tamper) []string {
		ids, err := SetAside(s.dir)
		if err != nil {
			return []string{"unknown"}
		}
		slices.Sort(ids)
		return slices.Compact(ids)
	}
	for name, c := range map[string]struct {
		tamper func(s *tamper)
		want   []string
	}{
		"damaged, an older copy beside": {func(s *tamper) {
			older(s, dirOf("copy"))
			s.edit("view", func(m *format.Snapshot) { m.ID = "7" })
			s.replaceIn(meta("view"), "active", "octive")
		}, []string{"unknown"}},
		"an older copy in its place": {func(s *tamper) {
			older(s, dirOf("copy"))
			s.edit("view", func(m *format.Snapshot) { m.ID = "7" })
			s.move(dirOf("view"), "lost+found")
			s.move(dirOf("copy"), dirOf("view"))
			s.move("lost+found", dirOf("copy"))
		}, []string{"7"}},
		"a file of another": {func(s *tamper) { s.put(meta("view"), s.read(meta("top"))) }, []string{"unknown"}},
	} {
		s := specimen(t, false)
		c.tamper(s)
		_, err := Repair(bg, s.dir, RepairOptions{}, nil)
		s.check(err)
		if got := known(s); !slices.Equal(got, c.want) {
			t.Errorf("%s: identifiers %q, want %q", name, got, c.want)
		}
	}
}

// A commit that a readable line says, and the tree does not have yet, is not lost to a damaged line
// elsewhere.
func TestRebuildKeepsACommitThatIsBehind(t *testing.T) {
	s := specimen(t, true)
	h := openStore(t, s.dir)
	image := snapshot("3", "image", "", format.Committed)
	key := s.read(meta("alone"))
	h.commit(map[string]*format.Snapshot{"alone": nil, "image": image})
	h.create("last", "", format.Active)
	h.close(false)
	s.remove(dirOf("image"))
	s.mkdir(dirOf("alone"))
	s.put(meta("alone"), key)
	s.damageLine(0)
	_, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	if found, _ := s.list(); found["image"] == "" || found["alone"] != "" {
		t.Errorf("%v, want image, and not alone", found)
	}
}

// A writer between a repair that was killed and the next one does not spoil the count.
func TestRepairKilledThenWritten(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	for n := 1; ; n++ {
		s := specimen(t, false)
		s.move(dirOf("view"), "lost+found")
		s.replaceIn(meta("alone"), "active", "acteve")
		if !injected(t, s.dir, "renameat2", "signal=KILL", n) {
			return
		}
		h := openStore(t, s.dir)
		h.create("newcomer", "", format.Active)
		h.close(true)
		_, err := Repair(bg, s.dir, RepairOptions{}, nil)
		s.check(err)
		s.move("lost+found", dirOf("view"))
		s.wantCheck()
	}
}

// What a repair leaves to a person comes with the commands for that.
func TestRepairAdvises(t *testing.T) {
	for _, test := range []struct {
		name   string
		tamper func(s *tamper)
		path   string
		want   string // in the advice, with %s for the store
	}{
		{"nothing tells which there were", func(s *tamper) { s.put("journal", "") }, "journal", "; then run fsmeta repair --accept-tree %s"},
		{"some are missing", func(s *tamper) { s.remove(dirOf("alone")) }, "snapshots", "run fsmeta repair --accept-tree %s"},
		{"a parent is missing", func(s *tamper) { s.remove(dirOf("top")) }, meta(work), "fsmeta repair --accept-tree %s sets them aside"},
		{"there are too many", func(s *tamper) { s.set(snapshot("3", "other", "", format.Active)) }, "snapshots", "fsmeta ls --json %s | jq -s 'sort_by(.txn)[-1:][]'"},
	} {
		s := specimen(t, false)
		test.tamper(s)
		findings, err := Repair(bg, s.dir, RepairOptions{}, nil)
		s.check(err)
		i := slices.IndexFunc(findings, func(f Finding) bool { return f.Path == s.at(test.path) && f.Repaired == "" })
		if want := fmt.Sprintf(test.want, s.dir); i < 0 || !strings.Contains(findings[i].Advice, want) || strings.Contains(findings[i].Advice, adviseRepair) {
			t.Errorf("%s: %+v, want the advice %q", test.name, findings, want)
		}
	}
}

// A journal of which the lines behind one can't be read is replaced, with how to find what they have made;
// and before that a look does not know the next identifier.
func TestRepairNamesLost(t *testing.T) {
	s := specimen(t, true)
	s.damageLine(0)
	look, err := OpenLook(s.dir)
	s.check(err)
	summary, err := look.Summary()
	s.check(errors.Join(err, look.Close()))
	if summary.NextID != 0 {
		t.Errorf("%+v, want no identifier", summary)
	}
	findings, err := Repair(bg, s.dir, RepairOptions{}, nil)
	s.check(err)
	if want := fmt.Sprintf("any after 10 (fsmeta ls --json %s | jq 'select(.txn > 10)'", s.dir); len(findings) == 0 || !strings.Contains(findings[0].Repaired, want) {
		t.Errorf("%+v, want %q", findings, want)
	}
}
