package fsmeta_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

func TestOpen(t *testing.T) {
	remove := func(path string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { made(t, dir); nilError(t, os.RemoveAll(filepath.Join(dir, path))) }
	}
	write := func(path, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { made(t, dir); overwrite(t, filepath.Join(dir, path), content) }
	}
	nothing := func(*testing.T, string) {}
	notStore, damaged := fsmeta.ErrNotStore, fsmeta.ErrDamaged
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    error // without options
		exist   error // with MustExist
		read    error // with ReadOnly
	}{
		{"no directory", nothing, nil, notStore, notStore},
		{"empty directory", func(t *testing.T, dir string) { nilError(t, os.Mkdir(dir, 0o700)) }, nil, notStore, notStore},
		{"store", made, nil, nil, nil},
		{"first open ended early", halfMade("staging"), nil, notStore, notStore},
		{"first open ended before the journal", halfMade("staging", "snapshots"), nil, notStore, notStore},
		{"first open ended before the layout", halfMade("staging", "snapshots", "journal"), nil, notStore, notStore},
		{"file", func(t *testing.T, dir string) { overwrite(t, dir, "text") }, notStore, notStore, notStore},
		{"other file", func(t *testing.T, dir string) {
			nilError(t, os.Mkdir(dir, 0o700))
			overwrite(t, filepath.Join(dir, "data"), "text")
		}, notStore, notStore, notStore},
		{"other folder", func(t *testing.T, dir string) {
			nilError(t, os.MkdirAll(filepath.Join(dir, "folder"), 0o700))
		}, notStore, notStore, notStore},
		{"later version", write("layout", `{"format":"fsmeta","version":3}`), notStore, notStore, notStore},
		{"version 1", write("layout", `{"format":"fsmeta","version":1}`), notStore, notStore, notStore},
		{"other format", write("layout", `{"format":"other","version":1}`), damaged, damaged, damaged},
		{"layout empty", write("layout", ""), damaged, damaged, damaged},
		{"layout cut", write("layout", `{"format":"fsm`), damaged, damaged, damaged},
		{"layout alone", func(t *testing.T, dir string) {
			nilError(t, os.Mkdir(dir, 0o700))
			overwrite(t, filepath.Join(dir, "layout"), "text")
		}, notStore, notStore, notStore},
		{"symlinks to nothing", func(t *testing.T, dir string) {
			nilError(t, os.Mkdir(dir, 0o700))
			for _, part := range []string{"journal", "snapshots"} {
				nilError(t, os.Symlink("nowhere", filepath.Join(dir, part)))
			}
		}, notStore, notStore, notStore},
		{"content of a driver", func(t *testing.T, dir string) {
			nilError(t, os.MkdirAll(filepath.Join(dir, "snapshots", "1", "fs"), 0o700))
		}, notStore, notStore, notStore},
		{"no journal", remove("journal"), damaged, damaged, damaged},
		{"journal is a directory", func(t *testing.T, dir string) {
			remove("journal")(t, dir)
			nilError(t, os.Mkdir(filepath.Join(dir, "journal"), 0o700))
		}, damaged, damaged, damaged},
		{"no snapshots", remove("snapshots"), damaged, damaged, damaged},
		{"snapshots is a file", func(t *testing.T, dir string) {
			remove("snapshots")(t, dir)
			overwrite(t, filepath.Join(dir, "snapshots"), "text")
		}, damaged, damaged, damaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			tryOpen(t, test.prepare, test.read, fsmeta.ReadOnly())
			tryOpen(t, test.prepare, test.exist, fsmeta.MustExist())
			tryOpen(t, test.prepare, test.want)
		})
	}
}

// tryOpen requires that Open fails with the error and changes nothing, or, for nil, that it
// opens a store that works.
func tryOpen(t *testing.T, prepare func(*testing.T, string), want error, opts ...fsmeta.Option) {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "store")
	prepare(t, dir)
	before := fingerprint(t, top)
	s, err := fsmeta.Open(dir, opts...)
	if want == nil {
		nilError(t, err)
		nilError(t, s.Close())
		openStore(t, dir).build("new")
		return
	}
	if err == nil {
		s.Close()
	}
	wantError(t, err, want, dir)
	equal(t, "directory after the failed Open", fingerprint(t, top), before)
}

// halfMade leaves these entries of an Open that did not come to its end.
func halfMade(entries ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		nilError(t, openOnly(t, dir).Close())
		for _, entry := range must(os.ReadDir(dir)) {
			if !slices.Contains(entries, entry.Name()) {
				nilError(t, os.RemoveAll(filepath.Join(dir, entry.Name())))
			}
		}
	}
}

func TestOpenWhatDoesNotExist(t *testing.T) {
	for _, prepare := range []func(*testing.T, string){
		func(*testing.T, string) {},
		func(t *testing.T, dir string) { nilError(t, os.Mkdir(dir, 0o700)) },
		halfMade("staging", "snapshots"),
	} {
		dir := filepath.Join(t.TempDir(), "store")
		prepare(t, dir)
		_, err := fsmeta.Open(dir, fsmeta.MustExist())
		wantError(t, err, fsmeta.ErrNotStore, dir)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not an fs.ErrNotExist: %v", err)
		}
	}
}

// A store that has lost its layout must not become an empty one.
func TestOpenWithoutLayout(t *testing.T) {
	for _, folded := range []bool{true, false} {
		s := newStore(t)
		s.build("base; *work < base")
		dir := s.dir
		if folded {
			nilError(t, s.Close())
		} else {
			dir = s.kill()
			nilError(t, os.RemoveAll(filepath.Join(dir, "snapshots"))) // the journal knows
			nilError(t, os.Mkdir(filepath.Join(dir, "snapshots"), 0o700))
		}
		layout := must(os.ReadFile(filepath.Join(dir, "layout")))
		nilError(t, os.Remove(filepath.Join(dir, "layout")))
		before := fingerprint(t, dir)
		for _, opts := range [][]fsmeta.Option{{}, {fsmeta.MustExist()}, {fsmeta.ReadOnly()}} {
			err := drop(fsmeta.Open(dir, opts...))
			wantDamaged(t, err, "", filepath.Join(dir, "layout"))
			if errors.Is(err, fsmeta.ErrNotStore) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it passes for no store: %v", err)
			}
		}
		equal(t, "directory", fingerprint(t, dir), before)
		overwrite(t, filepath.Join(dir, "layout"), string(layout))
		openOnly(t, dir).want(bg, "base; *work < base")
	}
}

// layoutLosses are what can happen to the file layout.
var layoutLosses = []struct {
	name string
	lose func(t *testing.T, dir string)
}{
	{"missing", func(t *testing.T, dir string) { succeed(t, os.Remove(filepath.Join(dir, "layout"))) }},
	{"foreign", func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "layout"), "text") }},
	{"empty", func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "layout"), "") }},
	{"a directory", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "layout")
		succeed(t, os.Remove(path), os.Mkdir(path, 0o700))
	}},
	{"a dangling symlink", func(t *testing.T, dir string) {
		path := filepath.Join(dir, "layout")
		succeed(t, os.Remove(path), os.Symlink("nowhere", path))
	}},
	{"missing, with the journal", func(t *testing.T, dir string) {
		succeed(t, os.Remove(filepath.Join(dir, "layout")), os.Remove(filepath.Join(dir, "journal")))
	}},
	{"missing, beside other files", func(t *testing.T, dir string) {
		succeed(t, os.Remove(filepath.Join(dir, "layout")))
		overwrite(t, filepath.Join(dir, "NOTES"), "text")
		overwrite(t, filepath.Join(dir, "zebra"), "text")
	}},
}

// Whatever becomes of the layout, all calls say the same of it, and one step makes the store work
// again: a repair, or, of what an unfinished Open leaves, an Open that may make a store.
func TestLayoutLost(t *testing.T) {
	stores := []struct {
		name   string
		script []string
		want   string
	}{
		{"never used", nil, ""},
		{"all removed", []string{"put gone", "remove gone"}, ""},
		{"used", []string{"layer base", "put work base"}, "base work"},
	}
	unfinished := []string{"never used/missing", "never used/missing, with the journal", "all removed/missing, with the journal"}
	for _, store := range stores {
		origin := newDir(t)
		build(t, origin, append(store.script, "walk")...)
		for _, loss := range layoutLosses {
			name := store.name + "/" + loss.name
			t.Run(name, func(t *testing.T) {
				dir := copyDir(t, origin)
				loss.lose(t, dir)
				if name == "never used/missing" {
					wantUnfinished(t, copyDir(t, dir))
					wantFinished(t, dir)
				} else if slices.Contains(unfinished, name) {
					wantUnfinished(t, dir)
				} else {
					wantRepairable(t, dir)
				}
				s := useDamaged(t, dir)
				mustSay(t, s, "walk", store.want)
				mustDo(t, s, "put new", "close")
				forgetAside(t, dir)
				for _, f := range must(fsmeta.Check(bg, dir, nil)) {
					if !f.Harmless {
						t.Errorf("in the end, a check finds %v", f)
					}
				}
			})
		}
	}
}

// wantUnfinished requires that there is no store for all calls but an Open that may make one.
func wantUnfinished(t *testing.T, dir string) {
	t.Helper()
	before := fingerprint(t, dir)
	for _, err := range []error{
		drop(fsmeta.Open(dir, fsmeta.MustExist())), drop(fsmeta.Open(dir, fsmeta.ReadOnly())),
		drop(fsmeta.Check(bg, dir, nil)),
	} {
		wantError(t, err, fsmeta.ErrNotStore, dir)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not an fs.ErrNotExist: %v", err)
		}
	}
	equal(t, "directory", fingerprint(t, dir), before)
}

// wantFinished requires that a repair finishes a store that has its journal already.
func wantFinished(t *testing.T, dir string) {
	t.Helper()
	findings := must(fsmeta.Repair(bg, dir, nil))
	if len(findings) != 1 || findings[0].Path != filepath.Join(dir, "layout") || findings[0].Repaired == "" {
		t.Errorf("the repair has not made the layout alone: %v", findings)
	}
	wantClean(t, dir)
}

// wantRepairable requires that no Open opens the store, that all calls name the layout and a repair,
// and that a repair writes it again.
func wantRepairable(t *testing.T, dir string) {
	t.Helper()
	before, path := fingerprint(t, dir), filepath.Join(dir, "layout")
	for _, opts := range [][]fsmeta.Option{{}, {fsmeta.MustExist()}, {fsmeta.ReadOnly()}} {
		err := drop(fsmeta.Open(dir, opts...))
		wantDamaged(t, err, "", path)
		wantError(t, err, fsmeta.ErrDamaged, "stop what uses the store and run a repair")
	}
	wantFinding(t, dir, path)
	equal(t, "directory", fingerprint(t, dir), before)
	findings := must(fsmeta.Repair(bg, dir, nil, fsmeta.AcceptTree())) // the journal may be lost, too
	if !slices.ContainsFunc(findings, func(f fsmeta.Finding) bool { return f.Path == path && f.Repaired != "" }) {
		t.Errorf("the repair has not written the layout: %v", findings)
	}
}

// A store that is made and used between two looks at its directory is not taken for a damaged one.
func TestOpenBesideItsMaker(t *testing.T) {
	for range 20 {
		dir := newDir(t)
		opened := make(chan error, 4)
		for range 4 {
			go func() {
				for t.Context().Err() == nil {
					s, err := fsmeta.Open(dir, fsmeta.MustExist())
					if err == nil {
						err = s.Close()
					} else if errors.Is(err, fs.ErrNotExist) {
						continue
					}
					opened <- err
					return
				}
			}()
		}
		s := useDamaged(t, dir)
		mustDo(t, s, "put a")
		for range 4 {
			if err := <-opened; err != nil {
				t.Error(err)
			}
		}
	}
}

func TestOpenBelowAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	overwrite(t, file, "text")
	_, err := fsmeta.Open(filepath.Join(file, "store"))
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got error %v, want one that mentions %s", err, file)
	}
}

func TestOpenByOtherPaths(t *testing.T) {
	top := t.TempDir()
	t.Chdir(top)
	nilError(t, os.Mkdir("elsewhere", 0o700))
	s := openOnly(t, "store")
	nilError(t, os.Symlink("store", "link"))
	linked := openOnly(t, "link")
	t.Chdir("elsewhere")
	s.build("base")
	linked.want(bg, "base")
	linked.build("top < base")
	s.want(bg, "base; top < base")
	nilError(t, linked.Close())
	nilError(t, s.Close())
	equal(t, "entries elsewhere", len(must(os.ReadDir("."))), 0)
	openStore(t, filepath.Join(top, "store")).want(bg, "base; top < base")
}

func TestReadOnlyStoresWriteNothing(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, s *store) string
	}{
		{"closed", func(t *testing.T, s *store) string { nilError(t, s.Close()); return s.dir }},
		{"open", func(t *testing.T, s *store) string { return s.dir }},
		{"killed", func(t *testing.T, s *store) string { return s.kill() }},
		{"killed, with a torn journal", func(t *testing.T, s *store) string {
			dir := s.kill()
			editJournal(t, dir, func(lines [][]byte) [][]byte { return append(lines, []byte(`{"txn":99,"cha`)) })
			return dir
		}},
		{"killed, tree not yet up to date", func(t *testing.T, s *store) string {
			dir := s.kill()
			nilError(t, os.RemoveAll(filepath.Join(dir, "snapshots/work")))
			return dir
		}},
		{"killed, with things in staging", func(t *testing.T, s *store) string {
			dir := s.kill()
			nilError(t, os.MkdirAll(filepath.Join(dir, "staging/7/work"), 0o700))
			overwrite(t, filepath.Join(dir, "staging/file"), "text")
			return dir
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("base; top < base; *work < top; ?view < top")
			dir := test.prepare(t, s)
			before := fingerprint(t, dir)
			useReadOnly(t, dir, "base; top < base; ?view < top; *work < top")
			equal(t, "directory", fingerprint(t, dir), before)
		})
	}
}

// useReadOnly does everything that can be done to a store opened read-only.
func useReadOnly(t *testing.T, dir, want string) {
	t.Helper()
	s := openOnly(t, dir, fsmeta.ReadOnly())
	s.want(bg, want)
	s.agree(bg)
	ctx, tx := s.begin(bg, false)
	s.agree(ctx)
	_, _, err := s.TransactionContext(bg, true)
	wantError(t, err, fsmeta.ErrReadOnlyTransaction)
	err = s.WithTransaction(bg, true, func(context.Context) error { return nil })
	wantError(t, err, fsmeta.ErrReadOnlyTransaction)
	for _, call := range calls {
		if call.writes {
			wantError(t, call.do(ctx, s.Store, "new"), fsmeta.ErrReadOnlyTransaction)
			wantError(t, call.do(bg, s.Store, "new"), fsmeta.ErrNoTransaction)
		}
	}
	nilError(t, tx.Commit())
	nilError(t, s.Close())
	nilError(t, s.Close())
}

// Anything in staging/ that a killed process has left is deleted by the next writer.
func TestLeftoversInStaging(t *testing.T) {
	s := newStore(t)
	s.build("base")
	dir := s.kill()
	copyTree(t, filepath.Join(dir, "snapshots", "base"), filepath.Join(dir, "staging", "leftover"))
	nilError(t, os.MkdirAll(filepath.Join(dir, "staging", "deep/er"), 0o700))
	overwrite(t, filepath.Join(dir, "staging", "deep", "file"), "text")
	overwrite(t, filepath.Join(dir, "staging", "file"), "text")
	s = openStore(t, dir)
	s.want(bg, "base")
	s.build("top < base")
	nilError(t, s.Close())
	for _, name := range []string{"leftover", "deep", "file"} {
		if _, err := os.Lstat(filepath.Join(dir, "staging", name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still in staging: %v", name, err)
		}
	}
}
