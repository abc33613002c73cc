package fsmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// done is what Repair must say that it has done.
type done struct {
	path   string // below the store's directory
	repair string // a part of Repaired
}

const (
	isAside  = "it was set aside"
	isMended = "name and parent were set"
)

// repairTable is each repair: what it does, what is set aside, and which snapshots are
// there afterwards. The store is that of newSpecimen.
var repairTable = []struct {
	name   string
	killed bool
	tamper func(s *tamper)
	want   []done
	aside  []string // paths below damaged/TIME/ of files and symlinks, but for those of journals' content
	gone   []string // snapshots that can't be used any more
}{
	{"nothing", false, func(*tamper) {}, nil, nil, nil},
	{"nothing, after a kill", true, func(*tamper) {}, nil, nil, nil},
	{"layout missing", false, func(s *tamper) { s.remove("layout") },
		[]done{{"layout", "written again"}}, nil, nil},
	{"layout garbage", false, func(s *tamper) { s.put("layout", "garbage") },
		[]done{{"layout", "written again"}}, []string{"layout"}, nil},
	{"staging missing", false, func(s *tamper) { s.remove("staging") }, nil, nil, nil},
	{"journal missing", false, func(s *tamper) { s.remove("journal") },
		[]done{{"journal", "made anew"}}, nil, nil},
	{"journal empty", false, func(s *tamper) { s.put("journal", "") },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"journal with a damaged header", false, func(s *tamper) { s.replaceIn("journal", "nextID", "nextId0") },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"journal a symlink", false, func(s *tamper) {
		s.check(os.Rename(s.at("journal"), s.at("lost+found")))
		s.check(os.Symlink("lost+found", s.at("journal")))
	}, []done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"journal a directory", false, func(s *tamper) {
		s.remove("journal")
		s.check(os.Mkdir(s.at("journal"), dirMode))
		s.put("journal/note", "")
	}, []done{{"journal", "made anew"}}, []string{"journal/note"}, nil},
	{"journal a pipe", false, func(s *tamper) { s.remove("journal"); s.check(syscall.Mkfifo(s.at("journal"), fileMode)) },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"journal a socket", false, func(s *tamper) {
		s.remove("journal")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.at("journal")})
		s.check(err)
		l.SetUnlinkOnClose(false)
		s.check(l.Close())
	}, []done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"journal cut right behind its last line", true, func(s *tamper) {
		s.put("journal", strings.TrimRight(s.read("journal"), "\n\x00"))
	}, nil, nil, nil},
	{"journal damaged in the middle", true, func(s *tamper) { s.replaceIn("journal", `"synced":6`, `"synced":7`) },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"last line of the journal damaged", true, func(s *tamper) { s.replaceIn("journal", `"inodes":5`, `"inodes":7`) },
		[]done{{"journal", "made anew"}}, []string{"journal"}, nil},
	{"journal damaged, and the tree behind it", true, func(s *tamper) {
		s.replaceIn("journal", `"synced":6`, `"synced":7`)
		s.remove(dirOf(workDamageName))
	}, []done{{dirOf(workDamageName), "built from the journal"}, {"journal", "made anew"}}, []string{"journal"}, nil},
	{"tree behind the journal", true, func(s *tamper) { s.remove(dirOf(workDamageName)) }, nil, nil, nil},
	{"directory under another name", false, func(s *tamper) { s.check(os.Rename(s.at(dirOf("top")), s.at(dirOf("other")))) },
		[]done{{meta("other"), isMended}}, []string{meta("other"), link("other")}, nil},
	{"directory under no name", false, func(s *tamper) { s.check(os.Rename(s.at(dirOf("top")), s.at("snapshots/to p"))) },
		[]done{{"snapshots/to p", isMended}}, []string{"snapshots/to p/metadata.json", "snapshots/to p/parent"}, nil},
	{"directories under each other's name", false, func(s *tamper) {
		s.check(os.Rename(s.at(dirOf("top")), s.at("lost+found")))
		s.check(os.Rename(s.at(dirOf("base")), s.at(dirOf("top"))))
		s.check(os.Rename(s.at("lost+found"), s.at(dirOf("base"))))
	}, []done{{meta("base"), isMended}, {meta("top"), isMended}}, []string{meta("base"), link("base"), meta("top")}, nil},
	{"a copy under another name", false, func(s *tamper) {
		s.check(os.CopyFS(s.at(dirOf("other")), os.DirFS(s.at(dirOf("alone")))))
	}, []done{{meta("other"), isAside}}, []string{meta("other")}, nil},
	{"link to another parent", false, func(s *tamper) {
		s.remove(link("view"))
		s.check(os.Symlink(linkTarget("top"), s.at(link("view"))))
	}, []done{{meta("view"), isMended}}, []string{meta("view"), link("view")}, nil},
	{"link to nowhere", false, func(s *tamper) {
		s.remove(link("view"))
		s.check(os.Symlink("/etc", s.at(link("view"))))
	}, []done{{link("view"), isMended}}, []string{meta("view"), link("view")}, nil},
	{"link missing", false, func(s *tamper) { s.remove(link("view")) },
		[]done{{meta("view"), isMended}}, []string{meta("view")}, nil},
	{"link where none should be", false, func(s *tamper) { s.check(os.Symlink(linkTarget("base"), s.at(link("alone")))) },
		[]done{{meta("alone"), isMended}}, []string{meta("alone"), link("alone")}, nil},
	{"link of a chain's members missing", false, func(s *tamper) { s.remove(link("top")); s.remove(link(longDamageName)) },
		[]done{{meta(longDamageName), isMended}, {meta("top"), isMended}}, []string{meta(longDamageName), meta("top")}, nil},
	{"wrong checksum", false, func(s *tamper) { s.replaceIn(meta("alone"), "active", "committed") },
		[]done{{meta("alone"), isAside}}, []string{meta("alone")}, []string{"alone"}},
	{"wrong checksum of what others stand on", false, func(s *tamper) { s.replaceIn(meta("top"), "commit", "commut") },
		[]done{{meta("top"), isAside}, {dirOf(workDamageName), isAside}},
		[]string{meta("top"), link("top"), meta(workDamageName), link(workDamageName)}, []string{"top", workDamageName}},
	{"base of all missing", false, func(s *tamper) { s.remove(dirOf("base")) },
		[]done{{dirOf(longDamageName), isAside}, {dirOf("view"), isAside}, {link("top"), isAside}, {dirOf(workDamageName), isAside}},
		[]string{meta(longDamageName), link(longDamageName), meta("view"), link("view"), meta("top"), link("top"), meta(workDamageName), link(workDamageName)},
		[]string{"base", longDamageName, "top", "view", workDamageName}},
	{"parent missing of a name that the journal decides", true, func(s *tamper) { s.remove(dirOf("base")) },
		[]done{{dirOf(longDamageName), isAside}, {dirOf("view"), isAside}, {dirOf("top"), isAside}, {dirOf(workDamageName), isAside}},
		[]string{meta(longDamageName), link(longDamageName), meta("view"), link("view"), meta("top"), link("top"), meta(workDamageName), link(workDamageName)},
		[]string{"base", longDamageName, "top", "view", workDamageName}},
	{"circle", false, func(s *tamper) { s.onto("alone", "loop"); s.set(loop("loop", "alone")) },
		[]done{{dirOf("alone"), isAside}, {dirOf("loop"), isAside}}, []string{meta("alone"), link("alone"), meta("loop"), link("loop")}, []string{"alone"}},
	{"circle of one, and what stands on it", false, func(s *tamper) { s.set(loop("loop", "loop")); s.onto("view", "loop") },
		[]done{{dirOf("loop"), isAside}, {dirOf("view"), isAside}}, []string{meta("loop"), link("loop"), meta("view"), link("view")}, []string{"view"}},
	{"link mended, and its parent given up", false, func(s *tamper) {
		s.remove(link("top"))   // can be mended: top stands on what there is,
		s.remove(dirOf("base")) // but that stands on what is missing
	}, []done{{meta("top"), isMended}, {dirOf(longDamageName), isAside}, {dirOf("view"), isAside}, {dirOf("top"), isAside}, {dirOf(workDamageName), isAside}},
		nil, []string{"base", longDamageName, "top", "view", workDamageName}},
	{"foreign file in snapshots", false, func(s *tamper) { s.put("snapshots/notes 2", "x") },
		[]done{{"snapshots/notes 2", isAside}}, []string{"snapshots/notes 2"}, nil},
	{"foreign directory in snapshots", false, func(s *tamper) {
		s.check(os.Mkdir(s.at("snapshots/backup"), dirMode))
		s.put("snapshots/backup/x", "x")
	}, []done{{"snapshots/backup/metadata.json", isAside}}, []string{"snapshots/backup/x"}, nil},
	{"foreign file in a directory that is mended", false, func(s *tamper) { s.remove(link("view")); s.put(dirOf("view")+"/notes", "x") },
		[]done{{meta("view"), isMended}}, []string{meta("view"), dirOf("view") + "/notes"}, nil},
	{"identifier that may be handed out", false, func(s *tamper) { s.edit("alone", func(m *metadata) { m.id = "5000" }) },
		[]done{{"journal", "go on at 5001"}}, nil, []string{"alone"}},
	{"several things", false, func(s *tamper) {
		s.remove("layout")
		s.remove("staging")
		s.put("snapshots/.x", "x")
		s.put(meta("alone"), "")
	}, []done{{"layout", "written again"}, {"snapshots/.x", isAside}, {meta("alone"), isAside}}, []string{"snapshots/.x", meta("alone")}, []string{"alone"}},
}

func loop(name, parent string) metadata {
	return metadata{id: "77", name: name, parent: parent, kind: KindCommitted, readonly: true, created: now(), updated: now()}
}

// asideParts returns what is below damaged/TIME/, by paths without TIME.
func asideParts(t *testing.T, dir string) parts {
	t.Helper()
	aside := parts{}
	for path, n := range readParts(t, dir) {
		if inside := strings.SplitN(path, "/", 3); inside[0] == damagedDir && len(inside) == 3 && n.kind != fs.ModeDir {
			aside[inside[2]] = n
		}
	}
	return aside
}

// Each repair says what it has done and sets aside what it replaces; nothing is left to be
// found, and a second one does nothing.
func TestRepair(t *testing.T) {
	specimen := specimens(t)
	for _, test := range repairTable {
		t.Run(test.name, func(t *testing.T) {
			sp := specimen(test.killed)
			s := tampered(t, sp)
			test.tamper(s)
			findings, err := Repair(bg, s.dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := range max(len(findings), len(test.want)) {
				if i >= len(findings) || i >= len(test.want) || findings[i].Path != s.at(test.want[i].path) || !strings.Contains(findings[i].Repaired, test.want[i].repair) {
					t.Fatalf("found and repaired:\n%v\nwant %v", findings, test.want)
				}
			}
			aside := asideParts(t, s.dir)
			if test.aside != nil || len(test.gone) == 0 {
				want := slices.Sorted(slices.Values(test.aside))
				if got := slices.Sorted(maps.Keys(aside)); !slices.Equal(got, want) {
					t.Errorf("set aside:\n%q\nwant %q", got, want)
				}
			}
			wantCheck(t, s.dir)
			v := &verdict{t: t}
			how := reading{touched: map[string]bool{}, newcomers: map[string]bool{}, repaired: true}
			for _, name := range test.gone {
				how.touched[name] = true
			}
			if test.name != "identifier that may be handed out" { // which is another than before
				sp.judgeReads(v, damage{what: test.name, kind: "repair", paths: []string{"journal"}}, "repaired", s.dir, how)
			}
			v.tell()
			before := readParts(t, s.dir)
			findings, err = Repair(bg, s.dir, nil)
			if err != nil {
				t.Errorf("the second time: %v", err)
			}
			wantFindings(t, s.dir, findings, nil)
			if !reflect.DeepEqual(readParts(t, s.dir), before) {
				t.Error("the second time something changes")
			}
		})
	}
}

// What Repair sets aside is as it was.
func TestRepairSetsAsideUnchanged(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	s.replaceIn(meta("view"), "active", "acteve")
	want := s.read(meta("view"))
	if _, err := Repair(bg, s.dir, nil); err != nil {
		t.Fatal(err)
	}
	aside := asideParts(t, s.dir)
	if aside[meta("view")].content != want || aside[link("view")].content != linkTarget("base") {
		t.Errorf("set aside: %v", aside)
	}
}

// Two with one identifier, and a parent that is active, are told and left alone.
func TestRepairLeavesAlone(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	s.edit("view", func(m *metadata) { m.id = "1" })
	s.onto("top", "alone")
	findings, err := Repair(bg, s.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFindings(t, s.dir, findings, []wanted{{link("top"), false, "not committed"}, {meta("view"), false, "same identifier"}})
	if len(asideParts(t, s.dir)) > 0 {
		t.Error("something was set aside")
	}
}

// Repair refuses a store that anybody has open, whoever it is, and changes nothing.
func TestRepairInUse(t *testing.T) {
	for name, open := range map[string]func(t *testing.T, dir string) (end func()){
		"here": func(t *testing.T, dir string) func() {
			s := openTest(t, dir)
			return func() { s.Close() }
		},
		"here, read-only": func(t *testing.T, dir string) func() {
			s := openTest(t, dir, ReadOnly())
			return func() { s.Close() }
		},
		"in another process": func(t *testing.T, dir string) func() {
			r := startRole(t, "holder", dir)
			return func() {
				if err := r.cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				<-r.tail
			}
		},
		"in another process, read-only": func(t *testing.T, dir string) func() {
			r := startRole(t, "reader", dir)
			return func() {
				if err := r.cmd.Process.Kill(); err != nil {
					t.Error(err)
				}
				<-r.tail
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tampered(t, newSpecimen(t, false))
			s.put(meta("view"), "")
			end := open(t, s.dir)
			before := readParts(t, s.dir)
			if findings, err := Repair(bg, s.dir, nil); !errors.Is(err, ErrInUse) || len(findings) > 0 {
				t.Errorf("%v, %v", findings, err)
			}
			if !reflect.DeepEqual(readParts(t, s.dir), before) {
				t.Error("something has changed")
			}
			end()
			if findings, err := Repair(bg, s.dir, nil); err != nil || len(findings) != 1 {
				t.Errorf("once it is closed: %v, %v", findings, err)
			}
		})
	}
}

// A symlink in the place of a directory leads nobody to change what is elsewhere.
func TestRepairFollowsNoLinks(t *testing.T) {
	for _, path := range []string{snapshotsDir, stagingDir, damagedDir} {
		t.Run(path, func(t *testing.T) {
			s := tampered(t, newSpecimen(t, false))
			elsewhere := &tamper{t, filepath.Join(fastDir(t), "elsewhere")}
			s.check(os.MkdirAll(elsewhere.at("precious"), dirMode))
			elsewhere.put("precious/file", "x")
			elsewhere.put("file", "x")
			s.put(meta("view"), "")
			if path != damagedDir {
				s.check(os.Rename(s.at(path), s.at("lost+found")))
			}
			s.check(os.Symlink(elsewhere.dir, s.at(path)))
			before := readParts(t, elsewhere.dir)
			_, err := Repair(bg, s.dir, nil)
			if !reflect.DeepEqual(readParts(t, elsewhere.dir), before) {
				t.Errorf("something elsewhere has changed: %v", readParts(t, elsewhere.dir))
			}
			if err == nil && path == snapshotsDir {
				t.Error("it says that the store is repaired")
			}
		})
	}
}

// Opening a store for writing deletes nothing elsewhere, where staging/ is a symlink.
func TestStagingIsASymlink(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	elsewhere := &tamper{t, filepath.Join(fastDir(t), "elsewhere")}
	s.check(os.MkdirAll(elsewhere.at("precious"), dirMode))
	elsewhere.put("precious/file", "x")
	s.remove(stagingDir)
	s.check(os.Symlink(elsewhere.dir, s.at(stagingDir)))
	before := readParts(t, elsewhere.dir)
	if store, err := Open(s.dir); err == nil {
		_ = create(store, "x", "") // it may fail
		store.Close()
	}
	if !reflect.DeepEqual(readParts(t, elsewhere.dir), before) {
		t.Errorf("something elsewhere has changed: %v", readParts(t, elsewhere.dir))
	}
}

// An older journal in the place of the store's own is found out by what the tree has: no
// identifier is handed out twice after a repair.
func TestRepairOlderJournal(t *testing.T) {
	s := &tamper{t, filepath.Join(fastDir(t), "store")}
	store, err := Open(s.dir)
	s.check(err)
	mustCreate(t, store, "first")
	s.check(store.Close())
	old := s.read(journalFile)
	store, err = Open(s.dir)
	s.check(err)
	mustCreate(t, store, "second")
	info, err := store.Stat(bg, "second")
	s.check(err)
	s.check(store.Close())

	s.put(journalFile, old)
	wantCheck(t, s.dir, wanted{journalFile, false, "it ends with transaction"}, wanted{meta("second"), false, "is not below"})
	_, err = Repair(bg, s.dir, nil)
	s.check(err)
	wantCheck(t, s.dir)
	store = openTest(t, s.dir)
	mustCreate(t, store, "third")
	third, err := store.Stat(bg, "third")
	s.check(err)
	if n, err := parseID(third.ID); err != nil || n < unknownIDs {
		t.Errorf("identifier %s is handed out after %s (%v)", third.ID, info.ID, err)
	}
}

// A wrong link is mended whatever is in the labels.
func TestRepairLinkBesideEscapes(t *testing.T) {
	s := &tamper{t, filepath.Join(fastDir(t), "store")}
	store, err := Open(s.dir)
	s.check(err)
	mustCreate(t, store, "k")
	err = store.WithTransaction(bg, true, func(ctx context.Context) error {
		if _, err := store.Commit(ctx, "k", "base"); err != nil {
			return err
		}
		_, err := store.Create(ctx, "a", "base", false, WithLabels(map[string]string{"k": `{"a":1}`}))
		return err
	})
	s.check(errors.Join(err, store.Close()))
	s.remove(link("a"))
	findings, err := Repair(bg, s.dir, nil)
	if err != nil || len(findings) != 1 || findings[0].Repaired == "" || findings[0].Aside != "" {
		t.Errorf("%v, %v", findings, err)
	}
	wantCheck(t, s.dir)
}

// harm does to a store what needs most of what Repair can do. Its journal says that
// identifiers below 5,000,000 were handed out, and one of its lines is damaged.
func harm(s *tamper) {
	h, ok := ownHeader([]byte(s.read("journal")[:strings.IndexByte(s.read("journal"), '\n')]))
	if !ok {
		s.t.Fatal("no header")
	}
	_, lines, _ := strings.Cut(s.read("journal"), "\n")
	s.put("journal", string(encodeHeader(header{h.txn, 5_000_000, h.prev}))+"\n"+lines)
	s.replaceIn("journal", `"synced":6`, `"synced":7`)
	s.remove(dirOf(workDamageName))
	s.check(os.Rename(s.at(dirOf("top")), s.at(dirOf("other"))))
	s.swap(dirOf("base"), dirOf(longDamageName)) // each is in the way of the other's only copy
	s.remove(link("view"))
	s.put(dirOf("view")+"/notes", "the only copy")
	s.check(syscall.Mkfifo(s.at(dirOf("view")+"/pipe"), fileMode))
	s.replaceIn(meta("alone"), "active", "acteve")
	s.put("snapshots/notes 2", "x")
}

// judgeHarmed requires that the store that was harmed is repaired.
func judgeHarmed(t *testing.T, sp *specimen, s *tamper, before parts) {
	t.Helper()
	_, err := Repair(bg, s.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantCheck(t, s.dir)
	v := &verdict{t: t}
	d := damage{what: "harmed", kind: "harmed", paths: []string{journalFile}, after: before}
	how := reading{touched: map[string]bool{"alone": true}, newcomers: map[string]bool{}, repaired: true}
	sp.judgeReads(v, d, "repaired", s.dir, how)
	after := map[part]bool{}
	for _, n := range readParts(t, s.dir) {
		after[n] = true
	}
	for path, n := range before {
		if n.kind != fs.ModeDir && !after[n] && !strings.HasPrefix(path, stagingDir+"/") {
			v.add(d, "the only copy is gone", "of %s", path)
		}
	}
	v.tell()
	store := openTest(t, s.dir)
	mustCreate(t, store, "newcomer")
	info, err := store.Stat(bg, "newcomer")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := parseID(info.ID); err != nil || id < 5_000_000 {
		t.Errorf("identifier %s is handed out again", info.ID)
	}
}

// All at once is repaired.
func TestRepairHarmed(t *testing.T) {
	sp := newSpecimen(t, true)
	s := tampered(t, sp)
	harm(s)
	judgeHarmed(t, sp, s, readParts(t, s.dir))
}

const repairVariable = "FSMETA_TEST_REPAIR"

// TestRepairChild is the process that is killed by the next tests.
func TestRepairChild(t *testing.T) {
	dir := os.Getenv(repairVariable)
	if dir == "" {
		t.Skip("it is run by other tests")
	}
	if _, err := Repair(bg, dir, nil); err != nil {
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

// eachInjection repeats a repair that something happens to, at every point.
func eachInjection(t *testing.T, what string, calls []string, judge func(t *testing.T, sp *specimen, s *tamper, before parts)) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	sp := newSpecimen(t, true)
	for _, call := range calls {
		for n := 1; ; n++ {
			s := tampered(t, sp)
			harm(s)
			before := readParts(t, s.dir)
			if !injected(t, s.dir, call, what, n) {
				break
			}
			t.Run(fmt.Sprint(call, " ", n), func(t *testing.T) {
				judge(t, sp, &tamper{t, s.dir}, before)
			})
		}
	}
}

// A repair that is killed at any point can be repeated, and has lost nothing.
func TestRepairKilled(t *testing.T) {
	eachInjection(t, "signal=KILL", []string{"renameat2", "renameat", "mkdirat"}, judgeHarmed)
}

// A repair that fails at any point leaves a store that can still be read, and can be repeated.
func TestRepairFails(t *testing.T) {
	eachInjection(t, "error=ENOSPC", []string{"renameat2", "renameat", "fsync", "mkdirat"}, func(t *testing.T, sp *specimen, s *tamper, before parts) {
		store, err := Open(s.dir, ReadOnly())
		if err != nil {
			t.Errorf("it can't be read any more: %v", err)
		} else {
			if _, err := store.Stat(bg, "base"); err != nil && !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
		judgeHarmed(t, sp, s, before)
	})
}

// A repair whose context ends can be repeated.
func TestRepairCancelled(t *testing.T) {
	sp := newSpecimen(t, true)
	for stop := range 12 {
		s := tampered(t, sp)
		harm(s)
		before := readParts(t, s.dir)
		ctx, cancel := context.WithCancel(bg)
		n := 0
		_, err := Repair(ctx, s.dir, func(int, int) {
			if n++; n > stop {
				cancel()
			}
		})
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		judgeHarmed(t, sp, s, before)
	}
}
