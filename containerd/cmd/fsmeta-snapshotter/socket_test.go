//go:build linux

package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A socket that another program has put in the place of the own one is that program's, at the
// end too. The own one is removed.
func TestCloseLeavesSocketOfAnother(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	ours, err := listen(t.Context(), address)
	must(t, err)
	must(t, os.Remove(address))
	other, err := net.Listen("unix", address)
	must(t, err)
	must(t, ours.Close())
	if _, err := os.Lstat(address); err != nil {
		t.Errorf("the other program's socket was removed: %v", err)
	}
	must(t, other.Close())
}

// A closed listener removes its socket once: later, a socket of another daemon may have the same
// inode.
func TestCloseRemovesSocketOnce(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	l, err := listen(t.Context(), address)
	must(t, err)
	must(t, os.Link(address, address+".same")) // the same inode
	must(t, l.Close())
	if _, err := os.Lstat(address); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the own socket stays: %v", err)
	}
	must(t, os.Rename(address+".same", address))
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second close: %v", err)
	}
	if _, err := os.Lstat(address); err != nil {
		t.Errorf("a second close has removed a socket: %v", err)
	}
}

// Of two starts at once that find a socket of a killed daemon, one gets the address, and what it
// has made stays.
func TestListenAtOnce(t *testing.T) {
	address := filepath.Join(t.TempDir(), "sock")
	for range 200 {
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
		must(t, err)
		stale.SetUnlinkOnClose(false)
		must(t, stale.Close())
		var starts sync.WaitGroup
		got := make(chan net.Listener, 4)
		for range cap(got) {
			starts.Go(func() {
				if l, err := listen(t.Context(), address); err == nil {
					got <- l
				}
			})
		}
		starts.Wait()
		if len(got) != 1 {
			t.Fatalf("%d of %d listen on the same address", len(got), cap(got))
		}
		c, err := net.Dial("unix", address)
		must(t, err)
		must(t, c.Close())
		must(t, (<-got).Close())
	}
}
