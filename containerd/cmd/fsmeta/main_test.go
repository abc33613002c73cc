package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// run runs the command and returns what it prints, and whether it has findings. Any other
// error fails the test.
func run(t *testing.T, arguments ...string) (out string, findings bool) {
	t.Helper()
	var b bytes.Buffer
	c := command()
	c.Writer = &b
	err := c.Run(t.Context(), append([]string{"fsmeta"}, arguments...))
	if err != nil && !errors.Is(err, tool.ErrFindings) {
		t.Fatalf("fsmeta %q: %v\n%s", arguments, err, &b)
	}
	return b.String(), err != nil
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
	const missing = "1 of 2 snapshots are missing"
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
