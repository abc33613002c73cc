package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// exampleTxn is a transaction that creates one snapshot, changes one and removes one.
func exampleTxn() *Txn {
	created, before, after, removed := plain(), example(), example(), plain()
	created.Txn, after.Txn = 13, 13
	after.Usage.Size, after.Labels = 5, nil
	removed.Name = "z\n"
	return &Txn{
		Number: 13, Time: time.Date(2026, 1, 1, 0, 0, 0, 9, time.UTC), NextID: 300, Synced: 11, Filled: 131072,
		Names:   Names{Count: 7, Sum: 0xfedcba9876543210, Known: true},
		Changes: []Change{{"a", nil, created}, {"default/12/web", before, after}, {"z\n", removed, nil}},
	}
}

func carryOver() *Txn {
	t := exampleTxn()
	t.Changes = []Change{{"a", plain(), plain()}, {"b", nil, nil}, {"default/12/web", example(), example()}}
	return t
}

// sealed returns a body of a line with its end.
func sealed(body string) []byte { return seal([]byte(body), 0xabcdef01) }

// unsealed is the inverse of sealed.
func unsealed(raw []byte) string { return string(raw[:len(raw)-prevLen-crcTailLen]) }

func TestEncodeLine(t *testing.T) {
	txn := exampleTxn()
	txn.Changes = []Change{{"default/12/web", nil, txn.Changes[1].After}}
	want := `{"txn":13,"time":"2026-01-01T00:00:00.000000009Z","nextID":300,"synced":11,"filled":131072,"count":7,"names":"fedcba9876543210",` +
		`"changes":[{"name":"default/12/web","before":null,"after":{"id":"7","parent":"sha256:9a0c","kind":"active","readonly":false,"labels":{},` +
		`"created":"2026-03-01T12:00:00.000000005Z","updated":"2026-03-02T12:00:00Z","usage":{"inodes":3,"size":5},"txn":13}}],"prev":"abcdef01"`
	want += fmt.Sprintf(`,"crc32c":"%08x"}`, checksum([]byte(want)))
	if got := string(EncodeLine(txn, 0xabcdef01)); got != want {
		t.Errorf("EncodeLine = %s\nwant %s", got, want)
	}
}

func TestLineRoundTrip(t *testing.T) {
	empty := exampleTxn()
	empty.Changes = nil
	for _, want := range []*Txn{exampleTxn(), carryOver(), empty} {
		raw := EncodeLine(want, 0xabcdef01)
		l, ok := ParseLine(raw)
		front := Line{Txn: 13, NextID: 300, Synced: 11, Filled: 131072, Names: want.Names, Raw: raw, Prev: 0xabcdef01, CRC: l.CRC}
		if !ok || !reflect.DeepEqual(l, front) {
			t.Fatalf("ParseLine = %+v, %v, want %+v", l, ok, front)
		}
		got, err := l.Decode()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Decode = %+v, %v, want %+v", got, err, want)
		}
		for i := range raw {
			bad := bytes.Clone(raw)
			bad[i] ^= 1
			if _, ok := ParseLine(bad); ok {
				t.Errorf("byte %d changed from %q: not noticed", i, raw[i])
			}
			if _, ok := ParseLine(raw[:i]); ok {
				t.Errorf("cut to %d bytes: not noticed", i)
			}
		}
	}
}

func TestParseLineRefuses(t *testing.T) {
	whole := unsealed(EncodeLine(exampleTxn(), 0))
	for _, c := range []struct{ what, old, new string }{
		{"white space", `{"txn"`, `{ "txn"`},
		{"white space behind a number", `13,`, `13 ,`},
		{"txn not first", `"txn":13,"time":"2026-01-01T00:00:00.000000009Z"`, `"time":"2026-01-01T00:00:00.000000009Z","txn":13`},
		{"txn 2^63", `"txn":13`, `"txn":9223372036854775808`},
		{"txn 2^64", `"txn":13`, `"txn":18446744073709551616`},
		{"txn of many digits", `"txn":13`, `"txn":` + strings.Repeat("1", 40)},
		{"txn with a zero", `"txn":13`, `"txn":013`},
		{"txn negative", `"txn":13`, `"txn":-13`},
		{"txn a string", `"txn":13`, `"txn":"13"`},
		{"txn missing", `"txn":13,`, ``},
		{"no number", `"txn":13`, `"txn":`},
		{"nextID 2^63", `"nextID":300`, `"nextID":9223372036854775808`},
		{"synced 2^63", `"synced":11`, `"synced":9223372036854775808`},
		{"filled 2^63", `"filled":131072`, `"filled":9223372036854775808`},
		{"count 2^63", `"count":7`, `"count":9223372036854775808`},
		{"filled missing", `"filled":131072,`, ``},
		{"names in upper case", `fedcba9876543210`, `FEDCBA9876543210`},
		{"names too short", `fedcba9876543210`, `fedcba987654321`},
		{"names too long", `fedcba9876543210`, `fedcba98765432100`},
		{"member before the changes", `"changes":[`, `"future":1,"changes":[`},
		{"changes null", `"changes":[`, `"changes":null,"x":[`},
		{"another name", `"nextID"`, `"nextid"`},
		{"a header", whole, `{"format":"fsmeta journal"`},
		{"superseded", whole, `{"superseded":4`},
		{"nothing", whole, ``},
	} {
		if !strings.Contains(whole, c.old) {
			t.Fatalf("%s: %q is not in the line", c.what, c.old)
		}
		raw := sealed(strings.Replace(whole, c.old, c.new, 1))
		if l, ok := ParseLine(raw); ok {
			t.Errorf("%s: read as %+v", c.what, l)
		}
	}
	for _, highest := range []string{`"txn":13`, `"nextID":300`, `"synced":11`, `"filled":131072`, `"count":7`} {
		name, _, _ := strings.Cut(highest, ":")
		if _, ok := ParseLine(sealed(strings.Replace(whole, highest, name+":9223372036854775807", 1))); !ok {
			t.Errorf("%s of 2^63-1 is refused", name)
		}
	}
	raw := string(sealed(whole))
	sum := raw[len(raw)-2-crcDigits:][:crcDigits]
	for _, bad := range []string{
		strings.Replace(raw, sum, strings.ToUpper(sum), 1), strings.Replace(raw, `"abcdef01"`, `"ABCDEF01"`, 1),
		raw + " ", raw + "\n", raw[1:], raw[:len(raw)-1],
	} {
		if l, ok := ParseLine([]byte(bad)); ok {
			t.Errorf("%q: read as %+v", bad, l)
		}
	}
	upper := seal([]byte(whole), 0xabcdef01)
	upper = bytes.Replace(upper[:len(upper)-crcTailLen], []byte("abcdef01"), []byte("ABCDEF01"), 1)
	upper = append(upper, fmt.Sprintf(`,"crc32c":"%08x"}`, checksum(upper))...)
	if l, ok := ParseLine(upper); ok {
		t.Errorf("prev in upper case: read as %+v", l)
	}
	if strings.ToUpper(sum) == sum {
		t.Error("the example's checksum has no letter")
	}
}

func TestParseLineIsLimited(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a gigabyte")
	}
	body := []byte(`{"txn":1,"time":"2026-01-01T00:00:00Z","nextID":1,"synced":0,"filled":0,"count":0,"names":"0000000000000000","changes":[]`)
	rest := MaxLine - len(body) - prevLen - crcTailLen
	for _, extra := range []int{0, 1} {
		x := append(append([]byte(nil), body...), `,"x":"`...)
		x = append(x, bytes.Repeat([]byte("x"), rest-len(`,"x":""`)+extra)...)
		raw := seal(append(x, '"'), 0)
		if _, ok := ParseLine(raw); ok != (extra == 0) {
			t.Errorf("a line of %d bytes: %v", len(raw), ok)
		}
	}
}

func TestDecodeLineIsStrict(t *testing.T) {
	for _, c := range []struct {
		what     string
		txn      *Txn
		old, new string
		want     string // "" where it is accepted
	}{
		{"member behind the changes", exampleTxn(), `"after":null}]`, `"after":null}],"future":{"x":[null]}`, ""},
		{"member in a change", exampleTxn(), `"before":null`, `"future":1,"before":null`, ""},
		{"member in an image", exampleTxn(), `{"id":"1"`, `{"crc32c":null,"name":"x","id":"1"`, ""},
		{"white space in the changes", exampleTxn(), `[{"name"`, "[ \t{ \"name\"", ""},
		{"member twice", exampleTxn(), `"after":null}]`, `"after":null}],"txn":13`, `line of transaction 13: member "txn" stands twice`},
		{"prev twice", exampleTxn(), `"after":null}]`, `"after":null}],"prev":"00000000"`, `member "prev" stands twice`},
		{"crc32c twice", exampleTxn(), `"after":null}]`, `"after":null}],"crc32c":"00000000"`, `member "crc32c" stands twice`},
		{"unknown member twice", exampleTxn(), `"after":null}]`, `"after":null}],"x":1,"x":1`, `member "x" stands twice`},
		{"change null", exampleTxn(), `[{"name"`, `[null,{"name"`, `member "changes": element 0 is null, want an object`},
		{"time", exampleTxn(), `2026-01-01T`, `2026-01-01 `, `member "time" is`},
		{"nextID 0", exampleTxn(), `"nextID":300`, `"nextID":0`, `member "nextID" is 0`},
		{"no name", exampleTxn(), `"name":"a",`, ``, `member "changes": element 0: member "name" is missing`},
		{"no before", exampleTxn(), `"before":null,`, ``, `member "before" is missing`},
		{"no after", exampleTxn(), `,"after":null`, ``, `member "after" is missing`},
		{"name null", exampleTxn(), `"name":"a"`, `"name":null`, `member "name" is null, want a string`},
		{"name empty", exampleTxn(), `"name":"a"`, `"name":""`, `name is empty`},
		{"names out of order", exampleTxn(), `"name":"a"`, `"name":"x"`, `the change of "default/12/web" stands behind that of "x"`},
		{"name twice", exampleTxn(), `"name":"a"`, `"name":"default/12/web"`, `stands behind`},
		{"image a string", exampleTxn(), `"before":null`, `"before":"x"`, `member "before" is a string, want an object`},
		{"image without parent", exampleTxn(), `"parent":"",`, ``, `member "after": member "parent" is missing`},
		{"image without kind", exampleTxn(), `"kind":"committed",`, ``, `member "after": member "kind" is missing`},
		{"image without times", exampleTxn(), `"created":"1970-01-01T00:00:01Z",`, ``, `member "created" is missing`},
		{"image without labels", exampleTxn(), `"labels":{},`, ``, ""},
		{"image on itself", exampleTxn(), `"parent":"sha256:9a0c"`, `"parent":"default/12/web"`, `change of "default/12/web": parent is the snapshot itself`},
		{"image with a bad identifier", exampleTxn(), `"id":"1"`, `"id":"01"`, `change of "a": identifier "01"`},
		{"image of another transaction", exampleTxn(), `"txn":13}}`, `"txn":12}}`, `change of "a": member "after" is of transaction 12`},
		{"image without transaction", exampleTxn(), `,"txn":13}}`, `}}`, `member "after" is of transaction 0`},
		{"transaction 2^63", exampleTxn(), `"txn":13}}`, `"txn":9223372036854775808}}`, `member "txn" is 9223372036854775808`},
		{"committed and not readonly", exampleTxn(), `"readonly":true`, `"readonly":false`, ""},
		{"carried over", carryOver(), `{`, `{`, ""},
		{"carried over, and changed", carryOver(), `"size":4096`, `"size":4097`, `member "after" is of transaction 12`},
		{"half a character", exampleTxn(), `"labels":{}`, `"labels":{"a":"\ud800"}`, `half a character`},
		{"not UTF-8", exampleTxn(), `"labels":{}`, "\"labels\":{\"a\":\"\xff\"}", `not valid UTF-8`},
		{"not JSON", exampleTxn(), `"after":null}]`, `"after":null]`, `want a comma`},
	} {
		t.Run(c.what, func(t *testing.T) {
			whole := unsealed(EncodeLine(c.txn, 0))
			if !strings.Contains(whole, c.old) {
				t.Fatalf("%q is not in %s", c.old, whole)
			}
			l, ok := ParseLine(sealed(strings.Replace(whole, c.old, c.new, 1)))
			if !ok {
				t.Fatal("not a line")
			}
			got, err := l.Decode()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Decode = %+v, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestCarriedOverAlone(t *testing.T) {
	for _, c := range []struct {
		what   string
		change Change
		want   string
	}{
		{"the same image", Change{"b", plain(), plain()}, "changes some names and carries others over"},
		{"nothing", Change{"b", nil, nil}, "changes some names and carries others over"},
		{"another parent", Change{"b", plain(), func() *Snapshot { s := plain(); s.Parent = "x"; return s }()}, "of transaction 0"},
	} {
		txn := exampleTxn()
		txn.Changes = append(txn.Changes[:1:1], c.change)
		l, ok := ParseLine(EncodeLine(txn, 0))
		if !ok {
			t.Fatal("not a line")
		}
		if got, err := l.Decode(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Decode = %+v, %v", c.what, got, err)
		}
	}
	txn := carryOver()
	txn.Number = 12
	l, _ := ParseLine(EncodeLine(txn, 0))
	if got, err := l.Decode(); err == nil || !strings.Contains(err.Error(), "carries over an image of transaction 12") {
		t.Errorf("an image of its own transaction: Decode = %+v, %v", got, err)
	}
	l, _ = ParseLine(EncodeLine(exampleTxn(), 0))
	l.Txn = 14
	if got, err := l.Decode(); err == nil || !strings.Contains(err.Error(), "it is of transaction 13") {
		t.Errorf("of another transaction: Decode = %+v, %v", got, err)
	}
}

// Every difference makes two images differ, wherever it is.
func TestSame(t *testing.T) {
	if !same(nil, nil) || same(nil, plain()) || same(plain(), nil) || !same(example(), example()) {
		t.Error("same is wrong")
	}
	other := Snapshot{"8", "n", "p", Committed, true, []Label{{"a", "b"}}, time.Unix(1, 0), time.Unix(1, 0), Usage{1, 1}, 1}
	for i := range reflect.TypeFor[Snapshot]().NumField() {
		s := example()
		reflect.ValueOf(s).Elem().Field(i).Set(reflect.ValueOf(other).Field(i))
		if same(s, example()) {
			t.Errorf("another %s is not noticed", reflect.TypeFor[Snapshot]().Field(i).Name)
		}
	}
}

func TestNeedleIsInEveryLineAboutAName(t *testing.T) {
	for _, name := range []string{"a", "default/12/web", strings.Repeat("\u202e", 300), "\"\\", "é", strings.Repeat("x", MaxName)} {
		s := plain()
		s.Name, s.Txn = name, 5
		needle := NeedleOf(name)
		line := EncodeLine(&Txn{Number: 5, NextID: 1, Changes: []Change{{name, nil, s}}}, 0)
		if !bytes.Contains(line, needle) || len(needle) > needleLen {
			t.Errorf("%.20q: %q is not in the line", name, needle)
		}
	}
	if needle := string(NeedleOf("a")); needle != `"a"` {
		t.Errorf("NeedleOf(a) = %s", needle)
	}
}

func TestSuperseded(t *testing.T) {
	got := string(EncodeSuperseded(4, 0x73f882f0))
	if want := `{"superseded":4,"prev":"73f882f0","crc32c":"53fe5583"}`; got != want { // of layout.md
		t.Errorf("EncodeSuperseded = %s, want %s", got, want)
	}
	if SupersededLen < len(EncodeSuperseded(MaxNumber, 1)) {
		t.Errorf("SupersededLen = %d", SupersededLen)
	}
}

func exampleHeader() Header {
	return Header{
		Txn: 5, NextID: 9, Names: Names{Count: 2, Sum: 0xabc, Known: true}, Filled: 4096,
		Boot: "0fb4-…\n", Prev: 0x12345678, Sealed: true,
	}
}

func TestHeader(t *testing.T) {
	h := exampleHeader()
	raw := EncodeHeader(h)
	want := `{"format":"fsmeta journal","version":2,"txn":5,"nextID":9,"count":2,"names":"0000000000000abc","filled":4096,"boot":"0fb4-…\u000a","prev":"12345678"`
	if want += fmt.Sprintf(`,"crc32c":"%08x"}`, checksum([]byte(want))); string(raw) != want {
		t.Errorf("EncodeHeader = %s\nwant %s", raw, want)
	}
	if got, err := ParseHeader(raw); err != nil || got != h {
		t.Errorf("ParseHeader = %+v, %v, want %+v", got, err, h)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if got, err := ParseHeader(bad); err == nil {
			t.Errorf("byte %d changed from %q: read as %+v", i, raw[i], got)
		}
	}
}

func TestHeaderIsStrict(t *testing.T) {
	whole := string(EncodeHeader(exampleHeader()))
	body := whole[:len(whole)-crcTailLen]
	resealed := func(old, new string) string {
		if !strings.Contains(body, old) {
			t.Fatalf("%q is not in the header", old)
		}
		b := strings.Replace(body, old, new, 1)
		return fmt.Sprintf(`%s,"crc32c":"%08x"}`, b, checksum([]byte(b)))
	}
	const start = `{"format":"fsmeta journal","version":2,`
	for _, c := range []struct{ what, raw, want string }{
		{"shortest by hand", start + `"nextID":9}`, ""},
		{"all by hand", body + "}", ""},
		{"white space by hand", " { \"nextID\" : 9, \"version\":2, \"format\":\"fsmeta journal\" } ", ""},
		{"in another order, sealed", resealed(`"version":2,"txn":5`, `"txn":5,"version":2`), ""},
		{"empty", "", "header: the text ends"},
		{"no member", "{}", `header: member "format" is missing`},
		{"no version", `{"format":"fsmeta journal","nextID":9}`, `member "version" is missing`},
		{"no nextID", start + `"txn":5}`, `member "nextID" is missing`},
		{"nextID 0", start + `"nextID":0}`, `member "nextID" is 0`},
		{"nextID 2^63", start + `"nextID":9223372036854775808}`, `member "nextID" is 9223372036854775808`},
		{"txn 2^63", start + `"nextID":9,"txn":9223372036854775808}`, `member "txn" is 9223372036854775808`},
		{"txn null", start + `"nextID":9,"txn":null}`, `member "txn" is null`},
		{"another format", `{"format":"fsmeta","version":2,"nextID":9}`, `member "format" is "fsmeta", want "fsmeta journal"`},
		{"version 1", `{"format":"fsmeta journal","version":1,"txn":0,"nextID":1,"prev":"00000000","crc32c":"7622c517"}`, `member "version" is 1`},
		{"version 3", resealed(`"version":2,`, `"version":3,"new":1,`), `member "version" is 3: the journal is of another version`},
		{"version a string", resealed(`"version":2`, `"version":"2"`), `member "version" is a string`},
		{"unknown by hand", start + `"nextID":9,"nextid":9}`, `member "nextid" is not known; the members are format, version`},
		{"unknown, sealed", resealed(`"txn"`, `"x":1,"txn"`), `member "x" is not known`},
		{"twice", start + `"nextID":9,"nextID":9}`, `member "nextID" stands twice`},
		{"prev by hand", start + `"nextID":9,"prev":"x"}`, `member "prev" is "x", want 8 lowercase`},
		{"prev null", start + `"nextID":9,"prev":null}`, `member "prev" is null`},
		{"checksum by hand", start + `"crc32c":"00000000","nextID":9}`, `member "crc32c" must be the last member`},
		{"checksum null", start + `"nextID":9,"crc32c":null}`, `member "crc32c" is null`},
		{"checksum with white space", strings.Replace(whole, `,"crc32c":`, `, "crc32c":`, 1), `member "crc32c" must be the last member`},
		{"checksum in upper case", body + `,"crc32c":"ABCDEF01"}`, `member "crc32c" is "ABCDEF01"`},
		{"checksum wrong", body + `,"crc32c":"abcdef01"}`, `header: the checksum does not match`},
		{"white space behind a checksum", whole + " ", `member "crc32c" must be the last member`},
		{"names too short", resealed(`0000000000000abc`, `abc`), `member "names" is "abc", want 16 lowercase`},
		{"no count, sealed", resealed(`"count":2,`, ``), `member "count" is missing`},
		{"no boot, sealed", resealed(`"boot":"0fb4-…\u000a",`, ``), `member "boot" is missing`},
		{"no prev, sealed", resealed(`,"prev":"12345678"`, ``), `member "prev" is missing`},
		{"not UTF-8", resealed(`0fb4`, "\xff"), `not valid UTF-8`},
		{"a value behind it", start + `"nextID":9}{}`, `want the end`},
	} {
		h, err := ParseHeader([]byte(c.raw))
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || h != Header{}) {
			t.Errorf("%s: ParseHeader(%s) = %+v, %v, want %q", c.what, c.raw, h, err, c.want)
		}
		if err == nil && h.Sealed != strings.Contains(c.raw, "crc32c") {
			t.Errorf("%s: Sealed is %v", c.what, h.Sealed)
		}
	}
	for raw, known := range map[string]bool{
		`"nextID":9}`: false, `"nextID":9,"count":1}`: false, `"nextID":9,"names":"0000000000000001"}`: false,
		`"nextID":9,"count":1,"names":"0000000000000001"}`: true,
	} {
		want := Header{NextID: 9}
		if known {
			want.Names = Names{1, 1, true}
		}
		if h, err := ParseHeader([]byte(start + raw)); err != nil || h != want {
			t.Errorf("%s: ParseHeader = %+v, %v, want %+v", raw, h, err, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(EncodeHeader(exampleHeader()))
	f.Add([]byte(`{"format":"fsmeta journal","version":2,"nextID":9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHeader(data)
		if err != nil {
			// The checksum may be the only fault.
			body, _, ok := hexTail(data, crcTailStart, crcTailEnd)
			if !ok {
				return
			}
			data = fmt.Appendf(bytes.Clone(body), `,"crc32c":"%08x"}`, checksum(body))
			if h, err = ParseHeader(data); err != nil {
				return
			}
		}
		if h.NextID == 0 || h.NextID > MaxNumber || h.Txn > MaxNumber || h.Filled > MaxNumber || h.Names.Count > MaxNumber || h.Sealed && !h.Names.Known {
			t.Errorf("%q is read as %+v", data, h)
		}
		if !json.Valid(data) {
			t.Errorf("%q is not JSON", data)
		}
		h.Sealed, h.Names.Known = true, true
		if again, err := ParseHeader(EncodeHeader(h)); err != nil || again != h {
			t.Errorf("%q was read as %+v, written, and read as %+v, %v", data, h, again, err)
		}
	})
}

func FuzzLine(f *testing.F) {
	for _, txn := range []*Txn{exampleTxn(), carryOver(), {NextID: 1}} {
		f.Add(unsealed(EncodeLine(txn, 0)), 20, byte(1))
	}
	f.Fuzz(func(t *testing.T, body string, at int, flip byte) {
		ParseLine([]byte(body))
		raw := sealed(body)
		l, ok := ParseLine(raw)
		if !ok {
			return
		}
		if l.Txn > MaxNumber || l.NextID > MaxNumber || l.Synced > MaxNumber || l.Filled > MaxNumber || l.Names.Count > MaxNumber || !l.Names.Known {
			t.Errorf("%q is read as %+v", raw, l)
		}
		if at >= 0 && at < len(raw) && flip != 0 {
			bad := bytes.Clone(raw)
			bad[at] ^= flip
			if _, ok := ParseLine(bad); ok {
				t.Errorf("%q is taken for a line, as is %q", bad, raw)
			}
		}
		txn, err := l.Decode()
		if err != nil {
			return
		}
		if !json.Valid(raw) || txn.Number != l.Txn || txn.NextID != l.NextID || txn.Synced != l.Synced || txn.Filled != l.Filled || txn.Names != l.Names {
			t.Errorf("%q: front %+v, decoded %+v", raw, l, txn)
		}
		for _, c := range txn.Changes {
			for _, s := range []*Snapshot{c.Before, c.After} {
				if s != nil && (s.Name != c.Name || s.Check() != nil) {
					t.Errorf("%q has %+v: %v", raw, s, s.Check())
				}
			}
		}
		again, ok := ParseLine(EncodeLine(txn, l.Prev))
		if !ok {
			t.Fatalf("%q was read as %+v and written as no line", raw, txn)
		}
		if txn2, err := again.Decode(); err != nil || !reflect.DeepEqual(txn, txn2) {
			t.Errorf("%q was read as %+v, written, and read as %+v, %v", raw, txn, txn2, err)
		}
	})
}

func BenchmarkParseLine(b *testing.B) {
	raw := EncodeLine(exampleTxn(), 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := ParseLine(raw); !ok {
			b.Fatal("not a line")
		}
	}
}

func BenchmarkDecodeLine(b *testing.B) {
	l, _ := ParseLine(EncodeLine(exampleTxn(), 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Decode(); err != nil {
			b.Fatal(err)
		}
	}
}
