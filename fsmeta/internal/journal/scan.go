package journal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Tail is what Scan has found behind the lines that were known.
type Tail struct {
	Fresh      []format.Line // whole lines that are new, in order
	Superseded bool          // the file ends with the mark that another takes over
	Torn       bool          // invalid bytes follow that are no damage; looked for only with whole
	Replaced   bool          // known lines are others now: another program has overwritten the file; nothing was taken in
}

// Scan takes in what was written behind the last published line. With whole it looks at the rest
// of the file, to its end; without, only where the next line would stand, and further where that
// is neither whole nor absent. Damage is returned by Damage, with the lines before it taken in; a
// damaged file is not looked at again. It writes nothing.
func (f *File) Scan(whole bool) (Tail, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.damage != nil {
		return Tail{}, nil
	}
	for before := -1; ; {
		x, err := f.lookLocked(whole)
		if err != nil {
			return Tail{}, err
		}
		// See the end of the package's comment.
		if x.fault == nil || len(x.lines) == before {
			return f.takeInLocked(x, whole), nil
		}
		before = len(x.lines)
	}
}

// lookLocked reads what stands behind the last published line.
func (f *File) lookLocked(whole bool) (*exam, error) {
	x := &exam{txn: f.published, crc: f.crcLocked(f.published), filled: f.filled}
	src := newSource(f.file, f.nextLocked(f.published))
	if whole {
		src.step = wholeStep
	}
	bad, err := x.readLines(src)
	if err != nil {
		return nil, err
	}
	x.judge(bad)
	if (whole || len(bad.raw) > 0 && !x.superseded) && x.fault == nil && !bad.eof {
		if err := x.rest(src); err != nil {
			return nil, err
		}
	}
	// Behind the lines: none was written before the file had the length that it says.
	info, err := f.file.Stat()
	if err != nil {
		return nil, err
	}
	if size := info.Size(); size < x.filled {
		x.fault = cut(size, x.filled, x.filledBy)
	}
	return x, nil
}

// exam is the examination of the bytes behind the last published line.
type exam struct {
	lines      []format.Line // each the successor of the one before
	published  int           // how many of them are published
	superseded bool
	torn       bool
	fault      error // what is wrong with the journal

	txn      uint64 // the last whole line
	crc      uint32
	filled   int64  // how long the file has to be
	filledBy uint64 // the transaction of the line that says so, 0 for one that was known before, or the header
}

// readLines reads the whole lines and returns the run where the next one would stand.
func (x *exam) readLines(src *source) (run, error) {
	for {
		r, err := src.next()
		if err != nil || len(r.raw) == 0 {
			return r, err
		}
		l, ok := format.ParseLine(r.raw)
		if !ok || l.Txn != x.txn+1 || l.Prev != x.crc {
			return r, nil
		}
		l.Off, l.Newline = r.off, r.end == '\n'
		x.lines = append(x.lines, l)
		if l.Newline { // it is written after those before it
			x.published = len(x.lines)
		}
		x.txn, x.crc = l.Txn, l.CRC
		x.needs(max(int64(l.Filled), r.off+int64(len(r.raw))+1), l.Txn)
		if r.eof {
			return run{eof: true}, nil
		}
	}
}

// needs notes how long the file is by the word of a line.
func (x *exam) needs(filled int64, txn uint64) {
	if filled > x.filled {
		x.filled, x.filledBy = filled, txn
	}
}

// judge examines the run where the next line would stand.
func (x *exam) judge(r run) {
	for i := range x.lines[:x.published] {
		x.lines[i].Newline = true
	}
	switch {
	case r.long:
		x.fail("it has more than %d bytes", longest)
	case r.end == '\n':
		x.fail("it was published and its bytes have changed")
	case len(r.raw) == 0:
	case bytes.Equal(r.raw, format.EncodeSuperseded(x.txn, x.crc)):
		x.superseded = true
	case r.eof:
		x.fail("the file ends in it")
	case ended(r.raw, x.crc):
		x.fail("it is complete and its bytes have changed, or it is no successor of the line before it")
	default:
		x.torn = true
	}
}

// fail says what is wrong with the line that should follow the last whole one.
func (x *exam) fail(text string, args ...any) {
	if x.fault == nil {
		x.fault = fmt.Errorf("the line of transaction %d is damaged: %s", x.txn+1, fmt.Sprintf(text, args...))
	}
}

// rest examines what stands behind the run where the next line would stand. Without a word
// to the contrary it was never acknowledged.
func (x *exam) rest(src *source) error {
	for {
		r, ok, err := src.nextStray()
		if err != nil || !ok {
			return err
		}
		x.torn = true
		if r.end == '\n' {
			x.fail("it was durable, since a newline stands behind it, at byte %d", r.off+int64(len(r.raw)))
		}
		if l, ok := format.ParseLine(r.raw); ok {
			if l.Synced > x.txn {
				x.fail("it was durable, as the line of transaction %d says", l.Txn)
			}
			x.needs(int64(l.Filled), l.Txn)
		}
	}
}

// lineEnd is the end of a line: the checksum of the line before it, and its own. An x stands for
// a digit.
const (
	lineEnd = `,"prev":"xxxxxxxx","crc32c":"xxxxxxxx"}`
	endLen  = len(lineEnd)

	// mostChanged is how many bytes of a line's end may have changed for it to be recognized.
	mostChanged = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ended reports whether invalid bytes that stand behind the line with the checksum prev hold
// the end of a line, so that all of that line was written.
func ended(raw []byte, prev uint32) bool {
	for rest := raw; ; rest = rest[1:] {
		n := bytes.Index(rest, []byte(`,"prev":"`))
		if n < 0 {
			break
		}
		if rest = rest[n:]; isEnd(rest) {
			return true
		}
	}
	if len(raw) < endLen {
		return false
	}
	body, have := raw[:len(raw)-endLen], raw[len(raw)-endLen:]
	want := fmt.Appendf(nil, `,"prev":"%08x"`, prev) // the checksum is that of all before its member
	sum := crc32.Update(crc32.Checksum(body, castagnoli), castagnoli, want)
	want = fmt.Appendf(want, `,"crc32c":"%08x"}`, sum)
	changed := 0
	for i := range want {
		if have[i] != want[i] {
			changed++
		}
	}
	return changed <= mostChanged
}

// isEnd reports whether b begins with the end of a line, with any digits.
func isEnd(b []byte) bool {
	if len(b) < endLen {
		return false
	}
	for i, c := range []byte(lineEnd) {
		digit := '0' <= b[i] && b[i] <= '9' || 'a' <= b[i] && b[i] <= 'f'
		if c == 'x' && !digit || c != 'x' && b[i] != c {
			return false
		}
	}
	return true
}

// takeInLocked makes known what was found, some of which may be known.
func (f *File) takeInLocked(x *exam, whole bool) Tail {
	known := int(f.tipLocked() - f.published)
	if x.fault == nil && len(x.lines) < known {
		return Tail{Replaced: true}
	}
	again := min(known, len(x.lines))
	for _, l := range x.lines[:again] {
		if f.crcLocked(l.Txn) != l.CRC {
			return Tail{Replaced: true}
		}
	}
	t := Tail{Fresh: x.lines[again:], Superseded: x.superseded, Torn: whole && x.torn}
	for _, l := range t.Fresh {
		f.addLocked(ref{off: l.Off, n: len(l.Raw), crc: l.CRC, filled: int64(l.Filled), digest: l.Names}, l.NextID)
	}
	f.published += uint64(x.published)
	if whole {
		f.torn, f.marked = x.torn, x.superseded
	}
	if x.fault != nil {
		f.damage = f.damaged(x.fault)
	}
	f.aimLocked()
	return t
}

// Stray returns the lines with a right checksum, wherever they stand in the file, in order of
// their numbers: of a damaged journal these are what can be relied on. Where two have one
// number, the first counts. It writes nothing.
func (f *File) Stray() ([]format.Line, error) {
	var lines []format.Line
	for src := newSource(f.file, 0); ; {
		r, ok, err := src.nextStray()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if l, ok := format.ParseLine(r.raw); ok {
			l.Off, l.Newline = r.off, r.end == '\n'
			lines = append(lines, l)
		}
	}
	slices.SortStableFunc(lines, func(a, b format.Line) int { return cmp.Compare(a.Txn, b.Txn) })
	return slices.CompactFunc(lines, func(a, b format.Line) bool { return a.Txn == b.Txn }), nil
}

// Salvage reads of the journal at path, which may be damaged in any way, what Stray does, and the
// header, zero where it can't be read. Of what is missing or no regular file it reads nothing.
func Salvage(path string) (h format.Header, lines []format.Line, err error) {
	file, err := openFile(path, false)
	if fault.DamageOf(err) != nil {
		return h, nil, nil
	}
	if err != nil {
		return h, nil, err
	}
	f := &File{path: path, file: file}
	if err = f.readHeader(); fault.DamageOf(err) != nil {
		err = nil
	}
	if err == nil && f.info.Mode().IsRegular() {
		lines, err = f.Stray()
	}
	return f.header, lines, errors.Join(err, file.Close())
}

// Head returns the first bytes of the file at path, as many as a header may have, and none of what is
// missing or no regular file.
func Head(path string) ([]byte, error) {
	file, err := openFile(path, false)
	if fault.DamageOf(err) != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n, head := 0, make([]byte, maxHeader)
	if info, serr := file.Stat(); serr != nil || info.Mode().IsRegular() {
		n, err = file.ReadAt(head, 0)
		err = errors.Join(serr, noEOF(err))
	}
	return head[:n], errors.Join(err, file.Close())
}

// reread reads the known line of txn out of the file again. Changed bytes are damage. It writes
// nothing.
func (f *File) reread(txn uint64, r ref) (*format.Line, error) {
	raw := make([]byte, r.n)
	if _, err := f.file.ReadAt(raw, r.off); noEOF(err) != nil {
		return nil, err
	}
	l, ok := format.ParseLine(raw)
	if !ok || l.CRC != r.crc {
		return nil, f.spoil(fmt.Errorf("the line of transaction %d is damaged: its bytes have changed since it was read", txn))
	}
	return &l, nil
}

// known returns the refs of the lines after from, up to to. They are missing where this process has
// brought up more than the file has: another journal has taken its place.
func (f *File) known(from, to uint64) ([]ref, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first, tip := f.header.Txn, f.tipLocked()
	if from < first || to > tip || from > to {
		return nil, fmt.Errorf("%s ends with transaction %d, and %d was already seen: the store was replaced while it was open; close it and open it anew", f.path, tip, to)
	}
	return slices.Clone(f.refs[from-first : to-first]), nil
}

// spoil makes err the damage of the journal, and returns it.
func (f *File) spoil(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.damage == nil {
		f.damage = f.damaged(err)
	}
	return f.damage
}

// Names returns the names that the lines after from, up to to, are about, sorted. Lines that
// this process has written are not read for it.
func (f *File) Names(from, to uint64) ([]string, error) {
	refs, err := f.known(from, max(from, to))
	if err != nil {
		return nil, err
	}
	var names []string
	for i, r := range refs {
		if r.names == nil {
			if r.names, err = f.namesOf(from+uint64(i)+1, r); err != nil {
				return nil, err
			}
		}
		names = append(names, r.names...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// namesOf reads the names of a line out of the file. A line that breaks a rule is damage.
func (f *File) namesOf(txn uint64, r ref) ([]string, error) {
	l, err := f.reread(txn, r)
	if err != nil {
		return nil, err
	}
	t, err := l.Decode()
	if err != nil {
		return nil, f.spoil(err)
	}
	return namesIn(t), nil
}

// namesIn returns the names that a transaction changes; it is not nil.
func namesIn(t *format.Txn) []string {
	names := make([]string, len(t.Changes))
	for i, c := range t.Changes {
		names[i] = c.Name
	}
	return names
}
