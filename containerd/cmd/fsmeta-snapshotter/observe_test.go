//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/internal/serving"
	"golang.org/x/sys/unix"
)

// entry is a line of the log in JSON.
type entry struct {
	Level, Msg, Method, Key, Name, Parent, Code, Duration, Error, Advice string
}

// entries returns the lines of a log in JSON, all of it, about calls of a method.
func entries(t *testing.T, said, method string) (found []entry) {
	t.Helper()
	for line := range strings.Lines(said) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("this line is not JSON: %v: %s", err, line)
		}
		if e.Method == method {
			found = append(found, e)
		}
	}
	return found
}

// Every call is found in the log, at the level that it deserves; a failed one with its cause.
func TestCallsInTheLog(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	p := startDaemon(t, "--root", filepath.Join(t.TempDir(), "root"), "--address", address, "--snapshotter", "native", "--log-level", "debug", "--log-format", "json").ready()
	sn := client(connect(t, address))
	_, err := sn.Prepare(t.Context(), "key", "")
	must(t, err)
	must(t, sn.Commit(t.Context(), "name", "key"))
	if _, err = sn.Prepare(t.Context(), "second", "none"); err == nil {
		t.Error("a snapshot was made on none")
	}
	if _, err = sn.View(t.Context(), "name", "name"); err == nil {
		t.Error("a snapshot was made twice")
	}
	if _, err = sn.Stat(t.Context(), "none"); err == nil {
		t.Error("what does not exist was found")
	}
	must(t, sn.Remove(t.Context(), "name"))
	p.stop()
	said, _ := p.log()
	for method, want := range map[string][]entry{
		"Prepare": {{Level: "debug", Msg: "done", Key: "key"}, {Level: "warning", Msg: "call failed", Key: "second", Parent: "none", Code: "NotFound"}},
		"Commit":  {{Level: "debug", Msg: "done", Key: "key", Name: "name"}},
		"View":    {{Level: "debug", Msg: "call failed", Key: "name", Parent: "name", Code: "AlreadyExists"}},
		"Stat":    {{Level: "debug", Msg: "call failed", Key: "none", Code: "NotFound"}},
		"Remove":  {{Level: "debug", Msg: "done", Key: "name"}},
	} {
		got := entries(t, said, method)
		if len(got) != len(want) {
			t.Errorf("%d lines are about %s, not %d: %v", len(got), method, len(want), got)
			continue
		}
		for i, e := range got {
			if (e.Error != "") != (e.Code != "") || e.Duration == "" {
				t.Errorf("a line lacks its cause or duration: %+v", e)
			}
			e.Method, e.Error, e.Duration = "", "", ""
			if e != want[i] {
				t.Errorf("%s is logged as %+v, not %+v", method, e, want[i])
			}
		}
	}
}

// A full disk says of what, and what to do.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	for used, options := range map[string]string{"inodes": "size=64m,nr_inodes=300", "room": "size=2m"} {
		t.Run(used, func(t *testing.T) {
			disk, address := t.TempDir(), filepath.Join(t.TempDir(), "sock")
			must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, options))
			t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
			p := startDaemon(t, "--root", filepath.Join(disk, "root"), "--address", address, "--snapshotter", "native", "--log-format", "json").ready()
			sn := client(connect(t, address))
			_, err := sn.Prepare(t.Context(), "before", "")
			must(t, err)
			if used == "room" {
				f, err := os.Create(filepath.Join(disk, "ballast"))
				must(t, err)
				for err == nil {
					_, err = f.Write(bytes.Repeat([]byte("x"), 4096))
				}
				must(t, f.Close())
			}
			for i := 0; err == nil && i < 300; i++ {
				_, err = sn.Prepare(t.Context(), strings.Repeat("k", 1+i), "")
			}
			if err == nil {
				t.Fatal("the disk does not become full")
			}
			if err := sn.Remove(t.Context(), "before"); err != nil {
				t.Errorf("nothing can be removed from a full disk: %v", err)
			}
			p.stop() // no room is no reason to end
			said, _ := p.log()
			failed := entries(t, said, "Prepare")
			if len(failed) != 1 || !strings.HasPrefix(failed[0].Advice, used+" ") || !strings.Contains(failed[0].Advice, "remove images") {
				t.Errorf("the log says of it: %+v", failed)
			}
		})
	}
}

// The start says how the last run has ended.
func TestLastStop(t *testing.T) {
	root, address := filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "sock")
	start := func(want string) *process {
		t.Helper()
		p := startDaemon(t, "--root", root, "--address", address, "--snapshotter", "native").ready()
		if said := p.await("msg=starting"); !strings.Contains(said, want) || !strings.Contains(said, "version=") {
			t.Errorf("the start says %s, and not %q", said, want)
		}
		return p
	}
	start("in order, or never started").stop()
	start("in order, or never started").kill()
	p := start("killed, or ended by an error")
	written, err := os.ReadFile(serving.RunningFile(root))
	must(t, err)
	p.stop()
	must(t, os.WriteFile(serving.RunningFile(root), bytes.Replace(written, []byte(`"boot":"`), []byte(`"boot":"another`), 1), 0o600))
	start("the machine went down under it").stop()
	must(t, os.WriteFile(serving.RunningFile(root), []byte("{"), 0o600))
	start("can't be read").stop()
	start("in order, or never started").stop()
}
