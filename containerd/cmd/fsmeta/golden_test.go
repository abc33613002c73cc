package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what the commands print to testdata/")

// ageless makes the clock of commands go so far ahead that all ages are 36h, and
// the locale one of UTF-8 without colours. All processes can be seen.
func ageless(t *testing.T) {
	t.Helper()
	clock = func() time.Time { return time.Now().Add(36*time.Hour + time.Minute) }
	before := unseen
	unseen = func() bool { return false }
	t.Cleanup(func() { clock, unseen = time.Now, before })
	t.Setenv("LC_ALL", "C.UTF-8")
	t.Setenv("NO_COLOR", "1")
}

var normal = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`), "2026-01-02 03:04:05Z"},
	{regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"`), `"2026-01-02T03:04:05Z"`},
	{regexp.MustCompile(`process \d+ \(\S+\)`), "process 42 (fsmeta.test)"},
	{regexp.MustCompile(`(lock of writers +)process 42 .*`), "${1}none"}, // a writer keeps it for a moment, see TestInfoWriter
	{regexp.MustCompile(`"writer":\[[^]]+\]`), `"writer":[]`},
	{regexp.MustCompile(`"pid":\d+,"command":"[^"]+"`), `"pid":42,"command":"fsmeta.test"`},
	{regexp.MustCompile(`(journal +)[\d.]+[KM]iB`), "${1}16KiB"},
	{regexp.MustCompile(`"size":\d+,"lines"`), `"size":16384,"lines"`},
}

// transcript returns what commands print, with everything made equal that is another at
// another time and place.
func transcript(t *testing.T, columns int, dir string, commands ...string) string {
	t.Helper()
	var b strings.Builder
	for _, command := range commands {
		arguments := strings.Fields(strings.ReplaceAll(command, "STORE", dir))
		r := on(t, columns, arguments...)
		fmt.Fprintf(&b, "$ fsmeta %s\n%s", command, r.out)
		for line := range strings.Lines(r.errs) {
			b.WriteString("stderr: " + line)
		}
		if r.status != 0 {
			fmt.Fprintf(&b, "exit status %d\n", r.status)
		}
		if strings.Contains(command, "--json") {
			wantLines(t, command, r.out)
		}
	}
	text := strings.ReplaceAll(b.String(), dir, "STORE")
	for _, n := range normal {
		text = n.pattern.ReplaceAllString(text, n.with)
	}
	return text
}

// wantLines requires lines of JSON.
func wantLines(t *testing.T, command, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("fsmeta %s prints %q", command, line)
		}
	}
}

// golden compares a text with a file in testdata/.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		succeed(t, os.MkdirAll("testdata", 0o777), os.WriteFile(path, []byte(text), 0o666))
	}
	want, err := os.ReadFile(path)
	succeed(t, err)
	if text != string(want) {
		t.Errorf("it prints\n%s\nwant\n%s", text, want)
	}
}

// all is every command that looks at a store.
var all = []string{
	"info STORE", "ls STORE", "tree STORE", "log STORE", "show STORE web", "show STORE sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5", "show --id STORE 1",
	"show STORE gone", "show --id STORE 4711", "info --json STORE", "ls --json STORE", "log --json STORE", "show --json STORE web", "tree --dot STORE",
	"ls --kind active --label kept STORE", "ls --parent sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5 --label kept=3 STORE", "ls --label a=x=y --kind committed STORE",
}

const web = "snapshots/web/metadata.json"

// Every command says what there is of a store in each state, and changes nothing.
func TestStates(t *testing.T) {
	for _, test := range []struct {
		name     string
		make     func(t testing.TB) string
		change   func(t testing.TB, dir string)
		commands []string
	}{
		{"closed", shut, nil, all},
		{"live", func(t testing.TB) string { dir, _ := live(t); return dir }, nil, all},
		{"killed", killed, nil, all},
		{"tree-behind", killed, removing("snapshots/web"), all},
		{"one-damaged", shut, writing(web, "{"), all},
		{"one-missing", shut, removing("snapshots/web"), all},
		{"parent-missing", shut, removing("snapshots/sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5"), all},
		{"foreign-file", shut, writing("snapshots/%zz\x1b[1m", ""), []string{"ls STORE", "ls --kind active STORE", "tree STORE", "show STORE snapshots/%zz\\x1b[1m", "show STORE nothing"}},
		{"journal-damaged", killed, damaging(`"name":"gone"`), all},
		{"journal-missing", shut, removing("journal"), all},
		{"layout-missing", shut, removing("layout"), all},
		{"snapshots-missing", shut, removing("snapshots"), []string{"ls STORE", "info STORE"}},
		{"nothing", func(t testing.TB) string { return t.TempDir() }, nil, []string{"ls STORE", "info STORE", "show STORE"}},
		{"empty", func(t testing.TB) string { return closed(t) }, nil, []string{"ls STORE", "tree STORE", "log STORE", "info STORE", "ls --json STORE"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ageless(t)
			dir := test.make(t)
			if test.change != nil {
				test.change(t, dir)
			}
			before := contents(t, dir)
			golden(t, test.name, transcript(t, 0, dir, test.commands...))
			if contents(t, dir) != before {
				t.Error("the store has changed")
			}
		})
	}
}

func shut(t testing.TB) string { return closed(t, steps...) }

func removing(path string) func(t testing.TB, dir string) {
	return func(t testing.TB, dir string) { succeed(t, os.RemoveAll(filepath.Join(dir, path))) }
}

func writing(path, text string) func(t testing.TB, dir string) {
	return func(t testing.TB, dir string) {
		succeed(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o666))
	}
}

// damaging changes a byte of the journal.
func damaging(needle string) func(t testing.TB, dir string) {
	return func(t testing.TB, dir string) {
		path := filepath.Join(dir, "journal")
		data, err := os.ReadFile(path)
		succeed(t, err)
		at := bytes.Index(data, []byte(needle))
		if at < 0 {
			t.Fatalf("the journal has no %s", needle)
		}
		data[at] ^= 1
		succeed(t, os.WriteFile(path, data, 0o666))
	}
}

// contents returns everything in a directory as a text.
func contents(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %v\n", path, info.Mode(), info.ModTime())
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			b.Write(data)
			return err
		}
		return nil
	})
	succeed(t, err)
	return b.String()
}
