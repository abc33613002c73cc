//go:build linux

package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsmeta/fsmeta/atomic"
)

// running is one run of the daemon or the plugin on a root directory. It is written into the file running
// there, which an end in order deletes: what the next start finds says how the last run ended.
// (The store can't say it: a process that was killed and had nothing to write leaves it as one that was stopped
// does.)
type running struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Boot    string    `json:"boot"` // of the machine
	Since   time.Time `json:"since"`
}

// RunningFile returns which file says that a root directory is served.
func RunningFile(root string) string { return filepath.Join(root, "running") }

// BeginRun says durably that a run begins, and returns how the last one ended. A crash leaves
// the file of the last run or of this one.
func BeginRun(root, version string) (last string, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	now := running{version, os.Getpid(), string(bytes.TrimSpace(boot)), time.Now().UTC().Truncate(time.Second)}
	last, err = lastRun(root, now.Boot)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(now)
	if err != nil {
		return last, err
	}
	if err := atomic.WriteFile(RunningFile(root), root, append(data, '\n')); err != nil {
		return last, err
	}
	return last, atomic.SyncDir(root)
}

// lastRun says how the last run on a root directory ended.
func lastRun(root, boot string) (string, error) {
	data, err := os.ReadFile(RunningFile(root))
	if errors.Is(err, fs.ErrNotExist) {
		return "in order, or never started", nil
	}
	if err != nil {
		return "", err
	}
	var r running
	if err := json.Unmarshal(data, &r); err != nil {
		return "not in order, and " + RunningFile(root) + " can't be read", nil
	}
	how := "killed, or ended by an error"
	if r.Boot != boot {
		how = "the machine went down under it"
	}
	return fmt.Sprintf("not in order: %s (version %s, process %d, since %s)", how, r.Version, r.PID, r.Since.Format(time.RFC3339)), nil
}

// EndRun says durably that the run has ended in order.
func EndRun(root string) error {
	if err := os.Remove(RunningFile(root)); err != nil {
		return err
	}
	return atomic.SyncDir(root)
}
