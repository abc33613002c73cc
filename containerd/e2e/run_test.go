//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

// importChanging imports an image of several layers that change what is in those below.
func importChanging(t testing.TB, s *stand) *image {
	t.Helper()
	im := newImage(t, "changing", changingLayers(t))
	s.importImage(im)
	return im
}

// Every layer becomes a committed snapshot on the one below, and a container sees what
// all of them make: content, owners, modes and times, nothing that was deleted.
func TestUnpack(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := importChanging(t, s)
		want := []listed{}
		parent := ""
		for _, name := range im.chainIDs() {
			want = append(want, listed{name, parent, "Committed"})
			parent = name
		}
		if diff := cmp.Diff(want, s.list(s.namespace), sorted); diff != "" {
			t.Errorf("ctr snapshots ls (-want +got):\n%s", diff)
		}
		s.checkTree(im, "look", apply(changingLayers(t)))
		s.checkTree(im, "look-only", apply(changingLayers(t)), "--read-only")
		s.check()
	})
}

// What one container writes, deletes and changes, it sees, and no other.
func TestReadWrite(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := importChanging(t, s)
		got := s.run(im.name, "writer", "echo mine >/data/kept; rm -r /hidden; mkdir /hidden; chown 9:9 /owned; cat /data/kept; ls /hidden; stat -c %u:%g /owned", "--rm")
		if want := "mine\n9:9\n"; got != want {
			t.Errorf("the container sees %q of its own changes, want %q", got, want)
		}
		s.checkTree(im, "reader", apply(changingLayers(t)))
	})
}

// In a read-only container, writing fails and reading does not.
func TestReadOnly(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := importChanging(t, s)
		got := s.run(im.name, "reader", "cat /data/replaced; for f in /data/kept /new; do if echo mine >$f; then echo written; fi; done 2>&1", "--rm", "--read-only")
		want := "new, and longer\n" +
			"/bin/sh: can't create /data/kept: Read-only file system\n" +
			"/bin/sh: can't create /new: Read-only file system\n"
		if got != want {
			t.Errorf("the container says %q, want %q", got, want)
		}
	})
}

// Containers that run at the same time each have what they write for themselves, and have
// it again when they are stopped and started.
func TestSeveralContainers(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		const n = 6
		im := importChanging(t, s)
		id := func(i int) string { return fmt.Sprintf("several-%d", i) }
		var group errgroup.Group
		for i := range n {
			group.Go(func() error {
				_, err := s.tryRun(im.name, id(i), fmt.Sprintf("echo %s >>/data/replaced; exec sleep 1000", id(i)), "--detach")
				return err
			})
		}
		must(t, group.Wait())
		see := func(i int, want string) {
			t.Helper()
			eventually(t, id(i)+" sees what it has written", func() error { // its shell has just been started
				got, err := s.tryCtr("tasks", "exec", "--exec-id", "see", id(i), "cat", "/data/replaced")
				if err == nil && got != want {
					err = fmt.Errorf("it sees %q, want %q", got, want)
				}
				return err
			})
		}
		for i := range n {
			see(i, "new, and longer\n"+id(i)+"\n")
		}
		if got := len(strings.Fields(s.ctr("tasks", "ls", "--quiet"))); got != n {
			t.Errorf("%d tasks run, want %d", got, n)
		}
		active := 0
		for _, l := range s.list(s.namespace) {
			if l.Kind == "Active" && strings.HasPrefix(l.Key, "several-") {
				active++
			}
		}
		if active != n {
			t.Errorf("ctr snapshots ls has %d active snapshots, want %d", active, n)
		}

		s.ctr("tasks", "delete", "--force", id(0))
		s.ctr("tasks", "start", "--detach", id(0))
		see(0, "new, and longer\n"+id(0)+"\n"+id(0)+"\n")

		s.removeContainers()
		s.removeImages()
		s.checkEmpty()
	})
}
