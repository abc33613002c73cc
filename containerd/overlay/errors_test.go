//go:build linux

package overlay_test

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	gocmp "github.com/google/go-cmp/cmp"
)

// misuse is a call that is wrong, or nearly, on what fill has made.
type misuse struct {
	name string
	call func(context.Context, snapshots.Snapshotter) error
}

func prepare(key, parent string, opts ...snapshots.Opt) misuse {
	return misuse{"Prepare " + key + " on " + parent, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.Prepare(ctx, key, parent, opts...)
		return err
	}}
}

func view(key, parent string) misuse {
	return misuse{"View " + key + " on " + parent, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.View(ctx, key, parent)
		return err
	}}
}

func commit(name, key string, opts ...snapshots.Opt) misuse {
	return misuse{"Commit " + key + " to " + name, func(ctx context.Context, s snapshots.Snapshotter) error {
		return s.Commit(ctx, name, key, opts...)
	}}
}

func remove(key string) misuse {
	return misuse{"Remove " + key, func(ctx context.Context, s snapshots.Snapshotter) error { return s.Remove(ctx, key) }}
}

func mounts(key string) misuse {
	return misuse{"Mounts " + key, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.Mounts(ctx, key)
		return err
	}}
}

func usage(key string) misuse {
	return misuse{"Usage " + key, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.Usage(ctx, key)
		return err
	}}
}

func stat(key string) misuse {
	return misuse{"Stat " + key, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.Stat(ctx, key)
		return err
	}}
}

func update(key string, fields ...string) misuse {
	return misuse{"Update " + key, func(ctx context.Context, s snapshots.Snapshotter) error {
		_, err := s.Update(ctx, snapshots.Info{Name: key, Labels: map[string]string{"a": "b"}}, fields...)
		return err
	}}
}

func walk(filters ...string) misuse {
	return misuse{"Walk", func(ctx context.Context, s snapshots.Snapshotter) error {
		return s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }, filters...)
	}}
}

// errOption is what an option says that can't be applied.
var errOption = errors.New("this option can't be applied")

func badOption(*snapshots.Info) error { return errOption }

var misuses = []misuse{
	prepare("active", ""), prepare("low", ""), prepare("view", ""), prepare("active", "low"), view("active", "low"), view("high", "low"),
	prepare("new", "missing"), view("new", "missing"), prepare("active", "missing"),
	prepare("new", "active"), prepare("new", "view"), view("new", "active"), prepare("active", "view"),
	prepare("", ""), prepare("", "low"), view("", "low"), prepare("new", "new"),
	commit("new", "view"), commit("new", "low"), commit("new", "high"), commit("new", "missing"), commit("new", ""), commit("", "active"),
	commit("low", "active"), commit("view", "active"), commit("active", "active"), commit("low", "missing"), commit("low", "view"), commit("low", "low"),
	commit("new", "active", withParent("missing")), commit("new", "active", withParent("view")),
	commit("new", "onLow", withParent("high")), commit("new", "onLow", withParent("missing")),
	remove("low"), remove("missing"), remove(""),
	mounts("missing"), mounts("low"), mounts("high"), mounts(""),
	usage("missing"), usage(""), stat("missing"), stat(""),
	update("missing"), update(""), update("active", "kind"), update("active", "labels.a", "parent"), update("missing", "kind"),
	walk("labels."), walk("nonsense=="), walk("kind==active", "=="),
}

// fill makes a snapshot of each kind: low under high, active and a view without parents,
// and an active one and a view on low.
func fill(ctx context.Context, s snapshots.Snapshotter) error {
	return errors.Join(
		commitLayer(ctx, s, "low", ""), commitLayer(ctx, s, "high", "low"),
		prepare("active", "").call(ctx, s), view("view", "").call(ctx, s),
		prepare("onLow", "low").call(ctx, s), view("viewOnLow", "low").call(ctx, s),
	)
}

// Misuse gives errors of the classes that containerd's gives, and changes nothing.
func TestErrorsAreContainerds(t *testing.T) {
	for _, m := range misuses {
		t.Run(m.name, func(t *testing.T) {
			p := openPair(t, config{})
			p.both(t, fill)
			before := p.ours.infos(t)
			compare(t, p, "the error", func(s side) string {
				err := m.call(t.Context(), s)
				if err == nil {
					t.Errorf("%s: there is no error", s.root)
				}
				return class(err)
			})
			p.each(func(s side) {
				if diff := gocmp.Diff(before, s.infos(t)); diff != "" {
					t.Errorf("%s has changed (-before +after):\n%s", s.root, diff)
				}
			})
		})
	}
}

// On a store that nothing was ever written to, errors are of containerd's classes too.
func TestErrorsOfANewStoreAreContainerds(t *testing.T) {
	p := openPair(t, config{})
	for _, m := range []misuse{
		prepare("new", "missing"), view("new", "missing"), commit("new", "missing"), remove("missing"), mounts("missing"),
		usage("missing"), stat("missing"), update("missing"), walk(), walk("kind==active"),
	} {
		compare(t, p, m.name, func(s side) string { return class(m.call(t.Context(), s)) })
	}
}

// An option that can't be applied makes the call fail with its error, and nothing else.
func TestOptionsThatFail(t *testing.T) {
	p := openPair(t, config{})
	p.both(t, fill)
	before := p.ours.infos(t)
	for _, m := range []misuse{prepare("new", "low", badOption), commit("new", "active", badOption)} {
		p.each(func(s side) {
			if err := m.call(t.Context(), s); !errors.Is(err, errOption) {
				t.Errorf("%s says %v, want %v", m.name, err, errOption)
			}
		})
	}
	compare(t, p, "what is there", func(s side) []snapshots.Info { return s.infos(t) })
	if got := p.ours.infos(t); len(got) != len(before) {
		t.Errorf("there are %d snapshots, and were %d", len(got), len(before))
	}
}
