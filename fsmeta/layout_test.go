package fsmeta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// The code reads and writes the examples in layout.md byte by byte. They stand there
// behind comments such as <!-- example: journal -->.

const (
	exampleName   = "default/2/web"
	exampleParent = "sha256:9a0c36c8d1f6"
	exampleFile   = "metadata.json of " + exampleName + " on " + exampleParent
)

// layoutText returns the part of layout.md that follows an example's comment.
func layoutText(t *testing.T, example string) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(must(os.ReadFile("../layout.md"))), "<!-- example: "+example+" -->\n")
	if !ok {
		t.Fatalf("layout.md has no example %q", example)
	}
	return rest
}

// layoutBlock returns the fenced block behind an example's comment.
func layoutBlock(t *testing.T, example string) []byte {
	t.Helper()
	fence, rest, _ := strings.Cut(layoutText(t, example), "\n")
	block, _, ok := strings.Cut(rest, "```\n")
	if !ok || !strings.HasPrefix(fence, "```") {
		t.Fatalf("layout.md has no block behind the example %q", example)
	}
	return []byte(block)
}

// layoutSays requires that layout.md says all of this behind an example, whatever its line breaks.
func layoutSays(t *testing.T, example string, want ...string) {
	t.Helper()
	text := strings.Join(strings.Fields(layoutText(t, example)), " ")
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("layout.md does not say %q", w)
		}
	}
}

// crcOf is the checksum as the format writes it.
func crcOf(data []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

// layoutLines returns the header of the example's journal and its lines, all of them
// published.
func layoutLines(t *testing.T) (format.Header, []format.Line) {
	t.Helper()
	data := layoutBlock(t, "journal")
	first, _, _ := bytes.Cut(data, []byte("\n"))
	h, err := format.ParseHeader(first)
	if err != nil || !h.Sealed {
		t.Fatalf("header: %+v, %v", h, err)
	}
	path := filepath.Join(t.TempDir(), format.JournalFile)
	filled := append(bytes.Clone(data), make([]byte, int(h.Filled)-len(data))...) // its NUL bytes are left out there
	if err := os.WriteFile(path, filled, format.FileMode); err != nil {
		t.Fatal(err)
	}
	j := must(journal.Open(path, false))
	defer j.Close()
	tail := must(j.Scan(true))
	if err := j.Damage(); err != nil || tail.Torn || len(tail.Fresh) != bytes.Count(data, []byte("\n"))-1 || j.Published() != j.Tip() || j.Header() != h {
		t.Fatalf("%d lines, published up to %d, %+v, %v", len(tail.Fresh), j.Published(), j.Header(), err)
	}
	return h, tail.Fresh
}

func TestLayoutNames(t *testing.T) {
	rows := 0
	for row := range strings.Lines(layoutText(t, "names")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "| "), " | ")
		if !strings.HasPrefix(row, "|") {
			break
		}
		if len(cells) != 2 || !strings.Contains(row, "`") {
			continue
		}
		rows++
		name, entry := layoutString(t, cells[0]), layoutString(t, cells[1])
		if got := format.EncodeName(name); got != entry {
			t.Errorf("the entry of %.40q is %q, layout.md says %q", name, got, entry)
		}
	}
	if rows != 17 { // as many as the tests of package format have
		t.Errorf("layout.md has %d vectors", rows)
	}
}

// layoutString reads a cell of the table, such as `"x" * 190 + "~85"`.
func layoutString(t *testing.T, cell string) string {
	t.Helper()
	var b strings.Builder
	for term := range strings.SplitSeq(strings.Trim(cell, "`"), " + ") {
		text, times, repeated := strings.Cut(term, " * ")
		n, s := 1, ""
		err := json.Unmarshal([]byte(text), &s)
		if err == nil && repeated {
			n, err = strconv.Atoi(times)
		}
		if err != nil {
			t.Fatalf("%s: %v", cell, err)
		}
		b.WriteString(strings.Repeat(s, n))
	}
	return b.String()
}

func TestLayoutMetadata(t *testing.T) {
	data := layoutBlock(t, exampleFile)
	m, err := format.DecodeFile(data)
	if err != nil {
		t.Fatal(err)
	}
	if got := format.EncodeFile(m); m.Name != exampleName || m.Parent != exampleParent || !bytes.Equal(got, data) {
		t.Errorf("it would be written as\n%s", got)
	}
	rest := data[26:]
	if string(data[:15]) != "{\n  \"crc32c\": \"" || string(data[15:23]) != crcOf(rest) || string(data[23:26]) != "\",\n" {
		t.Errorf("the checksum of the %d bytes behind it is %s", len(rest), crcOf(rest))
	}
	layoutSays(t, exampleFile, "the 15 bytes", "then 8 digits; then the 3 bytes", "These 26 bytes",
		strconv.Itoa(len(rest))+" bytes of the file", "`"+crcOf(rest)+"`")
	_, lines := layoutLines(t)
	last := must(lines[len(lines)-1].Decode())
	if len(last.Changes) != 1 || !reflect.DeepEqual(last.Changes[0].After, m) {
		t.Errorf("the journal's last line says otherwise: %+v", last)
	}
}

func TestLayoutJournal(t *testing.T) {
	h, lines := layoutLines(t)
	header, _, _ := bytes.Cut(layoutBlock(t, "journal"), []byte("\n"))
	if got := format.EncodeHeader(h); !bytes.Equal(got, header) {
		t.Errorf("the header would be written as\n%s", got)
	}
	names := h.Names
	for i := range lines {
		txn := must(lines[i].Decode())
		if got := format.EncodeLine(txn, lines[i].Prev); !bytes.Equal(got, lines[i].Raw) {
			t.Errorf("a line would be written as\n%s", got)
		}
		if names = names.After(txn.Changes); lines[i].Names != names {
			t.Errorf("line %d says that the names are %+v, they are %+v", txn.Number, lines[i].Names, names)
		}
	}
	last := lines[len(lines)-1]
	covered := last.Raw[:len(last.Raw)-21]
	layoutSays(t, "journal", "the 21 bytes", fmt.Sprintf("has %d bytes; the first %d of them", len(last.Raw), len(covered)),
		"have the checksum `"+crcOf(covered)+"`", fmt.Sprintf("up to `\"prev\":\"%08x\"`", last.Prev))

	mark := bytes.TrimSpace(layoutBlock(t, "superseded"))
	if want := format.EncodeSuperseded(last.Txn, last.CRC); !bytes.Equal(mark, want) {
		t.Errorf("the superseded line is\n%s, layout.md has\n%s", want, mark)
	}
	raw := bytes.TrimSpace(layoutBlock(t, "header"))
	next, err := format.ParseHeader(raw)
	if err != nil || next.Txn != last.Txn || next.Prev != last.CRC || next.Names != last.Names || next.NextID != last.NextID || !bytes.Equal(format.EncodeHeader(next), raw) {
		t.Errorf("the next header is %+v, %v", next, err)
	}
}

// A header as docs/repair.md has it written by hand is read, and a store goes on with it.
func TestLayoutHeaderByHand(t *testing.T) {
	_, rest, ok := strings.Cut(string(must(os.ReadFile("../docs/repair.md"))), `printf '{"format":"fsmeta journal"`)
	text, _, closed := strings.Cut(rest, `'`)
	if !ok || !closed || !strings.HasSuffix(text, `\n`) {
		t.Fatal("docs/repair.md has no header to be written by hand")
	}
	text = fmt.Sprintf(`{"format":"fsmeta journal"`+strings.TrimSuffix(text, `\n`), 12, 1000257)
	h, err := format.ParseHeader([]byte(text))
	if want := (format.Header{Txn: 12, NextID: 1000257}); err != nil || h != want {
		t.Errorf("%q is read as %+v, %v", text, h, err)
	}
	dir := exampleStore(t)
	if err := os.WriteFile(filepath.Join(dir, format.JournalFile), []byte(text+"\n"), format.FileMode); err != nil {
		t.Fatal(err)
	}
	s := must(fsmeta.Open(dir))
	defer s.Close()
	err = s.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		active, err := s.CreateActive(ctx, "new", exampleParent, false)
		if active.ID != "1000257" {
			t.Errorf("identifier %s", active.ID)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if last := must(s.LastTransaction(t.Context())); last <= 12 {
		t.Errorf("the last transaction is %d", last)
	}
}

// The verifier in layout.md tells what is right, what is damaged, and what a person has written, which
// has no checksum.
func TestLayoutVerifier(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is missing: install it")
	}
	_, rest, _ := strings.Cut(string(must(os.ReadFile("../layout.md"))), "### Verifying by other means\n")
	_, rest, _ = strings.Cut(rest, "```python\n")
	script, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("layout.md has no verifier")
	}
	change := func(path, old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, path)
			text := string(must(os.ReadFile(path)))
			if !strings.Contains(text, old) {
				t.Fatalf("there is no %q in %s", old, path)
			}
			overwrite(t, path, strings.Replace(text, old, new, 1))
		}
	}
	parent := "snapshots/" + exampleParent + "/metadata.json"
	byHand := func(t *testing.T, dir string) {
		data := must(os.ReadFile(filepath.Join(dir, parent)))
		overwrite(t, filepath.Join(dir, parent), "{\n"+string(data[26:]))
	}
	header := func(t *testing.T, dir string) {
		overwrite(t, filepath.Join(dir, "journal"), `{"format":"fsmeta journal","version":2,"nextID":9}`+"\n")
	}
	for name, test := range map[string]struct {
		change func(*testing.T, string)
		want   string // marks of the header, the entries and the number
	}{
		"whole":              {func(*testing.T, string) {}, "ok ok ok ok"},
		"edited by hand":     {byHand, "ok ok -- ok"},
		"a byte changed":     {change(parent, "committed", "cOmmitted"), "ok ok BAD ok"},
		"checksum elsewhere": {change(parent, `  "crc32c"`, ` "crc32c"`), "ok ok BAD ok"},
		"no JSON":            {change(parent, "}", ""), "ok ok BAD BAD"},
		"no object":          {func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, parent), "[]") }, "ok ok BAD BAD"},
		"header by hand":     {header, "-- ok ok --"},
		"header changed":     {change("journal", `"count":2`, `"count":3`), "BAD ok ok --"},
	} {
		dir := exampleStore(t)
		test.change(t, dir)
		out, err := exec.Command(python, "-c", script, dir).CombinedOutput()
		var marks []string
		for line := range strings.Lines(string(out)) {
			marks = append(marks, strings.Fields(line)[0])
		}
		if got := strings.Join(marks, " "); err != nil || got != test.want {
			t.Errorf("%s: %v, want %s:\n%s", name, err, test.want, out)
		}
	}
}

// exampleStore makes the store of the example, and closes it.
func exampleStore(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	s := must(fsmeta.Open(dir))
	defer s.Close()
	const key = "default/1/extract-81 sha256:ab"
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := s.CreateActive(ctx, key, "", false); return err },
		func(ctx context.Context) error { _, err := s.Commit(ctx, key, exampleParent); return err },
		func(ctx context.Context) error {
			_, err := s.CreateActive(ctx, exampleName, exampleParent, false)
			return err
		},
	} {
		if err := s.WithTransaction(t.Context(), true, do); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // which leaves nothing in staging/
		t.Fatal(err)
	}
	return dir
}

// The code makes the example store of layout.md.
func TestLayoutTree(t *testing.T) {
	dir := exampleStore(t)
	var got []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := path[len(dir)+1:]
		switch d.Type() {
		case fs.ModeDir:
			name += "/"
		case fs.ModeSymlink:
			name += " -> " + must(os.Readlink(path))
		}
		got = append(got, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(layoutBlock(t, "tree"))), "\n")[1:]
	if !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("the store has\n%s\nlayout.md has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, want := must(os.ReadFile(filepath.Join(dir, format.LayoutFile))), layoutBlock(t, "layout"); !bytes.Equal(got, want) {
		t.Errorf("layout is %q, layout.md has %q", got, want)
	}
}
