package fsmeta_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fsmeta/fsmeta/fsmeta"
	internaldisk "github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

// The corpus is stores that were made once and never change: later versions of this package, and
// other programs, must read them as their listings say. testdata/corpus/README.md describes it;
// corpus_make_test.go made it.
const corpusDir = "testdata/corpus"

var makeCorpus = flag.Bool("make-corpus", false, "make the stores of the corpus that are missing, and its README.md")

// storeListing is what reads of a store give. Its JSON is that of the corpus and of examples/reader.py.
type storeListing struct {
	Snapshots  []listed
	Damaged    []string // parts, as paths in the store: snapshots/ENTRY, snapshots or journal
	Unreadable string   // the part without which the store doesn't open
	Error      string   // what the error of Open is then: "damaged", "no store" or "permission"
	Txn        uint64   // at which it was read
}

// listed is a snapshot in a listing.
type listed struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Parent   string            `json:"parent"`
	Kind     string            `json:"kind"`
	Readonly bool              `json:"readonly"`
	Labels   map[string]string `json:"labels"`
	Created  string            `json:"created"`
	Updated  string            `json:"updated"`
	Usage    fsmeta.Usage      `json:"usage"`
	Txn      uint64            `json:"txn"`
}

func listedOf(info fsmeta.Info, txn uint64) listed {
	labels := info.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return listed{info.Name, info.ID, info.Parent, info.Kind.String(), info.Readonly, labels,
		info.Created.Format(time.RFC3339Nano), info.Updated.Format(time.RFC3339Nano), info.Usage, txn}
}

// jsonl returns the listing as the corpus has it: a line for each snapshot, and a last one of what is
// wrong.
func (l storeListing) jsonl(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, s := range l.Snapshots {
		succeed(t, e.Encode(s))
	}
	switch {
	case l.Unreadable != "":
		succeed(t, e.Encode(map[string]string{"unreadable": l.Unreadable, "error": l.Error}))
	case len(l.Damaged) > 0:
		succeed(t, e.Encode(map[string][]string{"damaged": l.Damaged}))
	}
	return b.String()
}

// summary returns the listing in a line: the snapshots, and behind "!" what is wrong.
func (l storeListing) summary() string {
	var items []string
	for _, s := range l.Snapshots {
		items = append(items, item(s.Name, s.Parent, s.Kind, s.Readonly))
	}
	text := strings.Join(items, "; ")
	if l.Unreadable != "" {
		return "! " + l.Error + ": " + l.Unreadable
	}
	if len(l.Damaged) > 0 {
		text = strings.TrimSpace(text + " ! " + strings.Join(l.Damaged, ", "))
	}
	return text
}

// inStore returns a path as a listing has it: relative to the store, a snapshot's directory in place of
// what is in it, bytes that are no UTF-8 as \xff.
func inStore(t testing.TB, dir, path string) string {
	t.Helper()
	rel, err := filepath.Rel(dir, path)
	succeed(t, err)
	if parts := strings.Split(rel, "/"); parts[0] == "snapshots" {
		rel = strings.Join(parts[:min(len(parts), 2)], "/")
	}
	var b strings.Builder
	for i := 0; i < len(rel); {
		r, n := utf8.DecodeRuneInString(rel[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, rel[i])
		} else {
			b.WriteString(rel[i : i+n])
		}
		i += n
	}
	return b.String()
}

// libraryListing reads a store with this package.
func libraryListing(t testing.TB, dir string) (l storeListing) {
	t.Helper()
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		var damage *fsmeta.DamagedError
		switch is := errors.Is(err, fsmeta.ErrDamaged); {
		case is && errors.As(err, &damage):
			l.Unreadable, l.Error = inStore(t, dir, damage.Path), "damaged"
		case errors.Is(err, fsmeta.ErrNotStore) && !is:
			l.Unreadable, l.Error = "layout", "no store"
		default:
			return forbidden(t, dir, err)
		}
		return l
	}
	defer s.Close()
	ctx, tx, err := s.TransactionContext(bg, false)
	succeed(t, err)
	damaged := map[string]bool{}
	for info, err := range s.All(ctx) {
		var damage *fsmeta.DamagedError
		switch {
		case err == nil:
			l.Snapshots = append(l.Snapshots, listedOf(info, 0))
		case errors.As(err, &damage):
			damaged[inStore(t, dir, damage.Path)] = true
		default:
			succeed(t, tx.Commit())
			return forbidden(t, dir, err)
		}
	}
	txns := txnsOf(t, dir)
	for i := range l.Snapshots {
		l.Snapshots[i].Txn = txns[l.Snapshots[i].Name]
	}
	for path := range damaged {
		l.Damaged = append(l.Damaged, path)
	}
	slices.Sort(l.Damaged)
	l.Txn, err = s.LastTransaction(ctx)
	succeed(t, err, tx.Commit())

	walked, err := (&store{Store: s}).walk(bg)
	if len(walked) != len(l.Snapshots) || (err != nil) != (len(damaged) > 0) || err != nil && !errors.Is(err, fsmeta.ErrDamaged) {
		t.Errorf("%s: All finds %d snapshots, Walk %d and %v", dir, len(l.Snapshots), len(walked), err)
	}
	return l
}

// forbidden is the listing of a store that may not be read, as err must say.
func forbidden(t testing.TB, dir string, err error) storeListing {
	t.Helper()
	var failed *fs.PathError
	if !errors.Is(err, fs.ErrPermission) || !errors.As(err, &failed) {
		t.Fatalf("read %s: %v", dir, err)
	}
	return storeListing{Unreadable: inStore(t, dir, failed.Path), Error: "permission"}
}

// txnsOf returns the transaction that wrote each snapshot's version, which no Info says.
func txnsOf(t testing.TB, dir string) map[string]uint64 {
	t.Helper()
	root, err := internaldisk.OpenDir(dir, true)
	succeed(t, err)
	defer root.Close()
	tr, err := tree.Open(root)
	succeed(t, err)
	defer tr.Close()
	v, err := view.Open(dir, tr, false)
	succeed(t, err)
	defer v.Close()
	var r view.Reader
	succeed(t, v.Begin(&r))
	defer v.End(&r)
	txns := map[string]uint64{}
	succeed(t, v.Walk(r.Point, nil, func(m *format.Snapshot) error { txns[m.Name] = m.Txn; return nil },
		func(view.Damage) error { return nil }))
	return txns
}

// pack writes a store as an archive. What it has of a store depends on the store alone.
func pack(t testing.TB, dir string, to io.Writer) {
	t.Helper()
	z, err := gzip.NewWriterLevel(to, gzip.BestCompression)
	succeed(t, err)
	archive := tar.NewWriter(z)
	succeed(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // in byte order of the entries
		rel, rerr := filepath.Rel(dir, path)
		if err = errors.Join(err, rerr); err != nil || path == dir {
			return err
		}
		h := &tar.Header{Name: rel, Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		var content []byte
		switch d.Type() {
		case fs.ModeDir:
			h.Typeflag, h.Mode = tar.TypeDir, 0o700
		case fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
			h.Linkname, err = os.Readlink(path)
		case fs.ModeNamedPipe:
			h.Typeflag = tar.TypeFifo
		default:
			h.Typeflag = tar.TypeReg
			content, err = os.ReadFile(path)
			h.Size = int64(len(content))
		}
		if err == nil {
			err = archive.WriteHeader(h)
		}
		if err == nil {
			_, err = archive.Write(content)
		}
		return err
	}))
	succeed(t, archive.Close(), z.Close())
}

// unpack makes a store of an archive, in a new directory.
func unpack(t testing.TB, name string) (dir string) {
	t.Helper()
	dir = filepath.Join(fastDir(t), "store")
	file, err := os.Open(filepath.Join(corpusDir, name+".tar.gz"))
	succeed(t, err)
	defer file.Close()
	z, err := gzip.NewReader(file)
	succeed(t, err, os.Mkdir(dir, 0o700))
	archive := tar.NewReader(z)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return dir
		}
		succeed(t, err)
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.Mkdir(path, 0o700)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		case tar.TypeFifo:
			err = makePipe(path)
		default:
			var content []byte
			if content, err = io.ReadAll(archive); err == nil {
				err = os.WriteFile(path, bytes.TrimRight(content, "\x00"), 0o600)
			}
			err = errors.Join(err, os.Truncate(path, h.Size))
		}
		succeed(t, err)
	}
}

// corpus returns the names of the stores, in order.
func corpus(t testing.TB) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(corpusDir, "*.tar.gz"))
	succeed(t, err)
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".tar.gz"))
	}
	if len(names) == 0 {
		t.Fatal("there is no corpus")
	}
	return names
}

// Each store of the corpus is read just as its listing says, by reads that change nothing. A check
// finds what a listing reports as damaged, and neither that nor a repair panics.
func TestCorpus(t *testing.T) {
	if *makeCorpus {
		makeStores(t)
	}
	succeed(t, corpusIsDescribed(t))
	for _, name := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, name)
			before := fingerprint(t, dir)
			got := libraryListing(t, dir)
			equal(t, "listing", got.jsonl(t), readFile(t, filepath.Join(corpusDir, name+".jsonl")))
			findings, err := fsmeta.Check(bg, dir, nil)
			serious := slices.ContainsFunc(findings, func(f fsmeta.Finding) bool { return !f.Harmless })
			if bad := len(got.Damaged) > 0 || got.Unreadable != ""; bad && !serious && err == nil {
				t.Errorf("a check finds %v, and the listing has %q", findings, got.summary())
			}
			equal(t, "the store after reads", fingerprint(t, dir), before)

			_, err = fsmeta.Repair(bg, dir, nil)
			t.Logf("repair: %v", err)
			if after, err := fsmeta.Open(dir, fsmeta.ReadOnly()); err == nil {
				_, _ = (&store{Store: after}).walk(bg)
				succeed(t, after.Close())
			}
		})
	}
}
