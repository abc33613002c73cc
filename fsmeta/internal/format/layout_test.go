package format

import (
	"strings"
	"testing"
	"time"
)

func TestParseLayout(t *testing.T) {
	for _, c := range []struct {
		data    string
		version int
		ok      bool
	}{
		{LayoutContent, Version, true},
		{`{"format":"fsmeta","version":1}`, 1, true},
		{` { "version" : 3, "new": {"a":[null]}, "format":"fsmeta" } `, 3, true},
		{`{"format":"fsmeta","version":9223372036854775807}`, 1<<31 - 1, true},
		{`{"format":"fsmeta","version":9223372036854775808}`, 0, false},
		{`{"format":"fsmeta","version":-1}`, 0, false},
		{`{"format":"fsmeta","version":"2"}`, 0, false},
		{`{"format":"fsmeta","version":2,"version":2}`, 0, false},
		{`{"format":"fsmeta","Version":2}`, 0, false},
		{`{"format":"fsmeta"}`, 0, false},
		{`{"version":2}`, 0, false},
		{`{"format":"fsmeta journal","version":2}`, 0, false},
		{`{"format":"fsmeta","version":2}x`, 0, false},
		{``, 0, false},
		{"\x00", 0, false},
	} {
		if version, ok := ParseLayout([]byte(c.data)); version != c.version || ok != c.ok {
			t.Errorf("ParseLayout(%q) = %d, %v", c.data, version, ok)
		}
	}
}

func TestBackup(t *testing.T) {
	want := Backup{Time: time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC), From: 7, To: 4103}
	data := string(EncodeBackup(want))
	if form := `{"time":"2026-03-01T12:00:00.000000005Z","identifiersFrom":7,"identifiersTo":4103}` + "\n"; data != form {
		t.Errorf("EncodeBackup = %s, want %s", data, form)
	}
	if got, err := DecodeBackup([]byte(data)); err != nil || got != want {
		t.Errorf("DecodeBackup = %+v, %v", got, err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"identifiersFrom":7`, `"identifiersFrom":0`, `member "identifiersFrom" is 0`},
		{`"identifiersTo":4103`, `"identifiersTo":6`, `member "identifiersTo" is 6, below "identifiersFrom", 7`},
		{`"identifiersTo":4103`, `"identifiersTo":9223372036854775808`, `63 bits`},
		{`"identifiersTo":4103`, `"identifiersto":4103`, `member "identifiersto" is not known`},
		{`,"identifiersTo":4103`, ``, `member "identifiersTo" is missing`},
		{`"identifiersFrom":7,`, ``, `member "identifiersFrom" is missing`},
		{`"time":"2026-03-01T12:00:00.000000005Z",`, ``, `member "time" is missing`},
		{`"2026-03-01T12:00:00.000000005Z"`, `null`, `member "time" is null`},
		{"}\n", "}x", `want the end`},
		{data, ``, `the text ends`},
	} {
		if got, err := DecodeBackup([]byte(strings.Replace(data, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) || got != (Backup{}) {
			t.Errorf("%s instead of %s: DecodeBackup = %+v, %v, want %q", c.new, c.old, got, err, c.want)
		}
	}
}

func FuzzLayoutAndBackup(f *testing.F) {
	f.Add([]byte(LayoutContent))
	f.Add(EncodeBackup(Backup{From: 1, To: 2}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if version, ok := ParseLayout(data); version < 0 || !ok && version != 0 {
			t.Errorf("ParseLayout(%q) = %d, %v", data, version, ok)
		}
		b, err := DecodeBackup(data)
		if err != nil {
			return
		}
		if again, err := DecodeBackup(EncodeBackup(b)); err != nil || again != b || b.From == 0 || b.To < b.From {
			t.Errorf("%q was read as %+v, written, and read as %+v, %v", data, b, again, err)
		}
	})
}
