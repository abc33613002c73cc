package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/containerd/internal/tool"
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
	wrong  []string // what is damaged, a line for each
	notes  []string // what else standard error says
	whole  []error  // those that are not about one snapshot, as each found them
	absent bool     // what was asked for is not there
}

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
		for _, line := range slices.Concat(l.notes, l.wrong) {
			fmt.Fprintf(c.Root().ErrWriter, "fsmeta: %s\n", line)
		}
		if l.absent && err == nil {
			err = tool.ErrFindings
		}
		return tool.Found(len(l.wrong), err)
	}, append([]*string{store}, more...)...)
}

// clock returns the time from which ages are counted.
var clock = time.Now

// try inspects the store once.
func (l *look) try(c *cli.Command, print func(l *look, c *cli.Command) error) (err error) {
	l.wrong, l.notes, l.whole, l.absent = nil, nil, nil, false
	if l.Inspection, err = fsmeta.Inspect(l.dir); err != nil {
		return err
	}
	return errors.Join(print(l, c), l.Close())
}

// each calls visit for each snapshot, in order. What is damaged is noted.
func (l *look) each(visit func(s *fsmeta.Sight) error) error {
	for s, err := range l.All(l.ctx) {
		if errors.Is(err, fsmeta.ErrDamaged) {
			l.note(err)
			l.whole = append(l.whole, err)
			continue
		}
		if err == nil {
			if s.Damage != nil {
				l.note(s.Damage)
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
func (l *look) note(err error) { l.wrong = append(l.wrong, tool.Visible(damageText(err))) }

// removed counts the snapshots that are removed but for their directories, and notes them:
// ls of the directory has them.
func (l *look) removed() (count int) {
	for _, s := range l.Removed() {
		l.notes = append(l.notes, "note: "+leftText(&s))
		count++
	}
	return count
}

// leftText says of a removed snapshot what is left of it, and what to do.
func leftText(s *fsmeta.Sight) string {
	return tool.Visible(fmt.Sprintf("snapshot %s: %s: %s; %s", tool.Shorten(nameOf(s), enoughInError), s.Path, s.Lags, s.Advice))
}

// damageText says what is damaged, without the operation that found it.
func damageText(err error) string {
	var damage *fsmeta.DamagedError
	if errors.As(err, &damage) {
		err = damage
	}
	return err.Error()
}

// problemOf says what is wrong with a damaged snapshot, without its name and path.
func problemOf(err error) string {
	var damage *fsmeta.DamagedError
	if errors.As(err, &damage) {
		err = damage.Err
	}
	return err.Error()
}

// explain adds to an error what to do about it, and where the store is, if dir is the root
// directory of a snapshotter.
func explain(err error, dir string) error {
	advice := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fsmeta.ErrNotStore):
		advice = "give the directory that has layout, journal and snapshots in it"
		inside := filepath.Join(dir, "meta")
		if _, serr := os.Stat(filepath.Join(inside, "layout")); serr == nil {
			advice = "the store is " + inside
		}
	case errors.Is(err, fsmeta.ErrInUse):
		advice = "wait until it has ended"
	case errors.Is(err, fs.ErrPermission):
		advice = "run it as the user that the store belongs to, or as root"
	}
	if advice == "" || strings.HasSuffix(err.Error(), advice) {
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}
