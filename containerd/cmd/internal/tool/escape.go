package tool

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Escape returns a name or value as it can be shown in a line: control characters, invalid
// bytes and what is not visible are escaped as in Go, and so are backslashes, and spaces at
// the ends. Different texts stay different.
func Escape(text string) string {
	if Plain(text) {
		return text
	}
	return escape(text, func(i int, r rune) bool {
		return r == '\\' || r == ' ' && (i == 0 || i == len(text)-1)
	})
}

// Visible returns a message as it can be shown in a line: control characters, invalid bytes
// and what is not visible are escaped.
func Visible(text string) string {
	return escape(text, func(int, rune) bool { return false })
}

// escape escapes what can't be shown, and the runes for which more reports true.
func escape(text string, more func(i int, r rune) bool) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			b.WriteString(`\x` + strconv.FormatUint(uint64(text[i]), 16))
		case r == ' ' && more(i, r):
			b.WriteString(`\x20`)
		case strconv.IsPrint(r) && !more(i, r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

// Plain reports whether a text has only visible ASCII characters, none of which is escaped.
func Plain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return false
		}
	}
	return true
}
