//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// passed is a daemon that gets sockets as systemd passes them.
func passed(sockets []*os.File, arguments ...string) *exec.Cmd {
	daemon := self(arguments...)
	// LISTEN_PID is only known in the process itself.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, daemon.Args...)...)
	cmd.Args[3] = selfPath
	cmd.Env = append(daemon.Env, fmt.Sprintf("LISTEN_FDS=%d", len(sockets)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.ExtraFiles = sockets
	return cmd
}

// selfPath is the test binary: /proc/self/exe would be the shell.
var selfPath, _ = os.Executable()

// keptSocket makes a socket that a service manager keeps.
func keptSocket(t *testing.T, address string) *os.File {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	must(t, err)
	must(t, l.Close()) // f is another descriptor
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

// While the daemon is stopped and started again over and over, as in upgrades, with a socket
// that systemd keeps, no call fails.
func TestUpgradeFailsNoCall(t *testing.T) {
	dir := t.TempDir()
	root, address := filepath.Join(dir, "root"), filepath.Join(dir, "sock")
	socket := keptSocket(t, address)
	start := func() *process {
		t.Helper()
		return startProcess(t, passed([]*os.File{socket}, "--root", root, "--snapshotter", "native", "--address", filepath.Join(dir, "unused"))).ready()
	}
	p := start()
	var callers sync.WaitGroup
	var calls atomic.Int64
	done, called := make(chan struct{}), make(chan int)
	const callersCount = 4
	for n := range callersCount {
		conn := client(connect(t, address))
		fresh := n == callersCount-1 // a client that connects anew each time
		callers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				sn, key := conn, fmt.Sprintf("key-%d-%d", n, i)
				if fresh {
					sn = client(connect(t, address))
				}
				if err := useOnce(t, sn, key); err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
				calls.Add(4)
				select {
				case called <- n:
				default: // nothing waits for it
				}
			}
		})
	}
	const upgrades = 10
	for range upgrades {
		p.stop()
		p = start()
		for each := map[int]bool{}; len(each) < callersCount && !t.Failed(); { // each uses the new one
			select {
			case n := <-called:
				each[n] = true
			case <-time.After(limit):
				t.Fatal("calls don't go on")
			}
		}
	}
	close(done)
	callers.Wait()
	t.Logf("%d calls over %d upgrades", calls.Load(), upgrades)
	p.stop()
	if info, err := os.Lstat(address); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Errorf("a stopped daemon has removed systemd's socket: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "unused")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket was made besides the one that was passed: %v", err)
	}
}

// useOnce makes calls as an unpacked layer does.
func useOnce(t *testing.T, sn snapshots.Snapshotter, key string) error {
	if _, err := sn.Prepare(t.Context(), key, ""); err != nil {
		return err
	}
	if err := sn.Commit(t.Context(), key+"-done", key); err != nil {
		return err
	}
	if _, err := sn.Stat(t.Context(), key); !errdefs.IsNotFound(err) {
		return fmt.Errorf("after its commit: %w", err)
	}
	return sn.Remove(t.Context(), key+"-done")
}

// A passed socket that is removed comes back, too.
func TestPassedSocketRemoved(t *testing.T) {
	dir := t.TempDir()
	address, s := filepath.Join(dir, "sock"), newSystemd(t)
	cmd := passed([]*os.File{keptSocket(t, address)}, "--root", filepath.Join(dir, "root"), "--snapshotter", "native")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+s.path, "WATCHDOG_USEC=300000")
	p := startProcess(t, cmd).ready()
	must(t, os.Remove(address))
	p.await("was made again")
	if _, err := client(connect(t, address)).Stat(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("through the socket that was made again: %v", err)
	}
	p.stop()
}

func TestTooManySocketsPassed(t *testing.T) {
	dir := t.TempDir()
	sockets := []*os.File{keptSocket(t, filepath.Join(dir, "a")), keptSocket(t, filepath.Join(dir, "b"))}
	root := filepath.Join(dir, "root")
	status, said := startProcess(t, passed(sockets, "--root", root, "--snapshotter", "native")).end()
	if status != 2 || !strings.Contains(said, "systemd passes 2 sockets") {
		t.Errorf("status %d: %s", status, said)
	}
	if _, err := os.Lstat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a root directory was made, or can't be seen: %v", err)
	}
}
