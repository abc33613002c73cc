package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
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

// model is what a store should hold. A transaction works on a copy.
type model map[string]fsmeta.Info

// create predicts the error of Create.
func (m model) create(key, parent string) error {
	switch {
	case key == "":
		return fsmeta.ErrInvalidName
	case parent != "" && m[parent].Name == "":
		return fsmeta.ErrNotExist
	case parent != "" && m[parent].Kind != fsmeta.KindCommitted:
		return fsmeta.ErrNotCommitted
	case m[key].Name != "":
		return fsmeta.ErrExist
	}
	return nil
}

// commit predicts the error of CommitWith, where parent is "" or there.
func (m model) commit(key, name, parent string) error {
	active, ok := m[key]
	switch {
	case key == "" || name == "":
		return fsmeta.ErrInvalidName
	case m[name].Name != "":
		return fsmeta.ErrExist
	case !ok:
		return fsmeta.ErrNotExist
	case active.Readonly: // as committed ones are
		return fsmeta.ErrNotActive
	case parent != "" && m[parent].Kind != fsmeta.KindCommitted:
		return fsmeta.ErrNotCommitted
	case parent != "" && active.Parent != "" && active.Parent != parent:
		return fsmeta.ErrParentSet
	}
	return nil
}

// remove predicts the error of Remove.
func (m model) remove(key string) error {
	if err := m.exists(key); err != nil {
		return err
	}
	for _, info := range m {
		if info.Parent == key {
			return fsmeta.ErrHasChildren
		}
	}
	return nil
}

// exists predicts the error of what needs a snapshot of any kind.
func (m model) exists(key string) error {
	switch {
	case key == "":
		return fsmeta.ErrInvalidName
	case m[key].Name == "":
		return fsmeta.ErrNotExist
	}
	return nil
}

// active predicts what GetActive returns.
func (m model) active(key string) (active fsmeta.Active, err error) {
	if err := m.exists(key); err != nil {
		return active, err
	}
	info := m[key]
	if info.Kind != fsmeta.KindActive {
		return active, fsmeta.ErrNotActive
	}
	for name := info.Parent; name != ""; name = m[name].Parent {
		active.ParentIDs = slices.Insert(active.ParentIDs, 0, m[name].ID)
	}
	active.ID, active.Readonly = info.ID, info.Readonly
	return active, nil
}

// names are few, so that transactions meet.
var modelNames = []string{"a", "A", "a/b", "a%2Fb", "..", "b", "b\n", "c", strings.Repeat("long/", 60), strings.Repeat("long/", 60) + "er",
	"default/1/x", "default/2/x", "default/3/x", "sha256:1", "sha256:2", "sha256:3", "sha256:4", "sha256:5"}

// world is a store, what it should hold, and the readers that look at it.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	stores  [3]*fsmeta.Store // the last is read-only
	state   model            // as last committed
	issued  map[string]bool  // identifiers ever handed out
	readers []reader
	done    map[string]int // how often each step was tried
}

// reader is a read-only transaction, and what it should see for ever.
type reader struct {
	store int
	ctx   context.Context
	tx    fsmeta.Transactor
	state model
}

// TestModel does random things to a store and to a model of it, and compares
// them. FSMETA_TEST_SEED repeats a run, FSMETA_TEST_TIME sets how long one takes.
func TestModel(t *testing.T) {
	seed, limit := rand.Uint64(), 2*time.Second
	if testing.Short() {
		limit /= 5
	}
	if text := os.Getenv("FSMETA_TEST_SEED"); text != "" {
		seed = must(strconv.ParseUint(text, 10, 64))
	}
	if text := os.Getenv("FSMETA_TEST_TIME"); text != "" {
		limit = must(time.ParseDuration(text))
	}
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 0)), dir: filepath.Join(t.TempDir(), "store"),
		state: model{}, issued: map[string]bool{}, done: map[string]int{}}
	defer func() { t.Logf("FSMETA_TEST_SEED=%d: %v", seed, w.done) }() // also when it panics
	w.openAll()
	for end := time.Now().Add(limit); time.Now().Before(end) || w.missing() != ""; {
		w.step()
	}
	w.closeAll()
}

// missing names a kind of step that was not tried yet.
func (w *world) missing() string {
	for _, name := range []string{"commit", "rollback", "create ok", "commit ok", "remove ok", "update ok", "usage ok",
		"create fails", "commit fails", "remove fails", "old reader", "reopen", "reopen all", "crash", "crash inside"} {
		if w.done[name] == 0 {
			return name
		}
	}
	return ""
}

func (w *world) openAll() {
	w.stores = [3]*fsmeta.Store{must(fsmeta.Open(w.dir)), must(fsmeta.Open(w.dir)), must(fsmeta.Open(w.dir, fsmeta.ReadOnly()))}
	for _, s := range w.stores {
		w.compare(context.Background(), s, w.state)
	}
}

func (w *world) closeAll() {
	for _, i := range w.rng.Perm(len(w.stores)) { // the last, if it is not read-only, folds the journal
		w.endReaders(i)
		w.check(w.stores[i].Close())
	}
}

func (w *world) step() {
	switch n := w.rng.IntN(100); {
	case n < 55:
		w.write()
	case n < 70:
		w.beginReader()
	case n < 88:
		w.checkReaders()
		w.compare(context.Background(), w.stores[w.rng.IntN(3)], w.state)
	case n < 93:
		w.reopen()
	case n < 96:
		w.done["reopen all"]++
		w.closeAll()
		w.openAll()
	default:
		w.crash("crash")
	}
}

// write runs a writable transaction.
func (w *world) write() {
	s := w.stores[w.rng.IntN(2)]
	ctx, tx, err := s.TransactionContext(context.Background(), true)
	w.check(err)
	state := maps.Clone(w.state)
	for range w.rng.IntN(7) {
		w.operation(ctx, s, state)
	}
	w.compare(ctx, s, state)
	if w.rng.IntN(8) == 0 {
		w.checkReaders()
		w.compare(context.Background(), w.stores[w.rng.IntN(3)], w.state)
	}
	if w.rng.IntN(25) == 0 {
		w.crash("crash inside")
		w.check(tx.Rollback()) // of a store that is closed by now, or goes on
		return
	}
	if w.rng.IntN(4) == 0 {
		w.done["rollback"]++
		w.check(tx.Rollback())
	} else {
		w.done["commit"]++
		w.check(tx.Commit())
		w.state = state
	}
	w.compare(context.Background(), w.stores[w.rng.IntN(3)], w.state)
}

// operation does something in a writable transaction and keeps state equal.
func (w *world) operation(ctx context.Context, s *fsmeta.Store, state model) {
	key := w.name()
	switch w.rng.IntN(7) {
	case 0, 1:
		w.create(ctx, s, state, w.free(state))
	case 2, 3:
		w.commit(ctx, s, state, w.some(state, fsmeta.KindActive), w.free(state))
	case 4:
		id, err := s.Remove(ctx, key)
		if w.result("remove", err, state.remove(key)) {
			w.equal("identifier removed", id, state[key].ID)
			delete(state, key)
		}
	case 5:
		w.update(ctx, s, state, key)
	case 6:
		info, err := s.SetUsage(ctx, key, fsmeta.Usage{Inodes: 1, Size: w.rng.Int64N(1000)})
		if w.result("usage", err, state.exists(key)) {
			want := state[key]
			want.Usage, want.Updated = info.Usage, info.Updated
			w.changed(info, want, state)
		}
	}
}

func (w *world) create(ctx context.Context, s *fsmeta.Store, state model, key string) {
	parent := ""
	if w.rng.IntN(4) > 0 {
		parent = w.some(state, fsmeta.KindCommitted)
	}
	labels, usage, readonly := w.labels(), fsmeta.Usage{Size: w.rng.Int64N(2)}, w.rng.IntN(4) == 0
	active, err := s.CreateWith(ctx, key, parent, readonly, fsmeta.WithLabels(labels), fsmeta.WithUsage(usage))
	if !w.result("create", err, state.create(key, parent)) {
		return
	}
	if w.issued[active.ID] {
		w.t.Fatalf("identifier %s of %.40q was handed out before", active.ID, key)
	}
	w.issued[active.ID] = true
	info := must(s.Stat(ctx, key))
	w.changed(info, fsmeta.Info{ID: active.ID, Name: key, Parent: parent, Kind: fsmeta.KindActive, Readonly: readonly,
		Labels: labels, Created: info.Created, Updated: info.Created, Usage: usage}, state)
	want, _ := state.active(key)
	w.equal("active created", fmt.Sprint(active), fmt.Sprint(want))
}

func (w *world) commit(ctx context.Context, s *fsmeta.Store, state model, key, name string) {
	parent, labels := "", w.labels()
	opts := []fsmeta.SnapshotOption{fsmeta.WithLabels(labels)}
	if w.rng.IntN(3) == 0 {
		parent = w.some(state, fsmeta.KindCommitted)
		if state[parent].Kind != fsmeta.KindCommitted && (state[parent].Name == "" || state[key].Parent != "") {
			parent = "" // of two errors either may come
		}
		opts = append(opts, fsmeta.WithParent(parent))
	}
	id, err := s.CommitWith(ctx, key, name, opts...)
	if !w.result("commit", err, state.commit(key, name, parent)) {
		return
	}
	info, want := must(s.Stat(ctx, name)), state[key]
	want.Name, want.Kind, want.Readonly, want.Labels = name, fsmeta.KindCommitted, true, labels
	want.Created, want.Updated = info.Created, info.Created
	if parent != "" {
		want.Parent = parent
	}
	w.equal("identifier committed", id, want.ID)
	delete(state, key)
	w.changed(info, want, state)
}

func (w *world) update(ctx context.Context, s *fsmeta.Store, state model, key string) {
	given, want := w.labels(), state[key]
	var fields []string
	if w.rng.IntN(2) == 0 {
		want.Labels = given
	} else {
		fields = []string{"labels.one"}
		want.Labels = maps.Clone(want.Labels)
		delete(want.Labels, "one")
		if value, ok := given["one"]; ok {
			if want.Labels == nil {
				want.Labels = map[string]string{}
			}
			want.Labels["one"] = value
		}
		if len(want.Labels) == 0 {
			want.Labels = nil
		}
	}
	info, err := s.Update(ctx, fsmeta.Info{Name: key, Labels: given}, fields...)
	if w.result("update", err, state.exists(key)) {
		want.Updated = info.Updated
		w.changed(info, want, state)
	}
}

// changed takes over into state what the store says that it is now.
func (w *world) changed(got, want fsmeta.Info, state model) {
	w.equal("changed", got, want)
	if got.Updated.Before(got.Created) {
		w.t.Fatalf("%+v was updated before it was created", got)
	}
	state[got.Name] = got
}

// result requires that err is the one predicted, and returns whether it is nil.
func (w *world) result(operation string, err, want error) bool {
	if !errors.Is(err, want) {
		w.t.Fatalf("%s: got error %v, want %v", operation, err, want)
	}
	if err != nil {
		w.done[operation+" fails"]++
		return false
	}
	w.done[operation+" ok"]++
	return true
}

func (w *world) name() string {
	if w.rng.IntN(50) == 0 {
		return ""
	}
	return modelNames[w.rng.IntN(len(modelNames))]
}

// some returns the name of a snapshot of that kind, mostly.
func (w *world) some(state model, kind fsmeta.Kind) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(state)) {
		if state[name].Kind == kind {
			names = append(names, name)
		}
	}
	if len(names) == 0 || w.rng.IntN(4) == 0 {
		return w.name()
	}
	return names[w.rng.IntN(len(names))]
}

// free returns a name that there is not, mostly.
func (w *world) free(state model) string {
	name := w.name()
	for range 3 {
		if state[name].Name != "" {
			name = w.name()
		}
	}
	return name
}

func (w *world) labels() map[string]string {
	return []map[string]string{nil, {"one": "1"}, {"one": "2", "two": ""}, {"a.b/c": "x\x00\n"}}[w.rng.IntN(4)]
}

func (w *world) beginReader() {
	store := w.rng.IntN(3)
	ctx, tx, err := w.stores[store].TransactionContext(context.Background(), false)
	w.check(err)
	w.readers = append(w.readers, reader{store, ctx, tx, w.state})
	if len(w.readers) > 6 {
		i := w.rng.IntN(len(w.readers))
		w.check(w.readers[i].tx.Commit())
		w.readers = slices.Delete(w.readers, i, i+1)
	}
}

// checkReaders requires that old readers see what they always saw, all of it or
// only some names, so that not every reader has read everything from the start.
func (w *world) checkReaders() {
	for _, r := range w.readers {
		w.done["old reader"]++
		s := w.stores[r.store]
		if w.rng.IntN(2) == 0 {
			w.compare(r.ctx, s, r.state)
			continue
		}
		w.single(r.ctx, s, r.state, w.name())
	}
}

func (w *world) endReaders(store int) {
	w.readers = slices.DeleteFunc(w.readers, func(r reader) bool {
		if r.store != store {
			return false
		}
		w.check(r.tx.Rollback())
		return true
	})
}

func (w *world) reopen() {
	w.done["reopen"]++
	i := w.rng.IntN(3)
	w.endReaders(i)
	w.check(w.stores[i].Close())
	var opts []fsmeta.Option
	if i == 2 {
		opts = append(opts, fsmeta.ReadOnly())
	}
	w.stores[i] = must(fsmeta.Open(w.dir, opts...))
	w.compare(context.Background(), w.stores[i], w.state)
}

// crash opens a copy of the directory, as it would be left by a kill. In half of
// the cases the copy is what goes on.
func (w *world) crash(name string) {
	w.done[name]++
	dir := filepath.Join(w.t.TempDir(), "store")
	w.check(copyStore(w.dir, dir))
	readonly := must(fsmeta.Open(dir, fsmeta.ReadOnly()))
	w.compare(context.Background(), readonly, w.state)
	w.check(readonly.Close())
	if w.rng.IntN(2) == 0 {
		w.closeAll()
		w.dir = dir
		w.openAll()
		return
	}
	killed := must(fsmeta.Open(dir))
	w.compare(context.Background(), killed, w.state)
	w.check(killed.WithTransaction(context.Background(), true, func(ctx context.Context) error {
		w.compare(ctx, killed, w.state)
		active, err := killed.CreateActive(ctx, "after the crash", "", false)
		if w.issued[active.ID] {
			w.t.Fatalf("identifier %s was handed out before the crash", active.ID)
		}
		return err
	}))
	w.check(killed.Close())
}

// copyStore copies a store's directory, but for what vanishes meanwhile.
func copyStore(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreVanished(err)
		}
		target := to + strings.TrimPrefix(path, from)
		switch {
		case entry.IsDir():
			return os.Mkdir(target, 0o700)
		case entry.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return ignoreVanished(err)
			}
			return os.Symlink(link, target)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return ignoreVanished(err)
		}
		if err := os.WriteFile(target, bytes.TrimRight(data, "\x00"), 0o600); err != nil {
			return err
		}
		return os.Truncate(target, int64(len(data))) // NUL bytes again, but quicker
	})
}

func ignoreVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// compare requires that the store, in the transaction of ctx or outside one, is
// as the model says, whichever way it is read.
func (w *world) compare(ctx context.Context, s *fsmeta.Store, state model) {
	w.t.Helper()
	if w.rng.IntN(2) == 0 { // before the walk, which reads everything
		w.single(ctx, s, state, w.name())
	}
	want := []fsmeta.Info{}
	ids := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(state)) {
		want = append(want, state[name])
		ids[state[name].ID] = name
	}
	got := []fsmeta.Info{}
	w.check(s.Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
		got = append(got, info)
		return nil
	}))
	w.equal("Walk", got, want)
	gotIDs, err := s.IDs(ctx)
	w.check(err)
	w.equal("IDs", gotIDs, ids)
	for range 3 {
		w.single(ctx, s, state, w.name())
	}
}

// single requires that what is read of one name is as the model says.
func (w *world) single(ctx context.Context, s *fsmeta.Store, state model, name string) {
	w.t.Helper()
	info, err := s.Stat(ctx, name)
	if want := state.exists(name); !errors.Is(err, want) {
		w.t.Fatalf("Stat %.40q: got error %v, want %v", name, err, want)
	}
	w.equal("Stat", info, state[name])
	active, err := s.GetActive(ctx, name)
	want, wantErr := state.active(name)
	if !errors.Is(err, wantErr) {
		w.t.Fatalf("GetActive %.40q: got error %v, want %v", name, err, wantErr)
	}
	w.equal("GetActive", fmt.Sprint(active), fmt.Sprint(want))
	if info.ID != "" {
		w.equal("NameOf", must(s.NameOf(ctx, info.ID)), name)
	}
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) equal(what string, got, want any) {
	w.t.Helper()
	if !reflect.DeepEqual(got, want) {
		w.t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// must returns v. It is for calls after an error of which the test makes no sense.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
