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
	"github.com/fsmeta/fsmeta/fsmeta"
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
	err := without(func() error { return storage.TakeOver(t.Context(), path, nil) }, unix.CAP_LEASE)
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_LEASE") {
		t.Errorf("got %v", err)
	}
	wantEntries(t, path, "metadata.db")
	if diff := cmp.Diff(want, contentOf(t, peers.Bolt, path)); diff != "" {
		t.Errorf("the file had -, has +:\n%s", diff)
	}
}

// A file that may not be read is not said to be something else.
func TestDeniedFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := boltFile(t)
	must(t, os.Chown(path, 12345, 12345))
	ms := newStore(t)
	for name, do := range map[string]func() error{
		"a store":   func() error { _, err := storage.NewMetaStore(path); return err },
		"TakeOver":  func() error { return storage.TakeOver(t.Context(), path, nil) },
		"GoBack":    func() error { return storage.GoBack(t.Context(), path, nil) },
		"an import": func() error { return storage.Import(t.Context(), path, ms, nil) },
	} {
		err := without(do, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH)
		if !errors.Is(err, fs.ErrPermission) || errors.Is(err, fsmeta.ErrNotStore) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// without runs fn without capabilities.
func without(fn func() error, capabilities ...int) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and has no capability before
		for _, number := range capabilities {
			if err := dropCapability(number); err != nil {
				result <- err
				return
			}
		}
		result <- fn()
	}()
	return <-result
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
