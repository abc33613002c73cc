package fsck

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

var bg = context.Background()

// The snapshots of a specimen: base < long < top < work, view on base, and alone.
var (
	long  = "long/" + strings.Repeat("é", 150) // with an entry of the hashed form
	work  = "é/work"
	names = []string{"alone", "base", long, "top", "view", work}
)

// handle is a store that is open for writing.
type handle struct {
	t    testing.TB
	root *disk.Dir
	tree *tree.Tree
	view *view.View
	w    *commit.Writer
}

func openStore(t testing.TB, dir string) *handle {
	t.Helper()
	h := &handle{t: t}
	h.check(layout.Make(dir, func(*disk.Dir) int { return journal.ClosedFill }))
	var err error
	h.root, err = disk.OpenDir(dir, true)
	h.check(err)
	h.tree, err = tree.Open(h.root)
	h.check(err)
	h.view, err = view.Open(dir, h.tree, true)
	h.check(err)
	h.w = commit.New(commit.Config{Dir: h.root, Tree: h.tree, View: h.view})
	return h
}

func (h *handle) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// commit is one transaction: for each name nil removes it.
func (h *handle) commit(change map[string]*format.Snapshot) {
	h.t.Helper()
	h.check(h.w.Begin(bg))
	var changes []format.Change
	for name, after := range change {
		before, err := h.view.Lookup(h.view.Base(), name)
		h.check(err)
		changes = append(changes, format.Change{Name: name, Before: before, After: after})
	}
	slices.SortFunc(changes, func(a, b format.Change) int { return strings.Compare(a.Name, b.Name) })
	h.check(h.w.Commit(changes))
	h.w.Release()
	h.w.End()
}

// create makes a snapshot, committed unless it is active.
func (h *handle) create(name, parent string, kind format.Kind) {
	h.t.Helper()
	h.check(h.w.Begin(bg))
	id, err := h.w.NewID()
	h.check(err)
	h.w.Release()
	h.w.End()
	h.commit(map[string]*format.Snapshot{name: snapshot(id, name, parent, kind)})
}

func (h *handle) close(last bool) {
	h.t.Helper()
	h.check(h.w.Close(func() (bool, error) { return last, nil }))
	h.check(errors.Join(h.view.Close(), h.tree.Close(), h.root.Close()))
}

func snapshot(id, name, parent string, kind format.Kind) *format.Snapshot {
	now := time.Date(2026, 11, 25, 1, 2, 3, 4, time.UTC)
	return &format.Snapshot{ID: id, Name: name, Parent: parent, Kind: kind, Readonly: kind == format.Committed, Created: now, Updated: now,
		Labels: []format.Label{{Key: "containerd.io/gc.root", Value: `{"a":1}`}}}
}

// specimens are the two stores that tests begin with, once made: closed, and, killed, with
// six transactions in the journal.
var specimens = map[bool]string{}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range specimens {
		if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
			panic(err)
		}
	}
	os.Exit(code)
}

// specimen makes a store of its own.
func specimen(t testing.TB, killed bool) *tamper {
	t.Helper()
	if specimens[killed] == "" {
		parent, err := os.MkdirTemp("", "fsck")
		if err != nil {
			t.Fatal(err)
		}
		specimens[killed] = filepath.Join(parent, "store")
		h := openStore(t, specimens[killed])
		h.create("base", "", format.Committed)
		h.create(long, "base", format.Committed)
		h.create("alone", "", format.Active)
		if killed {
			h.close(true)
			h = openStore(t, specimens[killed])
		}
		h.create("top", long, format.Committed)
		h.create("view", "base", format.Active)
		h.create(work, "top", format.Active)
		h.create("gone", "", format.Active)
		h.commit(map[string]*format.Snapshot{"gone": nil})
		h.commit(map[string]*format.Snapshot{work: snapshot("6", work, "top", format.Active)})
		h.close(!killed)
		h.check(os.RemoveAll(filepath.Join(specimens[killed], format.StagingDir)))
		h.check(os.Mkdir(filepath.Join(specimens[killed], format.StagingDir), format.DirMode))
	}
	s := &tamper{t, filepath.Join(t.TempDir(), "store [1]*")}
	s.check(os.CopyFS(s.dir, os.DirFS(specimens[killed])))
	s.check(filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		mode := fs.FileMode(format.FileMode)
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		if d.IsDir() {
			mode = format.DirMode
		}
		return os.Chmod(path, mode)
	}))
	return s
}

// tamper is a store that a test tampers with by hand.
type tamper struct {
	t   testing.TB
	dir string
}

func (s *tamper) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// at returns the path of a part of the store.
func (s *tamper) at(path string) string { return filepath.Join(s.dir, path) }

func (s *tamper) put(path, text string) {
	s.t.Helper()
	s.check(os.WriteFile(s.at(path), []byte(text), format.FileMode))
}

func (s *tamper) read(path string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.at(path))
	s.check(err)
	return string(data)
}

func (s *tamper) remove(paths ...string) {
	s.t.Helper()
	for _, path := range paths {
		s.check(os.RemoveAll(s.at(path)))
	}
}

func (s *tamper) move(from, to string) {
	s.t.Helper()
	s.check(os.Rename(s.at(from), s.at(to)))
}

func (s *tamper) link(path, target string) {
	s.t.Helper()
	s.check(errors.Join(os.RemoveAll(s.at(path)), os.Symlink(target, s.at(path))))
}

func (s *tamper) mkdir(path string) {
	s.t.Helper()
	s.check(os.MkdirAll(s.at(path), format.DirMode))
}

// set writes a snapshot's directory, with a checksum that is right.
func (s *tamper) set(m *format.Snapshot) {
	s.t.Helper()
	s.remove(dirOf(m.Name))
	s.mkdir(dirOf(m.Name))
	s.put(meta(m.Name), string(format.EncodeFile(m)))
	if m.Parent != "" {
		s.link(linkOfName(m.Name), format.LinkTarget(m.Parent))
	}
}

// get reads a snapshot's file.
func (s *tamper) get(name string) *format.Snapshot {
	s.t.Helper()
	m, err := format.DecodeFile([]byte(s.read(meta(name))))
	s.check(err)
	return m
}

// edit changes a snapshot's directory, with a checksum that is right.
func (s *tamper) edit(name string, change func(*format.Snapshot)) {
	s.t.Helper()
	m := s.get(name)
	change(m)
	s.set(m)
}

// onto puts a snapshot onto another parent.
func (s *tamper) onto(name, parent string) {
	s.t.Helper()
	s.edit(name, func(m *format.Snapshot) { m.Parent = parent })
}

// replaceIn replaces text in a file, which must be there, without changing its length.
func (s *tamper) replaceIn(path, old, text string) {
	s.t.Helper()
	data := s.read(path)
	if !strings.Contains(data, old) {
		s.t.Fatalf("%s does not have %q", path, old)
	}
	s.put(path, strings.Replace(data, old, text, 1))
}

// damageLine changes a byte in the line of a transaction, counted from the last, 0.
func (s *tamper) damageLine(back int) {
	s.t.Helper()
	data := []byte(s.read(format.JournalFile))
	at := len(bytes.TrimRight(data, "\n\x00"))
	for ; back >= 0; back-- {
		at = bytes.LastIndex(data[:at], []byte(`"time":"2`))
	}
	data[at+len(`"time":"`)] ^= 1
	s.put(format.JournalFile, string(data))
}

// append writes behind the last line of the journal.
func (s *tamper) append(text string) {
	s.t.Helper()
	data := []byte(s.read(format.JournalFile))
	copy(data[len(bytes.TrimRight(data, "\x00")):], text)
	s.put(format.JournalFile, string(data))
}

func meta(name string) string       { return filepath.Join(dirOf(name), format.MetadataFile) }
func linkOfName(name string) string { return filepath.Join(dirOf(name), format.ParentLink) }
func dirOf(name string) string      { return filepath.Join(format.SnapshotsDir, format.EncodeName(name)) }

// unsigned deletes the line with the checksum.
func (s *tamper) unsigned(name string) {
	s.t.Helper()
	first, rest, _ := strings.Cut(s.read(meta(name)), "\n")
	_, rest, _ = strings.Cut(rest, "\n")
	s.put(meta(name), first+"\n"+rest)
}

// parts returns everything below dir: files by content, symlinks by target.
func parts(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, dir)
		switch d.Type() {
		case fs.ModeDir:
			all[rel] = "directory"
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			all[rel] = "-> " + target
			return err
		case 0:
			data, err := os.ReadFile(path)
			all[rel] = "file " + string(data)
			return err
		default:
			all[rel] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// asideParts returns what is below damaged/TIME/ but directories, by paths without TIME, in
// order.
func (s *tamper) asideParts() []string {
	var aside []string
	for path, n := range parts(s.t, s.dir) {
		if inside := strings.SplitN(path, "/", 4); len(inside) == 4 && inside[1] == format.DamagedDir && n != "directory" {
			aside = append(aside, inside[3])
		}
	}
	slices.Sort(aside)
	return aside
}

// list returns the names of the snapshots that a new reader finds, with their parents and
// identifiers, and what is damaged.
func (s *tamper) list() (found map[string]string, damage []error) {
	s.t.Helper()
	root, err := disk.OpenDir(s.dir, true)
	s.check(err)
	tr, err := tree.Open(root)
	s.check(err)
	v, err := view.Open(s.dir, tr, false)
	s.check(err)
	var r view.Reader
	s.check(v.Begin(&r))
	found = map[string]string{}
	err = v.Walk(r.Point, nil, func(m *format.Snapshot) error {
		found[m.Name] = m.ID + " on " + m.Parent
		return nil
	}, func(d view.Damage) error {
		damage = append(damage, d.Err)
		return nil
	})
	v.End(&r)
	s.check(errors.Join(err, v.Close(), tr.Close(), root.Close()))
	return found, damage
}

// wantList requires that a new reader finds the specimen's snapshots, but those that are
// gone, and nothing damaged.
func (s *tamper) wantList(gone ...string) {
	s.t.Helper()
	found, damage := s.list()
	for i, name := range names {
		id := strconv.Itoa(slices.Index([]string{"base", long, "alone", "top", "view", work}, name) + 1)
		parent := map[string]string{long: "base", "top": long, "view": "base", work: "top"}[name]
		if want, is := id+" on "+parent, found[names[i]]; slices.Contains(gone, name) != (is == "") || is != "" && is != want {
			s.t.Errorf("%.20q is %q, want %q", name, is, want)
		}
		delete(found, name)
	}
	if len(found) > 0 || len(damage) > 0 {
		s.t.Errorf("besides there is %v, and damage: %v", found, damage)
	}
}
