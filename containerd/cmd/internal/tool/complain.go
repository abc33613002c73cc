package tool

import (
	"errors"
	"io"
	"os"
	"strings"
)

// Complain prints a line for a person on standard error, which w is, with the program's name
// before it. On a terminal it is wrapped.
func Complain(w io.Writer, program, line string) {
	_ = wrapped(w, ScreenOf(w), program+": ", "  ", line) // where standard error fails, nothing can be said
}

// wrapped prints a text behind first, on a terminal as several lines, of which all but the first are
// behind more.
func wrapped(w io.Writer, s Screen, first, more, text string) error {
	room := 0
	if s.Width > 0 {
		room = max(s.Width-max(Width(first), Width(more)), 1)
	}
	var b strings.Builder
	for _, line := range Wrap(text, room) {
		b.WriteString(first + line + "\n")
		first = more
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Report says on standard error, which w is, what became of a command, if err says that it failed.
// It returns the exit status.
func Report(w io.Writer, program string, err error) (status int) {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrFindings):
		return exitFindings
	case errors.Is(err, ErrLogged):
		return exitFailed
	}
	text := strings.TrimPrefix(err.Error(), program+": ")
	for line := range strings.SplitSeq(text, "\n") { // of errors that were joined
		Complain(w, program, Visible(line))
	}
	if line := guided(program, text); line != "" {
		Complain(w, program, line)
	}
	return exitFailed
}

// Exit ends the program as err says, which is what became of the command.
func Exit(program string, err error) {
	if status := Report(os.Stderr, program, err); status != 0 {
		os.Exit(status)
	}
}
