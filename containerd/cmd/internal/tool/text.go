package tool

import (
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// Width returns how many columns of a terminal an escaped text takes.
func Width(text string) int {
	if Plain(text) {
		return len(text)
	}
	return uniseg.StringWidth(text)
}

const Ellipsis = "…"

// Shorten takes from the middle of an escaped text what does not fit into so many columns:
// names that begin alike often end differently.
func Shorten(text string, columns int) string {
	if len(text) <= columns || Width(text) <= columns {
		return text
	}
	if columns <= 0 {
		return ""
	}
	left := columns - 1
	head := Cut(text, (left+1)/2)
	return head + Ellipsis + CutEnd(text, left-Width(head))
}

// Cut returns the beginning of a text that fits into so many columns. It divides no
// character that is shown as one.
func Cut(text string, columns int) string {
	at, state := 0, -1
	for at < len(text) {
		cluster, _, w, next := uniseg.FirstGraphemeClusterInString(text[at:], state)
		if columns -= w; columns < 0 {
			break
		}
		at, state = at+len(cluster), next
	}
	return text[:at]
}

// CutEnd returns the end of a text that fits into so many columns.
func CutEnd(text string, columns int) string {
	// Only the end is looked at. A character has at most some dozens of bytes; where one has
	// more, it is divided.
	const most = 64
	begin := max(0, len(text)-most*max(columns, 1))
	for begin < len(text) && !utf8.RuneStart(text[begin]) {
		begin++
	}
	text = text[begin:]
	var starts, widths []int
	for at, state := 0, -1; at < len(text); {
		cluster, _, w, next := uniseg.FirstGraphemeClusterInString(text[at:], state)
		starts, widths = append(starts, at), append(widths, w)
		at, state = at+len(cluster), next
	}
	from := len(text)
	for i := len(starts) - 1; i >= 0; i-- {
		if columns -= widths[i]; columns < 0 {
			break
		}
		from = starts[i]
	}
	return text[from:]
}

// Wrap divides a text into pieces that fit into so many columns, at spaces where there are
// any. A path stays whole, so that it can be pasted: its line may be longer. 0 columns are no
// limit.
func Wrap(text string, columns int) (lines []string) {
	for columns > 0 {
		piece := Cut(text, columns)
		if piece == text || piece == "" { // or a character that is wider than a line
			break
		}
		at := strings.LastIndexByte(piece, ' ') + 1
		switch path := pathAt(text[at:]); {
		case text[len(piece)] == ' ':
		case path > 0 && at > 0, at-1 > len(piece)/2:
			piece = piece[:at]
		case path > 0:
			piece = text[:path]
		}
		lines = append(lines, strings.TrimRight(piece, " "))
		text = strings.TrimLeft(text[len(piece):], " ")
	}
	if text == "" && len(lines) > 0 {
		return lines
	}
	return append(lines, text)
}

// longestPath is how many bytes a path may have.
const longestPath = 4096

// pathAt returns how long the first word of a text is if that is a path, else 0.
func pathAt(text string) int {
	word := text[:min(len(text), longestPath)]
	if at := strings.IndexByte(word, ' '); at >= 0 {
		word = word[:at]
	} else if len(text) > len(word) {
		return 0
	}
	if !strings.Contains(word, "/") {
		return 0
	}
	return len(word)
}

// Pad fills a text up with spaces.
func Pad(text string, columns int) string {
	return text + strings.Repeat(" ", max(0, columns-Width(text)))
}
