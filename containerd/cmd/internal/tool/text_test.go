package tool

import (
	"strings"
	"testing"
)

// Texts are shortened and wrapped by the columns that they take, and no character is divided.
func TestShorten(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    string
	}{
		{"short", 5, "short"},
		{"sha256:4f53cda18c2b", 9, "sha2…8c2b"},
		{"sha256:4f53cda18c2b", 2, "s…"},
		{"sha256:4f53cda18c2b", 1, "…"},
		{"sha256:4f53cda18c2b", 0, ""},
		{"日本語日本語", 12, "日本語日本語"},
		{"日本語日本語", 11, "日本…日本語"},
		{"日本語日本語", 6, "日…語"},
		{"e\u0301e\u0301e\u0301e\u0301", 4, "e\u0301e\u0301e\u0301e\u0301"},
		{"e\u0301e\u0301e\u0301e\u0301", 3, "e\u0301…e\u0301"},
		{"👩🏽👩🏽👩🏽", 5, "👩🏽…👩🏽"},
		{"שלום עולם", 5, "של…לם"},
	} {
		got := Shorten(test.text, test.columns)
		if got != test.want || Width(got) > test.columns {
			t.Errorf("%q in %d columns is %q, want %q", test.text, test.columns, got, test.want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    string
	}{
		{"a b", 0, "a b"},
		{"", 5, ""},
		{"one two three", 8, "one two|three"},
		{"one two three", 7, "one two|three"},
		{"sha256:4f53cda18c2b", 10, "sha256:4f5|3cda18c2b"},
		{"at /a/long/path/to/it there", 10, "at|/a/long/path/to/it|there"}, // a path can be pasted
		{"/a/long/path/to/it", 10, "/a/long/path/to/it"},
		{"日本語", 3, "日|本|語"},
		{"日本語", 1, "日本語"}, // there is no room
	} {
		if got := strings.Join(Wrap(test.text, test.columns), "|"); got != test.want {
			t.Errorf("%q in %d columns is %q, want %q", test.text, test.columns, got, test.want)
		}
	}
	if n := len(Wrap(strings.Repeat("x", 1<<20), 100)); n != 10486 {
		t.Errorf("a long text has %d lines", n)
	}
}

// Without a locale of UTF-8, and without a terminal, nothing is drawn that needs them.
func TestScreen(t *testing.T) {
	for _, test := range []struct {
		all, ctype, lang, noColour, term string
		utf8, colour                     bool
	}{
		{"", "", "en_US.UTF-8", "", "xterm", true, true},
		{"C", "", "en_US.UTF-8", "1", "xterm", false, false},
		{"", "de_DE.utf8", "C", "", "dumb", true, false},
		{"", "", "", "", "xterm", false, true},
		{"", "", "de_DE.UTF-8@euro", "0", "", true, false},
	} {
		t.Setenv("LC_ALL", test.all)
		t.Setenv("LC_CTYPE", test.ctype)
		t.Setenv("LANG", test.lang)
		t.Setenv("NO_COLOR", test.noColour)
		t.Setenv("TERM", test.term)
		if s := ScreenOf(&terminal{columns: 40}); s.Width != 40 || s.UTF8 != test.utf8 || s.Colour != test.colour {
			t.Errorf("%+v: %+v", test, s)
		}
		if s := ScreenOf(&strings.Builder{}); s.Width != 0 || s.Colour {
			t.Errorf("no terminal: %+v", s)
		}
	}
}

// terminal is a writer that is taken for a terminal of that width.
type terminal struct {
	strings.Builder
	columns int
}

func (t *terminal) Columns() int { return t.columns }
