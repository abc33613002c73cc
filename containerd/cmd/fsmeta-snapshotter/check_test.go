//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/overlay"
)

// run runs the command and returns what it prints, and whether it has findings. Any other
// error fails the test.
func run(t *testing.T, arguments ...string) (out string, findings bool) {
	t.Helper()
	var b bytes.Buffer
	c := command()
	c.Writer = &b
	err := c.Run(t.Context(), append([]string{"fsmeta-snapshotter"}, arguments...))
	if err != nil && !errors.Is(err, tool.ErrFindings) {
		t.Fatalf("fsmeta-snapshotter %q: %v\n%s", arguments, err, &b)
	}
	return b.String(), err != nil
}

// A repair gives lost snapshots up only where it is told to, and then their content belongs
// to none.
func TestRepairAcceptTree(t *testing.T) {
	root := t.TempDir()
	sn, err := native.NewSnapshotter(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b"} {
		if _, err := sn.Prepare(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "meta", "snapshots", "b")); err != nil {
		t.Fatal(err)
	}
	const missing = "1 of 2 snapshots is missing"
	for _, command := range []string{"check", "repair", "check"} {
		if out, wrong := run(t, "--root", root, command); !wrong || !strings.Contains(out, missing) {
			t.Errorf("%s: findings: %v\n%s", command, wrong, out)
		}
	}
	out, wrong := run(t, "--root", root, "repair", "--accept-tree")
	if wrong || !strings.Contains(out, "recorded as the truth") || !strings.Contains(out, "1 directories belong to no snapshot") {
		t.Errorf("with --accept-tree: findings: %v\n%s", wrong, out)
	}
	if out, wrong := run(t, "--root", root, "check"); wrong || strings.Contains(out, "missing") {
		t.Errorf("after that: findings: %v\n%s", wrong, out)
	}
}

// With --json, checks and repairs print nothing but findings, those of the content too.
func TestCheckJSON(t *testing.T) {
	root := t.TempDir()
	sn, err := native.NewSnapshotter(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Prepare(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "snapshots", "1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "snapshots", "new-4711"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"check", "repair"} {
		out, wrong := run(t, "--root", root, command, "--json")
		var found []string
		for line := range strings.Lines(out) {
			var f struct {
				Path, Name, Problem, Meaning, Advice string
				Harmless                             bool
			}
			if err := json.Unmarshal([]byte(line), &f); err != nil || f.Meaning == "" || f.Advice == "" {
				t.Errorf("%s prints %q: %v", command, line, err)
			}
			found = append(found, fmt.Sprint(strings.TrimPrefix(f.Path, root), " ", f.Name, " ", f.Problem, " ", f.Harmless))
		}
		want := "/snapshots/1 a its content is missing false|/snapshots  1 directories belong to no snapshot true"
		if got := strings.Join(found, "|"); !wrong || got != want {
			t.Errorf("%s: findings %v, %s", command, wrong, got)
		}
	}
	copied := filepath.Join(t.TempDir(), "copy")
	out, _ := run(t, "--root", root, "backup", "--json", copied)
	if want := fmt.Sprintf(`{"store":%q,"backup":%q,"snapshots":1}`+"\n", filepath.Join(root, "meta"), copied); out != want {
		t.Errorf("backup prints %s, want %s", out, want)
	}
}

// The manual page has every command and flag, and each shell has its completion.
func TestDocument(t *testing.T) {
	page, _ := run(t, "man")
	plain := strings.ReplaceAll(page, `\-`, "-")
	for _, want := range []string{".TH fsmeta-snapshotter 8", "fsmeta-snapshotter backup [OPTIONS] DIR", "Example: fsmeta-snapshotter man", "--remap-ids", "--containerd-root", "Exit status: 0"} {
		if !strings.Contains(plain, want) {
			t.Errorf("the manual page lacks %q", want)
		}
	}
	for _, c := range command().Commands {
		if !strings.Contains(plain, c.Usage) || c.Description == "" {
			t.Errorf("the manual page, or --help, lacks something of %s", c.Name)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "pwsh"} {
		if out, _ := run(t, "completion", shell); out == "" {
			t.Errorf("there is none for %s", shell)
		}
	}
}

// A check names what is mounted below the content, and content that has to get its name back; it
// says which content is kept because of damage.
func TestCheckOfContent(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	root := filepath.Join(t.TempDir(), "root")
	sn, err := native.NewSnapshotter(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b", "c"} {
		if _, err := sn.Prepare(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	content := filepath.Join(root, "snapshots")
	mounted := filepath.Join(content, "1", "mounted")
	if err := errors.Join(os.Rename(content+"/2", content+"/rm-2"), os.Mkdir(content+"/4711", 0o700), os.Mkdir(content+"/rm-4712", 0o700),
		os.WriteFile(filepath.Join(root, "meta", "snapshots", "c", "metadata.json"), nil, 0o600),
		os.Mkdir(mounted, 0o700), syscall.Mount(t.TempDir(), mounted, "", syscall.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mounted, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	out, _ := run(t, "--root", root, "check")
	for _, want := range []string{mounted + ": something is mounted there", "its content is in rm-2", content + "/4711: it belongs to no snapshot", content + "/3: it belongs to no snapshot", "1 directories belong to no snapshot"} {
		if !strings.Contains(out, want) {
			t.Errorf("the check does not say %q:\n%s", want, out)
		}
	}
}

// A crash can take the directory of an active snapshot: that is no more than a note, since the next start makes it anew. It is a
// finding where the daemon was stopped in order, and where it is a layer's.
func TestCheckOfLostDirectory(t *testing.T) {
	for name, c := range map[string]struct {
		stopped, layer, wrong bool
	}{
		"active":              {false, false, false},
		"active after a stop": {true, false, true},
		"layer":               {false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			sn, err := overlay.NewSnapshotter(root)
			must(t, err)
			_, err = sn.Prepare(t.Context(), "key", "")
			must(t, err)
			if c.layer {
				must(t, sn.Commit(t.Context(), "name", "key"))
			}
			if c.stopped {
				must(t, sn.Close())
			} else {
				defer sn.Close() //nolint:errcheck // what it has lost it can't bring to the disk
			}
			must(t, os.RemoveAll(filepath.Join(root, "snapshots", "1")))
			out, wrong := run(t, "--root", root, "check")
			if wrong != c.wrong || !strings.Contains(out, "content is missing") || strings.Contains(out, "makes it anew") == c.wrong {
				t.Errorf("findings: %v, want %v:\n%s", wrong, c.wrong, out)
			}
		})
	}
}
