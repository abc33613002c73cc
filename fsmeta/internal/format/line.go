package format

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"
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
	b = append(appendHex(b, prevStart, uint64(prev), crcDigits), prevEnd...)
	return append(appendHex(b, crcTailStart, uint64(checksum(b)), crcDigits), crcTailEnd...)
}

// hexTail cuts a checksum off that stands between start and end at the end of b. It verifies
// the form alone.
func hexTail(b []byte, start, end string) (rest []byte, sum uint32, ok bool) {
	at := len(b) - len(start) - crcDigits - len(end)
	if at < 0 || string(b[at:at+len(start)]) != start || string(b[len(b)-len(end):]) != end {
		return nil, 0, false
	}
	n, ok := parseHex(b[at+len(start):len(b)-len(end)], crcDigits)
	return b[:at], uint32(n), ok
}

// EncodeHeader returns the first line of a journal. h.Names must be known.
func EncodeHeader(h Header) []byte {
	b := make([]byte, 0, 320)
	b = append(b, `{"format":"`+journalFormat+`"`...)
	b = appendNumber(b, `,"version":`, Version)
	b = appendNumber(b, `,"txn":`, h.Txn)
	b = appendNumber(b, `,"nextID":`, h.NextID)
	b = appendNumber(b, `,"count":`, h.Names.Count)
	b = appendHex(b, `,"names":"`, h.Names.Sum, namesDigits)
	b = appendNumber(b, `","filled":`, h.Filled)
	b = appendText(b, `,"boot":`, h.Boot)
	return seal(b, h.Prev)
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
	required := []string{"format", "version", "nextID"}
	if sealed {
		required = headerMembers
	}
	seen := r.object(headerMembers, required, false, func(name string) { r.headerMember(name, &h) })
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

// EncodeLine returns the line of a transaction; prev is the checksum of the line before it.
// Its numbers stand at the front, so that ParseLine reads them without the changes. The
// changes are in byte order of their names, and t.Names is known. A caller that writes a line
// of more than MaxLine bytes damages the journal.
func EncodeLine(t *Txn, prev uint32) []byte {
	b := make([]byte, 0, 256+1024*len(t.Changes))
	b = appendNumber(b, `{"txn":`, t.Number)
	b = appendTime(b, `,"time":`, t.Time)
	b = appendNumber(b, `,"nextID":`, t.NextID)
	b = appendNumber(b, `,"synced":`, t.Synced)
	b = appendNumber(b, `,"filled":`, t.Filled)
	b = appendNumber(b, `,"count":`, t.Names.Count)
	b = appendHex(b, `,"names":"`, t.Names.Sum, namesDigits)
	b = append(b, `","changes":[`...)
	for i, c := range t.Changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, `{"name":`, c.Name)
		b = appendImage(b, `,"before":`, c.Before)
		b = appendImage(b, `,"after":`, c.After)
		b = append(b, '}')
	}
	return seal(append(b, ']'), prev)
}

// ParseLine verifies the checksum of a transaction's line and reads the front of the line.
// ok is false for anything else. A line of another program is one only if its members
// stand in the order of EncodeLine, without white space up to the changes and from prev on.
// Members that are not known may stand between changes and prev.
func ParseLine(raw []byte) (l Line, ok bool) {
	if len(raw) > MaxLine {
		return Line{}, false
	}
	l = Line{Raw: raw, Names: Names{Known: true}}
	body, crc, ok1 := hexTail(raw, crcTailStart, crcTailEnd)
	before, prev, ok2 := hexTail(body, prevStart, prevEnd)
	if !ok1 || !ok2 || checksum(body) != crc {
		return Line{}, false
	}
	l.Prev, l.CRC = prev, crc
	f := front{rest: before}
	l.Txn = f.number(`{"txn":`)
	f.text(`,"time":"`)
	l.NextID = f.number(`,"nextID":`)
	l.Synced = f.number(`,"synced":`)
	l.Filled = f.number(`,"filled":`)
	l.Names.Count = f.number(`,"count":`)
	l.Names.Sum, ok = parseHex(f.text(`,"names":"`), namesDigits)
	f.skip(`,"changes":[`)
	if !ok || f.bad {
		return Line{}, false
	}
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

// text reads what stands behind literal text, up to a quote, and the quote.
func (f *front) text(literal string) []byte {
	f.skip(literal)
	text, rest, ok := bytes.Cut(f.rest, []byte{'"'})
	f.rest = rest
	f.bad = f.bad || !ok
	return text
}

// number reads a number behind literal text.
func (f *front) number(literal string) (n uint64) {
	f.skip(literal)
	size := 0
	for ; size < len(f.rest) && '0' <= f.rest[size] && f.rest[size] <= '9'; size++ {
		digit := uint64(f.rest[size] - '0')
		f.bad = f.bad || n > (MaxNumber-digit)/10
		n = 10*n + digit
	}
	f.bad = f.bad || size == 0 || size > 1 && f.rest[0] == '0'
	f.rest = f.rest[size:]
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
	r.object(lineMembers, lineMembers, true, func(name string) {
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
	r.object(changeMembers, changeMembers, true, func(name string) {
		switch name {
		case "name":
			c.Name = r.string()
		case "before":
			c.Before = r.image()
		case "after":
			c.After = r.image()
		}
	})
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
	s := r.snapshot(imageMembers, []string{"id", "parent", "kind", "created", "updated"}, true)
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

// same reports whether two images that were decoded say the same, or are both nil.
func same(a, b *Snapshot) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Txn == b.Txn && reflect.DeepEqual(a, b) // the number first: comparing all is slow
}

// CarryOver returns the transaction behind txn that carries names over from one journal to the next, as
// they are; nil for none. Its time is that of the caller.
func CarryOver(txn, nextID uint64, versions map[string]*Snapshot, now time.Time) *Txn {
	if len(versions) == 0 {
		return nil
	}
	t := &Txn{Number: txn + 1, Time: now.UTC(), NextID: nextID, Synced: txn}
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		t.Changes = append(t.Changes, Change{Name: name, Before: versions[name], After: versions[name]})
	}
	return t
}

// CarriesOver reports whether t changes nothing and carries the names in it over from one
// journal to the next, since they lag.
func (t *Txn) CarriesOver() bool {
	if len(t.Changes) == 0 {
		return false
	}
	c := t.Changes[0] // all or none
	return c.After == nil && c.Before == nil || c.After != nil && c.After.Txn != t.Number
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
	return seal(appendNumber(nil, `{"superseded":`, txn), prev)
}

// SupersededLen is the most bytes that EncodeSuperseded returns.
var SupersededLen = len(EncodeSuperseded(math.MaxUint64, 0))
