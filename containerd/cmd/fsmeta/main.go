// Command fsmeta is for operators of a store, whichever driver it is of: it shows,
// checks, repairs, backs up and follows it, and switches a driver to one and back.
//
//	fsmeta ls STORE          the snapshots; with --json a line of JSON for each
//	fsmeta show STORE NAME   everything about one of them
//	fsmeta tree STORE        the snapshots by their parents
//	fsmeta log STORE         the transactions in the journal
//	fsmeta info STORE        the store as a whole
//	fsmeta check STORE       what is wrong with it, and what to do
//	fsmeta repair STORE      mends it, while nothing uses it
//	fsmeta backup STORE DIR  copies it, while it is used
//	fsmeta import FILE STORE takes over a metadata.db of containerd's package
//	fsmeta export STORE FILE writes one, the way back
//	fsmeta watch STORE       prints transactions as they are committed
//	fsmeta guide             how to repair a store by hand
//
// Run it with --help; fsmeta COMMAND --help has more of each, with an example.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/urfave/cli/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().Run(ctx, os.Args)
	stop()
	tool.Exit("fsmeta", err)
}

func command() *cli.Command {
	return tool.Document(&cli.Command{
		Name:  "fsmeta",
		Usage: "look at, check, repair, back up, fill and follow a store of snapshot metadata",
		Description: "STORE is the directory that has layout, journal and snapshots in it. Nothing but repair and import writes to it.\n\n" +
			"Completion for bash: source <(fsmeta completion bash); zsh, fish and pwsh likewise. Colours are left out where NO_COLOR is set.",
		Version: tool.Version(),
		Action: tool.Alone(func(_ context.Context, c *cli.Command) error {
			return cli.ShowAppHelp(c)
		}),
		Commands: []*cli.Command{
			lsCommand(), showCommand(), treeCommand(), logCommand(), infoCommand(),
			checkCommand(), repairCommand(), backupCommand(), watchCommand(), importCommand(), exportCommand(),
		},
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	})
}

func checkCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "check",
		Usage: "print what is wrong with a store, which may be in use",
		Description: "Prints a line for each finding, those that are harmless with \"note:\" before them. It changes nothing. " +
			"Exit status: 0 nothing is wrong, 1 something is, 2 it could not be checked.\n\n" + tool.FindingJSON + "\n\n" +
			"Example: what to do about each:\n\n   fsmeta check --json STORE | jq -r 'select(.kind == \"wrong\") | .path, .advice'",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags:     []cli.Flag{tool.JSON("each finding")},
		Action: with(func(ctx context.Context, c *cli.Command) error {
			return tool.Found(tool.Check(ctx, store, tool.PrinterOf(c)))
		}, &store),
	}
}

// contentAside says what becomes of the content of snapshots that a repair has set aside, as
// docs/repair.md does.
const contentAside = "The content of snapshots in damaged/ is kept by fsmeta-snapshotter, and by each driver that asks Store.Orphans, or the drop-in's IDMap, what to delete, for as long as they are there. " +
	"Other drivers delete the content of what the store does not know, and so theirs."

func repairCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "repair",
		Usage: "repair a store that is not in use",
		Description: "Mends what can be mended safely, and sets damaged snapshots aside in STORE/damaged/. " + contentAside + " So look at them before the driver runs again. " +
			"Exit status: 0 the store is in order, 1 something was set aside or is left that a person has to decide, 2 it could not be repaired.\n\n" + tool.FindingJSON + "\n\n" +
			"Example: fsmeta repair STORE",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags:     []cli.Flag{tool.AcceptTree(), tool.JSON("each finding")},
		Action: with(func(ctx context.Context, c *cli.Command) error {
			wrong, _, err := tool.Repair(ctx, store, tool.PrinterOf(c), tool.RepairOptions(c)...)
			return tool.Found(wrong, err)
		}, &store),
	}
}

func backupCommand() *cli.Command {
	var store, to string
	return &cli.Command{
		Name:        "backup",
		Usage:       "copy a store, which may be in use, to a new directory",
		Description: "The copy is as of one moment, and has no content of snapshots. Exit status: 0, 2 where there is no copy.\n\nExample: fsmeta backup STORE /backup/store-$(date +%F)",
		Arguments: []cli.Argument{
			&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"},
			&cli.StringArg{Name: "DIR", Destination: &to, UsageText: "DIR"},
		},
		Flags: []cli.Flag{tool.JSON("the result")},
		Action: with(func(ctx context.Context, c *cli.Command) error {
			return tool.Backup(ctx, store, to, tool.PrinterOf(c))
		}, &store, &to),
	}
}

// with refuses to run an action without all of its arguments, or with too many. The first is
// the store.
func with(action cli.ActionFunc, arguments ...*string) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		switch {
		case c.Args().Present():
			return fmt.Errorf("%q is an argument too many: %s", c.Args().First(), c.UsageText)
		case slices.ContainsFunc(arguments, func(a *string) bool { return *a == "" }):
			return fmt.Errorf("an argument is missing: %s", c.UsageText)
		}
		return explain(action(ctx, c), *arguments[0])
	}
}
