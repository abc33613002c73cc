package main

import (
	"strings"
	"testing"
	"time"
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
		got := shorten(test.text, test.columns)
		if got != test.want || width(got) > test.columns {
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
		{"日本語", 3, "日|本|語"},
		{"日本語", 1, "日本語"}, // there is no room
	} {
		if got := strings.Join(wrap(test.text, test.columns), "|"); got != test.want {
			t.Errorf("%q in %d columns is %q, want %q", test.text, test.columns, got, test.want)
		}
	}
	if n := len(wrap(strings.Repeat("x", 1<<20), 100)); n != 10486 {
		t.Errorf("a long text has %d lines", n)
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 59 * time.Second: "59s", 60 * time.Second: "1m", 59 * time.Minute: "59m", time.Hour: "1h",
		47 * time.Hour: "47h", 48 * time.Hour: "2d", 12 * 24 * time.Hour: "12d", 1000 * 24 * time.Hour: "1000d",
	} {
		if got := age(now, now.Add(-d)); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := age(now, time.Time{}); got != "" {
		t.Errorf("of no time: %q", got)
	}
}

func TestBytes(t *testing.T) {
	for size, want := range map[int64]string{0: "0B", 1: "1B", 1023: "1023B", 1024: "1KiB", 1500: "1.465KiB", 4 << 20: "4MiB", 1 << 40: "1TiB"} {
		if got := bytesOf(size); got != want {
			t.Errorf("%d: %q, want %q", size, got, want)
		}
	}
}

func TestHasLabel(t *testing.T) {
	labels := map[string]string{"a": "1", "a=b": "c=d", "empty": ""}
	for wanted, want := range map[string]bool{"a": true, "a=1": true, "a=2": false, "b": false, "a=b": true, "a=b=c=d": true, "a=b=c": false, "empty": true, "empty=": true, "": false} {
		if got := hasLabel(labels, wanted); got != want {
			t.Errorf("%q: %v", wanted, got)
		}
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
		if s := screenOf(&terminal{columns: 40}); s.width != 40 || s.utf8 != test.utf8 || s.colour != test.colour {
			t.Errorf("%+v: %+v", test, s)
		}
		if s := screenOf(&strings.Builder{}); s.width != 0 || s.colour {
			t.Errorf("no terminal: %+v", s)
		}
	}
}
