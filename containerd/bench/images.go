//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// imageSize is the size of an image, which takes as much of the disk as is written to
// it: two to three GiB. In memory it is the most that a tmpfs takes.
const imageSize = 8 << 30

// image is how to make a filesystem in a file.
type image struct {
	name    string
	mkfs    []string
	pack    string // the Debian package with mkfs
	options string // for mount
}

// images are the filesystems that can be made. ext4 gets inodes for a hundred thousand
// snapshots, at three each, and all tables written now: otherwise the kernel writes
// them in the background while we measure.
var images = []image{
	{"ext4", []string{"mkfs.ext4", "-q", "-F", "-N", "1000000", "-E", "lazy_itable_init=0,lazy_journal_init=0"}, "e2fsprogs", "loop"},
	{"xfs", []string{"mkfs.xfs", "-q", "-f"}, "xfsprogs", "loop"},
	{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, "btrfs-progs", "loop"},
	{name: "tmpfs"},
}

// parseImages returns the images that a list of names, with commas, asks for, and
// refuses early what can't be made.
func parseImages(list string) ([]image, error) {
	var chosen []image
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(images, func(im image) bool { return im.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-images: there is no filesystem %q to make: choose of ext4, xfs, btrfs and tmpfs", name)
		}
		chosen = append(chosen, images[i])
	}
	return chosen, nil
}

// available says what is missing to make and mount the images.
func available(chosen []image, imageDir string) error {
	if os.Geteuid() != 0 {
		return errors.New("-images: only root can mount filesystems: run as root, or measure a directory with -dir")
	}
	for _, im := range chosen {
		if im.mkfs == nil {
			continue
		}
		if _, err := exec.LookPath(im.mkfs[0]); err != nil {
			return fmt.Errorf("-images: %w: on Debian, apt-get install %s", err, im.pack)
		}
		if _, err := exec.LookPath("mount"); err != nil {
			return fmt.Errorf("-images: %w: on Debian, apt-get install mount", err)
		}
	}
	if info, err := os.Stat(imageDir); err != nil || !info.IsDir() {
		return fmt.Errorf("-image-dir: %q is no directory", imageDir)
	}
	return nil
}

// use makes the filesystem, mounts it, calls fn with the directory where it is, and
// takes all of that away again, whatever happens.
func (im image) use(ctx context.Context, imageDir string, fn func(dir, detail string) error) (err error) {
	work, err := os.MkdirTemp(imageDir, "fsmeta-bench-")
	if err != nil {
		return err
	}
	dir := filepath.Join(work, "mounted")
	defer func() {
		uerr := unmount(dir)
		if uerr == nil { // otherwise this would reach into what is mounted
			uerr = os.RemoveAll(work)
		}
		err = errors.Join(err, uerr)
	}()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if im.mkfs == nil {
		options := fmt.Sprintf("size=%d,nr_inodes=0", imageSize)
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		return fn(dir, "fresh, and in memory: syncs cost nothing there, and nothing survives a reboot")
	}
	below, special, err := filesystemOf(work)
	if err == nil {
		err = im.mount(ctx, filepath.Join(work, "image"), dir)
	}
	if err != nil {
		return err
	}
	return fn(dir, fmt.Sprintf("a fresh image of %d GiB on a loop device, in a sparse file on %s", imageSize>>30, strings.TrimSpace(below+" "+special)))
}

// mount makes the image file and mounts it.
func (im image) mount(ctx context.Context, file, dir string) error {
	err := os.WriteFile(file, nil, 0o600)
	if err == nil {
		err = os.Truncate(file, imageSize)
	}
	if err == nil {
		err = runTool(ctx, append(slices.Clone(im.mkfs), file)...)
	}
	if err == nil {
		err = runTool(ctx, "mount", "-t", im.name, "-o", im.options, file, dir)
	}
	return err
}

// runTool runs a program to its end. A key that interrupts us does not reach it, for
// it must not leave anything half done.
func runTool(ctx context.Context, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmount unmounts dir if something is mounted there. With the last use of it, its loop
// device goes. Something else may just be looking at it, so it tries for a while.
func unmount(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		err := unix.Unmount(dir, 0)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // EINVAL: nothing is mounted
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}
