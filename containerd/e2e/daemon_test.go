//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
)

// daemon is an fsmeta-snapshotter that was started.
type daemon struct {
	*program
	root, socket string
	arguments    []string
	kept         *os.File // the socket, where it is kept over restarts as systemd does; else nil
}

// startDaemon starts the daemon that is the proxy plugin of that name, and returns when
// it is ready. The arguments are more of its own.
func (s *stand) startDaemon(name string, arguments ...string) {
	s.Helper()
	d := &daemon{root: s.path(name), socket: s.path(name + ".sock")}
	d.arguments = append([]string{"--root", d.root, "--address", d.socket}, arguments...)
	s.daemons[name] = d
	s.restartDaemon(name)
}

// startKeptDaemon is startDaemon with a socket that stays while the daemon is restarted.
func (s *stand) startKeptDaemon(name string, arguments ...string) {
	s.Helper()
	d := &daemon{root: s.path(name), socket: s.path(name + ".sock")}
	d.arguments = append([]string{"--root", d.root}, arguments...)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket, Net: "unix"})
	must(s, err)
	l.SetUnlinkOnClose(false)
	d.kept, err = l.File()
	must(s, errors.Join(err, l.Close())) // kept is another descriptor
	s.Cleanup(func() { must(s, d.kept.Close()) })
	s.daemons[name] = d
	s.restartDaemon(name)
}

// restartDaemon starts a daemon that has ended, and returns when it is ready.
func (s *stand) restartDaemon(name string) {
	s.Helper()
	d, log := s.daemons[name], s.path(name+".log")
	starts := func() int {
		data, err := os.ReadFile(log)
		if err != nil {
			return 0 // it was not started yet
		}
		return bytes.Count(data, []byte("serving the "))
	}
	before := starts()
	if d.kept == nil {
		d.program = start(s, log, os.Getenv(daemonVariable), d.arguments...)
	} else {
		d.program = startPassing(s, log, d.kept, os.Getenv(daemonVariable), d.arguments...)
	}
	d.awaitReady(s, func() error {
		if starts() == before {
			return errors.New("it does not say that it serves")
		}
		return nil
	})
}

// check runs the daemon's own check, and fails the test if that finds anything.
func (s *stand) check() {
	s.Helper()
	output, err := exec.Command(os.Getenv(daemonVariable), "--root", s.root(), "check").CombinedOutput()
	if err != nil {
		s.Errorf("fsmeta-snapshotter check: %v\n%s", err, output)
	}
}

// importFromContainerd takes over what containerd's built-in snapshotter has, the one of
// the stand, for the proxy plugin of that name. containerd must be stopped.
func (s *stand) importFromContainerd(name string) {
	s.Helper()
	output, err := exec.Command(os.Getenv(daemonVariable), "--root", s.path(name), "import",
		"--containerd-root", s.path("root"), "--from", s.snapshotter, "--name", name).CombinedOutput()
	if err != nil {
		s.Fatalf("fsmeta-snapshotter import: %v\n%s", err, output)
	}
}
