package peers_test

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Where it can't be told whether a process has the file open for writing, it stays.
func TestTakeOverNeedsLease(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := boltFile(t)
	must(t, os.Chown(path, 12345, 12345))
	want := contentOf(t, peers.Bolt, path)
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and has no capability before
		if err := dropCapability(unix.CAP_LEASE); err != nil {
			result <- err
			return
		}
		result <- storage.TakeOver(t.Context(), path, nil)
	}()
	if err := <-result; !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_LEASE") {
		t.Errorf("got %v", err)
	}
	wantEntries(t, path, "metadata.db")
	if diff := cmp.Diff(want, contentOf(t, peers.Bolt, path)); diff != "" {
		t.Errorf("the file had -, has +:\n%s", diff)
	}
}

// dropCapability takes a capability from this thread.
func dropCapability(number int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[number/32].Effective &^= 1 << (number % 32)
	return unix.Capset(&header, &data[0])
}
