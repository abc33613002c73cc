package main

import (
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
)

// row is a line of a table. Its cells are escaped.
type row struct {
	cells []string
	style tool.Style
}

// table prints rows under a head. On a terminal it keeps them, lines up the columns and
// makes them fit; else it passes them on at once, with tabs between the cells.
type table struct {
	tool.Screen
	out  *output
	head []string
	// flexible are the columns that are shortened where there is no room, brief the one of
	// which the first letters are enough, and optional the one that is left out where it is
	// empty.
	flexible        []int
	brief, optional int
	rows            []row
}

func (t *table) add(r row) error {
	if t.Width > 0 {
		t.rows = append(t.rows, r)
		return nil
	}
	return t.line(r.cells)
}

// line prints cells with tabs between them.
func (t *table) line(cells []string) error {
	_, err := t.out.WriteString(strings.Join(cells, "\t") + "\n")
	return err
}

// begin prints the head, where the rows are not kept.
func (t *table) begin() error {
	if t.Width > 0 {
		return nil
	}
	return t.line(t.head)
}

const (
	gap     = 2  // columns between cells
	enough  = 12 // columns to tell a name by
	initial = 1  // columns of a brief cell
)

// end prints what was kept.
func (t *table) end() error {
	if t.Width == 0 {
		return nil
	}
	widths := t.fit(t.natural())
	for _, r := range slices.Concat([]row{{cells: t.head}}, t.rows) {
		if widths[t.brief] == initial {
			r.cells = slices.Clone(r.cells)
			r.cells[t.brief] = tool.Cut(r.cells[t.brief], initial)
		}
		if _, err := t.out.WriteString(t.Paint(t.row(r.cells, widths), r.style) + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// row lays cells out. Nothing is left of cells without a width.
func (t *table) row(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		if widths[i] == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(strings.Repeat(" ", gap))
		}
		b.WriteString(tool.Pad(tool.Shorten(cell, widths[i]), widths[i]))
	}
	return tool.Cut(strings.TrimRight(b.String(), " "), t.Width)
}

// natural returns how wide the columns are when nothing is shortened.
func (t *table) natural() []int {
	widths := make([]int, len(t.head))
	for _, r := range t.rows {
		for i, cell := range r.cells {
			widths[i] = max(widths[i], tool.Width(cell))
		}
	}
	for i := range widths {
		if i != t.optional || widths[i] > 0 {
			widths[i] = max(widths[i], tool.Width(t.head[i]))
		}
	}
	return widths
}

// fit narrows columns until all have room.
func (t *table) fit(widths []int) []int {
	if t.over(widths) <= 0 {
		return widths
	}
	room := -t.over(widths)
	for _, i := range t.flexible {
		room += widths[i]
	}
	if room < enough*len(t.flexible) {
		room += widths[t.brief] - initial
		widths[t.brief] = initial
	}
	t.share(widths, max(room, len(t.flexible)))
	return widths
}

// over returns how many columns there are too many.
func (t *table) over(widths []int) int {
	sum := -gap
	for _, w := range widths {
		if w > 0 {
			sum += w + gap
		}
	}
	return sum - t.Width
}

// share gives the flexible columns equal parts of the room, or less where they need less.
func (t *table) share(widths []int, room int) {
	narrowFirst := slices.SortedFunc(slices.Values(t.flexible), func(a, b int) int { return widths[a] - widths[b] })
	for n, i := range narrowFirst {
		widths[i] = min(widths[i], room/(len(narrowFirst)-n))
		room -= widths[i]
	}
}
