package format

import (
	"bytes"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
)

// anyValue reads a value as encoding/json does with UseNumber.
func anyValue(r *reader) any {
	switch r.peek() {
	case '{':
		m := map[string]any{}
		r.members(func(name string) { m[name] = anyValue(r) })
		return m
	case '[':
		a := []any{}
		r.array(func() { a = append(a, anyValue(r)) })
		return a
	case '"':
		return r.string()
	case 't', 'f':
		return r.boolean()
	case 'n':
		r.null()
		return nil
	}
	return json.Number(r.scalar("a value"))
}

func standardValue(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, err
	}
	return v, nil
}

// read reads over one text.
func read(data string) error {
	r := newReader([]byte(data))
	r.skip()
	return r.end()
}

func TestJSONRefuses(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{``, "the text ends before a value"},
		{`x`, "byte 0 is 'x', want a value"},
		{`{}x`, "byte 2 is 'x', want the end"},
		{`{} {}`, "want the end"},
		{"{}\x00", "want the end"},
		{"\ufeff{}", "want a value"},
		{`{"a"}`, "want a colon"},
		{`{"a":}`, `member "a": byte 5 is '}', want a value`},
		{`{"a":1,}`, "want the name of a member"},
		{`{,}`, "want the name of a member"},
		{`{a:1}`, "want the name of a member"},
		{`{'a':1}`, "want the name of a member"},
		{`{"a":1 "b":2}`, `want a comma or a closing bracket`},
		{`{"a":1`, `ends before a comma or a closing bracket`},
		{`[1,]`, "element 1: byte 3 is ']', want a value"},
		{`[1 2]`, `want a comma or a closing bracket`},
		{`[`, "ends"},
		{`{"a":1,"a":2}`, `member "a" stands twice`},
		{`{"a":1,"\u0061":2}`, `member "a" stands twice`},
		{`{"a":{"b":1,"b":1}}`, `member "a": member "b" stands twice`},
		{`01`, "want a value"},
		{`-`, "want a value"},
		{`+1`, "want a value"},
		{`1.`, "want a value"},
		{`.5`, "want a value"},
		{`1e`, "want a value"},
		{`1e+`, "want a value"},
		{`tru`, "want a value"},
		{`True`, "want a value"},
		{`nul`, "want a value"},
		{`NaN`, "want a value"},
		{"\"a\nb\"", "an escape"},
		{"\"\\\\a\tb\"", "an escape"},
		{`"a`, "the end of a string"},
		{`"\`, "an escape such as"},
		{`"\x"`, "an escape such as"},
		{`"\u12"`, "an escape such as"},
		{`"\u12g4"`, "an escape such as"},
		{`"\u123`, "an escape such as"},
		{"\"\\u\x11234\"", "an escape such as"},
		{`"\ud800"`, "half a character"},
		{`"\udc00"`, "half a character"},
		{`"\ud800x"`, "half a character"},
		{`"\ud800\ud800"`, "half a character"},
		{`"\udc00\udc00"`, "half a character"},
		{`"\ud800\n"`, "half a character"},
		{"\"\xff\"", "not valid UTF-8"},
		{"\"\xed\xa0\x80\"", "not valid UTF-8"}, // a surrogate as if it were a character
		{strings.Repeat("[", 65) + strings.Repeat("]", 65), "nested more than 64 deep"},
		{strings.Repeat("[", 1<<20), "nested more than 64 deep"},
		{strings.Repeat(`{"a":`, 1<<20), "nested more than 64 deep"},
		{manyMembers(maxIgnored + 1), "more than 1000"},
	} {
		if err := read(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want an error about %q", c.data, err, c.want)
		}
	}
}

// manyMembers returns an object with n members.
func manyMembers(n int) string {
	m := map[int]int{}
	for i := range n {
		m[i] = i
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func TestJSONAccepts(t *testing.T) {
	for _, data := range []string{
		`{}`, `[]`, `""`, `0`, `-0`, `-1.5e+7`, `1E2`, `true`, `false`, `null`, " \t\r\n[ 1 , { \"a\" : [ ] } ] \n",
		`"\"\\\/\b\f\n\r\t\u00e9\u00E9\ud83d\uDE00é😀"`, `"\u0000"`, "\"\u007f\"",
		`{"a":1,"A":2}`, `{"a":{"b":1},"b":{"b":1}}`, `[{"a":1},{"a":1}]`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64), manyMembers(maxIgnored),
	} {
		if err := read(data); err != nil {
			t.Errorf("%.40q: %v", data, err)
		}
		compare(t, []byte(data))
	}
}

// compare compares a text that the reader has accepted with encoding/json.
func compare(t *testing.T, data []byte) {
	t.Helper()
	want, err := standardValue(data)
	r := newReader(data)
	got := anyValue(r)
	if end := r.end(); err != nil || end != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q is read as %#v, %v, by encoding/json as %#v, %v", data, got, end, want, err)
	}
}

func TestJSONTypes(t *testing.T) {
	for _, c := range []struct {
		data string
		read func(r *reader)
		want string // "" where it is accepted
	}{
		{`9223372036854775807`, func(r *reader) { r.number() }, ""},
		{`9223372036854775808`, func(r *reader) { r.number() }, "the text is 9223372036854775808, which has more than 63 bits"},
		{`-1`, func(r *reader) { r.number() }, "is negative"},
		{`-0`, func(r *reader) { r.number() }, "is negative"},
		{`-9223372036854775808`, func(r *reader) { r.integer() }, ""},
		{`-9223372036854775809`, func(r *reader) { r.integer() }, "63 bits"},
		{`-0`, func(r *reader) { r.integer() }, ""},
		{`1.0`, func(r *reader) { r.integer() }, "is 1.0, want an integer"},
		{`1e3`, func(r *reader) { r.integer() }, "want an integer"},
		{`01`, func(r *reader) { r.integer() }, "is 01, want an integer"},
		{`"1"`, func(r *reader) { r.integer() }, "is a string, want a number"},
		{`null`, func(r *reader) { r.integer() }, "is null, want a number"},
		{`null`, func(r *reader) { r.string() }, "the text is null, want a string"},
		{`{}`, func(r *reader) { r.string() }, "is an object, want a string"},
		{`[]`, func(r *reader) { r.boolean() }, "is an array, want true or false"},
		{`0`, func(r *reader) { r.boolean() }, "is a number, want true or false"},
		{`true`, func(r *reader) { r.members(nil) }, "is a boolean, want an object"},
		{`x`, func(r *reader) { r.boolean() }, "byte 0 is 'x', want true or false"},
		{`"0123456789abcdef"`, func(r *reader) { r.hex(16) }, ""},
		{`"0123456789abcdeF"`, func(r *reader) { r.hex(16) }, "16 lowercase hexadecimal digits"},
		{`"0123456789abcde"`, func(r *reader) { r.hex(16) }, "16 lowercase hexadecimal digits"},
		{`"0123456789abcdef0"`, func(r *reader) { r.hex(16) }, "16 lowercase hexadecimal digits"},
	} {
		r := newReader([]byte(c.data))
		c.read(r)
		if err := r.end(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.data, err, c.want)
		}
	}
}

// What the reader accepts, encoding/json accepts, with the same values.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,-2.5e+7,"\ud83d\ude00\n",true,null,{"b":{}}]}`, `{"a":1,"a":2}`, `"\ud800"`, `01`, "[\xff]"} {
		f.Add([]byte(seed))
	}
	f.Add(EncodeFile(example()))
	f.Fuzz(func(t *testing.T, data []byte) {
		if read(string(data)) == nil {
			compare(t, data)
		}
	})
}
