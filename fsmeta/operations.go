package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

var _ MetaStore = (*Store)(nil)

// read runs fn in the transaction that ctx carries, or in one of its own.
func (s *Store) read(ctx context.Context, fn func(*transaction) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	t, err := s.transactionOf(ctx)
	if err != nil {
		return err
	}
	if t != nil {
		return t.do(fn)
	}
	for tries := 0; ; tries++ {
		if t, err = s.begin(ctx, false); err != nil {
			return err
		}
		err = t.do(fn)
		if cerr := t.Commit(); err == nil {
			err = cerr
		}
		if tries == 10 || !errors.Is(err, ErrOutdated) {
			return err
		}
	}
}

// do runs fn while nothing else of the transaction does.
func (t *transaction) do(fn func(*transaction) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usableLocked(); err != nil {
		return err
	}
	return fn(t)
}

// invalid makes what is wrong with an argument an ErrInvalidName.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", err, ErrInvalidName)
}

// must returns the snapshot under name, or ErrNotExist.
func (t *transaction) must(argument, name string) (*format.Snapshot, error) {
	if err := invalid(format.CheckName(argument, name)); err != nil {
		return nil, err
	}
	m, err := t.get(name)
	if err == nil && m == nil {
		err = ErrNotExist
	}
	return m, err
}

// Stat returns what the transaction sees of the snapshot key, active or committed.
// Errors are [ErrNotExist], [ErrInvalidName], [ErrDamaged], and those of the
// transaction. Its cost does not depend on the number of snapshots.
func (s *Store) Stat(ctx context.Context, key string) (Info, error) {
	var info Info
	err := s.read(ctx, func(t *transaction) error {
		m, err := t.must("key", key)
		if err == nil {
			info = infoOf(m)
		}
		return err
	})
	if err != nil {
		return Info{}, fmt.Errorf("fsmeta: stat %.256q: %w", key, err)
	}
	return info, nil
}

// GetActive returns what a driver needs to mount the active snapshot key. Errors are
// [ErrNotExist], [ErrNotActive] for a committed one, [ErrInvalidName], [ErrDamaged]
// where it or one it stands on is damaged, and those of the transaction. It costs a
// lookup for each snapshot below.
func (s *Store) GetActive(ctx context.Context, key string) (Active, error) {
	var active Active
	err := s.read(ctx, func(t *transaction) error {
		m, err := t.must("key", key)
		if err == nil && m.Kind != format.Active {
			err = ErrNotActive
		}
		if err == nil {
			active, err = t.active(m)
		}
		return err
	})
	if err != nil {
		return Active{}, fmt.Errorf("fsmeta: get active %.256q: %w", key, err)
	}
	return active, nil
}

// active returns an active snapshot with the identifiers of those that it stands on.
func (t *transaction) active(m *format.Snapshot) (Active, error) {
	active := Active{ID: m.ID, Readonly: m.Readonly}
	seen := map[string]bool{}
	for name := m.Parent; name != ""; {
		parent, err := t.get(name)
		if err != nil {
			return Active{}, err
		}
		problem := ""
		switch deep := len(active.ParentIDs) > 64; {
		case parent == nil:
			problem = "it is missing, and others stand on it"
		case parent.Kind != format.Committed:
			problem = "it is not committed, and others stand on it"
		case deep && seen[name]:
			problem = "its parents lead back to it"
		case deep:
			seen[name] = true
		}
		if problem != "" {
			return Active{}, &fault.Damaged{Name: name, Path: t.store.tree.Path(name), Err: errors.New(problem)}
		}
		active.ParentIDs = append(active.ParentIDs, parent.ID)
		name = parent.Parent
	}
	slices.Reverse(active.ParentIDs)
	return active, nil
}

// Walk calls fn for every snapshot, in byte order of the names, as it was when the
// walk began: what fn does does not change which snapshots are visited. The context
// that fn is given carries the transaction; in it everything is allowed. A walk
// without a transaction in ctx runs in a read-only one of its own. If fn returns an
// error the walk ends and returns it; so it does when ctx ends.
//
// Damage is reported after all others were visited: as an error that is [ErrDamaged],
// joined of a [*DamagedError] for each damaged snapshot, one that tells how many are
// missing, if any are, and one for a damaged journal. A caller that deletes what it
// does not find must delete nothing then.
//
// The first walk of a Store reads the tree; later ones go through memory.
func (s *Store) Walk(ctx context.Context, fn func(context.Context, Info) error) error {
	ours, err := s.walkAll(ctx, func(ctx context.Context, m *format.Snapshot) error { return fn(ctx, infoOf(m)) })
	if ours != nil {
		return ours // from fn, as it is
	}
	if err != nil {
		return fmt.Errorf("fsmeta: walk: %w", err)
	}
	return nil
}

// walkAll is walk, with the damage joined to its error.
func (s *Store) walkAll(ctx context.Context, fn func(context.Context, *format.Snapshot) error) (ours, err error) {
	var damage []error
	ours, err = s.walk(ctx, fn, func(err error) error { damage = append(damage, err); return nil })
	return ours, errors.Join(append([]error{err}, damage...)...)
}

// All is Walk as an iterator. Damage comes as an Info with at most a name, and its
// error; it comes last. Any other error ends the iteration.
func (s *Store) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		stop := errors.New("stop")
		_, err := s.walk(ctx, func(_ context.Context, m *format.Snapshot) error {
			if !yield(infoOf(m), nil) {
				return stop
			}
			return nil
		}, func(err error) error {
			if !yield(Info{Name: fault.DamageOf(err).Name}, fmt.Errorf("fsmeta: walk: %w", err)) {
				return stop
			}
			return nil
		})
		if err != nil && err != stop {
			yield(Info{}, fmt.Errorf("fsmeta: walk: %w", err))
		}
	}
}

// walk runs a walk in the transaction that ctx carries or in one of its own. If fn
// ended it, ours is fn's error.
func (s *Store) walk(ctx context.Context, fn func(context.Context, *format.Snapshot) error, damaged func(error) error) (ours, err error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	t, err := s.transactionOf(ctx)
	if err != nil {
		return nil, err
	}
	if t == nil {
		if t, err = s.begin(ctx, false); err != nil {
			return nil, err
		}
		defer t.Rollback() //nolint:errcheck // a read-only transaction: it can't fail
		ctx = context.WithValue(ctx, contextKey{}, t)
	}
	err = t.walk(ctx, func(m *format.Snapshot) error {
		ours = fn(ctx, m)
		return ours
	}, damaged)
	return ours, err
}

// IDs returns the names of all snapshots by their identifiers. Where there is damage, or two
// snapshots have one identifier, it returns the map of the others and an error that is [ErrDamaged]: a driver must not delete
// the content of identifiers that are missing from it then, see [Store.Orphans]. Its cost
// grows with the number of snapshots.
func (s *Store) IDs(ctx context.Context) (map[string]string, error) {
	ids, err := s.namesByID(ctx)
	if err != nil && !errors.Is(err, ErrDamaged) {
		ids = nil
	}
	if err != nil {
		err = fmt.Errorf("fsmeta: list identifiers: %w", err)
	}
	return ids, err
}

// namesByID returns all snapshots. Two with one identifier are damage, and so is what a walk reports; the
// others are returned then, too.
func (s *Store) namesByID(ctx context.Context) (map[string]string, error) {
	names, twice := map[string]string{}, (*format.Snapshot)(nil)
	_, err := s.walkAll(ctx, func(_ context.Context, m *format.Snapshot) error {
		before := len(names)
		if names[m.ID] = m.Name; len(names) == before {
			twice = m
		}
		return nil
	})
	if twice == nil {
		return names, err
	}
	_, werr := s.walkAll(ctx, func(_ context.Context, m *format.Snapshot) error { // which damage is in err already
		if m.ID == twice.ID && m.Name != twice.Name {
			return s.shared(twice, m.Name, twice.Name)
		}
		return nil
	})
	if werr == nil { // they were changed meanwhile
		werr = s.shared(twice, twice.Name, twice.Name)
	}
	return names, errors.Join(err, werr)
}

// NameOf returns the name of the snapshot with an identifier. Errors are
// [ErrNotExist], [ErrDamaged] where it is not among the snapshots that can be read
// but others can't, and those of the transaction. The first call on a Store reads
// every snapshot; later ones do not depend on their number.
func (s *Store) NameOf(ctx context.Context, id string) (string, error) {
	var name string
	err := s.read(ctx, func(t *transaction) (err error) {
		name, err = t.nameOf(id)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("fsmeta: name of identifier %q: %w", id, err)
	}
	return name, nil
}

func (t *transaction) nameOf(id string) (string, error) {
	if changed, ok := t.ids[id]; ok {
		return changed, nil
	}
	names, damage, err := t.store.view.FindID(t.point(), id)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if m, err := t.get(name); err != nil {
			return "", err
		} else if m != nil && m.ID == id {
			return m.Name, nil
		}
	}
	for _, d := range damage {
		err = errors.Join(err, d.Err)
	}
	if err == nil {
		err = ErrNotExist
	}
	return "", err
}

// Unused reports whether nothing was ever committed to the store, as the transaction
// sees it, its own changes included: to tell a new store from one that has lost all its
// snapshots by removals. One with a damaged journal counts as used. A store in which
// transactions were rolled back counts as unused until all programs that have it open have
// closed it. Errors are those of the transaction.
func (s *Store) Unused(ctx context.Context) (bool, error) {
	var used bool
	err := s.read(ctx, func(t *transaction) error {
		var err error
		used, err = s.view.Used(t.point())
		used = used || t.used
		return err
	})
	if err != nil {
		return false, fmt.Errorf("fsmeta: look whether the store was used: %w", err)
	}
	return !used, nil
}
