package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func showCommand() *cli.Command {
	var store, name string
	return &cli.Command{
		Name:  "show",
		Usage: "print everything about one snapshot",
		Description: "Prints the metadata of the snapshot NAME, the snapshots that it stands on and those that stand on it, whether the journal or the tree decides about it, " +
			"what lags or is damaged and what to do about that. NAME is as it is, or as ls prints it. A name that begins with a hyphen goes behind --.\n\n" + looks + "\n\n" +
			"Example: fsmeta show STORE default/3/web",
		Arguments: []cli.Argument{
			&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"},
			&cli.StringArg{Name: "NAME", Destination: &name, UsageText: "NAME"},
		},
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "id", Usage: "NAME is an identifier"},
			tool.JSON("the snapshot"),
		},
		Action:        looking(func(l *look, c *cli.Command) error { return show(l, c, name) }, &store, &name),
		ShellComplete: completeNames,
	}
}

// relative is a snapshot that another stands on, or that stands on it.
type relative struct {
	Name    string       `json:"name"`
	ID      string       `json:"id"`
	Kind    *fsmeta.Kind `json:"kind"`    // null where it can't be told
	Problem string       `json:"problem"` // "" for none
}

// found is what show prints of a snapshot.
type found struct {
	snapshot
	sight    fsmeta.Sight
	Why      string     `json:"why"` // the source decides
	Advice   *string    `json:"advice"`
	Parents  []relative `json:"parents"`  // from the one it stands on down to the base
	Children []relative `json:"children"` // in byte order of the names
}

// show prints the snapshots that are meant: several only where they have one identifier.
func show(l *look, c *cli.Command, name string) error {
	f := &finder{name: name, byID: c.Bool("id"), links: map[string]link{}}
	err := l.each(func(s *fsmeta.Sight) error { f.take(s); return nil })
	if err != nil {
		return err
	}
	all := f.results(l)
	if len(all) == 0 {
		return l.missing(f)
	}
	l.leaveOthers(f, all)
	for i, r := range all {
		l.noteParents(r)
		if c.Bool("json") {
			err = tool.NewEncoder(l.out).Encode(r)
		} else {
			if i > 0 {
				_ = l.out.WriteByte('\n') // the next write fails, too
			}
			err = l.show(r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaveOthers leaves of what is damaged what concerns the snapshots that are shown: themselves, what
// they stand on, and the journal. The rest is counted.
func (l *look) leaveOthers(f *finder, shown []found) {
	concerned := map[string]bool{}
	for _, r := range shown {
		concerned[r.sight.Path] = true
		for _, p := range r.Parents {
			concerned[f.links[p.Name].path] = true
		}
	}
	for _, err := range l.whole {
		concerned[pathOf(err)] = ofJournal(err)
	}
	all := len(l.wrong)
	l.wrong = slices.DeleteFunc(l.wrong, func(c complaint) bool { return !concerned[c.path] })
	l.others = all - len(l.wrong)
}

// noteParents notes parents that are missing or lead in a circle, where that is not said as
// damage of a snapshot.
func (l *look) noteParents(r found) {
	for _, p := range r.Parents {
		if r.sight.Damage == nil && (p.Problem == isMissing || p.Problem == inCircle) {
			l.wrong = append(l.wrong, complaintf("snapshot %s: its parents: %s: %s",
				tool.Shorten(nameOf(&r.sight), enoughInError), tool.Shorten(tool.Escape(p.Name), enoughInError), p.Problem))
		}
	}
}

// Problems of parents that are not damage of theirs.
const (
	isMissing = "it is missing"
	inCircle  = "the parents lead in a circle"
)

// finder looks for a snapshot, and keeps what leads from it to others.
type finder struct {
	name    string
	byID    bool
	exact   []fsmeta.Sight
	printed []fsmeta.Sight // of which the name is printed so
	unnamed int            // damaged ones without a name
	links   map[string]link
}

// link is what has to be known of each snapshot.
type link struct {
	path, parent, id, problem string
	kind                      fsmeta.Kind
}

func (f *finder) take(s *fsmeta.Sight) {
	switch {
	case f.byID && readable(s) && s.ID == f.name, !f.byID && s.Name == f.name:
		f.exact = append(f.exact, *s)
	case !f.byID && nameOf(s) == f.name:
		f.printed = append(f.printed, *s)
	}
	if s.Name == "" {
		f.unnamed++
		return
	}
	known := link{path: s.Path, parent: s.Parent, id: s.ID, kind: s.Kind}
	if s.Damage != nil {
		known.problem = problemOf(s.Damage)
	}
	f.links[s.Name] = known
}

func (f *finder) results(l *look) (all []found) {
	sights := f.exact
	if len(sights) == 0 {
		sights = f.printed
	}
	for _, s := range sights {
		all = append(all, found{snapshotOf(&s), s, why(l, &s), given(s.Advice), f.parents(&s), f.children(&s)})
	}
	return all
}

// why says why journal or tree decides.
func why(l *look, s *fsmeta.Sight) string {
	if s.Journal {
		return "lines of the journal name it"
	}
	if summary, err := l.Summary(); err == nil && slices.ContainsFunc(summary.Damage, ofJournal) {
		return "no line of the journal that can be read names it"
	}
	return "no line of the journal names it"
}

// ofJournal reports whether damage is of the journal.
func ofJournal(err error) bool { return filepath.Base(pathOf(err)) == "journal" }

func (f *finder) parents(s *fsmeta.Sight) []relative {
	chain, passed := []relative{}, map[string]bool{s.Name: true}
	for name := s.Parent; name != ""; name = f.links[name].parent {
		_, known := f.links[name]
		r := f.relative(name)
		switch {
		case !known:
			r.Problem = isMissing
		case passed[name]:
			r.Problem = inCircle
		}
		chain = append(chain, r)
		if !known || passed[name] {
			break
		}
		passed[name] = true
	}
	return chain
}

func (f *finder) children(s *fsmeta.Sight) []relative {
	children := []relative{}
	if s.Name == "" {
		return children
	}
	for name, link := range f.links {
		if link.parent == s.Name {
			children = append(children, f.relative(name))
		}
	}
	slices.SortFunc(children, func(a, b relative) int { return strings.Compare(a.Name, b.Name) })
	return children
}

func (f *finder) relative(name string) relative {
	l := f.links[name]
	r := relative{Name: name, ID: l.id, Problem: l.problem}
	if l.kind != 0 {
		r.Kind = &l.kind
	}
	return r
}

// show prints one snapshot for a person.
func (l *look) show(r found) error {
	s, p := &r.sight, &pairs{look: l}
	p.styled("name", nameOf(s), styleOf(s))
	if readable(s) {
		p.add("identifier", s.ID)
		p.add("kind", kindOf(s))
		p.add("readonly", fmt.Sprint(s.Readonly))
		p.add("created", at(l.now, s.Created))
		p.add("updated", at(l.now, s.Updated))
		p.add("usage", fmt.Sprintf("%s (%d bytes), %d inodes", bytesOf(s.Usage.Size), s.Usage.Size, s.Usage.Inodes))
		p.list("labels", labelLines(s.Labels))
		p.add("transaction", fmt.Sprint(s.Txn))
	}
	p.add("decided by", r.Source+": "+r.Why)
	p.path("path", s.Path)
	p.list("parents", relativeLines(r.Parents))
	p.list("children", relativeLines(r.Children))
	if s.Lags != "" {
		p.styled("lags", tool.Visible(s.Lags), tool.Yellow)
	}
	if s.Damage != nil {
		p.styled("damaged", tool.Visible(problemOf(s.Damage)), tool.Red)
	}
	if s.Advice != "" {
		p.add("what to do", tool.Visible(s.Advice))
	}
	return p.print()
}

func labelLines(labels map[string]string) (lines []string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		lines = append(lines, tool.Escape(key)+" = "+quote(labels[key]))
	}
	return lines
}

func relativeLines(all []relative) (lines []string) {
	for _, r := range all {
		line := tool.Escape(r.Name)
		if r.Kind != nil {
			line = fmt.Sprintf("%s (%s, identifier %s)", line, r.Kind, r.ID)
		}
		if r.Problem != "" {
			line += ": " + tool.Visible(r.Problem)
		}
		lines = append(lines, line)
	}
	return lines
}

// missing says that nothing was found, and what the journal knows of it.
func (l *look) missing(f *finder) error {
	text := fmt.Sprintf("there is no snapshot named %s in %s", quote(f.name), tool.Escape(l.dir))
	if f.byID {
		text = fmt.Sprintf("no snapshot has the identifier %s in %s", quote(f.name), tool.Escape(l.dir))
	}
	gone, err := l.removal(f)
	if err != nil {
		return err
	}
	for _, s := range l.Removed() {
		if !f.byID && (s.Name == f.name || nameOf(&s) == f.name) {
			gone += "; " + s.Path + ": " + s.Lags + "; " + s.Advice
		}
	}
	if text += gone; f.unnamed > 0 {
		text += fmt.Sprintf("; it may be one of %d that are damaged, of which the names can't be told", f.unnamed)
	}
	l.absent = tool.Visible(text)
	return nil
}

// removal says which transaction in the journal removed what is looked for, "" for none.
func (l *look) removal(f *finder) (text string, err error) {
	for t, err := range l.Log() {
		if errors.Is(err, fsmeta.ErrDamaged) {
			continue // said as damage of the journal
		}
		if err != nil {
			return "", err
		}
		for _, e := range eventsOf(t) {
			switch c := e.change; {
			case c.Before == nil || f.byID && c.Before.ID != f.name || !f.byID && c.Before.Name != f.name:
			case e.committed != nil:
				text = fmt.Sprintf(": transaction %d committed it as %s, %s", t.Number, quote(e.committed.Name), at(l.now, t.Time))
			case c.After == nil:
				text = fmt.Sprintf(": transaction %d removed it, %s", t.Number, at(l.now, t.Time))
			}
		}
	}
	return text, nil
}
