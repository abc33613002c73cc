package peers_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// blockSize is what a disk loses at once.
const blockSize = 4096

// One block of a store has other content, whichever it is: all snapshots but the one that it belongs to can be read, after a
// repair where it is the layout's. What it costs containerd's store is logged.
func TestOneBadBlock(t *testing.T) {
	const count = 200
	random := rand.New(rand.NewPCG(1, 2))
	for _, p := range []peers.Peer{peers.FS, peers.Bolt} {
		t.Run(p.Name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			makeLayers(t, p, path, count)
			losses, blocks, most := map[string]int{}, blocksOf(t, path), 0
			for _, b := range blocks {
				restore := b.damage(t, random)
				n, err := survivors(p, path)
				if n == 0 && p.Name == peers.FS.Name {
					n = afterRepair(t, path)
				}
				most = max(most, count-n)
				switch {
				case n == 0:
					losses["all snapshots"]++
				case n < count-1:
					losses["several"]++
				case n < count:
					losses["one"]++
				case err != nil:
					losses["none, and an error tells"]++
				default:
					losses["none"]++
				}
				restore()
			}
			t.Logf("%s: each of %d blocks of a store with %d snapshots was damaged, and these were lost: %v", p.Name, len(blocks), count, losses)
			if p.Name == peers.FS.Name && most > 1 {
				t.Errorf("one block has cost %d snapshots", most)
			}
		})
	}
}

// makeLayers makes a store with so many layers, each on the one before, in images of ten.
func makeLayers(t *testing.T, p peers.Peer, path string, count int) {
	t.Helper()
	s, err := p.Open(path)
	must(t, err)
	must(t, s.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		parent := ""
		for i := range count {
			if i%10 == 0 {
				parent = ""
			}
			name := fmt.Sprintf("sha256:%064x", i*i*i)
			if _, err := s.CreateSnapshot(ctx, snapshots.KindActive, "key", parent, snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": name})); err != nil {
				return err
			}
			if _, err := s.CommitActive(ctx, "key", name, snapshots.Usage{Size: 1, Inodes: 1}); err != nil {
				return err
			}
			parent = name
		}
		return nil
	}))
	must(t, s.Close())
}

// block is one block of a file.
type block struct {
	path string
	off  int64
}

// blocksOf returns all blocks of a store, which is a file or a directory.
func blocksOf(t *testing.T, path string) (all []block) {
	t.Helper()
	must(t, filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.Contains(path, "staging") {
			return err
		}
		info, err := entry.Info()
		for off := int64(0); err == nil && off < info.Size(); off += blockSize {
			all = append(all, block{path, off})
		}
		return err
	}))
	return all
}

// damage gives the block other content, until restore is called.
func (b block) damage(t *testing.T, random *rand.Rand) (restore func()) {
	t.Helper()
	was, err := os.ReadFile(b.path)
	must(t, err)
	now := append([]byte(nil), was...)
	for i := b.off; i < min(b.off+blockSize, int64(len(now))); i++ {
		now[i] = byte(random.Uint32())
	}
	b.replace(t, now)
	return func() { b.replace(t, was) }
}

// replace replaces the file by another: a package that has panicked may have a lock on that.
func (b block) replace(t *testing.T, data []byte) {
	t.Helper()
	must(t, os.Remove(b.path))
	must(t, os.WriteFile(b.path, data, 0o600))
}

// survivors returns how many snapshots the store's own package finds, and its error. A panic is one.
func survivors(p peers.Peer, path string) (n int, err error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		debug.SetPanicOnFault(true)
		var r result
		defer func() {
			if why := recover(); why != nil {
				r.err = fmt.Errorf("panic: %v", why)
			}
			done <- r
		}()
		s, err := p.Open(path)
		if err != nil {
			r.err = err
			return
		}
		r.err = s.WithTransaction(context.Background(), false, func(ctx context.Context) error {
			return s.WalkInfo(ctx, func(context.Context, snapshots.Info) error { r.n++; return nil })
		})
		r.err = errors.Join(r.err, s.Close())
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-time.After(10 * time.Second):
		return 0, errors.New("it does not end")
	}
}

// afterRepair returns how many snapshots there are in a copy of the store, when that is repaired.
func afterRepair(t *testing.T, path string) int {
	t.Helper()
	broken := filepath.Join(t.TempDir(), "broken")
	must(t, os.CopyFS(broken, os.DirFS(path)))
	_, err := fsmeta.Repair(t.Context(), broken, nil)
	must(t, err)
	n, _ := survivors(peers.FS, broken)
	return n
}
