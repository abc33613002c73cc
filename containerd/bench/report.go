//go:build linux

package main

import (
	"fmt"
	"strings"
)

// report is everything that was measured.
type report struct {
	Machine     machine
	Rounds      int
	Quick       bool
	Filesystems []filesystem
}

// filesystem is what was measured on one.
type filesystem struct {
	Name, Detail string
	Rows         []row
	Beside       []besideRow
}

// row is what was measured of one operation: bbolt's times and ours.
type row struct {
	rowSpec
	samples
}

func (r row) ratio() spread { return spreadOf(r.ratios()) }

func (r row) reached() string {
	return mark(r.target > 0, r.ratio().median >= r.target)
}

func mark(promised, kept bool) string {
	switch {
	case !promised:
		return none
	case kept:
		return "yes"
	default:
		return "**no**"
	}
}

// markdown returns the report as text.
func (r report) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, on %d cores (%s), %s, Go %s, against %s.\n\n", m.Date.Format("2 January 2006"), m.Cores, m.CPU, m.Kernel, m.Go,
		strings.Join(m.Versions, " with "))
	fmt.Fprintf(&b, "Both stores took turns on the same filesystem, A B, B A, in %d rounds; only the long run has fewer, and the new "+
		"processes more. Every figure is the median over the rounds, with the quartiles in parentheses. The ratio is bbolt's time divided by "+
		"ours in the same round: 2 means that we take half as long. The page cache is warm, also for a new process, which finds a store that "+
		"was closed in order; everywhere else all was read before. Each batch begins with a filesystem on which nothing is dirty. The targets "+
		"are set for ext4, and the median of the ratios is what has to reach them.\n", r.Rounds)
	if r.Quick {
		b.WriteString("\n**This was a quick run, to see that everything works. It is too short to judge by, so there are no targets.**\n")
	}
	if len(r.Filesystems) > 1 {
		b.WriteString("\n")
		r.writeSummary(&b)
	}
	for _, fs := range r.Filesystems {
		fmt.Fprintf(&b, "\n### On %s\n\nIt is %s.\n", fs.Name, fs.Detail)
		fs.writeRows(&b)
		fs.writeBeside(&b)
	}
	return b.String()
}

// dropTargets makes the report one that judges nothing.
func (r report) dropTargets() {
	for _, fs := range r.Filesystems {
		for i := range fs.Rows {
			fs.Rows[i].target = 0
		}
		for i := range fs.Beside {
			fs.Beside[i].Limit = 0
		}
	}
}

// writeSummary writes the ratios of all filesystems beside one another.
func (r report) writeSummary(b *strings.Builder) {
	b.WriteString("| bbolt's time / ours | at least |")
	for _, fs := range r.Filesystems {
		fmt.Fprintf(b, " %s |", fs.Name)
	}
	b.WriteString("\n| --- | ---: |" + strings.Repeat(" ---: |", len(r.Filesystems)) + "\n")
	for i, first := range r.Filesystems[0].Rows {
		fmt.Fprintf(b, "| %s | %s |", first.name, targetText(first.target))
		for _, fs := range r.Filesystems {
			text := significant(fs.Rows[i].ratio().median)
			if fs.Rows[i].reached() == mark(true, false) {
				text += " (below)"
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteString("\n")
	}
}

func (fs filesystem) writeRows(b *strings.Builder) {
	if len(fs.Rows) == 0 {
		return
	}
	b.WriteString("\n| operation | bbolt | fsmeta | bbolt / fsmeta | at least | reached |\n| --- | ---: | ---: | ---: | ---: | --- |\n")
	for _, r := range fs.Rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", r.name, timeText(spreadOf(r.a)), timeText(spreadOf(r.b)),
			ratioText(r.ratio()), targetText(r.target), r.reached())
	}
}

func (fs filesystem) writeBeside(b *strings.Builder) {
	if len(fs.Beside) == 0 {
		return
	}
	b.WriteString("\nBeside them:\n\n| what | bbolt | fsmeta | at most | kept |\n| --- | ---: | ---: | ---: | --- |\n")
	for _, r := range fs.Beside {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", r.Name, r.Bolt, r.Ours, targetText(r.Limit), mark(r.Limit > 0, r.WithinLimit))
	}
}

func targetText(target float64) string {
	if target == 0 {
		return none
	}
	return fmt.Sprint(target)
}

func ratioText(s spread) string {
	return fmt.Sprintf("%s (%s–%s)", significant(s.median), significant(s.low), significant(s.high))
}

// timeText returns times in nanoseconds in the unit that suits the median.
func timeText(s spread) string {
	unit, name := 1.0, "ns"
	switch {
	case s.median >= 1e9:
		unit, name = 1e9, "s"
	case s.median >= 1e6:
		unit, name = 1e6, "ms"
	case s.median >= 1e3:
		unit, name = 1e3, "µs"
	}
	return fmt.Sprintf("%s %s (%s–%s)", significant(s.median/unit), name, significant(s.low/unit), significant(s.high/unit))
}

// significant returns a number with about three digits.
func significant(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 0.1:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3f", x)
	}
}
