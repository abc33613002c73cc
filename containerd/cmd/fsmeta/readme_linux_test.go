package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	readme       = "../../../README.md" // go test does not see when it changes: with -count=1 it runs all the same
	readmeSpan   = "## A look at a store"
	readmeWidth  = 100                          // columns of the terminal on which its commands run
	readmeStore  = "/root/.cache/fsmeta-driver" // where the README has the driver's store
	endOfCommand = "\x1e"                       // is printed behind what a command prints, with its exit status
	codeIndent   = "    "                       // of a command and its output
	prompt       = codeIndent + "$ "            // of a command
)

// varying is what is another in each store of the driver, and what stands for it.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`sha256:[0-9a-f]+(…[0-9a-f]*)?`), "DIGEST"},
	{regexp.MustCompile(`(container|import)-\d+(…\d*)?`), "$1-NUMBER"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`"crc32c": "[0-9a-f]{8}"`), "CHECKSUM"},
	{regexp.MustCompile(`\b\d+(\.\d+)?([KM]i)?B\b`), "SIZE"},
	{regexp.MustCompile(`\b\d+[smhd]\b`), "AGE"},
	{regexp.MustCompile(`process \d+`), "process NUMBER"},
	{regexp.MustCompile(`\n +processes outside of this PID namespace can't be seen`), ""},
	{regexp.MustCompile(`(lock of writers +)(none|process.*)`), "${1}WRITER"}, // it is kept for a moment
	{regexp.MustCompile(`  +`), "  "},                                         // columns are as wide as what is in them
}

// shape returns an output without what varies.
func shape(output string) string {
	for _, v := range varying {
		output = v.pattern.ReplaceAllString(output, v.with)
	}
	return output
}

// Every command in the README's look at a store prints what stands below it, but for what is another in
// each store. With -update, what it prints is written there where that is more than what varies.
func TestReadme(t *testing.T) {
	want(t, "bash")
	want(t, "jq")
	data, err := os.ReadFile(readme)
	succeed(t, err)
	before, rest, found := strings.Cut(string(data), readmeSpan+"\n")
	section, after, ended := strings.Cut(rest, "\n## ")
	commands := commandsIn(section)
	if !found || !ended || len(commands) == 0 {
		t.Fatalf("%s has no commands in %q", readme, readmeSpan)
	}
	outputs, shown := inDriverStore(t, commands), outputsIn(section)
	if *update {
		for i, output := range shown {
			if shape(outputs[i]) == shape(output) {
				outputs[i] = output
			}
		}
		succeed(t, os.WriteFile(readme, []byte(before+readmeSpan+"\n"+withOutputs(section, outputs)+"\n## "+after), 0o666))
		return
	}
	for i, command := range commands {
		if got, want := shape(outputs[i]), shape(shown[i]); got != want || got == "" {
			t.Errorf("%s\nprints\n%s\nand %s has\n%s\n(go test ./fsmeta -run TestReadme -update writes what it prints)", command, outputs[i], readme, shown[i])
		}
	}
}

// want skips a test where a program is missing, or fails it where FSMETA_E2E=1 asks for everything.
func want(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	switch {
	case err == nil:
	case os.Getenv("FSMETA_E2E") == "1":
		t.Fatalf("it needs %s: %v", program, err)
	default:
		t.Skipf("it needs %s: %v", program, err)
	}
}

// commandsIn returns the commands of a section.
func commandsIn(section string) (commands []string) {
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, prompt); ok {
			commands = append(commands, strings.TrimSuffix(command, "\n"))
		}
	}
	return commands
}

// outputsIn returns what stands below each command of a section.
func outputsIn(section string) (outputs []string) {
	inside := false
	for line := range strings.Lines(section) {
		output, indented := strings.CutPrefix(line, codeIndent)
		switch {
		case strings.HasPrefix(line, prompt):
			outputs, inside = append(outputs, ""), true
		case inside && (indented || line == "\n"):
			outputs[len(outputs)-1] += output
		default:
			inside = false
		}
	}
	for i := range outputs {
		outputs[i] = strings.TrimRight(outputs[i], "\n")
	}
	return outputs
}

// withOutputs returns a section with other outputs below its commands.
func withOutputs(section string, outputs []string) string {
	var b strings.Builder
	inside, blank := false, ""
	for line := range strings.Lines(section) {
		switch {
		case strings.HasPrefix(line, prompt):
			b.WriteString(line)
			for out := range strings.Lines(outputs[0] + "\n") {
				if out != "\n" {
					b.WriteString(codeIndent)
				}
				b.WriteString(out)
			}
			outputs, inside, blank = outputs[1:], true, ""
		case inside && line == "\n":
			blank = line // it ends the commands, or belongs to an output
		case inside && strings.HasPrefix(line, codeIndent):
			blank = ""
		default:
			b.WriteString(blank + line)
			inside, blank = false, ""
		}
	}
	return b.String() + blank
}

// inDriverStore runs commands, one after the other, in the directory of the example driver's store while
// that is open, and returns what each prints on a terminal.
func inDriverStore(t *testing.T, commands []string) (outputs []string) {
	t.Helper()
	tmp := t.TempDir()
	store, bin := filepath.Join(tmp, "store"), filepath.Join(tmp, "bin")
	succeed(t, os.Mkdir(bin, 0o777))
	self, err := os.Executable()
	succeed(t, err, os.WriteFile(filepath.Join(bin, "fsmeta"), fmt.Appendf(nil, "#!/bin/sh\n%s=command exec '%s' \"$@\"\n", child, self), 0o777))
	runDriver(t, bin, store)

	script := "cd '" + store + "'\n"
	for _, command := range commands {
		script += command + "\nprintf '" + endOfCommand + "%d\\n' $?\n"
	}
	text := strings.ReplaceAll(onTerminal(t, bin, script), store, readmeStore)
	parts := strings.Split(text, endOfCommand)
	if len(parts) != len(commands)+1 {
		t.Fatalf("of %d commands %d ended:\n%s", len(commands), len(parts)-1, text)
	}
	for i, command := range commands {
		if i > 0 {
			_, parts[i], _ = strings.Cut(parts[i], "\n") // behind the status of the one before
		}
		if status, _, _ := strings.Cut(parts[i+1], "\n"); status != "0" {
			t.Errorf("%s\nends with exit status %s:\n%s", command, status, parts[i])
		}
		var lines []string
		for line := range strings.Lines(parts[i]) {
			lines = append(lines, strings.TrimRight(line, " \n"))
		}
		outputs = append(outputs, strings.Trim(strings.Join(lines, "\n"), "\n"))
	}
	return outputs
}

// runDriver lets the example driver import the folders of this repository. It keeps its store open until
// the end of the test.
func runDriver(t *testing.T, bin, store string) {
	t.Helper()
	root, err := filepath.Abs("../../..")
	succeed(t, err)
	build := exec.Command("go", "build", "-o", bin, "./examples/driver")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	driver := exec.Command(filepath.Join(bin, "driver"), "-store", store, "-wait")
	driver.Dir, driver.Stderr = root, os.Stderr
	in, err := driver.StdinPipe()
	succeed(t, err)
	out, err := driver.StdoutPipe()
	succeed(t, err, driver.Start())
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), driver.Wait()); err != nil {
			t.Errorf("%s: %v", driver, err)
		}
	})
	var printed bytes.Buffer
	for part := make([]byte, 4096); !bytes.Contains(printed.Bytes(), []byte("stays open")); {
		n, err := out.Read(part)
		printed.Write(part[:n])
		if err != nil {
			t.Fatalf("%s: %v\n%s", driver, err, &printed)
		}
	}
}

// onTerminal returns what a script prints on a terminal, with the programs of a directory.
func onTerminal(t *testing.T, bin, script string) string {
	t.Helper()
	master, slave := pseudoterminal(t, readmeWidth)
	cmd := exec.Command("bash", "-c", script)
	cmd.Stdout, cmd.Stderr = slave, slave
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8", "NO_COLOR=1", "TERM=dumb")
	succeed(t, cmd.Start(), slave.Close())
	out, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) { // which says that the other end is closed
		t.Error(err)
	}
	succeed(t, cmd.Wait())
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}
