//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// missing is what the tests can't do without, one line for each. Nothing is missing
// where tests are run by a supervisor.
var missing []string

// need skips a test where something is missing, or fails it where FSMETA_E2E=1 asks for
// everything.
func need(t testing.TB) {
	t.Helper()
	if len(missing) == 0 {
		return
	}
	message := "what is missing:\n" + strings.Join(missing, "\n")
	if os.Getenv("FSMETA_E2E") == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
}

// busybox is where Debian's busybox-static has it.
const busybox = "/bin/busybox"

// findMissing says of everything that is missing what to do.
func findMissing() (missing []string) {
	if os.Geteuid() != 0 {
		return []string{"only root can mount filesystems and run containers: run the tests as root"}
	}
	if err := addToPath(os.Getenv("FSMETA_CONTAINERD")); err != nil {
		missing = append(missing, err.Error())
	}
	for _, need := range []struct{ command, pack string }{
		{"containerd", "containerd"},
		{"ctr", "containerd"},
		{"containerd-shim-runc-v2", "containerd"},
		{"runc", "runc"},
		{"jq", "jq"},
		{"mkfs.ext4", "e2fsprogs"},
		{"mount", "mount"},
	} {
		if _, err := exec.LookPath(need.command); err != nil {
			missing = append(missing, fmt.Sprintf("%s: on Debian, apt-get install %s", need.command, need.pack))
		}
	}
	if err := staticBusybox(); err != nil {
		missing = append(missing, fmt.Sprintf("%v: on Debian, apt-get install busybox-static", err))
	}
	if err := namespaces(); err != nil {
		missing = append(missing, fmt.Sprintf("the right to make namespaces and mounts (%v): in a container, run it privileged", err))
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing = append(missing, fmt.Sprintf("loop devices (%v): load the kernel module loop (modprobe loop), and in a container, run it privileged", err))
	}
	if !overlayfs() {
		missing = append(missing, "overlayfs: /proc/filesystems does not name it: load the kernel module overlay (modprobe overlay)")
	}
	return missing
}

// addToPath puts a directory in front of all in which programs are looked for.
func addToPath(dir string) error {
	if dir == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "containerd")); err != nil {
		return fmt.Errorf("FSMETA_CONTAINERD=%s: there is no containerd in it: %w", dir, err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// staticBusybox says if there is no busybox that runs without libraries: it has to run
// alone in an image.
func staticBusybox() error {
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if bytes.Contains(data, []byte("/ld-linux")) {
		return fmt.Errorf("%s is not linked statically", busybox)
	}
	return nil
}

// overlayfs reports whether the kernel knows it, after it was asked to load it.
func overlayfs() bool {
	_ = exec.Command("modprobe", "overlay").Run() // what counts is what is there now
	data, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(data), "\toverlay\n")
}

// namespaces says if the namespaces can't be made that the tests run in.
func namespaces() error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	return cmd.Run()
}
