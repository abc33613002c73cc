package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// victim is the store that damage is done to: mid, which has a parent and a child.
const (
	victim     = "base; *lone; mid < base; other; spare; top < mid; *work < top"
	withoutMid = "base; *lone; other; spare; top < mid; *work < top"
)

// A damage changes a snapshot's directory.
type damage func(t *testing.T, entry string)

// byEdit changes metadata.json as a function says.
func byEdit(edit func(data []byte) []byte) damage {
	return func(t *testing.T, entry string) {
		path := filepath.Join(entry, "metadata.json")
		overwrite(t, path, string(edit(must(os.ReadFile(path)))))
	}
}

// byContent gives metadata.json another content.
func byContent(content string) damage {
	return byEdit(func([]byte) []byte { return []byte(content) })
}

// byText replaces a part of metadata.json, and nothing else.
func byText(old, new string) damage {
	return func(t *testing.T, entry string) {
		byEdit(func(data []byte) []byte {
			equal(t, "number of places with "+old, bytes.Count(data, []byte(old)), 1)
			return bytes.Replace(data, []byte(old), []byte(new), 1)
		})(t, entry)
	}
}

// byMember changes a member of metadata.json, nil deletes it, and deletes the checksum.
func byMember(name string, value any) damage {
	return func(t *testing.T, entry string) {
		byEdit(func(data []byte) []byte {
			return editJSON(t, data, map[string]any{"crc32c": nil, name: value})
		})(t, entry)
	}
}

// byOther puts another thing in the place of path, below the entry.
func byOther(path string, put func(path string) error) damage {
	return func(t *testing.T, entry string) {
		nilError(t, os.RemoveAll(filepath.Join(entry, path)))
		nilError(t, put(filepath.Join(entry, path)))
	}
}

// byLink gives the parent link another target, "" for no link.
func byLink(target string) damage {
	return byOther("parent", func(path string) error {
		if target == "" {
			return nil
		}
		return os.Symlink(target, path)
	})
}

func makeDir(path string) error  { return os.Mkdir(path, 0o700) }
func makeFile(path string) error { return os.WriteFile(path, []byte("text"), 0o600) }
func makePipe(path string) error { return syscall.Mkfifo(path, 0o600) }

func makeLink(target string) func(path string) error {
	return func(path string) error { return os.Symlink(target, path) }
}

// A damaged snapshot is an error for each call that needs it. All others are read and
// written, and only a person changes the damaged one.
func TestDamagedSnapshot(t *testing.T) {
	for _, test := range []struct {
		name     string
		damage   damage
		linkless bool // whether the parent link is gone, too
	}{
		{"metadata empty", byContent(""), false},
		{"metadata cut", byEdit(func(data []byte) []byte { return data[:len(data)/2] }), false},
		{"metadata cut by a brace", byEdit(func(data []byte) []byte { return bytes.TrimRight(data, "}\n") }), false},
		{"metadata of NUL bytes", byEdit(func(data []byte) []byte { return make([]byte, len(data)) }), false},
		{"metadata not JSON", byContent("name: mid\n"), false},
		{"metadata another type", byContent("[]\n"), false},
		{"metadata with more behind", byEdit(func(data []byte) []byte { return append(data, "{}"...) }), false},
		{"metadata missing", byOther("metadata.json", func(string) error { return nil }), false},
		{"metadata a directory", byOther("metadata.json", makeDir), false},
		{"metadata a pipe", byOther("metadata.json", makePipe), false},
		{"metadata a link", byOther("metadata.json", makeLink("../base/metadata.json")), false},
		{"other name", byMember("name", "other"), false},
		{"no name", byMember("name", nil), false},
		{"no identifier", byMember("id", nil), false},
		{"identifier no number", byMember("id", "../7"), false},
		{"no kind", byMember("kind", nil), false},
		{"unknown kind", byMember("kind", "view"), false},
		{"parent itself", byMember("parent", "mid"), false},
		{"parent not there", byMember("parent", "absent"), false},
		{"parent no name", byMember("parent", strings.Repeat("x", 32769)), false},
		{"identifier changed", byText(`"id": "`, `"id": "4`), false},
		{"parent changed", byText(`"parent": "base"`, `"parent": "other"`), false},
		{"labels changed", byText(`"labels": {}`, `"labels": {"a": "b"}`), false},
		{"checksum changed", byText(`"crc32c": "`, `"crc32c": "0`), false},
		{"checksum of another", byEdit(func(data []byte) []byte {
			return append([]byte("{\n  \"crc32c\": \"00000000\",\n"), data[26:]...)
		}), false},
		{"entry empty", byOther(".", makeDir), true},
		{"entry a file", byOther(".", makeFile), true},
		{"entry a pipe", byOther(".", makePipe), true},
		{"entry a link", byOther(".", makeLink("other")), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, sound := victimStore(t)
			entry := filepath.Join(dir, "snapshots", "mid")
			mid := must(openOnly(t, dir, fsmeta.ReadOnly()).Stat(bg, "mid"))
			test.damage(t, entry)
			before := fingerprint(t, entry)

			readonly := openOnly(t, dir, fsmeta.ReadOnly())
			readonly.readsDamaged(entry)
			s := openOnly(t, dir)
			s.readsDamaged(entry)
			s.writesBesideDamaged(test.linkless)
			after, err := s.list(bg)
			wantDamaged(t, err, "mid", entry)
			nilError(t, readonly.Close())
			nilError(t, s.Close())
			equal(t, "damaged entry", fingerprint(t, entry), before)
			if len(findingsAt(t, dir, entry)) == 0 {
				t.Error("a check does not find it")
			}

			nilError(t, os.RemoveAll(entry))
			copyTree(t, sound, entry) // repaired by hand
			s = openStore(t, dir)
			equal(t, "repaired", must(s.Stat(bg, "mid")), mid)
			s.want(bg, strings.Replace(after, "newer < other", "mid < base; newer < other", 1))
		})
	}
}

// parentLinks are wrong links of mid.
var parentLinks = []struct {
	name   string
	damage damage
	parent string // that it says, "?" where it can mean any
}{
	{"gone", byLink(""), ""},
	{"changed", byLink("../other"), "other"},
	{"dangling", byLink("../absent"), "absent"},
	{"outside", byLink("../../../../etc"), "?"},
	{"absolute", byLink("/etc"), "?"},
	{"to the tree", byLink(".."), "?"},
	{"to no entry", byLink("../%zz"), "?"},
	{"a file", byOther("parent", makeFile), "?"},
	{"a pipe", byOther("parent", makePipe), "?"},
	{"a directory", byOther("parent", makeDir), "?"},
}

// The file says the parent, also of a snapshot that was edited by hand. The link is for ls:
// reads and removals go on as if it were right, and a check finds it.
func TestParentLinkDecidesNothing(t *testing.T) {
	for _, test := range parentLinks {
		t.Run(test.name, func(t *testing.T) {
			dir, _ := victimStore(t)
			entry := filepath.Join(dir, "snapshots", "mid")
			test.damage(t, entry)
			byMember("readonly", true)(t, entry) // without a checksum
			before := fingerprint(t, entry)
			readonly, s := openOnly(t, dir, fsmeta.ReadOnly()), openOnly(t, dir)
			for _, s := range []*store{readonly, s} {
				s.want(bg, victim)
				s.agree(bg)
			}
			s.removable(map[string]error{"base": fsmeta.ErrHasChildren, "mid": fsmeta.ErrHasChildren, "other": nil, "spare": nil})
			s.build("new < mid")
			nilError(t, s.Close())
			equal(t, "entry", fingerprint(t, entry), before)
			if len(findingsAt(t, dir, filepath.Join(entry, "parent"))) != 1 {
				t.Error("a check does not find it")
			}
		})
	}
}

// A damaged snapshot counts by its link: the parent that it says is not removed, and none is
// while it can mean any.
func TestDamagedSnapshotCountsByItsLink(t *testing.T) {
	for _, test := range parentLinks {
		t.Run(test.name, func(t *testing.T) {
			dir, _ := victimStore(t)
			entry := filepath.Join(dir, "snapshots", "mid")
			byContent("")(t, entry)
			test.damage(t, entry)
			want := map[string]error{"base": nil, "other": nil, "spare": nil}
			for name := range want {
				switch test.parent {
				case "?":
					want[name] = fsmeta.ErrDamaged
				case name:
					want[name] = fsmeta.ErrHasChildren
				}
			}
			s := openOnly(t, dir)
			for range 2 { // from memory, or counted again
				s.removable(want)
				s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "top", fsmeta.Usage{Size: 1})) })
			}
			s.write(func(ctx context.Context) { must(s.Remove(ctx, "lone")) }) // active: nothing stands on it
		})
	}
}

// removable requires that each removal alone ends with the error, and removes nothing.
func (s *store) removable(want map[string]error) {
	s.t.Helper()
	for name, want := range want {
		ctx, tx := s.begin(bg, true)
		if err := drop(s.Remove(ctx, name)); want == nil {
			nilError(s.t, err)
		} else {
			wantError(s.t, err, want, name)
		}
		nilError(s.t, tx.Rollback())
	}
}

// findingsAt returns the findings of a check at a path or below.
func findingsAt(t *testing.T, dir, path string) (at []fsmeta.Finding) {
	t.Helper()
	for _, f := range must(fsmeta.Check(bg, dir, nil)) {
		if f.Path == path || strings.HasPrefix(f.Path, path+"/") {
			at = append(at, f)
		}
	}
	return at
}

// victimStore makes and closes the store that damage is done to, and returns its directory
// and a copy of mid to repair it with.
func victimStore(t *testing.T) (dir, sound string) {
	t.Helper()
	dir, sound = filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "mid")
	s := openOnly(t, dir)
	s.build(victim)
	nilError(t, s.Close())
	copyTree(t, filepath.Join(dir, "snapshots", "mid"), sound)
	return dir, sound
}

// readsDamaged requires that mid is damaged and that everything else is read.
func (s *store) readsDamaged(entry string) {
	s.t.Helper()
	ids := map[string]string{}
	var names []string
	for _, ctx := range []context.Context{bg, first(s.begin(bg, false))} {
		infos, err := s.walk(ctx)
		wantDamaged(s.t, err, "mid", entry)
		equal(s.t, "all others", list(infos), withoutMid)
		names = names[:0]
		for _, info := range infos {
			equal(s.t, "Stat", must(s.Stat(ctx, info.Name)), info)
			equal(s.t, "NameOf", must(s.NameOf(ctx, info.ID)), info.Name)
			ids[info.ID] = info.Name
			names = append(names, info.Name)
		}
		s.allDamaged(ctx, append(names, "mid"), map[string]string{"mid": entry})
		got, err := s.IDs(ctx)
		wantDamaged(s.t, err, "mid", entry)
		equal(s.t, "all other identifiers", got, ids)
		wantDamaged(s.t, drop(s.Stat(ctx, "mid")), "mid", entry)
		wantDamaged(s.t, drop(s.GetActive(ctx, "mid")), "mid", entry)
		wantDamaged(s.t, drop(s.GetActive(ctx, "work")), "mid", entry) // stands on it
		equal(s.t, "parents", len(must(s.GetActive(ctx, "lone")).ParentIDs), 0)
		wantError(s.t, drop(s.Stat(ctx, "absent")), fsmeta.ErrNotExist)
	}
}

// allDamaged requires that All visits the names in this order, and those with a
// path as damaged.
func (s *store) allDamaged(ctx context.Context, names []string, paths map[string]string) {
	s.t.Helper()
	var got []string
	for info, err := range s.All(ctx) {
		got = append(got, info.Name)
		if path, ok := paths[info.Name]; ok {
			wantDamaged(s.t, err, info.Name, path)
			equal(s.t, "damaged Info", info, fsmeta.Info{Name: info.Name})
		} else {
			nilError(s.t, err)
		}
	}
	equal(s.t, "visited", got, names)
}

// writesBesideDamaged requires that mid can't be written and all others can. Without a link
// it counts as one without a parent.
func (s *store) writesBesideDamaged(linkless bool) {
	s.t.Helper()
	s.write(func(ctx context.Context) {
		for i, err := range []error{
			drop(s.CreateActive(ctx, "new", "mid", false)),
			drop(s.CreateActive(ctx, "mid", "", false)),
			drop(s.Commit(ctx, "lone", "mid")),
			drop(s.Commit(ctx, "mid", "new")),
			drop(s.CommitWith(ctx, "lone", "new", fsmeta.WithParent("mid"))),
			drop(s.Remove(ctx, "mid")),
			drop(s.Update(ctx, fsmeta.Info{Name: "mid"})),
			drop(s.SetUsage(ctx, "mid", fsmeta.Usage{})),
		} {
			if !errors.Is(err, fsmeta.ErrDamaged) {
				s.t.Errorf("write %d on a damaged snapshot: %v", i, err)
			}
		}
		must(s.CreateActive(ctx, "new", "other", false))
		must(s.Commit(ctx, "new", "newer"))
		must(s.Update(ctx, fsmeta.Info{Name: "top", Labels: map[string]string{"a": "b"}}))
		must(s.SetUsage(ctx, "lone", fsmeta.Usage{Size: 1}))
	})
	want := map[string]error{"base": fsmeta.ErrHasChildren, "other": fsmeta.ErrHasChildren, "spare": nil}
	if linkless {
		want["base"] = nil
	}
	s.removable(want)
	s.write(func(ctx context.Context) { must(s.Remove(ctx, "spare")) })
}

// An entry of snapshots/ that is no snapshot is reported and left alone. A directory that
// could be one that was lost keeps committed snapshots from being removed.
func TestStrayEntries(t *testing.T) {
	second := func(path string) error { // a copy of a snapshot under another name
		return os.CopyFS(path, os.DirFS(filepath.Join(filepath.Dir(path), "other")))
	}
	for _, test := range []struct {
		name   string
		entry  string
		put    func(path string) error
		counts bool // whether it could be a snapshot that the journal has not counted
	}{
		{"file", "stray", makeFile, false},
		{"file with an odd name", "my notes.txt~", makeFile, false},
		{"hidden file", ".notes", makeFile, false},
		{"file like an escaped name", "%zz", makeFile, false},
		{"pipe", "stray", makePipe, false},
		{"symlink", "stray", makeLink("mid"), false},
		{"empty directory", "stray", makeDir, true},
		{"empty directory with an odd name", "my notes~", makeDir, false},
		{"copy", "stray", second, true},
		{"copy with a name not escaped", "stray name", second, false},
		{"copy with an escape too much", "%6Fther", second, false},
		{"copy with a lower-case escape", "%2fother", second, false},
		{"copy with a hash", strings.Repeat("x", 190) + "~" + strings.Repeat("0", 64), second, true},
		{"copy with a hash too much", "other~" + strings.Repeat("0", 64), second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, _ := victimStore(t)
			path := filepath.Join(dir, "snapshots", test.entry)
			nilError(t, test.put(path))
			before := fingerprint(t, path)
			s := openOnly(t, dir)
			for range 2 {
				got, err := s.list(bg)
				equal(t, "all others", got, victim)
				wantError(t, err, fsmeta.ErrDamaged, path)
				wantError(t, drop(s.IDs(bg)), fsmeta.ErrDamaged, path)
				s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "mid", fsmeta.Usage{Size: 1})) })
				equal(t, "whether the error counts", strings.Contains(err.Error(), "there are 8 snapshots, and the journal counts 7"), test.counts)
			}
			err := s.WithTransaction(bg, true, func(ctx context.Context) error { return drop(s.Remove(ctx, "spare")) })
			if test.counts {
				wantError(t, err, fsmeta.ErrDamaged)
			} else {
				nilError(t, err)
			}
			if err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(s.CreateActive(ctx, "stray", "", false))
			}); test.entry == "stray" && err == nil {
				t.Error("a stray entry was overwritten")
			}
			nilError(t, s.Close())
			equal(t, "stray entry", fingerprint(t, path), before)
			if len(findingsAt(t, dir, path)) == 0 {
				t.Error("a check does not find it")
			}
			nilError(t, os.RemoveAll(path)) // repaired by hand
			openStore(t, dir).agree(bg)
		})
	}
}

func TestDamagedSnapshotsAreAllReported(t *testing.T) {
	dir, _ := victimStore(t)
	paths := map[string]string{}
	for _, name := range []string{"spare", "mid", "lone"} {
		paths[name] = filepath.Join(dir, "snapshots", name)
		overwrite(t, filepath.Join(paths[name], "metadata.json"), "")
	}
	s := openOnly(t, dir)
	got, err := s.list(bg)
	equal(t, "all others", got, "base; other; top < mid; *work < top")
	_, errIDs := s.IDs(bg)
	for _, path := range paths {
		wantError(t, err, fsmeta.ErrDamaged, path)
		wantError(t, errIDs, fsmeta.ErrDamaged, path)
	}
	s.allDamaged(bg, []string{"base", "other", "top", "work", "lone", "mid", "spare"}, paths)
}

// The error of a walk's function is returned, damage or not.
func TestWalkEndsBeforeDamage(t *testing.T) {
	dir, _ := victimStore(t)
	overwrite(t, filepath.Join(dir, "snapshots", "base", "metadata.json"), "")
	s := openOnly(t, dir)
	failure := errors.New("failure")
	err := s.Walk(bg, func(context.Context, fsmeta.Info) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("got error %v, want that of the function", err)
	}
}

// A long name can only be read back from metadata.json.
func TestDamagedLongName(t *testing.T) {
	dir, long := filepath.Join(t.TempDir(), "store"), strings.Repeat("long/name ", 100)
	s := openOnly(t, dir)
	s.build("base; *work < base")
	s.write(func(ctx context.Context) { must(s.CreateActive(ctx, long, "base", false)) })
	nilError(t, s.Close())
	paths := must(filepath.Glob(filepath.Join(dir, "snapshots", "*~*")))
	overwrite(t, filepath.Join(paths[0], "metadata.json"), "")
	s = openOnly(t, dir)
	got, err := s.list(bg)
	equal(t, "all others", got, "base; *work < base")
	wantError(t, err, fsmeta.ErrDamaged, paths[0])
	wantError(t, drop(s.IDs(bg)), fsmeta.ErrDamaged, paths[0])
	wantDamaged(t, drop(s.Stat(bg, long)), long, paths[0])
	s.write(func(ctx context.Context) {
		if err := drop(s.CreateActive(ctx, long, "", false)); err == nil {
			t.Error("a damaged snapshot was overwritten")
		}
	})
}

// For a name that the journal names, the journal decides: readers see it undamaged, and the
// next writer makes it whole.
func TestDamageIsHealedFromTheJournal(t *testing.T) {
	for _, damage := range []func(entry string) error{
		func(entry string) error { return os.WriteFile(filepath.Join(entry, "metadata.json"), nil, 0o600) },
		func(entry string) error { return os.Remove(filepath.Join(entry, "metadata.json")) },
		func(entry string) error { return os.Remove(filepath.Join(entry, "parent")) },
		func(entry string) error { return os.RemoveAll(entry) },
	} {
		s := newStore(t)
		s.build(victim)
		want := must(dump(bg, s.Store))
		dir := s.kill()
		entry := filepath.Join(dir, "snapshots", "mid")
		nilError(t, damage(entry))
		equal(t, "read-only", must(dump(bg, openOnly(t, dir, fsmeta.ReadOnly()).Store)), want)
		killed := openStore(t, dir)
		equal(t, "before a write", must(dump(bg, killed.Store)), want)
		killed.build("new")
		equal(t, "tree on disk", diskList(t, dir), strings.Replace(victim, "; other", "; new; other", 1))
	}
}
