//go:build linux

package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/containerd/log"
	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
)

// syncer brings content to the disk.
//
// Much of it is synced with the whole filesystem, which is what costs least while most of
// what is unwritten is content anyway. Calls that wait meanwhile share the next one. It is
// done through one open file, to which the kernel tells every failure to write since it
// was opened, once: so one at a time. Only calls that sync wait for it.
//
// After a failure nothing is known of any content that was made before. The files don't
// tell: one that could not be written may have left the cache, and its error with it. Nor does the kernel
// tell once more: so lost keeps it for the next process.
type syncer struct {
	dir    *os.File                                    // snapshots/
	all    func(dir *os.File) error                    // syncs the filesystem
	tree   func(ctx context.Context, dir string) error // syncs the files of one snapshot
	begun  atomic.Uint64
	lost   func()        // is called after each failure, by the holder of turn
	failed atomic.Uint64 // how many have failed: written by the holder of turn alone

	turn chan struct{} // holds a value while there is a sync under way
	good uint64        // the last one begun that has succeeded: of the holder of turn
}

// errLost: content may not have reached the disk, and never will.
var errLost = errors.New("something on this filesystem could not be written since the snapshot was made, and it can't be told what: " +
	"look for errors of the disk, and make the snapshot again")

func newSyncer(dir string) (*syncer, error) {
	f, err := os.Open(dir)
	return &syncer{dir: f, all: atomicfs.SyncFilesystem, tree: files.Sync, lost: func() {}, turn: make(chan struct{}, 1)}, err
}

func (s *syncer) close() error { return s.dir.Close() }

// failures returns how many syncs have failed. It waits for none: content that is made while
// one is under way which fails then is lost, too.
func (s *syncer) failures() uint64 { return s.failed.Load() }

// added makes a new directory and everything in it durable, its name too. After an error
// nothing is known of it.
func (s *syncer) added(ctx context.Context, dir string) error {
	named := make(chan error, 1) // at once, for then the kernel needs one write for all
	go func() { named <- atomicfs.SyncDir(s.dir.Name()) }()
	return errors.Join(files.Sync(ctx, dir), <-named)
}

// filesystem syncs the whole filesystem, for content that was made when so many had
// failed. It is errors.ErrUnsupported where that can't be done, errLost where it, or
// one since then, has failed, and that of ctx if this ends while another one is under way.
func (s *syncer) filesystem(ctx context.Context, failed uint64) error {
	arrived := s.begun.Load()
	if err := s.take(ctx, failed); err != nil {
		return err
	}
	defer s.give()
	if s.good > arrived {
		return nil // one that was begun later
	}
	n := s.begun.Add(1)
	err := s.all(s.dir)
	switch {
	case err == nil:
		s.good = n
	case !errors.Is(err, errors.ErrUnsupported):
		err = s.fail(err)
	}
	return err
}

// files syncs the files in dir, and its name, for content that the syncer can't vouch for. Errors are those of filesystem, and of
// [files.Sync]. It takes the turn: where it fails, another call for the same content would be told of nothing.
func (s *syncer) files(ctx context.Context, dir string, failed uint64) error {
	if err := s.take(ctx, failed); err != nil {
		return err
	}
	defer s.give()
	err := s.tree(ctx, dir)
	if err == nil {
		err = atomicfs.SyncDir(s.dir.Name())
	}
	if files.Unwritten(err) {
		err = s.fail(err)
	}
	return err
}

// take takes the turn. It is errLost, and leaves the turn to others, where not just so many syncs have failed.
func (s *syncer) take(ctx context.Context, failed uint64) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for another sync of the filesystem: %w", ctx.Err())
	}
	if s.failures() != failed {
		s.give()
		return errLost
	}
	return nil
}

func (s *syncer) give() { <-s.turn }

// fail counts a failure. The caller has the turn.
func (s *syncer) fail(err error) error {
	s.failed.Add(1)
	s.lost()
	return fmt.Errorf("%w: %w", errLost, err)
}

// unsyncedFile has the lowest identifier for which no sync has failed in an earlier process.
const unsyncedFile = "unsynced"

// noteLost keeps for later processes that a sync has failed: all content so far may be lost. That is done as far
// as it can be, on a filesystem that has just failed. A crash leaves the file as it was, or the new one, or a damaged
// one, which stands for all content.
func (s *Snapshotter) noteLost() {
	path := filepath.Join(s.root, unsyncedFile)
	next, err := nextOf(s.meta.Path())
	if err == nil {
		data := []byte(strconv.FormatUint(next, 10) + "\n")
		if err = atomicfs.WriteFile(path, s.root, data); err == nil {
			err = atomicfs.SyncDir(s.root)
		} else if os.WriteFile(path, data, 0o600) == nil { // then it outlasts the process at least
			err = fmt.Errorf("it may not outlast a power cut: %w", err)
		}
	}
	if err != nil {
		log.G(context.Background()).WithError(err).WithField("path", path).Error("a sync has failed, and that can't be kept for the next start")
	}
}

// readLost returns the identifier below which content that an earlier process has made may be lost, 0 where it is not.
func readLost(root string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(root, unsyncedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	below, err := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil || below == 0 { // it is damaged, or the journal was
		below = math.MaxUint64
	}
	return below, nil
}
