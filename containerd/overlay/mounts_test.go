//go:build linux

package overlay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// What a call returned: mounts without what differs between roots, and the error's class.
type mounted struct {
	Mounts []mount.Mount
	Class  string
}

var mappings = map[string]map[string]string{
	"noMapping": nil,
	"mapping": {
		snapshots.LabelSnapshotUIDMapping: "0:1000:65536",
		snapshots.LabelSnapshotGIDMapping: "0:2000:1000,1000:70000:64536",
	},
	"emptyMapping": {snapshots.LabelSnapshotUIDMapping: "", snapshots.LabelSnapshotGIDMapping: ""},
	"otherLabel":   {"containerd.io/snapshot/other": "0:1000:65536"},
}

// Prepare, View and Mounts return what containerd's return, for every kind of snapshot on
// every number of parents that is treated apart, whatever its labels and the options are; but for two cases
// that TestRemappedMounts is about.
func TestMountsAreContainerds(t *testing.T) {
	for name, c := range map[string]config{
		"plain":        {},
		"remapIDs":     {remapIDs: true},
		"options":      {options: []string{"metacopy=on", "volatile"}},
		"indexOn":      {options: []string{"index=on"}},
		"indexOff":     {options: []string{"volatile", "index=off"}},
		"indexAlone":   {options: []string{"index"}},
		"indexWithin":  {options: []string{"xino=index", "indexes=on"}},
		"userXAttr":    {options: []string{"userxattr"}},
		"remapOptions": {remapIDs: true, options: []string{"redirect_dir=on"}},
	} {
		for parents := range 4 {
			t.Run(fmt.Sprintf("%s/%dParents", name, parents), func(t *testing.T) {
				p := openPair(t, c)
				top := p.layers(t, parents)
				for mapping, labels := range mappings {
					if c.remapIDs && mapping == "mapping" && parents < 2 {
						continue
					}
					compareMounts(t, p, mapping, top, labels)
				}
			})
		}
	}
}

// compareMounts makes an active snapshot and a view with both.
func compareMounts(t *testing.T, p pair, key, parent string, labels map[string]string) {
	t.Helper()
	withLabels := snapshots.WithLabels(labels)
	compare(t, p, "Prepare of "+key, func(s side) mounted {
		mounts, err := s.Prepare(t.Context(), "active "+key, parent, withLabels)
		return mounted{s.normal(t, mounts), class(err)}
	})
	compare(t, p, "View of "+key, func(s side) mounted {
		mounts, err := s.View(t.Context(), "view "+key, parent, withLabels)
		return mounted{s.normal(t, mounts), class(err)}
	})
	for _, kind := range []string{"active ", "view "} {
		compare(t, p, "Mounts of "+kind+key, func(s side) mounted {
			mounts, err := s.Mounts(t.Context(), kind+key)
			return mounted{s.normal(t, mounts), class(err)}
		})
	}
}

// Where only users or only groups are mapped, the others are themselves, as with containerd.
func TestMountsWithHalfAMapping(t *testing.T) {
	for _, label := range []string{snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping} {
		t.Run(label, func(t *testing.T) {
			p := openPair(t, config{remapIDs: true})
			compareMounts(t, p, "key", p.layers(t, 1), map[string]string{label: "0:1000:65536"})
			compare(t, p, "the owner", func(s side) owned { return ownedBy(t, newest(t, s)+"/fs") })
		})
	}
}

// Labels that are changed by Update count for the mounts from then on.
func TestMountsAfterUpdate(t *testing.T) {
	p := openPair(t, config{remapIDs: true})
	top := p.layers(t, 2)
	compareMounts(t, p, "key", top, nil)
	for _, key := range []string{"active key", "view key"} {
		compare(t, p, "Update of "+key, func(s side) string {
			_, err := s.Update(t.Context(), snapshots.Info{Name: key, Labels: mappings["mapping"]})
			return class(err)
		})
		compare(t, p, "Mounts of "+key, func(s side) mounted {
			mounts, err := s.Mounts(t.Context(), key)
			must(t, err)
			if got := strings.Join(mounts[0].Options, ","); !strings.Contains(got, "uidmap=0:1000:65536,gidmap=") {
				t.Errorf("the mapping is not in %s", got)
			}
			return mounted{s.normal(t, mounts), class(err)}
		})
	}
}
