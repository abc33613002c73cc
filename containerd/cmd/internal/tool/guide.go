package tool

import (
	"context"
	"fmt"
	"strings"

	"github.com/fsmeta/fsmeta/docs"
	"github.com/urfave/cli/v3"
)

// guideFile is what messages call the document that the command guide prints.
const guideFile = "docs/repair.md"

// guide is a command that prints it.
func guide(program string) *cli.Command {
	return &cli.Command{
		Name:        "guide",
		Usage:       "print " + guideFile + ": how to repair a store, with this program or by hand",
		Description: "Messages refer to it. Example: " + program + " guide | less",
		Action: Alone(func(_ context.Context, c *cli.Command) error {
			_, err := fmt.Fprint(c.Root().Writer, docs.Repair)
			return err
		}),
	}
}

// guided returns how to read the document, where one of the texts refers to it, else "".
func guided(program string, texts ...string) string {
	for _, text := range texts {
		if strings.Contains(text, guideFile) {
			return fmt.Sprintf("%s is printed by: %s guide", guideFile, program)
		}
	}
	return ""
}
