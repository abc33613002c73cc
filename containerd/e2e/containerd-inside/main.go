//go:build linux

// Command containerd-inside is containerd's own program with fsmeta's snapshotter in it, as a
// distribution of containerd would build it, for the end-to-end tests.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd/command"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"
	_ "github.com/fsmeta/fsmeta/containerd/plugin"
)

func main() {
	if err := command.App().Run(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-inside:", err)
		os.Exit(1)
	}
}
