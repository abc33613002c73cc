package tool

import (
	"strconv"
	"strings"
	"testing"
)

func TestEscape(t *testing.T) {
	seen := map[string]string{}
	for text, want := range map[string]string{
		"plain": "plain", "a b": "a b", " a ": `\x20a\x20`, `a\b`: `a\\b`, "a\nb\tc\x1b[1m\x00": `a\nb\tc\x1b[1m\x00`, "\xff\xfe": `\xff\xfe`, "�": "�",
		`"quoted"`: `"quoted"`, "日本語": "日本語", "e\u0301": "e\u0301", "a\u202eb": `a\u202eb`, "\u200b": `\u200b`, "a\u00a0b": `a\u00a0b`, "": "", "\x7f": `\x7f`,
	} {
		got := Escape(text)
		if got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q are both %q", text, other, got)
		}
		seen[got] = text
		if back, err := strconv.Unquote(`"` + strings.ReplaceAll(got, `"`, `\"`) + `"`); err != nil || back != text {
			t.Errorf("%q is escaped as %q, which is %q, %v", text, got, back, err)
		}
	}
}

func TestVisible(t *testing.T) {
	if got := Visible("snapshot \"a\\nb\": \n\xff "); got != `snapshot "a\nb": \n\xff ` {
		t.Errorf("%q", got)
	}
}
