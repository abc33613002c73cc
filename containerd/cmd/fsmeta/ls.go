package main

import (
	"fmt"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func lsCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "ls",
		Usage: "list the snapshots of a store",
		Description: "Lists the snapshots in byte order of their names, and then those that are damaged: name, kind, parent, identifier, age, and a note, damaged or lags. " +
			"On a terminal the columns are lined up, and names that are too long lose their middle; else there are tabs between them. " +
			"Characters that can't be shown are escaped, as in \\n.\n\n" +
			"With --json a line has name, id, parent, kind, readonly, labels, created, updated, usage, txn (which changed it last), path, source (journal or tree, which decides), lags and damage. " +
			"What can't be told is null, and so are lags and damage where there is none. " +
			"Standard error has a note for each snapshot that is removed and has a directory in snapshots/ all the same, which could not be removed.\n\n" + looks + "\n\n" +
			"Example: the active snapshots of a namespace of containerd:\n\n   fsmeta ls --kind active --label containerd.io/namespace=k8s.io STORE",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kind", Usage: "list those of this `KIND`: active or committed", Validator: checkKind},
			&cli.StringFlag{Name: "parent", Usage: "list those that stand on `NAME`"},
			&cli.StringSliceFlag{Name: "label", Usage: "list those with a label `KEY[=VALUE]`; of several, with all"},
			tool.JSON("each snapshot, with all that is known of it,"),
		},
		DisableSliceFlagSeparator: true,
		Action:                    looking(ls, &store),
	}
}

// looks is what the descriptions of commands that look at a store have in common.
const looks = "The store may be in use, closed, left by a crash, damaged or on a read-only mount. Nothing is written, and no writer waits. " +
	"Exit status: 0; 1 something is damaged, or not there, which standard error says; 2 the store could not be looked at."

func checkKind(text string) error {
	var kind fsmeta.Kind
	if kind.UnmarshalText([]byte(text)) != nil {
		return fmt.Errorf("%q is no kind: choose active or committed", text)
	}
	return nil
}

func ls(l *look, c *cli.Command) error {
	wanted := filterOf(c)
	l.removed()
	if c.Bool("json") {
		lines := tool.NewEncoder(l.out)
		return l.each(func(s *fsmeta.Sight) error {
			if !wanted.match(s) {
				return nil
			}
			return lines.Encode(snapshotOf(s))
		})
	}
	t := &table{Screen: l.Screen, out: l.out, head: []string{"NAME", "KIND", "PARENT", "ID", "AGE", "NOTE"}, flexible: []int{0, 2}, brief: 1, optional: 5}
	if err := t.begin(); err != nil {
		return err
	}
	err := l.each(func(s *fsmeta.Sight) error {
		if !wanted.match(s) {
			return nil
		}
		return t.add(row{[]string{nameOf(s), kindOf(s), tool.Escape(s.Parent), s.ID, age(l.now, s.Created), noteOf(s)}, styleOf(s)})
	})
	if err != nil {
		return err
	}
	return t.end()
}

// filter is which snapshots are wanted.
type filter struct {
	kind   string // or ""
	parent *string
	labels []string // KEY or KEY=VALUE
}

func filterOf(c *cli.Command) filter {
	f := filter{kind: c.String("kind"), labels: c.StringSlice("label")}
	if c.IsSet("parent") {
		parent := c.String("parent")
		f.parent = &parent
	}
	return f
}

// match reports whether a snapshot is wanted. One that can't be read is, where all are.
func (f *filter) match(s *fsmeta.Sight) bool {
	if f.kind != "" && kindOf(s) != f.kind || f.parent != nil && (!readable(s) || s.Parent != *f.parent) {
		return false
	}
	for _, label := range f.labels {
		if !hasLabel(s.Labels, label) {
			return false
		}
	}
	return true
}

// hasLabel reports whether there is a label KEY or KEY=VALUE. Keys and values may have
// equals signs in them.
func hasLabel(labels map[string]string, wanted string) bool {
	if _, ok := labels[wanted]; ok {
		return true
	}
	for i, c := range wanted {
		if c == '=' {
			if value, ok := labels[wanted[:i]]; ok && value == wanted[i+1:] {
				return true
			}
		}
	}
	return false
}
