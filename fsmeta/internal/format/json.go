package format

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a value that is read over.
const (
	maxDepth   = 64   // objects and arrays inside of each other
	maxIgnored = 1000 // members of one object that are not known
)

// reader reads one JSON text, strictly: RFC 8259, valid UTF-8, no member twice in an object,
// names of members matched exactly, no escape that stands for half a character. It reads
// values of known types one after the other. Its first error stays: every method then does
// nothing and returns zero. The strings that it returns are parts of text where they can be.
type reader struct {
	text  string
	pos   int
	depth int
	err   error
	open  bool // err still wants its subject before it: "member "x"" and then "is …"
}

func newReader(data []byte) *reader {
	r := &reader{text: string(data)}
	if !utf8.ValidString(r.text) {
		r.fail("not valid UTF-8")
	}
	return r
}

// end ends the reading. It returns the first error, or one if there is more to read.
func (r *reader) end() error {
	if r.peek(); r.err == nil && r.pos < len(r.text) {
		r.syntax("the end")
	}
	if r.open {
		return fmt.Errorf("the text %w", r.err)
	}
	return r.err
}

// fail makes an error of the reader, unless there is one.
func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// failValue is fail for an error about the value that is read. It begins with a verb: "is …".
func (r *reader) failValue(format string, args ...any) {
	if r.err == nil {
		r.fail(format, args...)
		r.open = true
	}
}

// inside adds to an error the part of the text that it is about.
func (r *reader) inside(part string) {
	join := ": "
	if r.open {
		join, r.open = " ", false
	}
	r.err = fmt.Errorf("%s%s%w", part, join, r.err)
}

// syntax is the error of a text that is not JSON.
func (r *reader) syntax(want string) {
	if r.pos >= len(r.text) {
		r.fail("the text ends before %s", want)
		return
	}
	c, _ := utf8.DecodeRuneInString(r.text[r.pos:])
	r.fail("byte %d is %q, want %s", r.pos, c, want)
}

// mismatch is the error of a value that has another type.
func (r *reader) mismatch(want string) {
	have := ""
	switch c := r.peek(); c {
	case '{':
		have = "an object"
	case '[':
		have = "an array"
	case '"':
		have = "a string"
	case 't', 'f':
		have = "a boolean"
	case 'n':
		have = "null"
	default:
		if c != '-' && (c < '0' || c > '9') {
			r.syntax(want)
			return
		}
		have = "a number"
	}
	r.failValue("is %s, want %s", have, want)
}

// peek skips white space and returns the byte behind it, 0 at the end of the text and after
// an error.
func (r *reader) peek() byte {
	if r.err != nil {
		return 0
	}
	for ; r.pos < len(r.text); r.pos++ {
		if c := r.text[r.pos]; c > ' ' || c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c
		}
	}
	return 0
}

// enter reads the byte that begins an object or an array.
func (r *reader) enter(opening byte, want string) bool {
	if r.peek() != opening {
		r.mismatch(want)
		return false
	}
	r.pos++
	if r.depth++; r.depth > maxDepth {
		r.failValue("is nested more than %d deep", maxDepth)
		return false
	}
	return true
}

// more reads up to the next member or element; at the end of the object or array it reads the
// byte that ends it and returns false.
func (r *reader) more(first bool, closing byte) bool {
	c := r.peek()
	switch {
	case r.err != nil:
		return false
	case c == closing:
		r.pos++
		r.depth--
		return false
	case first:
		return true
	case c != ',':
		r.syntax("a comma or " + strconv.QuoteRune(rune(closing)))
		return false
	}
	r.pos++
	return true
}

// members reads an object: read reads the value of each member. It does not look for names
// that stand twice.
func (r *reader) members(read func(name string)) {
	if !r.enter('{', "an object") {
		return
	}
	for first := true; r.more(first, '}'); first = false {
		if r.peek() != '"' {
			r.syntax("the name of a member")
			return
		}
		name := r.string()
		if r.peek() != ':' {
			r.syntax("a colon")
			return
		}
		r.pos++
		if read(name); r.err != nil {
			r.inside(fmt.Sprintf("member %.64q", name))
			return
		}
	}
}

// array reads an array: read reads each element.
func (r *reader) array(read func()) {
	if !r.enter('[', "an array") {
		return
	}
	for n := 0; r.more(n == 0, ']'); n++ {
		if read(); r.err != nil {
			r.inside(fmt.Sprintf("element %d", n))
			return
		}
	}
}

// memberSet is a set of the members of an object: bit i is member i of those that are known.
type memberSet uint

// has reports whether one of some known members is in the set.
func (s memberSet) has(known []string, name string) bool {
	return s&(1<<slices.Index(known, name)) != 0
}

// object reads an object with known members: read reads the value of each, and object returns
// the set of those that it has seen. Other members are an error; with ignore they are read over.
// A member that stands twice is an error, known or not.
func (r *reader) object(known []string, ignore bool, read func(name string)) (seen memberSet) {
	var others map[string]bool
	next := 0
	r.members(func(name string) {
		i := next
		if i >= len(known) || known[i] != name { // in the usual order it is that one
			i = slices.Index(known, name)
		}
		switch {
		case i >= 0 && seen&(1<<i) != 0, others[name]:
			r.failValue("stands twice")
		case i >= 0:
			seen |= 1 << i
			next = i + 1
			read(name)
		case !ignore:
			r.failValue("is not known; the members are %s", strings.Join(known, ", "))
		case len(others) == maxIgnored:
			r.failValue("is one of more than %d that are not known", maxIgnored)
		default:
			if others == nil {
				others = make(map[string]bool)
			}
			others[name] = true
			r.skip()
		}
	})
	return seen
}

// require makes an error of the first of some known members that was not seen.
func (r *reader) require(known []string, seen memberSet, names ...string) {
	for _, name := range names {
		if !seen.has(known, name) {
			r.fail("member %q is missing", name)
		}
	}
}

// skip reads a value of any type.
func (r *reader) skip() {
	switch r.peek() {
	case '{':
		r.object(nil, true, nil)
	case '[':
		r.array(r.skip)
	case '"':
		r.string()
	case 't', 'f':
		r.boolean()
	case 'n':
		r.null()
	default:
		r.literal("a value")
	}
}

// null reads null, if it is there.
func (r *reader) null() bool {
	if r.peek() != 'n' {
		return false
	}
	return r.word("null")
}

// boolean reads true or false.
func (r *reader) boolean() bool {
	switch r.peek() {
	case 't':
		return r.word("true")
	case 'f':
		r.word("false")
	default:
		r.mismatch("true or false")
	}
	return false
}

// word reads a word that its first byte has announced.
func (r *reader) word(word string) bool {
	if !strings.HasPrefix(r.text[r.pos:], word) {
		r.syntax(word)
		return false
	}
	r.pos += len(word)
	return true
}

// number reads an integer from 0 to MaxNumber.
func (r *reader) number() uint64 {
	if r.peek() == '-' {
		r.failValue("is negative")
	}
	return uint64(r.integer())
}

// integer reads a signed 64-bit integer, without fraction and exponent.
func (r *reader) integer() int64 {
	if c := r.peek(); c != '-' && (c < '0' || c > '9') {
		r.mismatch("a number")
		return 0
	}
	literal := r.literal("a number")
	if r.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(literal, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		r.failValue("is %.32s, which has more than 63 bits", literal)
	case err != nil:
		r.failValue("is %.32s, want an integer", literal)
	}
	return n
}

// literal reads a number of any kind and returns its text.
func (r *reader) literal(want string) string {
	r.peek()
	start := r.pos
	r.accept("-")
	if !r.accept("0") && !r.digits() {
		r.syntax(want)
		return ""
	}
	if r.accept(".") && !r.digits() {
		r.syntax("a digit")
	}
	if r.accept("eE") {
		r.accept("+-")
		if !r.digits() {
			r.syntax("a digit")
		}
	}
	return r.text[start:r.pos]
}

// accept reads one of the bytes in set, if it comes next.
func (r *reader) accept(set string) bool {
	if r.err != nil || r.pos >= len(r.text) || strings.IndexByte(set, r.text[r.pos]) < 0 {
		return false
	}
	r.pos++
	return true
}

// digits reads digits and reports whether there is one.
func (r *reader) digits() bool {
	start := r.pos
	for r.err == nil && r.pos < len(r.text) && '0' <= r.text[r.pos] && r.text[r.pos] <= '9' {
		r.pos++
	}
	return r.pos > start
}

// hex reads a string of so many lowercase hexadecimal digits.
func (r *reader) hex(digits int) uint64 {
	s := r.string()
	n, ok := parseHex(s)
	if r.err == nil && (!ok || len(s) != digits) {
		r.failValue("is %.64q, want %d lowercase hexadecimal digits", s, digits)
		return 0
	}
	return n
}

// time reads a string that is a time.
func (r *reader) time() time.Time {
	s := r.string()
	t, ok := parseTime(s)
	if r.err == nil && !ok {
		r.failValue("is %.64q, want %s", s, timeForm)
	}
	return t
}

// string reads a string.
func (r *reader) string() string {
	if r.peek() != '"' {
		r.mismatch("a string")
		return ""
	}
	r.pos++
	start := r.pos
	rest := r.text[start:]
	for i := range len(rest) {
		c := rest[i]
		if c != '"' && c != '\\' && c >= ' ' {
			continue
		}
		r.pos = start + i
		switch c {
		case '"':
			r.pos++
			return rest[:i]
		case '\\':
			return r.escapes(start)
		}
		r.syntax("an escape for it")
		return ""
	}
	r.pos = len(r.text)
	r.syntax("the end of a string")
	return ""
}

// escapes reads the rest of a string that begins at start and has an escape at pos.
func (r *reader) escapes(start int) string {
	b := append([]byte(nil), r.text[start:r.pos]...)
	for r.err == nil && r.pos < len(r.text) {
		c := r.text[r.pos]
		switch {
		case c == '"':
			r.pos++
			return string(b)
		case c == '\\':
			b = utf8.AppendRune(b, r.escape())
		case c < ' ':
			r.syntax("an escape for it")
		default:
			b = append(b, c)
			r.pos++
		}
	}
	r.syntax("the end of a string")
	return ""
}

// escape reads one escape and returns its character. One beyond U+FFFF is a pair of escapes.
func (r *reader) escape() rune {
	at := r.pos
	r.pos++
	if r.pos < len(r.text) && r.text[r.pos] != 'u' {
		if i := strings.IndexByte(`"\/bfnrt`, r.text[r.pos]); i >= 0 {
			r.pos++
			return rune("\"\\/\b\f\n\r\t"[i])
		}
	}
	c := r.codeUnit()
	if c < 0xd800 || c > 0xdfff {
		return c
	}
	if c < 0xdc00 && strings.HasPrefix(r.text[r.pos:], `\`) {
		r.pos++
		if low := r.codeUnit(); 0xdc00 <= low && low <= 0xdfff {
			return 0x10000 + (c-0xd800)<<10 + (low - 0xdc00)
		}
	}
	r.fail("byte %d: an escape that stands for half a character", at)
	return 0
}

// codeUnit reads the u of an escape and its four digits.
func (r *reader) codeUnit() (c rune) {
	const form = `the rest of an escape, such as "n" or "u001f"`
	if r.pos >= len(r.text) || r.text[r.pos] != 'u' {
		r.syntax(form)
		return 0
	}
	r.pos++
	for range 4 {
		if r.pos >= len(r.text) {
			r.syntax(form)
			return 0
		}
		digit := strings.IndexByte(hexLower, r.text[r.pos]|0x20)
		if digit < 0 || r.text[r.pos] < '0' {
			r.syntax(form)
			return 0
		}
		c = c<<4 | rune(digit)
		r.pos++
	}
	return c
}
