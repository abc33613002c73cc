package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func treeCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "tree",
		Usage: "draw the snapshots of a store by their parents",
		Description: "Draws each snapshot once, below the one that it stands on, with its kind, the size that the driver has recorded, its age, and marks: damaged, lags, missing (of a parent that is not there), circular. " +
			"Where the locale is not one of UTF-8, the lines are drawn in ASCII.\n\n" + looks + "\n\n" +
			"Example: a picture:\n\n   fsmeta tree --dot STORE | dot -Tsvg >store.svg",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "dot", Usage: "print the graph for Graphviz"}},
		Action:    looking(tree, &store),
	}
}

func tree(l *look, c *cli.Command) error {
	f, err := grow(l)
	if err != nil {
		return err
	}
	l.wrong = append(l.wrong, f.wrong...)
	if c.Bool("dot") {
		return dot(l, f)
	}
	return draw(l, f)
}

// node is a snapshot in the tree.
type node struct {
	name     string // as it is shown
	id       string
	parent   string // as it is, not as it is shown
	kind     string
	size     int64
	created  time.Time
	marks    []string
	style    tool.Style
	children []*node
	drawn    bool
}

// missing marks a parent that is not there.
const missing = "missing"

// enoughInError is how many columns names take in errors.
const enoughInError = 256

// forest is all snapshots of a store by parentage.
type forest struct {
	counts
	nodes   []*node // in order
	roots   []*node // without a parent, or on one that is missing, or one of each circle
	missing int
	wrong   []complaint // what is wrong with the parents, where that is no damage already
}

// grow reads the snapshots.
func grow(l *look) (*forest, error) {
	f, byName := &forest{}, map[string]*node{}
	err := l.each(func(s *fsmeta.Sight) error {
		n := &node{name: nameOf(s), id: s.ID, parent: s.Parent, kind: kindOf(s), size: s.Usage.Size, created: s.Created, style: styleOf(s)}
		if note := noteOf(s); note != "" {
			n.marks = append(n.marks, note)
		}
		f.nodes = append(f.nodes, n)
		f.add(s)
		if s.Name != "" {
			byName[s.Name] = n
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.Removed = l.removed()
	f.link(byName)
	f.findCircles(byName)
	return f, nil
}

// link puts each node below its parent. For parents that are missing there is a node, too.
func (f *forest) link(byName map[string]*node) {
	for _, n := range f.nodes[:len(f.nodes):len(f.nodes)] {
		if n.parent == "" {
			f.roots = append(f.roots, n)
			continue
		}
		parent := byName[n.parent]
		if parent == nil {
			f.missing++
			parent = &node{name: tool.Escape(n.parent), marks: []string{missing}, style: tool.Red}
			byName[n.parent] = parent
			f.nodes, f.roots = append(f.nodes, parent), append(f.roots, parent)
		}
		if len(parent.marks) > 0 && parent.marks[0] == missing && len(n.marks) == 0 {
			f.wrong = append(f.wrong, complaintf("snapshot %s: its parent %s is missing", tool.Shorten(n.name, enoughInError), tool.Shorten(tool.Escape(n.parent), enoughInError)))
		}
		parent.children = append(parent.children, n)
	}
}

// findCircles makes the first node of each circle a root: no other root leads there.
func (f *forest) findCircles(byName map[string]*node) {
	reached := map[*node]bool{}
	for _, root := range f.roots {
		reach(root, reached)
	}
	for _, n := range f.nodes {
		if reached[n] {
			continue
		}
		// From an unreached node the parents lead into a circle.
		at, passed := n, map[*node]bool{}
		for !passed[at] {
			passed[at] = true
			at = byName[at.parent]
		}
		root := at
		for again := false; at != root || !again; at, again = byName[at.parent], true {
			at.marks, at.style = append(at.marks, "circular"), tool.Red
			f.wrong = append(f.wrong, complaintf("snapshot %s: its parents lead back to it", tool.Shorten(at.name, enoughInError)))
		}
		f.roots = append(f.roots, root)
		reach(root, reached)
	}
}

// reach notes everything above a node.
func reach(n *node, reached map[*node]bool) {
	for todo := []*node{n}; len(todo) > 0; {
		n, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if !reached[n] {
			reached[n] = true
			todo = append(todo, n.children...)
		}
	}
}

// pen is the pieces that lines are drawn with.
type pen struct{ child, last, down, empty string }

var (
	fine  = pen{"├── ", "└── ", "│   ", "    "}
	ascii = pen{"|-- ", "`-- ", "|   ", "    "}
)

// draw draws the tree, and says how many there are.
func draw(l *look, f *forest) error {
	d := &drawing{l, ascii}
	if l.UTF8 {
		d.pen = fine
	}
	top := tool.Escape(l.dir)
	if l.Width > 0 {
		top = tool.Shorten(top, l.Width)
	}
	if _, err := l.out.WriteString(top + "\n"); err != nil {
		return err
	}
	if err := d.below("", f.roots); err != nil {
		return err
	}
	sum := fmt.Sprintf("%d active, %d committed", f.Active, f.Committed)
	if f.Damaged > 0 {
		sum += fmt.Sprintf(", %d damaged", f.Damaged)
	}
	if f.missing > 0 {
		sum += fmt.Sprintf(", %d missing", f.missing)
	}
	if f.Removed > 0 {
		sum += fmt.Sprintf(", %d removed but still there", f.Removed)
	}
	return l.print("", "\n"+sum, "")
}

// drawing draws nodes.
type drawing struct {
	*look
	pen
}

// below draws nodes, and what stands on them. prefix is what is drawn before each line.
func (d *drawing) below(prefix string, nodes []*node) error {
	for i, n := range nodes {
		branch, down := d.pen.child, d.pen.down
		if i == len(nodes)-1 {
			branch, down = d.pen.last, d.pen.empty
		}
		if _, err := d.out.WriteString(d.line(d.indent(prefix)+branch, n) + "\n"); err != nil {
			return err
		}
		if n.drawn { // where a circle closes
			continue
		}
		n.drawn = true
		if err := d.below(d.indent(prefix+down), n.children); err != nil {
			return err
		}
	}
	return nil
}

// deepest is how many columns are drawn before a node, where no terminal sets a limit.
const deepest = 400

// indent takes away from the beginning of a prefix what leaves no room for names.
func (d *drawing) indent(prefix string) string {
	most := deepest
	if d.Width > 0 {
		most = max(d.Width/2-tool.Width(d.pen.child), 0)
	}
	if tool.Width(prefix) <= most {
		return prefix
	}
	return shortenHead(prefix, most)
}

// shortenHead takes away the beginning of a text that does not fit.
func shortenHead(text string, columns int) string {
	if columns <= 0 {
		return ""
	}
	return tool.Ellipsis + tool.CutEnd(strings.TrimPrefix(text, tool.Ellipsis), columns-1)
}

// line returns the line of a node. On a terminal, details are left out where the name needs
// the room, but not the marks.
func (d *drawing) line(prefix string, n *node) string {
	details, marks := n.details(d.now), bracketed(n.marks)
	if n.drawn {
		details, marks = nil, bracketed([]string{"see above"})
	}
	after := func() string { return strings.Join(slices.Concat([]string{""}, details, marks), "  ") }
	name := n.name
	if d.Width > 0 {
		room := func() int { return d.Width - tool.Width(prefix) - tool.Width(after()) }
		for len(details) > 0 && room() < min(tool.Width(name), enough) {
			details = details[:len(details)-1]
		}
		name = tool.Shorten(name, max(room(), 1))
	}
	return prefix + d.Paint(name, n.style) + after()
}

// details returns what is shown behind the name: nothing of a missing one.
func (n *node) details(now time.Time) []string {
	switch n.kind {
	case "":
		return nil
	case unknownKind:
		return []string{n.kind}
	}
	return []string{n.kind, bytesOf(n.size), age(now, n.created)}
}

func bracketed(marks []string) (out []string) {
	for _, mark := range marks {
		out = append(out, "["+mark+"]")
	}
	return out
}
