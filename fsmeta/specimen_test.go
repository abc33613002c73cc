package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// specimen is a store before it is damaged.
type specimen struct {
	parts   parts
	infos   map[string]fsmeta.Info
	actives map[string]fsmeta.Active
	lines   map[string]bool // names that the journal decides
	removed map[string]bool // names that were removed by lines
	maxID   uint64          // handed out so far
}

var (
	hashedName = "long/" + strings.Repeat("é", 150) // with an entry of the hashed form
	escapeName = "é/work"
)

// parts is everything in a store, by the paths below its directory.
type parts map[string]part

type part struct {
	kind    fs.FileMode // fs.ModeDir, fs.ModeSymlink or 0
	content string      // of a file, or where the symlink points
}

// readParts reads a directory.
func readParts(t testing.TB, dir string) parts {
	t.Helper()
	p := parts{}
	succeed(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		n := part{kind: d.Type()}
		switch d.Type() {
		case 0:
			data, rerr := os.ReadFile(path)
			n.content, err = string(data), rerr
		case fs.ModeSymlink:
			n.content, err = os.Readlink(path)
		}
		p[path[len(dir)+1:]] = n
		return err
	}))
	return p
}

// write makes a directory of the parts, in a place of its own.
func (p parts) write(t testing.TB, root string) string {
	t.Helper()
	dir, err := os.MkdirTemp(root, "store")
	for _, path := range slices.Sorted(maps.Keys(p)) {
		n, at := p[path], dir+"/"+path
		switch n.kind {
		case fs.ModeDir:
			err = errors.Join(err, os.Mkdir(at, format.DirMode))
		case fs.ModeSymlink:
			err = errors.Join(err, os.Symlink(n.content, at))
		default:
			err = errors.Join(err, os.WriteFile(at, []byte(n.content), format.FileMode))
		}
	}
	succeed(t, err)
	return dir
}

// under returns the paths of a part and of all that is in it.
func (p parts) under(path string) (paths []string) {
	for at := range p {
		if at == path || strings.HasPrefix(at, path+"/") {
			paths = append(paths, at)
		}
	}
	return paths
}

// with returns a copy in which one part is another.
func (p parts) with(path string, n part) parts {
	q := maps.Clone(p)
	q[path] = n
	return q
}

// without returns a copy that lacks a part and everything in it.
func (p parts) without(path string) parts {
	q := maps.Clone(p)
	for _, at := range p.under(path) {
		delete(q, at)
	}
	return q
}

// exchanged returns a copy in which two parts have changed places.
func (p parts) exchanged(a, b string) parts {
	q := p.without(a).without(b)
	for _, at := range p.under(a) {
		q[b+at[len(a):]] = p[at]
	}
	for _, at := range p.under(b) {
		q[a+at[len(b):]] = p[at]
	}
	return q
}

// fastDir returns a directory for many small files, in memory where there is one.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fsmeta-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { succeed(t, os.RemoveAll(dir)) })
	return dir
}

// newSpecimen makes a store: base < hashedName < top < escapeName, a view of base, and one alone. It is
// closed, or, if killed, as its process would leave it with six transactions in the journal.
func newSpecimen(t testing.TB, killed bool) *specimen {
	t.Helper()
	root := fastDir(t)
	dir := filepath.Join(root, "original")
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	do := func(step func(ctx context.Context) error) {
		t.Helper()
		succeed(t, s.WithTransaction(t.Context(), true, step))
	}
	add := func(key, parent string, readonly bool, opts ...fsmeta.SnapshotOption) {
		t.Helper()
		do(func(ctx context.Context) error {
			_, err := s.CreateWith(ctx, key, parent, readonly, opts...)
			return err
		})
	}
	layer := func(name, parent string, opts ...fsmeta.SnapshotOption) {
		t.Helper()
		add("k", parent, false)
		do(func(ctx context.Context) error { _, err := s.CommitWith(ctx, "k", name, opts...); return err })
	}
	labels := fsmeta.WithLabels(map[string]string{"containerd.io/gc.root": "2026", "ü": "ß"})
	layer("base", "", labels, fsmeta.WithUsage(fsmeta.Usage{Inodes: 3, Size: 4096}))
	layer(hashedName, "base")
	add("alone", "", false, labels)
	if killed {
		succeed(t, s.Close())
		s, err = fsmeta.Open(dir)
		succeed(t, err)
	}
	layer("top", hashedName)
	add("view", "base", true)
	add(escapeName, "top", false)
	add("gone", "", false)
	do(func(ctx context.Context) error { _, err := s.Remove(ctx, "gone"); return err })
	do(func(ctx context.Context) error {
		_, err := s.SetUsage(ctx, escapeName, fsmeta.Usage{Inodes: 5, Size: 6})
		return err
	})
	sp := &specimen{lines: map[string]bool{}, removed: map[string]bool{}}
	sp.maxID = newID(t, &local{store: s})
	if killed {
		sp.parts = readParts(t, dir)
	}
	if succeed(t, s.Close()); !killed {
		sp.parts = readParts(t, dir)
	}
	for _, path := range sp.parts.under("staging") {
		if path != "staging" {
			delete(sp.parts, path) // kept files are no part of the test
		}
	}
	sp.learn(t, sp.parts.write(t, root))
	sp.shorten(t)
	if len(sp.infos) != 6 || killed != (len(sp.lines) == 5) {
		t.Fatalf("the store is not as it should be: %v, lines about %v", sp.infos, sp.lines)
	}
	return sp
}

// learn reads the undamaged store, and keeps the answers.
func (sp *specimen) learn(t testing.TB, dir string) {
	t.Helper()
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	succeed(t, err)
	defer s.Close()
	sp.infos, sp.actives = map[string]fsmeta.Info{}, map[string]fsmeta.Active{}
	for info, err := range s.All(t.Context()) {
		succeed(t, err)
		sp.infos[info.Name] = info
		if info.Kind == fsmeta.KindActive {
			sp.actives[info.Name], err = s.GetActive(t.Context(), info.Name)
			succeed(t, err)
		}
	}
}

// shorten writes the journal anew with few NUL bytes behind its lines, and notes the names in them.
func (sp *specimen) shorten(t testing.TB) {
	t.Helper()
	text := strings.TrimRight(sp.parts["journal"].content, "\x00")
	raw := bytes.Split([]byte(strings.TrimSuffix(text, "\n")), []byte("\n"))
	filled := uint64(len(text) + 500)
	h, err := format.ParseHeader(raw[0])
	succeed(t, err)
	h.Filled = filled
	out, prev := append(format.EncodeHeader(h), '\n'), h.Prev
	for _, line := range raw[1:] {
		l, ok := format.ParseLine(line)
		if !ok {
			t.Fatalf("no line: %s", line)
		}
		txn, err := l.Decode()
		succeed(t, err)
		txn.Filled = filled
		line = format.EncodeLine(txn, prev)
		l, _ = format.ParseLine(line)
		prev, out = l.CRC, append(append(out, line...), '\n')
		for _, c := range txn.Changes {
			sp.lines[c.Name] = true
			if _, there := sp.infos[c.Name]; !there {
				sp.removed[c.Name] = true
			}
		}
	}
	sp.parts["journal"] = part{content: string(out) + strings.Repeat("\x00", int(filled)-len(out))}
}
