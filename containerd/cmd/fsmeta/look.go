package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

// look is one look at a store: what it finds and where it prints that.
type look struct {
	*fsmeta.Inspection
	tool.Screen
	ctx    context.Context
	dir    string
	out    *output
	now    time.Time
	wrong  []complaint // what is damaged
	shown  int         // what is damaged and was printed already
	others int         // what is damaged and has nothing to do with what was asked for
	notes  []string    // what else standard error says, each behind "note: "
	whole  []error     // those that are not about one snapshot, as each found them
	absent string      // says that what was asked for is not there
}

// complaint says on standard error what is damaged.
type complaint struct {
	path string // of the snapshot's directory, or of the file, "" where it is about several
	text string
}

// complaintf returns one about what was found out here, not by the inspection.
func complaintf(format string, a ...any) complaint { return complaint{text: fmt.Sprintf(format, a...)} }

// attempts is how often a store is inspected that changes too fast.
const attempts = 20

// looking is the action of a command that looks at the store. What print prints is of one
// inspection: another one is begun where the store changed too fast, unless some of the
// first was passed on already. What is damaged is said on standard error in the end.
func looking(print func(l *look, c *cli.Command) error, store *string, more ...*string) cli.ActionFunc {
	return with(func(ctx context.Context, c *cli.Command) error {
		writer := c.Root().Writer
		l := &look{Screen: tool.ScreenOf(writer), ctx: ctx, dir: *store, out: newOutput(writer), now: clock()}
		err := l.try(c, print)
		for again := 1; errors.Is(err, fsmeta.ErrOutdated) && again < attempts && l.out.drop(); again++ {
			err = l.try(c, print)
		}
		if errors.Is(err, fsmeta.ErrOutdated) {
			err = fmt.Errorf("%w: the store is changing so fast that it could not be listed as of one moment: run it again, with its output into a file, or stop what writes", err)
		}
		err = errors.Join(err, l.out.Flush())
		if errors.Is(err, syscall.EPIPE) {
			return nil // the reader has seen enough
		}
		l.complain(c.Root().ErrWriter)
		if l.absent != "" && err == nil {
			err = tool.ErrFindings
		}
		return tool.Found(len(l.wrong)+l.shown+l.others, err)
	}, append([]*string{store}, more...)...)
}

// clock returns the time from which ages are counted.
var clock = time.Now

// try inspects the store once.
func (l *look) try(c *cli.Command, print func(l *look, c *cli.Command) error) (err error) {
	l.wrong, l.shown, l.others, l.notes, l.whole, l.absent = nil, 0, 0, nil, nil, ""
	if l.Inspection, err = fsmeta.Inspect(l.dir); err != nil {
		return err
	}
	return errors.Join(print(l, c), l.Close())
}

// few is how many of a kind standard error says one by one.
const few = 5

// complain says on standard error, which w is, what is damaged: not more than a person reads, and in the
// end how to see the rest, and what to do.
func (l *look) complain(w io.Writer) {
	say := func(format string, a ...any) { tool.Complain(w, "fsmeta", fmt.Sprintf(format, a...)) }
	if l.absent != "" {
		say("%s", l.absent)
	}
	for _, note := range l.notes[:min(len(l.notes), few)] {
		say("note: %s", note)
	}
	if more := len(l.notes) - few; more > 0 {
		say("note: %d more are removed, and their directories are still there", more)
	}
	for _, wrong := range l.wrong[:min(len(l.wrong), few)] {
		say("%s", wrong.text)
	}
	if more := len(l.wrong) - few; more > 0 {
		say("%d more are damaged", more)
	}
	if l.others > 0 {
		say("the store has other damage, too (%d)", l.others)
	}
	if len(l.wrong)+l.shown+l.others > 0 {
		say("fsmeta check %s says what to do; docs/repair.md is printed by: fsmeta guide", tool.Escape(l.dir))
	}
}

// each calls visit for each snapshot, in order. What is damaged is noted.
func (l *look) each(visit func(s *fsmeta.Sight) error) error {
	for s, err := range l.All(l.ctx) {
		if errors.Is(err, fsmeta.ErrDamaged) {
			l.wrong = slices.Insert(l.wrong, 0, complaint{pathOf(err), tool.Visible(damageText(err))}) // more than one snapshot is concerned
			l.whole = append(l.whole, err)
			continue
		}
		if err == nil {
			if s.Damage != nil {
				l.note(s.Path, s.Damage)
			}
			err = visit(&s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// note notes something damaged.
func (l *look) note(path string, err error) {
	l.wrong = append(l.wrong, complaint{path, tool.Visible(damageText(err))})
}

// pathOf returns the path in damage, "" where it has none.
func pathOf(err error) string {
	var damage *fsmeta.DamagedError
	if !errors.As(err, &damage) {
		return ""
	}
	return damage.Path
}

// removed counts the snapshots that are removed but for their directories, and notes them:
// ls of the directory has them.
func (l *look) removed() (count int) {
	for _, s := range l.Removed() {
		l.notes = append(l.notes, leftText(&s))
		count++
	}
	return count
}

// leftText says of a removed snapshot what is left of it, and what to do.
func leftText(s *fsmeta.Sight) string {
	return tool.Visible(fmt.Sprintf("snapshot %s: %s: %s; %s", tool.Shorten(nameOf(s), enoughInError), s.Path, s.Lags, s.Advice))
}

// damageText says what is damaged, without the operation that found it and what to do.
func damageText(err error) string {
	var damage *fsmeta.DamagedError
	if !errors.As(err, &damage) {
		return err.Error()
	}
	where := damage.Path
	if damage.Name != "" {
		where = fmt.Sprintf("snapshot %.256q: %s", damage.Name, where)
	}
	return fmt.Sprintf("%v: %s: %s", fsmeta.ErrDamaged, where, problemOf(damage))
}

// problemOf says what is wrong with a damaged snapshot, without its name and path.
func problemOf(err error) string {
	var damage *fsmeta.DamagedError
	if !errors.As(err, &damage) {
		return err.Error()
	}
	return strings.ReplaceAll(damage.Err.Error(), " "+damage.Path+": ", ": ")
}

// allThere reports whether a directory has the parts that each store has.
func allThere(dir string) bool {
	for _, part := range []string{"layout", "journal", "snapshots"} {
		if _, err := os.Lstat(filepath.Join(dir, part)); err != nil {
			return false
		}
	}
	return true
}

// explain adds to an error what to do about it, and where the store is, if dir is the root
// directory of a snapshotter.
func explain(err error, dir string) error {
	advice := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fsmeta.ErrNotStore) && isFile(dir):
		return adviseFile(err, dir)
	case errors.Is(err, fsmeta.ErrNotStore) && !allThere(dir): // else it is of another version
		advice = "give the directory that has layout, journal and snapshots in it"
		inside := filepath.Join(dir, "meta")
		if _, serr := os.Stat(filepath.Join(inside, "layout")); serr == nil {
			advice = "the store is " + inside
		}
	case errors.Is(err, fsmeta.ErrInUse):
		advice = "wait until it has ended"
	case errors.Is(err, fs.ErrPermission) && !strings.Contains(err.Error(), "chattr"): // which is the advice then
		advice = adviseDenied(err, dir)
	}
	if advice == "" || strings.HasSuffix(err.Error(), advice) {
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}

// adviseFile says what to do with a file that is where a store should be: the drop-in tells bbolt's
// from others.
func adviseFile(err error, path string) error {
	if _, refused := storage.NewMetaStore(path); refused != nil {
		return refused
	}
	return err
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
