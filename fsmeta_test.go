// Package fsmeta_test tries the store through its public interface, and reads the files that
// it leaves behind. The tests of each promise stand beside the package, in fsmeta/.
//
// Stores are written as texts, such as
//
//	base; top < base; *work < top; ?view < top
//
// for the committed snapshot base, top that stands on it, the active work and the readonly
// active view. [store.build] makes a store from one, [store.list] returns one.
package fsmeta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// verify requires that closing the store and opening it again changes nothing, that all
// ways to read it agree, and so does the tree, read without the package, and that a check
// finds nothing.
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
	equal(s.t, "findings", must(fsmeta.Check(bg, s.dir, nil)), nil)
}

// agree requires that all ways to read the store give the answer of Walk, in the
// transaction of ctx or outside one.
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

// agreeActive requires that GetActive agrees with the snapshots that Walk returned.
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

// list returns the store as a text.
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

// diskList returns the store in dir as a text, read with the means of an operator at a
// shell: ls, cat and readlink. It requires that every entry is
// the encoded name, and that each parent link says the same as the file.
func diskList(t *testing.T, dir string) string {
	t.Helper()
	items := map[string]string{}
	for _, entry := range must(os.ReadDir(filepath.Join(dir, "snapshots"))) {
		meta := diskMeta(t, dir, entry.Name())
		parent := ""
		link, err := os.Readlink(filepath.Join(dir, "snapshots", entry.Name(), "parent"))
		switch {
		case err == nil && filepath.Dir(link) == ".." && filepath.Base(link) != "..":
			parent = diskMeta(t, dir, filepath.Base(link)).Name
		case !errors.Is(err, fs.ErrNotExist):
			t.Errorf("parent link of %s is %q: %v", entry.Name(), link, err)
		}
		equal(t, "parent link of "+entry.Name(), parent, meta.Parent)
		items[meta.Name] = item(meta.Name, meta.Parent, meta.Kind, meta.Readonly)
	}
	var sorted []string
	for _, name := range slices.Sorted(maps.Keys(items)) {
		sorted = append(sorted, items[name])
	}
	return strings.Join(sorted, "; ")
}

// diskFile is a metadata.json.
type diskFile struct {
	Name, Parent, Kind string
	Readonly           bool
}

func diskMeta(t *testing.T, dir, entry string) (meta diskFile) {
	t.Helper()
	nilError(t, json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "snapshots", entry, "metadata.json"))), &meta))
	if name := must(url.PathUnescape(entry)); !strings.Contains(entry, "~") && name != meta.Name {
		t.Errorf("entry %s holds %q", entry, meta.Name)
	}
	return meta
}

// kill returns a copy of the store's directory, as it stays on disk if the process is
// killed now.
func (s *store) kill() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "store")
	copyTree(s.t, s.dir, dir)
	return dir
}

// copyTree copies directories, files and symlinks. It leaves out those that vanish
// meanwhile.
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

// must returns v. It is for calls that fail only where the test makes no sense any more.
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

// wantError requires that err is the sentinel want, and mentions these texts.
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
	equal(t, "version", layout["version"], any(2.0))
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
			must(s.CommitWith(ctx, "side", "upper", fsmeta.WithParent("top")))
		}, "base; top < base; upper < top; ?view < top; *work < top"},
		{"rebase on what is there", func(ctx context.Context, s *store) {
			must(s.CommitWith(ctx, "work", "done", fsmeta.WithParent("top")))
		}, "base; done < top; top < base; ?view < top"},
		{"rebase on nothing", func(ctx context.Context, s *store) {
			must(s.CommitWith(ctx, "work", "done", fsmeta.WithParent("")))
		}, "base; done < top; top < base; ?view < top"},
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

func TestWithTransaction(t *testing.T) {
	s := newStore(t)
	failure := errors.New("failure")
	for _, test := range []struct {
		name string
		end  func() error
		want any // the error, or the value of the panic
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

// outcome returns the error that do returns, or the value of its panic.
func outcome(do func() error) (result any) {
	defer func() {
		if panicked := recover(); panicked != nil {
			result = panicked
		}
	}()
	return do()
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

	// Its end ends the nesting: none begins inside it any more; one of another store does.
	for _, writable := range []bool{true, false} {
		_, _, err := s.TransactionContext(outer, writable)
		wantError(t, err, fsmeta.ErrTransactionClosed)
	}
	_, tx = second.begin(outer, true)
	nilError(t, tx.Rollback())
}

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

// isolationChanges are a writer's transactions while readers look on.
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
		must(s.CommitWith(ctx, "side", "upper", fsmeta.WithParent("top")))
		s.make(ctx, "*side < upper")
	}},
}

// A reader that began before a change sees the store without it, whether it has looked
// before or not, and however many changes came since.
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

// reset brings back the names, parents and kinds of before, in as many transactions as it
// takes.
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

// A reader sees each name as it was, also if it has asked for no other.
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
		if i%7 == 6 { // another Store takes over its lines and identifiers
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

// Writers and readers at once, in this process and in others: each transaction adds a snapshot
// and counts it in two others, so that readers can tell half a transaction from a whole one,
// and a lost one from none.
func TestConcurrency(t *testing.T) {
	const writers, rounds = 8, 25
	if dir := os.Getenv("FSMETA_TEST_WRITER"); dir != "" { // a writer in a process of its own
		s := openOnly(t, dir)
		for i := range rounds {
			s.addAndCount(fmt.Sprintf("n/%d/%d", os.Getpid(), i))
		}
		return
	}
	s := newStore(t)
	s.build("count.a; count.b")
	stores := []*store{s, openStore(t, s.dir)}
	ended := make(chan struct{})
	var writing, reading sync.WaitGroup
	for w := range writers {
		s := stores[w%2]
		writing.Go(func() {
			if w < 2 {
				child := exec.Command(must(os.Executable()), "-test.run=^TestConcurrency$")
				child.Env = append(os.Environ(), "FSMETA_TEST_WRITER="+s.dir)
				if out, err := child.CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
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
	must(s.Stat(bg, name)) // the writer sees it
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
