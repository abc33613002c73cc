package fsmeta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
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
// [ErrInvalidName] for a name or label that can't be stored, an identifier that is not a decimal
// number from 1 to 2⁶¹ without zeros in front, a nextID above that, a Kind that is none, a time
// outside of the years 0 to 9999 in UTC, a snapshot that takes more than 64 MiB, and parents that
// lead back to where they began; [ErrExist] for a name or identifier
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
		used, err := s.view.Used(t.reader.Point)
		if err != nil {
			return err
		}
		next, handed := min(max(nextID, highest+1), commit.MaxID), s.writer.NextID()
		if used {
			return t.imported(images, next)
		}
		if lowest < handed && len(images) > 0 {
			return fmt.Errorf("%w: identifiers below %d may have been handed out: import into a new directory", ErrUsed, handed)
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
	if err := s.writer.Settle(s.view.Tip()); err != nil {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return nil
}

// imported returns nil if the store has all of the snapshots, and hands out identifiers
// from next on at the earliest.
func (t *transaction) imported(images map[string]*format.Snapshot, next uint64) error {
	for _, name := range slices.Sorted(maps.Keys(images)) {
		m, err := t.get(name)
		switch {
		case err != nil:
			return err
		case m == nil:
			return fmt.Errorf("%w, and snapshot %.256q is not in it", ErrUsed, name)
		}
		is := *m
		is.Txn = 0
		if !bytes.Equal(format.EncodeFile(&is), format.EncodeFile(images[name])) {
			return fmt.Errorf("%w, and snapshot %.256q is not the same in it", ErrUsed, name)
		}
	}
	if t.store.writer.NextID() < next {
		return fmt.Errorf("%w, and identifiers below %d may be handed out", ErrUsed, next)
	}
	return nil
}

// imagesOf returns snapshots as they are stored, by name, and their lowest and highest
// identifiers.
func imagesOf(snapshots []Info) (images map[string]*format.Snapshot, lowest, highest uint64, err error) {
	lowest = math.MaxUint64
	images = make(map[string]*format.Snapshot, len(snapshots))
	ids := make(map[uint64]string, len(snapshots))
	for _, info := range snapshots {
		m := imageOf(info)
		if err := invalid(m.Check()); err != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q: %w", info.Name, err)
		}
		id, err := format.ParseID(m.ID)
		if err != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q: %w", info.Name, err)
		}
		if images[m.Name] != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q is given twice: %w", m.Name, ErrExist)
		}
		if other, taken := ids[id]; taken {
			return nil, 0, 0, fmt.Errorf("snapshots %.256q and %.256q have the identifier %d: %w", other, m.Name, id, ErrExist)
		}
		images[m.Name], ids[id] = m, m.Name
		lowest, highest = min(lowest, id), max(highest, id)
	}
	sound := make(map[string]bool, len(images))
	for _, m := range images {
		if err := checkAncestors(images, m, sound); err != nil {
			return nil, 0, 0, fmt.Errorf("snapshot %.256q: %w", m.Name, err)
		}
	}
	return images, lowest, highest, nil
}

func imageOf(info Info) *format.Snapshot {
	return &format.Snapshot{
		ID: info.ID, Name: info.Name, Parent: info.Parent, Kind: format.Kind(info.Kind),
		Readonly: info.Readonly || info.Kind == KindCommitted, Labels: format.LabelsOf(info.Labels),
		Created: info.Created.Round(0).UTC(), Updated: info.Updated.Round(0).UTC(), Usage: format.Usage(info.Usage),
	}
}

// checkAncestors returns what is wrong with those that m stands on. It adds to sound those that it has looked at.
func checkAncestors(images map[string]*format.Snapshot, m *format.Snapshot, sound map[string]bool) error {
	seen := map[string]bool{}
	for m.Parent != "" && !sound[m.Name] {
		if seen[m.Name] {
			return fmt.Errorf("its parents lead back to %.256q: %w", m.Name, ErrInvalidName)
		}
		seen[m.Name] = true
		parent := images[m.Parent]
		switch {
		case parent == nil:
			return fmt.Errorf("parent %.256q: %w", m.Parent, ErrNotExist)
		case parent.Kind != format.Committed:
			return fmt.Errorf("parent %.256q: %w", m.Parent, ErrNotCommitted)
		}
		m = parent
	}
	maps.Copy(sound, seen)
	return nil
}
