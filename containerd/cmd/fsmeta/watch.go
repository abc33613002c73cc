package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func watchCommand() *cli.Command {
	var store string
	return &cli.Command{
		Name:  "watch",
		Usage: "print each transaction as it is committed",
		Description: "Prints transactions as log does, and goes on until it is interrupted. For what has been committed before, see log.\n\n" +
			"Example: the names that change:\n\n   fsmeta watch --json STORE | jq -c '[.txn, .changes[].name]'",
		Arguments: []cli.Argument{&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"}},
		Flags: []cli.Flag{
			&cli.Uint64Flag{Name: "after", Usage: "begin behind transaction `N`", Value: fsmeta.FromNow, DefaultText: "the last one"},
			tool.JSON("each transaction"),
		},
		Action: with(func(ctx context.Context, c *cli.Command) error { return watch(ctx, c, store) }, &store),
	}
}

// watch prints transactions until ctx ends, which is no error.
func watch(ctx context.Context, c *cli.Command, dir string) (err error) {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	writer := c.Root().Writer
	l := &look{Screen: tool.ScreenOf(writer), ctx: ctx, dir: dir, out: newOutput(writer)}
	for t, err := range s.Watch(ctx, c.Uint64("after")) {
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case errors.Is(err, fsmeta.ErrOutdated):
			err = fmt.Errorf("%w: list the store, and watch it anew", err)
		case err != nil:
		case c.Bool("json"):
			err = tool.NewEncoder(l.out).Encode(tool.TransactionOf(t))
		default:
			l.now = clock()
			err = l.printTransaction(t)
		}
		if err = errors.Join(err, l.out.Flush()); err != nil {
			return err
		}
	}
	return nil
}
