package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
)

// recording says how a record is made.
type recording struct {
	filesystem filesystem
	rand       *rand.Rand
	runs       []run
	syncAll    bool
	binary     string   // of the machine; "" is this one
	env        []string // of the machine, beside our own
}

// record lets a machine run on a disk and returns what happened. Of prior, what was said
// before, nothing acknowledged is missing on the disk.
func (c recording) record(t *testing.T, base image, prior [][]workload.Note) *record {
	t.Helper()
	rec := newRecord(base, prior)
	for i := range c.runs {
		c.runs[i].Seed = c.rand.Uint64()
	}
	dir := t.TempDir()
	unmount, err := (&device{record: rec, size: c.filesystem.size}).serve(dir)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWitness(rec, c.runs)
	if err == nil {
		err = errors.Join(c.run(t.Context(), machine{
			Filesystem: c.filesystem.name,
			Disk:       filepath.Join(dir, diskName),
			Dir:        t.TempDir(),
			Socket:     w.listener.Addr().String(),
			Seed:       c.rand.Uint64(),
			SyncAll:    c.syncAll,
			Runs:       c.runs,
		}), w.close())
	}
	if err = errors.Join(err, unmount()); err != nil {
		t.Fatal(err)
	}
	rec.log(t)
	return rec
}

// run runs a machine, with mounts that no other process sees, to its end.
func (c recording) run(ctx context.Context, m machine) error {
	binary := c.binary
	if binary == "" {
		binary = "/proc/self/exe"
	}
	cmd, err := command(binary, machineVariable, m)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, c.env...)
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Kill) })()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the machine has failed: %w\n%s", err, out.Bytes())
	}
	return nil
}

// journalHeader finds the beginning of a journal, which is a new one for each checkpoint.
var journalHeader = regexp.MustCompile(`\{"format":"fsmeta journal","version":2,"txn":\d+,"nextID":\d+,`)

// log says what there is in a record, and fails the test where it is too little.
func (r *record) log(t *testing.T) {
	t.Helper()
	var counts [closed + 1]int
	headers := map[string]bool{}
	for _, e := range r.events {
		counts[e.kind]++
		if header := journalHeader.Find(e.data); header != nil {
			headers[string(header)] = true
		}
	}
	h := workload.NewHistory(writers)
	runs, settled := r.promised(len(r.events))
	if err := h.AddCut(runs, settled); err != nil {
		t.Error(err)
	}
	t.Logf("recorded %d writes, %d flushes, %d transactions and %d journals in %v", counts[written], counts[flushed], h.Acked, len(headers), time.Since(r.began).Round(time.Millisecond))
	if counts[flushed] < 10 || h.Acked < 50 || len(headers) < 2 {
		t.Error("too little was recorded to judge")
	}
}
