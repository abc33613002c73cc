//go:build linux

// Command fsmeta-snapshotter serves a snapshotter to containerd, as a proxy plugin over a
// unix socket, and keeps its metadata in an fsmeta store. Run it with --help; the README of
// this module shows how to configure it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/urfave/cli/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().Run(ctx, os.Args)
	stop()
	tool.Exit("fsmeta-snapshotter", err)
}

func command() *cli.Command {
	return tool.Document(&cli.Command{
		Name:  "fsmeta-snapshotter",
		Usage: "serve a snapshotter to containerd, with metadata in plain files",
		Description: "Without a command it serves until it is stopped. To look at the metadata, use fsmeta on the directory meta below --root.\n\n" +
			"Completion for bash: source <(fsmeta-snapshotter completion bash); zsh, fish and pwsh likewise.",
		Version: tool.Version(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Usage: "the `DIR` with the snapshots and their metadata", Value: "/var/lib/fsmeta-snapshotter"},
			&cli.StringFlag{Name: "address", Usage: "the unix `SOCKET` to listen on", Value: "/run/fsmeta-snapshotter/snapshotter.sock"},
			&cli.StringFlag{Name: "snapshotter", Usage: "which `KIND`: overlay, native (copies), or auto, which is what the root directory has already, else overlay, and native where overlayfs is not supported", Value: "auto"},
			&cli.BoolFlag{Name: "no-sync", Usage: "don't wait until content is on disk: faster, and after a power cut recent snapshots may lack content"},
			&cli.BoolFlag{Name: "remap-ids", Usage: "mount with the mapping of users that a container has (Linux 5.19): together with the capability remap-ids in containerd's config.toml"},
			&cli.StringFlag{Name: "metrics-address", Usage: "serve metrics for Prometheus and Go's profiles on this `ADDRESS`, HOST:PORT or unix:PATH, without a password: keep it local"},
			&cli.StringFlag{Name: "log-format", Usage: "log in this `FORMAT`: text or json", Value: string(log.TextFormat)},
			&cli.StringFlag{Name: "log-level", Usage: "log from this `LEVEL` on: trace, debug, info, warn, error", Value: "info"},
		},
		Before: func(ctx context.Context, c *cli.Command) (context.Context, error) {
			if err := log.SetLevel(c.String("log-level")); err != nil {
				return ctx, fmt.Errorf("--log-level: %w: choose trace, debug, info, warn or error", err)
			}
			if err := log.SetFormat(log.OutputFormat(c.String("log-format"))); err != nil {
				return ctx, fmt.Errorf("--log-format: %w: choose text or json", err)
			}
			return ctx, nil
		},
		Action: tool.Alone(func(ctx context.Context, c *cli.Command) error {
			err := serve(ctx, serveOptions{
				root: c.String("root"), address: c.String("address"), metricsAddress: c.String("metrics-address"),
				kind: c.String("snapshotter"), unsynced: c.Bool("no-sync"), remapIDs: c.Bool("remap-ids"),
			})
			if err != nil {
				log.L.Error(err)
				return tool.ErrLogged
			}
			return nil
		}),
		Commands: []*cli.Command{importCommand(), checkCommand(), repairCommand(), backupCommand(), tool.VersionCommand()},
		// So that --help of a command and errors end the same way everywhere.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
	})
}
