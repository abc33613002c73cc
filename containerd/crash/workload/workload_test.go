package workload

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A run that nothing happens to is found in order, and the next one goes on.
func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	h := NewHistory(3)
	for seed := range uint64(3) {
		var log bytes.Buffer
		if err := Run(t.Context(), Config{Dir: dir, Seed: seed, Writers: 3, Txns: 100, Log: &log}); err != nil {
			t.Fatal(err)
		}
		notes, err := ReadLog(&log)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Add(notes); err != nil {
			t.Fatal(err)
		}
		if err := h.Verify(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	if h.Acked != 900 {
		t.Errorf("%d transactions were acknowledged, want 900", h.Acked)
	}
}

// What was acknowledged and is not there is told, and so is an identifier used twice.
func TestVerifySees(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	var log bytes.Buffer
	if err := Run(t.Context(), Config{Dir: dir, Seed: 1, Writers: 1, Txns: 20, Log: &log}); err != nil {
		t.Fatal(err)
	}
	notes, err := ReadLog(&log)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHistory(1)
	if err := h.Add(notes); err != nil {
		t.Fatal(err)
	}
	if err := h.Add(notes); err == nil || !strings.Contains(err.Error(), "handed out before") {
		t.Errorf("the same identifiers twice: %v", err)
	}
	h.acked[0]["0/lost"] = State{ID: "77"}
	if err := h.Judge(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "0/lost") {
		t.Errorf("a snapshot that is lost: %v", err)
	}
}

// A parent link that is missing is told, unless calls on links have failed: then it is
// repaired, and all else that a check finds is told all the same.
func TestVerifyLinks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	var log bytes.Buffer
	if err := Run(t.Context(), Config{Dir: dir, Seed: 1, Writers: 1, Txns: 40, Log: &log}); err != nil {
		t.Fatal(err)
	}
	notes, err := ReadLog(&log)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHistory(1)
	if err := h.Add(notes); err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "parent"))
	if err != nil || len(links) == 0 {
		t.Fatalf("%d snapshots with a parent, %v", len(links), err)
	}
	foreign := filepath.Join(dir, "foreign")
	for _, c := range []struct {
		links, foreign bool
		want           string
	}{{false, false, "the link is missing"}, {true, false, ""}, {true, true, "no part of the store"}} {
		if err := os.RemoveAll(links[0]); err != nil {
			t.Fatal(err)
		}
		if c.foreign {
			if err := os.WriteFile(foreign, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h.Links = c.links
		err := h.Verify(t.Context(), dir)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("links %v, foreign %v: %v, want %q", c.links, c.foreign, err, c.want)
		}
	}
}
