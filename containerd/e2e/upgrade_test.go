//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// While an image is pulled and a container runs, the daemon is restarted over and over, with a
// socket that stays: the pull succeeds, and the container notices nothing.
func TestUpgradeWhilePulling(t *testing.T) {
	s := newStand(t, pluginName)
	s.startKeptDaemon(pluginName)
	s.startContainerd()
	changing := importChanging(t, s)
	s.run(changing.name, "running", "while true; do echo on >>/data/kept; sleep 0.1; done", "--detach")

	large := newImage(t, "large", manyLayers(t, 40))
	large.name = large.serveRegistry(t)
	pulled := make(chan error, 1)
	go func() {
		_, err := s.tryCtr("images", "pull", "--plain-http", "--snapshotter", s.snapshotter, large.name)
		pulled <- err
	}()
	upgrades := 0
	for done := false; !done; upgrades++ {
		s.daemons[pluginName].stop(t)
		s.restartDaemon(pluginName)
		select {
		case err := <-pulled:
			must(t, err)
			done = true
		default:
		}
	}
	t.Logf("%d upgrades during the pull", upgrades)
	if upgrades < 2 {
		t.Errorf("the pull has seen %d upgrades: it says nothing", upgrades)
	}
	lines := func() int {
		return strings.Count(s.ctr("tasks", "exec", "--exec-id", "see", "running", "cat", "/data/kept"), "on\n")
	}
	before := lines()
	eventually(t, "the container goes on writing", func() error {
		if now := lines(); now <= before {
			return fmt.Errorf("it has written %d lines, as before", now)
		}
		return nil
	})
	s.check()
}
