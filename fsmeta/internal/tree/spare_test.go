package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// spareTree is a tree with the snapshot base, and one spare directory that old on base has left.
func spareTree(t *testing.T, before func(dir string)) (*Tree, versions) {
	t.Helper()
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"base": snapshot("base", ""), "old": snapshot("old", "base")})
	if before != nil {
		before(tree.Path("old"))
	}
	v.apply(t, tree, versions{"old": nil})
	return tree, v
}

// needExchange skips a test of kept files: without exchange none is kept.
func needExchange(t *testing.T) {
	t.Helper()
	if !canExchange {
		t.Skip("needs renameat2")
	}
}

// A removed snapshot's directory becomes the next one's, whatever that stands on.
func TestSpareIsUsedAgain(t *testing.T) {
	for _, parent := range []string{"", "base", "other"} {
		var dir, file, link uint64
		tree, v := spareTree(t, func(path string) {
			dir, file, link = inode(t, path), inode(t, path+"/metadata.json"), inode(t, path+"/parent")
		})
		v.apply(t, tree, versions{"new": snapshot("new", parent)})
		if inode(t, tree.Path("new")) != dir || inode(t, tree.file("new")) != file {
			t.Errorf("parent %q: a new directory was made", parent)
		}
		if parent == "base" && inode(t, tree.link("new")) != link {
			t.Error("the link was made anew")
		}
		v.check(t, tree)
	}
}

// A directory with a link to the parent is taken rather than another.
func TestSpareWithTheSameParent(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "p"), "c": snapshot("c", "")})
	dir := inode(t, tree.Path("b"))
	v.apply(t, tree, versions{"a": nil, "b": nil, "c": nil})
	v.apply(t, tree, versions{"new": snapshot("new", "p")})
	if inode(t, tree.Path("new")) != dir {
		t.Error("another directory was taken")
	}
}

// What others have put into or made of a snapshot's directory is neither changed nor
// carried to another snapshot.
func TestSpareThatIsNotPlain(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "keep")
	for name, before := range map[string]func(path string) error{
		"a copy by hard links":     func(path string) error { return os.Link(path+"/metadata.json", keep) },
		"a file of others":         func(path string) error { return os.WriteFile(path+"/notes", nil, 0o600) },
		"another mode":             func(path string) error { return os.Chmod(path+"/metadata.json", 0o640) },
		"another directory's mode": func(path string) error { return os.Chmod(path, 0o750) },
		"another link":             func(path string) error { return os.Symlink("x", path+"/other") },
		"no file":                  func(path string) error { return os.Remove(path + "/metadata.json") },
		"a directory for the file": func(path string) error {
			_ = os.Remove(path + "/metadata.json")
			return os.Mkdir(path+"/metadata.json", 0o700)
		},
		"a name as long as another": func(path string) error { return os.WriteFile(path+"/parenT", nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			var was []byte
			tree, v := spareTree(t, func(path string) {
				var err error
				was, err = os.ReadFile(path + "/metadata.json")
				must(t, err)
				must(t, before(path))
			})
			if len(tree.spares[false]) > 0 {
				t.Error("it is kept")
			}
			v.apply(t, tree, versions{"new": snapshot("new", "base")})
			v.check(t, tree)
			if info, err := os.Stat(tree.file("new")); err != nil || info.Mode() != format.FileMode {
				t.Errorf("the new file: %v, %v", info.Mode(), err)
			}
			if is, err := os.ReadFile(keep); name == "a copy by hard links" && (err != nil || string(is) != string(was)) {
				t.Errorf("the copy has become %s, %v", is, err)
			}
		})
	}
}

// A copy of the whole store by hard links shares the inodes of what is kept, too. They are
// not overwritten.
func TestSpareThatIsCopied(t *testing.T) {
	needExchange(t)
	tree, v := spareTree(t, nil)
	v.apply(t, tree, versions{"base": next(v["base"], "x")})
	copies := t.TempDir()
	was := map[string]string{}
	for i, path := range []string{
		tree.staging.Path + "/" + tree.spares[false][0].entry + "/metadata.json",
		tree.staging.Path + "/" + tree.spares[true][0].entry,
		tree.file("base"),
	} {
		to := fmt.Sprint(copies, "/", i)
		must(t, os.Link(path, to))
		data, err := os.ReadFile(to)
		must(t, err)
		was[to] = string(data)
	}
	for i := range 4 {
		v.apply(t, tree, versions{"base": next(v["base"], fmt.Sprint(i)), fmt.Sprint("new", i): snapshot(fmt.Sprint("new", i), "base")})
	}
	v.check(t, tree)
	for path, want := range was {
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("%s has become %s, %v", path, data, err)
		}
	}
}

// Others may have deleted what is kept in staging/, or put something else there.
func TestSpareThatIsGone(t *testing.T) {
	for _, gone := range []string{".", "metadata.json", "parent"} {
		for _, instead := range []bool{false, true} {
			t.Run(fmt.Sprint(gone, "/", instead), func(t *testing.T) {
				needExchange(t)
				tree, v := spareTree(t, nil)
				o := newOutside(t)
				v.apply(t, tree, versions{"base": next(v["base"], "x")})
				path := tree.staging.Path + "/" + tree.spares[false][0].entry
				must(t, os.RemoveAll(filepath.Clean(path+"/"+gone)))
				file := tree.staging.Path + "/" + tree.spares[true][0].entry
				must(t, os.Remove(file))
				if instead {
					must(t, os.Symlink(o.path, filepath.Clean(path+"/"+gone)))
					must(t, os.Symlink(o.path+"/metadata.json", file))
				}
				for i := range 3 {
					v.apply(t, tree, versions{fmt.Sprint("new", i): snapshot(fmt.Sprint("new", i), "base"), "base": next(v["base"], fmt.Sprint(i))})
				}
				o.check(t)
				v.check(t, tree)
			})
		}
	}
}

// No more is kept than there is room for, and nothing when the room is needed.
func TestSparesAreFew(t *testing.T) {
	tree, v := newTree(t), versions{}
	create, update, remove := versions{}, versions{}, versions{}
	for i := range 2 * maxSpares {
		key := fmt.Sprint("key", i)
		create[key], remove[key] = snapshot(key, ""), nil
		update[key] = next(create[key], key)
	}
	v.apply(t, tree, create)
	v.apply(t, tree, update)
	files := maxSpares
	if !canExchange {
		files = 0
	}
	if n := len(tree.spares[true]); n != files {
		t.Errorf("%d files are kept, want %d", n, files)
	}
	v.apply(t, tree, remove)
	if n := len(tree.spares[false]); n != maxSpares {
		t.Errorf("%d directories are kept, want %d", n, maxSpares)
	}
	v.check(t, tree)
	tree.DropSpares()
	if names, err := tree.staging.Names(); err != nil || len(names) > 0 {
		t.Errorf("%q are left, %v", names, err)
	}
}
