//go:build linux

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	"golang.org/x/sys/unix"
)

// logged makes the test see what is logged in this process.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	logger := log.L.Logger
	before := logger.Out
	logger.SetOutput(&b)
	t.Cleanup(func() { logger.SetOutput(before) })
	return &b
}

// refused fails the test unless auto refuses root for that reason, and makes nothing.
func refused(t *testing.T, root string, reason error, hint string) {
	t.Helper()
	kind, err := choose(root, "auto")
	if kind != "" || !errors.Is(err, reason) || !strings.Contains(err.Error(), hint) || !strings.Contains(err.Error(), "--snapshotter native") {
		t.Errorf("for %s auto chooses %q, with the error: %v", root, kind, err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s was made, or can't be seen: %v", root, err)
	}
}

func TestAutoRefusesPaths(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	for _, name := range []string{"a:b", "a,b", `a\b`} {
		root := filepath.Join(t.TempDir(), name, "root")
		refused(t, root, overlay.ErrUnfit, "its path has a")
		if _, err := overlay.NewSnapshotter(root); !errors.Is(err, overlay.ErrUnfit) {
			t.Errorf("an overlay in %s: %v", root, err)
		}
		sn, kind, err := open(serveOptions{root: root, kind: "native"})
		if err != nil || kind != "native" {
			t.Fatalf("native in %s: %q, %v", root, kind, err)
		}
		must(t, sn.Close())
	}
}

func TestAutoRefusesOverlayfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	merged := filepath.Join(dir, "merged")
	execute(t, "mount", "-t", "overlay", "-o", "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work", "overlay", merged)
	defer func() { must(t, unix.Unmount(merged, 0)) }()
	root := filepath.Join(merged, "root")
	refused(t, root, overlay.ErrUnfit, "on overlayfs itself")
	if _, err := overlay.NewSnapshotter(root); !errors.Is(err, overlay.ErrUnfit) {
		t.Errorf("an overlay on overlayfs: %v", err)
	}
}

// A daemon that is not root says so, and does not decide for good to copy.
func TestAutoRefusesUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir, err := os.MkdirTemp("", "fsmeta-user") // not below one that only root can enter
	must(t, err)
	defer func() { must(t, os.RemoveAll(dir)) }()
	must(t, os.Chmod(dir, 0o777))
	cmd := self("--root", filepath.Join(dir, "root"), "--address", filepath.Join(dir, "sock"))
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	status, said := startProcess(t, cmd).end()
	if status != 2 || !strings.Contains(said, "run this as root") {
		t.Errorf("status %d: %s", status, said)
	}
	if _, err := os.Lstat(filepath.Join(dir, "root")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a root directory was made, or can't be seen: %v", err)
	}
}

// What may be gone tomorrow decides nothing: here a filesystem that is read-only.
func TestAutoDecidesNothingOnAnError(t *testing.T) {
	root := newDisk(t, "ext4")
	execute(t, "mount", "-o", "remount,ro", root)
	if kind, err := choose(root, "auto"); kind != "" || !errors.Is(err, unix.EROFS) {
		t.Errorf("auto chooses %q, with the error: %v", kind, err)
	}
	execute(t, "mount", "-o", "remount,rw", root)
	if kind, err := choose(root, "auto"); kind != "overlay" || err != nil {
		t.Errorf("auto chooses %q, with the error: %v", kind, err)
	}
}

// Where overlayfs is not supported, auto copies, and the log says what changes that: what it
// says works.
func TestAutoCopiesWithoutOverlayfs(t *testing.T) {
	disk := newDisk(t, "ext4", "-O", "^filetype")
	root, said := filepath.Join(disk, "root"), logged(t)
	sn, kind, err := open(serveOptions{root: root, kind: "auto"})
	must(t, err)
	must(t, sn.Close())
	marker := filepath.Join(root, "snapshotter")
	if kind != "native" || !strings.Contains(said.String(), "no d_type") || !strings.Contains(said.String(), "delete "+marker) {
		t.Fatalf("auto chooses %s, and says:\n%s", kind, said)
	}
	// The filesystem gets support for overlayfs by moving to another.
	moved := filepath.Join(newDisk(t, "ext4"), "root")
	execute(t, "cp", "-a", root, moved)
	if kind, err := choose(moved, "auto"); kind != "native" || err != nil {
		t.Errorf("what was chosen is now %q: %v", kind, err)
	}
	must(t, os.Remove(filepath.Join(moved, "snapshotter")))
	sn, kind, err = open(serveOptions{root: moved, kind: "auto"})
	must(t, err)
	must(t, sn.Close())
	if marked, err := driver.Kind(moved); kind != "overlay" || marked != "overlay" || err != nil {
		t.Errorf("without %s auto chooses %s, and marks it %s: %v", marker, kind, marked, err)
	}
}
