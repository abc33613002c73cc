//go:build linux

package e2e

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// record is what the files of a store say of a snapshot.
type record struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Kind     string            `json:"kind"`
	Readonly bool              `json:"readonly"`
	Labels   map[string]string `json:"labels"`
	Parent   string            `json:"parent"` // in a line; of the tree, where the symlink goes
	Usage    struct {
		Inodes int64 `json:"inodes"`
		Size   int64 `json:"size"`
	} `json:"usage"`
}

// readTree returns what ls, cat, readlink and jq say of the directories in a store, by
// name.
func readTree(t testing.TB, store string) map[string]record {
	t.Helper()
	records := map[string]record{}
	for name := range strings.Lines(shell(t, store, "ls -A snapshots")) {
		dir := filepath.Join("snapshots", strings.TrimSuffix(name, "\n"))
		var r record
		must(t, json.Unmarshal([]byte(shell(t, store, "cat -- "+quote(dir+"/metadata.json"))), &r))
		if want := entryName(t, dir); r.Name != want {
			t.Errorf("%s has the metadata of %q", dir, r.Name)
		}
		if _, err := os.Lstat(filepath.Join(store, dir, "parent")); err == nil {
			r.Parent = entryName(t, strings.TrimSpace(shell(t, store, "readlink -- "+quote(dir+"/parent"))))
		}
		line := strings.TrimSuffix(shell(t, store, "jq -r '[.id, .kind, .name] | @tsv' "+quote(dir+"/metadata.json")), "\n")
		if want := strings.Join([]string{r.ID, r.Kind, r.Name}, "\t"); line != want {
			t.Errorf("jq says %q of what cat says %q", line, want)
		}
		records[r.Name] = r
	}
	return records
}

// readJournal returns what the journal says last of each name that it decides: nil where
// there is no such snapshot any more.
func readJournal(t testing.TB, store string) map[string]*record {
	t.Helper()
	records := map[string]*record{}
	lines := shell(t, store, `tr '\0' '\n' <journal | grep . | jq -c '.changes[]?'`)
	for line := range strings.Lines(lines) {
		var change struct {
			Name  string  `json:"name"`
			After *record `json:"after"`
		}
		must(t, json.Unmarshal([]byte(line), &change))
		if change.After != nil {
			change.After.Name = change.Name
		}
		records[change.Name] = change.After
	}
	return records
}

// readLive returns what a store says that may be in use: for a name that a line of the
// journal names, the journal decides, for every other name the tree.
func readLive(t testing.TB, store string) map[string]record {
	t.Helper()
	records := readTree(t, store)
	for name, r := range readJournal(t, store) {
		delete(records, name)
		if r != nil {
			records[name] = *r
		}
	}
	return records
}

// entryName returns the name that a path is the entry of.
func entryName(t testing.TB, path string) string {
	t.Helper()
	name, err := url.PathUnescape(filepath.Base(path))
	must(t, err)
	return name
}

// shell runs a command in a directory and returns what it prints.
func shell(t testing.TB, dir, command string) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", command)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return string(output)
}

func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
