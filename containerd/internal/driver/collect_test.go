//go:build linux

package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
)

// node is containerd's metadata, with its garbage collection, over a snapshotter, as on a
// machine that is started several times.
type node struct {
	t      *testing.T
	ctx    context.Context
	caught *lines
	root   string
	config Config
	file   *bolt.DB
	s      *Snapshotter          // the one below
	db     *metadata.DB          // above it
	sn     snapshots.Snapshotter // as containerd's services use it
	dirs   map[string]string     // the directories of snapshots, by their names above
}

func newNode(t *testing.T, config Config) *node {
	t.Helper()
	n := &node{t: t, config: config, root: filepath.Join(t.TempDir(), "root"), dirs: map[string]string{}}
	var err error
	n.file, err = bolt.Open(filepath.Join(t.TempDir(), "metadata.db"), 0o600, nil)
	must(t, err)
	n.start()
	t.Cleanup(func() { n.stop(); must(t, n.file.Close()) })
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.ctx, n.caught = withLog(namespaces.WithNamespace(n.t.Context(), "test"))
	var err error
	n.s, err = Open(n.root, &fake{}, n.config)
	must(n.t, err)
	n.db = metadata.NewDB(n.file, nil, map[string]snapshots.Snapshotter{"fake": n.s})
	must(n.t, n.db.Init(n.ctx))
	n.sn = n.db.Snapshotter("fake")
}

func (n *node) stop() { must(n.t, n.s.Close()) }

// used keeps a snapshot, and those that it stands on, from being collected.
var used = snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})

func (n *node) prepare(key, parent string) {
	n.t.Helper()
	mounts, err := n.sn.Prepare(n.ctx, key, parent, used)
	must(n.t, err)
	must(n.t, os.WriteFile(filepath.Join(mounts[0].Source, "fs", "file"), []byte(key), 0o600))
	n.dirs[key] = filepath.Base(mounts[0].Source)
}

// layers makes committed snapshots, each on the one before.
func (n *node) layers(names ...string) {
	n.t.Helper()
	parent := ""
	for _, name := range names {
		n.prepare("making "+name, parent)
		must(n.t, n.sn.Commit(n.ctx, name, "making "+name, used))
		n.dirs[name] = n.dirs["making "+name]
		parent = name
	}
}

// drop ends the use of snapshots, as removing containers and images does, and collects garbage.
// It fails where the collection does not come to its end.
func (n *node) drop(keys ...string) {
	n.t.Helper()
	for _, key := range keys {
		if err := n.sn.Remove(n.ctx, key); err != nil {
			n.t.Errorf("remove %s: %v", key, err)
		}
	}
	_, err := n.db.GarbageCollect(n.ctx)
	must(n.t, err)
	if strings.Contains(n.caught.String(), "garbage collection failed") {
		n.t.Fatalf("the collection has not come to its end:\n%s", n.caught)
	}
}

// wantListed checks what containerd lists, as CRI does for its statistics.
func (n *node) wantListed(want ...string) {
	n.t.Helper()
	var got []string
	must(n.t, n.sn.Walk(n.ctx, func(_ context.Context, info snapshots.Info) error {
		got = append(got, info.Name)
		return nil
	}))
	if !slices.Equal(got, want) {
		n.t.Errorf("containerd lists %q, want %q", got, want)
	}
}

// entry returns the directory of the snapshot key in the store.
func (n *node) entry(key string) string {
	n.t.Helper()
	found, err := filepath.Glob(filepath.Join(n.root, metaDir, "snapshots", "test%2F*%2F"+key))
	must(n.t, err)
	if len(found) != 1 {
		n.t.Fatalf("%s has the directories %q in the store", key, found)
	}
	return found[0]
}

// damage makes it impossible to read a snapshot of the store, and even its identifier, while nothing runs.
func (n *node) damage(key string) {
	n.t.Helper()
	entry := n.entry(key)
	n.stop()
	must(n.t, os.WriteFile(filepath.Join(entry, "metadata.json"), []byte("{}"), 0o600))
	n.start()
}

func (n *node) repair(options ...fsmeta.RepairOption) {
	n.t.Helper()
	n.stop()
	_, err := fsmeta.Repair(n.t.Context(), filepath.Join(n.root, metaDir), nil, options...)
	must(n.t, err)
	n.start()
}

// wantContent checks that the content of just these snapshots is there.
func (n *node) wantContent(when string, keys ...string) {
	n.t.Helper()
	want := []string{}
	for _, key := range keys {
		want = append(want, n.dirs[key])
	}
	slices.Sort(want)
	if got := directoriesOf(n.t, n.s); !slices.Equal(got, want) {
		n.t.Errorf("%s: there are the directories %q, want %q, those of %q; all are %v", when, got, want, keys, n.dirs)
	}
}

// Whichever snapshot is damaged, layers can be unpacked, and what containerd removes goes, from the disk too;
// after a repair as well, and then with what the damaged one held. Its own content
// stays until a person has moved away what the repair has set aside.
func TestDamageStaysLocal(t *testing.T) {
	for _, async := range []bool{false, true} {
		for damaged, held := range map[string][]string{"base": nil, "top": {"base"}, "container": {"base", "top"}} {
			t.Run(fmt.Sprintf("%s/async=%t", damaged, async), func(t *testing.T) {
				n := newNode(t, Config{AsyncRemove: async})
				n.layers("base", "top")
				n.prepare("container", "top")
				n.layers("other base", "other")
				n.damage(damaged)
				stay := append([]string{damaged}, held...)
				n.wantListed(slices.DeleteFunc([]string{"base", "container", "other", "other base", "top"}, func(key string) bool { return key == damaged })...)

				for range 2 {
					n.layers("new base", "new")
					n.prepare("running", "new")
					n.drop("running", "new", "new base")
				}
				n.drop("container", "top", "base", "other", "other base")
				n.wantContent("with the damage", stay...)
				if state := n.s.State(); state.Damaged != 1 || state.Missing || state.Kept != 1 || state.KeptBytes == 0 || state.Orphaned != 0 {
					t.Errorf("the state is %+v, want one that is damaged, and its content kept", state)
				}
				if got := strings.Count(n.caught.String(), "what is served leaves this out"); got != 1 {
					t.Errorf("the damage was logged %d times:\n%s", got, n.caught)
				}

				n.repair()
				n.layers("new")
				n.drop("new")
				n.wantContent("after the repair", damaged)
				must(t, os.RemoveAll(filepath.Join(n.root, metaDir, "damaged")))
				n.layers("new")
				n.drop("new")
				n.wantContent("when nothing is set aside any more")
			})
		}
	}
}

// While a snapshot is missing, committed ones can't be removed, as it may stand on them. All else goes on.
func TestMissingSnapshotStaysLocal(t *testing.T) {
	n := newNode(t, Config{AsyncRemove: true})
	n.layers("base", "lost")
	n.layers("other")
	n.prepare("running", "other")
	n.prepare("removed", "other")
	entry := n.entry("lost")
	n.stop()
	must(t, os.Rename(entry, filepath.Join(t.TempDir(), "lost")))
	n.start()

	n.layers("new")
	n.drop("removed", "running", "new", "other")
	n.wantContent("while it is missing", "base", "lost", "new", "other")
	if state := n.s.State(); !state.Missing || state.Damaged != 0 || state.Kept != 1 {
		t.Errorf("the state is %+v, want that snapshots are missing", state)
	}
	n.repair(fsmeta.AcceptTree())
	n.prepare("another", "base")
	n.drop("another")
	n.wantContent("when it is given up", "base")
}

// Neither of two snapshots with one identifier can be removed, and no content that may be theirs.
func TestSharedIdentifierStaysLocal(t *testing.T) {
	n := newNode(t, Config{})
	n.layers("one")
	n.layers("two")
	n.layers("other")
	file := filepath.Join(n.entry("two"), "metadata.json")
	n.stop()
	data, err := os.ReadFile(file)
	must(t, err)
	first, rest, _ := strings.Cut(string(data), "\n") // the second line is the checksum
	_, rest, _ = strings.Cut(rest, "\n")
	edited := strings.Replace(first+"\n"+rest, `"id": "`+n.dirs["two"]+`"`, `"id": "`+n.dirs["one"]+`"`, 1)
	must(t, os.WriteFile(file, []byte(edited), 0o600))
	n.start()

	n.drop("one", "two", "other")
	n.wantContent("while it is shared", "one", "two")
	if state := n.s.State(); state.Damaged != 1 || state.Kept != 1 {
		t.Errorf("the state is %+v, want one damaged", state)
	}
}

// A damaged journal says nothing reliable of any snapshot: that ends a walk and a collection.
func TestDamagedJournalIsNotLocal(t *testing.T) {
	s, content := openFake(t, Config{})
	layer(t, s, "layer", "", 1)
	must(t, s.Close())
	file := filepath.Join(s.root, metaDir, "journal")
	must(t, os.WriteFile(file, []byte("{}\n{}\n"), 0o600))
	s, err := Open(s.root, content, Config{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	seen := 0
	err = s.Walk(t.Context(), func(context.Context, snapshots.Info) error { seen++; return nil })
	if !errors.Is(err, fsmeta.ErrDamaged) || seen != 1 {
		t.Errorf("Walk visits %d snapshots and says %v, want one and ErrDamaged", seen, err)
	}
	if err := s.Remove(t.Context(), "layer"); !errors.Is(err, fsmeta.ErrDamaged) || errdefs.IsFailedPrecondition(err) {
		t.Errorf("Remove says %v, want ErrDamaged, and no failed precondition", err)
	}
	if err := s.Cleanup(t.Context()); !errors.Is(err, fsmeta.ErrDamaged) {
		t.Errorf("Cleanup says %v, want ErrDamaged", err)
	}
}

// A walk visits what stands on a damaged snapshot without a parent, with filters too; Stat says
// the parent. fn's errors are returned as they are, damage among them.
func TestWalkBesideDamage(t *testing.T) {
	s, content := openFake(t, Config{})
	layer(t, s, "base", "", 1)
	layer(t, s, "middle", "base", 1)
	layer(t, s, "top", "middle", 1)
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(s.root, metaDir, "snapshots", "base", "metadata.json"), nil, 0o600))
	s, err := Open(s.root, content, Config{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })

	for want, filters := range map[string][]string{
		"middle on , top on middle, ": nil,
		"middle on , ":                {"parent==base"},
		"top on middle, ":             {"parent==middle"},
		"":                            {"name==base"},
	} {
		got := ""
		must(t, s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
			got += info.Name + " on " + info.Parent + ", "
			return nil
		}, filters...))
		if got != want {
			t.Errorf("with the filters %q: %q, want %q", filters, got, want)
		}
	}
	info, err := s.Stat(t.Context(), "middle")
	if err != nil || info.Parent != "base" {
		t.Errorf("Stat says that it stands on %q, %v, want base", info.Parent, err)
	}
	_, damage := s.Stat(t.Context(), "base")
	if !errdefs.IsNotFound(damage) || !errors.Is(damage, fsmeta.ErrDamaged) {
		t.Errorf("Stat of the damaged one says %v, want not found and ErrDamaged", damage)
	}
	if err := errgrpc.ToNative(errgrpc.ToGRPC(damage)); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a client gets %v, want not found, and why", err)
	}
	if err := s.Walk(t.Context(), func(context.Context, snapshots.Info) error { return damage }); !errors.Is(err, fsmeta.ErrDamaged) {
		t.Errorf("a walk with a function that fails says %v, want its error", err)
	}
	if err := s.Walk(t.Context(), func(context.Context, snapshots.Info) error { return nil }, "no filter=="); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a walk with a bad filter says %v", err)
	}
}

// What can't be removed because of damage is a failed precondition, for a client of the daemon
// too, and says what is damaged.
func TestRemoveBesideDamage(t *testing.T) {
	s, content := openFake(t, Config{})
	layer(t, s, "layer", "", 1)
	layer(t, s, "damaged", "", 1)
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(s.root, metaDir, "snapshots", "damaged", "metadata.json"), nil, 0o600))
	s, err := Open(s.root, content, Config{})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	err = s.Remove(t.Context(), "damaged")
	if !errdefs.IsFailedPrecondition(err) || !errors.Is(err, fsmeta.ErrDamaged) {
		t.Errorf("Remove says %v, want a failed precondition and ErrDamaged", err)
	}
	if err := errgrpc.ToNative(errgrpc.ToGRPC(err)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a client gets %v, want a failed precondition", err)
	}
	must(t, s.Remove(t.Context(), "layer"))
}
