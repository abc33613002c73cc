package tool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

// Exit statuses besides 0.
const (
	exitFindings = 1
	exitFailed   = 2
)

// ErrFindings: something is wrong, and it was printed.
var ErrFindings = errors.New("findings")

// Found returns ErrFindings where so much is wrong, and err where there is one.
func Found(wrong int, err error) error {
	if err == nil && wrong > 0 {
		return ErrFindings
	}
	return err
}

// Exit ends the program as err says, which is what became of the command.
func Exit(program string, err error) {
	switch {
	case errors.Is(err, ErrFindings):
		os.Exit(exitFindings)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %s\n", program, strings.TrimPrefix(err.Error(), program+": "))
		os.Exit(exitFailed)
	}
}

// Version is that of the module, where the build knows it.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Plain refuses to run an action with arguments that it has no use for.
func Plain(action cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		if c.Args().Present() {
			return fmt.Errorf("%s does not take %q: see --help", c.FullName(), c.Args().First())
		}
		return action(ctx, c)
	}
}

// Check prints what is wrong with the store in dir, and what is harmless with a "note: "
// before it. It returns how much is wrong.
func Check(ctx context.Context, dir string, out io.Writer) (wrong int, err error) {
	var p Progress
	findings, err := fsmeta.Check(ctx, dir, p.Of("checking"))
	p.Finish()
	if err != nil {
		return 0, err
	}
	if wrong, err = print(out, findings); err == nil && wrong == 0 {
		_, err = fmt.Fprintln(out, "the metadata is in order")
	}
	return wrong, err
}

func print(out io.Writer, findings []fsmeta.Finding) (wrong int, err error) {
	for _, f := range findings {
		note := ""
		switch {
		case f.Aside != "":
			wrong++ // until a person has looked at it
		case f.Repaired != "":
		case f.Harmless:
			note = "note: "
		default:
			wrong++
		}
		if _, err := fmt.Fprintf(out, "%s%v\n", note, f); err != nil {
			return 0, err
		}
	}
	return wrong, nil
}

// AcceptTree is the flag of repair commands that makes a repair accept what is there.
func AcceptTree() cli.Flag {
	return &cli.BoolFlag{Name: acceptTree, Usage: "where snapshots are missing, give them up: record those that are there as all there are. " +
		"Put back before what a backup, damaged/ or lost+found has; the content of what stays missing is deleted later"}
}

const acceptTree = "accept-tree"

// RepairOptions returns the options of a repair that a command's flags ask for.
func RepairOptions(c *cli.Command) []fsmeta.RepairOption {
	if c.Bool(acceptTree) {
		return []fsmeta.RepairOption{fsmeta.AcceptTree()}
	}
	return nil
}

// Repair repairs the store in dir, and prints what it has done and what is still wrong. It
// returns how much that is, with the snapshots that were set aside; aside is their number.
func Repair(ctx context.Context, dir string, out io.Writer, options ...fsmeta.RepairOption) (wrong, aside int, err error) {
	var p Progress
	findings, err := fsmeta.Repair(ctx, dir, p.Of("repairing"), options...)
	p.Finish()
	wrong, perr := print(out, findings)
	for _, f := range findings {
		if f.Aside != "" {
			aside++
		}
	}
	if err = errors.Join(err, perr); err == nil && wrong == 0 {
		_, err = fmt.Fprintln(out, "the metadata is in order")
	}
	return wrong, aside, err
}

// Backup copies the store in dir to a directory to, which must not exist.
func Backup(ctx context.Context, dir, to string, out io.Writer) (err error) {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var p Progress
	total := 0
	err = s.Backup(ctx, to, func(done, of int) {
		total = of
		p.Show("backing up", done, of)
	})
	p.Finish()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d snapshots are in %s: to restore it, stop what uses the store, move that away, and cp -a %[2]s to where it was; the file backup in it says below which identifier content may be newer\n", total, to)
	return err
}
