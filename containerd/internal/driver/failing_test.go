//go:build linux

package driver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// These tests run calls in a child process. strace makes its syncs fail.

func init() { Children["calls"] = makeCalls }

// makeCalls makes an active snapshot, and for each line that it is given after that a
// call, and tells the error in a line.
func makeCalls(arguments []string) error {
	s, err := Open(arguments[0], &fake{}, Config{})
	if err != nil {
		return err
	}
	ctx, _ := withLog(context.Background())
	mounts, err := s.Prepare(ctx, "first", "")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(mounts[0].Source, "fs", "file"), []byte("content"), 0o600); err != nil {
		return err
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "prepare":
			_, err = s.Prepare(ctx, "second", "")
		case "commit":
			err = s.Commit(ctx, "name", "first")
		case "cleanup":
			err = s.Cleanup(ctx)
		}
		fmt.Printf("unknown %t: %q\n", errors.Is(err, fsmeta.ErrOutcomeUnknown), fmt.Sprint(err))
	}
	return nil // without Close, as after a crash
}

// caller is such a child.
type caller struct {
	t    *testing.T
	root string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// startCaller starts one on a new root; its system calls of these names fail from when
// it is ready.
func startCaller(t *testing.T, failing string) *caller {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace, which makes a sync fail, is missing: install it")
	}
	c := &caller{t: t, root: closedRoot(t)}
	c.cmd = ChildCommand("calls", nil, c.root)
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	must(t, c.cmd.Start())
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // fails where it has ended
		_ = c.cmd.Wait()         // says that it was killed
	})
	c.out = bufio.NewReader(out)
	if line, err := c.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child says %q: %v", line, err)
	}

	by := exec.Command(strace, "-f", "-o", filepath.Join(t.TempDir(), "calls"), "-e", "trace="+failing,
		"-e", "inject="+failing+":error=EIO", "-p", strconv.Itoa(c.cmd.Process.Pid))
	errs, err := by.StderrPipe()
	must(t, err)
	must(t, by.Start())
	t.Cleanup(func() {
		_ = by.Process.Signal(os.Interrupt) // fails where it has ended, with the child
		_ = by.Wait()                       // says how it was ended
	})
	if line, err := bufio.NewReader(errs).ReadString('\n'); !strings.Contains(line, "attached") {
		t.Fatalf("strace says %q: %v", line, err)
	}
	return c
}

// call has the child make a call and returns what it says of the error.
func (c *caller) call(what string) string {
	c.t.Helper()
	_, err := fmt.Fprintln(c.in, what)
	must(c.t, err)
	line, err := c.out.ReadString('\n')
	must(c.t, err)
	return strings.TrimSpace(line)
}

// reopen ends the child and opens its root here.
func (c *caller) reopen() *Snapshotter {
	c.t.Helper()
	must(c.t, c.cmd.Process.Kill())
	_ = c.cmd.Wait() // says that it was killed
	s, err := Open(c.root, &fake{}, Config{})
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, s.Close()) })
	return s
}

// Content of a snapshot stays where its transaction may have got to the disk, or not: the
// store may be found to have it when it is opened again. Until then Cleanup deletes nothing.
func TestUnknownOutcomeKeepsContent(t *testing.T) {
	c := startCaller(t, "fdatasync")
	if said := c.call("prepare"); !strings.HasPrefix(said, "unknown true") {
		t.Fatalf("Prepare says %s, want an unknown outcome", said)
	}
	if said := c.call("cleanup"); strings.Contains(said, "<nil>") {
		t.Error("Cleanup is not refused")
	}
	if got := directoriesOf(t, &Snapshotter{root: c.root}); len(got) != 3 {
		t.Errorf("there are the directories %q, want those of layer, first and second", got)
	}
	s := c.reopen()
	must(t, s.Cleanup(t.Context()))
	checkNothingLeft(t, s)
}

// A commit with an unknown outcome keeps the content, under the one name or the other.
func TestUnknownOutcomeOfACommit(t *testing.T) {
	c := startCaller(t, "fdatasync")
	if said := c.call("commit"); !strings.HasPrefix(said, "unknown true") {
		t.Fatalf("Commit says %s, want an unknown outcome", said)
	}
	s := c.reopen()
	must(t, s.Cleanup(t.Context()))
	checkNothingLeft(t, s)
	if got := namesOf(t, s); len(got) != 2 {
		t.Errorf("there is %q, want layer, and first or name", got)
	}
}

// Content that can't be synced is not promised: the call fails, says which file it is,
// and leaves the snapshots as they were. Nor is it later: the kernel has said once that it could not write it.
func TestContentThatCannotBeSynced(t *testing.T) {
	c := startCaller(t, "fsync,syncfs")
	for _, call := range []string{"prepare", "commit"} {
		if said := c.call(call); !strings.HasPrefix(said, "unknown false") || !strings.Contains(said, filepath.Join(c.root, snapshotsDir)) {
			t.Errorf("%s says %s, want an error with the path, and a known outcome", call, said)
		}
	}
	if got := directoriesOf(t, &Snapshotter{root: c.root}); len(got) != 2 {
		t.Errorf("there are the directories %q, want those of layer and first", got)
	}
	s := c.reopen()
	info, err := s.Stat(t.Context(), "first")
	must(t, err)
	if info.Kind != snapshots.KindActive {
		t.Errorf("first is %v, want it active", info.Kind)
	}
	checkNothingLeft(t, s)
	if err := s.Commit(t.Context(), "name", "first"); !errors.Is(err, errLost) {
		t.Errorf("the next process says %v, want errLost", err)
	}
	prepare(t, s, "second", "")
	must(t, s.Commit(t.Context(), "name", "second"))
}
