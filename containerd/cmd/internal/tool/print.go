package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

// Printer prints results: as text for a person, or as lines of JSON for a program.
type Printer struct {
	Out     io.Writer
	JSON    bool
	program string // its name
}

// PrinterOf returns the printer that a command's flags ask for.
func PrinterOf(c *cli.Command) Printer {
	return Printer{c.Root().Writer, c.Bool(jsonFlag), c.Root().Name}
}

// JSON is the flag that asks for lines of JSON. what says what a line is.
func JSON(what string) cli.Flag {
	return &cli.BoolFlag{Name: jsonFlag, Usage: "print " + what + " as a line of JSON"}
}

const jsonFlag = "json"

// Say prints a line for a person, and nothing for a program.
func (p Printer) Say(format string, a ...any) error {
	if p.JSON {
		return nil
	}
	return wrapped(p.Out, ScreenOf(p.Out), "", "  ", fmt.Sprintf(format, a...))
}

// Findings prints findings: on a terminal each as a block, else as a line, which has "note: " before
// it where it is harmless. It returns how much is wrong.
func (p Printer) Findings(findings ...fsmeta.Finding) (wrong int, err error) {
	screen, how := ScreenOf(p.Out), ""
	for _, f := range findings {
		kind := kindOf(f)
		if kind == isWrong || kind == isAside {
			wrong++
		}
		switch text := Visible(f.String()); {
		case p.JSON:
			err = NewEncoder(p.Out).Encode(finding{kind, f.Path, f.Name, f.Problem, f.Meaning, f.Advice, f.Harmless, f.Repaired, f.Aside})
		case screen.Width > 0:
			err = p.block(screen, kind, f)
		case kind == isNote:
			_, err = fmt.Fprintf(p.Out, "note: %s\n", text)
		default:
			_, err = fmt.Fprintln(p.Out, text)
		}
		if err != nil {
			return 0, err
		}
		if how == "" {
			how = guided(p.program, f.Advice)
		}
	}
	if how != "" {
		err = p.Say("%s", how)
	}
	return wrong, err
}

// Columns before the texts of a block.
const (
	indent = "  "
	labels = len(indent) + len(isRepaired) + len(indent)
)

// block prints a finding for a person at a terminal: the path in a line of its own, so that it can be
// pasted, and below it what is the case, what that means and what to do.
func (p Printer) block(s Screen, kind string, f fsmeta.Finding) error {
	lines := [][2]string{{kind, f.Problem}, {"meaning", f.Meaning}, {"to do", f.Advice}}
	if f.Repaired != "" {
		lines = [][2]string{{"was", f.Problem}, {kind, f.Repaired}}
	}
	if f.Name != "" {
		lines[0][1] = fmt.Sprintf("snapshot %.256q: %s", f.Name, f.Problem)
	}
	_, err := fmt.Fprintln(p.Out, s.Paint(Escape(f.Path), styles[kind]))
	for _, l := range lines {
		err = errors.Join(err, wrapped(p.Out, s, Pad(indent+l[0], labels), strings.Repeat(" ", labels), Visible(l[1])))
	}
	_, lerr := fmt.Fprintln(p.Out)
	return errors.Join(err, lerr)
}

// styles is how the kinds of findings stand out.
var styles = map[string]Style{isWrong: Red, isAside: Red, isNote: Yellow, isRepaired: Green}

// FindingJSON is what the descriptions of commands that print findings say of --json.
const FindingJSON = "With --json a line has kind (wrong, note, repaired, or aside of what a repair has set aside, which is wrong until a person has looked at it), path, " +
	"name (of the snapshot), problem, meaning, advice, harmless, repaired (what was done) and aside (where it is now)."

// Kinds of findings.
const (
	isWrong    = "wrong"
	isNote     = "note"
	isRepaired = "repaired"
	isAside    = "aside" // wrong until a person has looked at it
)

func kindOf(f fsmeta.Finding) string {
	switch {
	case f.Aside != "":
		return isAside
	case f.Repaired != "":
		return isRepaired
	case f.Harmless:
		return isNote
	}
	return isWrong
}

// finding is a fsmeta.Finding as JSON.
type finding struct {
	Kind     string `json:"kind"`
	Path     string `json:"path"`
	Name     string `json:"name"`
	Problem  string `json:"problem"`
	Meaning  string `json:"meaning"`
	Advice   string `json:"advice"`
	Harmless bool   `json:"harmless"`
	Repaired string `json:"repaired"`
	Aside    string `json:"aside"`
}

// NewEncoder writes each value as a line of JSON, with names as they are.
func NewEncoder(out io.Writer) *json.Encoder {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e
}
