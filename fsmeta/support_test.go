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
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

var (
	_ fsmeta.MetaStore  = (*fsmeta.Store)(nil)
	_ fsmeta.Transactor = fsmeta.Transactor(nil)
)

var bg = context.Background()

// Stores in these tests are written as texts, such as
//
//	base; top < base; *work < top; ?view < top
//
// for the committed snapshot base, top that stands on it, the active work and the readonly
// active view. [store.build] makes a store from one, [store.list] returns one.

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

// wellFormed requires the rules that every Info keeps.
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
	if info.Updated.Before(info.Created) {
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

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	nilError(t, os.WriteFile(path, []byte(content), 0o600))
}

// overwriteAt writes in place, into a file that others have open.
func overwriteAt(t *testing.T, path string, off int, data []byte) {
	t.Helper()
	f := must(os.OpenFile(path, os.O_WRONLY, 0))
	must(f.WriteAt(data, int64(off)))
	nilError(t, f.Close())
}

// fingerprint returns everything below dir, times of modification too, except the paths
// below dir that without names.
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

// drop keeps only the error.
func drop[T any](_ T, err error) error { return err }

func first[A, B any](a A, _ B) A { return a }

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
	{fsmeta.ErrInvalidOption, "InvalidParameter", nil},
	{fsmeta.ErrDamaged, "DataLoss", nil},
	{fsmeta.ErrNoTransaction, "FailedPrecondition", nil},
	{fsmeta.ErrReadOnlyTransaction, "FailedPrecondition", nil},
	{fsmeta.ErrTransactionClosed, "FailedPrecondition", nil},
	{fsmeta.ErrNestedTransaction, "FailedPrecondition", nil},
	{fsmeta.ErrOutdated, "Aborted", nil},
	{fsmeta.ErrClosed, "Unavailable", fs.ErrClosed},
	{fsmeta.ErrNotStore, "FailedPrecondition", nil},
	{fsmeta.ErrUsed, "FailedPrecondition", nil},
	{fsmeta.ErrInUse, "Unavailable", nil},
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
// class and of no other, and mentions these texts.
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

// made makes a store that is not empty.
func made(t *testing.T, dir string) {
	t.Helper()
	s := openOnly(t, dir)
	s.build("base; *work < base")
	nilError(t, s.Close())
}

// editJSON changes members of a JSON object; nil deletes one.
func editJSON(t *testing.T, data []byte, members map[string]any) []byte {
	t.Helper()
	var object map[string]json.RawMessage
	nilError(t, json.Unmarshal(data, &object))
	for name, value := range members {
		if _, ok := object[name]; !ok {
			t.Fatalf("there is no %q in %s", name, data)
		}
		if delete(object, name); value != nil {
			object[name] = must(json.Marshal(value))
		}
	}
	return append(must(json.MarshalIndent(object, "", "  ")), '\n')
}
