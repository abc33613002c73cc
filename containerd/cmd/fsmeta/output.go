package main

import (
	"bufio"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen is what a command prints on.
type screen struct {
	width  int  // of the terminal, 0 where it is none
	colour bool // escape sequences for colours are understood
	utf8   bool // there are characters to draw lines with
}

// screenOf returns what is known of a writer.
func screenOf(w io.Writer) screen {
	s := screen{width: columnsOf(w), utf8: utf8Locale()}
	s.colour = s.width > 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
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

// style is how a piece of text stands out, "" for not at all.
type style string

const (
	bold   style = "1"  // active
	yellow style = "33" // lagging
	red    style = "31" // damaged
	green  style = "32" // made
)

// paint returns a text in a style, where there are colours.
func (s screen) paint(text string, as style) string {
	if !s.colour || as == "" || text == "" {
		return text
	}
	return "\x1b[" + string(as) + "m" + text + "\x1b[0m"
}

// output is a buffer before a writer. Until it has overflown, what is in it can be dropped.
type output struct {
	*bufio.Writer
	below *noting
}

// noting notes that something was written.
type noting struct {
	io.Writer
	written bool
}

const outputSize = 256 << 10

func newOutput(w io.Writer) *output {
	below := &noting{Writer: w}
	return &output{bufio.NewWriterSize(below, outputSize), below}
}

func (n *noting) Write(p []byte) (int, error) {
	n.written = true
	return n.Writer.Write(p)
}

// drop forgets everything that was printed, and reports whether it could.
func (o *output) drop() bool {
	if o.below.written {
		return false
	}
	o.Reset(o.below)
	return true
}
