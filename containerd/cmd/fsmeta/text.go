package main

import (
	"strings"
	"unicode/utf8"

	"github.com/fsmeta/fsmeta/containerd/internal/tool"
	"github.com/rivo/uniseg"
)

// quote returns a value between quotation marks, escaped.
func quote(text string) string {
	return `"` + strings.ReplaceAll(tool.Escape(text), `"`, `\"`) + `"`
}

// width returns how many columns of a terminal an escaped text takes.
func width(text string) int {
	if tool.Plain(text) {
		return len(text)
	}
	return uniseg.StringWidth(text)
}

const ellipsis = "…"

// shorten takes from the middle of an escaped text what does not fit into so many columns:
// names that begin alike often end differently.
func shorten(text string, columns int) string {
	if len(text) <= columns || width(text) <= columns {
		return text
	}
	if columns <= 0 {
		return ""
	}
	left := columns - 1
	head := cut(text, (left+1)/2)
	return head + ellipsis + cutEnd(text, left-width(head))
}

// cut returns the beginning of a text that fits into so many columns. It divides no
// character that is shown as one.
func cut(text string, columns int) string {
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

// cutEnd returns the end of a text that fits into so many columns.
func cutEnd(text string, columns int) string {
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

// wrap divides a text into pieces that fit into so many columns, at spaces where there are
// any. 0 columns are no limit.
func wrap(text string, columns int) (lines []string) {
	for columns > 0 {
		piece := cut(text, columns)
		if piece == text || piece == "" { // or a character that is wider than a line
			break
		}
		if at := strings.LastIndexByte(piece, ' '); at > len(piece)/2 && text[len(piece)] != ' ' {
			piece = piece[:at+1]
		}
		lines = append(lines, strings.TrimRight(piece, " "))
		text = strings.TrimLeft(text[len(piece):], " ")
	}
	return append(lines, text)
}

// pad fills a text up with spaces.
func pad(text string, columns int) string {
	return text + strings.Repeat(" ", max(0, columns-width(text)))
}
