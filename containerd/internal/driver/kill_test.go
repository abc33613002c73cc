//go:build linux

package driver_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// However often the process is killed at some moment, every snapshot has its directory,
// every committed one its content, what was acknowledged holds, and Cleanup leaves
// nothing over.
func TestKilledAtRandom(t *testing.T) {
	for _, kind := range []string{"overlay", "native", "overlayShared"} {
		t.Run(kind, func(t *testing.T) {
			chance, known := randomly(t), newKnown()
			root := filepath.Join(t.TempDir(), "root")
			for round := range runs(t, 12) {
				c := known.start(t, workload{kind: kind, root: root, prefix: fmt.Sprint(round), workers: 3, steps: 1000})
				c.hear(chance.IntN(60))
				time.Sleep(time.Duration(chance.IntN(3000)) * time.Microsecond) // a moment between two lines
				c.kill()
				if err := known.check(kind, root); err != nil {
					t.Fatalf("after %d rounds: %v", round, err)
				}
			}
		})
	}
}

// The same holds where the process is killed at a system call that changes something on
// disk, before or after it.
func TestKilledAtSystemCalls(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace, which kills at a system call, is missing: install it")
	}
	calls := []string{"mkdirat", "renameat2", "renameat", "unlinkat", "linkat", "symlinkat", "fsync", "fdatasync", "syncfs", "pwrite64", "write", "fchmodat"}
	for _, kind := range []string{"overlay", "native", "overlayShared"} {
		t.Run(kind, func(t *testing.T) {
			chance, known := randomly(t), newKnown()
			root := filepath.Join(t.TempDir(), "root")
			killed := 0
			for round := range runs(t, len(calls)) {
				call := calls[round%len(calls)]
				inject := fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, 1+chance.IntN(20))
				c := known.start(t, workload{kind: kind, root: root, prefix: fmt.Sprint(round), workers: 2, steps: 8},
					strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call, "-e", inject)
				c.hearAll()
				if c.ended() != nil {
					killed++
				}
				if err := known.check(kind, root); err != nil {
					t.Fatalf("after %d rounds, with %s: %v", round, inject, err)
				}
			}
			if killed == 0 {
				t.Error("no child was killed: strace may not be allowed to trace")
			}
			t.Logf("%d of %d were killed, the others reached their end", killed, runs(t, len(calls)))
		})
	}
}

// A process that is killed while it makes a root leaves one that the next completes.
func TestKilledInOpen(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace, which kills at a system call, is missing: install it")
	}
	dir, killed := t.TempDir(), 0
	for _, call := range []string{"mkdirat", "renameat2", "renameat", "fsync", "fdatasync", "symlinkat", "linkat", "pwrite64", "write", "flock", "ftruncate", "fallocate"} {
		for n := range runs(t, 3) {
			known, root := newKnown(), filepath.Join(dir, fmt.Sprint(call, n))
			inject := fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call, 1+n)
			c := known.start(t, workload{kind: "overlay", root: root, prefix: "0", workers: 1, steps: 1},
				strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call, "-e", inject)
			c.hearAll()
			if c.ended() != nil {
				killed++
			}
			if err := known.check("overlay", root); err != nil {
				t.Errorf("with %s: %v", inject, err)
			}
		}
	}
	if killed == 0 {
		t.Error("no child was killed: strace may not be allowed to trace")
	}
}
