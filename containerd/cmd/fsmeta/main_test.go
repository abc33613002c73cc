package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// child is the variable that makes this program something else than a test.
const child = "FSMETA_TEST_CHILD"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(child) {
	case "":
		os.Exit(m.Run())
	case "command": // the command, with the arguments of this program
		main()
	case "writer": // a process that has written, and goes on to have the store open
		err = write(os.Args[1])
	case "churner": // a process that writes all the time
		err = churn(os.Args[1], os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// result is what a command has printed, and its exit status.
type result struct {
	out, errs string
	status    int
}

// terminal is a writer that is taken for a terminal of that width.
type terminal struct {
	bytes.Buffer
	columns int
}

func (t *terminal) Columns() int { return t.columns }

// on runs the command on a terminal of so many columns; 0 is none.
func on(t *testing.T, columns int, arguments ...string) (r result) {
	t.Helper()
	out, errs := &terminal{columns: columns}, &terminal{columns: columns}
	c := command()
	c.Writer, c.ErrWriter = out, errs
	r.status = tool.Report(errs, "fsmeta", c.Run(t.Context(), append([]string{"fsmeta"}, arguments...)))
	r.out, r.errs = out.String(), errs.String()
	return r
}

// run runs the command and returns what it prints, and whether it has findings. Any other
// error fails the test.
func run(t *testing.T, arguments ...string) (out string, findings bool) {
	t.Helper()
	r := on(t, 0, arguments...)
	if r.status > 1 {
		t.Fatalf("fsmeta %q: %s\n%s", arguments, r.errs, r.out)
	}
	return r.out, r.status == 1
}

// lossy makes a store with the snapshots a and b, and loses the directory of b.
func lossy(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	s, err := fsmeta.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = s.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, a := s.CreateActive(ctx, "a", "", false)
		_, b := s.CreateActive(ctx, "b", "", false)
		return errors.Join(a, b)
	})
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "snapshots", "b")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A repair gives lost snapshots up only where it is told to.
func TestRepairAcceptTree(t *testing.T) {
	dir := lossy(t)
	const missing = "1 of 2 snapshots is missing"
	for _, arguments := range [][]string{{"check", dir}, {"repair", dir}, {"check", dir}} {
		if out, wrong := run(t, arguments...); !wrong || !strings.Contains(out, missing) || !strings.Contains(out, "--accept-tree") {
			t.Errorf("fsmeta %q: findings: %v\n%s", arguments, wrong, out)
		}
	}
	if out, wrong := run(t, "repair", "--accept-tree", dir); wrong || !strings.Contains(out, "recorded as the truth") {
		t.Errorf("with --accept-tree: findings: %v\n%s", wrong, out)
	}
	if out, wrong := run(t, "check", dir); wrong || strings.Contains(out, "missing") {
		t.Errorf("after that: findings: %v\n%s", wrong, out)
	}
}

// The lines of JSON of check, repair and backup have everything as members, and nothing else
// is printed.
func TestJSON(t *testing.T) {
	dir := lossy(t)
	for _, test := range []struct {
		arguments []string
		members   map[string]any // some of those of the last line
	}{
		{[]string{"check", "--json", dir}, map[string]any{"path": filepath.Join(dir, "snapshots"), "name": "", "problem": "1 of 2 snapshots is missing", "harmless": false, "repaired": "", "aside": ""}},
		{[]string{"backup", "--json", dir, dir + ".copy"}, nil}, // fails: snapshots are missing
		{[]string{"repair", "--json", "--accept-tree", dir}, map[string]any{"advice": "", "repaired": "the 1 that are there were recorded as the truth", "harmless": false}},
		{[]string{"check", "--json", dir}, nil},
		{[]string{"backup", "--json", dir, dir + ".copy"}, map[string]any{"store": dir, "backup": dir + ".copy", "snapshots": 1.0}},
	} {
		r := on(t, 0, test.arguments...)
		lines := strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
		last := map[string]any{}
		for _, line := range lines {
			if line == "" && test.members == nil {
				continue
			}
			if err := json.Unmarshal([]byte(line), &last); err != nil {
				t.Errorf("fsmeta %q prints %q: %v", test.arguments, line, err)
			}
		}
		for key, want := range test.members {
			if got, ok := last[key]; !ok || got != want {
				t.Errorf("fsmeta %q: %s is %v, want %v", test.arguments, key, got, want)
			}
		}
	}
}
