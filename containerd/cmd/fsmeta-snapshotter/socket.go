//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/fsmeta/fsmeta/lock"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// answerLimit is how long a call through the own socket may take.
const answerLimit = 5 * time.Second

// socket is where containerd finds this daemon.
type socket struct {
	address  string
	listener net.Listener       // the first one
	instance string             // a service of which this process alone says that it is there
	serve    func(net.Listener) // serves what is listened on, in the background
}

// openSocket takes the socket that systemd has passed, or makes one at address. A crash
// leaves that, and the next start takes its place.
func openSocket(ctx context.Context, address string) (*socket, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take the socket from systemd: %w", err)
	}
	s := &socket{address: address}
	switch len(passed) {
	case 0:
		s.listener, err = listen(ctx, address)
		return s, err
	case 1:
		if s.listener = passed[0]; s.listener == nil || s.listener.Addr().Network() != "unix" {
			return nil, errors.New("what systemd passes is no unix socket that listens: see the unit with ListenStream=")
		}
		s.address = s.listener.Addr().String()
		return s, nil
	default:
		return nil, fmt.Errorf("systemd passes %d sockets, and one is served: leave one ListenStream= in the unit", len(passed))
	}
}

// announce lets this process alone, and no other, answer for its instance.
func (s *socket) announce(healthy *health.Server) {
	s.instance = "fsmeta-snapshotter/" + rand.Text()
	healthy.SetServingStatus(s.instance, healthapi.HealthCheckResponse_SERVING)
}

// keep makes the socket again where it is gone. It is an error where it leads to another
// program, or to none that answers in time. Connections through the former one go on.
func (s *socket) keep(ctx context.Context) error {
	err := s.answers(ctx)
	if errors.Is(err, errUnserved) {
		made, err := listen(ctx, s.address)
		if err != nil {
			return fmt.Errorf("make the socket again, which is gone: %w", err)
		}
		s.serve(made)
		log.L.Warnf("%s was gone, and was made again: see what removes it", s.address)
		return nil
	}
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.NotFound, codes.Unimplemented:
		return fmt.Errorf("another program listens on %s: stop it, then this one makes its socket again", s.address)
	default:
		return fmt.Errorf("call this program through %s: %w", s.address, err)
	}
}

// errUnserved: there is no socket, or no process listens on it.
var errUnserved = errors.New("no process listens on the socket")

// answers calls this process through its socket, as containerd does. The error is errUnserved
// only where the kernel says so: a full queue of connections, or one that is closed under
// load, has the same code.
func (s *socket) answers(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var unserved atomic.Bool
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", s.address)
		unserved.Store(errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
		return c, err
	}
	c, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	_, err = healthapi.NewHealthClient(c).Check(ctx, &healthapi.HealthCheckRequest{Service: s.instance})
	if err != nil && unserved.Load() {
		err = fmt.Errorf("%w: %w", errUnserved, err)
	}
	return errors.Join(err, c.Close())
}

// longestAddress is how long the path of a unix socket can be, in bytes.
const longestAddress = 107

// checkAddress looks whether a socket can be made, and reports whether one is there that
// no process listens on any more.
func checkAddress(address string) (stale bool, err error) {
	info, err := os.Lstat(address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode().Type() != fs.ModeSocket:
		return false, fmt.Errorf("%s is there and is no socket: choose another --address", address)
	}
	c, err := net.Dial("unix", address)
	if err == nil {
		_ = c.Close() // it was only to see whether a program answers
		return false, fmt.Errorf("another program listens on %s: stop it, or choose another --address", address)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false, err
	}
	return true, nil
}

// listen makes the socket, with the directory that it is in. It takes the place of one that
// no process listens on any more. A lock on a file beside it, which stays, orders the processes
// that do so: else one could remove the socket that another has just made. A program that does not
// ask for the lock is not excluded.
func listen(ctx context.Context, address string) (net.Listener, error) {
	if len(address) > longestAddress {
		return nil, fmt.Errorf("%s is longer than the %d bytes that the path of a socket can have: choose another --address", address, longestAddress)
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o711); err != nil {
		return nil, err
	}
	unlock, err := lockAddress(ctx, address)
	if err != nil {
		return nil, err
	}
	l, err := listenLocked(address)
	if err := errors.Join(err, unlock()); err != nil {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	return l, nil
}

// listenLocked is listen for the holder of the lock.
func listenLocked(address string) (net.Listener, error) {
	stale, err := checkAddress(address)
	if stale {
		err = os.Remove(address)
	}
	if err != nil {
		return nil, err
	}
	return bind(address)
}

// lockAddress excludes other processes that make a socket at address, until unlock is called.
// The holder has it for a moment. A crash leaves the file, which says nothing.
func lockAddress(ctx context.Context, address string) (unlock func() error, err error) {
	path := address + ".lock"
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	return lock.New(path).Lock(ctx)
}

// bind makes the socket where there is none. A crash leaves it, and an error may: no process
// listens on it, so the next start takes its place.
func bind(address string) (net.Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would remove whatever is at address by then
	made, err := os.Lstat(address)
	if err == nil {
		err = os.Chmod(address, 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ownListener{UnixListener: l, address: address, made: made}, nil
}

// ownListener is a listener that removes the socket that it has made when it is closed, and
// no other that is in its place.
type ownListener struct {
	*net.UnixListener
	address string
	made    os.FileInfo
	removed sync.Once
}

// Close removes the socket before it stops to listen: until then no other file can have the
// same inode, and other daemons leave the socket alone. A program that puts its own there just
// between the look and the removal loses that.
func (l *ownListener) Close() error {
	var err error
	l.removed.Do(func() { err = l.remove() })
	return errors.Join(err, l.UnixListener.Close())
}

func (l *ownListener) remove() error {
	now, err := os.Lstat(l.address)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(l.made, now) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(l.address)
}
