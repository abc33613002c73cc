package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
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
	switch c := r.peek(); {
	case c == '{':
		have = "an object"
	case c == '[':
		have = "an array"
	case c == '"':
		have = "a string"
	case c == 't' || c == 'f':
		have = "a boolean"
	case c == 'n':
		have = "null"
	case c == '-' || '0' <= c && c <= '9':
		have = "a number"
	default:
		r.syntax(want)
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
func (r *reader) enter(opening byte, want string) {
	if r.peek() != opening {
		r.mismatch(want)
	}
	r.pos++
	if r.depth++; r.depth > maxDepth {
		r.failValue("is nested more than %d deep", maxDepth)
	}
}

// more reads up to member or element n; at the end of the object or array it reads the byte
// that ends it and returns false.
func (r *reader) more(n int, closing byte) bool {
	c := r.peek()
	if c == closing {
		r.pos++
		r.depth--
		return false
	}
	if n > 0 && c != ',' {
		r.syntax("a comma or a closing bracket")
	} else if n > 0 {
		r.pos++
	}
	return r.err == nil
}

// members reads an object: read reads the value of each member. It does not look for names
// that stand twice.
func (r *reader) members(read func(name string)) {
	r.enter('{', "an object")
	for n := 0; r.more(n, '}'); n++ {
		if r.peek() != '"' {
			r.syntax("the name of a member")
		}
		name := r.string()
		if r.peek() != ':' {
			r.syntax("a colon")
			return
		}
		r.pos++
		if read(name); r.err != nil {
			r.inside(fmt.Sprintf("member %.64q", name))
		}
	}
}

// array reads an array: read reads each element.
func (r *reader) array(read func()) {
	r.enter('[', "an array")
	for n := 0; r.more(n, ']'); n++ {
		if read(); r.err != nil {
			r.inside(fmt.Sprintf("element %d", n))
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
// the set of those that it has seen. One that is required and missing is an error, and so is one
// that stands twice, known or not. Other members are an error, too; with ignore they are read over.
func (r *reader) object(known, required []string, ignore bool, read func(name string)) (seen memberSet) {
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
	for _, name := range required {
		if r.err == nil && !seen.has(known, name) {
			r.fail("member %q is missing", name)
		}
	}
	return seen
}

// skip reads a value of any type.
func (r *reader) skip() {
	switch r.peek() {
	case '{':
		r.object(nil, nil, true, nil)
	case '[':
		r.array(r.skip)
	case '"':
		r.string()
	default:
		r.scalar("a value")
	}
}

// null reads null, if it is there.
func (r *reader) null() bool {
	return r.peek() == 'n' && r.scalar("null") == "null"
}

// boolean reads true or false.
func (r *reader) boolean() bool {
	const want = "true or false"
	if c := r.peek(); c != 't' && c != 'f' {
		r.mismatch(want)
		return false
	}
	return r.scalar(want) == "true"
}

// scalar reads a number, true, false or null, and returns its text.
func (r *reader) scalar(want string) string {
	text := r.word()
	switch text {
	case "true", "false", "null":
	default:
		if !json.Valid([]byte(text)) {
			r.pos -= len(text)
			r.syntax(want)
		}
	}
	return text
}

// word reads up to what may stand behind a scalar, and returns its text.
func (r *reader) word() string {
	if r.peek(); r.err != nil {
		return ""
	}
	rest := r.text[r.pos:]
	for i := range len(rest) {
		if c := rest[i]; c <= ' ' || c == ',' || c == '}' || c == ']' {
			r.pos += i
			return rest[:i]
		}
	}
	r.pos = len(r.text)
	return rest
}

// number reads an integer from 0 to MaxNumber.
func (r *reader) number() uint64 {
	if r.peek() == '-' {
		r.failValue("is negative")
	}
	return uint64(r.integer())
}

// positive reads a number that can't be 0.
func (r *reader) positive() uint64 {
	n := r.number()
	if n == 0 {
		r.failValue("is 0, want a number from 1")
	}
	return n
}

// integer reads a signed 64-bit integer, without fraction and exponent.
func (r *reader) integer() int64 {
	c := r.peek()
	if c != '-' && (c < '0' || c > '9') {
		r.mismatch("a number")
		return 0
	}
	text := r.word()
	n, err := strconv.ParseInt(text, 10, 64)
	digits := strings.TrimPrefix(text, "-")
	switch {
	case errors.Is(err, strconv.ErrRange):
		r.failValue("is %.32s, which has more than 63 bits", text)
	case err != nil || digits[0] == '0' && len(digits) > 1:
		r.failValue("is %.32s, want an integer", text)
	}
	return n
}

// hex reads a string of so many lowercase hexadecimal digits.
func (r *reader) hex(digits int) uint64 {
	s := r.string()
	n, ok := parseHex(s, digits)
	if !ok {
		r.failValue("is %.64q, want %d lowercase hexadecimal digits", s, digits)
	}
	return n
}

// time reads a string that is a time.
func (r *reader) time() time.Time {
	s := r.string()
	t, ok := parseTime(s)
	if !ok {
		r.failValue("is %.64q, want a time such as 2026-03-01T12:00:00.5Z", s)
	}
	return t
}

// string reads a string.
func (r *reader) string() string {
	if r.peek() != '"' {
		r.mismatch("a string")
		return ""
	}
	var b []byte // what stands before start, where there are escapes
	text, start := r.text, r.pos+1
	for i := start; i < len(text); i++ {
		c := text[i]
		if c != '"' && c != '\\' && c >= ' ' {
			continue
		}
		r.pos = i
		switch c {
		case '"':
			r.pos++
			if b == nil {
				return text[start:i]
			}
			return string(append(b, text[start:i]...))
		case '\\':
			b = utf8.AppendRune(append(b, text[start:i]...), r.escape())
			start = r.pos
			i = start - 1
		default:
			r.syntax("an escape for it")
		}
		if r.err != nil {
			return ""
		}
	}
	r.pos = len(r.text)
	r.syntax("the end of a string")
	return ""
}

// escape reads one escape and returns its character. One beyond U+FFFF is a pair of escapes.
func (r *reader) escape() rune {
	rest := r.text[r.pos:]
	if len(rest) > 1 {
		if i := strings.IndexByte(`"\/bfnrt`, rest[1]); i >= 0 {
			r.pos += 2
			return rune("\"\\/\b\f\n\r\t"[i])
		}
	}
	c := codeUnit(rest)
	if c < 0 {
		r.syntax(`an escape such as \n or \u001f`)
		return 0
	}
	r.pos += unitLen
	if !utf16.IsSurrogate(c) {
		return c
	}
	pair := utf16.DecodeRune(c, codeUnit(rest[unitLen:]))
	if pair == utf8.RuneError {
		r.fail("byte %d: an escape that stands for half a character", r.pos-unitLen)
	}
	r.pos += unitLen
	return pair
}

const unitLen = len(`\u001f`)

// codeUnit returns what the escape \uxxxx that s begins with stands for, -1 where there is none.
func codeUnit(s string) rune {
	if len(s) < unitLen || s[:2] != `\u` {
		return -1
	}
	n, err := strconv.ParseUint(s[2:unitLen], 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}
