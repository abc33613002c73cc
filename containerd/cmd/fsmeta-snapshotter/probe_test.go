//go:build linux

package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/serving"
	"github.com/fsmeta/fsmeta/lock"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
)

// connect connects to a daemon's socket, until the test ends.
func connect(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() }) // nothing is sent then
	return c
}

// client is containerd's client of a proxy plugin.
func client(c *grpc.ClientConn) snapshots.Snapshotter {
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(c), "fsmeta")
}

// systemd is what a service sees of systemd: a socket for what it tells.
type systemd struct {
	t    testing.TB
	conn *net.UnixConn
	path string
}

func newSystemd(t testing.TB) *systemd {
	t.Helper()
	s := &systemd{t: t, path: filepath.Join(t.TempDir(), "notify")}
	var err error
	s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { must(t, s.conn.Close()) })
	return s
}

// await returns true when the service tells state, and false when it has not done so in time.
func (s *systemd) await(state string, patience time.Duration) bool {
	s.t.Helper()
	must(s.t, s.conn.SetReadDeadline(time.Now().Add(patience)))
	for buffer := make([]byte, 4096); ; {
		n, err := s.conn.Read(buffer)
		if err != nil {
			return false
		}
		if string(buffer[:n]) == state {
			return true
		}
	}
}

// forget drops what the service has told.
func (s *systemd) forget() {
	for s.await("nothing", time.Millisecond) {
	}
}

// probing starts a daemon on a root directory under a systemd with a watchdog that makes it probe
// every hundred milliseconds, and returns when it has done so once.
func probing(t testing.TB, root string) (p *process, s *systemd, address string) {
	t.Helper()
	s, address = newSystemd(t), filepath.Join(t.TempDir(), "sock")
	cmd := self("--root", root, "--address", address, "--snapshotter", "native")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+s.path, "WATCHDOG_USEC=300000")
	p = startProcess(t, cmd).ready()
	if !s.await("READY=1", limit) || !s.await("WATCHDOG=1", limit) {
		t.Fatal("systemd is not told that the daemon is ready, and alive")
	}
	return p, s, address
}

// shutdown makes every use of a filesystem fail.
func shutdown(t *testing.T, disk string) {
	t.Helper()
	dir, err := os.Open(disk)
	must(t, err)
	defer dir.Close()                    //nolint:errcheck // nothing was written
	const request, flags = 0x8004587d, 2 // FS_IOC_SHUTDOWN, without what was not written
	must(t, unix.IoctlSetPointerInt(int(dir.Fd()), request, flags))
}

// A daemon without calls notices that its disk is gone, and ends.
func TestDiskGone(t *testing.T) {
	for _, filesystem := range []string{"ext4", "xfs"} {
		t.Run(filesystem, func(t *testing.T) {
			disk := newDisk(t, filesystem)
			p, _, _ := probing(t, filepath.Join(disk, "root"))
			shutdown(t, disk)
			status, said := p.end()
			if status != 2 || !strings.Contains(said, "input/output error") {
				t.Errorf("it ends with status %d, and says:\n%s", status, said)
			}
		})
	}
}

// A call that fails for the disk's sake makes the daemon look, and end; if not what it does
// besides has found the disk gone before.
func TestCallFindsDiskGone(t *testing.T) {
	for _, filesystem := range []string{"ext4", "xfs"} {
		t.Run(filesystem, func(t *testing.T) {
			disk, address := newDisk(t, filesystem), filepath.Join(t.TempDir(), "sock")
			p := startDaemon(t, "--root", filepath.Join(disk, "root"), "--address", address, "--snapshotter", "native").ready()
			c := client(connect(t, address))
			shutdown(t, disk)
			if _, err := c.Prepare(t.Context(), "key", ""); err == nil {
				t.Error("a call on a disk that is gone has succeeded")
			}
			if status, said := p.end(); status != 2 || !strings.Contains(said, "input/output error") {
				t.Errorf("it ends with status %d, and says:\n%s", status, said)
			}
		})
	}
}

func TestFilesystemBecomesReadOnly(t *testing.T) {
	disk := newDisk(t, "ext4")
	p, _, _ := probing(t, filepath.Join(disk, "root"))
	execute(t, "mount", "-o", "remount,errors=remount-ro", disk)
	device := strings.TrimSpace(execute(t, "findmnt", "-no", "SOURCE", disk))
	must(t, os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error"), []byte("of a test"), 0))
	if status, said := p.end(); status != 2 || !strings.Contains(said, "read-only file system") {
		t.Errorf("it ends with status %d, and says:\n%s", status, said)
	}
}

func TestRootGone(t *testing.T) {
	for name, remove := range map[string]func(disk, root string) error{
		"unmounted": func(disk, _ string) error { return unix.Unmount(disk, unix.MNT_DETACH) },
		"replaced": func(disk, root string) error {
			if err := os.Rename(root, root+".old"); err != nil {
				return err
			}
			return os.CopyFS(root, os.DirFS(root+".old"))
		},
		"store replaced": func(_, root string) error {
			meta := filepath.Join(root, "meta")
			if err := os.Rename(meta, meta+".old"); err != nil {
				return err
			}
			return os.CopyFS(meta, os.DirFS(meta+".old"))
		},
		"content removed": func(_, root string) error { return os.RemoveAll(filepath.Join(root, "snapshots")) },
	} {
		t.Run(name, func(t *testing.T) {
			disk := newDisk(t, "ext4")
			root := filepath.Join(disk, "root")
			p, _, _ := probing(t, root)
			must(t, remove(disk, root))
			if status, said := p.end(); status != 2 || !strings.Contains(said, serving.ErrReplaced.Error()) {
				t.Errorf("it ends with status %d, and says:\n%s", status, said)
			}
		})
	}
}

// A socket that was removed comes back. Connections go on, and so do new ones.
func TestSocketRemoved(t *testing.T) {
	p, _, address := probing(t, filepath.Join(t.TempDir(), "root"))
	before := client(connect(t, address))
	_, err := before.Prepare(t.Context(), "before", "")
	must(t, err)
	must(t, os.Remove(address))
	p.await("was made again")
	info, err := os.Lstat(address)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is made with mode %v: %v", info.Mode(), err)
	}
	for _, sn := range []snapshots.Snapshotter{before, client(connect(t, address))} {
		if _, err := sn.Stat(t.Context(), "before"); err != nil {
			t.Errorf("after the socket was made again: %v", err)
		}
	}
	p.stop()
	if _, err := os.Lstat(address); !os.IsNotExist(err) {
		t.Errorf("a stopped daemon leaves its socket: %v", err)
	}
}

// A socket that is gone, and can't be made again since its directory is read-only, does not end the daemon:
// the store is fine.
func TestSocketReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	p, s, address := probing(t, filepath.Join(t.TempDir(), "root"))
	c := connect(t, address)
	awaitHealth(t, c, true)
	dir := filepath.Dir(address)
	must(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, "")) // over the socket
	covered := true
	t.Cleanup(func() {
		if covered {
			must(t, unix.Unmount(dir, unix.MNT_DETACH))
		}
	})
	p.await("read-only file system")
	awaitHealth(t, c, false)
	if s.forget(); !s.await("WATCHDOG=1", limit) {
		t.Error("a new start would not help, and systemd is to make one")
	}
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	covered = false
	p.await("what was wrong is over")
	awaitHealth(t, c, true)
	p.stop()
}

// Another program's socket stays its own, and the health service says that something is wrong,
// until it is gone.
func TestSocketTaken(t *testing.T) {
	p, s, address := probing(t, filepath.Join(t.TempDir(), "root"))
	c := connect(t, address)
	awaitHealth(t, c, true)
	other, listening := grpc.NewServer(), address+".other"
	l, err := net.Listen("unix", listening)
	must(t, err)
	go func() { _ = other.Serve(l) }() // ends with Stop
	defer other.Stop()
	must(t, os.Rename(listening, address))
	p.await("another program listens on " + address)
	awaitHealth(t, c, false)
	if s.forget(); !s.await("WATCHDOG=1", limit) {
		t.Error("a new start would not help, and systemd is to make one")
	}
	other.Stop()
	p.await("was made again")
	p.await("what was wrong is over")
	awaitHealth(t, c, true)
}

// awaitHealth waits until the health service says so.
func awaitHealth(t *testing.T, c *grpc.ClientConn, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	watch, err := healthapi.NewHealthClient(c).Watch(ctx, &healthapi.HealthCheckRequest{Service: "containerd.services.snapshots.v1.Snapshots"})
	must(t, err)
	for {
		now, err := watch.Recv()
		if err != nil {
			t.Fatalf("the health service does not say %v: %v", ok, err)
		}
		if (now.Status == healthapi.HealthCheckResponse_SERVING) == ok {
			return
		}
	}
}

// A daemon on a disk that does not write feeds the watchdog, and goes on when it does again.
func TestDiskFrozen(t *testing.T) {
	disk := newDisk(t, "ext4")
	p, s, address := probing(t, filepath.Join(disk, "root"))
	execute(t, "fsfreeze", "-f", disk)
	t.Cleanup(func() { _, _ = exec.Command("fsfreeze", "-u", disk).CombinedOutput() }) // fails where it was done
	s.forget()
	for range 18 { // at least one write begins meanwhile: every sixth probe has one
		if !s.await("WATCHDOG=1", limit) {
			t.Fatal("the watchdog is not fed while the disk does not write")
		}
	}
	if _, err := client(connect(t, address)).Stat(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("a call that only reads: %v", err)
	}
	execute(t, "fsfreeze", "-u", disk)
	_, err := client(connect(t, address)).Prepare(t.Context(), "key", "")
	must(t, err)
	p.stop()
}

// A daemon with a store that does not answer lets the watchdog starve, and feeds it again when it
// does.
func TestStoreHangs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	_, s, address := probing(t, root)
	unlock, err := lock.New(filepath.Join(root, "meta", "staging")).Lock(t.Context()) // as a stopped writer does
	must(t, err)
	for deadline := time.Now().Add(limit); s.await("WATCHDOG=1", 500*time.Millisecond); {
		if time.Now().After(deadline) {
			t.Fatal("the watchdog is fed while nothing can be written")
		}
	}
	if _, err := client(connect(t, address)).Stat(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("a call that only reads: %v", err)
	}
	must(t, unlock())
	if !s.await("WATCHDOG=1", limit) {
		t.Error("the watchdog is not fed again")
	}
}
