package main

import (
	"fmt"
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
)

// dotWidth is how many columns a name takes in a picture.
const dotWidth = 60

// dot prints the snapshots as a graph in the language of Graphviz, each with an arrow to the
// one that it stands on.
func dot(l *look, f *forest) error {
	names := map[*node]string{}
	if _, err := fmt.Fprintf(l.out, "digraph store {\n\trankdir=BT;\n\tnode [shape=box];\n"); err != nil {
		return err
	}
	for i, n := range f.nodes {
		names[n] = fmt.Sprintf("n%d", i)
		if _, err := fmt.Fprintf(l.out, "\t%s [label=%s%s];\n", names[n], dotLabel(l, n), dotStyle(n)); err != nil {
			return err
		}
	}
	for _, n := range f.nodes {
		for _, child := range n.children {
			if _, err := fmt.Fprintf(l.out, "\t%s -> %s;\n", names[child], names[n]); err != nil {
				return err
			}
		}
	}
	_, err := l.out.WriteString("}\n")
	return err
}

func dotLabel(l *look, n *node) string {
	lines := []string{dotText(tool.Shorten(n.name, dotWidth))}
	if n.kind != "" && n.kind != unknownKind {
		lines = append(lines, dotText(fmt.Sprintf("%s %s, %s, %s", n.kind, n.id, bytesOf(n.size), age(l.now, n.created))))
	}
	if len(n.marks) > 0 {
		lines = append(lines, dotText(strings.Join(n.marks, ", ")))
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

// dotText escapes a text for a label: Graphviz takes backslashes for escapes, and entities of
// HTML for characters.
func dotText(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, `&amp;`).Replace(text)
}

func dotStyle(n *node) string {
	switch n.style {
	case tool.Red:
		return ", color=red"
	case tool.Yellow:
		return ", color=orange"
	case tool.Bold:
		return ", style=bold"
	}
	return ""
}
