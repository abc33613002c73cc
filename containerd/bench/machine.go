//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// machine is where and when something was measured, and what.
type machine struct {
	Date     time.Time
	CPU      string
	Cores    int
	Kernel   string
	Go       string
	Versions []string // of what is measured against
}

func thisMachine() (machine, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return machine{}, fmt.Errorf("uname: %w", err)
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return machine{}, err
	}
	return machine{
		Date: time.Now().UTC(), CPU: modelOf(string(cpuinfo)), Cores: runtime.NumCPU(),
		Kernel: "Linux " + unix.ByteSliceToString(name.Release[:]), Go: strings.TrimPrefix(runtime.Version(), "go"),
		Versions: versions("github.com/containerd/containerd/v2", "go.etcd.io/bbolt"),
	}, nil
}

// modelOf returns the model of the first processor, of which some architectures don't
// tell the name.
func modelOf(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH + " (/proc/cpuinfo names no model)"
}

// versions returns modules with the versions that this program is built with.
func versions(modules ...string) []string {
	var found []string
	info, _ := debug.ReadBuildInfo()
	for _, module := range modules {
		version := "(version not recorded)"
		if info != nil {
			for _, dep := range info.Deps {
				if dep.Path == module {
					version = dep.Version
				}
			}
		}
		found = append(found, module+" "+version)
	}
	return found
}

// filesystemOf returns the kind of filesystem a directory lies on, as mounts name it,
// and what is special about it.
func filesystemOf(dir string) (kind, special string, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", "", err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return "", "", err
	}
	var innermost *mountinfo.Info
	for _, mount := range mounts { // of two at one place, the later one is on top
		if innermost == nil || len(mount.Mountpoint) >= len(innermost.Mountpoint) {
			innermost = mount
		}
	}
	if innermost == nil {
		return "", "", errors.New(dir + " is on no filesystem that /proc/self/mountinfo names")
	}
	if innermost.FSType == "ext4" && !hasJournal(innermost) {
		special = "mounted without a journal of its own"
	}
	return innermost.FSType, special, nil
}

// hasJournal reports whether an ext4 has a journal. Without one, syncs are cheaper, and
// making files after others were deleted is much dearer: it is not what nodes have.
func hasJournal(mount *mountinfo.Info) bool {
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", mount.Major, mount.Minor))
	if err != nil {
		return true // can't be known
	}
	journals, err := os.ReadDir("/proc/fs/jbd2")
	return err != nil && !errors.Is(err, fs.ErrNotExist) || slices.ContainsFunc(journals, func(e os.DirEntry) bool {
		return strings.HasPrefix(e.Name(), filepath.Base(device)+"-")
	})
}
