// Command fsmeta is for operators of a store, whichever driver it is of: it checks,
// repairs, backs up and follows it. Run it with --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/fsmeta/fsmeta/containerd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().Run(ctx, os.Args)
	stop()
	tool.Exit("fsmeta", err)
}

func command() *cli.Command {
	var store, to string
	storeArgument := &cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}
	return &cli.Command{
		Name:    "fsmeta",
		Usage:   "check, repair, back up and follow a store of snapshot metadata",
		Version: tool.Version(),
		Action: tool.Plain(func(_ context.Context, c *cli.Command) error {
			return cli.ShowAppHelp(c)
		}),
		Commands: []*cli.Command{
			{
				Name:  "check",
				Usage: "print what is wrong with a store, which may be in use",
				Description: "Prints a line for each finding, those that are harmless with \"note:\" before them. It changes nothing. " +
					"Exit status: 0 nothing is wrong, 1 something is, 2 it could not be checked.",
				Arguments: []cli.Argument{storeArgument},
				Action: with(&store, func(ctx context.Context, c *cli.Command) error {
					return tool.Found(tool.Check(ctx, store, c.Root().Writer))
				}),
			},
			{
				Name:  "repair",
				Usage: "repair a store that is not in use",
				Description: "Mends what can be mended safely, and sets damaged snapshots aside in STORE/damaged/: look at them before the driver " +
					"runs again: it may delete the content of snapshots that the store does not know any more. " +
					"Exit status: 0 the store is in order, 1 something was set aside or is left that a person has to decide, 2 it could not be repaired.",
				Arguments: []cli.Argument{storeArgument},
				Flags:     []cli.Flag{tool.AcceptTree()},
				Action: with(&store, func(ctx context.Context, c *cli.Command) error {
					wrong, _, err := tool.Repair(ctx, store, c.Root().Writer, tool.RepairOptions(c)...)
					return tool.Found(wrong, err)
				}),
			},
			{
				Name:      "backup",
				Usage:     "copy a store, which may be in use, to a new directory",
				Arguments: []cli.Argument{storeArgument, &cli.StringArg{Name: "DIR", Destination: &to, UsageText: "DIR"}},
				Action: with(&store, with(&to, func(ctx context.Context, c *cli.Command) error {
					return tool.Backup(ctx, store, to, c.Root().Writer)
				})),
			},
			{
				Name:      "watch",
				Usage:     "print each transaction as it is committed, one line of JSON each",
				Arguments: []cli.Argument{storeArgument},
				Flags:     []cli.Flag{&cli.Uint64Flag{Name: "after", Usage: "begin behind transaction `N`", Value: fsmeta.FromNow, DefaultText: "the last one"}},
				Action: with(&store, func(ctx context.Context, c *cli.Command) error {
					return tool.Watch(ctx, store, c.Uint64("after"), c.Root().Writer)
				}),
			},
		},
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	}
}

// hint adds to an error where the store is, if dir is the root directory of a
// snapshotter.
func hint(err error, dir string) error {
	inside := filepath.Join(dir, "meta")
	if _, serr := os.Stat(filepath.Join(inside, "layout")); serr == nil && errors.Is(err, fsmeta.ErrNotStore) {
		err = fmt.Errorf("%w: the store is %s", err, inside)
	}
	return err
}

// with refuses to run an action without an argument, or with too many.
func with(argument *string, action cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, c *cli.Command) error {
		if *argument == "" || c.Args().Present() {
			return fmt.Errorf("give exactly the arguments that %s --help shows", c.FullName())
		}
		return hint(action(ctx, c), *argument)
	}
}
