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

func example() *Snapshot {
	return &Snapshot{
		ID: "7", Name: "default/12/web", Parent: "sha256:9a0c", Kind: Active,
		Labels:  []Label{{"containerd.io/gc.root", "2026"}, {"odd", "\x1b[31m \"\\ \u202e é <&>"}},
		Created: time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC), Updated: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC),
		Usage: Usage{Inodes: 3, Size: 4096}, Txn: 12,
	}
}

func plain() *Snapshot {
	return &Snapshot{ID: "1", Name: "a", Kind: Committed, Readonly: true, Created: time.Unix(1, 0).UTC(), Updated: time.Unix(1, 0).UTC()}
}

// reseal makes the checksum of a file right.
func reseal(data []byte) []byte {
	sum := appendHex(nil, "", uint64(checksum(data[crcLineLen:])), crcDigits)
	copy(data[len(crcLineStart):], sum)
	return data
}

// byHand deletes the checksum of a file, as a person does.
func byHand(data []byte) string { return "{\n" + string(data[crcLineLen:]) }

func TestEncodeFile(t *testing.T) {
	s := example()
	s.Labels = s.Labels[:1]
	want := `{
  "crc32c": "XXXXXXXX",
  "id": "7",
  "name": "default/12/web",
  "parent": "sha256:9a0c",
  "kind": "active",
  "readonly": false,
  "labels": {
    "containerd.io/gc.root": "2026"
  },
  "created": "2026-03-01T12:00:00.000000005Z",
  "updated": "2026-03-02T12:00:00Z",
  "usage": {
    "inodes": 3,
    "size": 4096
  },
  "txn": 12
}
`
	want = string(reseal([]byte(want)))
	if got := string(EncodeFile(s)); got != want {
		t.Errorf("EncodeFile = %s\nwant %s", got, want)
	}
	local := *s
	local.Created = s.Created.In(time.FixedZone("", 3600))
	if got := string(EncodeFile(&local)); got != want {
		t.Errorf("of a local time: %s\nwant %s", got, want)
	}
}

func TestChecksumVector(t *testing.T) {
	if sum := checksum([]byte("123456789")); sum != 0xe3069283 {
		t.Errorf("checksum of 123456789 is %08x", sum)
	}
}

func TestFileRoundTrip(t *testing.T) {
	for _, want := range []*Snapshot{example(), plain()} {
		got, err := DecodeFile(EncodeFile(want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("DecodeFile = %+v, %v, want %+v", got, err, want)
		}
		got, err = DecodeFile([]byte(byHand(EncodeFile(want))))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("without checksum: DecodeFile = %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestCommittedIsReadonly(t *testing.T) {
	s := plain()
	s.Readonly = false
	data := EncodeFile(s)
	if !bytes.Contains(data, []byte(`"readonly": true`)) {
		t.Errorf("EncodeFile of a committed snapshot = %s", data)
	}
	data = bytes.Replace(data, []byte(`"readonly": true`), []byte(`"readonly": false`), 1)
	if got, err := DecodeFile(reseal(data)); err != nil || !got.Readonly {
		t.Errorf("DecodeFile of a committed snapshot = %+v, %v", got, err)
	}
}

func TestFileIsFitForATerminal(t *testing.T) {
	data := EncodeFile(example())
	if !json.Valid(data) {
		t.Errorf("not JSON: %s", data)
	}
	if i := bytes.IndexFunc(data, func(r rune) bool { return r != '\n' && r < ' ' || r == 0x7f || r == '\u202e' }); i >= 0 {
		t.Errorf("%q at %d would reach the terminal", data[i], i)
	}
}

// Every byte of a file counts, each of its bits.
func TestFileChecksumSeesEveryBit(t *testing.T) {
	whole := EncodeFile(example())
	for i := range whole {
		for bit := range 8 {
			data := bytes.Clone(whole)
			data[i] ^= 1 << bit
			if got, err := DecodeFile(data); err == nil {
				t.Errorf("byte %d changed from %q to %q: read as %+v", i, whole[i], data[i], got)
			}
		}
	}
}

// edits are changes of the example's file. want is the error where no checksum vouches for the
// file, sealed where one does; "" where the file is accepted.
var edits = []struct{ what, old, new, want, sealed string }{
	{"nothing", "", "", "", ""},
	{"unknown member", `"id"`, `"future": [{"a": null}], "id"`, `member "future" is not known; the members are crc32c, id, name`, ""},
	{"misspelt member", `"readonly"`, `"Readonly"`, `member "Readonly" is not known`, ""},
	{"unknown member twice", `"id"`, `"x": 1, "x": 1, "id"`, `member "x" is not known`, `member "x" stands twice`},
	{"unknown member of usage", `"inodes"`, `"x": 1, "inodes"`, `member "usage": member "x" is not known`, ""},
	{"member twice", `"txn"`, `"id": "7", "txn"`, `member "id" stands twice`, `member "id" stands twice`},
	{"label twice", `"odd"`, `"containerd.io/gc.root"`, `member "labels": member "containerd.io/gc.root" stands twice`, `member "labels": member "containerd.io/gc.root" stands twice`},
	{"usage twice", `"size"`, `"inodes"`, `member "usage": member "inodes" stands twice`, `member "usage": member "inodes" stands twice`},
	{"checksum elsewhere", `"txn"`, `"crc32c": "00000000", "txn"`, `member "crc32c" must be the second line`, `member "crc32c" stands twice`},
	{"checksum null", `"id"`, `"crc32c": null, "id"`, `member "crc32c" is null, want a string`, `member "crc32c" stands twice`},
	{"label named crc32c", `"odd"`, `"crc32c"`, "", ""},
	{"parent a number", `"sha256:9a0c"`, `1`, `member "parent" is a number, want a string`, `member "parent" is a number, want a string`},
	{"parent null", `"sha256:9a0c"`, `null`, `member "parent" is null, want a string`, `member "parent" is null, want a string`},
	{"parent empty", `"sha256:9a0c"`, `""`, "", ""},
	{"parent missing", `"parent": "sha256:9a0c",`, ``, "", `member "parent" is missing`},
	{"parent the name", `"sha256:9a0c"`, `"default/12/web"`, "parent is the snapshot itself", "parent is the snapshot itself"},
	{"parent too long", `"sha256:9a0c"`, `"` + strings.Repeat("x", MaxName+1) + `"`, "parent \"xxx", "parent \"xxx"},
	{"name missing", `"name": "default/12/web",`, ``, `member "name" is missing`, `member "name" is missing`},
	{"name empty", `"default/12/web"`, `""`, "name is empty", "name is empty"},
	{"id missing", `"id": "7",`, ``, `member "id" is missing`, `member "id" is missing`},
	{"id 0", `"7"`, `"0"`, `identifier "0"`, `identifier "0"`},
	{"id with a zero", `"7"`, `"07"`, `identifier "07"`, `identifier "07"`},
	{"id with a sign", `"7"`, `"+7"`, `identifier "+7"`, `identifier "+7"`},
	{"id empty", `"7"`, `""`, `identifier ""`, `identifier ""`},
	{"id 2^63-1", `"7"`, `"9223372036854775807"`, "", ""},
	{"id 2^63", `"7"`, `"9223372036854775808"`, "identifier", "identifier"},
	{"id a number", `"7"`, `7`, `member "id" is a number, want a string`, `member "id" is a number, want a string`},
	{"kind missing", `"kind": "active",`, ``, `member "kind" is missing`, `member "kind" is missing`},
	{"kind unknown", `"active"`, `"view"`, `member "kind" is "view", want active or committed`, `member "kind" is "view", want active or committed`},
	{"kind empty", `"active"`, `""`, `member "kind" is ""`, `member "kind" is ""`},
	{"readonly missing", `"readonly": false,`, ``, "", ""},
	{"readonly null", `"readonly": false`, `"readonly": null`, `member "readonly" is null, want true or false`, `member "readonly" is null, want true or false`},
	{"labels null", `"labels": {`, `"labels": null, "x": {`, `member "labels" is null, want an object`, `member "labels" is null, want an object`},
	{"label a number", `"2026"`, `2026`, `member "labels": member "containerd.io/gc.root" is a number, want a string`, `member "labels": member "containerd.io/gc.root" is a number, want a string`},
	{"label null", `"2026"`, `null`, `member "containerd.io/gc.root" is null`, `member "containerd.io/gc.root" is null`},
	{"label without key", `"odd"`, `""`, "label key is empty", "label key is empty"},
	{"label with a long key", `"odd"`, `"` + strings.Repeat("k", MaxName) + `"`, "", ""},
	{"label with too long a key", `"odd"`, `"` + strings.Repeat("k", MaxName+1) + `"`, "label key", "label key"},
	{"label of half a character", `"2026"`, `"\ud800"`, "half a character", "half a character"},
	{"label not UTF-8", `"2026"`, "\"\xff\"", "not valid UTF-8", "not valid UTF-8"},
	{"created missing", `"created": "2026-03-01T12:00:00.000000005Z",`, ``, `member "created" is missing`, `member "created" is missing`},
	{"created null", `"2026-03-01T12:00:00.000000005Z"`, `null`, `member "created" is null, want a string`, `member "created" is null, want a string`},
	{"created in lower case", `"2026-03-01T12:00:00.000000005Z"`, `"2026-03-01t12:00:00z"`, "", ""},
	{"created in year 1", `"2026-03-01T12:00:00.000000005Z"`, `"0001-01-01T00:00:00Z"`, "", ""},
	{"created without two digits", `"2026-03-01T12:00:00.000000005Z"`, `"2026-03-01T1:30:00Z"`, `member "created" is "2026-03-01T1:30:00Z", want a time such as`, `member "created"`},
	{"created with a comma", `"2026-03-01T12:00:00.000000005Z"`, `"2026-03-01T12:00:00,5Z"`, `member "created" is`, `member "created" is`},
	{"usage missing", `"usage": {`, `"x": {`, `member "x" is not known`, ""},
	{"usage null", `"usage": {`, `"usage": null, "x": {`, `member "usage" is null, want an object`, `member "usage" is null, want an object`},
	{"usage without size", `,
    "size": 4096`, ``, "", ""},
	{"size a fraction", `4096`, `4096.0`, `member "usage": member "size" is 4096.0, want an integer`, `member "usage": member "size" is 4096.0, want an integer`},
	{"size negative", `4096`, `-1`, "", ""},
	{"size -2^63", `4096`, `-9223372036854775808`, "", ""},
	{"size 2^63", `4096`, `9223372036854775808`, `member "size" is 9223372036854775808`, `member "size" is 9223372036854775808`},
	{"txn missing", `,
  "txn": 12`, ``, "", ""},
	{"txn 2^63-1", `"txn": 12`, `"txn": 9223372036854775807`, "", ""},
	{"txn 2^63", `"txn": 12`, `"txn": 9223372036854775808`, `member "txn" is 9223372036854775808, which has more than 63 bits`, `member "txn" is 9223372036854775808, which has more than 63 bits`},
	{"txn negative", `"txn": 12`, `"txn": -1`, `member "txn" is negative`, `member "txn" is negative`},
	{"txn a string", `"txn": 12`, `"txn": "12"`, `member "txn" is a string, want a number`, `member "txn" is a string, want a number`},
	{"white space behind it", "12\n}", "12\n}\n\n ", "", ""},
	{"a value behind it", "12\n}", "12\n}{}", "want the end", "want the end"},
	{"NUL behind it", "12\n}\n", "12\n}\n\x00", "want the end", "want the end"},
}

func TestDecodeFileIsStrict(t *testing.T) {
	for _, c := range edits {
		t.Run(c.what, func(t *testing.T) {
			whole := EncodeFile(example())
			if !bytes.Contains(whole, []byte(c.old)) {
				t.Fatalf("%q is not in the file", c.old)
			}
			data := whole
			if c.what != "nothing" {
				data = bytes.Replace(whole, []byte(c.old), []byte(c.new), 1)
				if _, err := DecodeFile(data); err == nil || !strings.Contains(err.Error(), "checksum does not match") {
					t.Errorf("with the old checksum: %v", err)
				}
			}
			try := func(what string, data []byte, want string) {
				t.Helper()
				s, err := DecodeFile(data)
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %q", what, err, want)
				}
				if err == nil {
					sameAsStandard(t, data, s)
				}
			}
			try("with a checksum", reseal(bytes.Clone(data)), c.sealed)
			try("without a checksum", []byte(byHand(data)), c.want)
		})
	}
}

func TestDecodeFileForms(t *testing.T) {
	whole := string(EncodeFile(example()))
	sum := whole[len(crcLineStart):][:crcDigits]
	for _, c := range []struct{ what, data, want string }{
		{"empty", "", "the file is empty"},
		{"NUL bytes", strings.Repeat("\x00", 300), `byte 0 is '\x00', want an object`},
		{"cut in the checksum", whole[:20], "the text ends"},
		{"cut behind the checksum", whole[:crcLineLen], "checksum does not match"},
		{"cut", whole[:100], "checksum does not match"},
		{"cut, without checksum", byHand([]byte(whole))[:100], "the text ends"},
		{"null", "null", "the text is null, want an object"},
		{"upper case", strings.Replace(whole, sum, strings.ToUpper(sum), 1), `want 8 lowercase hexadecimal digits`},
		{"null checksum", strings.Replace(whole, `"`+sum+`"`, "null", 1), `member "crc32c" is null`},
		{"short checksum", strings.Replace(whole, sum, sum[:7], 1), `want 8 lowercase hexadecimal digits`},
		{"other white space", strings.Replace(whole, "{\n  \"crc32c\"", "{\n \"crc32c\"", 1), `member "crc32c" must be the second line`},
		{"carriage return", strings.Replace(whole, "\n", "\r\n", 2), `member "crc32c" must be the second line`},
		{"escaped name", strings.Replace(whole, `"crc32c"`, `"\u0063rc32c"`, 1), `member "crc32c" must be the second line`},
		{"other case of its name", strings.Replace(whole, `"crc32c"`, `"CRC32C"`, 1), `member "CRC32C" is not known`},
		{"not first", strings.Replace(byHand([]byte(whole)), `"txn": 12`, `"txn": 12, "crc32c": "`+sum+`"`, 1), `member "crc32c" must be the second line`},
		{"too long", byHand([]byte(whole)) + strings.Repeat(" ", MaxFile), "the most is 67108864"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if strings.ToUpper(sum) == sum {
				t.Fatal("the example's checksum has no letter")
			}
			if s, err := DecodeFile([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("DecodeFile = %+v, %v, want an error about %q", s, err, c.want)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]string{
		"2026-03-01T12:00:00Z":           "2026-03-01T12:00:00Z",
		"2026-03-01t12:00:00z":           "2026-03-01T12:00:00Z",
		"2026-03-01T12:00:00.5Z":         "2026-03-01T12:00:00.5Z",
		"2026-03-01T12:00:00.123456789Z": "2026-03-01T12:00:00.123456789Z",
		"2026-03-01T12:00:00.000Z":       "2026-03-01T12:00:00Z",
		"2026-03-01T12:00:00+01:30":      "2026-03-01T10:30:00Z",
		"2026-03-01T12:00:00.5-23:59":    "2026-03-02T11:59:00.5Z",
		"2026-03-01T12:00:00-00:00":      "2026-03-01T12:00:00Z",
		"2024-02-29T23:59:59Z":           "2024-02-29T23:59:59Z",
		"0001-01-01T00:00:00Z":           "0001-01-01T00:00:00Z",
		"0000-01-01T00:00:00Z":           "0000-01-01T00:00:00Z",
		"0000-01-01T01:00:00+01:00":      "0000-01-01T00:00:00Z",
		"9999-12-31T23:59:59.999999999Z": "9999-12-31T23:59:59.999999999Z",
	} {
		got, ok := parseTime(text)
		if !ok || string(appendTime(nil, "", got)) != `"`+want+`"` || got.Location() != time.UTC {
			t.Errorf("parseTime(%s) = %v, %v, want %s", text, got, ok, want)
		}
	}
	for _, text := range []string{
		"", "2026-03-01", "2026-03-01T12:00Z", "2026-03-01T12:00:00", "2026-03-01T1:30:00Z", "2026-03-01T12:00:00,5Z",
		"2026-03-01T12:00:00.Z", "2026-03-01T12:00:00.1234567890Z", "2026-03-01 12:00:00Z", "2026-03-01T12:00:00 Z",
		"2026-03-01T12:00:00+1:00", "2026-03-01T12:00:00+0100", "2026-03-01T12:00:00+01", "2026-03-01T12:00:00+24:00", "2026-03-01T12:00:00+00:60",
		"2026-03-01T12:00:00+-1:00", "2026-03-01T12:00:00ZZ", "2026-03-01T12:00:00.5",
		"2026-13-01T12:00:00Z", "2026-00-01T12:00:00Z", "2026-03-00T12:00:00Z", "2026-03-32T12:00:00Z", "2026-02-29T12:00:00Z", "2026-04-31T00:00:00Z",
		"2026-03-01T24:00:00Z", "2026-03-01T12:60:00Z", "2016-12-31T23:59:60Z", "-026-03-01T12:00:00Z", "20 6-03-01T12:00:00Z", "2026-03-01T12:00:+0Z",
		"0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "10000-01-01T00:00:00Z",
	} {
		if got, ok := parseTime(text); ok {
			t.Errorf("parseTime(%q) = %v", text, got)
		}
	}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat("x", MaxName+1)
	for _, c := range []struct {
		what   string
		change func(s *Snapshot)
		want   string
	}{
		{"nothing", func(s *Snapshot) {}, ""},
		{"no parent", func(s *Snapshot) { s.Parent = "" }, ""},
		{"no name", func(s *Snapshot) { s.Name, s.Parent = "", "" }, "name is empty"},
		{"long name", func(s *Snapshot) { s.Name = long }, "name"},
		{"bad parent", func(s *Snapshot) { s.Parent = "\xff" }, "parent \"\\xff\" is not valid UTF-8"},
		{"own parent", func(s *Snapshot) { s.Parent = s.Name }, "itself"},
		{"id", func(s *Snapshot) { s.ID = "x" }, "identifier"},
		{"no kind", func(s *Snapshot) { s.Kind = 0 }, "kind is Kind(0)"},
		{"unknown kind", func(s *Snapshot) { s.Kind = 3 }, "kind is Kind(3)"},
		{"label without key", func(s *Snapshot) { s.Labels[0].Key = "" }, "label key is empty"},
		{"label with a long key", func(s *Snapshot) { s.Labels[1].Key = long }, "label key"},
		{"label key not UTF-8", func(s *Snapshot) { s.Labels[1].Key = "\xff" }, "label key"},
		{"label not UTF-8", func(s *Snapshot) { s.Labels[1].Value = "\xff" }, "value of label"},
		{"labels in another order", func(s *Snapshot) { s.Labels[0], s.Labels[1] = s.Labels[1], s.Labels[0] }, "stands behind"},
		{"label twice", func(s *Snapshot) { s.Labels[1].Key = s.Labels[0].Key }, "stands behind"},
		{"year 0", func(s *Snapshot) { s.Created = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC) }, ""},
		{"year 1", func(s *Snapshot) { s.Created = time.Time{} }, ""},
		{"year -1", func(s *Snapshot) { s.Created = time.Date(0, 1, 1, 0, 0, 0, -1, time.UTC) }, "years 0 to 9999"},
		{"year 10000", func(s *Snapshot) { s.Updated = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "years 0 to 9999"},
		{"year 10000 in UTC", func(s *Snapshot) {
			s.Updated = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200))
		}, "years 0 to 9999"},
		{"txn", func(s *Snapshot) { s.Txn = MaxNumber + 1 }, "transaction"},
		{"large", func(s *Snapshot) { s.Labels[1].Value = strings.Repeat("x", MaxFile-1024) }, ""},
		{"too large", func(s *Snapshot) { s.Labels[1].Value = strings.Repeat("x", MaxFile) }, "the most is 67108864"},
		{"too large with its escapes", func(s *Snapshot) { s.Labels[1].Value = strings.Repeat("\x01", MaxFile/6) }, "the most is 67108864"},
	} {
		s := example()
		c.change(s)
		err := s.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Check = %v, want %q", c.what, err, c.want)
		}
	}
}

func TestLabels(t *testing.T) {
	m := map[string]string{"b": "2", "a": "1", "c": ""}
	labels := LabelsOf(m)
	if want := []Label{{"a", "1"}, {"b", "2"}, {"c", ""}}; !reflect.DeepEqual(labels, want) {
		t.Errorf("LabelsOf = %v, want %v", labels, want)
	}
	if back := LabelMap(labels); !reflect.DeepEqual(back, m) {
		t.Errorf("LabelMap = %v", back)
	}
	if LabelsOf(map[string]string{}) != nil || LabelMap([]Label{}) != nil {
		t.Error("no labels are not nil")
	}
	data := strings.Replace(byHand(EncodeFile(example())), `"odd"`, `"a"`, 1)
	if s, err := DecodeFile([]byte(data)); err != nil || s.Labels[0].Key != "a" {
		t.Errorf("labels in another order: %+v, %v", s, err)
	}
}

func TestNameIn(t *testing.T) {
	whole := string(EncodeFile(example()))
	for _, c := range []struct{ what, data, want string }{
		{"whole", whole, "default/12/web"},
		{"checksum wrong", strings.Replace(whole, "4096", "4097", 1), "default/12/web"},
		{"cut behind it", whole[:80], "default/12/web"},
		{"cut in it", whole[:60], ""},
		{"damaged before it", strings.Replace(whole, `"id"`, `"id`, 1), "default/12/web"},
		{"NUL before it", "\x00" + whole, "default/12/web"},
		{"not UTF-8", strings.Replace(whole, "2026", "\xff", 1), "default/12/web"},
		{"label of that name before it", `{"labels":{"name":"x"},"name":"y"}`, "y"},
		{"the string before it", `{x "name" "name": "y"}`, "y"},
		{"escapes", `{"name":"a\u0062"}`, "ab"},
		{"not a string", `{"name":1}`, ""},
		{"empty name", `{"name":""}`, ""},
		{"name not UTF-8", "{\"name\":\"\xff\"}", ""},
		{"none", `{}`, ""},
		{"empty", ``, ""},
	} {
		if got := NameIn([]byte(c.data)); got != c.want {
			t.Errorf("%s: NameIn = %q, want %q", c.what, got, c.want)
		}
	}
}

func TestDecodeFileAllocatesLittle(t *testing.T) {
	s := example()
	s.Labels = s.Labels[:1] // the other has escapes
	data := EncodeFile(s)
	got := testing.AllocsPerRun(100, func() {
		if _, err := DecodeFile(data); err != nil {
			t.Fatal(err)
		}
	})
	if got > 6 { // the reader, its text, the snapshot, the labels and their copy, the strings
		t.Errorf("DecodeFile makes %v allocations", got)
	}
}

// sameAsStandard compares a decoded file with the reading of encoding/json.
func sameAsStandard(t *testing.T, data []byte, s *Snapshot) {
	t.Helper()
	w := struct {
		ID       string                     `json:"id"`
		Name     string                     `json:"name"`
		Parent   string                     `json:"parent"`
		Kind     string                     `json:"kind"`
		Readonly bool                       `json:"readonly"`
		Labels   map[string]string          `json:"labels"`
		Created  string                     `json:"created"`
		Updated  string                     `json:"updated"`
		Usage    map[string]json.RawMessage `json:"usage"`
		Txn      uint64                     `json:"txn"`
	}{}
	var usage Usage
	// encoding/json takes names in any case: leave out all but the members.
	var all map[string]json.RawMessage
	err := json.Unmarshal(data, &all)
	for name := range all {
		if !strings.Contains(" "+strings.Join(fileMembers, " ")+" ", " "+name+" ") {
			delete(all, name)
		}
	}
	exact, _ := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(exact, &w)
	}
	if inodes, ok := w.Usage["inodes"]; ok && err == nil {
		err = json.Unmarshal(inodes, &usage.Inodes)
	}
	if size, ok := w.Usage["size"]; ok && err == nil {
		err = json.Unmarshal(size, &usage.Size)
	}
	if err != nil {
		t.Fatalf("encoding/json refuses %q: %v", data, err)
	}
	created, err1 := time.Parse(time.RFC3339Nano, strings.ToUpper(w.Created))
	updated, err2 := time.Parse(time.RFC3339Nano, strings.ToUpper(w.Updated))
	if err1 != nil || err2 != nil || !created.Equal(s.Created) || !updated.Equal(s.Updated) {
		t.Errorf("%q: times %v, %v", data, s.Created, s.Updated)
	}
	got := fmt.Sprintf("%q %q %q %v %v %v %v %v", s.ID, s.Name, s.Parent, s.Kind, s.Readonly, LabelMap(s.Labels), s.Usage, s.Txn)
	want := fmt.Sprintf("%q %q %q %v %v %v %v %v", w.ID, w.Name, w.Parent, w.Kind, w.Readonly || w.Kind == "committed", LabelMap(LabelsOf(w.Labels)), usage, w.Txn)
	if got != want {
		t.Errorf("%q is read as %s, by encoding/json as %s", data, got, want)
	}
}

func FuzzFile(f *testing.F) {
	f.Add(EncodeFile(example()))
	f.Add([]byte(byHand(EncodeFile(plain()))))
	f.Add([]byte(`{"id":"1","name":"a","kind":"committed","created":"2026-01-01T00:00:00Z","updated":"2026-01-01t00:00:00.5+01:00","labels":{"a":"b"}}`))
	f.Add([]byte(`{"crc32c":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		NameIn(data)
		if len(data) > crcLineLen && strings.HasPrefix(string(data), crcLineStart) {
			data = reseal(bytes.Clone(data)) // else nothing behind it is read
		}
		s, err := DecodeFile(data)
		if err != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Errorf("%q was read as what can't be stored: %v", data, err)
		}
		sameAsStandard(t, data, s)
		if name := NameIn(data); name != s.Name {
			t.Errorf("%q: NameIn = %q, want %q", data, name, s.Name)
		}
		again, err := DecodeFile(EncodeFile(s))
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%q was read as %+v, written, and read as %+v, %v", data, s, again, err)
		}
	})
}

func BenchmarkDecodeFile(b *testing.B) {
	s := example()
	s.Labels = []Label{{"containerd.io/gc.root", "2026-03-01"}, {"containerd.io/snapshot.ref", "sha256:9a0c36c8d1f6"}}
	data := EncodeFile(s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeFile(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeFile(b *testing.B) {
	s := example()
	b.ReportAllocs()
	for b.Loop() {
		EncodeFile(s)
	}
}
