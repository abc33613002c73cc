package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func logCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "log",
		Usage: "print the transactions in the journal, and what each changed",
		Description: "Prints the transactions since the last checkpoint, oldest first, with a line for each snapshot: + made, - removed, > committed under another name, ~ changed, " +
			"with what was before and after. To follow a store, use watch.\n\n" + looks + "\n\n" +
			"With --json a line has the members txn, time and changes of the journal's line, and each change name, before and after; where lines of the journal can't be read, it has the one member lost.\n\n" +
			"Example: the last changes before a crash:\n\n   fsmeta log STORE | tail",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags:     []cli.Flag{tool.JSON("each transaction")},
		Action:    looking(showLog, &store),
	}
}

func showLog(l *look, c *cli.Command) error {
	lines, printed := tool.NewEncoder(l.out), false
	for t, err := range l.Log() {
		var damage *fsmeta.DamagedError
		switch {
		case errors.As(err, &damage):
			l.note(damage.Path, err)
			if c.Bool("json") {
				err = lines.Encode(map[string]string{"lost": damage.Err.Error()})
			} else {
				err = l.print("", "! "+tool.Visible(damage.Err.Error()), tool.Red)
			}
		case err != nil:
		case c.Bool("json"):
			err = lines.Encode(tool.TransactionOf(t))
		default:
			err = l.printTransaction(t)
		}
		if err != nil {
			return err
		}
		printed = true
	}
	if printed || c.Bool("json") {
		return l.ctx.Err()
	}
	s, err := l.Summary()
	if err != nil {
		return err
	}
	return l.print("", fmt.Sprintf("there are no transactions since the last checkpoint, which was after transaction %d", s.Checkpoint), "")
}

// print prints a line, on a terminal as several where it is too long.
func (l *look) print(indent, text string, as tool.Style) error {
	room, more := 0, indent
	if l.Width > 0 {
		if room = l.Width - len(indent) - gap; room < enough {
			indent, more, room = "", "", l.Width
		}
	}
	for _, line := range tool.Wrap(text, room) {
		if _, err := l.out.WriteString(more + l.Paint(line, as) + "\n"); err != nil {
			return err
		}
		more = indent + strings.Repeat(" ", gap)
	}
	return nil
}

func (l *look) printTransaction(t fsmeta.Transaction) error {
	text := fmt.Sprintf("transaction %d  %s", t.Number, at(l.now, t.Time))
	if len(t.Changes) == 0 {
		text += ": nothing changed, it served the journal"
	}
	err := l.print("", text, tool.Bold)
	for _, e := range eventsOf(t) {
		if err == nil {
			err = l.printEvent(e)
		}
	}
	return err
}

// event is what became of one snapshot in a transaction.
type event struct {
	change    fsmeta.Change
	committed *fsmeta.Info // the snapshot that an active one was committed as
}

// eventsOf returns what a transaction did. A commit, which is a removal and a creation in
// the journal, is one event.
func eventsOf(t fsmeta.Transaction) []event {
	made := map[string]*fsmeta.Info{} // committed snapshots by identifier
	for _, c := range t.Changes {
		if c.After != nil && c.After.Kind == fsmeta.KindCommitted && (c.Before == nil || c.Before.ID != c.After.ID) {
			made[c.After.ID] = c.After
		}
	}
	var events []event
	said := map[string]bool{} // both names of each commit
	for _, c := range t.Changes {
		if c.Before == nil || c.Before.Kind != fsmeta.KindActive || made[c.Before.ID] == nil {
			continue
		}
		as := made[c.Before.ID]
		events = append(events, event{c, as})
		said[c.Name], said[as.Name] = true, true
	}
	for _, c := range t.Changes {
		if !said[c.Name] || c.Before != nil && c.After != nil { // it was another before
			events = append(events, event{change: c})
		}
	}
	return events
}

func (l *look) printEvent(e event) error {
	c := e.change
	switch {
	case e.committed != nil:
		text := fmt.Sprintf("> %s → %s (committed%s)", l.short(c.Name), l.short(e.committed.Name), l.details(e.committed))
		return errors.Join(l.print("  ", text, tool.Green), l.printFields(c.Before, e.committed))
	case c.After == nil && c.Before == nil:
		return nil
	case c.After == nil:
		return l.print("  ", fmt.Sprintf("- %s (%s%s)", l.short(c.Name), c.Before.Kind, l.details(c.Before)), tool.Red)
	case c.Before == nil:
		return errors.Join(l.print("  ", fmt.Sprintf("+ %s (%s%s)", l.short(c.Name), c.After.Kind, l.details(c.After)), tool.Green), l.printFields(&fsmeta.Info{Parent: c.After.Parent}, c.After))
	}
	return errors.Join(l.print("  ", "~ "+l.short(c.Name), tool.Yellow), l.printFields(c.Before, c.After))
}

// short returns a name so that it fits into a line.
func (l *look) short(name string) string {
	if name = tool.Escape(name); l.Width == 0 {
		return name
	}
	return tool.Shorten(name, max(l.Width-2*gap-gap, enough))
}

// details says which snapshot it is, and what it stands on.
func (l *look) details(i *fsmeta.Info) string {
	text := ", identifier " + i.ID
	if i.Parent != "" {
		text += ", on " + l.short(i.Parent)
	}
	return text
}

// printFields prints what is different in two versions of a snapshot. What follows from its
// being made or committed is left out.
func (l *look) printFields(before, after *fsmeta.Info) error {
	var lines []string
	differ := func(field, from, to string) {
		if from != to {
			lines = append(lines, fmt.Sprintf("%s: %s → %s", field, l.value(from), l.value(to)))
		}
	}
	if born := before.ID == "" || before.Kind != after.Kind; !born {
		differ("identifier", before.ID, after.ID)
		differ("readonly", fmt.Sprint(before.Readonly), fmt.Sprint(after.Readonly))
	}
	differ("parent", quoteName(before.Parent), quoteName(after.Parent))
	differ("usage.size", fmt.Sprint(before.Usage.Size), fmt.Sprint(after.Usage.Size))
	differ("usage.inodes", fmt.Sprint(before.Usage.Inodes), fmt.Sprint(after.Usage.Inodes))
	keys := maps.Clone(before.Labels)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, after.Labels)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		from, had := before.Labels[key]
		to, has := after.Labels[key]
		differ("label "+l.short(key), quoteLabel(from, had), quoteLabel(to, has))
	}
	var err error
	for _, line := range lines {
		err = errors.Join(err, l.print("      ", line, ""))
	}
	return err
}

// value returns a value so that it fits into a line.
func (l *look) value(text string) string {
	if l.Width == 0 {
		return text
	}
	return tool.Shorten(text, max(l.Width-3*gap-gap, enough))
}

func quoteName(name string) string { return quoteLabel(name, name != "") }

// quoteLabel returns a value with its quotation marks, or that there is none.
func quoteLabel(value string, there bool) string {
	if !there {
		return "none"
	}
	return quote(value)
}
