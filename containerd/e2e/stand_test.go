//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pluginName is what the snapshotter that is tested is called in containerd.
const pluginName = "fsmeta"

// stand is a containerd of its own, with daemons that are its proxy plugins, in a
// directory of its own.
type stand struct {
	testing.TB
	dir          string
	namespace    string // in containerd, and the name of the containers' control group
	snapshotter  string // the one that is tested: that of the daemon, or a built-in one
	inside       string // options of the snapshotter that is in containerd itself; "" where it has a daemon
	sandboxImage string // what Kubernetes's pods run themselves; "" where containerd is without it
	containerd   *program
	daemons      map[string]*daemon // by the name of the plugin
}

// newStand returns one in which nothing runs yet. Whatever runs in it when the test ends
// is stopped.
func newStand(t testing.TB, snapshotter string) *stand {
	t.Helper()
	need(t)
	s := &stand{TB: t, dir: newDirectory(t), snapshotter: snapshotter, daemons: map[string]*daemon{}}
	s.namespace = filepath.Base(os.Getenv(placeVariable)) + "-" + filepath.Base(s.dir)
	t.Cleanup(s.close)
	return s
}

// startStand returns one with the daemon and a containerd that are ready. The arguments
// are more of those of the daemon.
func startStand(t testing.TB, arguments ...string) *stand {
	t.Helper()
	s := newStand(t, pluginName)
	s.startDaemon(pluginName, arguments...)
	s.startContainerd()
	return s
}

// startInside returns one with a containerd that has the snapshotter in it, with these options.
func startInside(t testing.TB, options ...string) *stand {
	t.Helper()
	s := newStand(t, pluginName)
	s.placeInside(options...)
	s.startContainerd()
	return s
}

// placeInside makes containerd one that has the snapshotter in it. It skips the test where there is none, or
// fails it where FSMETA_E2E=1 asks for everything, and containerd is one that could have it.
func (s *stand) placeInside(options ...string) {
	s.Helper()
	if _, err := exec.LookPath(insideName); err != nil {
		if os.Getenv("FSMETA_E2E") == "1" && containerdMajor() >= 2 {
			s.Fatalf("%v: go build -o DIR ./%s, beside the containerd of FSMETA_CONTAINERD=DIR", err, insideName)
		}
		s.Skip(err)
	}
	s.inside = strings.Join(append([]string{fmt.Sprintf("root_path = %q", s.root())}, options...), "\n") + "\n"
}

// insideName is the containerd that has the snapshotter in it.
const insideName = "containerd-inside"

// eachKind runs a test with each kind of snapshotter that the daemon has, and inside of containerd.
func eachKind(t *testing.T, test func(t *testing.T, s *stand)) {
	eachDaemon(t, test)
	t.Run("inside", func(t *testing.T) { test(t, startInside(t)) })
}

// eachDaemon runs a test with each kind of snapshotter that the daemon has.
func eachDaemon(t *testing.T, test func(t *testing.T, s *stand)) {
	for _, kind := range []string{"overlay", "native"} {
		t.Run(kind, func(t *testing.T) { test(t, startStand(t, "--snapshotter", kind)) })
	}
}

func (s *stand) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}

// root is the root directory of the snapshotter that is tested.
func (s *stand) root() string { return s.path(pluginName) }

// close ends containers and programs, each in the way that it is meant to be ended, and
// fails the test if anything is left then.
func (s *stand) close() {
	if s.Failed() {
		s.showLogs()
	}
	if s.containerd != nil && s.containerd.running() == nil {
		s.removeContainers()
		s.stopContainerd()
	}
	for _, d := range s.daemons {
		if d.program.running() == nil {
			d.program.stop(s)
		}
		if log, err := os.ReadFile(d.log); err != nil || bytes.Contains(log, []byte("DATA RACE")) {
			s.Errorf("the race detector has found something in the daemon: %v\n%s", err, log)
		}
	}
	checkNothingLeft(s, s.dir)
	must(s, removeGroups(s.namespace))
	must(s, os.RemoveAll(s.dir))
}

func (s *stand) showLogs() {
	logs, err := filepath.Glob(s.path("*.log"))
	must(s, err)
	for _, log := range logs {
		s.Log(tail(log))
	}
}

// startContainerd starts containerd, for the first time or again, with the daemons as
// proxy plugins, and returns when it is ready.
func (s *stand) startContainerd() {
	s.Helper()
	must(s, os.WriteFile(s.path("config.toml"), []byte(s.config()), 0o600))
	name := "containerd"
	if s.inside != "" {
		name = insideName
	}
	s.containerd = start(s, s.path("containerd.log"), name, "--config", s.path("config.toml"))
	s.containerd.awaitReady(s, func() error {
		_, err := s.tryCtr("version")
		return err
	})
}

func (s *stand) stopContainerd() {
	s.Helper()
	s.containerd.stop(s)
}

// config returns the configuration of containerd.
func (s *stand) config() string {
	var c strings.Builder
	if containerdMajor() >= 2 {
		disabled := []string{"io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"}
		if s.sandboxImage == "" {
			disabled = append(disabled, "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")
		}
		fmt.Fprintf(&c, "version = 3\ndisabled_plugins = %s\n", quoted(disabled...))
	} else {
		fmt.Fprintf(&c, "version = 2\ndisabled_plugins = %s\n", quoted(
			"io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"))
	}
	fmt.Fprintf(&c, "root = %q\nstate = %q\n[grpc]\naddress = %q\n", s.path("root"), s.path("state"), s.path("c.sock"))
	if s.sandboxImage != "" {
		return c.String() + s.kubernetesConfig()
	}
	if containerdMajor() >= 2 {
		// What images are unpacked to on import and pull has to be named here. Layers are
		// unpacked in parallel on pull, if the snapshotter has the capability "rebase".
		c.WriteString("[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_unpacks = 4\n")
		names := append(s.plugins(), "overlayfs", "native")
		if s.inside != "" {
			names = append(names, pluginName)
		}
		for _, name := range names {
			fmt.Fprintf(&c, "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = %q\nsnapshotter = %q\n", platform, name)
		}
	}
	if s.inside != "" {
		c.WriteString("[plugins.'io.containerd.snapshotter.v1." + pluginName + "']\n" + s.inside)
	}
	for _, name := range s.plugins() {
		fmt.Fprintf(&c, "[proxy_plugins.%s]\ntype = \"snapshot\"\naddress = %q\n", name, s.daemons[name].socket)
		if s.rebases(name) {
			c.WriteString("capabilities = [\"rebase\"]\n")
		}
	}
	return c.String()
}

// rebases reports whether a snapshotter can unpack layers side by side.
func (s *stand) rebases(name string) bool {
	return s.inside != "" || !slices.Contains(s.daemons[name].arguments, "native")
}

// plugins returns the names of the daemons.
func (s *stand) plugins() (names []string) {
	for name := range s.daemons {
		names = append(names, name)
	}
	return names
}

func quoted(words ...string) string {
	return `["` + strings.Join(words, `", "`) + `"]`
}
