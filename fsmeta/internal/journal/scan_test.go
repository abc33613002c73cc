package journal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// verdict is what Scan says about a file.
type verdict struct {
	lines, published int
	superseded, torn bool
	damage           string
}

func (v verdict) String() string {
	return fmt.Sprintf("%d lines, %d published, superseded %v, torn %v, damage %q", v.lines, v.published, v.superseded, v.torn, v.damage)
}

// bench is a file with content that a test changes many times.
type bench struct {
	store
	file *os.File
}

func newBench(t testing.TB) *bench {
	s := newStore(t)
	file, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = file.Close() })
	return &bench{s, file}
}

// examine scans a file with that content.
func (b *bench) examine(t testing.TB, data []byte) verdict {
	t.Helper()
	must(t, b.file.Truncate(int64(len(data))))
	_, err := b.file.WriteAt(data, 0)
	must(t, err)
	return b.scan(t)
}

func (b *bench) scan(t testing.TB) (v verdict) {
	t.Helper()
	f, err := Open(b.path, false)
	if err != nil {
		if fault.DamageOf(err) == nil {
			t.Fatal(err)
		}
		v.damage = err.Error()
		return v
	}
	tail, err := f.Scan(true)
	if err != nil {
		t.Fatal(err)
	}
	v = verdict{lines: len(tail.Fresh), published: int(f.Published() - f.Header().Txn), superseded: tail.Superseded, torn: tail.Torn}
	if err := f.Damage(); err != nil {
		v.damage = err.Error()
		if fault.DamageOf(err).Path != b.path || !strings.Contains(v.damage, "writes need the journal repaired") {
			t.Errorf("damage %v", err)
		}
	}
	must(t, f.Close())
	return v
}

// encode writes a journal as text: its lines, each with what follows it. "+" is a published line,
// "-" a whole one that isn't, "x" one with a changed byte, "X" such a one with its newline, "0"
// one that is NUL only, "h" one without its head, "t" one without its tail, "s" the superseded
// mark, "~" other bytes, "!" a whole line of another journal.
func encode(text string, synced uint64) []byte {
	b := append(format.EncodeHeader(format.Header{Txn: 10, NextID: 1, Prev: 7, Filled: 500}), '\n')
	prev, number := uint32(7), uint64(10)
	for _, c := range text {
		switch c {
		case 's':
			b = append(b, format.EncodeSuperseded(number, prev)...)
			b = append(b, 0)
			continue
		case '~':
			b = append(b, "garbage\x00"...)
			continue
		}
		number++
		raw := format.EncodeLine(&format.Txn{Number: number, NextID: 9, Synced: synced}, prev)
		prev = sealOf(raw)
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
		case 'h':
			clear(raw[:20])
		case 't':
			clear(raw[len(raw)-20:])
		case '!':
			raw = format.EncodeLine(&format.Txn{Number: number, NextID: 9, Synced: synced}, prev+1)
		}
		b = append(append(b, raw...), end)
	}
	return append(b, make([]byte, 500)...)
}

func TestScan(t *testing.T) {
	b := newBench(t)
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
		{"--s", 0, 2, 0, "superseded"},
		{"s", 0, 0, 0, "superseded"},
		{"+s~", 0, 1, 1, "superseded torn"}, // the mark was written over what was torn
		{"+~", 0, 1, 1, "torn"},
		{"+t", 0, 1, 1, "torn"},
		{"+h", 0, 1, 1, "torn"},
		{"+0-", 0, 1, 1, "torn"},
		{"+t-", 0, 1, 1, "torn"},
		{"+t-", 11, 1, 1, "torn"},
		{"+h-", 11, 1, 1, "torn"},
		{"+x", 0, 1, 1, "complete"},
		{"+!", 0, 1, 1, "complete"},
		{"+!", 20, 1, 1, "complete"},
		{"+t-", 12, 1, 1, "line of transaction 13 says"},
		{"+h-", 12, 1, 1, "line of transaction 13 says"},
		{"+0-", 12, 1, 1, "line of transaction 13 says"},
		{"+0!", 12, 1, 1, "line of transaction 13 says"},
		{"+0t-", 12, 1, 1, "line of transaction 14 says"},
		{"+X", 0, 1, 1, "published"}, // a newline says that it was on disk
		{"+X-", 0, 1, 1, "published"},
		{"+t+", 0, 1, 1, "a newline stands behind it"},
		{"+0+", 0, 1, 1, "a newline stands behind it"},
		{"0++", 0, 0, 0, "transaction 11 is damaged"},
		{"x++", 0, 0, 0, "transaction 11 is damaged"},
	} {
		v := b.examine(t, encode(c.text, c.synced))
		want := verdict{lines: c.lines, published: c.published, superseded: strings.Contains(c.what, "superseded"), torn: strings.Contains(c.what, "torn")}
		if want.superseded || want.torn || c.what == "" {
			if v != want {
				t.Errorf("%q, synced %d: got %v, want %v", c.text, c.synced, v, want)
			}
		} else if v.lines != c.lines || v.published != c.published || !strings.Contains(v.damage, c.what) {
			t.Errorf("%q, synced %d: got %v, want %v and damage %q", c.text, c.synced, v, want, c.what)
		}
	}
}

// power is a journal with lines that are published, and, from byte synced on, others that were
// not synced yet.
func power(t testing.TB, published, unsynced int, labels ...format.Label) (data []byte, synced int) {
	t.Helper()
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill)
	write(t, w, published)
	synced = int(w.Size()) + 1
	for range unsynced {
		must(t, w.Append(txn(w, labels...)))
	}
	return content(t, s.path), synced
}

// A power cut leaves any of the bytes that were not synced. None of that is damage.
func TestPowerCut(t *testing.T) {
	data, from := power(t, 2, 2, nasty...)
	to := from + len(bytes.TrimRight(data[from:], "\x00"))
	b := newBench(t)
	whole := b.examine(t, data)
	if whole.lines != 4 || whole.published != 2 || whole.torn || whole.damage != "" {
		t.Fatal(whole)
	}
	cut := func(what string, lost func(at int) bool) {
		t.Helper()
		left := bytes.Clone(data)
		for at := from; at < to; at++ {
			if lost(at) {
				left[at] = 0
			}
		}
		v := b.examine(t, left)
		if v.damage != "" || v.published != 2 || v.lines < 2 || v.lines == 4 && v.torn {
			t.Errorf("%s: %v", what, v)
		}
		if v.lines == 4 != bytes.Equal(left, data) {
			t.Errorf("%s: %v", what, v)
		}
	}
	for i := from; i < to; i++ {
		cut(fmt.Sprintf("prefix of %d", i), func(at int) bool { return at >= i })
		cut(fmt.Sprintf("suffix from %d", i), func(at int) bool { return at < i })
		for _, n := range []int{1, 39} {
			cut(fmt.Sprintf("hole from %d of %d", i, n), func(at int) bool { return i <= at && at < i+n })
		}
		cut(fmt.Sprintf("just 400 from %d", i), func(at int) bool { return at < i || i+400 <= at })
	}
	const sector = 512
	for shift := 0; shift < sector; shift += 17 {
		for left := range 1 << ((to-from)/sector + 2) {
			cut(fmt.Sprintf("sectors %b, shifted by %d", left, shift), func(at int) bool { return left>>((at-from+shift)/sector)&1 == 0 })
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for seed := range 500 {
		share := random.Float64() / float64(1+seed%50)
		cut(fmt.Sprintf("bytes %d", seed), func(int) bool { return random.Float64() < share })
	}
}

// Every change of a byte of what was published is damage, but an end byte that is NUL, with which
// nothing is lost.
func TestChangedByte(t *testing.T) {
	data, end := power(t, 3, 0)
	b := newBench(t)
	for i := range end {
		for _, c := range changesOf(data[i]) {
			changed := bytes.Clone(data)
			changed[i] = c
			v := b.examine(t, changed)
			if data[i] == '\n' && c == 0 {
				if v.lines != 3 || v.damage != "" || v.torn {
					t.Errorf("end byte at %d: %v", i, v)
				}
			} else if v.damage == "" {
				t.Errorf("byte %d is %q instead of %q: %v", i, c, data[i], v)
			}
		}
	}
}

func changesOf(c byte) (changes []byte) {
	for _, to := range []byte{c ^ 1, 0, '\n', '}'} {
		if to != c {
			changes = append(changes, to)
		}
	}
	return changes
}

// A line that is on disk and not published yet is damaged, too, by any change but a NUL byte.
func TestChangedByteUnpublished(t *testing.T) {
	for unpublished := 1; unpublished <= 2; unpublished++ {
		data, from := power(t, 1, unpublished, nasty[2:]...)
		b := newBench(t)
		to := from + len(bytes.TrimRight(data[from:], "\x00"))
		for i := from; i < to; i++ {
			for _, c := range changesOf(data[i]) {
				changed := bytes.Clone(data)
				changed[i] = c
				v := b.examine(t, changed)
				if v.damage == "" && c != 0 && data[i] != 0 {
					t.Errorf("byte %d is %q instead of %q: %v", i, c, data[i], v)
				}
			}
		}
	}
}

// Many changed bytes in the end of a line that was not published can't be told from a torn one;
// the text of the limit is in layout.md.
func TestChangedEnd(t *testing.T) {
	data, from := power(t, 1, 1)
	to := from + len(bytes.TrimRight(data[from:], "\x00"))
	b := newBench(t)
	for n := 1; n <= endLen; n++ {
		for at := to - endLen; at+n <= to; at++ {
			changed := bytes.Clone(data)
			for i := at; i < at+n; i++ {
				changed[i] ^= 0x40
			}
			if v := b.examine(t, changed); (v.damage != "") != (n <= mostChanged) {
				t.Errorf("%d bytes changed at %d of the end: %v", n, at-(to-endLen), v)
			}
		}
	}
}

// A file that was cut is damaged, wherever it was cut.
func TestCut(t *testing.T) {
	for _, grown := range []bool{false, true} {
		for unpublished := range 2 {
			size := 4 * ClosedFill
			if grown {
				size = 0
			}
			s := newStore(t)
			w := s.put(t, nil, first, nil, size)
			write(t, w, 3)
			for range unpublished {
				must(t, w.Append(txn(w)))
			}
			data := content(t, s.path)
			if grown != (len(data) > FillChunk) {
				t.Fatalf("the file has %d bytes", len(data))
			}
			b := newBench(t)
			if v := b.examine(t, data); v.damage != "" || v.lines != 3+unpublished {
				t.Fatal(v)
			}
			for n := len(data) - 1; n >= 0; n-- {
				must(t, b.file.Truncate(int64(n)))
				if n > 2<<10 && n < len(data)-10 && n%1999 != 0 {
					continue
				}
				if v := b.scan(t); v.damage == "" {
					t.Errorf("cut to %d of %d bytes: %v", n, len(data), v)
				}
			}
		}
	}
}

// A byte far behind is found, and what is between costs nothing.
func TestHole(t *testing.T) {
	for _, dir := range []string{"/dev/shm", t.TempDir()} {
		s := newStore(t)
		if dir != "/dev/shm" {
			s = store{dir, dir + "/journal"}
			must(t, os.Mkdir(dir+"/staging", 0o700))
		}
		w := s.put(t, nil, first, nil, ClosedFill)
		write(t, w, 2)
		for _, c := range []struct {
			b      string
			torn   bool
			damage string
		}{{"x", true, ""}, {"\n", false, "newline stands behind it, at byte 137438953472"}} {
			_, err := w.file.WriteAt([]byte(c.b), 128<<30)
			must(t, err)
			r := s.open(t, false)
			tail, err := r.Scan(true)
			must(t, err)
			if tail.Torn != c.torn && c.damage == "" || r.Tip() != 12 {
				t.Errorf("%q: %+v", c.b, tail)
			}
			if got := fmt.Sprint(r.Damage()); c.damage != "" && !strings.Contains(got, c.damage) || c.damage == "" && r.Damage() != nil {
				t.Errorf("%q: damage %s", c.b, got)
			}
			lines, err := r.Stray()
			if must(t, err); len(lines) != 2 {
				t.Errorf("%q: %d stray lines", c.b, len(lines))
			}
		}
	}
}

func TestStray(t *testing.T) {
	b := newBench(t)
	data := encode("++x-+~+", 0)
	b.examine(t, data)
	f := b.open(t, false)
	lines, err := f.Stray()
	must(t, err)
	got := ""
	for _, l := range lines {
		got += fmt.Sprint(l.Txn, l.Newline, " ")
		if !bytes.Equal(data[l.Off:][:len(l.Raw)], l.Raw) {
			t.Errorf("line %d stands elsewhere", l.Txn)
		}
	}
	if got != "11 true 12 true 14 false 15 true 16 true " {
		t.Error(got)
	}
}

// What is left of a journal is read whatever has become of its header. What is no journal file has
// nothing.
func TestSalvage(t *testing.T) {
	data := encode("++x-+~+", 0)
	header := bytes.IndexByte(data, '\n')
	for what, c := range map[string]struct {
		alter func(b []byte)
		txn   uint64
	}{
		"whole":          {func([]byte) {}, 10},
		"header of NULs": {func(b []byte) { clear(b[:header+1]) }, 0},
		"header changed": {func(b []byte) { b[5] = '?' }, 0},
	} {
		b := newBench(t)
		changed := bytes.Clone(data)
		c.alter(changed)
		b.examine(t, changed)
		h, lines, err := Salvage(b.path)
		must(t, err)
		got := ""
		for _, l := range lines {
			got += fmt.Sprint(l.Txn, " ")
		}
		if got != "11 12 14 15 16 " || h.Txn != c.txn {
			t.Errorf("%s: lines %s, header %+v", what, got, h)
		}
	}
	dir := t.TempDir()
	for _, path := range []string{dir, dir + "/none"} {
		if h, lines, err := Salvage(path); err != nil || len(lines) > 0 || h.Txn > 0 {
			t.Errorf("%s: %+v, %d lines, %v", path, h, len(lines), err)
		}
	}
}

// More bytes than a line may have are no line, and take no more memory.
func TestLongRun(t *testing.T) {
	defer func(n int) { longest = n }(longest)
	longest = 64 << 10
	b := newBench(t)
	data := encode("+", 0)
	for _, c := range []struct {
		gap, n int
		v      verdict
	}{
		{0, longest, verdict{lines: 1, published: 1, torn: true}},
		{0, longest + 1, verdict{lines: 1, published: 1, damage: "more than"}},
		{0, 20 * longest, verdict{lines: 1, published: 1, damage: "more than"}},
		{500, longest + 1, verdict{lines: 1, published: 1, torn: true}},
		{500, 20 * longest, verdict{lines: 1, published: 1, torn: true}},
	} {
		long := append(bytes.Clone(data[:len(data)-500+c.gap]), bytes.Repeat([]byte("x"), c.n)...)
		v := b.examine(t, append(long, make([]byte, 600)...))
		if c.v.damage != "" && strings.Contains(v.damage, c.v.damage) {
			v.damage = c.v.damage
		}
		if v != c.v {
			t.Errorf("%d bytes %d behind: %v", c.n, c.gap, v)
		}
		src := newSource(b.file, int64(len(data)-500+c.gap))
		for {
			r, err := src.next()
			must(t, err)
			if cap(src.buf) > longest+1 || cap(r.raw) > longest+1 {
				t.Errorf("%d bytes: a buffer of %d, a run of %d", c.n, cap(src.buf), cap(r.raw))
			}
			if r.eof {
				break
			}
		}
	}
}

// The reader takes in lines, and finds out where they are not those it knew.
func TestReplaced(t *testing.T) {
	b := newBench(t)
	data := encode("+--", 0)
	b.examine(t, data)
	f := b.open(t, false)
	if tail, err := f.Scan(false); err != nil || len(tail.Fresh) != 3 {
		t.Fatal(tail, err)
	}
	for text, replaced := range map[string]bool{"+--": false, "+++": false, "+++-": false, "+-": true, "+": true} {
		f := b.open(t, false)
		_, err := b.file.WriteAt(data, 0)
		must(t, err)
		_, err = f.Scan(true)
		must(t, err)
		other := encode(text, 0)
		must(t, b.file.Truncate(0))
		must(t, b.file.Truncate(int64(max(len(data), len(other)))))
		_, err = b.file.WriteAt(other, 0)
		must(t, err)
		tail, err := f.Scan(true)
		must(t, err)
		must(t, f.Damage())
		if tail.Replaced != replaced {
			t.Errorf("%s: %+v", text, tail)
		}
	}
	other := encode("+--", 3)
	f = b.open(t, false)
	_, err := b.file.WriteAt(data, 0)
	must(t, err)
	if _, err := f.Scan(true); err != nil {
		t.Fatal(err)
	}
	line := int(f.nextLocked(11))
	raw := format.EncodeLine(&format.Txn{Number: 12, NextID: 9, Synced: 3}, f.crc(11))
	_, err = b.file.WriteAt(append(raw, make([]byte, len(other)-line-len(raw))...), int64(line))
	must(t, err)
	tail, err := f.Scan(true)
	if must(t, err); !tail.Replaced || f.Tip() != 13 {
		t.Errorf("another line: %+v, tip %d", tail, f.Tip())
	}
}

// No bytes make the scan panic; a line needs its bytes; and NUL bytes behind a file say nothing.
func FuzzScan(f *testing.F) {
	for _, text := range []string{"", "+", "++-", "--s", "+s~", "+~", "+t-", "+h", "+x", "+!", "+X", "+0+"} {
		f.Add(encode(text, 11))
	}
	f.Add(bytes.TrimRight(encode("+-", 0), "\x00"))
	f.Add([]byte(`{"format":"fsmeta journal","version":2,"txn":18446744073709551615,"nextID":1}` + "\n"))
	f.Add([]byte(`{"format":"fsmeta journal","version":2,"nextID":1}` + "\n\n"))
	b := newBench(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		v := b.examine(t, data)
		padded := b.examine(t, append(data, 0))
		more := b.examine(t, append(data, make([]byte, 1+4097)...))
		cut := func(v verdict) bool { return strings.Contains(v.damage, "cut off") }
		if !cut(padded) && padded != more {
			t.Errorf("one NUL byte behind: %v\nmany: %v", padded, more)
		}
		if !cut(v) && (v.lines != more.lines || v.published != more.published) {
			t.Errorf("without NUL bytes behind: %v\nwith: %v", v, more)
		}
		if v.lines > bytes.Count(data, []byte(`{"txn":`)) || v.published > v.lines {
			t.Error(v)
		}
		file, err := Open(b.path, false)
		if err != nil {
			return
		}
		defer file.Close() //nolint:errcheck // it was only read
		if _, err := file.Stray(); err != nil {
			t.Error(err)
		}
		if _, err := file.Names(file.Header().Txn, file.Tip()); err != nil && fault.DamageOf(err) == nil {
			t.Error(err)
		}
	})
}
