//go:build linux

package overlay_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	peer "github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/fsmeta/fsmeta/containerd/overlay"
)

// upperdir is containerd's label.
const upperdir = "containerd.io/snapshot/overlay.upperdir"

// Each option of containerd's own package is one of this package, too.
var (
	_ = []overlay.Opt{overlay.AsynchronousRemove, overlay.WithUpperdirLabel, overlay.WithMountOptions(nil), overlay.WithMetaStore(nil), overlay.WithRemapIDs, overlay.WithSlowChown,
		func(*overlay.SnapshotterConfig) error { return nil }}
	_ = []peer.Opt{peer.AsynchronousRemove, peer.WithUpperdirLabel, peer.WithMountOptions(nil), peer.WithMetaStore(nil), peer.WithRemapIDs, peer.WithSlowChown,
		func(*peer.SnapshotterConfig) error { return nil }}
)

// Stat, Update and Walk say where the upper directory is, of snapshots of every kind, as containerd's do, with
// the option and without it.
func TestUpperdirLabel(t *testing.T) {
	for name, c := range map[string]config{"with": {upperdirLabel: true}, "without": {}} {
		t.Run(name, func(t *testing.T) {
			p := openPair(t, c)
			top := p.layers(t, 2)
			p.both(t, func(ctx context.Context, s snapshots.Snapshotter) error {
				if _, err := s.Prepare(ctx, "active", top, snapshots.WithLabels(map[string]string{"a": "b"})); err != nil {
					return err
				}
				_, err := s.View(ctx, "view", top)
				return err
			})
			for _, key := range []string{"layer1", "layer2", "active", "view"} {
				compare(t, p, "Stat of "+key, func(s side) snapshots.Info {
					info, err := s.Stat(t.Context(), key)
					must(t, err)
					checkLabel(t, s, info, c.upperdirLabel)
					return alike(t, s, info)[0]
				})
				compare(t, p, "Update of "+key, func(s side) snapshots.Info {
					info, err := s.Update(t.Context(), snapshots.Info{Name: key, Labels: map[string]string{"c": "d"}}, "labels.c")
					must(t, err)
					checkLabel(t, s, info, c.upperdirLabel)
					return alike(t, s, info)[0]
				})
			}
			compare(t, p, "Walk", func(s side) []snapshots.Info { return alike(t, s, s.infos(t)...) })
			for _, filter := range []string{`labels.a==b`, `kind==view`, `labels."` + upperdir + `"`} {
				compare(t, p, "Walk with "+filter, func(s side) []snapshots.Info { return alike(t, s, s.infos(t, filter)...) })
			}
			compare(t, p, "Stat of none", func(s side) string { _, err := s.Stat(t.Context(), "none"); return class(err) })
			compare(t, p, "Update of none", func(s side) string { _, err := s.Update(t.Context(), snapshots.Info{Name: "none"}); return class(err) })
		})
	}
}

// alike returns infos without times, and without what differs between two roots in the label.
func alike(t *testing.T, s side, infos ...snapshots.Info) []snapshots.Info {
	t.Helper()
	plain := s.plain(t)
	for i := range infos {
		infos[i] = timeless(infos[i])
		if path, ok := infos[i].Labels[upperdir]; ok {
			infos[i].Labels[upperdir] = plain(path)
		}
	}
	return infos
}

// checkLabel fails the test unless the label leads to the directory of a snapshot, or is not there.
func checkLabel(t *testing.T, s side, info snapshots.Info, want bool) {
	t.Helper()
	path, got := info.Labels[upperdir]
	if got != want || got && (!strings.HasPrefix(path, s.root+"/snapshots/") || filepath.Base(path) != "fs") {
		t.Errorf("%s has the label %q", info.Name, path)
	}
	if _, err := os.Stat(path); want && err != nil {
		t.Error(err)
	}
}

// A label of that name which a client has set, say in what Stat has returned, is recorded, and shows where the option is not given.
func TestUpperdirLabelOfAClient(t *testing.T) {
	for name, c := range map[string]config{"with": {upperdirLabel: true}, "without": {}} {
		t.Run(name, func(t *testing.T) {
			p := openPair(t, c)
			p.layers(t, 1)
			compare(t, p, "Update", func(s side) snapshots.Info {
				info, err := s.Update(t.Context(), snapshots.Info{Name: "layer1", Labels: map[string]string{upperdir: "elsewhere"}})
				must(t, err)
				return alike(t, s, info)[0]
			})
			compare(t, p, "Walk", func(s side) []snapshots.Info { return alike(t, s, s.infos(t)...) })
			compare(t, p, "Walk with a filter", func(s side) []snapshots.Info { return alike(t, s, s.infos(t, `labels."`+upperdir+`"==elsewhere`)...) })
		})
	}
}
