package fsmeta

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What layout.md shows is what the code reads and writes: its examples stand there
// behind comments such as <!-- example: journal -->.

// layoutText returns what follows an example's comment in layout.md.
func layoutText(t *testing.T, example string) string {
	t.Helper()
	doc, err := os.ReadFile("../layout.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "<!-- example: "+example+" -->\n")
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

// layoutJournal returns the example's header and its lines, which must be all that
// it holds.
func layoutJournal(t *testing.T) (header, []line) {
	t.Helper()
	data := layoutBlock(t, "journal")
	raw, newline := cutLine(data)
	h, err := parseHeader(raw)
	if err != nil || !newline {
		t.Fatalf("header: %+v, newline %v, %v", h, newline, err)
	}
	if got := encodeHeader(h); !bytes.Equal(got, raw) {
		t.Errorf("the header would be written as %s", got)
	}
	start := len(raw) + 1
	s := scan(append(data[start:], 0), int64(start), h.txn, h.prev) // its NUL bytes are left out there
	if s.bad || len(s.lines) == 0 || s.published != len(s.lines) || len(s.lines) != bytes.Count(data, []byte("\n"))-1 {
		t.Fatalf("%d lines, %d published, bad %v", len(s.lines), s.published, s.bad)
	}
	return h, s.lines
}

func TestLayoutNames(t *testing.T) {
	var rows []struct{ name, entry string }
	for row := range strings.Lines(layoutText(t, "names")) {
		cells := strings.Split(strings.TrimSpace(row), " | ")
		if !strings.HasPrefix(row, "|") {
			break
		}
		if len(cells) == 2 && strings.Contains(row, "`") {
			rows = append(rows, struct{ name, entry string }{
				layoutString(t, strings.TrimPrefix(cells[0], "| ")),
				layoutString(t, strings.TrimSuffix(cells[1], " |")),
			})
		}
	}
	if !slices.Equal(rows, nameVectors) {
		t.Errorf("layout.md has the vectors\n%.900q, the tests have\n%.900q", rows, nameVectors)
	}
	for _, row := range rows {
		if got := encodeName(row.name); got != row.entry {
			t.Errorf("encodeName(%.40q) = %q, layout.md says %q", row.name, got, row.entry)
		}
	}
}

// layoutString reads what the table writes, such as `"x" * 190 + "~85"`.
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
	const name, parent = "default/2/web", "sha256:9a0c36c8d1f6"
	data := layoutBlock(t, "metadata.json of "+name+" on "+parent)
	m, err := decodeFile(data, parent)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.encodeFile(); m.name != name || !bytes.Equal(got, data) {
		t.Errorf("it would be written as\n%s", got)
	}
	if _, err := decodeFile(data, ""); err == nil {
		t.Error("the checksum does not cover the parent's name")
	}
	sum := appendCRC(nil, fileChecksum(data[crcLineLen:], parent))
	alone := appendCRC(nil, checksum(data[crcLineLen:]))
	text := layoutText(t, "metadata.json of "+name+" on "+parent)
	for _, want := range []string{
		"the 15 bytes", "These 26 bytes", strconv.Itoa(len(data)-crcLineLen) + " bytes of the file",
		"the " + strconv.Itoa(len(parent)) + " bytes `" + parent + "`: `" + string(sum) + "`", "`" + string(alone) + "`",
	} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("layout.md does not say %q", want)
		}
	}
	_, lines := layoutJournal(t)
	r, err := lines[len(lines)-1].decode()
	if err != nil || len(r.changes) != 1 || !reflect.DeepEqual(r.changes[0].after, m) {
		t.Errorf("the journal's last line says otherwise: %+v, %v", r, err)
	}
}

func TestLayoutJournal(t *testing.T) {
	_, lines := layoutJournal(t)
	for _, l := range lines {
		r, err := l.decode()
		if err != nil {
			t.Fatal(err)
		}
		if got := encodeLine(r, l.prev); !bytes.Equal(got, l.raw) {
			t.Errorf("a line would be written as\n%s", got)
		}
	}
	last := lines[len(lines)-1]
	text := strings.Join(strings.Fields(layoutText(t, "journal")), " ")
	for _, want := range []string{
		"has " + strconv.Itoa(len(last.raw)) + " bytes", "the first " + strconv.Itoa(len(last.raw)-crcTailLen) + " of them",
		"`" + string(appendCRC(nil, last.crc)) + "`",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("layout.md does not say %q", want)
		}
	}

	word := bytes.TrimSpace(layoutBlock(t, "superseded"))
	if want := encodeSuperseded(last.txn, last.crc); !bytes.Equal(word, want) {
		t.Errorf("the superseded line is\n%s, layout.md has\n%s", want, word)
	}
	raw := bytes.TrimSpace(layoutBlock(t, "header"))
	next, err := parseHeader(raw)
	if err != nil || next.txn != last.txn || next.prev != last.crc || !bytes.Equal(encodeHeader(next), raw) {
		t.Errorf("the next header is %+v, %v", next, err)
	}
}

// A header as the repair in layout.md writes it is read.
func TestLayoutHeaderByHand(t *testing.T) {
	_, rest, ok := strings.Cut(layoutText(t, "journal"), "printf '")
	for ok && !strings.HasPrefix(rest, `{"format":"fsmeta journal"`) {
		_, rest, ok = strings.Cut(rest, "printf '")
	}
	text, _, _ := strings.Cut(rest, `\n'`)
	text = strings.Replace(strings.Replace(text, "%d", "12", 1), "%d", "1000257", 1)
	if h, err := parseHeader([]byte(text)); err != nil || h != (header{txn: 12, nextID: 1000257}) {
		t.Errorf("%q is read as %+v, %v", text, h, err)
	}
}

// The example store of layout.md is what the code makes.
func TestLayoutTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const layer, key = "sha256:9a0c36c8d1f6", "default/1/extract-81 sha256:ab"
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := s.CreateActive(ctx, key, "", false); return err },
		func(ctx context.Context) error { _, err := s.Commit(ctx, key, layer); return err },
		func(ctx context.Context) error {
			_, err := s.CreateActive(ctx, "default/2/web", layer, false)
			return err
		},
	} {
		if err := s.WithTransaction(context.Background(), true, do); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil { // which leaves nothing in staging/
		t.Fatal(err)
	}
	var got []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := path[len(dir)+1:]
		switch d.Type() {
		case fs.ModeDir:
			name += "/"
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			name += " -> " + target
		}
		got = append(got, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := strings.Split(strings.TrimSpace(string(layoutBlock(t, "tree"))), "\n")[1:]
	if !slices.Equal(got, want) {
		t.Errorf("the store has\n%s\nlayout.md has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	layout, err := os.ReadFile(filepath.Join(dir, layoutFile))
	if want := layoutBlock(t, "layout"); err != nil || !bytes.Equal(layout, want) {
		t.Errorf("layout is %q, %v, layout.md has %q", layout, err, want)
	}
}
