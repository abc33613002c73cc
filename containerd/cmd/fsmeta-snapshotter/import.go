//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/migrate"
	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	"github.com/urfave/cli/v3"
)

func importCommand() *cli.Command {
	return &cli.Command{
		Name:  "import",
		Usage: "take over the snapshots, images and containers of containerd's own snapshotter",
		Description: "containerd and this daemon must be stopped, and no container may run. The content moves by one rename, " +
			"so --root must be on the filesystem that containerd's root directory is on. When it fails or is interrupted, run it again. " +
			"It prints how to go back.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "containerd-root", Usage: "containerd's root `DIR`", Value: "/var/lib/containerd"},
			&cli.StringFlag{Name: "from", Usage: "the `SNAPSHOTTER` to take over: overlayfs or native", Value: "overlayfs"},
			&cli.StringFlag{Name: "name", Usage: "the `NAME` of the proxy plugin in containerd's config.toml", Value: "fsmeta"},
		},
		Action: tool.Alone(func(ctx context.Context, c *cli.Command) error {
			o := migrate.Options{ContainerdRoot: c.String("containerd-root"), From: c.String("from"), Root: c.String("root"), Name: c.String("name")}
			if o.From == "overlayfs" { // before anything is moved to where nothing can be mounted from
				if err := overlay.CheckRoot(o.Root); err != nil {
					return err
				}
			}
			var bars tool.Progress
			err := migrate.Run(ctx, o, bars.Show)
			bars.Finish()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.Root().Writer, "done: start the daemon with --root %s, then containerd with the proxy plugin %q as its snapshotter.\n"+
				"The way back, while nothing that matters was made since; with both stopped, and no container left running:\n\n%s",
				o.Root, o.Name, migrate.WayBack(o))
			return err
		}),
	}
}
