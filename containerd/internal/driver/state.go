//go:build linux

package driver

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/internal/files"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// State is what is not as it should be with the snapshots and their content, as the last cleanup that came
// to its end has found and left it; zero where there was none yet.
type State struct {
	Cleaned time.Time // when that was
	Damaged int       // snapshots that can't be read, or have the identifier of another
	Missing bool      // snapshots are missing, or others are there than the store has counted

	Kept          int // directories that no snapshot has, and that may be a snapshot's
	KeptBytes     int64
	Orphaned      int // directories that no snapshot has, and that can't be deleted
	OrphanedBytes int64
}

// health is what the State is made of, and what was logged.
type health struct {
	mu     sync.Mutex
	logged map[string]bool // what is logged once
	kept   map[string]string
	sizes  map[string]int64 // of the directories in kept
	state  State
}

// State says what is known to be wrong. It costs nothing.
func (s *Snapshotter) State() State {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.state
}

// first reports whether a text was not logged yet.
func (h *health) first(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	again := h.logged[text]
	h.logged[text] = true
	return !again
}

// noteDamage logs what was not logged yet.
func (s *Snapshotter) noteDamage(ctx context.Context, damage []*fsmeta.DamagedError) {
	for _, d := range damage {
		if s.health.first(d.Error()) {
			log.G(ctx).WithField("key", d.Name).WithError(d).Error("what is served leaves this out; fsmeta-snapshotter check says what it means and what to do")
		}
	}
}

// noteAll takes the number of damaged snapshots from the error of an enumeration of all.
func (s *Snapshotter) noteAll(err error) {
	damage, _ := damageIn(err)
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.state.Damaged, s.health.state.Missing = 0, false
	for _, d := range damage {
		if d.Path == s.entries("") {
			s.health.state.Missing = true
		} else {
			s.health.state.Damaged++
		}
	}
}

// entries returns where in the store the directory of a snapshot is.
func (s *Snapshotter) entries(name string) string {
	return filepath.Join(s.meta.Path(), "snapshots") + "/" + name
}

// noteCleanup notes what a cleanup has left, and logs why it keeps directories where that has changed.
func (s *Snapshotter) noteCleanup(ctx context.Context, found unclaimed) {
	s.health.mu.Lock()
	sizes, changed := maps.Clone(s.health.sizes), !maps.Equal(s.health.kept, found.kept)
	s.health.mu.Unlock()
	maps.DeleteFunc(sizes, func(name string, _ int64) bool { return found.kept[name] == "" })
	kept, orphaned := int64(0), int64(0)
	for name := range found.kept { // their content does not change
		if _, known := sizes[name]; !known {
			sizes[name] = s.sizeOf(ctx, name)
		}
		kept += sizes[name]
	}
	for _, name := range found.left {
		orphaned += s.sizeOf(ctx, name)
	}
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.kept, s.health.sizes = found.kept, sizes
	state := &s.health.state
	state.Cleaned = time.Now()
	state.Kept, state.KeptBytes, state.Orphaned, state.OrphanedBytes = len(found.kept), kept, len(found.left), orphaned
	if changed {
		s.logKept(ctx, found.kept)
	}
}

// sizeOf returns the bytes of a directory that no snapshot has, as far as they can be told.
func (s *Snapshotter) sizeOf(ctx context.Context, name string) int64 {
	usage, err := files.Usage(ctx, s.dir(name))
	if err != nil {
		log.G(ctx).WithError(err).Debug("content of no snapshot can't be measured")
	}
	return usage.Size
}

// logKept says how many directories are kept, and why.
func (s *Snapshotter) logKept(ctx context.Context, kept map[string]string) {
	count := map[string]int{}
	for _, why := range kept {
		count[why]++
	}
	hint := ": fsmeta-snapshotter check names them"
	if s.shared() {
		hint = "" // it knows nothing of such a store
	}
	for why, n := range count {
		log.G(ctx).Warnf("%d directories in %s that belong to no snapshot are kept, since %s%s", n, filepath.Join(s.root, snapshotsDir), why, hint)
	}
}

// onlyLocal reports whether an error says nothing but that single snapshots are damaged, or missing. It logs each
// damage once.
func (s *Snapshotter) onlyLocal(ctx context.Context, err error) bool {
	if err == nil {
		return false
	}
	damage, only := damageIn(err)
	elsewhere := func(d *fsmeta.DamagedError) bool { return !strings.HasPrefix(d.Path, s.entries("")) }
	if !only || slices.ContainsFunc(damage, elsewhere) {
		return false
	}
	s.noteDamage(ctx, damage)
	return true
}

// damageIn returns the damage that err consists of, and whether it consists of nothing else.
func damageIn(err error) (damage []*fsmeta.DamagedError, only bool) {
	if d, ok := err.(*fsmeta.DamagedError); ok { //nolint:errorlint // each part of err is looked at
		return []*fsmeta.DamagedError{d}, true
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return damageIn(e.Unwrap())
	case interface{ Unwrap() []error }:
		only = true
		for _, part := range e.Unwrap() {
			found, pure := damageIn(part)
			damage, only = append(damage, found...), only && pure
		}
		return damage, only && len(damage) > 0
	}
	return nil, errors.Is(err, errdefs.ErrDataLoss) // the class of the others
}
