package fsmeta_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// The files are read strictly, to one rule each: reads, checks and backups agree on it. They are
// written here by hand, with checksums that are right.

// replaced returns an edit that replaces what a pattern matches, which must be there.
func replaced(pattern, with string) func(t *testing.T, text string) string {
	return func(t *testing.T, text string) string {
		t.Helper()
		re := regexp.MustCompile(pattern)
		at := re.FindStringIndex(text)
		if at == nil {
			t.Fatalf("there is no %q in\n%s", pattern, text)
		}
		return text[:at[0]] + with + text[at[1]:]
	}
}

// added returns an edit that adds a member, before the identifier.
func added(member string) func(t *testing.T, text string) string {
	return replaced(`  "id"`, "  "+member+",\n  \"id\"")
}

func labels(json string) func(t *testing.T, text string) string {
	return replaced(`"labels": \{[^}]*\}`, `"labels": {`+json+`}`)
}

func created(json string) func(t *testing.T, text string) string {
	return replaced(`"created": "[^"]*"`, `"created": `+json)
}

// A form says what becomes of a text with a checksum, or without one.
type form int

const (
	whole   form = iota // read, with and without
	vouched             // read with a checksum, damage without
	damaged             // damage
)

var fileForms = []struct {
	name string
	edit func(t *testing.T, text string) string // of the lines behind the checksum
	want form
}{
	{"as it is", replaced(`"id"`, `"id"`), whole},
	{"compact", replaced(`\n  "kind": "active"`, `"kind":"active"`), whole},
	{"white space behind", replaced(`}\n$`, "}\n \t\r\n"), whole},
	{"text behind", replaced(`}\n$`, "}\nx"), damaged},
	{"a value behind", replaced(`}\n$`, "}\n{}"), damaged},
	{"NUL behind", replaced(`}\n$`, "}\n\x00"), damaged},
	{"cut", replaced(`"txn"(.|\n)*`, ""), damaged},
	{"not UTF-8", labels("\"a\": \"\xff\""), damaged},
	{"surrogates in UTF-8", labels("\"a\": \"\xed\xa0\x80\""), damaged},
	{"a comment", added(`/* */ "x": 1`), damaged},
	{"a comma too many", replaced(`\n}\n$`, ",\n}\n"), damaged},
	{"an array", replaced(`(.|\n)*`, "\"a\": [}\n"), damaged},

	{"unknown member", added(`"unknown": {"a": [1, 2.5e3, null, true, "\u0041"]}`), vouched},
	{"unknown member in usage", replaced(`"inodes"`, `"unknown": 1, "inodes"`), vouched},
	{"nested to 40", added(`"unknown": ` + strings.Repeat("[", 40) + strings.Repeat("]", 40)), vouched},
	{"nested to 100000", added(`"unknown": ` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)), damaged},
	{"other case", replaced(`"id"`, `"ID"`), damaged},
	{"other case besides", added(`"ID": "77"`), vouched},
	{"member twice", added(`"id": "1"`), damaged},
	{"member twice, escaped", added(`"\u0069d": "1"`), damaged},
	{"label twice", labels(`"a": "b", "a": "c"`), damaged},
	{"usage twice", replaced(`"inodes"`, `"size": 0, "inodes"`), damaged},
	{"escaped member", replaced(`"id"`, `"\u0069d"`), whole},

	{"null id", replaced(`"id": "[^"]*"`, `"id": null`), damaged},
	{"null name", replaced(`"name": "[^"]*"`, `"name": null`), damaged},
	{"null kind", replaced(`"kind": "[^"]*"`, `"kind": null`), damaged},
	{"null readonly", replaced(`"readonly": false`, `"readonly": null`), damaged},
	{"null labels", replaced(`"labels": \{[^}]*\}`, `"labels": null`), damaged},
	{"null label", labels(`"a": null`), damaged},
	{"null created", created("null"), damaged},
	{"null usage", replaced(`"usage": \{[^}]*\}`, `"usage": null`), damaged},
	{"null txn", replaced(`"txn": \d+`, `"txn": null`), damaged},
	{"no id", replaced(`  "id": "[^"]*",\n`, ""), damaged},
	{"no name", replaced(`  "name": "[^"]*",\n`, ""), damaged},
	{"no kind", replaced(`  "kind": "[^"]*",\n`, ""), damaged},
	{"no created", replaced(`  "created": "[^"]*",\n`, ""), damaged},

	{"parent a number", replaced(`"parent": ""`, `"parent": 1`), damaged},
	{"parent null", replaced(`"parent": ""`, `"parent": null`), damaged},
	{"parent twice", replaced(`"parent": ""`, `"parent": "", "parent": ""`), damaged},
	{"its own parent", replaced(`"parent": ""`, `"parent": "x"`), damaged},
	{"parent too long", replaced(`"parent": ""`, `"parent": "`+strings.Repeat("p", 32_769)+`"`), damaged},
	{"another name", replaced(`"name": "x"`, `"name": "y"`), damaged},
	{"kind in upper case", replaced(`"active"`, `"Active"`), damaged},
	{"kind unknown", replaced(`"active"`, `"view"`), damaged},
	{"readonly a string", replaced(`"readonly": false`, `"readonly": "false"`), damaged},

	{"id zero", replaced(`"id": "[^"]*"`, `"id": "0"`), damaged},
	{"id with a zero", replaced(`"id": "[^"]*"`, `"id": "01"`), damaged},
	{"id with a sign", replaced(`"id": "[^"]*"`, `"id": "+1"`), damaged},
	{"id a number", replaced(`"id": "[^"]*"`, `"id": 1`), damaged},
	{"id too high", replaced(`"id": "[^"]*"`, `"id": "9223372036854775808"`), damaged},
	{"txn highest", replaced(`"txn": \d+`, `"txn": 9223372036854775807`), whole},
	{"txn too high", replaced(`"txn": \d+`, `"txn": 9223372036854775808`), damaged},
	{"txn negative", replaced(`"txn": \d+`, `"txn": -1`), damaged},
	{"txn fraction", replaced(`"txn": \d+`, `"txn": 1.0`), damaged},
	{"txn exponent", replaced(`"txn": \d+`, `"txn": 1e0`), damaged},
	{"txn with a zero", replaced(`"txn": \d+`, `"txn": 01`), damaged},
	{"txn a string", replaced(`"txn": \d+`, `"txn": "1"`), damaged},
	{"size too high", replaced(`"size": \d+`, `"size": 9223372036854775808`), damaged},

	{"year 1", created(`"0001-01-01T00:00:00Z"`), whole},
	{"year 0", created(`"0000-01-01T00:00:00Z"`), whole},
	{"year 9999", created(`"9999-12-31T23:59:59.999999999Z"`), whole},
	{"lower case", created(`"2026-03-01t01:02:03z"`), whole},
	{"offset", created(`"2026-03-01T01:02:03.5+02:00"`), whole},
	{"one digit", created(`"2026-03-01T1:30:00Z"`), damaged},
	{"comma", created(`"2026-03-01T01:30:00,5Z"`), damaged},
	{"no digits", created(`"2026-03-01T01:30:00.Z"`), damaged},
	{"ten digits", created(`"2026-03-01T01:30:00.1234567891Z"`), damaged},
	{"second 60", created(`"2026-03-01T01:30:60Z"`), damaged},
	{"hour 24", created(`"2026-03-01T24:00:00Z"`), damaged},
	{"offset of a day", created(`"2026-03-01T00:00:00+24:00"`), damaged},
	{"no such day", created(`"2026-02-29T00:00:00Z"`), damaged},
	{"no zone", created(`"2026-03-01T00:00:00"`), damaged},
	{"offset without colon", created(`"2026-03-01T00:00:00+0200"`), damaged},
	{"a space", created(`"2026-03-01 00:00:00Z"`), damaged},
	{"before year 0", created(`"0000-01-01T00:00:00+01:00"`), damaged},
	{"after year 9999", created(`"9999-12-31T23:59:59-01:00"`), damaged},
	{"time a number", created("0"), damaged},

	{"escapes", labels(`"a\u0020b": "\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"`), whole},
	{"high surrogate", labels(`"a": "\ud83d"`), damaged},
	{"low surrogate", labels(`"a": "\ude00"`), damaged},
	{"surrogates in turn", labels(`"a": "\ude00\ud83d"`), damaged},
	{"lone surrogate as a key", labels(`"\ud83d": "a"`), damaged},
	{"unknown escape", labels(`"a": "\x41"`), damaged},
	{"a control character", labels("\"a\": \"\n\""), damaged},
	{"empty label key", labels(`"": "a"`), damaged},
	{"empty label value", labels(`"a": ""`), whole},
	{"longest label key", labels(`"` + strings.Repeat("k", 32_768) + `": "a"`), whole},
	{"label key too long", labels(`"` + strings.Repeat("k", 32_769) + `": "a"`), damaged},
	{"label a number", labels(`"a": 1`), damaged},
}

func TestMetadataIsReadStrictly(t *testing.T) {
	for _, c := range fileForms {
		for _, byHand := range []bool{false, true} {
			name, want := c.name, c.want == whole || c.want == vouched && !byHand
			if byHand {
				name += "/by hand"
			}
			t.Run(name, func(t *testing.T) {
				dir := newDir(t)
				build(t, dir, "put x", "put other")
				path := metadataPath(dir, "x")
				text := c.edit(t, splitFile(t, path))
				if byHand {
					text = "{\n" + text
				} else {
					text = crcLine(text) + text
				}
				writeFile(t, path, text)
				wantJudged(t, dir, want)
			})
		}
	}
}

// The checksum's own member is as strict.
func TestChecksumIsReadStrictly(t *testing.T) {
	for name, edit := range map[string]func(sum string) string{
		"upper case": func(sum string) string { return `"` + strings.ToUpper(sum) + `"` },
		"another":    func(sum string) string { return `"` + crc(sum) + `"` },
		"empty":      func(string) string { return `""` },
		"short":      func(sum string) string { return `"` + sum[:7] + `"` },
		"long":       func(sum string) string { return `"` + sum + `0"` },
		"null":       func(string) string { return "null" },
		"a number":   func(string) string { return "12345678" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			path := ""
			for n := 0; ; n++ { // until the checksum has a letter
				build(t, dir, "put x", "put other")
				path = metadataPath(dir, "x")
				if sum := crc(splitFile(t, path)); sum != strings.ToUpper(sum) {
					rest := splitFile(t, path)
					writeFile(t, path, "{\n  \"crc32c\": "+edit(sum)+",\n"+rest)
					break
				}
				build(t, dir, "remove x", "remove other")
			}
			wantJudged(t, dir, false)
		})
	}
}

// goTexts are texts that no error shows: those of Go, not of the format.
var goTexts = regexp.MustCompile(`Go struct|Go value|[^.]json: |strconv\.|parsing time|2006-01-02|wire\.|unmarshal|offset \d+`)

// wantJudged requires that snapshot x is read by all, or is damaged for all, and that the other one
// is not.
func wantJudged(t *testing.T, dir string, whole bool) {
	t.Helper()
	a := useDamaged(t, dir, fsmeta.ReadOnly())
	copied := newDir(t)
	for _, line := range []string{"stat x", "walk", "all", "ids", "backup " + copied} {
		_, err := a.do(line)
		if whole != (err == nil) || !whole && !errors.Is(err, fsmeta.ErrDamaged) {
			t.Errorf("%s: %v, want that it is whole: %v", line, err, whole)
		}
		if err != nil && goTexts.MatchString(err.Error()) {
			t.Errorf("%s: the error speaks of Go: %v", line, err)
		}
	}
	mustSay(t, a, "stat other", "active v= on=")
	findings, err := fsmeta.Check(t.Context(), dir, nil)
	succeed(t, err)
	found := false
	for _, f := range findings {
		if f.Name == "x" && !f.Harmless && !strings.Contains(f.Problem, "and the journal ends at") { // which reading does not mind
			found = true
		}
		if goTexts.MatchString(f.String()) {
			t.Errorf("the finding speaks of Go: %v", f)
		}
	}
	if found == whole {
		t.Errorf("check finds %q, reading finds that it is whole: %v", findings, whole)
	}
	if whole {
		mustSay(t, useDamaged(t, copied), "stat x", mustDo(t, a, "stat x"))
	}
}

// A check finds each breach between snapshots that reading a single one does not see.
func TestCheckFindsParentsThatCannotBe(t *testing.T) {
	for name, edits := range map[string]map[string]string{ // by snapshot, its parent
		"active":  {"b": "work"},
		"missing": {"b": "nothing"},
		"a cycle": {"a": "c", "b": "a", "c": "b"},
		"itself":  {"b": "b"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, "put work", "layer a", "layer b", "layer c", "layer d")
			for snapshot, parent := range edits {
				path := metadataPath(dir, snapshot)
				text := replaced(`"parent": ""`, `"parent": "`+parent+`"`)(t, splitFile(t, path))
				writeFile(t, path, crcLine(text)+text)
				succeed(t, os.Symlink("../"+parent, entry(dir, snapshot+"/parent")))
			}
			wantFinding(t, dir, "parent", "itself", "circle", "cycle")
			a := useDamaged(t, dir)
			mustDo(t, a, "stat d", "put e d", "remove e", "remove d")
			_, _ = a.do("active b")
			_, _ = a.do("walk")
			mustDo(t, a, "close")
			repair(t, dir)
		})
	}
}

// The same rules hold for the images in the journal's lines: one that breaks them is damage, and no
// panic.
func TestLineIsReadStrictly(t *testing.T) {
	number := func(key, value string) func(t *testing.T, text string) string {
		return replaced(`"`+key+`":"?\w+"?`, `"`+key+`":`+value)
	}
	forms := map[string]func(t *testing.T, text string) string{
		"empty label key": replaced(`"labels":\{[^}]*\}`, `"labels":{"":"a"}`),
		"label twice":     replaced(`"labels":\{[^}]*\}`, `"labels":{"a":"b","a":"c"}`),
		"parent a number": replaced(`"parent":""`, `"parent":1`),
		"parent null":     replaced(`"parent":""`, `"parent":null`),
		"its own parent":  replaced(`"parent":""`, `"parent":"x"`),
		"kind unknown":    replaced(`"kind":"active"`, `"kind":"view"`),
		"lone surrogate":  replaced(`"labels":\{[^}]*\}`, `"labels":{"a":"\ud83d"}`),
		"null labels":     replaced(`"labels":\{[^}]*\}`, `"labels":null`),
		"changes null":    replaced(`"changes":.*`, `"changes":null`),
		"changes missing": replaced(`,"changes":.*`, ``),
		"name empty":      replaced(`"name":"x"`, `"name":""`),
		"no name":         replaced(`"name":"x",`, ``),
		"not UTF-8":       replaced(`"name":"x"`, "\"name\":\"\xff\""),
		"time null":       replaced(`"time":"[^"]*"`, `"time":null`),
		"time odd":        replaced(`"time":"[^"]*"`, `"time":"2026-03-01T1:30:00Z"`),
		"no time":         replaced(`"time":"[^"]*",`, ``),
		"member twice":    replaced(`"time"`, `"nextID":1,"time"`),
	}
	for _, key := range []string{"txn", "nextID", "synced", "filled", "count", "inodes"} {
		for _, value := range []string{"18446744073709551615", "9223372036854775808", "-9223372036854775809", "1.5", "1e3", "null", `"1"`} {
			forms[key+" "+value] = number(key, value)
		}
	}
	for _, value := range []string{`"0123456789ABCDEF"`, `"1"`, `""`, "null", "1"} {
		forms["names "+value] = number("names", value)
	}
	for name, edit := range forms {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			crashed(t, dir, "put a", "put x")
			editLine(t, dir, -1, func(body string) string { return edit(t, body) })
			wantDamagedSomewhere(t, dir)
		})
	}
	t.Run("unknown member", func(t *testing.T) {
		dir := newDir(t)
		crashed(t, dir, "put a", "put x")
		editLine(t, dir, -1, func(body string) string { return body + `,"unknown":{"a":[1]}` })
		mustSay(t, useDamaged(t, dir, fsmeta.ReadOnly()), "walk", "a x")
		a := use(t, dir)
		mustSay(t, a, "walk", "a x")
		mustDo(t, a, "put y")
	})
}

// A journal with a header that can't be is damage, and no panic.
func TestHeaderIsReadStrictly(t *testing.T) {
	forms := map[string]func(t *testing.T, body string) string{
		"unknown member": replaced(`"txn"`, `"unknown":1,"txn"`),
		"other case":     replaced(`"txn"`, `"Txn"`),
		"member twice":   replaced(`"txn"`, `"nextID":1,"txn"`),
		"format":         replaced(`fsmeta journal`, `journal`),
		"no txn":         replaced(`"txn":\d+,`, ``),
	}
	for _, key := range []string{"version", "txn", "nextID", "count", "filled"} {
		for _, value := range []string{"18446744073709551615", "9223372036854775808", "-1", "1.5", "1e3", "null", `"1"`} {
			forms[key+" "+value] = replaced(`"`+key+`":\d+`, `"`+key+`":`+value)
		}
	}
	for _, value := range []string{`"0123456789ABCDEF"`, `"1"`, "null", "1"} {
		forms["names "+value] = replaced(`"names":"[^"]*"`, `"names":`+value)
	}
	for name, edit := range forms {
		for _, lines := range []string{"closed", "crashed"} {
			t.Run(name+"/"+lines, func(t *testing.T) {
				dir := newDir(t)
				build(t, dir, "put a", "put x")
				if lines == "crashed" {
					crashed(t, dir, "put y")
				}
				editLine(t, dir, 0, func(body string) string { return edit(t, body) })
				wantDamagedSomewhere(t, dir)
			})
		}
	}
}

// A journal that has no header is damage.
func TestJournalWithoutHeader(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "NUL bytes": strings.Repeat("\x00", 128<<10), "a newline": "\n", "text": "text\n", "null": "null\n",
		"an array": "[]\n", "open": "{", "brackets": strings.Repeat("[", 1<<20) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, "put a", "put x")
			writeFile(t, filepath.Join(dir, "journal"), text)
			wantDamagedSomewhere(t, dir)
		})
	}
}

// wantDamagedSomewhere requires that a store is damaged for a process that opens it, reads and writes;
// that a check finds that; and that a repair ends it. All in a process that must not panic.
func wantDamagedSomewhere(t *testing.T, dir string) {
	t.Helper()
	r := start(t)
	for _, line := range []string{"walk", "ids", "put new"} {
		_, err := r.do("open " + dir)
		if err == nil {
			_, err = r.do(line)
			mustDo(t, r, "close")
		}
		if !errors.Is(err, fsmeta.ErrDamaged) {
			t.Errorf("open and %s: %v, want that it is damaged", line, err)
		} else if goTexts.MatchString(err.Error()) {
			t.Errorf("open and %s: the error speaks of Go: %v", line, err)
		}
	}
	if found, err := r.do("check " + dir); err != nil || !strings.Contains(found, "journal") {
		t.Errorf("check: %v, it finds %s", err, found)
	} else if goTexts.MatchString(found) {
		t.Errorf("check: the finding speaks of Go: %s", found)
	}
	mustDo(t, r, "repair "+dir)
	repair(t, dir, fsmeta.AcceptTree())
	forgetAside(t, dir)
	mustDo(t, r, "open "+dir, "stat a", "put new", "walk", "close")
	wantClean(t, dir)
}

// Labels that the interface takes are stored, read and copied; others it refuses.
func TestLabelsThatCanBeStored(t *testing.T) {
	for i, c := range []struct {
		key, value string
		want       error
	}{
		{"", "a", fsmeta.ErrInvalidName},
		{strings.Repeat("k", 32_769), "a", fsmeta.ErrInvalidName},
		{"\xff", "a", fsmeta.ErrInvalidName},
		{"a", "\xff", fsmeta.ErrInvalidName},
		{strings.Repeat("k", 32_768), "", nil},
		{"\x00", "\x00\u202e\U0010ffff", nil},
		{"a", strings.Repeat("v", 1<<20), nil},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			a := use(t, newDir(t))
			mustDo(t, a, "put x", "begin")
			_, err := a.store.Update(a.ctx, fsmeta.Info{Name: "x", Labels: map[string]string{c.key: c.value}})
			if !errors.Is(err, c.want) {
				t.Errorf("Update: %v, want %v", err, c.want)
			}
			_, err = a.store.CreateWith(a.ctx, "y", "", false, fsmeta.WithLabels(map[string]string{c.key: c.value}))
			if !errors.Is(err, c.want) {
				t.Errorf("CreateWith: %v, want %v", err, c.want)
			}
			copied := newDir(t)
			mustDo(t, a, "end", "backup "+copied)
			if c.want == nil {
				info, err := useDamaged(t, copied).store.Stat(t.Context(), "x")
				if err != nil || info.Labels[c.key] != c.value {
					t.Errorf("the copy has %q, %v", info.Labels, err)
				}
			}
		})
	}
}
