package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// mustLink requires that the parent link of a snapshot says parent, and returns which file it is.
func mustLink(t *testing.T, tree *Tree, name, parent string) os.FileInfo {
	t.Helper()
	path := filepath.Join(tree.Path(name), format.ParentLink)
	target, err := os.Readlink(path)
	must(t, err)
	if target != format.LinkTarget(parent) {
		t.Errorf("the link of %s says %s, want %s", name, target, format.LinkTarget(parent))
	}
	info, err := os.Lstat(path)
	must(t, err)
	return info
}

// Children of one parent share a link from the second on, and a link is right also where the
// kept one is gone, as another process's clean-up leaves it.
func TestLinksAreShared(t *testing.T) {
	tree, v := newTree(t), versions{}
	create := func(name, parent string) os.FileInfo {
		t.Helper()
		v.apply(t, tree, versions{name: snapshot(name, parent)})
		return mustLink(t, tree, name, parent)
	}
	first, second, third := create("a1", "a"), create("a2", "a"), create("a3", "a")
	if os.SameFile(first, second) || !os.SameFile(second, third) {
		t.Errorf("the first link is the second's: %v; the second is the third's: %v", os.SameFile(first, second), os.SameFile(second, third))
	}
	create("b1", "b")
	must(t, tree.Clean())
	if fourth := create("a4", "a"); os.SameFile(third, fourth) {
		t.Error("a link is shared after its entry was forgotten")
	}
	create("a5", "a")
	names, err := tree.staging.Names()
	must(t, err)
	for _, name := range names {
		must(t, tree.staging.At().RemoveAll(name))
	}
	create("a6", "a")
	create("a7", "a")
	v.apply(t, tree, versions{"a1": nil, "a2": nil, "a3": nil, "a7": nil})
	mustLink(t, tree, "a6", "a")
}

// However many parents there are, few links are kept, and none after DropSpares.
func TestFewLinksAreKept(t *testing.T) {
	tree, v := newTree(t), versions{}
	for i := range 3 * maxLinks {
		parent := fmt.Sprint("p", i)
		for n := range 2 {
			name := fmt.Sprint(parent, "-", n)
			v.apply(t, tree, versions{name: snapshot(name, parent)})
			mustLink(t, tree, name, parent)
		}
		if names, err := tree.staging.Names(); err != nil || len(names) > maxLinks {
			t.Fatalf("%d links are kept, %v", len(names), err)
		}
	}
	tree.DropSpares()
	if names, err := tree.staging.Names(); err != nil || len(names) > 0 {
		t.Errorf("left in staging/: %q, %v", names, err)
	}
}
