package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// The tests in this file damage a small store in every way that one mistake can: a bit of
// each byte flipped, each file cut, each part deleted, exchanged with another, each link led
// elsewhere. Whatever was done, the store must give the answers it gave before, or errors;
// snapshots that the damage is not about must not notice; Check must find it and Repair must
// mend it, or set it aside.
//
// FSMETA_TEST_RUNS, set to anything, makes them flip each bit instead of one of each byte,
// cut at each byte, and write to and repair more of the damaged stores: that takes minutes.
var everyBit = os.Getenv("FSMETA_TEST_RUNS") != ""

// By layout.md this can't be told from a healthy store, and is not required of reads:
//
//   - A snapshot's directory is deleted, and no line names it: it does not exist, for a call that
//     names it. Enumerations must say that one is missing, and GetActive of those that stand on it.
//   - The line that removed a snapshot is damaged, and an earlier one that names it is not:
//     the snapshot may be shown again ("With a damaged journal").
//   - A newline behind a line has become a NUL byte: nothing is lost.

// A mishap is one thing done to a store.
type mishap struct {
	what  string   // for people
	kind  string   // "flip" and so on
	paths []string // of the parts that it was done to
	after parts
}

func (d mishap) about(path string) bool { return slices.Contains(d.paths, path) }

// flips returns flips of one bit in a file.
func (sp *specimen) flips(path string) (all []mishap) {
	text := sp.parts[path].content
	behind := len(strings.TrimRight(text, "\x00")) + 64 // not all the NUL bytes of a journal
	for off := range min(len(text), behind) {
		for bit := range 8 {
			if bit != off%8 && !everyBit {
				continue
			}
			b := []byte(text)
			b[off] ^= 1 << bit
			all = append(all, mishap{fmt.Sprintf("bit %d of byte %d of %d of %s flipped", bit, off, len(text), path), "flip",
				[]string{path}, sp.parts.with(path, part{content: string(b)})})
		}
	}
	return all
}

// cuts returns the truncations of a file: at the ends of lines, elsewhere one in seven.
func (sp *specimen) cuts(path string) (all []mishap) {
	text := sp.parts[path].content
	for n := range len(text) {
		line := n > 0 && text[n-1] == '\n' || text[n] == '\n'
		if n%7 != 0 && !line && !everyBit {
			continue
		}
		all = append(all, mishap{fmt.Sprintf("%s cut to %d of %d bytes", path, n, len(text)), "cut",
			[]string{path}, sp.parts.with(path, part{content: text[:n]})})
	}
	return all
}

// losses returns the deletion of each part.
func (sp *specimen) losses() (all []mishap) {
	for _, path := range slices.Sorted(maps.Keys(sp.parts)) {
		all = append(all, mishap{path + " deleted", "loss", []string{path}, sp.parts.without(path)})
	}
	return all
}

// swaps returns the exchange of each part with each other of its kind.
func (sp *specimen) swaps() (all []mishap) {
	paths := slices.Sorted(maps.Keys(sp.parts))
	for i, a := range paths {
		for _, b := range paths[i+1:] {
			x, y := sp.parts[a], sp.parts[b]
			if x.kind != y.kind || strings.HasPrefix(b, a+"/") || x == y && x.kind != fs.ModeDir {
				continue
			}
			all = append(all, mishap{a + " and " + b + " exchanged", "swap", []string{a, b}, sp.parts.exchanged(a, b)})
		}
	}
	return all
}

// strayLinks returns each symlink led to each snapshot that is not its parent, and elsewhere.
func (sp *specimen) strayLinks() (all []mishap) {
	targets := []string{"../../etc", "/", "/etc/passwd", "..", ".", "../", "../.", "../..", "nothing", "../nothing", "base", "../base/", "../../snapshots/base", strings.Repeat("x", 4000)}
	for name := range sp.infos {
		targets = append(targets, format.LinkTarget(name))
	}
	slices.Sort(targets)
	for _, path := range slices.Sorted(maps.Keys(sp.parts)) {
		was := sp.parts[path]
		for _, target := range targets {
			if was.kind == fs.ModeSymlink && target != was.content {
				all = append(all, mishap{fmt.Sprintf("%s led to %.80q", path, target), "link",
					[]string{path}, sp.parts.with(path, part{fs.ModeSymlink, target})})
			}
		}
	}
	return all
}

// nameOf returns the snapshot that a path is a part of, "" if of none, or if it is a link, which
// decides nothing.
func (sp *specimen) nameOf(path string) string {
	for name := range sp.infos {
		at := "snapshots/" + format.EncodeName(name)
		if path == at || strings.HasPrefix(path, at+"/") && path != at+"/parent" {
			return name
		}
	}
	return ""
}

// touched returns the snapshots that a mishap is about: those with directories that it was
// done to, if the tree decides them, and those that stand on them; where the journal is
// damaged, those that it decides; and all, where they were taken away.
func (sp *specimen) touched(d mishap) map[string]bool {
	touched := map[string]bool{}
	for _, path := range d.paths {
		switch name := sp.nameOf(path); {
		case name != "" && (!sp.lines[name] || d.about("journal")):
			touched[name] = true
		case path == "journal":
			maps.Copy(touched, sp.lines)
		case path == "snapshots":
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

// mayVanish returns the snapshots of which nothing is left but the journal's count; see above.
func (sp *specimen) mayVanish(d mishap) map[string]bool {
	gone := map[string]bool{}
	for name := range sp.infos {
		_, there := d.after["snapshots/"+format.EncodeName(name)]
		if (!there || d.about("snapshots")) && !sp.lines[name] {
			gone[name] = true
		}
	}
	return gone
}

// verdict collects everything that is wrong, by kinds.
type verdict struct {
	t      testing.TB
	counts map[string]int
	first  map[string]string
}

func (v *verdict) add(d mishap, problem, format string, args ...any) {
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
func (v *verdict) guard(d mishap, part string, fn func()) {
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
	journal   bool            // is damaged: enumerations may say so
	repaired  bool            // no errors any more; touched snapshots may be gone
}

// judgeReads requires that every answer is the one before the mishap, or, for a snapshot that it
// touched, an error. It reports whether there was any error.
func (sp *specimen) judgeReads(v *verdict, d mishap, when, dir string, how reading) (failed bool) {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		if strings.HasPrefix(d.paths[0], "snapshots/") && strings.HasPrefix(d.paths[len(d.paths)-1], "snapshots/") || how.repaired {
			v.add(d, when+": the store can't be opened", "%v", err)
		}
		return true
	}
	defer s.Close()
	failed = sp.judgeLists(v, d, when, s, how)
	for name, was := range sp.infos {
		excused, mayMiss := how.touched[name], how.vanish[name] || how.repaired && how.touched[name]
		info, err := s.Stat(v.t.Context(), name)
		if sp.judgeAnswer(v, d, when+": Stat", name, err, err == nil && !reflect.DeepEqual(info, was), excused, mayMiss) {
			failed = true
		}
		if was.Kind == fsmeta.KindActive {
			active, err := s.GetActive(v.t.Context(), name)
			wrong := err == nil && !reflect.DeepEqual(active, sp.actives[name])
			if sp.judgeAnswer(v, d, when+": GetActive", name, err, wrong, excused, mayMiss) {
				failed = true
			}
		}
	}
	return failed
}

// judgeLists is judgeReads for enumerations.
func (sp *specimen) judgeLists(v *verdict, d mishap, when string, s *fsmeta.Store, how reading) (failed bool) {
	seen := map[string]bool{}
	walked := s.Walk(v.t.Context(), func(_ context.Context, info fsmeta.Info) error {
		was, known := sp.infos[info.Name]
		seen[info.Name] = true
		switch {
		case !known && !how.newcomers[info.Name]:
			v.add(d, when+": a walk shows a snapshot that was not there", "%q", info.Name)
		case known && !reflect.DeepEqual(info, was):
			v.add(d, when+": a walk gives a wrong answer", "%+v, was %+v", info, was)
		}
		return nil
	})
	ids, idErr := s.IDs(v.t.Context())
	failed = walked != nil || idErr != nil
	if failed && (how.repaired || len(how.touched) == 0 && !how.journal) {
		v.add(d, when+": a walk fails", "%v", errors.Join(walked, idErr))
	}
	for id, name := range ids {
		if was, known := sp.infos[name]; known && was.ID != id {
			v.add(d, when+": IDs gives a wrong answer", "%s is %q", id, name)
		}
	}
	for name, was := range sp.infos {
		excused, mayMiss := how.touched[name] && walked != nil && idErr != nil, how.repaired && how.touched[name]
		if !seen[name] && !excused && !mayMiss {
			v.add(d, when+": a walk does not show a snapshot", "%.64q, %v", name, walked)
		}
		if ids[was.ID] == "" && !excused && !mayMiss {
			v.add(d, when+": IDs does not have a snapshot", "%.64q, %v", name, idErr)
		}
	}
	return failed
}

// judgeAnswer judges one answer, and reports whether it was an error.
func (sp *specimen) judgeAnswer(v *verdict, d mishap, what, name string, err error, wrong, excused, mayMiss bool) bool {
	switch {
	case wrong:
		v.add(d, what+" gives a wrong answer", "%.64q", name)
	case errors.Is(err, fsmeta.ErrNotExist) && !mayMiss:
		v.add(d, what+" says that it does not exist", "%.64q", name)
	case err != nil && !excused && !mayMiss:
		v.add(d, what+" fails for an untouched snapshot", "%.64q: %v", name, err)
	case err != nil && !errors.Is(err, fsmeta.ErrDamaged) && !errors.Is(err, fsmeta.ErrNotExist):
		v.add(d, what+" fails without saying that it is damaged", "%.64q: %v", name, err)
	}
	return err != nil && !mayMiss
}

// judgeWrites requires that a transaction works or is refused, and that nothing else changes. It reports whether
// it was refused.
func (sp *specimen) judgeWrites(v *verdict, d mishap, when, dir string, how reading) (refused bool) {
	s, err := fsmeta.Open(dir, fsmeta.MustExist())
	if err != nil {
		return true
	}
	var id string
	err = s.WithTransaction(v.t.Context(), true, func(ctx context.Context) error {
		active, err := s.CreateActive(ctx, "newcomer", "", false)
		id = active.ID
		return err
	})
	if err == nil {
		if n, perr := format.ParseID(id); perr != nil || n <= sp.maxID {
			v.add(d, when+": an identifier is handed out again", "%s, handed out before up to %d", id, sp.maxID)
		}
	} else if !errors.Is(err, fsmeta.ErrDamaged) {
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

// judgeCheck runs Check and returns the findings that are not harmless.
func (sp *specimen) judgeCheck(v *verdict, d mishap, when, dir string) (grave []fsmeta.Finding, err error) {
	findings, err := fsmeta.Check(v.t.Context(), dir, nil)
	for _, f := range findings {
		if _, lerr := os.Lstat(f.Path); lerr != nil && !strings.Contains(f.Problem, "missing") && !strings.Contains(f.Problem, "no such file") &&
			!strings.Contains(f.Problem, "does not have what the journal says") {
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

// irreparable reports whether Repair rightly refuses a store or leaves it as it is: one with a layout
// of another version, one with both layout and journal damaged, and one without snapshots/.
func (sp *specimen) irreparable(d mishap) bool {
	version, ours := format.ParseLayout([]byte(d.after["layout"].content))
	_, there := d.after["snapshots"]
	return ours && version != format.Version || !there || d.about("layout") && d.about("journal")
}

// judgeRepair requires that Repair leaves a store that is whole, with everything that was
// in it somewhere below its directory. Missing snapshots stay missing until that is accepted.
func (sp *specimen) judgeRepair(v *verdict, d mishap, dir string, how reading) {
	found, _ := fsmeta.Check(v.t.Context(), dir, nil)
	findings, err := fsmeta.Repair(v.t.Context(), dir, nil)
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
	lost := func(f fsmeta.Finding) bool {
		return f.Path == dir+"/journal" && how.journal || f.Path == dir+"/snapshots" && (len(how.vanish) > 0 || how.journal)
	}
	if err == nil && slices.ContainsFunc(grave, lost) {
		if _, err := fsmeta.Repair(v.t.Context(), dir, nil, fsmeta.AcceptTree()); err != nil {
			v.add(d, "Repair fails to accept the tree", "%v", err)
		}
		sp.judgeKept(v, d, dir, found)
		grave, err = sp.judgeCheck(v, d, "accepted", dir)
	}
	if err != nil || len(grave) > 0 {
		v.add(d, "Check finds something after Repair", "%v, %v", grave, err)
	}
	how.repaired = true
	sp.judgeReads(v, d, "repaired", dir, how)
	if sp.judgeWrites(v, d, "repaired", dir, how) {
		v.add(d, "nothing can be written after Repair", "%v", findings)
	}
}

// judgeKept requires that every file is still somewhere below dir, and the links of
// damaged ones, but for those that a writer replaces or deletes.
func (sp *specimen) judgeKept(v *verdict, d mishap, dir string, found []fsmeta.Finding) {
	journalFine := !slices.ContainsFunc(found, func(f fsmeta.Finding) bool { return f.Path == dir+"/journal" && !f.Harmless })
	after := map[part]bool{}
	for _, n := range readParts(v.t, dir) {
		after[n] = true
	}
	for path, n := range d.after {
		switch {
		case n.kind == fs.ModeDir || after[n]:
		case n.kind == fs.ModeSymlink && d.kind != "flip" && d.kind != "cut":
		case path == "journal" && journalFine:
		case strings.HasPrefix(path, "snapshots/") && sp.lines[sp.nameOf(path)] && journalFine:
		case strings.HasPrefix(path, "staging/") && !d.about("staging"):
		default:
			v.add(d, "Repair has deleted the only copy", "of %s", path)
		}
	}
}

// judge judges one mishap in full, or, if not full, only with calls that change nothing. shared, unless it is "",
// is a copy of the undamaged store, of which one file is changed.
func (sp *specimen) judge(v *verdict, d mishap, root, shared string, full bool) {
	how := reading{touched: sp.touched(d), vanish: sp.mayVanish(d), newcomers: map[string]bool{}, journal: d.about("journal")}
	if how.journal {
		maps.Copy(how.newcomers, sp.removed)
	}
	dir := shared
	if dir == "" {
		dir = d.after.write(v.t, root)
	} else {
		writeFile(v.t, dir+"/"+d.paths[0], d.after[d.paths[0]].content)
	}
	var wrong, refused bool
	v.guard(d, "reading", func() { wrong = sp.judgeReads(v, d, "damaged", dir, how) })
	var grave []fsmeta.Finding
	var checkErr error
	v.guard(d, "Check", func() { grave, checkErr = sp.judgeCheck(v, d, "damaged", dir) })
	if full {
		if !reflect.DeepEqual(readParts(v.t, dir), d.after) {
			v.add(d, "reading or checking has changed something", "")
		}
		v.guard(d, "writing", func() { refused = sp.judgeWrites(v, d, "damaged", sp.fresh(v, d, root), how) })
		v.guard(d, "Repair", func() { sp.judgeRepair(v, d, sp.fresh(v, d, root), how) })
	}
	sp.judgeFound(v, d, wrong || refused, full, len(how.vanish) > 0, grave, checkErr)
	if shared == "" {
		succeed(v.t, os.RemoveAll(dir))
	} else {
		writeFile(v.t, dir+"/"+d.paths[0], sp.parts[d.paths[0]].content)
	}
}

// fresh makes a store with a mishap, and deletes the one before.
func (sp *specimen) fresh(v *verdict, d mishap, root string) string {
	succeed(v.t, os.RemoveAll(root+"/fresh"), os.Mkdir(root+"/fresh", format.DirMode))
	return d.after.write(v.t, root+"/fresh")
}

// judgeFound requires that Check finds every mishap that does harm, and none else.
func (sp *specimen) judgeFound(v *verdict, d mishap, wrong, full, vanished bool, grave []fsmeta.Finding, err error) {
	found := err != nil || len(grave) > 0
	for path := range d.after {
		if strings.HasPrefix(path, "staging/") {
			wrong = true // the next writer would delete it
		}
	}
	if wrong && !found {
		v.add(d, "Check does not find it", "")
	}
	if known := !d.about("journal") || full; !wrong && known && found && !vanished {
		v.add(d, "Check finds fault with a harmless mishap", "%v, %v", grave, err)
	}
}

// eachSpecimen runs a test on a store that was closed and on one with a process that was killed.
func eachSpecimen(t *testing.T, test func(t *testing.T, sp *specimen, v *verdict)) {
	for _, killed := range []bool{false, true} {
		t.Run(map[bool]string{false: "closed", true: "killed"}[killed], func(t *testing.T) {
			t.Parallel()
			v := &verdict{t: t, counts: map[string]int{}, first: map[string]string{}}
			test(t, newSpecimen(t, killed), v)
			v.tell()
		})
	}
}

// judgeFiles judges changes of the content of single files. Each is read and checked; one in
// every is written to and repaired, too.
func (sp *specimen) judgeFiles(v *verdict, mishaps func(path string) []mishap, every int) {
	root := fastDir(v.t)
	shared := sp.parts.write(v.t, root)
	step := 1
	switch {
	case everyBit:
		every = 5 // odd, so that each bit has its turn
	case testing.Short():
		step = 7
	}
	n := 0
	for _, path := range slices.Sorted(maps.Keys(sp.parts)) {
		if sp.parts[path].kind != 0 {
			continue
		}
		for i, d := range mishaps(path) {
			if i%step == 0 {
				n++
				sp.judge(v, d, root, shared, n%every == 0)
			}
		}
	}
}

// judgeAll judges each mishap in full.
func (sp *specimen) judgeAll(v *verdict, mishaps []mishap) {
	root := fastDir(v.t)
	for _, d := range mishaps {
		sp.judge(v, d, root, "", true)
	}
}

// The undamaged stores pass all that is asked of damaged ones.
func TestNothingDamaged(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) {
		sp.judgeAll(v, []mishap{{"nothing done", "none", []string{"layout"}, sp.parts}})
	})
}

// A bit that is flipped in any file gives an error or changes nothing.
func TestFlippedBits(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeFiles(v, sp.flips, 17) })
}

// A file that is cut short gives an error or changes nothing.
func TestCutFiles(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeFiles(v, sp.cuts, 3) })
}

// A part that is deleted is missed.
func TestDeletedParts(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeAll(v, sp.losses()) })
}

// Parts that have changed places are not taken for each other.
func TestExchangedParts(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeAll(v, sp.swaps()) })
}

// A link to a parent that points elsewhere is not followed, and changes no answer.
func TestStrayLinks(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) { sp.judgeAll(v, sp.strayLinks()) })
}

// Several kinds of damage at once, each where the others are not, stay apart.
func TestManyDamaged(t *testing.T) {
	eachSpecimen(t, func(_ *testing.T, sp *specimen, v *verdict) {
		d := mishap{what: "alone, view and work damaged", kind: "many", after: sp.parts}
		for _, name := range []string{"alone", "view", escapeName} {
			path := "snapshots/" + format.EncodeName(name) + "/metadata.json"
			d.paths = append(d.paths, path)
			d.after = d.after.with(path, part{content: string(bytes.ToUpper([]byte(sp.parts[path].content)))})
		}
		sp.judgeAll(v, []mishap{d})
	})
}
