//go:build linux

package driver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// takeRoom leaves no room on a disk, until release is called.
func (d *disk) takeRoom() (release func() error) {
	d.t.Helper()
	path := filepath.Join(d.path, "filler")
	file, err := os.Create(path)
	must(d.t, err)
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; { // smaller and smaller, to the last byte
		if _, err = file.Write(block[:size]); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else {
			must(d.t, err)
		}
	}
	must(d.t, file.Close())
	return func() error { return os.Remove(path) }
}

// On a full disk, what can't be made or committed fails with the reason and leaves nothing;
// what is there stays as it is; and when there is room, all works again.
func TestFullDisk(t *testing.T) {
	onDisks(t, func(t *testing.T, kind string, d *disk) {
		ctx, root := context.Background(), filepath.Join(d.path, "root")
		s, err := kinds[kind](root)
		must(t, err)
		mounts, err := s.Prepare(ctx, "key", "")
		must(t, err)
		must(t, writeContent(upperOf(mounts), "layer"))
		must(t, s.Commit(ctx, "layer", "key"))
		mounts, err = s.Prepare(ctx, "active", "layer")
		must(t, err)

		release := d.takeRoom()
		made := map[string]bool{"layer": true, "active": true}
		for i := range 1000 { // some find room, such as what was reserved for inodes
			key := fmt.Sprint("full", i)
			_, err = s.Prepare(ctx, key, "layer")
			if err != nil {
				break
			}
			made[key] = true
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("of %d calls the last says %v, want that the disk is full", len(made)-1, err)
		}
		t.Logf("the disk was full after %d snapshots", len(made)-2)
		ids, err := idsOf(ctx, metaOf(kind, root))
		must(t, err)
		if len(ids) != len(made) {
			t.Errorf("there are %v, want %v", ids, made)
		}
		entries, err := os.ReadDir(filepath.Join(root, "snapshots"))
		must(t, err)
		if len(entries) != len(ids) {
			t.Errorf("there are %d directories for %d snapshots", len(entries), len(ids))
		}
		must(t, release())

		must(t, writeContent(upperOf(mounts), "second"))
		must(t, s.Commit(ctx, "second", "active"))
		must(t, s.Close())
		known := newKnown()
		for name := range made {
			known.certain[name] = true
		}
		delete(known.certain, "active")
		known.certain["second"] = true
		must(t, known.check(kind, root))
	})
}
