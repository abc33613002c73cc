package powercut

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/apart"
)

// need skips a test where something is missing, or fails it where that is asked for.
func need(t *testing.T, f filesystem) {
	t.Helper()
	missing := lacking(f)
	switch {
	case testing.Short():
		t.Skip("takes more time than -short gives")
	case missing == "":
	case os.Getenv("FSMETA_CRASH") == "1":
		t.Fatalf("this needs %s", missing)
	default:
		t.Skipf("this needs %s", missing)
	}
}

// lacking returns what is missing to cut the power under a filesystem, "" if nothing.
func lacking(f filesystem) string {
	if os.Geteuid() != 0 {
		return "root"
	}
	if !apart.Is() {
		return "leave to mount"
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			return path
		}
	}
	for _, program := range []string{f.mkfs[0], "go"} {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	for _, name := range []string{"fuse", f.name} {
		if !supported(name) && exec.Command("modprobe", name).Run() != nil && !supported(name) {
			return "a kernel with " + name
		}
	}
	return ""
}

// supported reports whether the kernel has a filesystem at hand.
func supported(name string) bool {
	text, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(text), fmt.Sprintf("\t%s\n", name))
}
