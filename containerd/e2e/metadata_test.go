//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seenAs is what both containerd and the store know of a snapshot.
type seenAs struct {
	Key, Parent, Kind string
	Labels            map[string]string
	Size, Inodes      int64 // of committed ones
}

// passedOn is how the labels begin that containerd passes on to a snapshotter, besides
// containerd.io/snapshot.ref.
const passedOn = "containerd.io/snapshot/"

// Whatever ctr says of the snapshots, plain tools find in the store: while it is in use,
// and after it was closed, when the journal is empty and the tree says everything.
func TestMetadata(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := importChanging(t, s)
		other := s.namespace + "-other"
		_, err := s.ctrIn(other, "images", "import", "--snapshotter", s.snapshotter, im.save(t, s.dir))
		must(t, err)
		chain := im.chainIDs()
		s.run(im.name, "stopped", "echo stopped >/data/new", "--snapshotter-label", passedOn+"made=with the container")
		s.run(im.name, "running", "exec sleep 1000", "--detach")
		s.run(im.name, "removed", "true", "--rm")
		s.view("a/view with spaces, %2F and ü", chain[1])
		s.snapshots("prepare", "on-nothing", "")
		s.snapshots("prepare", "on-a-layer", chain[0])
		s.snapshots("commit", "on-a-layer-committed", "on-a-layer")
		s.snapshots("label", chain[2], passedOn+"added=later", "only.for/containerd=1")
		s.snapshots("label", "running", passedOn+"first=1", passedOn+"second=2")
		s.snapshots("label", "running", passedOn+"first=")
		s.collect() // only then does containerd tell us of what was removed

		namespaces := []string{s.namespace, other}
		live := s.known(namespaces)
		if diff := cmp.Diff(live, fromStore(t, namespaces, readLive(t, s.store()))); diff != "" {
			t.Errorf("the store in use (-ctr +store):\n%s", diff)
		}
		s.checkLabels(live)
		s.checkContent(readLive(t, s.store()))
		s.checkTreeView(live)

		s.removeContainers()
		s.collect() // containerd does that whenever it starts
		known := s.known(namespaces)
		s.stopContainerd()
		if s.inside == "" {
			s.daemons[pluginName].stop(t)
		}
		if left := slices.Sorted(maps.Keys(readJournal(t, s.store()))); len(left) > 0 {
			t.Errorf("the journal of a store that was closed still decides %q", left)
		}
		closed := readTree(t, s.store())
		s.checkContent(closed)
		if diff := cmp.Diff(known, fromStore(t, namespaces, closed)); diff != "" {
			t.Errorf("the store that was closed (-ctr +store):\n%s", diff)
		}
		if s.inside == "" {
			s.restartDaemon(pluginName)
		}
		s.startContainerd()
		if diff := cmp.Diff(known, s.known(namespaces)); diff != "" {
			t.Errorf("what ctr says when both are started again (-before +after):\n%s", diff)
		}
		s.check()
	})
}

func (s *stand) store() string { return filepath.Join(s.root(), "meta") }

// known returns what ctr says of all snapshots, by namespace and key.
func (s *stand) known(namespaces []string) map[string]seenAs {
	s.Helper()
	known := map[string]seenAs{}
	for _, namespace := range namespaces {
		for _, l := range s.list(namespace) {
			var info struct {
				Kind, Name, Parent string
				Labels             map[string]string
			}
			output, err := s.ctrIn(namespace, "snapshots", "--snapshotter", s.snapshotter, "info", l.Key)
			must(s, err)
			must(s, json.Unmarshal([]byte(output), &info))
			if got := (listed{info.Name, info.Parent, info.Kind}); got != l {
				s.Errorf("ctr snapshots info says %q, and ls %q", got, l)
			}
			k := seenAs{Key: l.Key, Parent: l.Parent, Kind: l.Kind, Labels: map[string]string{}}
			for label, value := range info.Labels {
				if strings.HasPrefix(label, passedOn) || label == "containerd.io/snapshot.ref" {
					k.Labels[label] = value
				}
			}
			if l.Kind == "Committed" {
				k.Size, k.Inodes = s.usage(namespace, l.Key)
			}
			known[namespace+"/"+l.Key] = k
		}
	}
	return known
}

// usage returns what ctr snapshots usage prints.
func (s *stand) usage(namespace, key string) (size, inodes int64) {
	s.Helper()
	output, err := s.ctrIn(namespace, "snapshots", "--snapshotter", s.snapshotter, "usage", "-b", key)
	must(s, err)
	lines := strings.Split(strings.TrimSpace(output), "\n")
	_, err = fmt.Sscan(strings.TrimPrefix(lines[len(lines)-1], key), &size, &inodes)
	must(s, err)
	return size, inodes
}

// fromStore returns what the records of a store say in the words of containerd, which
// names snapshots NAMESPACE/NUMBER/KEY in a snapshotter.
func fromStore(t testing.TB, namespaces []string, records map[string]record) map[string]seenAs {
	t.Helper()
	seen := map[string]seenAs{}
	for name, r := range records {
		namespace, key := splitName(t, name)
		if !slices.Contains(namespaces, namespace) {
			t.Errorf("%q is of no namespace that was used", name)
		}
		k := seenAs{Key: key, Kind: kindOf(r), Labels: map[string]string{}, Size: r.Usage.Size, Inodes: r.Usage.Inodes}
		maps.Copy(k.Labels, r.Labels)
		if r.Parent != "" {
			var of string
			of, k.Parent = splitName(t, r.Parent)
			if of != namespace {
				t.Errorf("%q stands on %q, of another namespace", name, r.Parent)
			}
		}
		if _, twice := seen[namespace+"/"+key]; twice {
			t.Errorf("the store has %q twice", key)
		}
		seen[namespace+"/"+key] = k
	}
	return seen
}

func splitName(t testing.TB, name string) (namespace, key string) {
	t.Helper()
	parts := strings.SplitN(name, "/", 3)
	if len(parts) != 3 {
		t.Fatalf("%q is not NAMESPACE/NUMBER/KEY", name)
	}
	return parts[0], parts[2]
}

func kindOf(r record) string {
	switch {
	case r.Kind == "committed":
		return "Committed"
	case r.Readonly:
		return "View"
	default:
		return "Active"
	}
}

// checkLabels fails the test unless the labels that it has set are known.
func (s *stand) checkLabels(known map[string]seenAs) {
	s.Helper()
	for key, want := range map[string]map[string]string{
		"stopped":    {passedOn + "made": "with the container"},
		"running":    {passedOn + "second": "2"},
		"on-nothing": {},
	} {
		if diff := cmp.Diff(want, known[s.namespace+"/"+key].Labels); diff != "" {
			s.Errorf("labels of %s (-want +got):\n%s", key, diff)
		}
	}
}

// checkContent fails the test unless content is there for each record, and no other.
func (s *stand) checkContent(records map[string]record) {
	s.Helper()
	kind, err := os.ReadFile(filepath.Join(s.root(), "snapshotter"))
	must(s, err)
	var want []string
	for name, r := range records {
		if string(kind) == "native\n" && kindOf(r) == "View" && r.Parent != "" {
			continue // it shows its parent, and may have none of its own
		}
		want = append(want, r.ID)
		if r.Kind == "committed" {
			s.checkUsage(r)
		}
		if string(kind) == "overlay\n" {
			if !exists(filepath.Join(s.root(), "snapshots", r.ID, "fs")) {
				s.Errorf("the content of %q is missing", name)
			}
		}
	}
	eventually(s, "the content of removed snapshots is deleted", func() error {
		entries, err := os.ReadDir(filepath.Join(s.root(), "snapshots"))
		if err != nil {
			return err
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		for _, id := range want {
			if !slices.Contains(got, id) {
				return fmt.Errorf("the content with the identifier %s is missing", id)
			}
		}
		if len(got) > len(records) {
			return fmt.Errorf("there is the content of %d snapshots, want that of %d", len(got), len(records))
		}
		return nil
	})
}

// checkUsage fails the test unless the usage that is recorded is what du says.
func (s *stand) checkUsage(r record) {
	s.Helper()
	dir := filepath.Join(s.root(), "snapshots", r.ID)
	if upper := filepath.Join(dir, "fs"); exists(upper) {
		dir = upper // of an overlay
	}
	var size, inodes int64
	_, err := fmt.Sscanf(shell(s, dir, "du -s -B1 . && du -s --inodes ."), "%d\t.\n%d\t.", &size, &inodes)
	must(s, err)
	// The filesystem may have needed some blocks more since it was measured.
	if apart := max(size-r.Usage.Size, r.Usage.Size-size); inodes != r.Usage.Inodes || apart > 64<<10 {
		s.Errorf("%q uses %d bytes and %d inodes, and du says %d and %d", r.Name, r.Usage.Size, r.Usage.Inodes, size, inodes)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// checkTreeView fails the test unless ctr snapshots tree shows the parents that are known.
func (s *stand) checkTreeView(known map[string]seenAs) {
	s.Helper()
	want, got := map[string]string{}, map[string]string{}
	for name, k := range known {
		if strings.HasPrefix(name, s.namespace+"/") {
			want[k.Key] = k.Parent
		}
	}
	path := []string{""} // the keys above, by level
	for line := range strings.Lines(s.snapshots("tree")) {
		line = strings.TrimSuffix(line, "\n")
		key := strings.TrimPrefix(strings.TrimLeft(line, " "), "\\_ ")
		level := 1
		if before, _, ok := strings.Cut(line, "\\_"); ok {
			level = len(before)/2 + 1
		}
		if level > len(path) {
			s.Fatalf("ctr snapshots tree has nothing above %q", line)
		}
		path = append(path[:level], key)
		got[key] = path[level-1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("parents that ctr snapshots tree shows (-ls +tree):\n%s", diff)
	}
}
