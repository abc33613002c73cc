package tool

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli-docs/v3"
	"github.com/urfave/cli/v3"
)

// Document gives a program the commands guide, man and completion.
func Document(program *cli.Command) *cli.Command {
	program.Commands = append(program.Commands, guide(program.Name), man(program.Name))
	program.Description += " What messages call " + guideFile + " is printed by " + program.Name + " guide."
	for _, c := range program.Commands {
		c.UsageText = usageOf(program.Name, c)
		c.OnUsageError = refuse
	}
	program.OnUsageError = refuse
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
	text := []string{c.Usage, "\t" + usageOf(program, c)}
	for paragraph := range strings.SplitSeq(c.Description, "\n\n") {
		text = append(text, strings.Replace(paragraph, "   ", "\t", 1))
	}
	c.Usage = strings.Join(text, "\n\n")
	c.Commands = nil // the command help of each
}

// usageOf returns how a command is called.
func usageOf(program string, c *cli.Command) string {
	usage := []string{program, c.Name}
	if len(c.VisibleFlags()) > 0 {
		usage = append(usage, "[OPTIONS]")
	}
	for _, argument := range c.Arguments {
		usage = append(usage, strings.TrimSpace(argument.Usage()))
	}
	return strings.Join(usage, " ")
}

// refuse says in a line what is wrong with how a command was called.
func refuse(_ context.Context, c *cli.Command, err error, _ bool) error {
	return fmt.Errorf("%w: see %s --help", err, c.FullName())
}
