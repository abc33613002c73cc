package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openTree returns the Tree of a store in path, which is made where it is missing.
func openTree(t testing.TB, path string) *Tree {
	t.Helper()
	err := os.MkdirAll(path+"/"+format.SnapshotsDir, format.DirMode)
	must(t, err)
	dir, err := disk.OpenDir(path, true)
	must(t, err)
	tree, err := Open(dir)
	must(t, err)
	must(t, tree.Prepare())
	t.Cleanup(func() { must(t, errors.Join(tree.Close(), dir.Close())) })
	return tree
}

func newTree(t testing.TB) *Tree { return openTree(t, filepath.Join(t.TempDir(), "store")) }

// versions is what a tree should hold, by name.
type versions map[string]*format.Snapshot

var ids int

// snapshot returns the first version of a snapshot.
func snapshot(name, parent string) *format.Snapshot {
	ids++
	at := time.Unix(1700000000, 0).UTC()
	return &format.Snapshot{ID: fmt.Sprint(ids), Name: name, Parent: parent, Kind: format.Active, Created: at, Updated: at, Txn: 1}
}

// next returns the next version of s, longer or shorter by what is in the label.
func next(s *format.Snapshot, label string) *format.Snapshot {
	n := *s
	n.Txn++
	n.Labels = []format.Label{{Key: "label", Value: label}}
	return &n
}

// as returns the version of s as it is committed.
func as(s *format.Snapshot, name, parent string) *format.Snapshot {
	n := *s
	n.Txn++
	n.Name, n.Parent, n.Kind, n.Readonly = name, parent, format.Committed, true
	return &n
}

// to returns the changes that make v what next says, sorted by name.
func (v versions) to(next versions) (changes []format.Change) {
	for _, name := range slices.Sorted(maps.Keys(next)) {
		changes = append(changes, format.Change{Name: name, Before: v[name], After: next[name]})
	}
	return changes
}

// apply brings the tree to next, which names what changes, and v too. No name may lag.
func (v versions) apply(t testing.TB, tree *Tree, next versions) {
	t.Helper()
	w, err := tree.Stage(v.to(next), nil)
	must(t, err)
	v.bringUp(t, tree, w, next)
}

func (v versions) bringUp(t testing.TB, tree *Tree, w *Work, next versions) {
	t.Helper()
	if lagging := tree.BringUp(w, nil); len(lagging) > 0 {
		t.Fatalf("lagging: %v", lagging)
	}
	tree.Recycle(w)
	maps.Copy(v, next)
	maps.DeleteFunc(v, func(_ string, s *format.Snapshot) bool { return s == nil })
}

// check compares the tree with v: the files, the links, and that nothing else is there, also not in
// staging/ besides what is kept.
func (v versions) check(t testing.TB, tree *Tree) {
	t.Helper()
	v.checkNames(t, tree)
	for name, s := range v {
		v.checkOne(t, tree, name, s)
	}
	staged, err := tree.staging.Names()
	must(t, err)
	for _, l := range slices.Concat(tree.spares[false], tree.spares[true]) {
		staged = slices.DeleteFunc(staged, func(name string) bool { return name == l.entry })
	}
	for _, entry := range tree.links {
		staged = slices.DeleteFunc(staged, func(name string) bool { return name == entry })
	}
	if len(staged) > 0 {
		t.Errorf("in staging/ there are %q", staged)
	}
}

func (v versions) checkNames(t testing.TB, tree *Tree) {
	t.Helper()
	var want []string
	for name := range v {
		want = append(want, format.EncodeName(name))
	}
	got, err := tree.List()
	must(t, err)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

func (v versions) checkOne(t testing.TB, tree *Tree, name string, want *format.Snapshot) {
	t.Helper()
	got, err := tree.Read(name)
	if err != nil || got == nil || string(format.EncodeFile(got)) != string(format.EncodeFile(want)) {
		t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		return
	}
	linked, err := tree.LinkedParent(format.EncodeName(name))
	if wantLink := entryOf(want.Parent); err != nil || linked != wantLink {
		t.Errorf("%s: the link says %q, %v, want %q", name, linked, err, wantLink)
	}
	entries, err := os.ReadDir(tree.Path(name))
	must(t, err)
	if n := len(entries); n > 2 || n > 1 && want.Parent == "" {
		t.Errorf("%s has %v", name, entries)
	}
}

func entryOf(name string) string {
	if name == "" {
		return ""
	}
	return format.EncodeName(name)
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(path, err)
	}
	return stat.Ino
}

func (t *Tree) file(name string) string { return t.Path(name) + "/" + format.MetadataFile }
func (t *Tree) link(name string) string { return t.Path(name) + "/" + format.ParentLink }

// outside is a directory that no operation on the tree may change.
type outside struct{ path string }

func newOutside(t testing.TB) outside {
	o := outside{t.TempDir()}
	for _, name := range []string{format.MetadataFile, format.ParentLink, "other"} {
		must(t, os.WriteFile(o.path+"/"+name, []byte(name), format.FileMode))
	}
	must(t, os.Mkdir(o.path+"/d", 0o700))
	must(t, os.WriteFile(o.path+"/d/f", []byte("f"), format.FileMode))
	return o
}

func (o outside) check(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(o.path)
	if err != nil || len(entries) != 4 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
	for _, name := range []string{format.MetadataFile, format.ParentLink, "other", "d/f"} {
		if data, err := os.ReadFile(o.path + "/" + name); err != nil || string(data) != filepath.Base(name) {
			t.Errorf("outside %s is %q, %v", name, data, err)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

var longName = strings.Repeat("long/", 100)

// Each kind of change, and what of the tree it leaves in place.
func TestChanges(t *testing.T) {
	tree, v := newTree(t), versions{}
	staged := 0
	first := versions{"base": snapshot("base", ""), "a/b c": snapshot("a/b c", "base"), longName: snapshot(longName, "base")}
	w, err := tree.Stage(v.to(first), func(n int) {
		if staged++; n != staged {
			t.Errorf("%d are staged, want %d", n, staged)
		}
	})
	must(t, err)
	if entries, err := tree.List(); err != nil || len(entries) > 0 || staged != 3 {
		t.Errorf("before BringUp there are %q, %v; %d were staged", entries, err, staged)
	}
	v.bringUp(t, tree, w, first)
	v.check(t, tree)

	dir, file := inode(t, tree.Path("a/b c")), inode(t, tree.file("a/b c"))
	for i, label := range []string{"one", strings.Repeat("long", 1000), "", "x"} {
		v.apply(t, tree, versions{"a/b c": next(v["a/b c"], label)})
		v.check(t, tree)
		if inode(t, tree.Path("a/b c")) != dir {
			t.Error("a change has made a new directory")
		}
		if is := inode(t, tree.file("a/b c")); canExchange && (is == file) != (i%2 == 1) {
			t.Errorf("change %d: the files do not take turns", i)
		}
	}

	v.apply(t, tree, versions{"a/b c": nil, "done": as(v["a/b c"], "done", "base")})
	v.check(t, tree)
	if inode(t, tree.Path("done")) != dir {
		t.Error("a commit has made a new directory")
	}
	v.apply(t, tree, versions{longName: nil, longName + "2": as(v[longName], longName+"2", "done")})
	v.check(t, tree)

	v.apply(t, tree, versions{"base": nil, "done": nil, longName + "2": nil})
	v.check(t, tree)
	if len(tree.spares[false]) != 3 {
		t.Errorf("%d directories are kept", len(tree.spares[false]))
	}
}

// Several changes in one transaction, among them what looks like a commit and is none.
func TestChangesTogether(t *testing.T) {
	for name, change := range map[string]func(a, b, c *format.Snapshot) versions{
		"a key and its name change": func(a, b, c *format.Snapshot) versions {
			return versions{"a": next(a, "1"), "n": as(b, "n", "c"), "b": nil}
		},
		"a key is used again": func(a, b, c *format.Snapshot) versions {
			return versions{"a": snapshot("a", "c"), "n": as(a, "n", "c")}
		},
		"a name is used again": func(a, b, c *format.Snapshot) versions { return versions{"a": nil, "b": as(a, "b", "")} },
		"the same name, another parent": func(a, b, c *format.Snapshot) versions {
			return versions{"a": snapshot("a", ""), "b": snapshot("b", "c")}
		},
		"two names with one key's id": func(a, b, c *format.Snapshot) versions {
			return versions{"a": nil, "n": as(a, "n", ""), "m": as(a, "m", "c")}
		},
		"two commits": func(a, b, c *format.Snapshot) versions {
			return versions{"a": nil, "b": nil, "m": as(a, "m", "n"), "n": as(b, "n", "c")}
		},
		"a removal of all and something new": func(a, b, c *format.Snapshot) versions {
			return versions{"a": nil, "b": nil, "c": nil, "d": snapshot("d", "")}
		},
		"no change of what is there": func(a, b, c *format.Snapshot) versions { return versions{"a": a, "d": nil} },
	} {
		t.Run(name, func(t *testing.T) {
			tree, v := newTree(t), versions{}
			v.apply(t, tree, versions{"a": snapshot("a", "c"), "b": snapshot("b", ""), "c": snapshot("c", "")})
			v.apply(t, tree, change(v["a"], v["b"], v["c"]))
			v.check(t, tree)
		})
	}
}

// What others can make of a snapshot's directory. Whatever that is, the next version takes
// its place, and nothing outside is touched.
var sabotage = map[string]func(t *testing.T, dir, outside string){
	"nothing":       func(t *testing.T, dir, outside string) {},
	"no directory":  func(t *testing.T, dir, outside string) { must(t, os.RemoveAll(dir)) },
	"no file":       func(t *testing.T, dir, outside string) { must(t, os.Remove(dir+"/metadata.json")) },
	"no link":       func(t *testing.T, dir, outside string) { _ = os.Remove(dir + "/parent") },
	"another link":  func(t *testing.T, dir, outside string) { replaceBy(t, dir+"/parent", outside, os.Symlink) },
	"a parent file": func(t *testing.T, dir, outside string) { replaceBy(t, dir+"/parent", outside, writeFile) },
	"another file": func(t *testing.T, dir, outside string) {
		must(t, os.WriteFile(dir+"/metadata.json", []byte("x"), 0o600))
	},
	"symlink":  func(t *testing.T, dir, outside string) { replaceBy(t, dir, outside, os.Symlink) },
	"dangling": func(t *testing.T, dir, outside string) { replaceBy(t, dir, outside+"/none", os.Symlink) },
	"fifo":     func(t *testing.T, dir, outside string) { replaceBy(t, dir, outside, makeFIFO) },
	"file":     func(t *testing.T, dir, outside string) { replaceBy(t, dir, outside, writeFile) },
	"file: symlink": func(t *testing.T, dir, outside string) {
		replaceBy(t, dir+"/metadata.json", outside+"/metadata.json", os.Symlink)
	},
	"file: to a dir": func(t *testing.T, dir, outside string) { replaceBy(t, dir+"/metadata.json", outside, os.Symlink) },
	"file: fifo":     func(t *testing.T, dir, outside string) { replaceBy(t, dir+"/metadata.json", outside, makeFIFO) },
	"file: dir": func(t *testing.T, dir, outside string) {
		replaceBy(t, dir+"/metadata.json", outside, func(_, path string) error { return os.Mkdir(path, 0o700) })
		must(t, os.Symlink(outside, dir+"/metadata.json/l"))
	},
	"file: hard link": func(t *testing.T, dir, outside string) {
		must(t, os.Remove(dir+"/metadata.json"))
		if err := os.Link(outside+"/metadata.json", dir+"/metadata.json"); err != nil {
			t.Skip(err)
		}
	},
	"more": func(t *testing.T, dir, outside string) {
		must(t, os.MkdirAll(dir+"/x/y", 0o700))
		must(t, os.Symlink(outside, dir+"/x/l"))
		must(t, os.Symlink(outside, dir+"/l"))
	},
}

func replaceBy(t *testing.T, path, target string, with func(target, path string) error) {
	t.Helper()
	must(t, os.RemoveAll(path))
	must(t, with(target, path))
}

func makeFIFO(_, path string) error  { return unix.Mkfifo(path, 0o600) }
func writeFile(_, path string) error { return os.WriteFile(path, []byte("x"), 0o600) }

func TestSabotage(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(sabotage)) {
		for change, make := range map[string]func(a *format.Snapshot) versions{
			"update": func(a *format.Snapshot) versions { return versions{"a": next(a, "new")} },
			"parent": func(a *format.Snapshot) versions { return versions{"a": snapshot("a", "other")} },
			"remove": func(a *format.Snapshot) versions { return versions{"a": nil} },
			"commit": func(a *format.Snapshot) versions { return versions{"a": nil, "n": as(a, "n", a.Parent)} },
		} {
			t.Run(what+"/"+change, func(t *testing.T) {
				tree, v, o := newTree(t), versions{}, newOutside(t)
				v.apply(t, tree, versions{"base": snapshot("base", ""), "a": snapshot("a", "base")})
				sabotage[what](t, tree.Path("a"), o.path)
				v.apply(t, tree, make(v["a"]))
				o.check(t)
				checkSabotaged(t, tree, v, what)
				for i := range 5 { // what is kept of it does no harm either
					key := fmt.Sprint("later", i)
					v.apply(t, tree, versions{key: snapshot(key, ""), "base": next(v["base"], key)})
				}
				o.check(t)
				checkSabotaged(t, tree, v, what)
				must(t, tree.Clean())
				o.check(t)
			})
		}
	}
}

// checkSabotaged is check, but for what a change of the file alone does not look at.
func checkSabotaged(t *testing.T, tree *Tree, v versions, what string) {
	t.Helper()
	switch what {
	case "no link", "another link", "a parent file", "more":
		v.checkNames(t, tree)
		for name, s := range v {
			if got, err := tree.Read(name); err != nil || string(format.EncodeFile(got)) != string(format.EncodeFile(s)) {
				t.Errorf("%s: got %+v, %v", name, got, err)
			}
		}
	default:
		v.check(t, tree)
	}
}

// The place of a new snapshot may be taken.
func TestSabotagedPlace(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(sabotage)) {
		for _, commit := range []bool{false, true} {
			t.Run(fmt.Sprint(what, "/", commit), func(t *testing.T) {
				tree, v, o := newTree(t), versions{}, newOutside(t)
				v.apply(t, tree, versions{"base": snapshot("base", ""), "a": snapshot("a", "base")})
				must(t, os.Mkdir(tree.Path("n"), 0o700))
				must(t, os.WriteFile(tree.file("n"), nil, 0o600))
				sabotage[what](t, tree.Path("n"), o.path)
				n := versions{"n": snapshot("n", "base")}
				if commit {
					n = versions{"a": nil, "n": as(v["a"], "n", "base")}
				}
				v.apply(t, tree, n)
				o.check(t)
				v.check(t, tree)
			})
		}
	}
}

// Wanted work mends whatever is there, and leaves alone what is right.
func TestWanted(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(sabotage)) {
		for _, rebuild := range []bool{false, true} {
			t.Run(fmt.Sprint(what, "/", rebuild), func(t *testing.T) {
				tree, v, o := newTree(t), versions{}, newOutside(t)
				v.apply(t, tree, versions{"base": snapshot("base", ""), "a": snapshot("a", "base"), "gone": snapshot("gone", "")})
				dir, file, base := inode(t, tree.Path("a")), inode(t, tree.file("a")), inode(t, tree.Path("base"))
				sabotage[what](t, tree.Path("a"), o.path)
				sabotage[what](t, tree.Path("gone"), o.path)
				want := versions{"a": v["a"], "base": v["base"], "gone": nil, "never": nil, "new": snapshot("new", longName)}
				v.bringUp(t, tree, Wanted(want, rebuild), want)
				o.check(t)
				if what == "more" { // no part of the version
					v.checkNames(t, tree)
				} else {
					v.check(t, tree)
				}
				if (inode(t, tree.Path("base")) == base) == rebuild {
					t.Errorf("rebuild %v: what was right is the same: %v", rebuild, !rebuild)
				}
				if what == "nothing" && !rebuild && (inode(t, tree.Path("a")) != dir || inode(t, tree.file("a")) != file) {
					t.Error("what was right was built again")
				}
				if rebuild && len(tree.spares[false]) > 0 {
					t.Error("what may not be on disk is kept")
				}
			})
		}
	}
}

// Names that lag already are compared, and nothing staged for them is renamed.
func TestSkip(t *testing.T) {
	for _, lags := range []string{"a", "n", "b", "c", "d"} {
		t.Run(lags, func(t *testing.T) {
			tree, v := newTree(t), versions{}
			v.apply(t, tree, versions{"base": snapshot("base", ""), "a": snapshot("a", "base"), "b": snapshot("b", ""), "d": snapshot("d", "")})
			change := versions{"a": nil, "n": as(v["a"], "n", "base"), "b": next(v["b"], "x"), "c": snapshot("c", "base"), "d": nil}
			w, err := tree.Stage(v.to(change), nil)
			must(t, err)
			var staged []string
			for _, s := range w.steps {
				if (s.name == lags || lags == "a" && s.name == "n") && s.entry != "" {
					staged = append(staged, s.entry)
				}
			}
			var inodes []uint64
			for _, entry := range staged {
				inodes = append(inodes, inode(t, tree.staging.Path+"/"+entry))
			}
			if got := tree.BringUp(w, func(name string) bool { return name == lags }); got != nil {
				t.Errorf("lagging: %v", got)
			}
			for _, name := range []string{"n", "b", "c"} {
				if slices.Contains(inodes, inode(t, tree.Path(name))) || slices.Contains(inodes, inode(t, tree.file(name))) {
					t.Errorf("%s is what was staged", name)
				}
			}
			tree.Recycle(w)
			maps.Copy(v, change)
			maps.DeleteFunc(v, func(_ string, s *format.Snapshot) bool { return s == nil })
			v.check(t, tree)
		})
	}
}

func TestDiscard(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", "base"), "b": snapshot("b", ""), "c": snapshot("c", "")})
	v.apply(t, tree, versions{"c": nil}) // so that a kept directory is staged
	w, err := tree.Stage(v.to(versions{"a": nil, "n": as(v["a"], "n", ""), "b": next(v["b"], ""), "d": snapshot("d", "")}), nil)
	must(t, err)
	must(t, tree.Discard(w))
	v.check(t, tree)
	must(t, tree.Discard(w))
}

// Reading: nothing, damage, and what is not read.
func TestRead(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(sabotage)) {
		t.Run(what, func(t *testing.T) {
			tree, v, o := newTree(t), versions{}, newOutside(t)
			v.apply(t, tree, versions{"a": snapshot("a", "base"), "b": snapshot("b", "")})
			sabotage[what](t, tree.Path("a"), o.path)
			got, err := tree.Read("a")
			switch what {
			case "nothing", "no link", "another link", "a parent file", "more":
				if err != nil || got == nil || got.Parent != "base" {
					t.Errorf("got %+v, %v", got, err)
				}
			case "no directory":
				if got != nil || err != nil {
					t.Errorf("got %+v, %v", got, err)
				}
			default:
				if d := fault.DamageOf(err); d == nil || d.Name != "a" || d.Path != tree.file("a") {
					t.Errorf("got %+v, %v", got, err)
				}
			}
			there, isDir, err := tree.Exists("a")
			if err != nil || there != (what != "no directory") {
				t.Errorf("exists: %v, %v", there, err)
			}
			if noDir := what == "no directory" || what == "symlink" || what == "dangling" || what == "fifo" || what == "device" || what == "file"; isDir == noDir {
				t.Errorf("is a directory: %v", isDir)
			}
			parent, err := tree.LinkedParent("a")
			switch what {
			case "no link", "no directory":
				if parent != "" || err != nil {
					t.Errorf("the link says %q, %v", parent, err)
				}
			case "another link", "a parent file", "symlink", "dangling", "fifo", "device", "file":
				if d := fault.DamageOf(err); d == nil || d.Path != tree.link("a") {
					t.Errorf("the link says %q, %v", parent, err)
				}
			default:
				if parent != "base" || err != nil {
					t.Errorf("the link says %q, %v", parent, err)
				}
			}
			v.checkOne(t, tree, "b", v["b"])
		})
	}
}

// A file in the directory of another name is damage, and a name that its entry doesn't spell out is
// read from the file.
func TestNames(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), longName: snapshot(longName, "")})
	must(t, os.Rename(tree.Path("a"), tree.Path("b")))
	if got, err := tree.Read("b"); fault.DamageOf(err) == nil {
		t.Errorf("got %+v, %v", got, err)
	}
	entry := format.EncodeName(longName)
	if name, err := tree.NameIn(entry); err != nil || name != longName {
		t.Errorf("got %q, %v", name, err)
	}
	for what, text := range map[string]string{"another name": string(format.EncodeFile(v["a"])), "no name": "{}", "nothing": ""} {
		must(t, os.WriteFile(tree.file(longName), []byte(text), 0o600))
		if name, err := tree.NameIn(entry); fault.DamageOf(err) == nil || fault.DamageOf(err).Path != tree.file(longName) {
			t.Errorf("%s: got %q, %v", what, name, err)
		}
	}
	must(t, os.Remove(tree.file(longName)))
	if name, err := tree.NameIn(entry); fault.DamageOf(err) == nil {
		t.Errorf("no file: got %q, %v", name, err)
	}
}

func TestFixLink(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", longName), "b": snapshot("b", "")})
	for _, what := range []string{"nothing", "no link", "another link", "a parent file"} {
		for name, s := range v {
			sabotage[what](t, tree.Path(name), "/")
			must(t, tree.FixLink(s))
		}
		v.check(t, tree)
	}
	must(t, os.RemoveAll(tree.link("a")))
	must(t, os.Mkdir(tree.link("a"), 0o700))
	if err := tree.FixLink(v["a"]); err == nil || !strings.Contains(err.Error(), tree.link("a")) {
		t.Errorf("a directory in place of the link: %v", err)
	}
	if err := tree.FixLink(snapshot("none", "")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestOpen(t *testing.T) {
	for what, make := range map[string]func(path string) error{
		"missing": func(string) error { return nil },
		"file":    func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"symlink": func(path string) error { return os.Symlink("/", path) },
	} {
		dir, err := disk.OpenDir(t.TempDir(), false)
		must(t, err)
		must(t, make(dir.Path+"/snapshots"))
		_, err = Open(dir)
		if d := fault.DamageOf(err); d == nil || d.Path != dir.Path+"/snapshots" {
			t.Errorf("%s: got %v", what, err)
		}
		must(t, dir.Close())
	}
	a, b := newTree(t), newTree(t)
	again := openTree(t, a.root.Path)
	if a.Same(b) || !a.Same(again) {
		t.Error("Same is wrong")
	}
}

// staging/ may be missing, be another directory than it was, or be no directory.
func TestPrepare(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "")})
	v.apply(t, tree, versions{"a": nil, "b": next(v["b"], "")})
	kept := len(tree.spares[false])
	must(t, errors.Join(tree.Prepare(), tree.Confirm()))
	if kept == 0 || len(tree.spares[false]) != kept {
		t.Errorf("%d directories are kept, then %d", kept, len(tree.spares[false]))
	}
	must(t, os.RemoveAll(tree.staging.Path))
	must(t, errors.Join(tree.Prepare(), tree.Confirm()))
	if n := len(tree.spares[false]) + len(tree.spares[true]); n > 0 {
		t.Errorf("%d are kept of another staging/", n)
	}
	v.apply(t, tree, versions{"c": snapshot("c", "b"), "b": next(v["b"], "2")})
	v.check(t, tree)
	must(t, os.RemoveAll(tree.staging.Path))
	must(t, os.Symlink(t.TempDir(), tree.staging.Path))
	if err := errors.Join(tree.Prepare(), tree.Confirm()); err == nil || !strings.Contains(err.Error(), tree.staging.Path) {
		t.Errorf("a symlink: %v", err)
	}
}

// A removal must not be believed because staging/ is gone.
func TestStagingIsGone(t *testing.T) {
	tree, v := newTree(t), versions{}
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "")})
	must(t, os.RemoveAll(tree.staging.Path))
	w, err := tree.Stage(v.to(versions{"a": nil}), nil)
	must(t, err)
	if lagging := tree.BringUp(w, nil); lagging != nil {
		t.Errorf("lagging: %v", lagging)
	}
	if there, _, err := tree.Exists("a"); there || err != nil {
		t.Errorf("a is there: %v, %v", there, err)
	}
	if _, err = tree.Stage(v.to(versions{"b": next(v["b"], "")}), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestClean(t *testing.T) {
	tree, v, o := newTree(t), versions{}, newOutside(t)
	v.apply(t, tree, versions{"a": snapshot("a", ""), "b": snapshot("b", "")})
	v.apply(t, tree, versions{"a": nil, "b": next(v["b"], "")})
	must(t, os.Symlink(o.path, tree.staging.Path+"/l"))
	must(t, os.MkdirAll(tree.staging.Path+"/x/y/z", 0o700))
	must(t, tree.Clean())
	if names, err := tree.staging.Names(); err != nil || len(names) > 0 || len(tree.spares[false])+len(tree.spares[true]) > 0 {
		t.Errorf("%q are left, %v", names, err)
	}
	o.check(t)
	v.check(t, tree)
}

func TestIsStaged(t *testing.T) {
	tree := newTree(t)
	for entry, want := range map[string]bool{
		tree.newName(): true, "01234abc-18": true, ".journal123": true,
		"01234abc-": false, "01234abc": false, "0123abc-1": false, "01234abC-1": false, "01234abc-1x": false, "": false, "a": false,
	} {
		if IsStaged(entry) != want {
			t.Errorf("%q: got %v", entry, !want)
		}
	}
}
