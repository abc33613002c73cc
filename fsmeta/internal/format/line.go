package format

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// journalFormat is the member "format" of a journal's header.
const journalFormat = "fsmeta journal"

// Every line, the header too, ends in the checksum of the line before it and its own.
const (
	prevStart    = `,"prev":"`
	prevEnd      = `"`
	prevLen      = len(prevStart) + crcDigits + len(prevEnd)
	crcTailStart = `,"crc32c":"`
	crcTailEnd   = `"}`
	crcTailLen   = len(crcTailStart) + crcDigits + len(crcTailEnd)
)

// seal appends the end of a line.
func seal(b []byte, prev uint32) []byte {
	b = append(b, prevStart...)
	b = appendHex(b, uint64(prev), crcDigits)
	b = append(b, prevEnd...)
	sum := checksum(b)
	b = append(b, crcTailStart...)
	b = appendHex(b, uint64(sum), crcDigits)
	return append(b, crcTailEnd...)
}

// hexTail cuts a checksum off that stands between start and end at the end of b. It verifies
// the form alone.
func hexTail(b []byte, start, end string) (rest []byte, sum uint32, ok bool) {
	at := len(b) - len(start) - crcDigits - len(end)
	if at < 0 || string(b[at:at+len(start)]) != start || string(b[len(b)-len(end):]) != end {
		return nil, 0, false
	}
	n, ok := parseHex(b[at+len(start):][:crcDigits])
	return b[:at], uint32(n), ok
}

// EncodeHeader returns the first line of a journal. h.Names must be known.
func EncodeHeader(h Header) []byte {
	b := make([]byte, 0, 320)
	b = append(b, `{"format":"`+journalFormat+`","version":`...)
	b = strconv.AppendUint(b, Version, 10)
	b = append(b, `,"txn":`...)
	b = strconv.AppendUint(b, h.Txn, 10)
	b = append(b, `,"nextID":`...)
	b = strconv.AppendUint(b, h.NextID, 10)
	b = appendNames(b, h.Names)
	b = append(b, `,"filled":`...)
	b = strconv.AppendUint(b, h.Filled, 10)
	b = append(b, `,"boot":`...)
	b = appendString(b, h.Boot)
	return seal(b, h.Prev)
}

func appendNames(b []byte, n Names) []byte {
	b = append(b, `,"count":`...)
	b = strconv.AppendUint(b, n.Count, 10)
	b = append(b, `,"names":"`...)
	b = appendHex(b, n.Sum, namesDigits)
	return append(b, '"')
}

var headerMembers = []string{"format", "version", "txn", "nextID", "count", "names", "filled", "boot", "prev", "crc32c"}

// ParseHeader reads the first line of a journal. One with a checksum must be whole. One
// without is a person's: it may leave out all but format, version and nextID.
func ParseHeader(raw []byte) (Header, error) {
	h, err := parseHeader(raw)
	if err != nil {
		return Header{}, fmt.Errorf("header: %w", err)
	}
	return h, nil
}

func parseHeader(raw []byte) (h Header, err error) {
	body, crc, sealed := hexTail(raw, crcTailStart, crcTailEnd)
	if sealed && checksum(body) != crc {
		return h, errors.New("the checksum does not match")
	}
	h.Sealed = sealed
	r := newReader(raw)
	seen := r.object(headerMembers, false, func(name string) { r.headerMember(name, &h) })
	r.require(headerMembers, seen, "format", "version", "nextID")
	if sealed {
		r.require(headerMembers, seen, headerMembers...)
	}
	if h.Names.Known = seen.has(headerMembers, "count") && seen.has(headerMembers, "names"); !h.Names.Known {
		h.Names = Names{}
	}
	return h, r.end()
}

// headerMember reads the value of one member of a header.
func (r *reader) headerMember(name string, h *Header) {
	switch name {
	case "format":
		if f := r.string(); f != journalFormat {
			r.failValue("is %.64q, want %q", f, journalFormat)
		}
	case "version":
		if v := r.number(); v != Version {
			r.failValue("is %d: the journal is of another version of the format than %d", v, Version)
		}
	case "txn":
		h.Txn = r.number()
	case "nextID":
		h.NextID = r.positive()
	case "count":
		h.Names.Count = r.number()
	case "names":
		h.Names.Sum = r.hex(namesDigits)
	case "filled":
		h.Filled = r.number()
	case "boot":
		h.Boot = r.string()
	case "prev":
		h.Prev = uint32(r.hex(crcDigits))
	case "crc32c":
		r.hex(crcDigits)
		if !h.Sealed {
			r.failValue("must be the last member, without white space: %s…%s", crcTailStart, crcTailEnd)
		}
	}
}

// positive reads a number that can't be 0.
func (r *reader) positive() uint64 {
	n := r.number()
	if n == 0 {
		r.failValue("is 0, want a number from 1")
	}
	return n
}

// EncodeLine returns the line of a transaction; prev is the checksum of the line before it.
// Its numbers stand at the front, so that ParseLine reads them without the changes. The
// changes are in byte order of their names, and t.Names is known. A caller that writes a line
// of more than MaxLine bytes damages the journal.
func EncodeLine(t *Txn, prev uint32) []byte {
	b := make([]byte, 0, 256+1024*len(t.Changes))
	b = append(b, lineTxn...)
	b = strconv.AppendUint(b, t.Number, 10)
	b = append(b, `,"time":`...)
	b = appendTime(b, t.Time)
	b = append(b, lineNextID...)
	b = strconv.AppendUint(b, t.NextID, 10)
	b = append(b, lineSynced...)
	b = strconv.AppendUint(b, t.Synced, 10)
	b = append(b, lineFilled...)
	b = strconv.AppendUint(b, t.Filled, 10)
	b = appendNames(b, t.Names)
	b = append(b, lineChanges...)
	for i, c := range t.Changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendString(b, c.Name)
		b = append(b, `,"before":`...)
		b = appendImage(b, c.Before)
		b = append(b, `,"after":`...)
		b = appendImage(b, c.After)
		b = append(b, '}')
	}
	return seal(append(b, ']'), prev)
}

// What stands before the values at the front of a line, and before its changes.
const (
	lineTxn     = `{"txn":`
	lineTime    = `,"time":"`
	lineNextID  = `,"nextID":`
	lineSynced  = `,"synced":`
	lineFilled  = `,"filled":`
	lineCount   = `,"count":`
	lineNames   = `,"names":"`
	lineChanges = `,"changes":[`
)

// ParseLine verifies the checksum of a transaction's line and reads the front of the line.
// ok is false for anything else. A line of another program is one only if its members
// stand in the order of EncodeLine, without white space up to the changes and from prev on.
// Members that are not known may stand between changes and prev.
func ParseLine(raw []byte) (l Line, ok bool) {
	if len(raw) > MaxLine {
		return Line{}, false
	}
	body, crc, ok := hexTail(raw, crcTailStart, crcTailEnd)
	if !ok {
		return Line{}, false
	}
	before, prev, ok := hexTail(body, prevStart, prevEnd)
	if !ok || checksum(body) != crc {
		return Line{}, false
	}
	f := front{rest: before}
	l = Line{Raw: raw, Prev: prev, CRC: crc}
	l.Txn = f.number(lineTxn)
	f.skip(lineTime)
	f.cut('"')
	l.NextID = f.number(lineNextID)
	l.Synced = f.number(lineSynced)
	l.Filled = f.number(lineFilled)
	l.Names.Count = f.number(lineCount)
	l.Names.Sum = f.sum(lineNames)
	f.skip(`"` + lineChanges)
	if f.bad {
		return Line{}, false
	}
	l.Names.Known = true
	return l, true
}

// front reads the front of a line, which has one form. Once it is bad, it is of no use.
type front struct {
	rest []byte
	bad  bool
}

// skip reads literal text.
func (f *front) skip(literal string) {
	if f.bad = f.bad || len(f.rest) < len(literal) || string(f.rest[:len(literal)]) != literal; !f.bad {
		f.rest = f.rest[len(literal):]
	}
}

// cut reads up to a byte and that byte.
func (f *front) cut(end byte) {
	at := bytes.IndexByte(f.rest, end)
	if f.bad = f.bad || at < 0; !f.bad {
		f.rest = f.rest[at+1:]
	}
}

// number reads a number behind literal text.
func (f *front) number(literal string) (n uint64) {
	f.skip(literal)
	size := 0
	for ; size < len(f.rest) && '0' <= f.rest[size] && f.rest[size] <= '9'; size++ {
		digit := uint64(f.rest[size] - '0')
		if n > (MaxNumber-digit)/10 {
			f.bad = true
			return 0
		}
		n = 10*n + digit
	}
	if size == 0 || size > 1 && f.rest[0] == '0' {
		f.bad = true
		return 0
	}
	f.rest = f.rest[size:]
	return n
}

// sum reads the digest of names behind literal text.
func (f *front) sum(literal string) uint64 {
	f.skip(literal)
	if f.bad = f.bad || len(f.rest) < namesDigits; f.bad {
		return 0
	}
	n, ok := parseHex(f.rest[:namesDigits])
	f.bad = !ok
	f.rest = f.rest[namesDigits:]
	return n
}

var (
	lineMembers   = []string{"txn", "time", "nextID", "synced", "filled", "count", "names", "changes", "prev", "crc32c"}
	changeMembers = []string{"name", "before", "after"}
)

// Decode returns the transaction of a line. An error means that the line's writer wrote
// nonsense: the checksum is right.
func (l *Line) Decode() (*Txn, error) {
	t, err := l.decode()
	if err != nil {
		return nil, fmt.Errorf("line of transaction %d: %w", l.Txn, err)
	}
	return t, nil
}

// decode is Decode without the number of the line in its errors.
func (l *Line) decode() (*Txn, error) {
	t := &Txn{Names: Names{Known: true}}
	r := newReader(l.Raw)
	seen := r.object(lineMembers, true, func(name string) {
		switch name {
		case "txn":
			t.Number = r.number()
		case "time":
			t.Time = r.time()
		case "nextID":
			t.NextID = r.positive()
		case "synced":
			t.Synced = r.number()
		case "filled":
			t.Filled = r.number()
		case "count":
			t.Names.Count = r.number()
		case "names":
			t.Names.Sum = r.hex(namesDigits)
		case "changes":
			r.array(func() { t.Changes = append(t.Changes, r.change()) })
		case "prev", "crc32c":
			r.hex(crcDigits)
		}
	})
	r.require(lineMembers, seen, lineMembers...)
	if err := r.end(); err != nil {
		return nil, err
	}
	if t.Number != l.Txn {
		return nil, fmt.Errorf("it is of transaction %d", t.Number)
	}
	return t, t.checkChanges()
}

// change reads one change. Its images get the change's name and are checked.
func (r *reader) change() (c Change) {
	seen := r.object(changeMembers, true, func(name string) {
		switch name {
		case "name":
			c.Name = r.string()
		case "before":
			c.Before = r.image()
		case "after":
			c.After = r.image()
		}
	})
	r.require(changeMembers, seen, changeMembers...)
	if r.err == nil {
		c.Name = strings.Clone(c.Name) // of its own, as the strings of the images are
		r.err = c.check()
	}
	return c
}

// image reads an image of a snapshot, or null.
func (r *reader) image() *Snapshot {
	if r.null() {
		return nil
	}
	s, seen := r.snapshot(imageMembers, true)
	r.require(imageMembers, seen, "id", "parent", "kind", "created", "updated")
	s.pack()
	return s
}

// check checks the name and gives it to the images, which it checks too.
func (c *Change) check() error {
	if err := CheckName("name", c.Name); err != nil {
		return err
	}
	for _, s := range []*Snapshot{c.Before, c.After} {
		if s == nil {
			continue
		}
		s.Name = c.Name
		if err := s.Check(); err != nil {
			return fmt.Errorf("change of %.256q: %w", c.Name, err)
		}
	}
	return nil
}

// checkChanges checks the changes of a line together. Their names are in byte order, none
// twice. Either each changes its name, and the after-image says the line's transaction; or each
// carries its name over: before and after are the same image, of an earlier transaction, or null.
func (t *Txn) checkChanges() error {
	carried := 0
	for i, c := range t.Changes {
		if i > 0 && t.Changes[i-1].Name >= c.Name {
			return fmt.Errorf("the change of %.256q stands behind that of %.256q", c.Name, t.Changes[i-1].Name)
		}
		switch {
		case same(c.Before, c.After):
			carried++
			if c.After != nil && c.After.Txn >= t.Number {
				return fmt.Errorf("change of %.256q: it carries over an image of transaction %d", c.Name, c.After.Txn)
			}
		case c.After != nil && c.After.Txn != t.Number:
			return fmt.Errorf("change of %.256q: member \"after\" is of transaction %d", c.Name, c.After.Txn)
		}
	}
	if carried > 0 && carried < len(t.Changes) {
		return errors.New("it changes some names and carries others over")
	}
	return nil
}

// needleLen is how much of a name is searched for: bytes.Contains is fast for short needles.
const needleLen = 40

// NeedleOf returns bytes that every line about name contains: the end of the name as
// lines spell it. A line that contains them may be about another name, or have the name as
// a parent.
func NeedleOf(name string) []byte {
	quoted := appendString(nil, name)
	return quoted[max(0, len(quoted)-needleLen):]
}

// EncodeSuperseded returns the line that ends a file when another is about to take its place:
// txn and prev are the number and the checksum of the line before it.
func EncodeSuperseded(txn uint64, prev uint32) []byte {
	return seal(strconv.AppendUint([]byte(`{"superseded":`), txn, 10), prev)
}

// SupersededLen is the most bytes that EncodeSuperseded returns.
var SupersededLen = len(EncodeSuperseded(math.MaxUint64, 0))
