package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/lock"
	"github.com/urfave/cli/v3"
)

func infoCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "info",
		Usage: "print what a store is like as a whole",
		Description: "Prints the format, how many snapshots there are and how many the journal counts, the last transaction, what the journal has, which processes hold the lock of writers and have the store open, as far as they can be seen (with --json, unseen says that there may be others), " +
			"what repairs have set aside, and the backup that it was restored from.\n\n" + looks + "\n\nExample: fsmeta info STORE",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags:     []cli.Flag{tool.JSON("all of it")},
		Action:    looking(info, &store),
	}
}

// overview is what info prints. What can't be told is null.
type overview struct {
	Store  string `json:"store"`
	Format int    `json:"format"`
	counts
	Counted     *uint64    `json:"counted"` // by the journal
	Transaction *uint64    `json:"transaction"`
	Time        *time.Time `json:"time"` // of the last transaction, null where the journal has none
	NextID      *uint64    `json:"nextId"`
	Journal     journal    `json:"journal"`
	Writer      []process  `json:"writer"`
	Users       []process  `json:"users"`
	Unseen      bool       `json:"unseen"` // there may be others, outside of what this process sees
	Aside       int        `json:"aside"`
	BackupOf    *time.Time `json:"backupOf"`
	Damage      []string   `json:"damage"` // of the store as a whole
}

type journal struct {
	Size        int64  `json:"size"`
	Lines       int    `json:"lines"`
	After       uint64 `json:"after"`
	EarlierBoot bool   `json:"earlierBoot"`
}

type process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Stopped bool   `json:"stopped"`
}

func info(l *look, c *cli.Command) error {
	s, err := l.Summary()
	if err != nil {
		return err
	}
	o := &overview{Store: l.dir, Format: s.Format, Aside: s.SetAside, Writer: holders(s.Writer), Users: holders(s.Users), Unseen: unseen(), Damage: []string{},
		Journal: journal{Size: s.JournalSize, After: s.Checkpoint, EarlierBoot: s.OtherBoot}}
	if path, err := filepath.Abs(l.dir); err == nil {
		o.Store = path
	}
	if s.Known {
		o.Counted = &s.Counted
	}
	if s.NextID > 0 {
		o.NextID = &s.NextID
	}
	if s.NextID > 0 || s.Transaction > 0 { // else the journal can't be read at all
		o.Transaction = &s.Transaction
	}
	if !s.BackupOf.IsZero() {
		o.BackupOf = &s.BackupOf
	}
	if err := errors.Join(l.count(o), l.lines(o, s.Transaction)); err != nil {
		return err
	}
	l.wholly(o, s.Damage, l.Width > 0 && !c.Bool("json"))
	if c.Bool("json") {
		return tool.NewEncoder(l.out).Encode(o)
	}
	return l.info(o)
}

// holders returns processes as they are printed.
func holders(all []lock.Holder) []process {
	out := []process{}
	for _, h := range all {
		out = append(out, process(h))
	}
	return out
}

// count counts the snapshots.
func (l *look) count(o *overview) error {
	o.Removed = l.removed()
	return l.each(func(s *fsmeta.Sight) error { o.add(s); return nil })
}

// lines counts the lines of the journal, and notes when the last transaction was.
func (l *look) lines(o *overview, last uint64) error {
	for t, err := range l.Log() {
		if errors.Is(err, fsmeta.ErrDamaged) {
			continue // said as damage of the journal
		}
		if err != nil {
			return err
		}
		if t.Number > last {
			break // committed since the look began
		}
		o.Journal.Lines++
		if t.Number == last {
			o.Time = &t.Time
		}
	}
	return nil
}

// wholly takes in what is wrong with the store as a whole, each once. Where a person sees it as part
// of what is printed, standard error does not say it again.
func (l *look) wholly(o *overview, damage []error, seen bool) {
	for _, err := range slices.Concat(l.whole, damage) {
		if text := damageText(err); !slices.Contains(o.Damage, text) {
			o.Damage = append(o.Damage, text)
		}
	}
	for _, text := range o.Damage {
		said := complaintf("%s", tool.Visible(text))
		l.wrong = slices.DeleteFunc(l.wrong, func(c complaint) bool { return c.text == said.text })
		if seen {
			l.shown++
		} else {
			l.wrong = append(l.wrong, said)
		}
	}
}

func (l *look) info(o *overview) error {
	p := &pairs{look: l}
	p.path("store", o.Store)
	p.add("format", fmt.Sprintf("version %d", o.Format))
	counted := "the journal does not count them"
	if o.Counted != nil {
		counted = fmt.Sprintf("the journal counts %d", *o.Counted)
	}
	p.add("snapshots", fmt.Sprintf("%d active, %d committed; %s", o.Active, o.Committed, counted))
	p.styled("damaged", fmt.Sprint(o.Damaged), ifAny(o.Damaged, tool.Red))
	lagging := fmt.Sprint(o.Lagging)
	if o.Removed > 0 {
		lagging += fmt.Sprintf(", and %d removed with a directory that is still there", o.Removed)
	}
	p.styled("lagging", lagging, ifAny(o.Lagging+o.Removed, tool.Yellow))
	p.add("last transaction", l.last(o))
	p.add("next identifier", number(o.NextID))
	p.add("journal", l.journal(o))
	p.list("lock of writers", holderLines(o.Writer, o.Unseen))
	p.list("opened by", holderLines(o.Users, o.Unseen))
	p.add("set aside", fmt.Sprint(o.Aside))
	if o.BackupOf != nil {
		p.add("restored from", "a backup of "+at(l.now, *o.BackupOf)+"; content may be newer, see docs/repair.md")
	}
	for _, damage := range o.Damage {
		p.styled("damage", tool.Visible(damage), tool.Red)
	}
	return p.print()
}

func (l *look) last(o *overview) string {
	text := number(o.Transaction)
	if o.Transaction != nil && o.NextID == nil { // the journal is damaged
		text += " or later"
	}
	if o.Time != nil {
		text += ", " + at(l.now, *o.Time)
	}
	return text
}

func (l *look) journal(o *overview) string {
	if o.Journal.Size == 0 && o.Journal.Lines == 0 {
		return "there is no file of that name, or nothing in it"
	}
	text := fmt.Sprintf("%s, %d lines after transaction %d", bytesOf(o.Journal.Size), o.Journal.Lines, o.Journal.After)
	if o.Journal.EarlierBoot {
		text += ", begun before the machine was started last"
	}
	return text
}

// number returns a number, or that it is not known.
func number(n *uint64) string {
	if n == nil {
		return "not known"
	}
	return fmt.Sprint(*n)
}

func ifAny(n int, as tool.Style) tool.Style {
	if n == 0 {
		return ""
	}
	return as
}

func holderLines(all []process, unseen bool) (lines []string) {
	for _, h := range all {
		lines = append(lines, tool.Escape(lock.Holder(h).String()))
	}
	if unseen {
		lines = append(lines, "processes outside of this PID namespace can't be seen")
	}
	return lines
}

// initialPID is the PID namespace of the machine, as the kernel names it (PROC_PID_INIT_INO).
const initialPID = "pid:[4026531836]"

// unseen reports whether there may be processes with locks that this one can't see: it sees those of its
// own PID namespace, and of those in that. Where there is no such file, it sees none.
var unseen = func() bool {
	namespace, err := os.Readlink("/proc/self/ns/pid")
	return err != nil || namespace != initialPID
}
