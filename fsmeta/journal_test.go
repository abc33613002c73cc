package fsmeta

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// journalText writes a journal as text: its lines, each with what follows it.
// "+" a published line, "-" a whole line that isn't, "x" a damaged one, "X" a
// damaged one with its newline, "0" one that is NUL only, "s" the word that the
// journal is superseded, "~" garbage.
func journalText(t *testing.T, text string, synced uint64) []byte {
	t.Helper()
	b := append(encodeHeader(header{txn: 10, nextID: 1, prev: 7}), '\n')
	prev, txn := uint32(7), uint64(10)
	for _, c := range text {
		switch c {
		case 's':
			b = append(b, encodeSuperseded(txn, prev)...)
			continue
		case '~':
			b = append(b, "garbage"...)
			continue
		}
		txn++
		m := exampleMetadata()
		raw := encodeLine(&record{txn: txn, time: m.created, nextID: 9, synced: synced, changes: []change{{m.name, nil, m}}}, prev)
		_, prev, _ = verifyLine(raw)
		end := byte(0)
		switch c {
		case '+':
			end = '\n'
		case 'X':
			end = '\n'
			raw[20] ^= 1
		case 'x':
			raw[20] ^= 1
		case '0':
			clear(raw)
		}
		b = append(append(b, raw...), end)
	}
	return append(b, make([]byte, 600)...)
}

func TestScan(t *testing.T) {
	for _, c := range []struct {
		text      string
		synced    uint64
		lines     int
		published int
		what      string
	}{
		{"", 0, 0, 0, ""},
		{"+", 0, 1, 1, ""},
		{"++-", 0, 3, 2, ""},
		{"-+-", 0, 3, 2, ""},
		{"++s", 0, 2, 2, "superseded"},
		{"s", 0, 0, 0, "superseded"},
		{"+s~", 0, 1, 1, "bad"}, // garbage in the same breath
		{"+x", 0, 1, 1, "bad"},
		{"+~", 0, 1, 1, "bad"},
		{"+x-", 0, 1, 1, "bad"},
		{"+0-", 0, 1, 1, "bad"},
		{"+x-", 11, 1, 1, "bad"},
		{"+x-", 12, 1, 1, "damaged"}, // says that the bad one was synced
		{"+0-", 12, 1, 1, "damaged"},
		{"+X", 0, 1, 1, "damaged"}, // a newline says that it was on disk
		{"+X-", 0, 1, 1, "damaged"},
		{"+x+", 0, 1, 1, "damaged"},
		{"+0+", 0, 1, 1, "damaged"},
		{"x++", 0, 0, 0, "damaged"},
	} {
		data := journalText(t, c.text, c.synced)
		start := bytes.IndexByte(data, '\n') + 1
		s := scan(data[start:], int64(start), 10, 7)
		what := ""
		switch {
		case s.damaged:
			what = "damaged"
		case s.superseded:
			what = "superseded"
		case s.bad:
			what = "bad"
		}
		if len(s.lines) != c.lines || s.published != c.published || what != c.what {
			t.Errorf("%s, synced %d: %d lines, %d published, %q; want %d, %d, %q",
				c.text, c.synced, len(s.lines), s.published, what, c.lines, c.published, c.what)
		}
	}
}

func TestLineRoundTrip(t *testing.T) {
	before, after := exampleMetadata(), exampleMetadata()
	after.usage.Size, after.txn, after.labels = 5, 13, nil
	want := &record{txn: 13, time: time.Date(2026, 1, 1, 0, 0, 0, 9, time.UTC), nextID: 300, synced: 11, changes: []change{
		{"default/12/web", before, after}, {"default/12/web", nil, after}, {"default/12/web", before, nil},
	}}
	raw := encodeLine(want, 0xabcdef01)
	l, ok := parseLine(raw)
	if !ok || l.prev != 0xabcdef01 || l.txn != 13 {
		t.Fatalf("parseLine = %+v, %v", l, ok)
	}
	got, err := l.decode()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decode = %+v, %v, want %+v", got, err, want)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, ok := parseLine(bad); ok {
			t.Errorf("byte %d flipped from %q: not noticed", i, raw[i])
		}
	}
}

func TestHeader(t *testing.T) {
	h := header{txn: 5, nextID: 9, prev: 0x12345678}
	got, err := parseHeader(encodeHeader(h))
	if err != nil || got != h {
		t.Errorf("parseHeader = %+v, %v", got, err)
	}
	if got, err := parseHeader([]byte(`{"format":"fsmeta journal","version":1,"txn":5,"nextID":9}`)); err != nil || got.txn != 5 || got.nextID != 9 {
		t.Errorf("written by hand: %+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "{}", strings.Replace(string(encodeHeader(h)), `"txn":5`, `"txn":6`, 1),
		`{"format":"fsmeta journal","version":2,"txn":5,"nextID":9}`,
		`{"format":"fsmeta journal","version":1,"txn":5}`,
		`{"format":"fsmeta journal","version":1,"txn":5,"nextID":9,"prev":"x"}`,
	} {
		if got, err := parseHeader([]byte(bad)); err == nil {
			t.Errorf("%s: read as %+v", bad, got)
		}
	}
}

// The tail is read to its end, however the reads happen to be cut.
func TestReadFromFindsTheEnd(t *testing.T) {
	for _, lines := range []int{0, 1, 20, 31, 32, 33, 100} {
		data := journalText(t, strings.Repeat("-", lines), 0)
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer j.file.Close()
		buf, err := j.readFrom(j.start, false)
		if s := scan(buf, j.start, 10, 7); err != nil || len(s.lines) != lines || s.bad {
			t.Errorf("%d lines: found %d, bad %v, %v", lines, len(s.lines), s.bad, err)
		}
	}
}

func FuzzJournal(f *testing.F) {
	for _, text := range []string{"", "+-", "+x+", "++s", "+~", "+0-"} {
		b := append(encodeHeader(header{txn: 10, nextID: 1, prev: 7}), '\n')
		f.Add(append(b, text...), 3, byte(1))
	}
	f.Add(func() []byte { return encodeLine(&record{txn: 11, time: time.Unix(1, 0).UTC()}, 7) }(), 5, byte(0))
	f.Fuzz(func(t *testing.T, data []byte, at int, flip byte) {
		if h, err := parseHeader(data); err == nil && h.nextID == 0 {
			t.Errorf("%q: a header without nextID", data)
		}
		// Good lines, then whatever the fuzzer thinks of, then a good line of
		// later: the good ones are read, and nothing else is.
		good := encodeLine(&record{txn: 11, time: time.Unix(1, 0).UTC(), changes: []change{{"default/12/web", nil, exampleMetadata()}}}, 7)
		_, crc, _ := verifyLine(good)
		buf := append(append([]byte{}, good...), '\n')
		buf = append(buf, data...)
		s := scan(buf, 0, 10, 7)
		if len(s.lines) == 0 || !bytes.Equal(s.lines[0].raw, good) || !s.lines[0].newline {
			t.Fatalf("the good line was not read from %q", buf)
		}
		for _, l := range append(s.lines, s.stray...) {
			if sum := checksum(l.raw[:len(l.raw)-crcTailLen]); sum != l.crc {
				t.Errorf("%q: checksum %08x taken for %08x", l.raw, sum, l.crc)
			}
			if r, err := l.decode(); err == nil {
				encodeLine(r, crc)
			}
		}
		// One flipped bit in a good line is never read as anything.
		if at >= 0 && at < len(good) && flip != 0 {
			bad := bytes.Clone(good)
			bad[at] ^= flip
			if s := scan(append(bad, '\n'), 0, 10, 7); len(s.lines) != 0 {
				t.Errorf("%q was read from %q", s.lines[0].raw, bad)
			}
		}
	})
}
