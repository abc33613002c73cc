package fsmeta_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// A creation and a commit set both times, a change only Updated.
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
		{"update to the same", false, func(ctx context.Context) string {
			must(s.Update(ctx, fsmeta.Info{Name: "key"}, "labels.none"))
			return "key"
		}},
		{"the same usage", false, func(ctx context.Context) string {
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

// Labels and usage are stored as given. A commit keeps the usage and no labels.
func TestLabelsAndUsage(t *testing.T) {
	s := newStore(t)
	labels := map[string]string{"containerd.io/gc.root": "now", "empty": "", "ä": "ö\n\x00"}
	usage := fsmeta.Usage{Inodes: 12, Size: 1 << 40}
	get := func(name string) fsmeta.Info { return must(s.Stat(bg, name)) }

	s.write(func(ctx context.Context) {
		for _, key := range []string{"a", "b"} {
			must(s.CreateWith(ctx, key, "", false, fsmeta.WithLabels(labels), fsmeta.WithUsage(usage)))
		}
	})
	equal(t, "labels", get("a").Labels, labels)
	equal(t, "usage", get("a").Usage, usage)

	s.write(func(ctx context.Context) { must(s.Commit(ctx, "a", "A")) })
	equal(t, "labels after commit", get("A").Labels, nil)
	equal(t, "usage after commit", get("A").Usage, usage)

	other := fsmeta.Usage{Inodes: 1}
	s.write(func(ctx context.Context) {
		must(s.CommitWith(ctx, "b", "B", fsmeta.WithLabels(map[string]string{"x": "y"}), fsmeta.WithUsage(other)))
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

// Update changes the labels that its field paths name, all of them by default.
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
					must(s.CreateWith(ctx, key, "base", i == 1, fsmeta.WithLabels(given), fsmeta.WithUsage(fsmeta.Usage{Size: 7})))
				}
				must(s.CommitWith(ctx, "committed", "name", fsmeta.WithLabels(given)))
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

// Changing values that were given or returned changes nothing in the store.
func TestReturnedValuesAreCopies(t *testing.T) {
	s := newStore(t)
	s.build("base; top < base")
	given := map[string]string{"a": "1"}
	option := fsmeta.WithLabels(given)
	given["a"] = "spoilt before use"
	s.write(func(ctx context.Context) {
		must(s.CreateWith(ctx, "work", "top", false, option))
		given["a"] = "spoilt after use"
		update := map[string]string{"b": "2"}
		must(s.CreateWith(ctx, "other", "top", false))
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

// spoil changes all values that the reads of a snapshot return.
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
