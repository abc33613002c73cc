package main

import (
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
)

// pairs prints names and values in two columns. On a terminal long values go on in the next
// lines, below their beginning.
type pairs struct {
	*look
	all []pair
}

type pair struct {
	name  string
	lines []string // escaped
	style tool.Style
	whole bool // the lines are not wrapped
}

func (p *pairs) add(name, value string) { p.styled(name, value, "") }

func (p *pairs) styled(name, value string, as tool.Style) {
	p.all = append(p.all, pair{name: name, lines: []string{value}, style: as})
}

// path adds a path, which can be pasted: it stays whole.
func (p *pairs) path(name, path string) {
	p.all = append(p.all, pair{name: name, lines: []string{tool.Escape(path)}, whole: true})
}

// list adds several values, or says that there are none.
func (p *pairs) list(name string, values []string) {
	if len(values) == 0 {
		values = []string{"none"}
	}
	p.all = append(p.all, pair{name: name, lines: values})
}

// print prints all of them.
func (p *pairs) print() error {
	names := 0
	for _, pair := range p.all {
		names = max(names, tool.Width(pair.name)+gap)
	}
	room := 0
	if p.Width > 0 {
		room = max(p.Width-names, 1)
	}
	for _, pair := range p.all {
		name, room := pair.name, room
		if pair.whole {
			room = 0
		}
		for _, value := range pair.lines {
			for _, line := range tool.Wrap(value, room) {
				text := strings.TrimRight(tool.Pad(name, names)+p.Paint(line, pair.style), " ")
				if _, err := p.out.WriteString(text + "\n"); err != nil {
					return err
				}
				name = ""
			}
		}
	}
	return nil
}
