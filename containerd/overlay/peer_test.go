//go:build linux

package overlay_test

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	peer "github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// side is one of two snapshotters that get the same calls: ours, or containerd's.
type side struct {
	snapshots.Snapshotter
	root string
}

// pair is both of them.
type pair struct{ ours, theirs side }

// config is what both are opened with.
type config struct {
	remapIDs      bool
	upperdirLabel bool
	slowChown     bool
	options       []string
}

// openPair opens both in new root directories, until the test ends.
func openPair(t *testing.T, c config) pair {
	t.Helper()
	requireRoot(t)
	needNewest(t)
	ours := []overlay.Opt{overlay.WithMountOptions(c.options)}
	theirs := []peer.Opt{peer.WithMountOptions(c.options)}
	if c.remapIDs {
		ours, theirs = append(ours, overlay.WithRemapIDs), append(theirs, peer.WithRemapIDs)
	}
	if c.slowChown {
		ours, theirs = append(ours, overlay.WithSlowChown), append(theirs, peer.WithSlowChown)
	}
	if c.upperdirLabel {
		ours, theirs = append(ours, overlay.WithUpperdirLabel), append(theirs, peer.WithUpperdirLabel)
	}
	dir, err := os.MkdirTemp("", "overlay") // a test's own may have a comma in its path, which is refused
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	open := func(name string, open func(root string) (snapshots.Snapshotter, error)) side {
		root := filepath.Join(dir, name)
		s, err := open(root)
		must(t, err)
		t.Cleanup(func() { must(t, s.Close()) })
		return side{s, root}
	}
	return pair{
		open("ours", func(root string) (snapshots.Snapshotter, error) { return overlay.NewSnapshotter(root, ours...) }),
		open("theirs", func(root string) (snapshots.Snapshotter, error) { return peer.NewSnapshotter(root, theirs...) }),
	}
}

// openOurs opens ours alone.
func openOurs(t *testing.T, opts ...overlay.Opt) side {
	t.Helper()
	requireRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	s, err := overlay.NewSnapshotter(root, opts...)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return side{s, root}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// each calls fn with both.
func (p pair) each(fn func(side)) {
	fn(p.ours)
	fn(p.theirs)
}

// compare calls fn with both and reports a difference in what it returns.
func compare[T any](t *testing.T, p pair, what string, fn func(side) T) {
	t.Helper()
	if diff := gocmp.Diff(fn(p.theirs), fn(p.ours), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s is not containerd's (-theirs +ours):\n%s", what, diff)
	}
}

// both makes a call with both, which must succeed.
func (p pair) both(t *testing.T, call func(context.Context, snapshots.Snapshotter) error) {
	t.Helper()
	p.each(func(s side) {
		t.Helper()
		must(t, call(t.Context(), s))
	})
}

// layers makes a chain of that many committed layers, called layer1 and so on.
func (p pair) layers(t *testing.T, n int) (top string) {
	t.Helper()
	for i := range n {
		name := "layer" + strconv.Itoa(i+1)
		p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error { return commitLayer(ctx, s, name, top) })
		top = name
	}
	return top
}

// commitLayer makes an empty committed layer.
func commitLayer(ctx context.Context, s snapshots.Snapshotter, name, parent string) error {
	if _, err := s.Prepare(ctx, "making "+name, parent); err != nil {
		return err
	}
	return s.Commit(ctx, name, "making "+name)
}

var directory = regexp.MustCompile(`ROOT/snapshots/\d+`)

// plain returns what takes out of a text what differs between two roots: their paths, and
// identifiers, of which ours have gaps and only the order counts.
func (s side) plain(t *testing.T) func(text string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
	must(t, err)
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	return func(text string) string {
		return directory.ReplaceAllStringFunc(strings.ReplaceAll(text, s.root, "ROOT"), func(dir string) string {
			return "ROOT/snapshots/#" + strconv.Itoa(slices.Index(ids, filepath.Base(dir)))
		})
	}
}

// normal returns mounts without what differs between two roots.
func (s side) normal(t *testing.T, mounts []mount.Mount) []mount.Mount {
	t.Helper()
	plain := s.plain(t)
	var normal []mount.Mount
	for _, m := range mounts {
		m.Source, m.Options = plain(m.Source), slices.Clone(m.Options)
		for i, o := range m.Options {
			m.Options[i] = plain(o)
		}
		normal = append(normal, m)
	}
	return normal
}

// option returns the value of an option of an overlay mount.
func option(m mount.Mount, name string) string {
	for _, o := range m.Options {
		if value, ok := strings.CutPrefix(o, name+"="); ok {
			return value
		}
	}
	return ""
}

// upperOf returns where what is written to a mounted active snapshot goes.
func upperOf(mounts []mount.Mount) string {
	return cmp.Or(option(mounts[0], "upperdir"), mounts[0].Source)
}

// class names the class of an error, of package errdefs.
func class(err error) string {
	if err == nil {
		return "none"
	}
	for name, is := range map[string]func(error) bool{
		"not found":           errdefs.IsNotFound,
		"already exists":      errdefs.IsAlreadyExists,
		"failed precondition": errdefs.IsFailedPrecondition,
		"invalid argument":    errdefs.IsInvalidArgument,
		"unavailable":         errdefs.IsUnavailable,
		"not implemented":     errdefs.IsNotImplemented,
	} {
		if is(err) {
			return name
		}
	}
	return "some other"
}

// infos returns all that a snapshotter knows, without times.
func (s side) infos(t *testing.T, filters ...string) []snapshots.Info {
	t.Helper()
	var infos []snapshots.Info
	err := s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		infos = append(infos, timeless(info))
		return nil
	}, filters...)
	if !errdefs.IsNotFound(err) { // where there was never a snapshot
		must(t, err)
	}
	slices.SortFunc(infos, func(a, b snapshots.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

// timeless returns an info without times.
func timeless(info snapshots.Info) snapshots.Info {
	info.Created, info.Updated = time.Time{}, time.Time{}
	info.Labels = maps.Clone(info.Labels)
	return info
}
