package fsmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The tests in this file damage a small store in every way that one mistake can: each bit
// of each file flipped, each file cut, each part deleted, exchanged with another, each
// link led elsewhere. Whatever was done, the store must give the answers it gave before,
// or errors; snapshots that the damage is not about must not notice; Check must find it
// and Repair must mend it, or set it aside.
//
// FSMETA_TEST_RUNS, set to anything, makes them flip each bit instead of one of each byte,
// cut at each byte, and write to and repair more of the damaged stores: that takes minutes.
var damageThorough = os.Getenv("FSMETA_TEST_RUNS") != ""

// What can't be told from a healthy store by what layout.md says, and is therefore not
// required of reads:
//
//   - The directory of a snapshot is deleted on which no other stands, and no line names it:
//     it may have been removed. If others stand on it, they are damaged, and it alone
//     answers that it does not exist.
//   - staging/ and snapshots/ change places: it is an empty store, with garbage in
//     staging/, for who looks up names. (Check and Repair have to see it.)
//   - The line that removed a snapshot is damaged, and an earlier one that names it is not:
//     the snapshot may be shown again ("With a damaged journal").

// specimen is a store before it is damaged.
type specimen struct {
	parts   parts
	infos   map[string]Info
	actives map[string]Active
	lines   map[string]bool // names that the journal decides
	removed map[string]bool // names that were removed by lines
	maxID   uint64          // handed out so far
}

// parts is what is in a store, by the paths below its directory.
type parts map[string]part

type part struct {
	kind    fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
	content string      // of a file, or where the symlink points
}

// readParts reads a directory.
func readParts(t testing.TB, dir string) parts {
	t.Helper()
	p := parts{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		n := part{kind: d.Type()}
		switch d.Type() {
		case 0:
			data, rerr := os.ReadFile(path)
			n.content, err = string(data), rerr
		case fs.ModeSymlink:
			n.content, err = os.Readlink(path)
		}
		p[path[len(dir)+1:]] = n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// write makes a directory of the parts, in a place of its own.
func (p parts) write(t testing.TB, root string) string {
	t.Helper()
	dir, err := os.MkdirTemp(root, "store")
	for _, path := range slices.Sorted(maps.Keys(p)) {
		n, at := p[path], dir+"/"+path
		switch n.kind {
		case fs.ModeDir:
			err = errors.Join(err, os.Mkdir(at, dirMode))
		case fs.ModeSymlink:
			err = errors.Join(err, os.Symlink(n.content, at))
		default:
			err = errors.Join(err, os.WriteFile(at, []byte(n.content), fileMode))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// under returns the paths of a part and of all that is in it.
func (p parts) under(path string) (paths []string) {
	for at := range p {
		if at == path || strings.HasPrefix(at, path+"/") {
			paths = append(paths, at)
		}
	}
	return paths
}

// with returns a copy in which one part is another.
func (p parts) with(path string, n part) parts {
	q := maps.Clone(p)
	q[path] = n
	return q
}

// without returns a copy that lacks a part and what is in it.
func (p parts) without(path string) parts {
	q := maps.Clone(p)
	for _, at := range p.under(path) {
		delete(q, at)
	}
	return q
}

// exchanged returns a copy in which two parts have changed places.
func (p parts) exchanged(a, b string) parts {
	q := p.without(a).without(b)
	for _, at := range p.under(a) {
		q[b+at[len(a):]] = p[at]
	}
	for _, at := range p.under(b) {
		q[a+at[len(b):]] = p[at]
	}
	return q
}

// fastDir returns a directory for many small files, in memory where there is one.
func fastDir(t testing.TB) string {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "fsmeta-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

var (
	longDamageName = "long/" + strings.Repeat("é", 150)
	workDamageName = "é/work"
)

// newSpecimen makes a store: base < long < top < work, a view of base, and one alone. It is
// closed, or, if killed, as its process would leave it with six transactions in the journal.
func newSpecimen(t testing.TB, killed bool) *specimen {
	t.Helper()
	dir := filepath.Join(fastDir(t), "original")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	do := func(steps ...func(ctx context.Context) error) {
		t.Helper()
		for _, step := range steps {
			if err := s.WithTransaction(bg, true, step); err != nil {
				t.Fatal(err)
			}
		}
	}
	add := func(key, parent string, readonly bool, opts ...SnapshotOption) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.Create(ctx, key, parent, readonly, opts...); return err }
	}
	commit := func(key, name string, opts ...SnapshotOption) func(context.Context) error {
		return func(ctx context.Context) error { _, err := s.CommitActive(ctx, key, name, opts...); return err }
	}
	labels := WithLabels(map[string]string{"containerd.io/gc.root": "2026", "ü": "ß"})
	do(add("k", "", false), commit("k", "base", labels, WithUsage(Usage{3, 4096})),
		add("k", "base", false), commit("k", longDamageName),
		add("alone", "", false, labels))
	if killed {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dir); err != nil {
			t.Fatal(err)
		}
	}
	do(add("k", longDamageName, false), commit("k", "top"),
		add("view", "base", true), add(workDamageName, "top", false), add("gone", "", false),
		func(ctx context.Context) error { _, err := s.Remove(ctx, "gone"); return err },
		func(ctx context.Context) error { _, err := s.SetUsage(ctx, workDamageName, Usage{5, 6}); return err })

	sp := &specimen{infos: map[string]Info{}, actives: map[string]Active{}, lines: map[string]bool{}, removed: map[string]bool{}}
	for info, err := range s.All(bg) {
		if err != nil {
			t.Fatal(err)
		}
		sp.infos[info.Name] = info
		if info.Kind == KindActive {
			if sp.actives[info.Name], err = s.GetActive(bg, info.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	last, err := s.NewID(bg)
	if err != nil {
		t.Fatal(err)
	}
	if sp.maxID, err = parseID(last); err != nil {
		t.Fatal(err)
	}
	if killed {
		sp.parts = readParts(t, dir)
		for path := range sp.parts {
			if strings.HasPrefix(path, stagingDir+"/") {
				delete(sp.parts, path) // what it keeps to use again is no part of the test
			}
		}
		text := strings.TrimRight(sp.parts[journalFile].content, "\x00")
		sp.parts[journalFile] = part{content: text + strings.Repeat("\x00", 64)}
		var all scanned
		all.scanRest([]byte(text), 0, 0)
		for _, l := range all.stray {
			r, err := l.decode()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range r.changes {
				sp.lines[c.name] = true
				if _, there := sp.infos[c.name]; !there {
					sp.removed[c.name] = true
				}
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !killed {
		sp.parts = readParts(t, dir)
		text := strings.TrimRight(sp.parts[journalFile].content, "\x00")
		sp.parts[journalFile] = part{content: text + strings.Repeat("\x00", 64)}
	}
	if len(sp.infos) != 6 || killed && len(sp.lines) != 5 {
		t.Fatalf("the store is not as it should be: %v, lines about %v", sp.infos, sp.lines)
	}
	return sp
}

// a damage is one thing done to a store.
type damage struct {
	what  string   // for people
	kind  string   // "flip" and so on
	paths []string // what it was done to
	after parts
}

// flips returns every flip of one bit in a file: a bit of each byte, or, in the long form, each.
func (sp *specimen) flips(path string) (all []damage) {
	text := sp.parts[path].content
	for off := range len(text) {
		for bit := range 8 {
			if bit != off%8 && !damageThorough {
				continue
			}
			b := []byte(text)
			b[off] ^= 1 << bit
			all = append(all, damage{fmt.Sprintf("bit %d of byte %d of %d of %s flipped", bit, off, len(text), path), "flip",
				[]string{path}, sp.parts.with(path, part{content: string(b)})})
		}
	}
	return all
}

// cuts returns the truncations of a file; all at the ends of lines, of the others one in seven.
func (sp *specimen) cuts(path string) (all []damage) {
	text := sp.parts[path].content
	for n := range len(text) {
		line := n > 0 && text[n-1] == '\n' || text[n] == '\n'
		if n%7 != 0 && !line && !damageThorough {
			continue
		}
		all = append(all, damage{fmt.Sprintf("%s cut to %d of %d bytes", path, n, len(text)), "cut",
			[]string{path}, sp.parts.with(path, part{content: text[:n]})})
	}
	return all
}

// losses returns the deletion of each part.
func (sp *specimen) losses() (all []damage) {
	for _, path := range slices.Sorted(maps.Keys(sp.parts)) {
		all = append(all, damage{path + " deleted", "loss", []string{path}, sp.parts.without(path)})
	}
	return all
}

// swaps returns the exchange of each part with each other of its kind.
func (sp *specimen) swaps() (all []damage) {
	paths := slices.Sorted(maps.Keys(sp.parts))
	for i, a := range paths {
		for _, b := range paths[i+1:] {
			x, y := sp.parts[a], sp.parts[b]
			if x.kind != y.kind || strings.HasPrefix(b, a+"/") || x == y && x.kind != fs.ModeDir {
				continue
			}
			all = append(all, damage{a + " and " + b + " exchanged", "swap", []string{a, b}, sp.parts.exchanged(a, b)})
		}
	}
	return all
}

// strayLinks returns each symlink led to each snapshot that it did not point at, and elsewhere.
func (sp *specimen) strayLinks() (all []damage) {
	targets := []string{"../../etc", "/", "/etc/passwd", "..", ".", "../", "../.", "../..", "nothing", "../nothing", "base", "../base/", "../../snapshots/base", strings.Repeat("x", 4000)}
	for name := range sp.infos {
		targets = append(targets, linkTarget(name))
	}
	slices.Sort(targets)
	for _, path := range slices.Sorted(maps.Keys(sp.parts)) {
		was := sp.parts[path]
		for _, target := range targets {
			if was.kind == fs.ModeSymlink && target != was.content {
				all = append(all, damage{fmt.Sprintf("%s led to %.80q", path, target), "link",
					[]string{path}, sp.parts.with(path, part{fs.ModeSymlink, target})})
			}
		}
	}
	return all
}

// nameOf returns the snapshot that a path is a part of, "" if of none.
func (sp *specimen) nameOf(path string) string {
	for name := range sp.infos {
		if at := snapshotsDir + "/" + encodeName(name); path == at || strings.HasPrefix(path, at+"/") {
			return name
		}
	}
	return ""
}

// touched returns the snapshots that a damage is about: those whose directories it was
// done to, if the tree decides them, and what stands on these; where the journal is
// damaged, those that it decides; and all, where they were taken away.
func (sp *specimen) touched(d damage) map[string]bool {
	touched := map[string]bool{}
	journalToo := slices.Contains(d.paths, journalFile)
	for _, path := range d.paths {
		switch name := sp.nameOf(path); {
		case name != "" && (!sp.lines[name] || journalToo):
			touched[name] = true
		case path == journalFile:
			maps.Copy(touched, sp.lines)
		case path == snapshotsDir:
			for name := range sp.infos {
				touched[name] = true
			}
		}
	}
	for range sp.infos { // as often as the longest chain is long, at most
		for name, info := range sp.infos {
			if touched[info.Parent] {
				touched[name] = true
			}
		}
	}
	return touched
}

// mayVanish returns the snapshots of which nothing is left, so that nobody can know that they were
// there; see above.
func (sp *specimen) mayVanish(d damage) map[string]bool {
	gone := map[string]bool{}
	emptied := slices.Contains(d.paths, snapshotsDir) // and staging/ in its place
	for name := range sp.infos {
		if _, there := d.after[snapshotsDir+"/"+encodeName(name)]; (!there || emptied) && !sp.lines[name] {
			gone[name] = true
		}
	}
	return gone
}

// verdict collects what is wrong, by kinds.
type verdict struct {
	t      testing.TB
	counts map[string]int
	first  map[string]string
}

func (v *verdict) add(d damage, problem, format string, args ...any) {
	if v.counts == nil {
		v.counts, v.first = map[string]int{}, map[string]string{}
	}
	problem = d.kind + ": " + problem
	if v.counts[problem]++; v.counts[problem] == 1 {
		v.first[problem] = d.what + ": " + fmt.Sprintf(format, args...)
	}
}

func (v *verdict) tell() {
	v.t.Helper()
	for _, problem := range slices.Sorted(maps.Keys(v.counts)) {
		v.t.Errorf("%s (%d times, first: %s)", problem, v.counts[problem], v.first[problem])
	}
}

// guard runs a part of a judgement, which must not panic.
func (v *verdict) guard(d damage, part string, fn func()) {
	defer func() {
		if r := recover(); r != nil {
			v.add(d, part+" panics", "%v", r)
		}
	}()
	fn()
}

// reading is how the snapshots are to be judged.
type reading struct {
	touched   map[string]bool
	vanish    map[string]bool
	newcomers map[string]bool // may be there, too
	repaired  bool            // no errors any more; what was touched may be gone
}

// judgeReads requires that every answer is the one before the damage, or, for what it touched, an
// error. It reports whether there was any error.
func (sp *specimen) judgeReads(v *verdict, d damage, when, dir string, how reading) (failed bool) {
	s, err := Open(dir, ReadOnly())
	if err != nil {
		if strings.HasPrefix(d.paths[0], snapshotsDir+"/") && strings.HasPrefix(d.paths[len(d.paths)-1], snapshotsDir+"/") || how.repaired {
			v.add(d, when+": the store can't be opened", "%v", err)
		}
		return true
	}
	defer s.Close()
	seen := map[string]bool{}
	walked := s.Walk(bg, func(_ context.Context, info Info) error {
		was, known := sp.infos[info.Name]
		seen[info.Name] = true
		switch {
		case !known && !how.newcomers[info.Name]:
			v.add(d, when+": a walk shows what was not there", "%q", info.Name)
		case known && !reflect.DeepEqual(info, was):
			v.add(d, when+": a walk gives a wrong answer", "%+v, was %+v", info, was)
		}
		return nil
	})
	ids, idErr := s.IDs(bg)
	failed = walked != nil || idErr != nil
	if failed && (how.repaired || len(how.touched) == 0) {
		v.add(d, when+": a walk fails", "%v", errors.Join(walked, idErr))
	}
	for id, name := range ids {
		if was, known := sp.infos[name]; known && was.ID != id {
			v.add(d, when+": IDs gives a wrong answer", "%s is %q", id, name)
		}
	}
	for name, was := range sp.infos {
		excused := how.touched[name]
		mayMiss := how.vanish[name] || how.repaired && excused
		if !seen[name] && !mayMiss && (!excused || walked == nil) {
			v.add(d, when+": a walk does not show a snapshot", "%.64q, %v", name, walked)
		}
		if ids[was.ID] == "" && !mayMiss && (!excused || idErr == nil) {
			v.add(d, when+": IDs does not have a snapshot", "%.64q, %v", name, idErr)
		}
		info, err := s.Stat(bg, name)
		if sp.judgeAnswer(v, d, when+": Stat", name, err, err == nil && !reflect.DeepEqual(info, was), excused, mayMiss) {
			failed = true
		}
		if was.Kind == KindActive {
			active, err := s.GetActive(bg, name)
			wrong := err == nil && !reflect.DeepEqual(active, sp.actives[name])
			if sp.judgeAnswer(v, d, when+": GetActive", name, err, wrong, excused, mayMiss) {
				failed = true
			}
		}
	}
	return failed
}

// judgeAnswer judges one answer, and reports whether it was an error.
func (sp *specimen) judgeAnswer(v *verdict, d damage, what, name string, err error, wrong, excused, mayMiss bool) bool {
	switch {
	case wrong:
		v.add(d, what+" gives a wrong answer", "%.64q", name)
	case errors.Is(err, ErrNotExist) && !mayMiss:
		v.add(d, what+" says that it does not exist", "%.64q", name)
	case err != nil && !excused && !mayMiss:
		v.add(d, what+" fails for what was not touched", "%.64q: %v", name, err)
	case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotExist):
		v.add(d, what+" fails without saying that it is damaged", "%.64q: %v", name, err)
	}
	return err != nil && !mayMiss
}

// judgeWrites requires that a transaction works or is refused, and that nothing else changes. It reports whether
// it was refused.
func (sp *specimen) judgeWrites(v *verdict, d damage, when, dir string, how reading) (refused bool) {
	s, err := Open(dir, MustExist())
	if err != nil {
		return true
	}
	var id string
	err = s.WithTransaction(bg, true, func(ctx context.Context) error {
		active, err := s.CreateActive(ctx, "newcomer", "", false)
		id = active.ID
		return err
	})
	if err == nil {
		if n, perr := parseID(id); perr != nil || n <= sp.maxID {
			v.add(d, when+": an identifier is handed out again", "%s, handed out before up to %d", id, sp.maxID)
		}
	} else if !errors.Is(err, ErrDamaged) {
		v.add(d, when+": a write fails without saying that it is damaged", "%v", err)
	}
	if cerr := s.Close(); cerr != nil {
		v.add(d, when+": Close fails", "%v", cerr)
	}
	how.newcomers = maps.Clone(how.newcomers)
	how.newcomers["newcomer"] = true
	sp.judgeReads(v, d, when+", then written", dir, how)
	return err != nil
}

// judgeCheck runs Check and reports whether it found anything that is not harmless.
func (sp *specimen) judgeCheck(v *verdict, d damage, when, dir string) (grave []Finding, err error) {
	findings, err := Check(bg, dir, nil)
	for _, f := range findings {
		if _, lerr := os.Lstat(f.Path); lerr != nil && !strings.Contains(f.Problem, "missing") && !strings.Contains(f.Problem, "no such file") &&
			!strings.Contains(f.Problem, "the tree does not have") {
			v.add(d, when+": Check names a path that is not there", "%v", f)
		}
		if f.Path == "" || f.Problem == "" || f.Meaning == "" || f.Advice == "" {
			v.add(d, when+": a finding says too little", "%+v", f)
		}
		if !f.Harmless {
			grave = append(grave, f)
		}
	}
	return grave, err
}

// irreparable reports what Repair refuses or leaves, and rightly: a store whose layout is of another
// version, one of which both layout and journal are not what they should be, and one without
// snapshots/.
func (sp *specimen) irreparable(d damage) bool {
	_, ours := parseLayout([]byte(d.after[layoutFile].content))
	_, there := d.after[snapshotsDir]
	return ours && readLayoutText(d.after[layoutFile].content) != formatVersion || !there ||
		slices.Contains(d.paths, layoutFile) && slices.Contains(d.paths, journalFile)
}

func readLayoutText(text string) int {
	version, _ := parseLayout([]byte(text))
	return version
}

// judgeRepair requires that Repair leaves a store that is whole, with everything that was
// in it somewhere below its directory.
func (sp *specimen) judgeRepair(v *verdict, d damage, dir string, how reading) {
	found, _ := Check(bg, dir, nil)
	findings, err := Repair(bg, dir, nil)
	if sp.irreparable(d) {
		if err == nil && len(findings) == 0 {
			v.add(d, "Repair finds nothing to say", "")
		}
		return
	}
	if err != nil {
		v.add(d, "Repair fails", "%v", err)
		return
	}
	sp.judgeKept(v, d, dir, found)
	grave, err := sp.judgeCheck(v, d, "repaired", dir)
	if err != nil || len(grave) > 0 {
		v.add(d, "Check finds something after Repair", "%v, %v", grave, err)
	}
	how.repaired = true
	sp.judgeReads(v, d, "repaired", dir, how)
	if sp.judgeWrites(v, d, "repaired", dir, how) {
		v.add(d, "nothing can be written after Repair", "%v", findings)
	}
}

// judgeKept requires that every file and link is still somewhere below dir, but for what a writer
// replaces or deletes.
func (sp *specimen) judgeKept(v *verdict, d damage, dir string, found []Finding) {
	journalFine := !slices.ContainsFunc(found, func(f Finding) bool { return f.Path == dir+"/"+journalFile && !f.Harmless })
	after := map[part]bool{}
	for _, n := range readParts(v.t, dir) {
		after[n] = true
	}
	for path, n := range d.after {
		switch {
		case n.kind == fs.ModeDir || after[n]:
		case path == journalFile && journalFine:
		case strings.HasPrefix(path, snapshotsDir+"/") && sp.lines[sp.nameOf(path)] && journalFine:
		case strings.HasPrefix(path, stagingDir+"/") && !slices.Contains(d.paths, stagingDir):
		default:
			v.add(d, "Repair has deleted the only copy", "of %s", path)
		}
	}
}

// judge judges one damage in full, or, if not full, only what changes nothing in dir, which is a copy of the undamaged store.
func (sp *specimen) judge(v *verdict, d damage, root, shared string, full bool) {
	how := reading{touched: sp.touched(d), vanish: sp.mayVanish(d), newcomers: map[string]bool{}}
	if slices.Contains(d.paths, journalFile) {
		maps.Copy(how.newcomers, sp.removed)
	}
	dir := shared
	if dir == "" {
		dir = d.after.write(v.t, root)
	} else if err := os.WriteFile(dir+"/"+d.paths[0], []byte(d.after[d.paths[0]].content), fileMode); err != nil {
		v.t.Fatal(err)
	}
	var readFailed, writeFailed bool
	v.guard(d, "reading", func() { readFailed = sp.judgeReads(v, d, "damaged", dir, how) })
	var grave []Finding
	var checkErr error
	v.guard(d, "Check", func() { grave, checkErr = sp.judgeCheck(v, d, "damaged", dir) })
	if shared == "" || full {
		for path, n := range readParts(v.t, dir) {
			if was, there := d.after[path]; !there || was != n {
				v.add(d, "reading or checking has changed something", "%s", path)
			}
		}
	}
	if full {
		v.guard(d, "writing", func() {
			dir := d.after.write(v.t, root)
			writeFailed = sp.judgeWrites(v, d, "damaged", dir, how)
			sp.discard(v, dir)
		})
		v.guard(d, "Repair", func() {
			dir := d.after.write(v.t, root)
			sp.judgeRepair(v, d, dir, how)
			sp.discard(v, dir)
		})
	}
	wrong := readFailed || writeFailed
	// A journal that lacks its last lines does no harm until they are missed.
	known := !slices.Contains(d.paths, journalFile) || full && d.kind != "cut"
	_, buried := d.after[stagingDir+"/"+metadataFile]
	_, buriedAll := d.after[stagingDir+"/base"]
	if buried || buriedAll {
		wrong = true // the next writer would delete it
	}
	if wrong && checkErr == nil && len(grave) == 0 {
		v.add(d, "Check does not find it", "reads fail: %v, writes fail: %v", readFailed, writeFailed)
	}
	if !wrong && known && (checkErr != nil || len(grave) > 0) && len(how.vanish) == 0 {
		v.add(d, "Check finds what harms nobody", "%v, %v", grave, checkErr)
	}
	if shared == "" {
		sp.discard(v, dir)
	} else if err := os.WriteFile(dir+"/"+d.paths[0], []byte(sp.parts[d.paths[0]].content), fileMode); err != nil {
		v.t.Fatal(err)
	}
}

func (sp *specimen) discard(v *verdict, dir string) {
	if err := os.RemoveAll(dir); err != nil {
		v.t.Fatal(err)
	}
}

// eachSpecimen runs a test on the store that was closed and the one whose process was killed.
func eachSpecimen(t *testing.T, test func(t *testing.T, sp *specimen, v *verdict)) {
	for _, killed := range []bool{false, true} {
		t.Run(map[bool]string{false: "closed", true: "killed"}[killed], func(t *testing.T) {
			t.Parallel()
			v := &verdict{t: t}
			test(t, newSpecimen(t, killed), v)
			v.tell()
		})
	}
}

// judgeFile judges what was done to the content of single files. Every damage is read and checked; one in
// every is written to and repaired, too.
func (sp *specimen) judgeFiles(v *verdict, damages func(path string) []damage, every int) {
	root := fastDir(v.t)
	shared := sp.parts.write(v.t, root)
	if damageThorough {
		every = 5 // odd, so that each bit has its turn
	}
	n := 0
	for _, path := range slices.Sorted(maps.Keys(sp.parts)) {
		if sp.parts[path].kind != 0 {
			continue
		}
		for _, d := range damages(path) {
			n++
			sp.judge(v, d, root, shared, n%every == 0)
		}
	}
}

// The undamaged stores pass all that is asked of damaged ones.
func TestDamageNone(t *testing.T) {
	eachSpecimen(t, func(t *testing.T, sp *specimen, v *verdict) {
		sp.judge(v, damage{"nothing done", "none", []string{layoutFile}, sp.parts}, fastDir(t), "", true)
	})
}

// A bit that is flipped in any file gives an error or changes nothing.
func TestDamageFlip(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeFiles(v, sp.flips, 17) })
}

// A file that is cut short gives an error or changes nothing.
func TestDamageCut(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeFiles(v, sp.cuts, 3) })
}

// A part that is deleted is missed.
func TestDamageLoss(t *testing.T) {
	eachSpecimen(t, func(t *testing.T, sp *specimen, v *verdict) {
		root := fastDir(t)
		for _, d := range sp.losses() {
			sp.judge(v, d, root, "", true)
		}
	})
}

// Parts that have changed places are not taken for each other.
func TestDamageSwap(t *testing.T) {
	eachSpecimen(t, func(t *testing.T, sp *specimen, v *verdict) {
		root := fastDir(t)
		for _, d := range sp.swaps() {
			sp.judge(v, d, root, "", true)
		}
	})
}

// A link to a parent that points elsewhere is not followed.
func TestDamageLink(t *testing.T) {
	eachSpecimen(t, func(t *testing.T, sp *specimen, v *verdict) {
		root := fastDir(t)
		for _, d := range sp.strayLinks() {
			sp.judge(v, d, root, "", true)
		}
	})
}

// Several kinds of damage at once, each where the others are not, stay apart.
func TestDamageManyAtOnce(t *testing.T) {
	eachSpecimen(t, func(t *testing.T, sp *specimen, v *verdict) {
		d := damage{what: "alone, view and work damaged", kind: "many", after: sp.parts}
		for _, name := range []string{"alone", "view", workDamageName} {
			path := snapshotsDir + "/" + encodeName(name) + "/" + metadataFile
			d.paths = append(d.paths, path)
			d.after = d.after.with(path, part{content: string(bytes.ToUpper([]byte(sp.parts[path].content)))})
		}
		sp.judge(v, d, fastDir(t), "", true)
	})
}
