//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

const (
	// diskDir is where the disk image is mounted: a short path, as those of sockets may
	// have 107 bytes only.
	diskDir = "/run/e2e"
	// diskSize takes only as much of the disk below as is written.
	diskSize = 4 << 30
)

// mountDisk makes an ext4 filesystem in a file and mounts it, for all tests, once.
var mountDisk = sync.OnceValue(func() error {
	image := filepath.Join(os.Getenv(placeVariable), "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, diskSize); err != nil {
		return err
	}
	if err := os.Mkdir(diskDir, 0o755); err != nil {
		return err
	}
	for _, command := range [][]string{
		// All tables are written now: otherwise the kernel writes them in the background,
		// while benchmarks measure.
		{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image},
		{"mount", "-o", "loop", image, diskDir},
	} {
		if output, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w\n%s", command, err, output)
		}
	}
	return nil
})

var directories int

// newDirectory returns a new directory on the disk.
func newDirectory(t testing.TB) string {
	t.Helper()
	must(t, mountDisk())
	directories++
	dir := filepath.Join(diskDir, strconv.Itoa(directories))
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

// must ends the test when there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
