package fsmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Import fills a store that was never used (see [Store.Unused]) with the snapshots of another metadata
// store, just as they are given: with identifiers, kinds, parents, labels, times and usage.
// They may come in any order. From then on, identifiers are handed out from nextID and
// above the highest given: identifiers of snapshots that are gone are not used again.
// Progress, unless it is nil, is called with the number of snapshots that are written. It
// must not use the store.
//
// It is a transaction of its own: all of them are there and durable when it returns nil, in a
// [Relaxed] Store too, none after an error or a crash, unless it is [ErrOutcomeUnknown]. It
// can be run again: if the store has all of them just as they are given, it does nothing.
// Otherwise, in a store that was used, the error is [ErrUsed], and says where they differ; so
// it is where an identifier that is given may have been handed out here. Other errors are
// [ErrInvalidName] for names, labels, identifiers, kinds and times that can't be stored
// and parents that lead back to where they began, [ErrExist] for a name or identifier
// that is given twice, [ErrNotExist] and [ErrNotCommitted] of a parent, and those of
// [Store.TransactionContext] and [Transactor].
//
// It costs about as much as creating each of them, without the syncs, and, while it runs,
// about two kilobytes of memory for each.
func (s *Store) Import(ctx context.Context, snapshots []Info, nextID uint64, progress func(done int)) error {
	if err := s.importAll(ctx, snapshots, nextID, maxImportID, progress); err != nil {
		return fmt.Errorf("fsmeta: import: %w", err)
	}
	return nil
}

// maxImportID leaves enough identifiers for as long as a store may exist, and its backups.
const maxImportID = 1 << 61

func (s *Store) importAll(ctx context.Context, snapshots []Info, nextID, limit uint64, progress func(done int)) error {
	images, lowest, highest, err := imagesOf(snapshots)
	if err != nil {
		return err
	}
	if max(highest, nextID) > limit {
		return fmt.Errorf("identifier %d is above %d: %w", max(highest, nextID), limit, ErrInvalidName)
	}
	t, err := s.begin(ctx, true)
	if err != nil {
		return err
	}
	err = t.do(func(t *transaction) error {
		used, err := s.usedBy(t.index, t.at())
		if err != nil {
			return err
		}
		next := min(max(nextID, highest+1), maxID)
		if used {
			return t.imported(images, next)
		}
		if lowest < s.nextID && len(images) > 0 {
			return fmt.Errorf("%w: identifiers below %d may have been handed out: import into a new directory", ErrUsed, s.nextID)
		}
		for name, m := range images {
			t.put(name, nil, m)
		}
		t.used = true // so that the identifiers are reserved though there are no snapshots
		t.nextID = next
		return nil
	})
	if err != nil {
		return errors.Join(err, t.Rollback())
	}
	t.staged = progress
	if err := t.Commit(); err != nil || !s.relaxed {
		return err
	}
	if err := s.settle(s.tip()); err != nil {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return nil
}

// imported returns nil if the store has all of the snapshots, and hands out identifiers
// from next on at the earliest.
func (t *transaction) imported(images map[string]*metadata, next uint64) error {
	for _, name := range slices.Sorted(maps.Keys(images)) {
		m, err := t.get(name)
		switch {
		case err != nil:
			return err
		case m == nil:
			return fmt.Errorf("%w, and snapshot %.256q is not in it", ErrUsed, name)
		}
		is := *m
		is.txn = 0
		if !bytes.Equal(is.encodeFile(), images[name].encodeFile()) {
			return fmt.Errorf("%w, and snapshot %.256q is not the same in it", ErrUsed, name)
		}
	}
	if t.store.nextID < next {
		return fmt.Errorf("%w, and identifiers below %d may be handed out", ErrUsed, next)
	}
	return nil
}

// imagesOf returns what is to be stored of snapshots, by name, and their lowest and highest
// identifiers.
func imagesOf(snapshots []Info) (images map[string]*metadata, lowest, highest uint64, err error) {
	lowest = math.MaxUint64
	images = make(map[string]*metadata, len(snapshots))
	ids := make(map[uint64]string, len(snapshots))
	for _, info := range snapshots {
		m := imageOf(info)
		id, err := m.checkImport()
		if err != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q: %w", info.Name, err)
		}
		if images[m.name] != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q is given twice: %w", m.name, ErrExist)
		}
		if other, taken := ids[id]; taken {
			return nil, 0, 0, fmt.Errorf("snapshots %.256q and %.256q have the identifier %d: %w", other, m.name, id, ErrExist)
		}
		images[m.name], ids[id] = m, m.name
		lowest, highest = min(lowest, id), max(highest, id)
	}
	for _, m := range images {
		if err := checkAncestors(images, m); err != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q: %w", m.name, err)
		}
	}
	return images, lowest, highest, nil
}

func imageOf(info Info) *metadata {
	return &metadata{
		id: info.ID, name: info.Name, parent: info.Parent, kind: info.Kind,
		readonly: info.Readonly || info.Kind == KindCommitted, labels: labelsOf(info.Labels),
		created: info.Created.Round(0).UTC(), updated: info.Updated.Round(0).UTC(), usage: info.Usage,
	}
}

// checkImport says what can't be stored, and returns the identifier.
func (m *metadata) checkImport() (id uint64, err error) {
	if err := m.check(); err != nil {
		return 0, fmt.Errorf("%w: %w", err, ErrInvalidName)
	}
	for _, at := range []time.Time{m.created, m.updated} {
		if at.Year() < 0 || at.Year() > 9999 {
			return 0, fmt.Errorf("a time in the year %d: %w", at.Year(), ErrInvalidName)
		}
	}
	if err := checkLabels(m.labels); err != nil {
		return 0, err
	}
	return parseID(m.id)
}

// checkAncestors says what is wrong with those that m stands on.
func checkAncestors(images map[string]*metadata, m *metadata) error {
	seen := map[string]bool{}
	for m.parent != "" {
		if seen[m.name] {
			return fmt.Errorf("its parents lead back to %.256q: %w", m.name, ErrInvalidName)
		}
		seen[m.name] = true
		parent := images[m.parent]
		switch {
		case parent == nil:
			return fmt.Errorf("parent %.256q: %w", m.parent, ErrNotExist)
		case parent.kind != KindCommitted:
			return fmt.Errorf("parent %.256q: %w", m.parent, ErrNotCommitted)
		}
		m = parent
	}
	return nil
}
