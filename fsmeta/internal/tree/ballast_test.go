package tree

import (
	"os"
	"path/filepath"
	"testing"
)

// Ballast of which a crash has left a part is made again; ballast that is there stays.
func TestKeepBallast(t *testing.T) {
	const size = 10_000
	tree := newTree(t)
	path := filepath.Join(tree.staging.Path, Ballast)
	want := func() {
		t.Helper()
		if info, err := os.Stat(path); err != nil || info.Size() != size {
			t.Errorf("%v, %v, want %d bytes", info, err, size)
		}
	}
	tree.KeepBallast(size)
	want()
	was := inode(t, path)
	tree.KeepBallast(size)
	if inode(t, path) != was {
		t.Error("it was made again though it is there")
	}
	for _, left := range []int64{0, size - 1} {
		if err := os.Truncate(path, left); err != nil {
			t.Fatal(err)
		}
		tree.KeepBallast(size)
		want()
	}
	if !tree.DropBallast() || tree.DropBallast() {
		t.Error("it was not there, or is there once more")
	}
	tree.AwaitRoom()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Error(err)
	}
}
