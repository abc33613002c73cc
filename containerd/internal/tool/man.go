package tool

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli-docs/v3"
	"github.com/urfave/cli/v3"
)

// Document gives a program the commands man and completion.
func Document(program *cli.Command) *cli.Command {
	program.Commands = append(program.Commands, man(program.Name))
	program.EnableShellCompletion = true
	program.ConfigureShellCompletionCommand = func(c *cli.Command) { c.Hidden = false }
	return program
}

// man is a command that prints the manual page of the program.
func man(program string) *cli.Command {
	return &cli.Command{
		Name:        "man",
		Usage:       "print the manual page, for man(1)",
		Description: "Example: " + program + " man | man -l -",
		Action: Alone(func(_ context.Context, c *cli.Command) error {
			for _, command := range c.Root().Commands {
				describe(c.Root().Name, command)
			}
			page, err := docs.ToManWithSection(c.Root(), 8)
			if err == nil {
				_, err = fmt.Fprint(c.Root().Writer, page)
			}
			return err
		}),
	}
}

// describe puts what --help says of a command into its usage, which is what manual pages have
// of commands. The program ends after that.
func describe(program string, c *cli.Command) {
	usage := []string{program, c.Name}
	if len(c.VisibleFlags()) > 0 {
		usage = append(usage, "[OPTIONS]")
	}
	for _, argument := range c.Arguments {
		usage = append(usage, strings.TrimSpace(argument.Usage()))
	}
	text := []string{c.Usage, "\t" + strings.Join(usage, " ")}
	for paragraph := range strings.SplitSeq(c.Description, "\n\n") {
		text = append(text, strings.Replace(paragraph, "   ", "\t", 1))
	}
	c.Usage = strings.Join(text, "\n\n")
	c.Commands = nil // the command help of each
}
