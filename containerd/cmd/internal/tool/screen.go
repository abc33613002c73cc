package tool

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Screen is what a command prints on.
type Screen struct {
	Width  int  // of the terminal, 0 where it is none
	Colour bool // escape sequences for colours are understood
	UTF8   bool // there are characters to draw lines with
}

// ScreenOf returns what is known of a writer.
func ScreenOf(w io.Writer) Screen {
	s := Screen{Width: columnsOf(w), UTF8: utf8Locale()}
	s.Colour = s.Width > 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// columnsOf returns how wide the terminal is that a writer leads to, 0 for none.
func columnsOf(w io.Writer) int {
	if t, ok := w.(interface{ Columns() int }); ok {
		return t.Columns()
	}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
		return columns
	}
	return 80 // as terminals are of which the size is not known
}

// utf8Locale reports whether the locale says that text is UTF-8.
func utf8Locale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(os.Getenv(name)); value != "" {
			return strings.HasSuffix(value, "utf-8") || strings.HasSuffix(value, "utf8") || strings.Contains(value, "utf-8@") || strings.Contains(value, "utf8@")
		}
	}
	return false
}

// Style is how a piece of text stands out, "" for not at all.
type Style string

const (
	Bold   Style = "1"  // active
	Yellow Style = "33" // lagging, or harmless
	Red    Style = "31" // damaged
	Green  Style = "32" // made, or repaired
)

// Paint returns a text in a style, where there are colours.
func (s Screen) Paint(text string, as Style) string {
	if !s.Colour || as == "" || text == "" {
		return text
	}
	return "\x1b[" + string(as) + "m" + text + "\x1b[0m"
}
