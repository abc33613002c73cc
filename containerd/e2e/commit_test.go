//go:build linux

package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a container does, and what it leaves behind.
const (
	change  = "echo written >/data/new; rm /data/kept; chown 3:4 /data/replaced"
	changed = "cat /data/new; ls /data/kept 2>&1; stat -c %u:%g /data/replaced; cat /data/linked"
	sees    = "written\nls: /data/kept: No such file or directory\n3:4\nkept\n"
)

// What a container has written is in a new image that is made of the difference between
// its snapshot and the one below, and a container of the new image sees it.
func TestCommitToImage(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := importChanging(t, s)
		s.run(im.name, "writer", change)
		committed := im.on("committed", s.diff("writer"))
		s.importImage(committed)
		s.ctr("containers", "delete", "writer")

		if got := s.run(committed.name, "reader", changed, "--rm"); got != sees {
			t.Errorf("a container of the new image sees %q, want %q", got, sees)
		}
		s.checkTree(im, "of-the-old-image", apply(changingLayers(t)))
		if want, got := len(im.layers)+1, len(s.list(s.namespace)); got != want {
			t.Errorf("there are %d snapshots, want %d: both images share those that they have in common", got, want)
		}
		s.removeImages()
		s.checkEmpty()
	})
}

// diff returns the difference between a snapshot and the one below it, as a layer.
func (s *stand) diff(key string) blob {
	s.Helper()
	r, err := gzip.NewReader(strings.NewReader(s.snapshots("diff", key)))
	must(s, err)
	archive, err := io.ReadAll(r)
	must(s, err)
	if !bytes.Contains(archive, []byte("written\n")) {
		s.Fatal("ctr snapshots diff does not have what was written")
	}
	return newBlob(s, archive)
}

// What a container has written is in the snapshot that its own is committed to, and a
// container on top of that sees it.
func TestCommitSnapshot(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := importChanging(t, s)
		s.run(im.name, "writer", change+"; chown 12:13 /")
		s.snapshots("commit", "committed", "writer")
		s.snapshots("prepare", "on-top", "committed")
		s.view("look-at", "committed")

		chain := im.chainIDs()
		for _, want := range []listed{
			{"committed", chain[len(chain)-1], "Committed"},
			{"on-top", "committed", "Active"},
			{"look-at", "committed", "View"},
		} {
			if got := s.find(want.Key); got != want {
				t.Errorf("ctr snapshots ls has %q, want %q", got, want)
			}
		}
		for _, key := range []string{"on-top", "look-at"} {
			got, want := s.runOn(key, changed+"; stat -c %u:%g /"), sees+"12:13\n"
			if got != want {
				t.Errorf("a container on %s sees %q, want %q", key, got, want)
			}
		}
		if _, err := s.tryCtr("snapshots", "--snapshotter", s.snapshotter, "rm", "committed"); err == nil {
			t.Error("a snapshot was removed on which others stand")
		}
		s.snapshots("rm", "on-top", "look-at")
		s.snapshots("rm", "committed")
		s.ctr("containers", "delete", "writer")
		s.removeImages()
		s.checkEmpty()
	})
}

// view makes a view of a snapshot that containerd keeps though nothing uses it. (That of
// ctr alone is garbage: ctr labels what it prepares and commits only.)
func (s *stand) view(key, parent string) {
	s.Helper()
	eventually(s, "make a view", func() error {
		if _, err := s.tryCtr("snapshots", "--snapshotter", s.snapshotter, "view", key, parent); err != nil {
			return err
		}
		_, err := s.tryCtr("snapshots", "--snapshotter", s.snapshotter, "label", key, "containerd.io/gc.root=test")
		return err // not found where it was collected in between
	})
}

// find returns the line of a snapshot.
func (s *stand) find(key string) listed {
	s.Helper()
	for _, l := range s.list(s.namespace) {
		if l.Key == key {
			return l
		}
	}
	s.Fatalf("ctr snapshots ls does not have %q", key)
	return listed{}
}

// runOn runs a script in a container that has a snapshot as its root directory, read-only, and
// returns what it prints.
func (s *stand) runOn(key, script string) string {
	s.Helper()
	dir := s.path("mounted-" + key)
	must(s, os.Mkdir(dir, 0o755))
	commands := s.snapshots("mounts", dir, key)
	if output, err := exec.Command("/bin/sh", "-ec", commands).CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", commands, err, output)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			s.Error(fmt.Errorf("unmount %s: %w", dir, err))
		}
	}()
	output, err := s.ctrRun("on-"+key, "--rm", "--read-only", "--rootfs", dir, "on-"+key, "/bin/sh", "-c", script)
	must(s, err)
	return output
}
