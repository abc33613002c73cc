//go:build linux && amd64

package fault

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"golang.org/x/sys/unix"
)

// disks are small filesystems.
var disks = map[string]func(t *testing.T, dir string) error{
	"tmpfs": func(_ *testing.T, dir string) error {
		return run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", dir)
	},
	"ext4": func(t *testing.T, dir string) error {
		image := filepath.Join(traced.Memory(t), "image")
		return errors.Join(
			os.WriteFile(image, nil, 0o600),
			os.Truncate(image, 64<<20),
			run("mkfs.ext4", "-q", "-m", "0", image),
			run("mount", "-o", "loop", image, dir))
	},
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// onDisks runs a test on each disk.
func onDisks(t *testing.T, test func(t *testing.T, disk string)) {
	for name, mount := range disks {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				traced.Skip(t, "only root can mount")
			}
			dir := t.TempDir()
			if err := mount(t, dir); err != nil {
				traced.Skip(t, "can't mount:", err)
			}
			t.Cleanup(func() {
				if err := run("umount", dir); err != nil {
					t.Error(err)
				}
			})
			test(t, dir)
		})
	}
}

// ballast is the file that fills a disk.
func ballast(disk string) string { return filepath.Join(disk, "ballast") }

// fill leaves no room on a disk.
func fill(disk string) error {
	f, err := os.OpenFile(ballast(disk), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err != nil {
		return nil // it is full already
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// makeRoom undoes fill.
func makeRoom(disk string) error {
	if err := os.Remove(ballast(disk)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
