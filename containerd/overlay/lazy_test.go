//go:build linux

package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// lazy is a snapshotter as those that pull content when it is needed: asked to prepare
// a layer that it can get, it commits that within Prepare, and says that it exists.
type lazy struct {
	snapshots.Snapshotter
	remote map[string]bool // the references that it can get
}

func (l *lazy) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	var base snapshots.Info
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return nil, err
		}
	}
	mounts, err = l.Snapshotter.Prepare(ctx, key, parent, opts...)
	target := base.Labels["containerd.io/snapshot.ref"]
	if err != nil || !l.remote[target] {
		return mounts, err
	}
	if err := os.WriteFile(filepath.Join(upperOf(mounts), target), nil, 0o600); err != nil {
		return nil, err
	}
	err = l.Commit(ctx, target, key, append(opts, snapshots.WithLabels(base.Labels))...)
	if errdefs.IsAlreadyExists(err) { // another call has got it
		if err := l.Remove(ctx, key); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("target snapshot %q: %w", target, errdefs.ErrAlreadyExists)
}

// Cleanup is hidden by the embedded interface.
func (l *lazy) Cleanup(ctx context.Context) error {
	return l.Snapshotter.(snapshots.Cleaner).Cleanup(ctx)
}

// openLazy returns a lazy snapshotter, and containerd's metadata over it.
func openLazy(t *testing.T, remote ...string) (*lazy, *metadata.DB) {
	t.Helper()
	backend := &lazy{openOurs(t).Snapshotter, map[string]bool{}}
	for _, target := range remote {
		backend.remote[target] = true
	}
	file, err := bolt.Open(filepath.Join(t.TempDir(), "metadata.db"), 0o600, nil)
	must(t, err)
	t.Cleanup(func() { must(t, file.Close()) })
	db := metadata.NewDB(file, nil, map[string]snapshots.Snapshotter{"lazy": backend})
	must(t, db.Init(t.Context()))
	return backend, db
}

func withRef(target string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": target})
}

// pull does with a layer what containerd does: it asks for it, and unpacks it where it
// isn't there. It reports whether it was there.
func pull(ctx context.Context, s snapshots.Snapshotter, target, parent string) (there bool, err error) {
	_, err = s.Prepare(ctx, "extract "+target, parent, withRef(target))
	if errdefs.IsAlreadyExists(err) {
		_, err = s.Stat(ctx, target)
		return true, err
	}
	if err != nil {
		return false, err
	}
	return false, s.Commit(ctx, target, "extract "+target)
}

// Layers that are committed within Prepare are adopted by containerd's metadata, one on
// the other, with one that it unpacks itself on top, and a container on all of them.
func TestLazyLayersAreAdopted(t *testing.T) {
	backend, db := openLazy(t, "one", "two")
	ctx := namespaces.WithNamespace(t.Context(), "first")
	s := db.Snapshotter("lazy")
	parent := ""
	for _, target := range []string{"one", "two", "three"} {
		there, err := pull(ctx, s, target, parent)
		must(t, err)
		if there != backend.remote[target] {
			t.Errorf("%s was there: %t", target, there)
		}
		info, err := s.Stat(ctx, target)
		must(t, err)
		if info.Kind != snapshots.KindCommitted || info.Parent != parent {
			t.Errorf("%s is %v on %q, want it committed on %q", target, info.Kind, info.Parent, parent)
		}
		if _, err := s.Stat(ctx, "extract "+target); !errdefs.IsNotFound(err) {
			t.Errorf("the key of %s is still there: %v", target, err)
		}
		parent = target
	}
	mounts, err := s.Prepare(ctx, "container", "three")
	must(t, err)
	if got := tree(t, mountAt(t, mounts)); len(got) != 2 {
		t.Errorf("the container shows %v, want what both lazy layers hold", got)
	}
}

// A layer that is there already is found without a second one, by the namespace that has
// it and by another, which adopts the same.
func TestLazyLayersAreAdoptedOnce(t *testing.T) {
	backend, db := openLazy(t, "one", "two")
	s := db.Snapshotter("lazy")
	for _, namespace := range []string{"first", "first", "second"} {
		ctx := namespaces.WithNamespace(t.Context(), namespace)
		for _, layer := range [][2]string{{"one", ""}, {"two", "one"}} {
			there, err := pull(ctx, s, layer[0], layer[1])
			must(t, err)
			if !there {
				t.Errorf("%s was not there in %s", layer[0], namespace)
			}
		}
	}
	if got := (side{Snapshotter: backend}).infos(t); len(got) != 2 || got[0].Name != "one" || got[1].Parent != "one" {
		t.Errorf("the backend has %v, want one, and two on it", got)
	}
}

// Lazy layers that nothing refers to go with containerd's garbage collection.
func TestLazyLayersAreCollected(t *testing.T) {
	backend, db := openLazy(t, "one", "two")
	ctx := namespaces.WithNamespace(t.Context(), "first")
	for _, layer := range [][2]string{{"one", ""}, {"two", "one"}} {
		_, err := pull(ctx, db.Snapshotter("lazy"), layer[0], layer[1])
		must(t, err)
	}
	_, err := db.GarbageCollect(ctx)
	must(t, err)
	if got := (side{Snapshotter: backend}).infos(t); len(got) > 0 {
		t.Errorf("the backend has %v still", got)
	}
}

// Walk finds a layer by the reference in its labels and by its parent, an empty one too,
// which is how containerd looks for what a lazy snapshotter has made.
func TestWalkByReference(t *testing.T) {
	p := openPair(t, config{})
	p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error {
		return errors.Join(
			commitWithRef(ctx, s, "one", "", "X"), commitWithRef(ctx, s, "two", "one", "X"),
			commitWithRef(ctx, s, "three", "", "Y"), commitWithRef(ctx, s, "sha256:4f53", "two", "sha256:4f53"),
			commitLayer(ctx, s, "four", ""), commitLayer(ctx, s, "five", "sha256:4f53"),
			prepare("active", "", withRef("X")).call(ctx, s),
		)
	})
	label := fmt.Sprintf("labels.%q", "containerd.io/snapshot.ref")
	for _, test := range []struct {
		filters []string
		want    []string
	}{
		{[]string{label + `==X,parent==""`}, []string{"active", "one"}},
		{[]string{label + `==X,parent=="",kind==committed`}, []string{"one"}},
		{[]string{label + `==X,parent==one`}, []string{"two"}},
		{[]string{label + `==X`}, []string{"active", "one", "two"}},
		{[]string{label + `==sha256:4f53,parent=="two"`}, []string{"sha256:4f53"}},
		{[]string{`parent=="sha256:4f53"`}, []string{"five"}},
		{[]string{label}, []string{"active", "one", "sha256:4f53", "three", "two"}},
		{[]string{label + "==Y", label + "==X,parent==one"}, []string{"three", "two"}},
		{[]string{label + `==Z,parent==""`}, nil},
		{[]string{label + `==X,parent==missing`}, nil},
		{[]string{`parent==""`}, []string{"active", "four", "one", "three"}},
		{[]string{label + `!=X,parent==""`}, []string{"four", "three"}},
		{[]string{label + `~=sha256:.*`}, []string{"sha256:4f53"}},
	} {
		t.Run(fmt.Sprint(test.filters), func(t *testing.T) {
			compare(t, p, "Walk", func(s side) []snapshots.Info { return s.infos(t, test.filters...) })
			var names []string
			for _, info := range p.ours.infos(t, test.filters...) {
				names = append(names, info.Name)
			}
			if fmt.Sprint(names) != fmt.Sprint(test.want) {
				t.Errorf("found are %q, want %q", names, test.want)
			}
		})
	}
}

// commitWithRef makes a committed layer with a reference.
func commitWithRef(ctx context.Context, s snapshots.Snapshotter, name, parent, target string) error {
	if _, err := s.Prepare(ctx, "making "+name, parent, withRef(target)); err != nil {
		return err
	}
	return s.Commit(ctx, name, "making "+name, withRef(target))
}
