//go:build linux

package e2e

import (
	"net"
	"os"
	"os/exec"
)

// daemon is an fsmeta-snapshotter that was started.
type daemon struct {
	*program
	root, socket string
	arguments    []string
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

// restartDaemon starts a daemon that has ended, and returns when it is ready.
func (s *stand) restartDaemon(name string) {
	s.Helper()
	d := s.daemons[name]
	d.program = start(s, s.path(name+".log"), os.Getenv(daemonVariable), d.arguments...)
	d.awaitReady(s, func() error {
		conn, err := net.Dial("unix", d.socket)
		if err != nil {
			return err
		}
		return conn.Close()
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
