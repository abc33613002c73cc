//go:build linux

package driver

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// patience is how long a metadata transaction may take before the log says which call keeps it.
const patience = time.Second

// holder is the call that has the turn to write in this process.
type holder struct {
	what, key string
	since     time.Time
}

// read runs fn in a read-only transaction.
func (s *Snapshotter) read(ctx context.Context, fn func(context.Context) error) error {
	return s.meta.WithTransaction(ctx, false, fn)
}

// write runs fn in a writable transaction. Where that takes long, the log says what it
// waits for.
func (s *Snapshotter) write(ctx context.Context, what, key string, fn func(context.Context) error) error {
	return s.patiently(ctx, what, key, func(stage *atomic.Int32) error {
		var committed time.Time // when that began
		err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
			stage.Store(holding)
			s.holder.Store(&holder{what, key, time.Now()})
			defer stage.Store(committing)
			defer s.holder.Store(nil)
			err := fn(ctx)
			if err == nil {
				committed = time.Now()
			}
			return err
		})
		if !committed.IsZero() {
			tellTook(s.observer.Metadata, committed, err)
		}
		return err
	})
}

// newID returns an identifier for key, which waits for a turn to write as write does.
func (s *Snapshotter) newID(ctx context.Context, key string) (id string, err error) {
	err = s.patiently(ctx, "prepare", key, func(*atomic.Int32) error {
		id, err = s.meta.NewID(ctx)
		return err
	})
	return id, err
}

// patiently runs fn, and logs where it is when that takes long.
func (s *Snapshotter) patiently(ctx context.Context, what, key string, fn func(stage *atomic.Int32) error) error {
	begin := time.Now()
	var stage atomic.Int32
	slow := time.AfterFunc(patience, func() { s.tell(ctx, what, key, stage.Load()) })
	err := fn(&stage)
	if errors.Is(err, fsmeta.ErrFailed) {
		s.failing.Do(func() {
			log.G(ctx).WithError(err).Error("the store takes no writes any more until it is opened anew: restart, and look for errors of the disk")
			close(s.failed)
		})
	}
	if !slow.Stop() {
		log.G(ctx).WithField("key", key).Warnf("the metadata transaction of %s took %v", what, time.Since(begin).Round(time.Millisecond))
	}
	return err
}

// The stages of a transaction.
const (
	waiting = iota
	holding
	committing
)

// tell says what a transaction waits for.
func (s *Snapshotter) tell(ctx context.Context, what, key string, stage int32) {
	entry := log.G(ctx).WithField("key", key)
	switch h := s.holder.Load(); {
	case stage == holding:
		entry.Warnf("%s keeps the metadata transaction for over %v, and others wait", what, patience)
	case stage == committing:
		entry.Warnf("%s waits for the disk for over %v: its metadata is being synced", what, patience)
	case h != nil:
		entry.WithField("holder", h.key).Warnf("%s waits for the metadata transaction for over %v: %s has it, for %v",
			what, patience, h.what, time.Since(h.since).Round(time.Millisecond))
	default:
		entry.Warnf("%s waits for the metadata transaction for over %v: the store is syncing, or another process has its lock (fuser -v %s shows it)",
			what, patience, filepath.Join(s.meta.Path(), "staging"))
	}
}
