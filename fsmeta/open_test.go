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
		{"other format", write("layout", `{"format":"other","version":1}`), notStore, notStore, notStore},
		{"layout empty", write("layout", ""), notStore, notStore, notStore},
		{"layout cut", write("layout", `{"format":"fsm`), notStore, notStore, notStore},
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
		_, err := fsmeta.Open(dir)
		wantDamaged(t, err, "", filepath.Join(dir, "layout"))
		for _, opt := range []fsmeta.Option{fsmeta.MustExist(), fsmeta.ReadOnly()} {
			_, err := fsmeta.Open(dir, opt)
			wantError(t, err, fsmeta.ErrNotStore, dir)
		}
		equal(t, "directory", fingerprint(t, dir), before)
		overwrite(t, filepath.Join(dir, "layout"), string(layout))
		openOnly(t, dir).want(bg, "base; *work < base")
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
