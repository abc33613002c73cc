package tool

import (
	"context"
	"fmt"

	"github.com/urfave/cli-docs/v3"
	"github.com/urfave/cli/v3"
)

// Man is a command that prints the manual page of the program.
func Man() *cli.Command {
	return &cli.Command{
		Name:  "man",
		Usage: "print the manual page, for man(1)",
		Description: "Example:\n\n   fsmeta man | man -l -\n" +
			"   fsmeta man >/usr/local/share/man/man8/fsmeta.8",
		Action: Alone(func(_ context.Context, c *cli.Command) error {
			page, err := docs.ToManWithSection(c.Root(), 8)
			if err == nil {
				_, err = fmt.Fprint(c.Root().Writer, page)
			}
			return err
		}),
	}
}
