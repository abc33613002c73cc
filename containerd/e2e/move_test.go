//go:build linux

package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Images and containers of a containerd with its built-in snapshotter go on under the
// daemon's after the import: nothing is unpacked again, and what a stopped container had
// written is there when it is started again.
func TestImport(t *testing.T) {
	for builtIn, kind := range map[string]string{"overlayfs": "overlay", "native": "native"} {
		t.Run(builtIn, func(t *testing.T) { testImport(t, builtIn, kind) })
	}
}

// A root directory goes from the snapshotter in containerd to the daemon and back, with all that
// is in it.
func TestMoveOut(t *testing.T) {
	s := startInside(t)
	im := importChanging(t, s)
	s.run(im.name, "stopped", "echo mine >/data/new")
	s.snapshots("commit", "committed", "stopped")
	s.collect() // containerd does that whenever it starts
	namespaces := []string{s.namespace}
	before := s.known(namespaces)
	if len(before) == 0 {
		t.Fatal("there are no snapshots")
	}
	compare := func() {
		t.Helper()
		if diff := cmp.Diff(before, s.known(namespaces)); diff != "" {
			t.Errorf("what ctr says of snapshots (-before +after):\n%s", diff)
		}
		s.checkTree(im, "look", apply(changingLayers(t)))
		s.check()
	}
	s.stopContainerd()
	s.inside = ""
	s.startDaemon(pluginName)
	s.startContainerd()
	compare()

	s.stopContainerd()
	s.daemons[pluginName].stop(t)
	delete(s.daemons, pluginName)
	s.placeInside()
	s.startContainerd()
	compare()
	s.removeContainers()
	s.snapshots("rm", "committed")
	s.removeImages()
	s.checkEmpty()
}

func testImport(t *testing.T, builtIn, kind string) {
	s := newStand(t, builtIn)
	s.startContainerd()
	changing := importChanging(t, s)
	deep := newImage(t, "deep", manyLayers(t, 20))
	s.importImage(deep)
	other := s.namespace + "-other"
	_, err := s.ctrIn(other, "images", "import", "--snapshotter", builtIn, changing.save(t, s.dir))
	must(t, err)
	const script = "cat /data/new; echo written >>/data/new; rm -f /data/kept; exec sleep 1000"
	s.run(changing.name, "stopped", script, "--detach")
	eventually(t, "the container writes", func() error {
		_, err := s.tryCtr("tasks", "exec", "--exec-id", "see", "stopped", "grep", "written", "/data/new")
		return err
	})
	s.ctr("tasks", "delete", "--force", "stopped")
	s.run(changing.name, "to-commit", "echo prepared >/data/prepared")
	s.snapshots("commit", "committed", "to-commit")
	s.ctr("containers", "delete", "to-commit")

	s.collect() // containerd does that whenever it starts
	namespaces := []string{s.namespace, other}
	before := s.known(namespaces)
	s.stopContainerd()
	s.importFromContainerd(pluginName)

	s.snapshotter = pluginName
	s.startDaemon(pluginName, "--snapshotter", kind)
	s.startContainerd()
	s.check()
	if diff := cmp.Diff(before, s.known(namespaces)); diff != "" {
		t.Errorf("ctr snapshots of %s before and of %s after the import (-before +after):\n%s", builtIn, pluginName, diff)
	}
	if diff := cmp.Diff(before, fromStore(t, namespaces, readLive(t, s.store()))); diff != "" {
		t.Errorf("what the store has (-ctr before +store):\n%s", diff)
	}
	s.checkContent(readLive(t, s.store()))
	s.snapshotter = builtIn
	if left := s.list(s.namespace); len(left) > 0 {
		t.Errorf("%s still has %q", builtIn, left)
	}
	s.snapshotter = pluginName

	s.checkTree(changing, "of-changing", apply(changingLayers(t)))
	s.checkTree(deep, "of-deep", apply(manyLayers(t, 20)))
	s.snapshots("prepare", "on-committed", "committed")
	if got := s.runOn("on-committed", "cat /data/prepared"); got != "prepared\n" {
		t.Errorf("a container on the committed snapshot sees %q", got)
	}
	s.snapshots("rm", "on-committed")
	s.ctr("tasks", "start", "--detach", "stopped")
	eventually(t, "the container has what it wrote before, and writes on", func() error {
		_, err := s.tryCtr("tasks", "exec", "--exec-id", "see", "stopped", "/bin/sh", "-c", "test ! -e /data/kept && test $(grep -c written /data/new) = 2")
		return err
	})
	if diff := cmp.Diff(before, s.known(namespaces)); diff != "" {
		t.Errorf("snapshots before the import and after containers have run (-before +after):\n%s", diff)
	}

	s.removeContainers()
	s.snapshots("rm", "committed")
	s.removeImages()
	s.checkEmpty()
}
