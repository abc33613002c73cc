package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
)

// wanted is what a Finding must be.
type wanted struct {
	path     string // below the store's directory
	harmless bool
	problem  string // a part of it
}

// checkTable is every kind of finding.
var checkTable = []struct {
	name   string
	killed bool
	tamper func(s *tamper)
	want   []wanted
}{
	{"nothing", false, func(*tamper) {}, nil},
	{"nothing, after a kill", true, func(*tamper) {}, nil},

	// Beside layout.
	{"set aside", false, func(s *tamper) {
		s.mkdir("damaged/20261125T000000.000000000Z/snapshots/a")
		s.mkdir("damaged/20261126T000000.000000000Z/staging")
		s.put("damaged/notes", "")
	}, []wanted{{"damaged", true, "1 of snapshots/"}}},
	{"set aside, without an identifier", false, func(s *tamper) { s.mkdir("damaged/20261125T000000.000000000Z/snapshots/a") },
		[]wanted{{"damaged", true, "1 of snapshots/, and of 1 the identifier can't be told"}}},
	{"nothing set aside", false, func(s *tamper) { s.mkdir("damaged/20261125T000000.000000000Z") }, nil},
	{"damaged is a symlink", false, func(s *tamper) { s.link("damaged", "snapshots") }, []wanted{{"damaged", false, "it is a symlink"}}},
	{"a backup in the store", false, func(s *tamper) { s.mkdir("copy"); s.put("copy/layout", format.LayoutContent) },
		[]wanted{{"copy", true, "a store in the store"}}},
	{"foreign file beside layout", false, func(s *tamper) { s.put("notes", "") }, []wanted{{"notes", true, "no part of the store"}}},
	{"lost+found", false, func(s *tamper) { s.mkdir("lost+found") }, nil},
	{"backup is garbage", false, func(s *tamper) { s.put("backup", "{") }, []wanted{{"backup", false, "the text ends"}}},
	{"backup is large", false, func(s *tamper) { s.put("backup", strings.Repeat(" ", 5000)) }, []wanted{{"backup", false, "larger"}}},
	{"backup is a directory", false, func(s *tamper) { s.mkdir("backup") }, []wanted{{"backup", false, "not a regular file"}}},
	{"layout is missing", false, func(s *tamper) { s.remove("layout") }, []wanted{{"layout", false, "missing"}}},
	{"layout is garbage", false, func(s *tamper) { s.put("layout", "garbage") }, []wanted{{"layout", false, "not what a store has"}}},
	{"layout is empty", false, func(s *tamper) { s.put("layout", "") }, []wanted{{"layout", false, "not what a store has"}}},
	{"layout is a directory", false, func(s *tamper) { s.remove("layout"); s.mkdir("layout") }, []wanted{{"layout", false, "not what a store has"}}},
	{"layout is a symlink", false, func(s *tamper) { s.move("layout", "lost+found"); s.link("layout", "lost+found") },
		[]wanted{{"layout", false, "not what a store has"}}},

	// staging/ and snapshots/.
	{"leftovers in staging", false, func(s *tamper) { s.mkdir("staging/0123abcd-1") },
		[]wanted{{"staging", true, "something is left in it"}}},
	{"foreign file in staging", false, func(s *tamper) { s.put("staging/notes", "") }, []wanted{{"staging/notes", false, "nothing of that name"}}},
	{"staging is missing", false, func(s *tamper) { s.remove("staging") }, []wanted{{"staging", true, "missing"}}},
	{"staging is a file", false, func(s *tamper) { s.remove("staging"); s.put("staging", "") }, []wanted{{"staging", false, "not a directory"}}},
	{"staging is a symlink", false, func(s *tamper) { s.link("staging", s.t.TempDir()) }, []wanted{{"staging", false, "not a directory"}}},
	{"snapshots is missing", false, func(s *tamper) { s.remove("snapshots") }, []wanted{{"snapshots", false, "missing"}}},
	{"snapshots is a symlink", false, func(s *tamper) { s.move("snapshots", "lost+found"); s.link("snapshots", "lost+found") },
		[]wanted{{"snapshots", false, "it is a symlink"}}},
	{"foreign file in snapshots", false, func(s *tamper) { s.put("snapshots/notes 2", "") }, []wanted{{"snapshots/notes 2", false, "no such name"}}},
	{"directory that could be a snapshot's", false, func(s *tamper) { s.mkdir("snapshots/backup") },
		[]wanted{{"snapshots", false, "there are 7 snapshots, and the journal counts 6"}, {"snapshots/backup/metadata.json", false, "no such file"}}},
	{"foreign files in a snapshot's directory", false, func(s *tamper) { s.put(dirOf("view")+"/notes", ""); s.put(dirOf("view")+"/zzz", "") },
		[]wanted{{dirOf("view") + "/notes", true, "no part of the snapshot; nor is another beside it"}}},

	// What is missing.
	{"all snapshots are missing", false, func(s *tamper) { s.remove("snapshots"); s.mkdir("snapshots") },
		[]wanted{{"snapshots", false, "6 of 6 snapshots are missing"}}},
	{"one that nothing stands on is missing", true, func(s *tamper) { s.remove(dirOf("alone")) },
		[]wanted{{"snapshots", false, "1 of 6 snapshots is missing"}}},
	{"one is missing, and another is in its place", false, func(s *tamper) { s.remove(dirOf("alone")); s.set(snapshot("3", "other", "", format.Active)) },
		[]wanted{{"snapshots", false, "not those that the journal counts"}}},
	{"header of a person", false, func(s *tamper) {
		s.remove(dirOf("alone"))
		s.put("journal", `{"format":"fsmeta journal","version":2,"txn":99,"nextID":99}`+"\n")
	}, []wanted{{"journal", true, "does not say which snapshots there are"}}},

	// Parents.
	{"circle of two", false, func(s *tamper) { s.onto("base", long) }, []wanted{{meta("base"), false, "lead back"}, {meta(long), false, "lead back"}}},
	{"circle of three", false, func(s *tamper) { s.onto("base", "top") },
		[]wanted{{meta("base"), false, "lead back"}, {meta(long), false, "lead back"}, {meta("top"), false, "lead back"}}},
	{"parent is the snapshot itself", false, func(s *tamper) {
		s.unsigned("alone")
		s.replaceIn(meta("alone"), `"parent": ""`, `"parent": "alone"`)
	}, []wanted{{meta("alone"), false, "parent is the snapshot itself"}}},
	{"parent is active", false, func(s *tamper) { s.onto("view", "alone") }, []wanted{{meta("view"), false, "not committed"}}},
	{"parent is missing", false, func(s *tamper) { s.remove(dirOf("base")) },
		[]wanted{{"snapshots", false, "1 of 6"}, {meta(long), false, `"base" is missing`}, {meta("view"), false, `"base" is missing`}}},
	{"parent of a name that the journal decides is missing", true, func(s *tamper) { s.remove(dirOf("base")) },
		[]wanted{{"snapshots", false, "1 of 6"}, {meta(long), false, `"base" is missing`}, {meta("view"), false, `"base" is missing`}}},
	{"parent in the file is missing, and the link leads to one", false, misspelt, []wanted{{meta("view"), false, `"bass" is missing`}}},
	{"parent in the file is active, and the link leads to one", false, func(s *tamper) {
		s.unsigned("view")
		s.replaceIn(meta("view"), `"parent": "base"`, `"parent": "alone"`)
	}, []wanted{{meta("view"), false, "not committed"}}},

	// Links.
	{"link is missing", false, func(s *tamper) { s.remove(linkOfName("view")) }, []wanted{{linkOfName("view"), true, "the link is missing"}}},
	{"link to another parent", true, func(s *tamper) { s.link(linkOfName("view"), format.LinkTarget("top")) },
		[]wanted{{linkOfName("view"), true, `leads to top, and its file says that its parent is "base"`}}},
	{"link where none should be", false, func(s *tamper) { s.link(linkOfName("alone"), format.LinkTarget("top")) },
		[]wanted{{linkOfName("alone"), true, "says that it has no parent"}}},
	{"link leads out of the store", false, func(s *tamper) { s.link(linkOfName("view"), "../../../etc") },
		[]wanted{{linkOfName("view"), true, "no snapshot's directory"}}},
	{"link is a file", false, func(s *tamper) { s.remove(linkOfName("view")); s.put(linkOfName("view"), "base") },
		[]wanted{{linkOfName("view"), true, "invalid argument"}}},

	// Identifiers.
	{"two with one identifier", false, func(s *tamper) { s.edit("view", func(m *format.Snapshot) { m.ID = "1" }) },
		[]wanted{{meta("view"), false, "same identifier, 1"}}},
	{"identifier that may be handed out", false, func(s *tamper) { s.edit("alone", func(m *format.Snapshot) { m.ID = "5000" }) },
		[]wanted{{meta("alone"), false, "5000 is not below"}}},

	// The journal.
	{"journal ends in a torn line", false, func(s *tamper) { s.append(`{"txn":`) }, []wanted{{"journal", true, "did not finish"}}},
	{"journal ends in a line that is not published", true, func(s *tamper) {
		data := s.read("journal")
		s.put("journal", data[:strings.LastIndexByte(data, '\n')]+"\x00"+data[strings.LastIndexByte(data, '\n')+1:])
	}, []wanted{{"journal", true, "did not finish"}}},
	{"header without its newline", false, func(s *tamper) { s.replaceIn("journal", "\n", "\x00") }, []wanted{{"journal", true, "did not finish"}}},
	{"journal is cut", true, func(s *tamper) { s.put("journal", strings.TrimRight(s.read("journal"), "\x00")) },
		[]wanted{{"journal", false, "cut off"}}},
	{"journal is damaged in the middle", true, func(s *tamper) { s.damageLine(2) }, []wanted{{"journal", false, "line of transaction"}}},
	{"last line of the journal is damaged", true, func(s *tamper) { s.damageLine(0) }, []wanted{{"journal", false, "line of transaction"}}},
	{"header is damaged", false, func(s *tamper) { s.replaceIn("journal", `"nextID":`, `"nextld":`) },
		[]wanted{{"journal", false, "checksum does not match"}}},
	{"header of another version", false, func(s *tamper) {
		s.put("journal", `{"format":"fsmeta journal","version":3,"txn":9,"nextID":99}`+"\n\x00\x00")
	}, []wanted{{"journal", false, "version"}}},
	{"journal is missing", false, func(s *tamper) { s.remove("journal") }, []wanted{{"journal", false, "missing"}}},
	{"journal is missing, and so is a parent", false, func(s *tamper) { s.remove("journal", dirOf("base")) },
		[]wanted{{"journal", false, "missing"}, {meta(long), false, `"base" is missing`}, {meta("view"), false, `"base" is missing`}}},
	{"journal is empty", false, func(s *tamper) { s.put("journal", "") }, []wanted{{"journal", false, "does not begin with a header"}}},
	{"journal is a directory", false, func(s *tamper) { s.remove("journal"); s.mkdir("journal") }, []wanted{{"journal", false, "not a regular file"}}},
	{"journal is a symlink", false, func(s *tamper) { s.move("journal", "lost+found"); s.link("journal", "lost+found") },
		[]wanted{{"journal", false, "it is a symlink"}}},

	// The tree beside the journal.
	{"tree is behind the journal", true, func(s *tamper) { s.remove(dirOf("view")) },
		[]wanted{{dirOf("view"), true, "does not have what the journal says"}}},
	{"something else is in the place of what the journal says", true, func(s *tamper) { s.remove(dirOf("view")); s.put(dirOf("view"), "") },
		[]wanted{{dirOf("view"), false, "does not have what the journal says: it is not a directory"}}},
	{"tree has what the journal says was removed", true, func(s *tamper) { s.set(snapshot("7", "gone", "", format.Active)) },
		[]wanted{{dirOf("gone"), true, "does not have what the journal says"}}},
	{"tree is ahead of the journal", false, func(s *tamper) { s.edit("alone", func(m *format.Snapshot) { m.Txn = 5000 }) },
		[]wanted{{meta("alone"), false, "of transaction 5000, and the journal ends at 10"}}},
	{"tree is ahead of the line", true, func(s *tamper) { s.edit("top", func(m *format.Snapshot) { m.Txn = 5000 }) },
		[]wanted{{dirOf("top"), true, "the tree has it as of transaction 5000, and the journal ends at 11"}}},

	// One snapshot.
	{"metadata of another name", false, func(s *tamper) { s.put(meta("alone"), s.read(meta("base"))) }, []wanted{{meta("alone"), false, `its name is "base"`}}},
	{"wrong checksum", false, func(s *tamper) { s.replaceIn(meta("view"), "active", "octive") }, []wanted{{meta("view"), false, "checksum does not match"}}},
	{"checksum deleted by hand", false, func(s *tamper) { s.unsigned("view") }, nil},
	{"checksum deleted by hand, with a typing error", false, func(s *tamper) {
		s.unsigned("view")
		s.replaceIn(meta("view"), "readonly", "readnoly")
	}, []wanted{{meta("view"), false, "readnoly"}}},
	{"metadata is empty", false, func(s *tamper) { s.put(meta("view"), "") }, []wanted{{meta("view"), false, "empty"}}},
	{"metadata is missing", false, func(s *tamper) { s.remove(meta("view")) }, []wanted{{meta("view"), false, "no such file"}}},
	{"metadata is a pipe", false, func(s *tamper) { s.remove(meta("view")); s.check(syscall.Mkfifo(s.at(meta("view")), format.FileMode)) },
		[]wanted{{meta("view"), false, "not a regular file"}}},
	{"metadata is a symlink", false, func(s *tamper) { s.move(meta("view"), dirOf("view")+"/x"); s.link(meta("view"), "x") },
		[]wanted{{meta("view"), false, "symlink"}, {dirOf("view") + "/x", true, "no part"}}},
	{"metadata is large", false, func(s *tamper) { s.check(os.Truncate(s.at(meta("view")), 1<<40)) }, []wanted{{meta("view"), false, "larger"}}},
	{"snapshot is a symlink", false, func(s *tamper) { s.move(dirOf("view"), "lost+found"); s.link(dirOf("view"), "../lost+found") },
		[]wanted{{meta("view"), false, "symlink"}}},
}

// misspelt changes the parent in the file of view, and not its link.
func misspelt(s *tamper) {
	s.unsigned("view")
	s.replaceIn(meta("view"), `"parent": "base"`, `"parent": "bass"`)
}

// wantFindings requires that these findings were made, in this order, beside what a repair has
// set aside, if anything.
func wantFindings(t testing.TB, dir string, got []Finding, want []wanted) {
	t.Helper()
	var left []Finding
	for _, f := range got {
		aside := f.Path == filepath.Join(dir, format.DamagedDir) && f.Harmless
		if !aside || len(want) > 0 && want[0].path == format.DamagedDir {
			left = append(left, f)
		}
	}
	for i := range max(len(left), len(want)) {
		if i >= len(left) || i >= len(want) || left[i].Path != filepath.Join(dir, want[i].path) ||
			left[i].Harmless != want[i].harmless || !strings.Contains(left[i].Problem, want[i].problem) {
			t.Fatalf("found:\n%+v\nwant %+v", left, want)
		}
		if left[i].Meaning == "" || left[i].Advice == "" || left[i].Repaired != "" {
			t.Errorf("not whole: %+v", left[i])
		}
	}
}

func (s *tamper) wantCheck(want ...wanted) {
	s.t.Helper()
	got, err := Check(bg, s.dir, nil)
	s.check(err)
	wantFindings(s.t, s.dir, got, want)
}

// Each kind of damage is found, and nothing else, and nothing is changed.
func TestCheck(t *testing.T) {
	for _, test := range checkTable {
		t.Run(test.name, func(t *testing.T) {
			s := specimen(t, test.killed)
			test.tamper(s)
			large := test.name == "metadata is large" // too large to be read here, too
			var before map[string]string
			if !large {
				before = parts(t, s.dir)
			}
			s.wantCheck(test.want...)
			if !large && !reflect.DeepEqual(parts(t, s.dir), before) {
				t.Error("something has changed")
			}
		})
	}
}

// Nothing is wrong with a store that is open, and what is in staging/ then is its own.
func TestCheckOpenStore(t *testing.T) {
	s := &tamper{t, filepath.Join(t.TempDir(), "store")}
	h := openStore(t, s.dir)
	lock := layout.NewLock(s.dir)
	s.check(lock.Share())
	s.wantCheck()
	for i := range 30 {
		h.create(fmt.Sprint("key/", i), "", format.Active)
		h.commit(map[string]*format.Snapshot{fmt.Sprint("key/", i-i%2): nil}) // of two, the second stays
		if i%10 == 0 {
			s.wantCheck()
		}
	}
	h.close(false)
	s.check(lock.Release())
	s.wantCheck()
}

// While a transaction holds the lock, the check does without.
func TestCheckWhileLocked(t *testing.T) {
	s := specimen(t, false)
	s.remove(linkOfName("view"))
	h := openStore(t, s.dir)
	s.check(h.w.Begin(bg))
	s.wantCheck(wanted{"staging", true, fmt.Sprintf("process %d", os.Getpid())})
	h.w.Release()
	h.w.End()
	h.close(false)
	s.wantCheck(wanted{linkOfName("view"), true, "missing"})
}

// Progress counts up to all snapshots.
func TestCheckProgress(t *testing.T) {
	s := specimen(t, true)
	var told []string
	_, err := Check(bg, s.dir, func(done, total int) { told = append(told, fmt.Sprintf("%d/%d", done, total)) })
	s.check(err)
	if got := strings.Join(told, " "); got != "1/6 2/6 3/6 4/6 5/6 6/6" {
		t.Errorf("progress %s", got)
	}
}

// What can't be checked or repaired is an error that says why.
func TestRefuses(t *testing.T) {
	cancelled, cancel := context.WithCancel(bg)
	cancel()
	store := specimen(t, false).dir
	other := specimen(t, false)
	other.replaceIn("layout", `"version":2`, `"version":3`)
	file := filepath.Join(t.TempDir(), "file")
	other.check(os.WriteFile(file, nil, format.FileMode))
	t.Chdir(store) // an empty path is not the working directory
	for name, test := range map[string]struct {
		ctx  context.Context
		dir  string
		want error
	}{
		"cancelled":               {cancelled, store, context.Canceled},
		"an empty directory":      {bg, t.TempDir(), fault.ErrNotStore},
		"a directory of no store": {bg, filepath.Dir(file), fault.ErrNotStore},
		"a file":                  {bg, file, fault.ErrNotStore},
		"nothing":                 {bg, file + ".gone", fs.ErrNotExist},
		"nothing, as no store":    {bg, file + ".gone", fault.ErrNotStore},
		"an empty path":           {bg, "", fault.ErrNotStore},
		"another version":         {bg, other.dir, fault.ErrNotStore},
	} {
		for what, run := range map[string]func(context.Context, string) ([]Finding, error){
			"Check": func(ctx context.Context, dir string) ([]Finding, error) { return Check(ctx, dir, nil) },
			"Repair": func(ctx context.Context, dir string) ([]Finding, error) {
				return Repair(ctx, dir, RepairOptions{}, nil)
			},
		} {
			before := parts(t, other.dir)
			if findings, err := run(test.ctx, test.dir); !errors.Is(err, test.want) || len(findings) > 0 {
				t.Errorf("%s of %s: %v, %v, want %v", what, name, findings, err, test.want)
			}
			if !reflect.DeepEqual(parts(t, other.dir), before) {
				t.Errorf("%s of %s has changed something", what, name)
			}
		}
	}
}

// A context that ends meanwhile ends the check.
func TestCheckCancelledMeanwhile(t *testing.T) {
	ctx, cancel := context.WithCancel(bg)
	_, err := Check(ctx, specimen(t, false).dir, func(int, int) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What stands in the place of a snapshot's directory is not to be edited, but moved away.
func TestCheckAdvisesToMoveAway(t *testing.T) {
	s := specimen(t, false)
	s.remove(dirOf("alone"))
	s.put(dirOf("alone"), "")
	findings, err := Check(bg, s.dir, nil)
	s.check(err)
	if i := slices.IndexFunc(findings, func(f Finding) bool { return f.Name == "alone" }); i < 0 || findings[i].Advice != adviseNoDir {
		t.Errorf("%+v, want the advice %q", findings, adviseNoDir)
	}
}

// Where the parent in a file can't be right, and the link may be, what to do says so; and a repair
// leaves the link as it is.
func TestAdvisesByLink(t *testing.T) {
	s := specimen(t, false)
	misspelt(s)
	const want = `the link beside the file leads to "base"`
	find := func(findings []Finding, err error) {
		t.Helper()
		s.check(err)
		if len(findings) != 1 || !strings.Contains(findings[0].Advice, want) {
			t.Errorf("%+v, want one with the advice %q", findings, want)
		}
	}
	find(Check(bg, s.dir, nil))
	find(Repair(bg, s.dir, RepairOptions{}, nil))
	if target, err := os.Readlink(s.at(linkOfName("view"))); err != nil || target != format.LinkTarget("base") {
		t.Errorf("after a repair the link leads to %q, %v", target, err)
	}
	look, err := OpenLook(s.dir)
	s.check(err)
	_, err = look.Walk(bg, func(sight Sight) error {
		if sight.Name == "view" && !strings.Contains(sight.Advice, want) {
			t.Errorf("a look advises %q", sight.Advice)
		}
		return nil
	})
	s.check(errors.Join(err, look.Close()))
	s.replaceIn(meta("view"), `"parent": "bass"`, `"parent": "base"`)
	s.wantCheck()
}
