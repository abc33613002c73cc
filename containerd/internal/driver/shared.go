//go:build linux

package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// shared reports whether the store is that of the driver that embeds the snapshotter.
func (s *Snapshotter) shared() bool { return s.config.Meta != nil }

// openShared opens a root directory with a store that is shared, of that kind of content, "" for one that is
// not marked. The rest of the directory is the driver's.
//
// A crash leaves a root that is not marked, or one that is. Content that was being made is
// deleted by the next call.
func (s *Snapshotter) openShared(kind string) error {
	s.meta = s.config.Meta
	if err := s.checkStore(kind); err != nil {
		return err
	}
	if err := s.checkImported(); err != nil {
		return err
	}
	if err := s.tryMeta(); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(s.root, snapshotsDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.emptyMaking(); err != nil {
		return err
	}
	if kind == "" {
		return Mark(s.root, s.content.Kind())
	}
	return atomicfs.SyncDir(s.root) // the name of snapshots/
}

// emptyMaking makes the directory for what is being made anew. A crash leaves some of what was in it, or not the directory.
func (s *Snapshotter) emptyMaking() error {
	making := filepath.Join(s.root, makingDir)
	if err := files.Remove(making); err != nil {
		return err
	}
	return os.Mkdir(making, 0o700)
}

// checkStore refuses a shared store that can't be the one of the content: it is gone, or the root
// has one of its own.
func (s *Snapshotter) checkStore(kind string) error {
	own := filepath.Join(s.root, metaDir)
	if _, err := os.Stat(filepath.Join(own, "layout")); err == nil && kind != "" && s.meta.Path() != own {
		return fmt.Errorf("its content is that of the store %s, not of %s: open it without a store, or with that one", own, s.meta.Path())
	}
	if _, err := os.Stat(s.meta.Path()); errors.Is(err, fs.ErrNotExist) && kind != "" {
		return fmt.Errorf("its store is gone: mount what it is on, or restore it: %w", err)
	}
	return nil
}

// checkImported refuses content beside a store to which nothing was ever written: Cleanup would
// delete it. It makes no store for that.
func (s *Snapshotter) checkImported() error {
	names, err := Directories(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !slices.ContainsFunc(names, isNumber) {
		return err
	}
	_, err = os.Stat(s.meta.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return s.notImported()
	}
	return s.checkUsed(context.Background(), names)
}

// checkUsed refuses content under identifiers that were not handed out by the store, where nothing was
// ever written to that: it is not the store of that content. A crash in the first Prepare leaves
// content under one that was handed out.
func (s *Snapshotter) checkUsed(ctx context.Context, names []string) error {
	var unused bool
	err := s.read(ctx, func(ctx context.Context) (err error) {
		unused, err = fsmeta.FromContext(ctx).Unused(ctx)
		return err
	})
	if err != nil || !unused {
		return err
	}
	next, err := nextOf(s.meta.Path())
	if err != nil {
		return err
	}
	handedOut := func(id string) bool {
		n, err := strconv.ParseUint(id, 10, 64)
		return err == nil && n < next
	}
	if slices.ContainsFunc(names, func(name string) bool { return isNumber(name) && !handedOut(name) }) {
		return s.notImported()
	}
	return nil
}

// notImported is the error where there is content, and nothing was ever written to the store.
func (s *Snapshotter) notImported() error {
	return fmt.Errorf("%s has content, and nothing was ever written to the store %s: import the metadata that the content belongs to, "+
		"or choose another root directory", filepath.Join(s.root, snapshotsDir), s.meta.Path())
}
