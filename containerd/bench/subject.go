//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"golang.org/x/sys/unix"
)

// sizes are how much of everything is measured.
type sizes struct {
	rounds int           // pairs of batches
	least  time.Duration // how long a batch that writes nothing takes at least
	batch  int           // durable transactions in a batch
	small  int           // snapshots in a store that is written to
	walk   int           // in one that is walked over
	big    int           // in a big one
	long   int           // operations of a kind in a long transaction
	churn  time.Duration // how long creating and removing in turn goes on
	slices int           // parts of it that take turns with the other store
	reads  int           // beside a writer, in a batch
	cold   int           // pairs of processes that open a store
	told   int           // commits that are told to another process
}

var fullSizes = sizes{
	rounds: 15, least: 60 * time.Millisecond, batch: 100, small: 1000, walk: 10_000, big: 100_000, long: 1000,
	churn: time.Minute, slices: 6, reads: 600, cold: 31, told: 300,
}

// quickSizes show that everything works, and nothing else.
var quickSizes = sizes{
	rounds: 2, least: 2 * time.Millisecond, batch: 16, small: 110, walk: 550, big: 1100, long: 50,
	churn: time.Second, slices: 2, reads: 100, cold: 2, told: 5,
}

// bench measures on one filesystem.
type bench struct {
	sizes
	ctx    context.Context
	dir    string // on the filesystem, and gone afterwards
	filled map[string]bool
}

// settle lets both begin alike: with no garbage in memory that was the other's, and
// nothing dirty on the filesystem, which a sync would have to write as well.
func (b *bench) settle() error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	runtime.GC()
	dir, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", b.dir, err)
	}
	return nil
}

// subject is an open store that is measured.
type subject struct {
	peers.Store
	peer peers.Peer
	path string
	size int // how many snapshots it was filled with
	made int // how many items were made for it
}

// open opens a store that was filled with that many snapshots.
func (b *bench) open(peer peers.Peer, path string, size int) (*subject, error) {
	store, err := peer.Open(path)
	if err != nil {
		return nil, err
	}
	s := &subject{Store: store, peer: peer, path: path, size: size}
	if err := s.warm(b.ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return s, nil
}

// warm walks over everything, as containerd does soon after it has started.
func (s *subject) warm(ctx context.Context) error {
	return s.WithTransaction(ctx, false, func(ctx context.Context) error {
		return s.WalkInfo(ctx, func(context.Context, snapshots.Info) error { return nil })
	})
}

// reopen closes the store and opens it again, so that nothing of what was prepared is
// still under way or put off.
func (s *subject) reopen(ctx context.Context) error {
	err := s.Close()
	if err == nil {
		s.Store, err = s.peer.Open(s.path)
	}
	if err == nil {
		err = s.warm(ctx)
	}
	return err
}

// makeStore makes a store, fills it, and gives it a past. It is not open then.
func (b *bench) makeStore(peer peers.Peer, path string, size int) error {
	store, err := peer.Open(path)
	if err != nil {
		return err
	}
	err = fill(b.ctx, store, size)
	if err == nil {
		err = age(b.ctx, store, b.small)
	}
	return errors.Join(err, store.Close())
}

// fresh returns what opens a new store of that size, in a directory of its own.
func (b *bench) fresh(size int) func(peers.Peer) (*subject, error) {
	return func(peer peers.Peer) (*subject, error) {
		dir, err := os.MkdirTemp(b.dir, peer.Name+"-")
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "store")
		if err := b.makeStore(peer, path, size); err != nil {
			return nil, err
		}
		return b.open(peer, path, size)
	}
}

// kept returns what opens the store of that size that is only read, or left as it was.
func (b *bench) kept(size int) func(peers.Peer) (*subject, error) {
	return func(peer peers.Peer) (*subject, error) {
		path, err := b.keptPath(peer, size)
		if err != nil {
			return nil, err
		}
		return b.open(peer, path, size)
	}
}

// keptPath returns where that store is. It is made when it is first asked for.
func (b *bench) keptPath(peer peers.Peer, size int) (string, error) {
	path := filepath.Join(b.dir, fmt.Sprintf("%s-of-%d", peer.Name, size))
	if b.filled[path] {
		return path, nil
	}
	if err := b.makeStore(peer, path, size); err != nil {
		return "", err
	}
	b.filled[path] = true
	return path, nil
}

// onBoth measures a store of either kind against one another, in that many rounds.
// open opens one, and of returns the batch that measures it.
func (b *bench) onBoth(open func(peers.Peer) (*subject, error), rounds, rows int, of func(*subject) (batch, error)) (all []samples, err error) {
	var both [2]batch
	for i, peer := range []peers.Peer{peers.Bolt, peers.FS} {
		s, openErr := open(peer)
		if openErr != nil {
			return nil, fmt.Errorf("%s: %w", peer.Name, openErr)
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		if both[i], err = of(s); err != nil {
			return nil, fmt.Errorf("%s: %w", peer.Name, err)
		}
		both[i].name = peer.Name
	}
	return interleave(rounds, rows, b.settle, both[0], both[1])
}
