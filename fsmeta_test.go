// Package fsmeta_test tries the store as its users do: through its public
// interface, and by looking at the files that it leaves behind.
//
// Stores are written as texts, such as
//
//	base; top < base; *work < top; ?view < top
//
// for the committed snapshot base, top that stands on it, the active work and
// the readonly active view. [store.build] makes a store from one, [store.list]
// tells one from a store.
package fsmeta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/fsmeta/fsmeta/fsmeta"
)

var (
	_ fsmeta.MetaStore  = (*fsmeta.Store)(nil)
	_ fsmeta.Transactor = fsmeta.Transactor(nil)
)

var bg = context.Background()

// store is a Store under test.
type store struct {
	*fsmeta.Store
	t   *testing.T
	dir string
}

// newStore makes a store in a new directory. When the test ends it is verified.
func newStore(t *testing.T) *store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"))
}

// openStore opens the store in dir. When the test ends it is verified.
func openStore(t *testing.T, dir string) *store {
	t.Helper()
	s := openOnly(t, dir)
	t.Cleanup(func() {
		if !t.Failed() {
			s.verify()
		}
	})
	return s
}

// openOnly opens the store in dir and verifies nothing when the test ends.
func openOnly(t *testing.T, dir string, opts ...fsmeta.Option) *store {
	t.Helper()
	opened, err := fsmeta.Open(dir, opts...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { opened.Close() })
	return &store{opened, t, dir}
}

// verify requires that closing the store and opening it again changes nothing,
// that all ways to read it agree, and so does the tree, read without the package.
func (s *store) verify() {
	s.t.Helper()
	before, err := dump(bg, s.Store)
	closed := errors.Is(err, fsmeta.ErrClosed)
	if err != nil && !closed {
		s.t.Fatalf("reading the store before its end: %v", err)
	}
	nilError(s.t, s.Close())
	again := openOnly(s.t, s.dir, fsmeta.MustExist())
	after := must(dump(bg, again.Store))
	if !closed {
		equal(s.t, "store opened again", after, before)
	}
	again.agree(bg)
	readonly := openOnly(s.t, s.dir, fsmeta.ReadOnly())
	equal(s.t, "store opened read-only", must(dump(bg, readonly.Store)), after)
	nilError(s.t, readonly.Close())
	nilError(s.t, again.Close())
	equal(s.t, "tree on disk", diskList(s.t, s.dir), list(after))
}

// agree requires that all ways to read the store give the answer of Walk, in
// the transaction of ctx or outside one.
func (s *store) agree(ctx context.Context) {
	s.t.Helper()
	infos := must(s.walk(ctx))
	byName, byID := map[string]fsmeta.Info{}, map[string]string{}
	var all []fsmeta.Info
	for info, err := range s.All(ctx) {
		nilError(s.t, err)
		all = append(all, info)
	}
	equal(s.t, "All", all, infos)
	for _, info := range infos {
		byName[info.Name] = info
		byID[info.ID] = info.Name
		equal(s.t, "Stat", must(s.Stat(ctx, info.Name)), info)
		equal(s.t, "NameOf", must(s.NameOf(ctx, info.ID)), info.Name)
		wellFormed(s.t, info)
	}
	equal(s.t, "IDs", must(s.IDs(ctx)), byID)
	equal(s.t, "number of identifiers", len(byID), len(infos))
	for i, info := range infos {
		s.agreeActive(ctx, byName, info)
		if i > 0 && info.Name <= infos[i-1].Name {
			s.t.Fatalf("walk visits %q after %q", info.Name, infos[i-1].Name)
		}
	}
}

// agreeActive requires that GetActive fits what Walk said of all snapshots.
func (s *store) agreeActive(ctx context.Context, byName map[string]fsmeta.Info, info fsmeta.Info) {
	s.t.Helper()
	parents := []string{}
	for name := info.Parent; name != ""; name = byName[name].Parent {
		equal(s.t, "kind of parent "+name, byName[name].Kind, fsmeta.KindCommitted)
		parents = slices.Insert(parents, 0, byName[name].ID)
	}
	active, err := s.GetActive(ctx, info.Name)
	if info.Kind == fsmeta.KindCommitted {
		wantError(s.t, err, fsmeta.ErrNotActive)
		return
	}
	nilError(s.t, err)
	equal(s.t, "active "+info.Name, fmt.Sprint(active), fmt.Sprint(fsmeta.Active{
		ID: info.ID, ParentIDs: parents, Readonly: info.Readonly}))
}

// wellFormed requires what is true of every Info.
func wellFormed(t *testing.T, info fsmeta.Info) {
	t.Helper()
	if _, err := strconv.ParseUint(info.ID, 10, 64); err != nil {
		t.Errorf("%q: identifier is not decimal: %v", info.Name, err)
	}
	if info.Kind == fsmeta.KindCommitted && !info.Readonly {
		t.Errorf("%q: committed but not readonly", info.Name)
	}
	if info.Labels != nil && len(info.Labels) == 0 {
		t.Errorf("%q: empty labels are not nil", info.Name)
	}
	if info.Created.Location() != time.UTC || info.Updated.Location() != time.UTC {
		t.Errorf("%q: times are not UTC: %v, %v", info.Name, info.Created, info.Updated)
	}
	if info.Created.IsZero() || info.Updated.Before(info.Created) {
		t.Errorf("%q: created %v, updated %v", info.Name, info.Created, info.Updated)
	}
}

// write runs fn in a writable transaction, which must succeed.
func (s *store) write(fn func(ctx context.Context)) {
	s.t.Helper()
	nilError(s.t, s.WithTransaction(bg, true, func(ctx context.Context) error {
		fn(ctx)
		return nil
	}))
}

// begin begins a transaction, which must succeed.
func (s *store) begin(ctx context.Context, writable bool) (context.Context, fsmeta.Transactor) {
	s.t.Helper()
	ctx, tx, err := s.TransactionContext(ctx, writable)
	nilError(s.t, err)
	return ctx, tx
}

// build makes snapshots from a text, in one transaction.
func (s *store) build(text string) {
	s.t.Helper()
	s.write(func(ctx context.Context) { s.make(ctx, text) })
}

// make makes snapshots from a text, in the transaction of ctx.
func (s *store) make(ctx context.Context, text string) {
	s.t.Helper()
	for line := range strings.SplitSeq(text, "; ") {
		name, parent, _ := strings.Cut(line, " < ")
		key := strings.TrimLeft(name, "*?")
		if active := key != name; active {
			must(s.CreateActive(ctx, key, parent, name[0] == '?'))
			continue
		}
		must(s.CreateActive(ctx, "building "+key, parent, false))
		must(s.Commit(ctx, "building "+key, key))
	}
}

// want requires that the store is as the text says.
func (s *store) want(ctx context.Context, text string) {
	s.t.Helper()
	equal(s.t, "store", must(s.list(ctx)), text)
}

// list tells the store as a text.
func (s *store) list(ctx context.Context) (string, error) {
	infos, err := dump(ctx, s.Store)
	return list(infos), err
}

// walk returns all that Walk visits.
func (s *store) walk(ctx context.Context) (infos []fsmeta.Info, err error) {
	err = s.Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
		infos = append(infos, info)
		return nil
	})
	return infos, err
}

// dump returns all that there is to know about a store.
func dump(ctx context.Context, s *fsmeta.Store) ([]fsmeta.Info, error) {
	return (&store{Store: s}).walk(ctx)
}

func list(infos []fsmeta.Info) string {
	var items []string
	for _, info := range infos {
		items = append(items, item(info.Name, info.Parent, info.Kind.String(), info.Readonly))
	}
	return strings.Join(items, "; ")
}

func item(name, parent, kind string, readonly bool) string {
	switch {
	case kind == "active" && readonly:
		name = "?" + name
	case kind == "active":
		name = "*" + name
	}
	if parent != "" {
		name += " < " + parent
	}
	return name
}

// diskList tells the store in dir as a text, as an operator would who has only
// ls, cat and readlink. It also requires that every entry is what it should be.
func diskList(t *testing.T, dir string) string {
	t.Helper()
	items := map[string]string{}
	for _, entry := range must(os.ReadDir(filepath.Join(dir, "snapshots"))) {
		meta := diskMeta(t, dir, entry.Name())
		parent, err := os.Readlink(filepath.Join(dir, "snapshots", entry.Name(), "parent"))
		if err == nil {
			if filepath.Dir(parent) != ".." || filepath.Base(parent) == ".." {
				t.Errorf("parent of %s is %q", entry.Name(), parent)
			}
			parent = diskMeta(t, dir, filepath.Base(parent)).Name
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("parent of %s: %v", entry.Name(), err)
		}
		items[meta.Name] = item(meta.Name, parent, meta.Kind, meta.Readonly)
	}
	var sorted []string
	for _, name := range slices.Sorted(maps.Keys(items)) {
		sorted = append(sorted, items[name])
	}
	return strings.Join(sorted, "; ")
}

type metadata struct {
	ID, Name, Kind string
	Readonly       bool
	Labels         map[string]string
	Txn            json.Number
}

func diskMeta(t *testing.T, dir, entry string) (meta metadata) {
	t.Helper()
	nilError(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "snapshots", entry, "metadata.json"))), &meta))
	if name := must(url.PathUnescape(entry)); !strings.Contains(entry, "~") && name != meta.Name {
		t.Errorf("entry %s holds %q", entry, meta.Name)
	}
	return meta
}

// kill returns a copy of the store's directory: what would be on disk if the
// process were killed now.
func (s *store) kill() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "store")
	copyTree(s.t, s.dir, dir)
	return dir
}

// copyTree copies directories, files and symlinks. What vanishes meanwhile is
// left out.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case entry.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if err := os.WriteFile(target, bytes.TrimRight(data, "\x00"), 0o600); err != nil {
			return err
		}
		return os.Truncate(target, int64(len(data))) // NUL bytes again, but quicker
	})
	nilError(t, err)
}

// fingerprint tells everything below dir, times of modification as well, but
// for the paths below dir that are to be left out.
func fingerprint(t *testing.T, dir string, without ...string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		rel := must(filepath.Rel(dir, path))
		if err != nil {
			return err
		}
		if slices.Contains(without, rel) && entry.IsDir() {
			return fs.SkipDir
		}
		if slices.Contains(without, rel) {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case entry.Type() == fs.ModeSymlink:
			content, err = os.Readlink(path)
		case entry.Type().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			content = string(bytes.TrimRight(data, "\x00"))
		}
		fmt.Fprintf(&b, "%s %v %d %s %q\n", rel, info.Mode(), info.Size(), info.ModTime().Format(time.RFC3339Nano), content)
		return err
	})
	nilError(t, err)
	return b.String()
}

// must returns v. It is for calls whose error means that the test makes no sense.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// drop keeps only the error.
func drop[T any](_ T, err error) error { return err }

func nilError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %s\nwant %s", what, short(got), short(want))
	}
}

func short(v any) string {
	text := fmt.Sprintf("%+v", v)
	if len(text) > 8000 {
		text = text[:8000] + "…"
	}
	return text
}

// sentinels are the errors to test for, each with its class in errdefs.
var sentinels = []struct {
	err   error
	class string
	also  error // another error that it is, too
}{
	{fsmeta.ErrNotExist, "NotFound", fs.ErrNotExist},
	{fsmeta.ErrExist, "AlreadyExists", fs.ErrExist},
	{fsmeta.ErrNotActive, "FailedPrecondition", nil},
	{fsmeta.ErrNotCommitted, "FailedPrecondition", nil},
	{fsmeta.ErrHasChildren, "FailedPrecondition", nil},
	{fsmeta.ErrParentSet, "FailedPrecondition", nil},
	{fsmeta.ErrInvalidName, "InvalidParameter", nil},
	{fsmeta.ErrDamaged, "DataLoss", nil},
	{fsmeta.ErrNoTransaction, "FailedPrecondition", nil},
	{fsmeta.ErrReadOnlyTransaction, "FailedPrecondition", nil},
	{fsmeta.ErrTransactionClosed, "FailedPrecondition", nil},
	{fsmeta.ErrNestedTransaction, "FailedPrecondition", nil},
	{fsmeta.ErrOutdated, "Aborted", nil},
	{fsmeta.ErrClosed, "Unavailable", fs.ErrClosed},
	{fsmeta.ErrNotStore, "FailedPrecondition", nil},
	{fsmeta.ErrFailed, "Unavailable", nil},
	{fsmeta.ErrOutcomeUnknown, "Unknown", nil},
}

// classes are the marker methods of errdefs.
var classes = map[string]func(error) bool{
	"NotFound":           marked[interface{ NotFound() }],
	"AlreadyExists":      marked[interface{ AlreadyExists() }],
	"FailedPrecondition": marked[interface{ FailedPrecondition() }],
	"InvalidParameter":   marked[interface{ InvalidParameter() }],
	"DataLoss":           marked[interface{ DataLoss() }],
	"Aborted":            marked[interface{ Aborted() }],
	"Unavailable":        marked[interface{ Unavailable() }],
	"Unknown":            marked[interface{ Unknown() }],
}

func marked[T any](err error) bool {
	var target T
	return errors.As(err, &target)
}

// wantError requires that err is the sentinel want and no other one, is of its
// class and of no other, and mentions what it should.
func wantError(t *testing.T, err, want error, mentions ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error: %v\nwant: %v", err, want)
	}
	for _, text := range mentions {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error does not mention %q: %v", text, err)
		}
	}
	if want == fsmeta.ErrDamaged { // wraps anything
		return
	}
	for _, other := range sentinels {
		if is := errors.Is(err, other.err); is != (other.err == want) {
			t.Errorf("errors.Is(%v, %v) is %v", err, other.err, is)
		}
		if other.err == want && other.also != nil && !errors.Is(err, other.also) {
			t.Errorf("%v is not %v", err, other.also)
		}
		if other.err == want && !classes[other.class](err) {
			t.Errorf("%v is not of class %s", err, other.class)
		}
	}
	if n := classCount(err); n != 1 {
		t.Errorf("%v is of %d classes", err, n)
	}
}

func classCount(err error) (n int) {
	for _, is := range classes {
		if is(err) {
			n++
		}
	}
	return n
}

func TestSentinels(t *testing.T) {
	for _, s := range sentinels {
		wantError(t, fmt.Errorf("wrapped: %w", s.err), s.err, s.err.Error())
		if !classes[s.class](s.err) {
			t.Errorf("%v is not of class %s", s.err, s.class)
		}
	}
	damage := errors.New("what is wrong")
	err := error(&fsmeta.DamagedError{Name: "name", Path: "path", Err: damage})
	wantError(t, err, fsmeta.ErrDamaged, "name", "path", "what is wrong")
	if !errors.Is(err, damage) || !classes["DataLoss"](err) {
		t.Errorf("%v hides its cause or its class", err)
	}
}

// Opening.

func TestOpen(t *testing.T) {
	remove := func(path string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { made(t, dir); nilError(t, os.RemoveAll(filepath.Join(dir, path))) }
	}
	write := func(path, content string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { made(t, dir); overwrite(t, filepath.Join(dir, path), content) }
	}
	nothing := func(*testing.T, string) {}
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    []error // one of them without options
		exist   []error // one of them with MustExist
		read    []error // one of them with ReadOnly
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
		{"later version", write("layout", `{"format":"fsmeta","version":2}`), notStore, notStore, notStore},
		{"other format", write("layout", `{"format":"other","version":1}`), notStore, notStore, notStore},
		{"layout empty", write("layout", ""), either, either, either},
		{"layout cut", write("layout", `{"format":"fsm`), either, either, either},
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

var (
	notStore = []error{fsmeta.ErrNotStore}
	damaged  = []error{fsmeta.ErrDamaged}
	either   = []error{fsmeta.ErrDamaged, fsmeta.ErrNotStore}
)

// tryOpen requires that Open fails with one of the errors and changes nothing,
// or, if there are none, that it opens a store that works.
func tryOpen(t *testing.T, prepare func(*testing.T, string), want []error, opts ...fsmeta.Option) {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "store")
	prepare(t, dir)
	before := fingerprint(t, top)
	s, err := fsmeta.Open(dir, opts...)
	if len(want) == 0 {
		nilError(t, err)
		nilError(t, s.Close())
		openStore(t, dir).build("new")
		return
	}
	if err == nil {
		s.Close()
	}
	if !slices.ContainsFunc(want, func(want error) bool { return errors.Is(err, want) }) {
		t.Fatalf("Open with %d options: got error %v, want one of %v", len(opts), err, want)
	}
	if !strings.Contains(err.Error(), dir) {
		t.Errorf("error does not mention the path %s: %v", dir, err)
	}
	equal(t, "directory after the failed Open", fingerprint(t, top), before)
}

// made makes a store that is not empty.
func made(t *testing.T, dir string) {
	t.Helper()
	s := openOnly(t, dir)
	s.build("base; *work < base")
	nilError(t, s.Close())
}

// halfMade leaves what an Open that makes a store has done so far.
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

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	nilError(t, os.WriteFile(path, []byte(content), 0o600))
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

// A store whose layout was lost must not become an empty one.
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
		if opened, err := fsmeta.Open(dir); err == nil {
			defer opened.Close()
			(&store{opened, t, dir}).want(bg, "base; *work < base")
		} else {
			equal(t, "directory", fingerprint(t, dir), before)
		}
		overwrite(t, filepath.Join(dir, "layout"), string(layout))
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

func TestNewStoreOnDisk(t *testing.T) {
	s := newStore(t)
	s.build("base; top < base")
	var names []string
	for _, entry := range must(os.ReadDir(s.dir)) {
		names = append(names, entry.Name())
	}
	equal(t, "entries", names, []string{"journal", "layout", "snapshots", "staging"})
	var layout map[string]any
	nilError(t, json.Unmarshal(must(os.ReadFile(filepath.Join(s.dir, "layout"))), &layout))
	equal(t, "format", layout["format"], any("fsmeta"))
	equal(t, "version", layout["version"], any(1.0))
	equal(t, "parent", must(os.Readlink(filepath.Join(s.dir, "snapshots/top/parent"))), "../base")
	nilError(t, filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		nilError(t, err)
		mode := must(entry.Info()).Mode()
		if want := map[fs.FileMode]fs.FileMode{fs.ModeDir: 0o700, 0: 0o600}; entry.Type() != fs.ModeSymlink {
			equal(t, "permissions of "+path, mode.Perm(), want[entry.Type()])
		}
		return nil
	}))
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

// Operations.

func TestOperations(t *testing.T) {
	const given = "base; top < base; *work < top; ?view < top"
	for _, test := range []struct {
		name string
		do   func(ctx context.Context, s *store)
		want string
	}{
		{"create on nothing", func(ctx context.Context, s *store) {
			must(s.CreateActive(ctx, "new", "", false))
		}, "base; *new; top < base; ?view < top; *work < top"},
		{"create on a parent", func(ctx context.Context, s *store) {
			must(s.CreateActive(ctx, "new", "base", false))
		}, "base; *new < base; top < base; ?view < top; *work < top"},
		{"create readonly", func(ctx context.Context, s *store) {
			must(s.CreateActive(ctx, "new", "top", true))
		}, "base; ?new < top; top < base; ?view < top; *work < top"},
		{"commit", func(ctx context.Context, s *store) {
			must(s.Commit(ctx, "work", "done"))
		}, "base; done < top; top < base; ?view < top"},
		{"commit and use the key again", func(ctx context.Context, s *store) {
			must(s.Commit(ctx, "work", "done"))
			must(s.CreateActive(ctx, "work", "done", false))
		}, "base; done < top; top < base; ?view < top; *work < done"},
		{"swap names", func(ctx context.Context, s *store) {
			must(s.CreateActive(ctx, "new", "", false))
			must(s.Remove(ctx, "work"))
			must(s.Commit(ctx, "new", "work"))
			must(s.CreateActive(ctx, "new", "work", false))
		}, "base; *new < work; top < base; ?view < top; work"},
		{"remove active", func(ctx context.Context, s *store) {
			must(s.Remove(ctx, "work"))
		}, "base; top < base; ?view < top"},
		{"remove readonly", func(ctx context.Context, s *store) {
			must(s.Remove(ctx, "view"))
		}, "base; top < base; *work < top"},
		{"remove from the top down", func(ctx context.Context, s *store) {
			must(s.Remove(ctx, "view"))
			must(s.Remove(ctx, "work"))
			must(s.Remove(ctx, "top"))
			must(s.Remove(ctx, "base"))
		}, ""},
		{"create and remove", func(ctx context.Context, s *store) {
			must(s.CreateActive(ctx, "new", "top", false))
			must(s.Remove(ctx, "new"))
		}, "base; top < base; ?view < top; *work < top"},
		{"remove and create", func(ctx context.Context, s *store) {
			must(s.Remove(ctx, "work"))
			must(s.CreateActive(ctx, "work", "base", true))
		}, "base; top < base; ?view < top; ?work < base"},
		{"rebase", func(ctx context.Context, s *store) {
			must(s.CreateActive(ctx, "side", "", false))
			must(s.CommitActive(ctx, "side", "upper", fsmeta.WithParent("top")))
		}, "base; top < base; upper < top; ?view < top; *work < top"},
		{"rebase on what is there", func(ctx context.Context, s *store) {
			must(s.CommitActive(ctx, "work", "done", fsmeta.WithParent("top")))
		}, "base; done < top; top < base; ?view < top"},
		{"rebase on nothing", func(ctx context.Context, s *store) {
			must(s.CommitActive(ctx, "work", "done", fsmeta.WithParent("")))
		}, "base; done < top; top < base; ?view < top"},
		{"create ignores WithParent", func(ctx context.Context, s *store) {
			must(s.Create(ctx, "new", "", false, fsmeta.WithParent("base")))
		}, "base; *new; top < base; ?view < top; *work < top"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build(given)
			s.write(func(ctx context.Context) {
				test.do(ctx, s)
				s.want(ctx, test.want)
				s.agree(ctx)
				s.want(bg, "base; top < base; ?view < top; *work < top")
			})
			s.want(bg, test.want)
			s.agree(bg)
			openStore(t, s.kill()).want(bg, test.want)
		})
	}
}

func TestCommitKeepsIdentifier(t *testing.T) {
	s := newStore(t)
	s.write(func(ctx context.Context) {
		active := must(s.CreateActive(ctx, "key", "", false))
		equal(t, "identifier", must(s.Commit(ctx, "key", "name")), active.ID)
		equal(t, "identifier", must(s.Stat(ctx, "name")).ID, active.ID)
		equal(t, "name", must(s.NameOf(ctx, active.ID)), "name")
		wantError(t, drop(s.Stat(ctx, "key")), fsmeta.ErrNotExist, "key")
		again := must(s.CreateActive(ctx, "key", "name", false))
		equal(t, "parents", again.ParentIDs, []string{active.ID})
		equal(t, "identifier", must(s.Remove(ctx, "key")), again.ID)
		wantError(t, drop(s.NameOf(ctx, again.ID)), fsmeta.ErrNotExist, again.ID)
		equal(t, "identifier", must(s.Remove(ctx, "name")), active.ID)
	})
}

// An identifier can be had before the snapshot is made: nobody else gets it, and it
// serves one snapshot.
func TestNewID(t *testing.T) {
	s := newStore(t)
	other := openOnly(t, s.dir)
	mine := must(s.NewID(bg))
	theirs := must(other.NewID(bg))
	var inside string
	ctx, txn := s.begin(bg, true)
	inside = must(s.NewID(ctx))
	next := must(s.Create(ctx, "next", "", false)).ID
	nilError(t, txn.Rollback())
	for _, pair := range [][2]string{{mine, theirs}, {mine, inside}, {theirs, inside}, {mine, next}, {inside, next}} {
		if pair[0] == pair[1] {
			t.Errorf("identifier %s was handed out twice", pair[0])
		}
	}

	s.write(func(ctx context.Context) {
		wantError(t, drop(s.Create(ctx, "a", "", false, fsmeta.WithID(theirs))), fsmeta.ErrInvalidName, theirs)
		wantError(t, drop(s.Create(ctx, "a", "", false, fsmeta.WithID(next))), fsmeta.ErrInvalidName, next)
		wantError(t, drop(s.Create(ctx, "a", "gone", false, fsmeta.WithID(mine))), fsmeta.ErrNotExist)
		equal(t, "identifier", must(s.Create(ctx, "a", "", false, fsmeta.WithID(mine))).ID, mine)
		wantError(t, drop(s.Create(ctx, "b", "", false, fsmeta.WithID(mine))), fsmeta.ErrInvalidName, mine)
		equal(t, "identifier", must(s.Create(ctx, "b", "", true, fsmeta.WithID(inside))).ID, inside)
	})
	s.want(bg, "*a; ?b")
	equal(t, "name", must(s.NameOf(bg, inside)), "b")

	// What was reserved and not used when the process died is not handed out either.
	lost := must(s.NewID(bg))
	again := openStore(t, s.kill())
	if id := must(again.NewID(bg)); id == lost {
		t.Errorf("identifier %s was handed out again after a crash", id)
	}

	ctx, txn = s.begin(bg, true)
	wantError(t, drop(other.NewID(ctx)), fsmeta.ErrNoTransaction)
	cancelled, cancel := context.WithCancel(bg)
	cancel()
	if err := drop(other.NewID(cancelled)); !errors.Is(err, context.Canceled) {
		t.Errorf("NewID with a context that has ended: %v", err)
	}
	nilError(t, txn.Rollback())
	wantError(t, drop(s.NewID(ctx)), fsmeta.ErrTransactionClosed)
	wantError(t, drop(openOnly(t, s.dir, fsmeta.ReadOnly()).NewID(bg)), fsmeta.ErrReadOnlyTransaction)
	nilError(t, other.Close())
	wantError(t, drop(other.NewID(bg)), fsmeta.ErrClosed)
}

func TestParentOrder(t *testing.T) {
	const depth = 200
	s := newStore(t)
	var ids []string // the lowest base first
	parent := ""
	for i := range depth {
		s.write(func(ctx context.Context) {
			active := must(s.CreateActive(ctx, "key", parent, i%2 == 1))
			equal(t, "parents of the new one", fmt.Sprint(active.ParentIDs), fmt.Sprint(ids))
			equal(t, "GetActive", must(s.GetActive(ctx, "key")), active)
			equal(t, "readonly", active.Readonly, i%2 == 1)
			must(s.Remove(ctx, "key"))
			id := must(s.CreateActive(ctx, "key", parent, false)).ID
			parent = fmt.Sprint("layer ", depth-i) // names run against the order
			must(s.Commit(ctx, "key", parent))
			ids = append(ids, id)
		})
	}
	s.write(func(ctx context.Context) { must(s.CreateActive(ctx, "key", parent, false)) })
	equal(t, "parents", must(s.GetActive(bg, "key")).ParentIDs, ids)
	killed := openStore(t, s.kill())
	equal(t, "parents after a crash", must(killed.GetActive(bg, "key")).ParentIDs, ids)
}

func TestTimes(t *testing.T) {
	s := newStore(t)
	var last fsmeta.Info
	for _, step := range []struct {
		name    string
		created bool // whether the step sets Created
		do      func(ctx context.Context) string
	}{
		{"create", true, func(ctx context.Context) string { must(s.CreateActive(ctx, "key", "", false)); return "key" }},
		{"update", false, func(ctx context.Context) string {
			must(s.Update(ctx, fsmeta.Info{Name: "key", Labels: map[string]string{"a": "b"}}))
			return "key"
		}},
		{"usage", false, func(ctx context.Context) string {
			must(s.SetUsage(ctx, "key", fsmeta.Usage{Size: 1}))
			return "key"
		}},
		{"commit", true, func(ctx context.Context) string { must(s.Commit(ctx, "key", "name")); return "name" }},
		{"update committed", false, func(ctx context.Context) string {
			must(s.Update(ctx, fsmeta.Info{Name: "name", Labels: map[string]string{"a": "b"}}))
			return "name"
		}},
	} {
		before := time.Now().Round(0)
		var name string
		s.write(func(ctx context.Context) { name = step.do(ctx) })
		after := time.Now().Round(0)
		info := must(s.Stat(bg, name))
		if info.Updated.Before(before) || info.Updated.After(after) {
			t.Errorf("%s: updated %v, want from %v to %v", step.name, info.Updated, before, after)
		}
		if step.created {
			equal(t, step.name+": created", info.Created, info.Updated)
		} else {
			equal(t, step.name+": created", info.Created, last.Created)
		}
		last = info
	}
}

func TestLabelsAndUsage(t *testing.T) {
	s := newStore(t)
	labels := map[string]string{"containerd.io/gc.root": "now", "empty": "", "ä": "ö\n\x00"}
	usage := fsmeta.Usage{Inodes: 12, Size: 1 << 40}
	get := func(name string) fsmeta.Info { return must(s.Stat(bg, name)) }

	s.write(func(ctx context.Context) {
		for _, key := range []string{"a", "b"} {
			must(s.Create(ctx, key, "", false, fsmeta.WithLabels(labels), fsmeta.WithUsage(usage)))
		}
	})
	equal(t, "labels", get("a").Labels, labels)
	equal(t, "usage", get("a").Usage, usage)

	s.write(func(ctx context.Context) { must(s.Commit(ctx, "a", "A")) })
	equal(t, "labels after commit", get("A").Labels, nil)
	equal(t, "usage after commit", get("A").Usage, usage)

	other := fsmeta.Usage{Inodes: 1}
	s.write(func(ctx context.Context) {
		must(s.CommitActive(ctx, "b", "B", fsmeta.WithLabels(map[string]string{"x": "y"}), fsmeta.WithUsage(other)))
	})
	equal(t, "labels given at commit", get("B").Labels, map[string]string{"x": "y"})
	equal(t, "usage given at commit", get("B").Usage, other)

	s.write(func(ctx context.Context) {
		info := must(s.SetUsage(ctx, "A", other))
		equal(t, "usage returned", info.Usage, other)
		equal(t, "Stat inside", must(s.Stat(ctx, "A")), info)
	})
	equal(t, "usage set", get("A").Usage, other)
}

func TestUpdate(t *testing.T) {
	type labels = map[string]string
	given := labels{"a": "1", "b": "2", "x.y/z": "3"}
	for _, test := range []struct {
		name   string
		labels labels
		fields []string
		want   labels
	}{
		{"all by default", labels{"c": "4"}, nil, labels{"c": "4"}},
		{"all by name", labels{"c": "4"}, []string{"labels"}, labels{"c": "4"}},
		{"all to nil", nil, nil, nil},
		{"all to none", labels{}, []string{"labels"}, nil},
		{"one", labels{"a": "9", "c": "4"}, []string{"labels.a"}, labels{"a": "9", "b": "2", "x.y/z": "3"}},
		{"one new", labels{"c": "4"}, []string{"labels.c"}, labels{"a": "1", "b": "2", "c": "4", "x.y/z": "3"}},
		{"one with dots", labels{"x.y/z": "5"}, []string{"labels.x.y/z"}, labels{"a": "1", "b": "2", "x.y/z": "5"}},
		{"two", labels{"a": "9", "c": "4"}, []string{"labels.a", "labels.c"}, labels{"a": "9", "b": "2", "c": "4", "x.y/z": "3"}},
		{"set and delete", labels{"a": "9"}, []string{"labels.a", "labels.b"}, labels{"a": "9", "x.y/z": "3"}},
		{"delete one", nil, []string{"labels.a"}, labels{"b": "2", "x.y/z": "3"}},
		{"delete each", nil, []string{"labels.a", "labels.b", "labels.x.y/z"}, nil},
		{"delete a missing one", nil, []string{"labels.c"}, given},
		{"empty value", labels{"a": ""}, []string{"labels.a"}, labels{"a": "", "b": "2", "x.y/z": "3"}},
		{"all and one", labels{"a": "9", "c": "4"}, []string{"labels", "labels.a"}, labels{"a": "9", "c": "4"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("base")
			s.write(func(ctx context.Context) {
				for i, key := range []string{"active", "readonly", "committed"} {
					must(s.Create(ctx, key, "base", i == 1, fsmeta.WithLabels(given), fsmeta.WithUsage(fsmeta.Usage{Size: 7})))
				}
				must(s.CommitActive(ctx, "committed", "name", fsmeta.WithLabels(given)))
			})
			for _, name := range []string{"active", "readonly", "name"} {
				before := must(s.Stat(bg, name))
				s.update(before, test.labels, test.fields, test.want)
			}
		})
	}
}

// update requires that Update changes the labels to want and nothing else.
func (s *store) update(before fsmeta.Info, labels map[string]string, fields []string, want map[string]string) {
	s.t.Helper()
	s.write(func(ctx context.Context) {
		info := must(s.Update(ctx, fsmeta.Info{Name: before.Name, Labels: labels,
			ID: "7", Parent: "other", Kind: 77, Created: time.Now(), Usage: fsmeta.Usage{Size: 8}}, fields...))
		equal(s.t, "Stat inside", must(s.Stat(ctx, before.Name)), info)
	})
	after := must(s.Stat(bg, before.Name))
	equal(s.t, "labels", after.Labels, want)
	after.Labels, after.Updated = before.Labels, before.Updated
	equal(s.t, "everything else", after, before)
}

func TestReturnedValuesAreCopies(t *testing.T) {
	s := newStore(t)
	s.build("base; top < base")
	given := map[string]string{"a": "1"}
	option := fsmeta.WithLabels(given)
	given["a"] = "spoilt before use"
	s.write(func(ctx context.Context) {
		must(s.Create(ctx, "work", "top", false, option))
		given["a"] = "spoilt after use"
		update := map[string]string{"b": "2"}
		must(s.Create(ctx, "other", "top", false))
		must(s.Update(ctx, fsmeta.Info{Name: "other", Labels: update}))
		update["b"] = "spoilt"
		spoil(s, ctx, "work")
		spoil(s, ctx, "other")
		equal(t, "labels given", must(s.Stat(ctx, "work")).Labels, map[string]string{"a": "1"})
		equal(t, "labels updated", must(s.Stat(ctx, "other")).Labels, map[string]string{"b": "2"})
		s.agree(ctx)
	})
	for range 2 {
		equal(t, "labels given", must(s.Stat(bg, "work")).Labels, map[string]string{"a": "1"})
		equal(t, "labels updated", must(s.Stat(bg, "other")).Labels, map[string]string{"b": "2"})
		s.agree(bg)
		spoil(s, bg, "work")
		spoil(s, bg, "other")
	}
}

// spoil changes everything that the reads of a snapshot return.
func spoil(s *store, ctx context.Context, key string) {
	info := must(s.Stat(ctx, key))
	info.Labels["a"], info.Labels["new"] = "spoilt", "spoilt"
	for _, info := range must(s.walk(ctx)) {
		if info.Labels != nil {
			info.Labels["b"] = "spoilt"
		}
	}
	for info := range s.All(ctx) {
		clear(info.Labels)
	}
	slices.Reverse(must(s.GetActive(ctx, key)).ParentIDs)
	clear(must(s.IDs(ctx)))
}

// Bad input.

func TestErrors(t *testing.T) {
	long := strings.Repeat("x", 32769)
	create := func(key, parent string, opts ...fsmeta.SnapshotOption) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error {
			err := drop(s.Create(ctx, key, parent, false, opts...))
			if opts == nil {
				return alike(drop(s.CreateActive(ctx, key, parent, true)), err)
			}
			return err
		}
	}
	commit := func(key, name string, opts ...fsmeta.SnapshotOption) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error {
			err := drop(s.CommitActive(ctx, key, name, opts...))
			if opts == nil {
				return alike(drop(s.Commit(ctx, key, name)), err)
			}
			return err
		}
	}
	update := func(name string, labels map[string]string, fields ...string) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error {
			return drop(s.Update(ctx, fsmeta.Info{Name: name, Labels: labels}, fields...))
		}
	}
	named := func(do func(s *store, ctx context.Context, name string) error, name string) func(context.Context, *store) error {
		return func(ctx context.Context, s *store) error { return do(s, ctx, name) }
	}
	stat := func(s *store, ctx context.Context, name string) error { return drop(s.Stat(ctx, name)) }
	active := func(s *store, ctx context.Context, name string) error { return drop(s.GetActive(ctx, name)) }
	remove := func(s *store, ctx context.Context, name string) error { return drop(s.Remove(ctx, name)) }
	nameOf := func(s *store, ctx context.Context, name string) error { return drop(s.NameOf(ctx, name)) }
	usage := func(s *store, ctx context.Context, name string) error {
		return drop(s.SetUsage(ctx, name, fsmeta.Usage{Size: 1}))
	}
	labels := func(key, value string) map[string]string { return map[string]string{"good": "x", key: value} }
	with := func(key, value string) fsmeta.SnapshotOption { return fsmeta.WithLabels(labels(key, value)) }

	for _, test := range []struct {
		name     string
		do       func(context.Context, *store) error
		want     error
		mentions string
	}{
		{"stat missing", named(stat, "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"stat empty", named(stat, ""), fsmeta.ErrInvalidName, ""},
		{"stat long", named(stat, long), fsmeta.ErrInvalidName, "32768"},
		{"stat not UTF-8", named(stat, "nobody\xff"), fsmeta.ErrInvalidName, "nobody"},

		{"active missing", named(active, "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"active committed", named(active, "top"), fsmeta.ErrNotActive, "top"},
		{"active empty", named(active, ""), fsmeta.ErrInvalidName, ""},
		{"active long", named(active, long), fsmeta.ErrInvalidName, "32768"},
		{"active not UTF-8", named(active, "\xed\xa0\x80"), fsmeta.ErrInvalidName, ""},

		{"name of a missing one", named(nameOf, "123456789"), fsmeta.ErrNotExist, "123456789"},
		{"name of no number", named(nameOf, "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"name of nothing", named(nameOf, ""), fsmeta.ErrNotExist, ""},

		{"create empty", create("", ""), fsmeta.ErrInvalidName, ""},
		{"create long", create(long, ""), fsmeta.ErrInvalidName, "32768"},
		{"create not UTF-8", create("a\xc3", "base"), fsmeta.ErrInvalidName, "a"},
		{"create on long", create("new", long), fsmeta.ErrInvalidName, "32768"},
		{"create on not UTF-8", create("new", "base\xff"), fsmeta.ErrInvalidName, "base"},
		{"create on missing", create("new", "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"create on itself", create("new", "new"), fsmeta.ErrNotExist, "new"},
		{"create on active", create("new", "work"), fsmeta.ErrNotCommitted, "work"},
		{"create on readonly", create("new", "view"), fsmeta.ErrNotCommitted, "view"},
		{"create what is active", create("work", "top"), fsmeta.ErrExist, "work"},
		{"create what is readonly", create("view", ""), fsmeta.ErrExist, "view"},
		{"create what is committed", create("base", ""), fsmeta.ErrExist, "base"},
		{"create parent on itself", create("base", "base"), fsmeta.ErrExist, "base"},
		{"create what exists on missing", create("work", "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"create what exists on active", create("base", "work"), fsmeta.ErrNotCommitted, "work"},
		{"create with empty label", create("new", "", with("", "x")), fsmeta.ErrInvalidName, "new"},
		{"create with bad label", create("new", "", with("l\xff", "x")), fsmeta.ErrInvalidName, "new"},
		{"create with bad value", create("new", "", with("label", "\xff")), fsmeta.ErrInvalidName, "label"},

		{"commit empty", commit("", "new"), fsmeta.ErrInvalidName, ""},
		{"commit to empty", commit("work", ""), fsmeta.ErrInvalidName, ""},
		{"commit long", commit(long, "new"), fsmeta.ErrInvalidName, "32768"},
		{"commit to long", commit("work", long), fsmeta.ErrInvalidName, "32768"},
		{"commit not UTF-8", commit("\xff", "new"), fsmeta.ErrInvalidName, ""},
		{"commit to not UTF-8", commit("work", "new\xff"), fsmeta.ErrInvalidName, "new"},
		{"commit missing", commit("nobody", "new"), fsmeta.ErrNotExist, "nobody"},
		{"commit committed", commit("base", "new"), fsmeta.ErrNotActive, "base"},
		{"commit readonly", commit("view", "new"), fsmeta.ErrNotActive, "view"},
		{"commit to committed", commit("work", "top"), fsmeta.ErrExist, "top"},
		{"commit to active", commit("work", "view"), fsmeta.ErrExist, "view"},
		{"commit to itself", commit("work", "work"), fsmeta.ErrExist, "work"},
		{"commit missing to what exists", commit("nobody", "base"), fsmeta.ErrExist, "base"},
		{"commit with empty label", commit("work", "new", with("", "x")), fsmeta.ErrInvalidName, "work"},
		{"commit with bad label", commit("work", "new", with("l\xff", "x")), fsmeta.ErrInvalidName, "work"},
		{"commit with bad value", commit("work", "new", with("label", "\xff")), fsmeta.ErrInvalidName, "label"},
		{"commit on missing", commit("side", "new", fsmeta.WithParent("nobody")), fsmeta.ErrNotExist, "nobody"},
		{"commit on active", commit("side", "new", fsmeta.WithParent("work")), fsmeta.ErrNotCommitted, "work"},
		{"commit on readonly", commit("side", "new", fsmeta.WithParent("view")), fsmeta.ErrNotCommitted, "view"},
		{"commit on its key", commit("side", "new", fsmeta.WithParent("side")), fsmeta.ErrNotCommitted, "side"},
		{"commit on itself", commit("side", "new", fsmeta.WithParent("new")), fsmeta.ErrNotExist, "new"},
		{"commit on another", commit("work", "new", fsmeta.WithParent("base")), fsmeta.ErrParentSet, "work"},
		{"commit on long", commit("side", "new", fsmeta.WithParent(long)), fsmeta.ErrInvalidName, "32768"},
		{"commit on not UTF-8", commit("side", "new", fsmeta.WithParent("\xff")), fsmeta.ErrInvalidName, ""},

		{"remove missing", named(remove, "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"remove empty", named(remove, ""), fsmeta.ErrInvalidName, ""},
		{"remove long", named(remove, long), fsmeta.ErrInvalidName, "32768"},
		{"remove not UTF-8", named(remove, "\xff"), fsmeta.ErrInvalidName, ""},
		{"remove under committed", named(remove, "base"), fsmeta.ErrHasChildren, "base"},
		{"remove under active", named(remove, "top"), fsmeta.ErrHasChildren, "top"},
		{"remove under readonly", named(remove, "low"), fsmeta.ErrHasChildren, "low"},
		{"remove under new one", func(ctx context.Context, s *store) error {
			must(s.CreateActive(ctx, "new", "alone", false))
			err := drop(s.Remove(ctx, "alone"))
			must(s.Remove(ctx, "new"))
			return err
		}, fsmeta.ErrHasChildren, "alone"},

		{"update missing", update("nobody", nil), fsmeta.ErrNotExist, "nobody"},
		{"update empty", update("", nil), fsmeta.ErrInvalidName, ""},
		{"update long", update(long, nil), fsmeta.ErrInvalidName, "32768"},
		{"update not UTF-8", update("\xff", nil), fsmeta.ErrInvalidName, ""},
		{"update other field", update("work", nil, "kind"), fsmeta.ErrInvalidName, "kind"},
		{"update other field too", update("work", labels("a", "b"), "labels.a", "parent"), fsmeta.ErrInvalidName, "parent"},
		{"update no field", update("work", nil, ""), fsmeta.ErrInvalidName, "work"},
		{"update empty label", update("work", nil, "labels."), fsmeta.ErrInvalidName, "labels."},
		{"update bad label", update("work", nil, "labels.\xff"), fsmeta.ErrInvalidName, "work"},
		{"update like labels", update("work", nil, "labelsa"), fsmeta.ErrInvalidName, "labelsa"},
		{"update to empty label", update("work", labels("", "x")), fsmeta.ErrInvalidName, "work"},
		{"update to bad label", update("work", labels("\xff", "x"), "labels"), fsmeta.ErrInvalidName, "work"},
		{"update to bad value", update("work", labels("label", "\xff"), "labels.label"), fsmeta.ErrInvalidName, "label"},

		{"usage of missing", named(usage, "nobody"), fsmeta.ErrNotExist, "nobody"},
		{"usage of empty", named(usage, ""), fsmeta.ErrInvalidName, ""},
		{"usage of long", named(usage, long), fsmeta.ErrInvalidName, "32768"},
		{"usage of not UTF-8", named(usage, "\xff"), fsmeta.ErrInvalidName, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("alone; base; low; top < base; *side; *work < top; ?view < top; ?sight < low")
			s.changesNothing(test.do, test.want, test.mentions)
		})
	}
}

// alike returns the first error if the second is of the same sentinels.
func alike(one, two error) error {
	for _, s := range sentinels {
		if errors.Is(one, s.err) != errors.Is(two, s.err) {
			return fmt.Errorf("one method: %v, the other: %v", one, two)
		}
	}
	return one
}

// changesNothing requires that do fails with the error, changes nothing, in the
// transaction nor on disk, and leaves the transaction and the store usable.
func (s *store) changesNothing(do func(context.Context, *store) error, want error, mentions string) {
	s.t.Helper()
	infos := must(dump(bg, s.Store))
	ctx, tx := s.begin(bg, true)
	wantError(s.t, do(ctx, s), want, mentions)
	equal(s.t, "transaction after the error", must(dump(ctx, s.Store)), infos)
	s.agree(ctx)
	disk := fingerprint(s.t, s.dir, "journal")
	nilError(s.t, tx.Commit())
	equal(s.t, "disk after the error", fingerprint(s.t, s.dir, "journal"), disk)

	s.write(func(ctx context.Context) {
		must(s.CreateActive(ctx, "before", "base", false))
		wantError(s.t, do(ctx, s), want, mentions)
		must(s.Commit(ctx, "before", "after"))
	})
	equal(s.t, "number of snapshots", len(must(dump(bg, s.Store))), len(infos)+1)
	s.agree(bg)
}

// calls are all methods that work on snapshots.
var calls = []struct {
	name   string
	writes bool
	do     func(ctx context.Context, s *fsmeta.Store, key string) error
}{
	{"Stat", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.Stat(ctx, key)) }},
	{"Walk", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(dump(ctx, s)) }},
	{"All", false, func(ctx context.Context, s *fsmeta.Store, key string) error {
		for _, err := range s.All(ctx) {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"GetActive", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.GetActive(ctx, key)) }},
	{"IDs", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.IDs(ctx)) }},
	{"NameOf", false, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.NameOf(ctx, key)) }},
	{"CreateActive", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.CreateActive(ctx, key, "base", false))
	}},
	{"Create", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.Create(ctx, key, "nobody", false, fsmeta.WithUsage(fsmeta.Usage{Size: 1})))
	}},
	{"Commit", true, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.Commit(ctx, key, "new")) }},
	{"CommitActive", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.CommitActive(ctx, "work", key, fsmeta.WithParent("base")))
	}},
	{"Remove", true, func(ctx context.Context, s *fsmeta.Store, key string) error { return drop(s.Remove(ctx, key)) }},
	{"Update", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.Update(ctx, fsmeta.Info{Name: key}, "nonsense"))
	}},
	{"SetUsage", true, func(ctx context.Context, s *fsmeta.Store, key string) error {
		return drop(s.SetUsage(ctx, key, fsmeta.Usage{Size: 1}))
	}},
}

// What is wrong with the transaction is told before what is wrong with the rest.
func TestTransactionErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes bool // whether only writes fail
		begin  func(s *store) context.Context
		want   error
	}{
		{"none", true, func(*store) context.Context { return bg }, fsmeta.ErrNoTransaction},
		{"read-only", true, func(s *store) context.Context {
			ctx, _ := s.begin(bg, false)
			return ctx
		}, fsmeta.ErrReadOnlyTransaction},
		{"read-only in writable", true, func(s *store) context.Context {
			ctx, _ := s.begin(bg, true)
			ctx, _ = s.begin(ctx, false)
			return ctx
		}, fsmeta.ErrReadOnlyTransaction},
		{"committed", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, true)
			must(s.CreateActive(ctx, "kept", "", false))
			nilError(s.t, tx.Commit())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"rolled back", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, true)
			nilError(s.t, tx.Rollback())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"read-only committed", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, false)
			nilError(s.t, tx.Commit())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"read-only rolled back", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, false)
			nilError(s.t, tx.Rollback())
			return ctx
		}, fsmeta.ErrTransactionClosed},
		{"of another store", false, func(s *store) context.Context {
			ctx, _ := newStore(s.t).begin(bg, true)
			return ctx
		}, fsmeta.ErrNoTransaction},
		{"read-only of another store", false, func(s *store) context.Context {
			ctx, _ := newStore(s.t).begin(bg, false)
			return ctx
		}, fsmeta.ErrNoTransaction},
		{"of another Store on the directory", false, func(s *store) context.Context {
			ctx, _ := openStore(s.t, s.dir).begin(bg, true)
			return ctx
		}, fsmeta.ErrNoTransaction},
		{"of a function that returned", false, func(s *store) (kept context.Context) {
			s.write(func(ctx context.Context) { kept = ctx })
			return kept
		}, fsmeta.ErrTransactionClosed},
		{"store closed", false, func(s *store) context.Context { nilError(s.t, s.Close()); return bg }, fsmeta.ErrClosed},
		{"store closed under it", false, func(s *store) context.Context {
			ctx, _ := s.begin(bg, true)
			nilError(s.t, s.Close())
			return ctx
		}, fsmeta.ErrClosed},
		{"store closed after it", false, func(s *store) context.Context {
			ctx, tx := s.begin(bg, true)
			nilError(s.t, tx.Commit())
			nilError(s.t, s.Close())
			return ctx
		}, fsmeta.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("base; *work < base")
			ctx := test.begin(s)
			before := fingerprint(t, s.dir)
			for _, call := range calls {
				for _, key := range []string{"work", "nobody", "", "\xff", strings.Repeat("x", 32769)} {
					if test.writes && !call.writes {
						break
					}
					if err := call.do(ctx, s.Store, key); !errors.Is(err, test.want) {
						t.Errorf("%s of %.10q: got error %v, want %v", call.name, key, err, test.want)
					} else {
						wantError(t, err, test.want)
					}
				}
			}
			equal(t, "disk", fingerprint(t, s.dir), before)
		})
	}
}

func TestContextOfTwoStores(t *testing.T) {
	one, two := newStore(t), newStore(t)
	one.write(func(ctx context.Context) {
		nilError(t, two.WithTransaction(ctx, true, func(ctx context.Context) error {
			one.make(ctx, "base; *here < base")
			two.make(ctx, "base; *there < base")
			return nil
		}))
		wantError(t, drop(two.Stat(ctx, "base")), fsmeta.ErrNoTransaction)
		one.want(ctx, "base; *here < base")
	})
	one.want(bg, "base; *here < base")
	two.want(bg, "base; *there < base")
}

// Transactions.

func TestTransactorEnds(t *testing.T) {
	commit := func(tx fsmeta.Transactor) error { return tx.Commit() }
	rollback := func(tx fsmeta.Transactor) error { return tx.Rollback() }
	for _, test := range []struct {
		name string
		ends []func(fsmeta.Transactor) error
		want []error
		kept bool
	}{
		{"commit, commit", []func(fsmeta.Transactor) error{commit, commit, commit}, []error{nil, fsmeta.ErrTransactionClosed, fsmeta.ErrTransactionClosed}, true},
		{"commit, rollback", []func(fsmeta.Transactor) error{commit, rollback, rollback}, []error{nil, nil, nil}, true},
		{"rollback, commit", []func(fsmeta.Transactor) error{rollback, commit, rollback}, []error{nil, fsmeta.ErrTransactionClosed, nil}, false},
		{"rollback, rollback", []func(fsmeta.Transactor) error{rollback, rollback, commit}, []error{nil, nil, fsmeta.ErrTransactionClosed}, false},
	} {
		for _, writable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, writable %v", test.name, writable), func(t *testing.T) {
				s := newStore(t)
				ctx, tx := s.begin(bg, writable)
				if writable {
					must(s.CreateActive(ctx, "new", "", false))
				}
				for i, end := range test.ends {
					if err := end(tx); !errors.Is(err, test.want[i]) {
						t.Errorf("end %d: got error %v, want %v", i, err, test.want[i])
					}
				}
				s.want(bg, map[bool]string{true: "*new"}[writable && test.kept])
				s.build("usable")
			})
		}
	}
}

func TestRollbackLeavesNothing(t *testing.T) {
	s := newStore(t)
	s.build("base; top < base; *work < top; ?view < top")
	infos := must(dump(bg, s.Store))
	disk := fingerprint(t, s.dir, "journal")
	ids := map[string]bool{}
	for _, id := range slices.Collect(maps.Keys(must(s.IDs(bg)))) {
		ids[id] = true
	}
	for range 3 {
		ctx, tx := s.begin(bg, true)
		s.make(ctx, "new; newer < new; *newest < newer")
		must(s.CommitActive(ctx, "work", "done", fsmeta.WithLabels(map[string]string{"a": "b"})))
		must(s.Remove(ctx, "view"))
		must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
		must(s.SetUsage(ctx, "top", fsmeta.Usage{Size: 5}))
		for id, name := range must(s.IDs(ctx)) {
			if strings.HasPrefix(name, "new") && ids[id] {
				t.Errorf("identifier %s of %q was handed out before", id, name)
			}
			ids[id] = true
		}
		nilError(t, tx.Rollback())
		equal(t, "store", must(dump(bg, s.Store)), infos)
		equal(t, "disk", fingerprint(t, s.dir, "journal"), disk)
		s.agree(bg)
	}
	killed := openStore(t, s.kill())
	equal(t, "store after a crash", must(dump(bg, killed.Store)), infos)
}

func TestEmptyTransactionsWriteNothing(t *testing.T) {
	s := newStore(t)
	s.build("base; *work < base")
	before := fingerprint(t, s.dir)
	for _, end := range []func(ctx context.Context, tx fsmeta.Transactor) error{
		func(_ context.Context, tx fsmeta.Transactor) error { return tx.Commit() },
		func(_ context.Context, tx fsmeta.Transactor) error { return tx.Rollback() },
		func(ctx context.Context, tx fsmeta.Transactor) error { s.agree(ctx); return tx.Commit() },
		func(ctx context.Context, tx fsmeta.Transactor) error {
			wantError(t, drop(s.Remove(ctx, "base")), fsmeta.ErrHasChildren)
			return tx.Commit()
		},
		func(ctx context.Context, tx fsmeta.Transactor) error { // not empty, but dropped
			must(s.Remove(ctx, "work"))
			return tx.Rollback()
		},
	} {
		for _, writable := range []bool{true, false} {
			if ctx, tx := s.begin(bg, true); writable {
				nilError(t, end(ctx, tx))
			} else {
				nilError(t, tx.Rollback())
			}
			equal(t, "disk", fingerprint(t, s.dir), before)
		}
	}
}

func TestWithTransaction(t *testing.T) {
	s := newStore(t)
	failure := errors.New("failure")
	for _, test := range []struct {
		name string
		end  func() error
		want any // the error, or what the panic carried
	}{
		{"nil", func() error { return nil }, nil},
		{"error", func() error { return failure }, failure},
		{"panic", func() error { panic("trouble") }, "trouble"},
	} {
		for _, writable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, writable %v", test.name, writable), func(t *testing.T) {
				var kept context.Context
				got := outcome(func() error {
					return s.WithTransaction(bg, writable, func(ctx context.Context) error {
						kept = ctx
						if writable {
							must(s.CreateActive(ctx, t.Name(), "", false))
						}
						return test.end()
					})
				})
				if err, ok := got.(error); ok && errors.Is(err, failure) {
					got = failure
				}
				equal(t, "outcome", got, test.want)
				wantError(t, drop(s.Stat(kept, "x")), fsmeta.ErrTransactionClosed)
				_, err := s.Stat(bg, t.Name())
				equal(t, "whether it is there", err == nil, writable && test.want == nil)
			})
		}
	}
	s.build("usable")
}

// outcome returns the error that do returns, or what it panics with.
func outcome(do func() error) (result any) {
	defer func() {
		if panicked := recover(); panicked != nil {
			result = panicked
		}
	}()
	return do()
}

// runtime.Goexit, as in t.FailNow, ends a function as a panic does.
func TestWithTransactionGoexit(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		s.WithTransaction(bg, true, func(ctx context.Context) error {
			s.make(ctx, "lost")
			runtime.Goexit()
			return nil
		})
	})
	wg.Wait()
	ctx, cancel := context.WithTimeout(bg, 10*time.Second)
	defer cancel()
	nilError(t, s.WithTransaction(ctx, true, func(ctx context.Context) error {
		s.want(ctx, "")
		return nil
	}))
}

func TestNesting(t *testing.T) {
	s := newStore(t)
	s.build("base")
	nilError(t, os.Symlink(s.dir, s.dir+".link"))
	second, linked, other := openStore(t, s.dir), openOnly(t, s.dir+".link"), newStore(t)

	nested := func(ctx context.Context) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // or it waits for itself
		defer cancel()
		for i, same := range []*store{s, second, linked} {
			t.Log("store", i)
			_, _, err := same.TransactionContext(ctx, true)
			wantError(t, err, fsmeta.ErrNestedTransaction)
			called := false
			err = same.WithTransaction(ctx, true, func(context.Context) error { called = true; return nil })
			wantError(t, err, fsmeta.ErrNestedTransaction)
			equal(t, "called", called, false)
		}
	}
	outer, tx := s.begin(bg, true)
	s.make(outer, "*new < base")
	nested(outer)
	for _, same := range []*store{s, second, linked} {
		reader, readTx := same.begin(outer, false)
		same.want(reader, "base") // independent of the outer one
		nested(reader)            // the outer one is still open
		nilError(t, readTx.Rollback())
	}
	inOther, otherTx := other.begin(outer, true)
	other.make(inOther, "*elsewhere")
	nested(inOther)
	nilError(t, otherTx.Commit())
	s.want(outer, "base; *new < base")
	nilError(t, tx.Commit())
	s.want(bg, "base; *new < base")

	// Its end ends the nesting.
	_, tx = s.begin(outer, true)
	nilError(t, tx.Commit())
	_, tx = second.begin(outer, true)
	nilError(t, tx.Rollback())
}

func TestWriteInsideRead(t *testing.T) {
	s := newStore(t)
	s.build("base")
	for _, writer := range []*store{s, openStore(t, s.dir)} {
		before := must(s.list(bg))
		outer, tx := s.begin(bg, false)
		inner, writeTx := writer.begin(outer, true)
		writer.make(inner, fmt.Sprintf("*work%p < base", writer))
		s.want(outer, before)
		nilError(t, writeTx.Commit())
		s.want(outer, before)
		equal(t, "snapshots in a new transaction", len(must(s.walk(bg))), strings.Count(before, ";")+2)
		nilError(t, tx.Commit())
	}
}

// A context ends the wait for a turn, not the transaction.
func TestContextEndsAfterBegin(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(bg)
	ctx, tx := s.begin(ctx, true)
	s.make(ctx, "base")
	cancel()
	nilError(t, tx.Commit())
	s.want(bg, "base")
}

func TestWritersInArrivalOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		_, holder := s.begin(bg, true)
		var order, want []int // order belongs to whose turn it is
		var wg sync.WaitGroup
		for i := range 50 {
			want = append(want, i)
			wg.Go(func() {
				s.write(func(ctx context.Context) {
					order = append(order, i)
					s.make(ctx, fmt.Sprint("*", i))
				})
			})
			synctest.Wait() // until it waits for its turn
		}
		nilError(t, holder.Commit())
		wg.Wait()
		equal(t, "order", order, want)
	})
}

func TestContextEndsWhileWaiting(t *testing.T) {
	cause := errors.New("cause")
	for _, test := range []struct {
		name string
		ctx  func() (context.Context, func())
		want error
	}{
		{"cancelled", func() (context.Context, func()) { ctx, cancel := context.WithCancel(bg); return ctx, cancel }, context.Canceled},
		{"cancelled for a cause", func() (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(bg)
			return ctx, func() { cancel(cause) }
		}, context.Canceled},
		{"late", func() (context.Context, func()) {
			ctx, cancel := context.WithTimeout(bg, time.Hour) // of the bubble's clock
			return ctx, func() { <-ctx.Done(); cancel() }
		}, context.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				ctx, holder := s.begin(bg, true)
				s.make(ctx, "base")
				done := make(chan error, 3)
				wait := func(ctx context.Context, text string) {
					go func() {
						done <- s.WithTransaction(ctx, true, func(ctx context.Context) error { s.make(ctx, text); return nil })
					}()
					synctest.Wait()
				}
				early, end := test.ctx()
				wait(bg, "first")
				wait(early, "second")
				wait(bg, "third")
				end()
				if err := <-done; !errors.Is(err, test.want) {
					t.Errorf("got error %v, want %v", err, test.want)
				}
				nilError(t, holder.Commit())
				nilError(t, <-done)
				nilError(t, <-done)
				s.want(bg, "base; first; third")
			})
		})
	}
}

// A turn that comes just when its context ends must not be lost.
func TestNoTurnIsLost(t *testing.T) {
	s := newStore(t)
	second := openStore(t, s.dir)
	var wg sync.WaitGroup
	var done atomic.Int64
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(bg)
			defer cancel()
			go func() {
				for range rand.IntN(2000) {
					runtime.Gosched()
				}
				cancel()
			}()
			err := []*store{s, second}[i%2].WithTransaction(ctx, true, func(context.Context) error { return nil })
			if err == nil {
				done.Add(1)
			} else if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d of 200 had their turn", done.Load())
	s.build("base")
	second.build("top < base")
	s.want(bg, "base; top < base")
}

func TestSecondStoreWaits(t *testing.T) {
	s := newStore(t)
	second := openStore(t, s.dir)
	ctx, tx := s.begin(bg, true)
	s.make(ctx, "base")
	late, cancel := context.WithTimeout(bg, 20*time.Millisecond)
	defer cancel()
	if _, _, err := second.TransactionContext(late, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got error %v, want DeadlineExceeded", err)
	}
	begun := make(chan error)
	go func() {
		begun <- second.WithTransaction(bg, true, func(ctx context.Context) error {
			second.make(ctx, "top < base")
			return nil
		})
	}()
	nilError(t, tx.Commit())
	nilError(t, <-begun)
	s.want(bg, "base; top < base")
}

// Reading.

func TestReadersNeverBlock(t *testing.T) {
	s := newStore(t)
	s.build("base; top < base; *work < top")
	readers := []*store{s, openStore(t, s.dir), openOnly(t, s.dir, fsmeta.ReadOnly())}
	ctx, tx := s.begin(bg, true)
	s.make(ctx, "new; *newer < new")
	must(s.Commit(ctx, "work", "done"))
	for _, reader := range append(readers, openStore(t, s.dir), openOnly(t, s.dir, fsmeta.ReadOnly())) {
		reader.want(bg, "base; top < base; *work < top")
		reader.agree(bg)
		wantError(t, drop(reader.Stat(bg, "new")), fsmeta.ErrNotExist)
		nilError(t, reader.WithTransaction(bg, false, func(ctx context.Context) error {
			reader.agree(ctx)
			return nil
		}))
	}
	nilError(t, tx.Commit())
	for _, reader := range readers {
		reader.want(bg, "base; done < top; new; *newer < new; top < base")
	}
}

// isolationChanges are what a writer does while readers look on.
var isolationChanges = []struct {
	name string
	do   func(ctx context.Context, s *store)
}{
	{"nothing", func(context.Context, *store) {}},
	{"create", func(ctx context.Context, s *store) { s.make(ctx, "aaa; *bbb < aaa; ?zzz < top") }},
	{"remove", func(ctx context.Context, s *store) { must(s.Remove(ctx, "work")); must(s.Remove(ctx, "leaf")) }},
	{"remove a chain", func(ctx context.Context, s *store) {
		for _, name := range []string{"view", "work", "top", "leaf", "base"} {
			must(s.Remove(ctx, name))
		}
	}},
	{"commit", func(ctx context.Context, s *store) { must(s.Commit(ctx, "work", "done")) }},
	{"commit, create, commit", func(ctx context.Context, s *store) {
		must(s.Commit(ctx, "work", "done"))
		s.make(ctx, "*work < done")
		must(s.Commit(ctx, "work", "finished"))
	}},
	{"remove and create", func(ctx context.Context, s *store) { must(s.Remove(ctx, "work")); s.make(ctx, "?work < leaf") }},
	{"active to committed", func(ctx context.Context, s *store) {
		must(s.Remove(ctx, "work"))
		s.make(ctx, "work < leaf; *up < work")
	}},
	{"labels", func(ctx context.Context, s *store) {
		must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
		must(s.Update(ctx, fsmeta.Info{Name: "side", Labels: map[string]string{"a": "b"}}, "labels.a"))
	}},
	{"usage", func(ctx context.Context, s *store) { must(s.SetUsage(ctx, "top", fsmeta.Usage{Size: 9})) }},
	{"rebase", func(ctx context.Context, s *store) {
		must(s.CommitActive(ctx, "side", "upper", fsmeta.WithParent("top")))
		s.make(ctx, "*side < upper")
	}},
}

// A reader that began before a change sees the store without it, whether it
// had looked before or not, and however many changes came since.
func TestIsolation(t *testing.T) {
	for _, change := range isolationChanges {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, warm %v", change.name, warm), func(t *testing.T) {
				s := newStore(t)
				s.build("base; leaf; top < base; *work < top; ?view < top; *side")
				before := must(dump(bg, s.Store))
				var ctxs []context.Context
				readers := []*store{s, openStore(t, s.dir), openOnly(t, s.dir, fsmeta.ReadOnly())}
				for _, reader := range readers {
					ctx, _ := reader.begin(bg, false)
					if warm {
						equal(t, "reader before", must(dump(ctx, reader.Store)), before)
					}
					ctxs = append(ctxs, ctx)
				}
				for i := range 3 { // the second and third only pile up
					if s.write(func(ctx context.Context) { change.do(ctx, s) }); i == 0 {
						readers[0].agree(bg)
						readers[1].agree(bg)
					}
					must(dump(bg, readers[2].Store))
					s.reset(before)
				}
				s.write(func(ctx context.Context) { change.do(ctx, s) })
				after := must(dump(bg, s.Store))
				for i, reader := range readers {
					equal(t, fmt.Sprint("old reader ", i), must(dump(ctxs[i], reader.Store)), before)
					reader.agree(ctxs[i])
					equal(t, fmt.Sprint("new reader ", i), must(dump(bg, reader.Store)), after)
				}
			})
		}
	}
}

// reset brings the names, parents and kinds back to what they were, in as many
// transactions as it takes.
func (s *store) reset(before []fsmeta.Info) {
	s.t.Helper()
	if must(s.list(bg)) == list(before) {
		return
	}
	for range 6 { // the longest chain has three
		infos := must(s.walk(bg))
		s.write(func(ctx context.Context) {
			for _, info := range infos {
				if err := drop(s.Remove(ctx, info.Name)); err != nil {
					wantError(s.t, err, fsmeta.ErrHasChildren)
				}
			}
		})
	}
	s.build("base; leaf; top < base; *work < top; ?view < top; *side")
}

// A reader sees each name as it was even where it asks for nothing else.
func TestIsolationOfSingleReads(t *testing.T) {
	for _, change := range isolationChanges {
		t.Run(change.name, func(t *testing.T) {
			s := newStore(t)
			s.build("base; leaf; top < base; *work < top; ?view < top; *side")
			before := map[string]fsmeta.Info{}
			for _, info := range must(s.walk(bg)) {
				before[info.Name] = info
			}
			reader := openStore(t, s.dir) // knows nothing yet
			ctx, _ := reader.begin(bg, false)
			s.write(func(ctx context.Context) { change.do(ctx, s) })
			for _, info := range must(s.walk(bg)) {
				if _, ok := before[info.Name]; !ok {
					wantError(t, drop(reader.Stat(ctx, info.Name)), fsmeta.ErrNotExist, info.Name)
				}
			}
			for name, info := range before {
				equal(t, "Stat", must(reader.Stat(ctx, name)), info)
				equal(t, "NameOf", must(reader.NameOf(ctx, info.ID)), name)
				reader.agreeActive(ctx, before, info)
			}
		})
	}
}

// Readers hold nobody up, not even when they are never ended, and neither does
// a checkpoint change what they see.
func TestReadersOverCheckpoints(t *testing.T) {
	s := newStore(t)
	s.build("base; *work < base")
	before := must(dump(bg, s.Store))
	own, _ := s.begin(bg, false)
	other := openStore(t, s.dir)
	others, _ := other.begin(bg, false)
	s.write(func(ctx context.Context) { must(s.Commit(ctx, "work", "done")) })

	journal := filepath.Join(s.dir, "journal")
	old := must(os.Stat(journal))
	label := map[string]string{"text": strings.Repeat("text ", 6000)}
	for i := 0; os.SameFile(old, must(os.Stat(journal))); i++ {
		if i == 64 {
			t.Fatal("64 MB of lines and no checkpoint")
		}
		s.write(func(ctx context.Context) {
			for key := range 40 {
				if i == 0 {
					must(s.Create(ctx, fmt.Sprint("key", key), "done", false, fsmeta.WithLabels(label)))
				} else {
					must(s.Update(ctx, fsmeta.Info{Name: fmt.Sprint("key", key), Labels: label}))
				}
			}
		})
	}
	for range 3 { // and some lines in the new journal
		s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "key1", fsmeta.Usage{Size: 1})) })
	}
	equal(t, "own reader", must(dump(own, s.Store)), before)
	infos, err := dump(others, other.Store)
	if err != nil {
		wantError(t, err, fsmeta.ErrOutdated)
	} else {
		equal(t, "other reader", infos, before)
	}
	equal(t, "new readers", must(dump(bg, other.Store)), must(dump(bg, s.Store)))
	other.agree(bg)
}

func TestWalkOrder(t *testing.T) {
	names := []string{"a-b", "a/b", "a.b", "a b", "a", "a\x00", "A", "a%2Fb", "é", "~", ".", "..", "z",
		strings.Repeat("b", 300), strings.Repeat("b", 299) + "a", strings.Repeat("b", 299), strings.Repeat("b", 298) + "/"}
	s := newStore(t)
	s.write(func(ctx context.Context) {
		for i, name := range names {
			must(s.CreateActive(ctx, name, "", false))
			if i%4 == 0 {
				walkOrder(t, s, ctx, names[:i+1])
			}
		}
	})
	walkOrder(t, s, bg, names)
	s.write(func(ctx context.Context) {
		must(s.Remove(ctx, "a.b"))
		must(s.Commit(ctx, "a", "b/b"))
		walkOrder(t, s, ctx, slices.Concat([]string{"b/b"}, names[:2], names[3:4], names[5:]))
	})
}

func walkOrder(t *testing.T, s *store, ctx context.Context, names []string) {
	t.Helper()
	var got []string
	for _, info := range must(s.walk(ctx)) {
		got = append(got, info.Name)
	}
	equal(t, "order of the walk", got, slices.Sorted(slices.Values(names)))
}

func TestWalkEnds(t *testing.T) {
	s := newStore(t)
	s.build("a; b; c")
	failure := errors.New("failure")
	for _, writable := range []bool{true, false} {
		nilError(t, s.WithTransaction(bg, writable, func(ctx context.Context) error {
			for _, ctx := range []context.Context{ctx, bg} {
				var seen []string
				err := s.Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
					if seen = append(seen, info.Name); info.Name == "b" {
						return failure
					}
					return nil
				})
				if !errors.Is(err, failure) {
					t.Errorf("got error %v, want that of the function", err)
				}
				for info, err := range s.All(ctx) {
					nilError(t, err)
					if seen = append(seen, info.Name); info.Name == "b" {
						break
					}
				}
				equal(t, "visited", seen, []string{"a", "b", "a", "b"})
			}
			return nil
		}))
	}
}

// An iterator can be used again, and sees the store anew each time.
func TestAllAgain(t *testing.T) {
	s := newStore(t)
	s.build("a")
	all := s.All(bg)
	for n := range 3 {
		count := 0
		for range all {
			count++
		}
		equal(t, "visited", count, n+1)
		s.build(fmt.Sprint("b", n))
	}
}

// From a walk's callback everything can be called, and what it does does not
// change what the walk visits.
func TestWalkCallback(t *testing.T) {
	for _, test := range []struct {
		name  string
		fresh bool // whether writes are transactions of their own
		begin func(s *store) (context.Context, func() error)
	}{
		{"outside a transaction", true, func(s *store) (context.Context, func() error) { return bg, func() error { return nil } }},
		{"in a read", true, func(s *store) (context.Context, func() error) {
			ctx, tx := s.begin(bg, false)
			return ctx, tx.Commit
		}},
		{"in a write", false, func(s *store) (context.Context, func() error) {
			ctx, tx := s.begin(bg, true)
			return ctx, tx.Commit
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.build("b; c < b; *d < c; *e; *f; ?g < c")
			ctx, end := test.begin(s)
			var visited []string
			nilError(t, s.Walk(ctx, func(ctx context.Context, info fsmeta.Info) error {
				visited = append(visited, info.Name)
				s.agree(ctx)
				s.agree(bg)
				if test.fresh { // the walk's transaction sees what was there when it began
					s.want(ctx, "b; c < b; *d < c; *e; *f; ?g < c")
				}
				return s.inCallback(ctx, test.fresh, len(visited))
			}))
			nilError(t, end())
			equal(t, "visited", visited, []string{"b", "c", "d", "e", "f", "g"})
			s.want(bg, "a1; a2; a3; a4; a5; a6; b; c < b; *d < c; f5 < b")
		})
	}
}

// inCallback writes from a walk's callback, before, at and behind where it is.
func (s *store) inCallback(ctx context.Context, fresh bool, step int) error {
	change := func(ctx context.Context) error {
		s.make(ctx, fmt.Sprint("a", step))
		must(s.Update(ctx, fsmeta.Info{Name: "c", Labels: map[string]string{"step": fmt.Sprint(step)}}))
		switch step {
		case 1:
			must(s.Remove(ctx, "e"))
		case 5:
			must(s.CommitActive(ctx, "f", "f5", fsmeta.WithParent("b")))
			must(s.Remove(ctx, "g"))
		}
		s.agree(ctx)
		return nil
	}
	if fresh {
		return s.WithTransaction(ctx, true, change)
	}
	return change(ctx)
}

// A callback may even end the transaction that the walk runs in.
func TestWalkCallbackEndsTransaction(t *testing.T) {
	for _, writable := range []bool{true, false} {
		s := newStore(t)
		s.build("a; b; c")
		ctx, tx := s.begin(bg, writable)
		err := s.Walk(ctx, func(context.Context, fsmeta.Info) error { return tx.Rollback() })
		if err != nil {
			wantError(t, err, fsmeta.ErrTransactionClosed)
		}
		wantError(t, drop(s.Stat(ctx, "a")), fsmeta.ErrTransactionClosed)
		s.build("d")
		s.want(bg, "a; b; c; d")
	}
}

// Identifiers.

func TestIdentifiersAreNeverReused(t *testing.T) {
	s := newStore(t)
	last := uint64(0)
	next := func(s *store, id string) {
		t.Helper()
		n := must(strconv.ParseUint(id, 10, 64))
		if n <= last {
			t.Fatalf("identifier %d was handed out after %d", n, last)
		}
		last = n
	}
	for round := range 5 {
		ctx, tx := s.begin(bg, true)
		next(s, must(s.CreateActive(ctx, "lost", "", false)).ID)
		nilError(t, tx.Rollback())
		s.write(func(ctx context.Context) {
			next(s, must(s.CreateActive(ctx, "key", "", false)).ID)
			must(s.Remove(ctx, "key"))
			next(s, must(s.CreateActive(ctx, "key", "", false)).ID)
		})
		s.write(func(ctx context.Context) { must(s.Remove(ctx, "key")) })
		second := openStore(t, s.dir)
		second.write(func(ctx context.Context) {
			next(second, must(second.CreateActive(ctx, "second", "", false)).ID)
			must(second.Remove(ctx, "second"))
		})
		ctx, _ = s.begin(bg, true)
		for i := range 300 { // more than are reserved at a time
			next(s, must(s.CreateActive(ctx, fmt.Sprint("lost", i), "", false)).ID)
		}
		if round%2 == 0 {
			s = openStore(t, s.kill()) // in the middle of a transaction
		} else {
			nilError(t, second.Close())
			nilError(t, s.Close()) // rolls it back
			s = openStore(t, s.dir)
		}
	}
}

// A clean close gives back what was reserved, but not what was handed out.
func TestIdentifiersAfterClose(t *testing.T) {
	s := newStore(t)
	var ids []uint64
	for range 3 {
		s.write(func(ctx context.Context) {
			ids = append(ids, must(strconv.ParseUint(must(s.CreateActive(ctx, "key", "", false)).ID, 10, 64)))
			must(s.Remove(ctx, "key"))
		})
		ctx, tx := s.begin(bg, true)
		ids = append(ids, must(strconv.ParseUint(must(s.CreateActive(ctx, "key", "", false)).ID, 10, 64)))
		nilError(t, tx.Rollback())
		nilError(t, s.Close())
		s = openStore(t, s.dir)
	}
	for i := range ids {
		equal(t, "identifier", ids[i], ids[0]+uint64(i))
	}
}

// Names.

func oddNames() []string {
	names := []string{
		"../../etc/passwd", "/etc/passwd", ".", "..", "...", "./a", "a/b", "a//b", "a/../b", "a%2Fb", "a%2fb", "%2F", "%2f", "%252F",
		"/", "//", "%", "%%", "%00", "%zz", "a\x00b", "a\nb", "\r\n", "\x7f", "\x1b[31mred", " ", " a", "a ", "  ",
		"~", "~root", "a~b", ".hidden", "..hidden", ".%2E", "%2E", "-rf", "--", "*", "?", "[a]", "$HOME", "`id`", `"`, `\`, `\n`, `'`, "a;b", "a|b", "<a&b>",
		"a", "A", "ab", "aB", "Ab", "AB", "con", "CON", "metadata.json", "parent", "layout", "journal", "snapshots", "staging",
		"default/12/extract-81 sha256:4f53cda18c2baa0c", "sha256:4f53", "a:b@c+d=e,f-g_h", "null", "true", "0", "{}",
		"\u00e9", "e\u0301", "日本語", "🦊", "\u2028", "\u2029", "\ufeff", "\ufffd", "\u0085", "\u202egnp.exe", "\U0010ffff",
	}
	for c := range 32 {
		names = append(names, string(rune(c)))
	}
	for _, n := range []int{127, 128, 253, 254, 255, 256, 257, 1024, 10_000, 32768} {
		names = append(names, strings.Repeat("x", n), strings.Repeat("x", n-1)+"y", strings.Repeat("X", n))
	}
	for _, n := range []int{84, 85, 86, 10_000, 32768} {
		names = append(names, strings.Repeat("/", n), strings.Repeat("/", n-1)+"x", strings.Repeat("\x00", n), strings.Repeat(".", n))
	}
	for _, n := range []int{41, 42, 43, 85, 86, 16384} { // cut inside a character
		names = append(names, strings.Repeat("é", n), "x"+strings.Repeat("é", n-1))
	}
	return append(names, strings.Repeat("some text with spaces/and slashes\n", 300), strings.Repeat("x", 190)+"~"+strings.Repeat("0", 64))
}

// roundTrip requires that the names are stored, each in an entry of its own and
// nowhere else, and are there after a crash too.
func roundTrip(t *testing.T, s *store, names []string) {
	t.Helper()
	var got []string
	for _, info := range must(s.walk(bg)) {
		got = append(got, info.Name)
	}
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Fatalf("names:\n got %.40q\nwant %.40q", got, want)
	}
	s.agree(bg)
	diskList(t, s.dir)
	equal(t, "what is beside the store", len(must(os.ReadDir(filepath.Dir(s.dir)))), 1)
	equal(t, "entries", len(must(os.ReadDir(filepath.Join(s.dir, "snapshots")))), len(names))
	for _, entry := range must(os.ReadDir(filepath.Join(s.dir, "snapshots"))) {
		if rest := strings.Trim(entry.Name(), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+=,-%~"); rest != "" || entry.Name()[0] == '.' {
			t.Errorf("entry %q is not escaped", entry.Name())
		}
	}
	killed := openStore(t, s.kill())
	equal(t, "store after a crash", must(dump(bg, killed.Store)), must(dump(bg, s.Store)))
}

func TestOddKeys(t *testing.T) {
	s := newStore(t)
	names := oddNames()
	for chunk := range slices.Chunk(names, 40) {
		s.write(func(ctx context.Context) {
			for i, name := range chunk {
				active := must(s.CreateActive(ctx, name, "", i%2 == 0))
				equal(t, "active", must(s.GetActive(ctx, name)), active)
			}
		})
	}
	// The entries of the long ones, as names of their own.
	s.write(func(ctx context.Context) {
		for _, entry := range must(os.ReadDir(filepath.Join(s.dir, "snapshots"))) {
			if strings.Contains(entry.Name(), "~") {
				names = append(names, entry.Name())
				must(s.CreateActive(ctx, entry.Name(), "", false))
			}
		}
	})
	roundTrip(t, s, names)
	s.write(func(ctx context.Context) {
		for _, name := range names {
			must(s.Remove(ctx, name))
		}
	})
	roundTrip(t, s, nil)
}

// Each odd name stands on the one before, and is a label as well.
func TestOddParentsAndLabels(t *testing.T) {
	s := newStore(t)
	names := oddNames()
	parent := ""
	for chunk := range slices.Chunk(names, 40) {
		s.write(func(ctx context.Context) {
			for _, name := range chunk {
				must(s.Create(ctx, "key", parent, false))
				must(s.CommitActive(ctx, "key", name, fsmeta.WithLabels(map[string]string{name: "", "stands on": parent})))
				must(s.Update(ctx, fsmeta.Info{Name: name, Labels: map[string]string{name: name}}, "labels."+name))
				parent = name
			}
		})
	}
	roundTrip(t, s, names)
	parent = ""
	for _, name := range names {
		info := must(s.Stat(bg, name))
		equal(t, "parent", info.Parent, parent)
		equal(t, "labels", info.Labels, map[string]string{name: name, "stands on": parent})
		parent = name
	}
	wantError(t, s.WithTransaction(bg, true, func(ctx context.Context) error {
		return drop(s.Remove(ctx, names[7]))
	}), fsmeta.ErrHasChildren)
}

func TestOddNamesAreOdd(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range oddNames() {
		if name == "" || len(name) > 32768 || !utf8.ValidString(name) || seen[name] {
			t.Errorf("%.40q (%d bytes) can't be used", name, len(name))
		}
		seen[name] = true
	}
}

// Several Stores, closing.

func TestTwoStoresOnOneDirectory(t *testing.T) {
	one := newStore(t)
	two := openStore(t, one.dir)
	ids := map[string]bool{}
	parent := ""
	for i := range 40 {
		writer, reader := one, two
		if i%2 == 1 {
			writer, reader = two, one
		}
		name := fmt.Sprint("layer", i)
		writer.write(func(ctx context.Context) {
			id := must(writer.CreateActive(ctx, "key", parent, false)).ID
			if ids[id] {
				t.Fatalf("identifier %s was handed out twice", id)
			}
			ids[id] = true
			must(writer.Commit(ctx, "key", name))
		})
		equal(t, "parent", must(reader.Stat(bg, name)).Parent, parent)
		parent = name
		if i%7 == 6 { // whose lines and identifiers another Store takes up
			nilError(t, two.Close())
			two = openStore(t, one.dir)
		}
	}
	equal(t, "stores", must(dump(bg, one.Store)), must(dump(bg, two.Store)))
	nilError(t, one.Close())
	two.agree(bg)
	two.build("*last")
	wantError(t, drop(one.Stat(bg, "last")), fsmeta.ErrClosed)
}

func TestClose(t *testing.T) {
	s := newStore(t)
	s.build("base")
	reader, readTx := s.begin(bg, false)
	writer, writeTx := s.begin(bg, true)
	s.make(writer, "lost < base")
	nilError(t, s.Close())
	nilError(t, s.Close())
	for _, ctx := range []context.Context{bg, reader, writer} {
		for _, writable := range []bool{true, false} {
			_, _, err := s.TransactionContext(ctx, writable)
			wantError(t, err, fsmeta.ErrClosed)
			err = s.WithTransaction(ctx, writable, func(context.Context) error { return errors.New("called") })
			wantError(t, err, fsmeta.ErrClosed)
		}
	}
	for _, tx := range []fsmeta.Transactor{readTx, writeTx} {
		if err := tx.Commit(); !errors.Is(err, fsmeta.ErrClosed) && !errors.Is(err, fsmeta.ErrTransactionClosed) {
			t.Errorf("Commit: %v", err)
		}
		nilError(t, tx.Rollback())
	}
	openStore(t, s.dir).want(bg, "base")
}

// Stores that are opened, the first time too, and closed while others are at work,
// as short-lived programs do.
func TestOpenAndCloseAtOnce(t *testing.T) {
	const programs, rounds = 6, 12
	dir := filepath.Join(t.TempDir(), "store")
	ids := sync.Map{}
	var wg sync.WaitGroup
	for p := range programs {
		wg.Go(func() {
			for r := range rounds {
				s := must(fsmeta.Open(dir))
				err := s.WithTransaction(bg, true, func(ctx context.Context) error {
					id := must(s.CreateActive(ctx, fmt.Sprint(p, ".", r), "", false)).ID
					if other, ok := ids.LoadOrStore(id, p); ok {
						t.Errorf("identifier %s was handed out to %d and to %d", id, other, p)
					}
					return nil
				})
				for old := range r + 1 {
					err = errors.Join(err, drop(s.Stat(bg, fmt.Sprint(p, ".", old))))
				}
				if err = errors.Join(err, s.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "number of snapshots", len(must(openStore(t, dir).walk(bg))), programs*rounds)
}

// Close lets nobody wait for ever.
func TestCloseWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		ctx, _ := s.begin(bg, true)
		s.make(ctx, "lost")
		done := make(chan error)
		for range 3 {
			go func() {
				done <- s.WithTransaction(bg, true, func(context.Context) error { return errors.New("called") })
			}()
			synctest.Wait() // until it waits for its turn
		}
		nilError(t, s.Close())
		for range 3 {
			wantError(t, <-done, fsmeta.ErrClosed)
		}
	})
}

// What was acknowledged before Close is there, what failed is not.
func TestCloseWhileOthersWrite(t *testing.T) {
	for range 5 {
		s := newStore(t)
		var acked, failed sync.Map
		var wg sync.WaitGroup
		started := make(chan bool, 100)
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprint(w, ".", i)
					err := s.WithTransaction(bg, true, func(ctx context.Context) error {
						return drop(s.CreateActive(ctx, name, "", false))
					})
					if err != nil {
						if failed.Store(name, err); !errors.Is(err, fsmeta.ErrClosed) && !errors.Is(err, fsmeta.ErrTransactionClosed) {
							t.Error(err)
						}
						return
					}
					acked.Store(name, true)
					select {
					case started <- true:
					default:
					}
				}
			})
		}
		for range 20 {
			<-started
		}
		nilError(t, s.Close())
		wg.Wait()
		again := openStore(t, s.dir)
		for name := range acked.Range {
			must(again.Stat(bg, name.(string)))
		}
		for name := range failed.Range {
			wantError(t, drop(again.Stat(bg, name.(string))), fsmeta.ErrNotExist)
		}
	}
}

// Writers and readers at once: each transaction adds a snapshot and counts it
// in two others, so that readers can tell half a transaction from a whole one,
// and a lost one from none.
func TestConcurrency(t *testing.T) {
	const writers, rounds = 8, 25
	s := newStore(t)
	s.build("count.a; count.b")
	stores := []*store{s, openStore(t, s.dir)}
	ended := make(chan struct{})
	var writing, reading sync.WaitGroup
	for w := range writers {
		s := stores[w%2]
		writing.Go(func() {
			for i := range rounds {
				s.addAndCount(fmt.Sprintf("n/%d/%d", w, i))
			}
		})
	}
	for r := range 4 {
		s := []*store{stores[0], stores[1], openOnly(t, s.dir, fsmeta.ReadOnly()), stores[0]}[r]
		reading.Go(func() {
			for last := 0; ; {
				select {
				case <-ended:
					return
				default:
				}
				count := s.counted(bg)
				if count < last {
					t.Errorf("count went from %d back to %d", last, count)
				}
				last = count
				runtime.Gosched() // there may be fewer processors than readers
			}
		})
	}
	writing.Wait()
	close(ended)
	reading.Wait()
	for _, s := range stores {
		equal(t, "count", s.counted(bg), writers*rounds)
	}
}

func (s *store) addAndCount(name string) {
	s.write(func(ctx context.Context) {
		must(s.CreateActive(ctx, name, "count.a", false))
		count := must(s.Stat(ctx, "count.a")).Usage.Size
		must(s.SetUsage(ctx, "count.a", fsmeta.Usage{Size: count + 1}))
		must(s.SetUsage(ctx, "count.b", fsmeta.Usage{Size: count + 1}))
	})
	must(s.Stat(bg, name)) // whoever committed sees it
}

// counted requires that a reader sees whole transactions, and returns how many.
func (s *store) counted(ctx context.Context) (count int) {
	err := s.WithTransaction(ctx, false, func(ctx context.Context) error {
		infos, err := s.walk(ctx)
		if err != nil {
			return err
		}
		count = len(infos) - 2
		for _, info := range infos[:2] {
			if info.Usage.Size != int64(count) {
				s.t.Errorf("%s is %d in a store with %d", info.Name, info.Usage.Size, count)
			}
		}
		return nil
	})
	if errors.Is(err, fsmeta.ErrOutdated) {
		return s.counted(ctx)
	}
	if err != nil {
		s.t.Error(err)
	}
	return count
}

// Read-only stores.

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

func TestReadOnlyStoreFollows(t *testing.T) {
	s := newStore(t)
	reader := openOnly(t, s.dir, fsmeta.ReadOnly())
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, ""},
		{func() { s.build("base") }, "base"},
		{func() { s.build("*work < base") }, "base; *work < base"},
		{func() { s.write(func(ctx context.Context) { must(s.Commit(ctx, "work", "done")) }) }, "base; done < base"},
		{func() { nilError(t, s.Close()); s = openStore(t, s.dir) }, "base; done < base"}, // folds the journal
		{func() { s.write(func(ctx context.Context) { must(s.Remove(ctx, "done")) }) }, "base"},
		{func() { nilError(t, s.Close()); s = openStore(t, s.dir); s.build("new") }, "base; new"},
	} {
		step.do()
		reader.want(bg, step.want)
		reader.agree(bg)
	}
}

// Damaged snapshots.

// victim is the store that damage is done to: mid, which has a parent and a child.
const (
	victim     = "base; *lone; mid < base; other; spare; top < mid; *work < top"
	withoutMid = "base; *lone; other; spare; top < mid; *work < top"
)

func TestDamagedSnapshot(t *testing.T) {
	meta := func(edit func(t *testing.T, data []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, entry string) {
			path := filepath.Join(entry, "metadata.json")
			overwrite(t, path, string(edit(t, must(os.ReadFile(path)))))
		}
	}
	content := func(content string) func(*testing.T, string) {
		return meta(func(*testing.T, []byte) []byte { return []byte(content) })
	}
	field := func(name string, value any) func(*testing.T, string) {
		return meta(func(t *testing.T, data []byte) []byte { return editJSON(t, data, map[string]any{name: value}) })
	}
	unsigned := func(damage func(*testing.T, string)) func(*testing.T, string) {
		return func(t *testing.T, entry string) { field("crc32c", nil)(t, entry); damage(t, entry) }
	}
	link := func(target string) func(*testing.T, string) {
		return func(t *testing.T, entry string) {
			nilError(t, os.Remove(filepath.Join(entry, "parent")))
			if target != "" {
				nilError(t, os.Symlink(target, filepath.Join(entry, "parent")))
			}
		}
	}
	replace := func(path string, put func(path string) error) func(*testing.T, string) {
		return func(t *testing.T, entry string) {
			nilError(t, os.RemoveAll(filepath.Join(entry, path)))
			nilError(t, put(filepath.Join(entry, path)))
		}
	}
	mkdir := func(path string) error { return os.Mkdir(path, 0o700) }
	create := func(path string) error { return os.WriteFile(path, []byte("text"), 0o600) }
	pipe := func(path string) error { return syscall.Mkfifo(path, 0o600) }
	alias := func(path string) error { return os.Symlink("../base/metadata.json", path) }

	for _, test := range []struct {
		name   string
		damage func(t *testing.T, entry string)
		lost   bool // whether the parent can't be known, so that Remove must refuse
	}{
		{"metadata empty", content(""), false},
		{"metadata cut", meta(func(_ *testing.T, data []byte) []byte { return data[:len(data)/2] }), false},
		{"metadata cut by a brace", meta(func(_ *testing.T, data []byte) []byte { return bytes.TrimRight(data, "}\n") }), false},
		{"metadata of NUL bytes", meta(func(_ *testing.T, data []byte) []byte { return make([]byte, len(data)) }), false},
		{"metadata not JSON", content("name: mid\n"), false},
		{"metadata another type", content("[]\n"), false},
		{"metadata with more behind", meta(func(_ *testing.T, data []byte) []byte { return append(data, "{}"...) }), false},
		{"metadata missing", func(t *testing.T, entry string) { nilError(t, os.Remove(filepath.Join(entry, "metadata.json"))) }, false},
		{"metadata a directory", replace("metadata.json", mkdir), false},
		{"metadata a pipe", replace("metadata.json", pipe), false},
		{"metadata a link", replace("metadata.json", alias), false},
		{"other name", unsigned(field("name", "other")), false},
		{"no name", unsigned(field("name", nil)), false},
		{"no identifier", unsigned(field("id", nil)), false},
		{"identifier no number", unsigned(field("id", "../7")), false},
		{"no kind", unsigned(field("kind", nil)), false},
		{"unknown kind", unsigned(field("kind", "view")), false},
		{"checksum mismatch", field("id", "4711"), false},
		{"checksum changed", field("crc32c", "00000000"), false},
		{"labels changed", field("labels", map[string]string{"a": "b"}), false},
		{"parent link gone", link(""), true},
		{"parent link changed", link("../other"), true},
		{"parent link dangling", link("../nobody"), true},
		{"parent link dangling, no checksum", unsigned(link("../nobody")), true},
		{"parent link outside", link("../../../../etc"), true},
		{"parent link outside, no checksum", unsigned(link("../../../../etc")), true},
		{"parent link absolute", unsigned(link("/etc")), true},
		{"parent link to the tree", unsigned(link("..")), true},
		{"parent a file", replace("parent", create), true},
		{"parent a directory", replace("parent", mkdir), true},
		{"entry empty", replace(".", mkdir), true},
		{"entry a file", replace(".", create), true},
		{"entry a pipe", replace(".", pipe), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, sound := victimStore(t)
			entry := filepath.Join(dir, "snapshots", "mid")
			mid := must(openOnly(t, dir, fsmeta.ReadOnly()).Stat(bg, "mid"))
			test.damage(t, entry)
			before := fingerprint(t, entry)

			readonly := openOnly(t, dir, fsmeta.ReadOnly())
			readonly.readsDamaged(entry)
			s := openOnly(t, dir)
			s.readsDamaged(entry)
			s.writesBesideDamaged(test.lost)
			after, err := s.list(bg)
			wantDamaged(t, err, "mid", entry)
			nilError(t, readonly.Close())
			nilError(t, s.Close())
			equal(t, "damaged entry", fingerprint(t, entry), before)

			nilError(t, os.RemoveAll(entry))
			copyTree(t, sound, entry) // repaired by hand
			s = openStore(t, dir)
			equal(t, "repaired", must(s.Stat(bg, "mid")), mid)
			s.want(bg, strings.Replace(after, "newer < other", "mid < base; newer < other", 1))
		})
	}
}

// victimStore makes and closes the store that damage is done to, and returns
// its directory and a copy of mid to repair it with.
func victimStore(t *testing.T) (dir, sound string) {
	t.Helper()
	dir, sound = filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "mid")
	s := openOnly(t, dir)
	s.build(victim)
	nilError(t, s.Close())
	copyTree(t, filepath.Join(dir, "snapshots", "mid"), sound)
	return dir, sound
}

// editJSON changes members of a JSON object; nil deletes one.
func editJSON(t *testing.T, data []byte, members map[string]any) []byte {
	t.Helper()
	var object map[string]json.RawMessage
	nilError(t, json.Unmarshal(data, &object))
	for name, value := range members {
		if _, ok := object[name]; !ok && name != "labels" {
			t.Fatalf("there is no %q in %s", name, data)
		}
		if delete(object, name); value != nil {
			object[name] = must(json.Marshal(value))
		}
	}
	return append(must(json.MarshalIndent(object, "", "  ")), '\n')
}

// wantDamaged requires that err names the damaged snapshot and its path.
func wantDamaged(t *testing.T, err error, name, path string) {
	t.Helper()
	wantError(t, err, fsmeta.ErrDamaged, path)
	var damage *fsmeta.DamagedError
	if !errors.As(err, &damage) {
		t.Fatalf("no DamagedError: %v", err)
	}
	equal(t, "damaged name", damage.Name, name)
	if !strings.HasPrefix(damage.Path, path) {
		t.Errorf("damaged path is %s, want %s or below", damage.Path, path)
	}
	if !classes["DataLoss"](err) {
		t.Errorf("not a DataLoss: %v", err)
	}
}

// readsDamaged requires that mid is damaged and that everything else is read.
func (s *store) readsDamaged(entry string) {
	s.t.Helper()
	ids := map[string]string{}
	var names []string
	for _, ctx := range []context.Context{bg, first(s.begin(bg, false))} {
		infos, err := s.walk(ctx)
		wantDamaged(s.t, err, "mid", entry)
		equal(s.t, "all others", list(infos), withoutMid)
		names = names[:0]
		for _, info := range infos {
			equal(s.t, "Stat", must(s.Stat(ctx, info.Name)), info)
			equal(s.t, "NameOf", must(s.NameOf(ctx, info.ID)), info.Name)
			ids[info.ID] = info.Name
			names = append(names, info.Name)
		}
		s.allDamaged(ctx, append(names, "mid"), map[string]string{"mid": entry})
		got, err := s.IDs(ctx)
		wantDamaged(s.t, err, "mid", entry)
		equal(s.t, "all other identifiers", got, ids)
		wantDamaged(s.t, drop(s.Stat(ctx, "mid")), "mid", entry)
		wantDamaged(s.t, drop(s.GetActive(ctx, "mid")), "mid", entry)
		wantDamaged(s.t, drop(s.GetActive(ctx, "work")), "mid", entry) // stands on it
		equal(s.t, "parents", len(must(s.GetActive(ctx, "lone")).ParentIDs), 0)
		wantError(s.t, drop(s.Stat(ctx, "nobody")), fsmeta.ErrNotExist)
	}
}

func first[A, B any](a A, _ B) A { return a }

// allDamaged requires that All visits the names in this order, and those with a
// path as damaged.
func (s *store) allDamaged(ctx context.Context, names []string, paths map[string]string) {
	s.t.Helper()
	var got []string
	for info, err := range s.All(ctx) {
		got = append(got, info.Name)
		if path, ok := paths[info.Name]; ok {
			wantDamaged(s.t, err, info.Name, path)
			equal(s.t, "damaged Info", info, fsmeta.Info{Name: info.Name})
		} else {
			nilError(s.t, err)
		}
	}
	equal(s.t, "visited", got, names)
}

// writesBesideDamaged requires that mid can't be written and all others can.
func (s *store) writesBesideDamaged(lost bool) {
	s.t.Helper()
	s.write(func(ctx context.Context) {
		for i, err := range []error{
			drop(s.CreateActive(ctx, "new", "mid", false)),
			drop(s.CreateActive(ctx, "mid", "", false)),
			drop(s.Commit(ctx, "lone", "mid")),
			drop(s.Commit(ctx, "mid", "new")),
			drop(s.CommitActive(ctx, "lone", "new", fsmeta.WithParent("mid"))),
			drop(s.Remove(ctx, "mid")),
			drop(s.Update(ctx, fsmeta.Info{Name: "mid"})),
			drop(s.SetUsage(ctx, "mid", fsmeta.Usage{})),
			drop(s.Remove(ctx, "base")), // mid stands on it
		} {
			if err == nil {
				s.t.Errorf("write %d worked on a damaged snapshot", i)
			}
		}
		must(s.CreateActive(ctx, "new", "other", false))
		must(s.Commit(ctx, "new", "newer"))
		must(s.Update(ctx, fsmeta.Info{Name: "top", Labels: map[string]string{"a": "b"}}))
		must(s.SetUsage(ctx, "lone", fsmeta.Usage{Size: 1}))
	})
	err := s.WithTransaction(bg, true, func(ctx context.Context) error { return drop(s.Remove(ctx, "spare")) })
	switch {
	case lost:
		wantError(s.t, err, fsmeta.ErrDamaged)
	case err != nil:
		s.t.Logf("Remove refuses although the parent link is there: %v", err)
		wantError(s.t, err, fsmeta.ErrDamaged)
	}
}

// What is in snapshots/ and is no snapshot is reported and left alone.
func TestStrayEntries(t *testing.T) {
	file := func(path string) error { return os.WriteFile(path, []byte("text"), 0o600) }
	alias := func(path string) error {
		return os.Symlink("mid", path)
	}
	second := func(path string) error { // a copy of a snapshot under another name
		return os.CopyFS(path, os.DirFS(filepath.Join(filepath.Dir(path), "other")))
	}
	for _, test := range []struct {
		name  string
		entry string
		put   func(path string) error
		known bool // whether it is known to have no parent, so that Remove must work
	}{
		{"file", "stray", file, true},
		{"file with an odd name", "my notes.txt~", file, true},
		{"hidden file", ".notes", file, true},
		{"file like an escaped name", "%zz", file, true},
		{"symlink", "stray", alias, false},
		{"empty directory", "stray", func(path string) error { return os.Mkdir(path, 0o700) }, false},
		{"copy", "stray", second, false},
		{"copy with a name not escaped", "stray name", second, false},
		{"copy with an escape too much", "%6Fther", second, false},
		{"copy with a lower-case escape", "%2fother", second, false},
		{"copy with a hash", "other~" + strings.Repeat("0", 64), second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, _ := victimStore(t)
			path := filepath.Join(dir, "snapshots", test.entry)
			nilError(t, test.put(path))
			before := fingerprint(t, path)
			s := openOnly(t, dir)
			for range 2 {
				got, err := s.list(bg)
				equal(t, "all others", got, victim)
				wantError(t, err, fsmeta.ErrDamaged, path)
				wantError(t, drop(s.IDs(bg)), fsmeta.ErrDamaged, path)
				s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "mid", fsmeta.Usage{Size: 1})) })
			}
			err := s.WithTransaction(bg, true, func(ctx context.Context) error { return drop(s.Remove(ctx, "spare")) })
			if err != nil && (test.known || !errors.Is(err, fsmeta.ErrDamaged)) {
				t.Errorf("Remove: %v", err)
			}
			if err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(s.CreateActive(ctx, "stray", "", false))
			}); test.entry == "stray" && err == nil {
				t.Error("a stray entry was overwritten")
			}
			nilError(t, s.Close())
			equal(t, "stray entry", fingerprint(t, path), before)
			nilError(t, os.RemoveAll(path)) // repaired by hand
			openStore(t, dir).agree(bg)
		})
	}
}

func TestDamagedSnapshotsAreAllReported(t *testing.T) {
	dir, _ := victimStore(t)
	paths := map[string]string{}
	for _, name := range []string{"spare", "mid", "lone"} {
		paths[name] = filepath.Join(dir, "snapshots", name)
		overwrite(t, filepath.Join(paths[name], "metadata.json"), "")
	}
	s := openOnly(t, dir)
	got, err := s.list(bg)
	equal(t, "all others", got, "base; other; top < mid; *work < top")
	_, errIDs := s.IDs(bg)
	for _, path := range paths {
		wantError(t, err, fsmeta.ErrDamaged, path)
		wantError(t, errIDs, fsmeta.ErrDamaged, path)
	}
	s.allDamaged(bg, []string{"base", "other", "top", "work", "lone", "mid", "spare"}, paths)
}

// The error of a walk's function is returned, damage or not.
func TestWalkEndsBeforeDamage(t *testing.T) {
	dir, _ := victimStore(t)
	overwrite(t, filepath.Join(dir, "snapshots", "base", "metadata.json"), "")
	s := openOnly(t, dir)
	failure := errors.New("failure")
	err := s.Walk(bg, func(context.Context, fsmeta.Info) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("got error %v, want that of the function", err)
	}
}

// A long name can only be read back from metadata.json.
func TestDamagedLongName(t *testing.T) {
	dir, long := filepath.Join(t.TempDir(), "store"), strings.Repeat("long/name ", 100)
	s := openOnly(t, dir)
	s.build("base; *work < base")
	s.write(func(ctx context.Context) { must(s.CreateActive(ctx, long, "base", false)) })
	nilError(t, s.Close())
	paths := must(filepath.Glob(filepath.Join(dir, "snapshots", "*~*")))
	overwrite(t, filepath.Join(paths[0], "metadata.json"), "")
	s = openOnly(t, dir)
	got, err := s.list(bg)
	equal(t, "all others", got, "base; *work < base")
	wantError(t, err, fsmeta.ErrDamaged, paths[0])
	wantError(t, drop(s.IDs(bg)), fsmeta.ErrDamaged, paths[0])
	wantDamaged(t, drop(s.Stat(bg, long)), long, paths[0])
	s.write(func(ctx context.Context) {
		if err := drop(s.CreateActive(ctx, long, "", false)); err == nil {
			t.Error("a damaged snapshot was overwritten")
		}
	})
}

// Parents that go round in a circle, which only a person can have made.
func TestDamagedCircle(t *testing.T) {
	for _, target := range []string{"../mid", "../top"} {
		dir, _ := victimStore(t)
		entry := filepath.Join(dir, "snapshots", "mid")
		path := filepath.Join(entry, "metadata.json")
		overwrite(t, path, string(editJSON(t, must(os.ReadFile(path)), map[string]any{"crc32c": nil})))
		nilError(t, os.Remove(filepath.Join(entry, "parent")))
		nilError(t, os.Symlink(target, filepath.Join(entry, "parent")))
		s := openOnly(t, dir)
		wantError(t, drop(s.GetActive(bg, "work")), fsmeta.ErrDamaged)
		must(s.Stat(bg, "other"))
		if infos, err := s.walk(bg); len(infos) < 6 {
			t.Errorf("walk ended with %s: %v", list(infos), err)
		}
	}
}

// For a name that the journal names, the journal decides: what is damaged there
// is as before for readers, and made whole by the next writer.
func TestDamageIsHealedFromTheJournal(t *testing.T) {
	for _, damage := range []func(entry string) error{
		func(entry string) error { return os.WriteFile(filepath.Join(entry, "metadata.json"), nil, 0o600) },
		func(entry string) error { return os.Remove(filepath.Join(entry, "metadata.json")) },
		func(entry string) error { return os.Remove(filepath.Join(entry, "parent")) },
		func(entry string) error { return os.RemoveAll(entry) },
	} {
		s := newStore(t)
		s.build(victim)
		want := must(dump(bg, s.Store))
		dir := s.kill()
		entry := filepath.Join(dir, "snapshots", "mid")
		nilError(t, damage(entry))
		equal(t, "read-only", must(dump(bg, openOnly(t, dir, fsmeta.ReadOnly()).Store)), want)
		killed := openStore(t, dir)
		equal(t, "before a write", must(dump(bg, killed.Store)), want)
		killed.build("new")
		equal(t, "tree on disk", diskList(t, dir), strings.Replace(victim, "; other", "; new; other", 1))
	}
}

// A person who edits metadata.json deletes the checksum.
func TestEditedByHand(t *testing.T) {
	dir, _ := victimStore(t)
	path := filepath.Join(dir, "snapshots", "mid", "metadata.json")
	overwrite(t, path, string(editJSON(t, must(os.ReadFile(path)), map[string]any{
		"crc32c": nil, "labels": map[string]string{"by": "hand"}})))
	link := filepath.Join(dir, "snapshots", "work", "parent")
	edited := filepath.Join(dir, "snapshots", "work", "metadata.json")
	overwrite(t, edited, string(editJSON(t, must(os.ReadFile(edited)), map[string]any{"crc32c": nil})))
	nilError(t, os.Remove(link))
	nilError(t, os.Symlink("../spare", link))

	s := openStore(t, dir)
	equal(t, "labels", must(s.Stat(bg, "mid")).Labels, map[string]string{"by": "hand"})
	s.want(bg, strings.Replace(victim, "*work < top", "*work < spare", 1))
	s.write(func(ctx context.Context) {
		wantError(t, drop(s.Remove(ctx, "spare")), fsmeta.ErrHasChildren)
		must(s.Update(ctx, fsmeta.Info{Name: "mid", Labels: map[string]string{"by": "us"}}, "labels.by"))
		must(s.Remove(ctx, "work"))
		must(s.Remove(ctx, "spare"))
	})
	equal(t, "labels", must(s.Stat(bg, "mid")).Labels, map[string]string{"by": "us"})
}

// Leftovers in staging are garbage.
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

// The journal.

// editJournal replaces the lines of a journal. Behind them, there are as many
// NUL bytes as there were.
func editJournal(t *testing.T, dir string, edit func(lines [][]byte) [][]byte) {
	t.Helper()
	path := filepath.Join(dir, "journal")
	data := must(os.ReadFile(path))
	fill := data[len(bytes.TrimRight(data, "\x00")):]
	lines := edit(journalLines(t, dir))
	nilError(t, os.WriteFile(path, append(bytes.Join(lines, nil), fill...), 0o600))
}

// journalLines returns the lines of a journal, the first is the header.
func journalLines(t *testing.T, dir string) (lines [][]byte) {
	t.Helper()
	text := bytes.TrimRight(must(os.ReadFile(filepath.Join(dir, "journal"))), "\x00")
	if !bytes.HasSuffix(text, []byte("\n")) {
		t.Fatalf("the journal ends in %q", text[max(0, len(text)-100):])
	}
	return slices.Collect(bytes.Lines(text))
}

// history makes a store with a transaction per line in the journal.
func history(t *testing.T) *store {
	t.Helper()
	s := newStore(t)
	for _, text := range []string{"base", "mid < base", "top < mid", "*work < top", "?view < top"} {
		s.build(text)
	}
	if lines := journalLines(t, s.dir); len(lines) < 6 || bytes.Contains(lines[0], []byte("base")) {
		t.Fatalf("the journal is not what this test assumes:\n%s", bytes.Join(lines, nil))
	}
	return s
}

const historyEnd = "base; mid < base; top < mid; ?view < top; *work < top"

func TestJournalOnDisk(t *testing.T) {
	s := history(t)
	lines := journalLines(t, s.dir)
	last := 0
	for i, line := range lines {
		var fields struct {
			Txn     int
			Changes []struct{ Name string }
		}
		nilError(t, json.Unmarshal(line, &fields))
		if i > 1 && fields.Txn != last+1 {
			t.Errorf("line %d: transaction %d after %d", i, fields.Txn, last)
		}
		last = fields.Txn
	}
	if !bytes.Contains(lines[len(lines)-1], []byte(`"view"`)) {
		t.Errorf("the last transaction is not in the last line: %s", lines[len(lines)-1])
	}
	nilError(t, s.Close())
	if lines := journalLines(t, s.dir); len(lines) != 1 {
		t.Errorf("%d lines after the last Close, want the header alone", len(lines))
	}
}

// What was never acknowledged is cut, whatever it is.
func TestJournalTorn(t *testing.T) {
	for _, tail := range []string{
		"{", `{"txn":`, "garbage", "\x01\x02\x03", "\xff", "{}", "garbage\x00\n",
		"\x00\x00garbage", strings.Repeat("\x00", 9000) + "garbage", strings.Repeat("garbage ", 9000), "half a line",
	} {
		t.Run(fmt.Sprintf("%.20q", tail), func(t *testing.T) {
			s := history(t)
			dir := s.kill()
			if tail == "half a line" {
				lines := journalLines(t, dir)
				last := lines[len(lines)-1]
				tail = string(last[:len(last)/2])
			}
			putTail(t, filepath.Join(dir, "journal"), tail)
			s.isCut(dir)
		})
	}
}

// A newline is written when what is before it is on disk. So what it ends was committed,
// and is not cut, even if it can't be read any more.
func TestJournalEndsInDamage(t *testing.T) {
	const next = "a line of another history\n"
	for _, tail := range []string{"garbage\n", "garbage\ngarbage\n", "\n", "{}\n", "null\n", "the last line again\n", next} {
		t.Run(fmt.Sprintf("%.20q", tail), func(t *testing.T) {
			s := history(t)
			dir := s.kill()
			lines := journalLines(t, dir)
			switch tail {
			case "the last line again\n":
				tail = string(lines[len(lines)-1])
			case next: // which would be the next one, if only it stood on this one
				other := openOnly(t, dir)
				other.want(bg, historyEnd)
				other.write(func(ctx context.Context) { must(other.SetUsage(ctx, "work", fsmeta.Usage{Size: 1})) })
				other.write(func(ctx context.Context) { must(other.SetUsage(ctx, "base", fsmeta.Usage{Size: 1})) })
				s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "work", fsmeta.Usage{Size: 2})) })
				tail = string(journalLines(t, dir)[len(lines)+1])
				dir = s.kill()
			}
			putTail(t, filepath.Join(dir, "journal"), tail)
			before := must(os.ReadFile(filepath.Join(dir, "journal")))
			damaged := openStore(t, dir)
			damaged.want(bg, historyEnd)
			_, _, err := damaged.TransactionContext(bg, true)
			wantError(t, err, fsmeta.ErrDamaged, filepath.Join(dir, "journal"))
			if !bytes.Equal(must(os.ReadFile(filepath.Join(dir, "journal"))), before) {
				t.Error("the journal was changed")
			}
		})
	}
}

// putTail writes behind the last line of a journal, over the NUL bytes there.
func putTail(t *testing.T, journal, tail string) {
	t.Helper()
	data := must(os.ReadFile(journal))
	torn := append(bytes.TrimRight(data, "\x00"), tail...)
	torn = append(torn, make([]byte, max(0, len(data)-len(torn)))...)
	nilError(t, os.WriteFile(journal, torn, 0o600))
}

// isCut requires that what is in dir is as in s, and that before anything is
// written there a new journal takes over from the torn one.
func (s *store) isCut(dir string) {
	s.t.Helper()
	infos := must(dump(bg, s.Store))
	equal(s.t, "read-only", must(dump(bg, openOnly(s.t, dir, fsmeta.ReadOnly()).Store)), infos)
	torn := must(os.Stat(filepath.Join(dir, "journal")))
	cut := openStore(s.t, dir)
	equal(s.t, "opened", must(dump(bg, cut.Store)), infos)
	cut.build("new < top")
	cut.want(bg, strings.Replace(list(infos), "; top", "; new < top; top", 1))
	if os.SameFile(torn, must(os.Stat(filepath.Join(dir, "journal")))) {
		s.t.Error("a line was written to a journal that was torn")
	}
	openStore(s.t, cut.kill()).agree(bg)
}

// A line that is whole but for its newline may still fail while its writer is at
// work, so readers don't see it. When nobody is, it is committed: what was
// acknowledged looks the same after a power cut.
func TestJournalUnpublished(t *testing.T) {
	const before, after = "base; *gone < base", "base; top < base; *work < top"
	for _, renamed := range []bool{false, true} {
		t.Run(fmt.Sprintf("renamed %v", renamed), func(t *testing.T) {
			s := newStore(t)
			s.build(before)
			dir := s.kill()
			reader := openOnly(t, dir, fsmeta.ReadOnly())
			ctx, _ := reader.begin(bg, false)
			s.write(func(ctx context.Context) {
				s.make(ctx, "top < base; *work < top")
				must(s.Remove(ctx, "gone"))
				must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
			})
			known, lines := journalLines(t, dir), journalLines(t, s.dir)
			equal(t, "number of new lines", len(lines)-len(known), 1)
			line := bytes.TrimSuffix(lines[len(known)], []byte("\n"))
			overwriteAt(t, filepath.Join(dir, "journal"), len(bytes.Join(known, nil)), line)
			if renamed {
				replaceTree(t, filepath.Join(s.dir, "snapshots"), filepath.Join(dir, "snapshots"))
			}
			reader.want(bg, before)
			reader.agree(bg)
			reader.want(ctx, before)

			if renamed { // once is enough: it waits for the writer to finish
				unlock := flock(t, filepath.Join(dir, "staging"))
				openOnly(t, dir, fsmeta.ReadOnly()).want(bg, before)
				unlock()
			}
			openOnly(t, dir, fsmeta.ReadOnly()).want(bg, after)
			openStore(t, dir).want(bg, after)
			killed := openStore(t, dir)
			killed.build("*new")
			equal(t, "labels", must(killed.Stat(bg, "base")).Labels, map[string]string{"a": "b"})
			reader.want(bg, strings.Replace(after, "; top", "; *new; top", 1))
			if got, err := reader.list(ctx); err != nil {
				wantError(t, err, fsmeta.ErrOutdated)
			} else {
				equal(t, "old reader", got, before)
			}
		})
	}
}

// flock locks a directory as a writer in another process would.
func flock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f := must(os.Open(path))
	nilError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	return func() { nilError(t, f.Close()) }
}

// overwriteAt writes in place, into a file that others have open.
func overwriteAt(t *testing.T, path string, off int, data []byte) {
	t.Helper()
	f := must(os.OpenFile(path, os.O_WRONLY, 0))
	must(f.WriteAt(data, int64(off)))
	nilError(t, f.Close())
}

// replaceTree makes the entries of one directory those of another.
func replaceTree(t *testing.T, from, to string) {
	t.Helper()
	for _, entry := range must(os.ReadDir(to)) {
		nilError(t, os.RemoveAll(filepath.Join(to, entry.Name())))
	}
	for _, entry := range must(os.ReadDir(from)) {
		copyTree(t, filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()))
	}
}

// Damage in lines that were acknowledged is never cut. Reads go on, and the
// journal is left as it is.
func TestJournalDamaged(t *testing.T) {
	s := history(t)
	lines := len(journalLines(t, s.dir))
	type damage struct {
		name string
		edit func(lines [][]byte) [][]byte
	}
	tests := []damage{
		{"line lost", func(lines [][]byte) [][]byte { return slices.Delete(lines, 2, 3) }},
		{"lines swapped", func(lines [][]byte) [][]byte { lines[2], lines[3] = lines[3], lines[2]; return lines }},
		{"line twice", func(lines [][]byte) [][]byte { return slices.Insert(lines, 2, lines[2]) }},
		{"line cut", func(lines [][]byte) [][]byte { lines[2] = append(lines[2][:40:40], '\n'); return lines }},
		{"line of NUL bytes", func(lines [][]byte) [][]byte { lines[2] = make([]byte, len(lines[2])); return lines }},
		{"line of text", func(lines [][]byte) [][]byte { return slices.Insert(lines, 2, []byte("text\n")) }},
		{"newline lost", func(lines [][]byte) [][]byte { lines[2] = bytes.TrimSuffix(lines[2], []byte("\n")); return lines }},
	}
	for line := 1; line < lines; line++ {
		for at := 0; at < 1000; at += 61 { // some bytes of each line
			tests = append(tests, damage{fmt.Sprintf("line %d flipped at %d", line, at), func(lines [][]byte) [][]byte {
				flipped := bytes.Clone(lines[line])
				flipped[at%(len(flipped)-1)] ^= 1
				lines[line] = flipped
				return lines
			}})
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := s.kill()
			journal := filepath.Join(dir, "journal")
			editJournal(t, dir, test.edit)
			before := fingerprint(t, journal)
			readonly := openOnly(t, dir, fsmeta.ReadOnly())
			readonly.want(bg, historyEnd)
			damaged := openOnly(t, dir)
			damaged.want(bg, historyEnd)
			damaged.agree(bg)
			for range 2 {
				err := damaged.WithTransaction(bg, true, func(ctx context.Context) error {
					return drop(damaged.CreateActive(ctx, "new", "", false))
				})
				wantError(t, err, fsmeta.ErrDamaged, journal)
			}
			damaged.want(bg, historyEnd)
			nilError(t, damaged.Close())
			nilError(t, readonly.Close())
			equal(t, "journal", fingerprint(t, journal), before)
		})
	}
}

// What was removed is not in the tree any more to bear witness. The lines are.
func TestJournalDamagedWhereNothingIsLeft(t *testing.T) {
	s := newStore(t)
	s.build("*x; *y; *z")
	for _, key := range []string{"x", "y", "z"} {
		s.write(func(ctx context.Context) { must(s.Remove(ctx, key)) })
	}
	lines := journalLines(t, s.dir)
	for i, key := range []string{"x", "y"} { // each but the last line
		line := len(lines) - 3 + i
		dir := s.kill()
		editJournal(t, dir, func(lines [][]byte) [][]byte { lines[line][20] ^= 1; return lines })
		before := fingerprint(t, filepath.Join(dir, "journal"))
		damaged := openOnly(t, dir)
		if got := must(damaged.list(bg)); got != "" && got != "*"+key { // there is no telling
			t.Errorf("got %s, want nothing, or *%s at most", got, key)
		}
		_, _, err := damaged.TransactionContext(bg, true)
		wantError(t, err, fsmeta.ErrDamaged, filepath.Join(dir, "journal"))
		nilError(t, damaged.Close())
		equal(t, "journal", fingerprint(t, filepath.Join(dir, "journal")), before)
	}
}

// Without the header, nothing can be told from the journal.
func TestJournalHeaderDamaged(t *testing.T) {
	s := history(t)
	tests := []func(data []byte) []byte{
		func([]byte) []byte { return nil },
		func(data []byte) []byte { return make([]byte, len(data)) },
		func(data []byte) []byte { return data[bytes.IndexByte(data, '\n')+1:] },
	}
	for at := range journalLines(t, s.dir)[0] {
		tests = append(tests, func(data []byte) []byte { data[at] ^= 1; return data })
	}
	for i, edit := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir := s.kill()
			journal := filepath.Join(dir, "journal")
			overwrite(t, journal, string(edit(must(os.ReadFile(journal)))))
			before := fingerprint(t, journal)
			opened, err := fsmeta.Open(dir)
			if err != nil {
				wantError(t, err, fsmeta.ErrDamaged, journal)
				return
			}
			defer opened.Close()
			damaged := &store{opened, t, dir}
			damaged.want(bg, historyEnd)
			err = damaged.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(damaged.CreateActive(ctx, "new", "", false))
			})
			wantError(t, err, fsmeta.ErrDamaged, journal)
			nilError(t, damaged.Close())
			equal(t, "journal", fingerprint(t, journal), before)
		})
	}
}

// Full disks and missing permissions.

// alone runs the test in a process of its own, with privileges or without, and
// tells whether this is the one. The directory is for that process to use.
func alone(t *testing.T, privileged bool) (dir string, here bool) {
	t.Helper()
	const variable = "FSMETA_TEST_ALONE"
	if dir := os.Getenv(variable); dir != "" {
		if os.Getuid() == 0 && !privileged {
			nilError(t, syscall.Setgroups(nil))
			nilError(t, syscall.Setgid(nobody))
			nilError(t, syscall.Setuid(nobody))
		}
		return dir, true
	}
	dir = t.TempDir()
	if os.Getuid() == 0 && !privileged {
		nilError(t, os.Chmod(filepath.Dir(dir), 0o711))
		nilError(t, os.Chown(dir, nobody, nobody))
	}
	child := exec.Command(must(os.Executable()), "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), variable+"="+dir)
	out, err := child.CombinedOutput()
	if t.Logf("%s", out); err != nil || !bytes.Contains(out, []byte("=== RUN   "+t.Name()+"/")) {
		t.Fatalf("in a process of its own: %v", err)
	}
	return "", false
}

// nobody is the user to be where root would be allowed everything.
const nobody = 65534

// A file that can't grow any more is what a full disk is: the transaction fails
// and leaves nothing, and the Store goes on as soon as there is room again.
func TestFullDisk(t *testing.T) {
	dir, here := alone(t, true)
	if !here {
		return
	}
	for i, test := range []struct {
		name string
		room uint64 // bytes that a file can have
		do   func(ctx context.Context, s *store)
	}{
		{"no room for metadata", 0, func(ctx context.Context, s *store) { s.make(ctx, "top < base; *work2 < top") }},
		{"no room to update", 0, func(ctx context.Context, s *store) {
			must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
		}},
		{"no room to remove", 0, func(ctx context.Context, s *store) { must(s.Remove(ctx, "work")) }},
		{"no room for the second one", 4096, func(ctx context.Context, s *store) {
			s.make(ctx, "*a < base")
			must(s.Create(ctx, "b", "base", false, fsmeta.WithLabels(map[string]string{"text": strings.Repeat("text ", 6000)})))
		}},
		{"no room in the journal", 1 << 20, func(ctx context.Context, s *store) {
			labels := map[string]string{"text": strings.Repeat("text ", 6000)}
			for i := range 200 {
				must(s.Create(ctx, fmt.Sprint("key", i), "base", false, fsmeta.WithLabels(labels)))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openStore(t, filepath.Join(dir, fmt.Sprint("store", i)))
			s.build("base; *work < base")
			infos := must(dump(bg, s.Store))
			disk := fingerprint(t, s.dir, "journal", "staging")
			staged := func() (dirs int) { // but for the symlinks that are kept for later
				for _, entry := range must(os.ReadDir(filepath.Join(s.dir, "staging"))) {
					if entry.IsDir() {
						dirs++
					}
				}
				return dirs
			}
			spares := staged()
			for range 2 {
				err := withRoom(t, test.room, func() error {
					return s.WithTransaction(bg, true, func(ctx context.Context) error { test.do(ctx, s); return nil })
				})
				if !errors.Is(err, syscall.EFBIG) || errors.Is(err, fsmeta.ErrOutcomeUnknown) || errors.Is(err, fsmeta.ErrFailed) {
					t.Fatalf("got error %v, want a plain one of %v", err, syscall.EFBIG)
				}
				equal(t, "store", must(dump(bg, s.Store)), infos)
				equal(t, "disk", fingerprint(t, s.dir, "journal", "staging"), disk)
				if n := staged(); n > spares {
					t.Errorf("%d directories in staging, there were %d", n, spares)
				}
			}
			killed := openStore(t, s.kill())
			equal(t, "store after a crash", must(dump(bg, killed.Store)), infos)
			s.write(func(ctx context.Context) { test.do(ctx, s) }) // there is room again
		})
	}
}

// withRoom runs do while no file of this process can grow over room bytes.
func withRoom(t *testing.T, room uint64, do func() error) error {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	nilError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	small := limit
	switch cur := any(&small.Cur).(type) { // which it is depends on the system
	case *uint64:
		*cur = room
	case *int64:
		*cur = int64(room)
	}
	nilError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small))
	defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	return do()
}

// TestPermissions runs its cases as a user who is not root.
func TestPermissions(t *testing.T) {
	dir, here := alone(t, false)
	if !here {
		return
	}
	for i, test := range permissionTests {
		t.Run(test.name, func(t *testing.T) {
			top := filepath.Join(dir, fmt.Sprint("case", i))
			nilError(t, os.Mkdir(top, 0o700))
			test.do(t, filepath.Join(top, "store"))
		})
	}
}

var permissionTests = []struct {
	name string
	do   func(t *testing.T, dir string)
}{
	{"to make a store", func(t *testing.T, dir string) {
		chmod(t, filepath.Dir(dir), 0o500)
		_, err := fsmeta.Open(dir)
		wantPermission(t, err, dir)
		equal(t, "entries", len(must(os.ReadDir(filepath.Dir(dir)))), 0)
	}},
	{"to make a store in a directory", func(t *testing.T, dir string) {
		nilError(t, os.Mkdir(dir, 0o500))
		_, err := fsmeta.Open(dir)
		wantPermission(t, err, dir)
		equal(t, "entries", len(must(os.ReadDir(dir))), 0)
	}},
	{"to enter", func(t *testing.T, dir string) {
		made(t, dir)
		chmod(t, dir, 0)
		for _, opts := range [][]fsmeta.Option{nil, {fsmeta.MustExist()}, {fsmeta.ReadOnly()}} {
			_, err := fsmeta.Open(dir, opts...)
			wantPermission(t, err, dir)
		}
		chmod(t, dir, 0o700)
		openStore(t, dir).want(bg, "base; *work < base")
	}},
	{"to write", func(t *testing.T, dir string) {
		made(t, dir)
		undo := chmodAll(t, dir, 0o500, 0o400)
		before := fingerprint(t, dir)
		useReadOnly(t, dir, "base; *work < base")
		if s, err := fsmeta.Open(dir); err != nil {
			wantPermission(t, err, dir)
		} else {
			err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(s.CreateActive(ctx, "new", "", false))
			})
			wantPermission(t, err, dir)
			nilError(t, s.Close())
		}
		equal(t, "directory", fingerprint(t, dir), before)
		undo()
		openStore(t, dir).build("new")
	}},
	{"to read a snapshot", func(t *testing.T, dir string) {
		made(t, dir)
		path := filepath.Join(dir, "snapshots", "base", "metadata.json")
		chmod(t, path, 0)
		s := openOnly(t, dir)
		wantPermission(t, drop(s.Stat(bg, "base")), path)
		got, err := s.list(bg)
		wantPermission(t, err, path)
		equal(t, "all others", got, "*work < base")
		s.build("new")
		nilError(t, s.Close())
		chmod(t, path, 0o600)
		openStore(t, dir).want(bg, "base; new; *work < base")
	}},
	{"to write in staging", func(t *testing.T, dir string) {
		s := openStore(t, dir)
		s.build("base; *work < base")
		disk := fingerprint(t, dir, "journal", "staging")
		chmod(t, filepath.Join(dir, "staging"), 0o500)
		for range 2 {
			err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(s.CreateActive(ctx, "new", "base", false))
			})
			wantPermission(t, err, dir)
			s.want(bg, "base; *work < base")
			equal(t, "disk", fingerprint(t, dir, "journal", "staging"), disk)
		}
		chmod(t, filepath.Join(dir, "staging"), 0o700)
		s.build("new < base")
		s.want(bg, "base; new < base; *work < base")
	}},
	{"to rename into snapshots", func(t *testing.T, dir string) { // after the sync: it is committed
		s := openStore(t, dir)
		s.build("base; *work < base")
		second := openStore(t, dir)
		chmod(t, filepath.Join(dir, "snapshots"), 0o500)
		s.build("new < base")
		s.want(bg, "base; new < base; *work < base")
		second.want(bg, "base; new < base; *work < base")
		chmod(t, filepath.Join(dir, "snapshots"), 0o700)
		s.build("last < new")
		equal(t, "tree on disk", diskList(t, dir), "base; last < new; new < base; *work < base")
	}},
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	nilError(t, os.Chmod(path, mode))
	t.Cleanup(func() { os.Chmod(path, mode|0o700) }) // so that it can be removed
}

// chmodAll changes the permissions of all directories and files, and returns a
// function that changes them back.
func chmodAll(t *testing.T, dir string, dirMode, fileMode fs.FileMode) func() {
	t.Helper()
	var undo []func()
	nilError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type() == fs.ModeSymlink {
			return err
		}
		mode, old := fileMode, fs.FileMode(0o600)
		if entry.IsDir() {
			mode, old = dirMode, 0o700
		}
		undo = append(undo, func() { os.Chmod(path, old) })
		return os.Chmod(path, mode)
	}))
	return func() {
		for _, undo := range undo {
			undo()
		}
	}
}

func wantPermission(t *testing.T, err error, path string) {
	t.Helper()
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want one of %v that mentions %s", err, fs.ErrPermission, path)
	}
}

// importable returns a small store as another one would have it.
func importable() []fsmeta.Info {
	at := time.Date(2020, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	return []fsmeta.Info{
		{ID: "9", Name: "web", Parent: "top", Kind: fsmeta.KindActive, Created: at, Updated: at.Add(1)},
		{ID: "40", Name: "view", Parent: "base", Kind: fsmeta.KindActive, Readonly: true, Created: at, Updated: at},
		{ID: "2", Name: "top", Parent: "base", Kind: fsmeta.KindCommitted, Created: at, Updated: at,
			Labels: map[string]string{"a": "b"}, Usage: fsmeta.Usage{Inodes: 3, Size: 4}},
		{ID: "1", Name: "base", Kind: fsmeta.KindCommitted, Created: at, Updated: at},
	}
}

func TestImport(t *testing.T) {
	s := newStore(t)
	given := importable()
	var progress []int
	nilError(t, s.Import(bg, given, 100, func(done int) { progress = append(progress, done) }))
	equal(t, "progress", progress, []int{1, 2, 3, 4})
	for _, s := range []*store{s, openStore(t, s.kill())} {
		for _, want := range given {
			got := must(s.Stat(bg, want.Name))
			want.Created, want.Updated = want.Created.UTC(), want.Updated.UTC()
			want.Readonly = want.Readonly || want.Kind == fsmeta.KindCommitted
			equal(t, want.Name, got, want)
		}
		equal(t, "parents of web", must(s.GetActive(bg, "web")).ParentIDs, []string{"1", "2"})
		equal(t, "name of 40", must(s.NameOf(bg, "40")), "view")
		// Again; and then not, where it would be another one.
		nilError(t, s.Import(bg, given, 100, func(int) { t.Error("something is imported again") }))
		changed := importable()
		changed[2].Labels["a"] = "c"
		wantError(t, s.Import(bg, changed, 100, nil), fsmeta.ErrUsed, `"top"`)
		changed[2].Name = "other"
		wantError(t, s.Import(bg, changed[2:], 100, nil), fsmeta.ErrUsed, `"other"`)
		wantError(t, s.Import(bg, given, 1e6, nil), fsmeta.ErrUsed, "1000000")
		s.write(func(ctx context.Context) {
			id, err := strconv.Atoi(must(s.CreateActive(ctx, "new", "top", false)).ID)
			nilError(t, err)
			if id < 100 {
				t.Errorf("identifier %d is handed out after the import, below 100", id)
			}
			_, err = s.Remove(ctx, "base")
			wantError(t, err, fsmeta.ErrHasChildren)
		})
		s.agree(bg)
	}
	emptied := newStore(t)
	emptied.build("*a")
	emptied.write(func(ctx context.Context) { must(emptied.Remove(ctx, "a")) })
	wantError(t, emptied.Import(bg, given, 1, nil), fsmeta.ErrUsed)
	// Of a store without snapshots there are still the identifiers.
	none := newStore(t)
	nilError(t, none.Import(bg, nil, 100, nil))
	none = openStore(t, none.kill())
	none.write(func(ctx context.Context) {
		if id, err := strconv.Atoi(must(none.CreateActive(ctx, "new", "", false)).ID); err != nil || id < 100 {
			t.Errorf("identifier %d, %v", id, err)
		}
	})
}

// Identifiers that somebody may have are not imported: not in this process, nor in another.
func TestImportIdentifierHandedOut(t *testing.T) {
	s := newStore(t)
	other := openStore(t, s.dir)
	given := []fsmeta.Info{{ID: must(s.NewID(bg)), Name: "a", Kind: fsmeta.KindCommitted, Created: time.Now(), Updated: time.Now()}}
	for _, into := range []*store{s, other} {
		wantError(t, into.Import(bg, given, 1, nil), fsmeta.ErrUsed, "new directory")
	}
	given[0].ID = "1000"
	nilError(t, other.Import(bg, given, 1, nil))
	s.write(func(ctx context.Context) {
		equal(t, "identifier", must(s.Create(ctx, "b", "", false, fsmeta.WithID("1"))).ID, "1")
	})
}

// A panic of the caller's own does not keep the store.
func TestImportProgressPanics(t *testing.T) {
	s := newStore(t)
	func() {
		defer func() { equal(t, "panic", recover(), any("ours")) }()
		t.Error(s.Import(bg, importable(), 1, func(int) { panic("ours") }))
	}()
	equal(t, "unused", must(s.Unused(bg)), true)
	nilError(t, s.Import(bg, importable(), 1, nil))
}

// What can't be told is not "unused".
func TestUnusedDamaged(t *testing.T) {
	s := newStore(t)
	s.build("a")
	nilError(t, s.Close())
	path := filepath.Join(s.dir, "journal")
	data := must(os.ReadFile(path))
	data[40] ^= 1
	overwrite(t, path, string(data))
	damaged := openStore(t, s.dir)
	equal(t, "unused", must(damaged.Unused(bg)), false)
	// Nor where a person has written the journal anew.
	byHand := newStore(t)
	byHand.build("a")
	nilError(t, byHand.Close())
	overwrite(t, filepath.Join(byHand.dir, "journal"), `{"format":"fsmeta journal","version":1,"txn":9,"nextID":9}`+"\n")
	byHand = openStore(t, byHand.dir)
	equal(t, "unused", must(byHand.Unused(bg)), false)
	wantError(t, byHand.Import(bg, importable(), 1, nil), fsmeta.ErrUsed)
}

// A backup may leave staging/ out; who only reads closes without it, too.
func TestCloseWithoutStaging(t *testing.T) {
	s := newStore(t)
	s.build("a")
	dir := s.kill()
	nilError(t, os.RemoveAll(filepath.Join(dir, "staging")))
	again := openStore(t, dir)
	must(again.Stat(bg, "a"))
	nilError(t, again.Close())
}

// What can't be imported is named, and leaves the store as new as it was.
func TestImportRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(infos []fsmeta.Info) []fsmeta.Info
		want   error
		says   string
	}{
		"a name":            {func(i []fsmeta.Info) []fsmeta.Info { i[0].Name = ""; return i }, fsmeta.ErrInvalidName, `""`},
		"an identifier":     {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "01"; return i }, fsmeta.ErrInvalidName, `"web"`},
		"a high identifier": {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "9000000000000000000"; return i }, fsmeta.ErrInvalidName, "9000"},
		"a kind":            {func(i []fsmeta.Info) []fsmeta.Info { i[0].Kind = 0; return i }, fsmeta.ErrInvalidName, `"web"`},
		"no time":           {func(i []fsmeta.Info) []fsmeta.Info { i[0].Created = time.Time{}; return i }, fsmeta.ErrInvalidName, `"web"`},
		"a year": {func(i []fsmeta.Info) []fsmeta.Info {
			i[0].Created = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
			return i
		}, fsmeta.ErrInvalidName, "10000"},
		"a label":                 {func(i []fsmeta.Info) []fsmeta.Info { i[0].Labels = map[string]string{"": "x"}; return i }, fsmeta.ErrInvalidName, `"web"`},
		"a name twice":            {func(i []fsmeta.Info) []fsmeta.Info { i[0].Name = "view"; return i }, fsmeta.ErrExist, `"view"`},
		"an identifier twice":     {func(i []fsmeta.Info) []fsmeta.Info { i[0].ID = "40"; return i }, fsmeta.ErrExist, "40"},
		"a parent that is not":    {func(i []fsmeta.Info) []fsmeta.Info { return i[:3] }, fsmeta.ErrNotExist, `"base"`},
		"a parent that is active": {func(i []fsmeta.Info) []fsmeta.Info { i[3].Kind = fsmeta.KindActive; return i }, fsmeta.ErrNotCommitted, `"base"`},
		"a circle":                {func(i []fsmeta.Info) []fsmeta.Info { i[3].Parent = "top"; return i }, fsmeta.ErrInvalidName, "lead back"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			disk := fingerprint(t, s.dir)
			err := s.Import(bg, test.change(importable()), 1, nil)
			wantError(t, err, test.want)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v does not say %s", err, test.says)
			}
			equal(t, "unused", must(s.Unused(bg)), true)
			equal(t, "disk", fingerprint(t, s.dir), disk)
		})
	}
	s := newStore(t)
	s.write(func(ctx context.Context) {
		wantError(t, s.Import(ctx, importable(), 1, nil), fsmeta.ErrNestedTransaction)
	})
}

func TestUnused(t *testing.T) {
	s := newStore(t)
	equal(t, "a new store", must(s.Unused(bg)), true)
	ctx, tx := s.begin(bg, true)
	must(s.CreateActive(ctx, "a", "", false))
	equal(t, "inside the first transaction", must(s.Unused(ctx)), false)
	nilError(t, tx.Rollback())
	equal(t, "after its rollback", must(s.Unused(bg)), true)
	before, reader := s.begin(bg, false)
	s.write(func(ctx context.Context) {
		must(s.CreateActive(ctx, "a", "", false))
		must(s.Remove(ctx, "a"))
	})
	equal(t, "after one that came to nothing", must(s.Unused(bg)), false)
	s.build("*a")
	s.write(func(ctx context.Context) { must(s.Remove(ctx, "a")) })
	equal(t, "emptied", must(s.Unused(bg)), false)
	equal(t, "emptied, in another process", must(openStore(t, s.kill()).Unused(bg)), false)
	nilError(t, reader.Rollback())
	if _, err := s.Unused(before); !errors.Is(err, fsmeta.ErrTransactionClosed) {
		t.Errorf("in a transaction that has ended: %v", err)
	}
	if fsmeta.FromContext(bg) != nil || fsmeta.FromContext(before) != s.Store {
		t.Error("FromContext does not tell the store")
	}
}
