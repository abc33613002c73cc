package tool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

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

// ErrLogged: the program can't go on, and why was logged.
var ErrLogged = errors.New("logged")

// Found returns ErrFindings where so much is wrong, and err where there is one.
func Found(wrong int, err error) error {
	if err == nil && wrong > 0 {
		return ErrFindings
	}
	return err
}

// version is what the linker has been told, "" for nothing.
var version string

// Version is what the build was told; else that of the module, or the revision, where the
// build knows one.
func Version() string {
	info, _ := debug.ReadBuildInfo() // nil where there is none
	return versionOf(version, info)
}

func versionOf(told string, info *debug.BuildInfo) string {
	switch {
	case told != "":
		return told
	case info == nil:
		return development
	case info.Main.Version != "" && info.Main.Version != development:
		return info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return development + " " + s.Value
		}
	}
	return development
}

// development is the version of what was built from a directory that has none.
const development = "(devel)"

// VersionCommand prints the version, and what a report of a fault needs besides.
func VersionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the version, that of Go, and for which machine it was built",
		Description: "Name it in a report of a fault. Without a released version it is the revision, where the build has recorded one.",
		Action: Alone(func(_ context.Context, c *cli.Command) error {
			_, err := fmt.Fprintf(c.Root().Writer, "%s %s %s %s/%s\n", c.Root().Name, Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		}),
	}
}

// Alone refuses to run an action with arguments that it has no use for.
func Alone(action cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		if c.Args().Present() {
			return fmt.Errorf("%s does not take %q: see --help", c.FullName(), c.Args().First())
		}
		return action(ctx, c)
	}
}

// Check prints what is wrong with the store in dir. It returns how much that is.
func Check(ctx context.Context, dir string, p Printer) (wrong int, err error) {
	var progress Progress
	findings, err := fsmeta.Check(ctx, dir, progress.Of("checking"))
	progress.Finish()
	if err != nil {
		return 0, err
	}
	if wrong, err = p.Findings(findings...); err == nil && wrong == 0 {
		err = p.Say(inOrder)
	}
	return wrong, err
}

const inOrder = "the metadata is in order"

// AcceptTree is the flag of repair commands that makes a repair accept what is there.
func AcceptTree() cli.Flag {
	return &cli.BoolFlag{Name: acceptTree, Usage: "where snapshots are missing, give them up: record those that are there as all there are, and set aside those that stand on missing ones. " +
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
func Repair(ctx context.Context, dir string, p Printer, options ...fsmeta.RepairOption) (wrong, aside int, err error) {
	var progress Progress
	findings, err := fsmeta.Repair(ctx, dir, progress.Of("repairing"), options...)
	progress.Finish()
	wrong, perr := p.Findings(findings...)
	for _, f := range findings {
		if f.Aside != "" {
			aside++
		}
	}
	if err = errors.Join(err, perr); err == nil && wrong == 0 {
		err = p.Say(inOrder)
	}
	return wrong, aside, err
}

// Backup copies the store in dir to a directory to, which must not exist.
func Backup(ctx context.Context, dir, to string, p Printer) (err error) {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var progress Progress
	made := backup{Store: dir, Backup: to}
	err = s.Backup(ctx, to, func(done, of int) {
		made.Snapshots = of
		progress.Show("backing up", done, of)
	})
	progress.Finish()
	if errors.Is(err, fsmeta.ErrDamaged) {
		err = fmt.Errorf("%w; for a copy of it as it is, say before a repair, stop what uses it: cp -a %s %s", err, dir, to)
	}
	if err != nil {
		return err
	}
	if p.JSON {
		return NewEncoder(p.Out).Encode(made)
	}
	return p.Say("%d snapshots are in %s: to restore it, stop what uses the store, move that away, and cp -a %[2]s to where it was; the file backup in it says below which identifier content may be newer", made.Snapshots, to)
}

// backup is what a backup has made, as JSON.
type backup struct {
	Store     string `json:"store"`
	Backup    string `json:"backup"`
	Snapshots int    `json:"snapshots"`
}
