package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

// completeNames prints what can follow the store in the arguments of show: names, or with
// --id the identifiers. Names with characters that the scripts of shells divide words at are
// left out, as those with a colon are, which stands before a description there.
func completeNames(ctx context.Context, c *cli.Command) {
	last := ""
	if n := c.Args().Len(); n > 0 {
		last = c.Args().Get(n - 1)
	}
	if c.Args().Len() != 1 || strings.HasPrefix(last, "-") {
		cli.DefaultCompleteWithFlags(ctx, c)
		return
	}
	in, err := fsmeta.Inspect(c.Args().First())
	if err != nil {
		return // there is nothing to suggest
	}
	defer in.Close() //nolint:errcheck // it was only read
	for s, err := range in.All(ctx) {
		switch {
		case err != nil || s.Name == "":
		case c.Bool("id"):
			fmt.Fprintf(c.Root().Writer, "%s:%s\n", s.ID, tool.Escape(s.Name))
		case !strings.ContainsAny(tool.Escape(s.Name), ": \\\"'`$&;|<>()*?[]{}!#~"):
			fmt.Fprintln(c.Root().Writer, s.Name)
		}
	}
}
