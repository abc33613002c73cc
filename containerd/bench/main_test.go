//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	beChild() // the tests' program is its own child, too
	os.Exit(m.Run())
}

// measured is one cell with a time or a ratio, its quartiles included.
var measured = regexp.MustCompile(`^[0-9.]+( (ns|µs|ms|s))? \([0-9.]+–[0-9.]+\)$`)

// A few operations of every kind are measured for real, and their rows are whole.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	svg := filepath.Join(dir, "picture.svg")
	pattern := "^(GetInfo,|create, durable$|create, durable, 4|commit, inside|open and|.*busy writer.*99th|resident|.*second process)"
	var out, progress bytes.Buffer
	if err := run(t.Context(), []string{"-quick", "-dir", dir, "-svg", svg, "-run", pattern}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	want := []string{
		"GetInfo, in an open read transaction", "create, durable", "create, durable, 4 writers at once",
		"commit, inside a long transaction", "open and first GetInfo, new process, 1,100 snapshots",
		"read transaction beside a busy writer, with one GetInfo, 99th percentile",
		"resident memory, 1,100 snapshots: opened", "resident memory, 1,100 snapshots: walked over",
		"resident memory, 1,100 snapshots: more for each snapshot",
		"read transaction with one GetInfo in a second process: after a commit of the first",
		"read transaction with one GetInfo in a second process: when nothing has changed",
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | ")
		if !strings.HasPrefix(line, "| ") || cells[0] == "---" || cells[0] == "operation" || cells[0] == "what" {
			continue
		}
		got = append(got, cells[0])
		if len(cells) == 6 {
			for _, cell := range cells[1:4] {
				if !measured.MatchString(cell) {
					t.Errorf("%s: %q is no measurement", cells[0], cell)
				}
			}
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the rows are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "picture.svg" {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestRunRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"matches no operation":        {"-run", "nothing is called that"},
		"error parsing regexp":        {"-run", "("},
		"no filesystem \"fat\"":       {"-images", "ext4,fat"},
		"exclude one another":         {"-images", "ext4", "-dir", "x"},
		"is less than one":            {"-rounds", "-1"},
		"there are no arguments":      {"ext4"},
		"no file can be written":      {"-svg", filepath.Join(t.TempDir(), "no", "picture.svg")},
		"no such file or directory":   {"-run", "^GetInfo", "-dir", filepath.Join(t.TempDir(), "no")},
		"flag provided but not defin": {"-what"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"-quick"}, args...), &out, new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%q: the error is %v, want %q, and the output %q", args, err, want, &out)
		}
	}
}

func TestRunStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	var out bytes.Buffer
	if err := run(ctx, []string{"-quick", "-dir", dir}, &out, new(bytes.Buffer)); !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("the error is %v and the output %q", err, &out)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// Names must differ from one another within a store, whatever they are for.
func TestContent(t *testing.T) {
	seen := map[string]bool{}
	s := subject{size: 1100}
	for i := range s.size {
		seen[nameOf(i)] = true
		if parent := parentOf(i); parent != "" && (isContainer(i-1) || parent != nameOf(i-1)) {
			t.Errorf("snapshot %d stands on %s", i, parent)
		}
	}
	for _, it := range append(s.items(50), s.items(50)...) {
		if !seen[it.parent] || !seen[it.filled] || strings.HasPrefix(it.parent, "default/") {
			t.Errorf("%+v is about snapshots that are not there", it)
		}
		seen[it.key], seen[it.committed] = true, true
	}
	if want := 1100 + 2*100; len(seen) != want {
		t.Errorf("there are %d names, want %d", len(seen), want)
	}
}

func TestParseMemory(t *testing.T) {
	got, err := parseMemory("Name:\tx\nVmRSS:\t    12 kB\nRssAnon:\t     8 kB\nRssFile:\t     4 kB\n")
	if want := (memory{12 << 10, 8 << 10, 4 << 10}); got != want || err != nil {
		t.Errorf("parseMemory = %v, %v, want %v", got, err, want)
	}
	if _, err := parseMemory("Name:\tx\nVmRSS:\t12 kB\n"); err == nil {
		t.Error("a status without RssAnon was accepted")
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %s, want %s", n, got, want)
		}
	}
}
