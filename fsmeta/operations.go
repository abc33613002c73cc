package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
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

// write runs fn in the writable transaction that ctx carries.
func (s *Store) write(ctx context.Context, fn func(*transaction) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	t, err := s.transactionOf(ctx)
	switch {
	case err != nil:
		return err
	case t == nil:
		return ErrNoTransaction
	}
	return t.do(func(t *transaction) error {
		if !t.writable {
			return ErrReadOnlyTransaction
		}
		return fn(t)
	})
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

// must returns what is under name, or ErrNotExist.
func (t *transaction) must(argument, name string) (*metadata, error) {
	if err := checkName(argument, name); err != nil {
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
			info = m.info()
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
		if err == nil && m.kind != KindActive {
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

// active returns an active snapshot with the identifiers of what it stands on.
func (t *transaction) active(m *metadata) (Active, error) {
	active := Active{ID: m.id, Readonly: m.readonly}
	seen := map[string]bool{}
	for name := m.parent; name != ""; {
		parent, err := t.get(name)
		if err == nil && parent == nil {
			err = &DamagedError{Name: name, Path: t.store.tree.path(name), Err: errors.New("it is missing, and others stand on it")}
		}
		if err == nil && len(active.ParentIDs) > 64 {
			if seen[name] {
				err = &DamagedError{Name: name, Path: t.store.tree.path(name) + "/" + parentLink, Err: errors.New("its parents lead back to it")}
			}
			seen[name] = true
		}
		if err != nil {
			return Active{}, err
		}
		active.ParentIDs = append(active.ParentIDs, parent.id)
		name = parent.parent
	}
	slices.Reverse(active.ParentIDs)
	return active, nil
}

// Walk calls fn for every snapshot, in byte order of the names, as it was when the
// walk began: what fn does does not change what is visited. The context that fn is given carries the transaction; in it everything is allowed. A walk
// without a transaction in ctx runs in a read-only one of its own. If fn returns an
// error the walk ends and returns it; so it does when ctx ends.
//
// Damaged snapshots are reported after all others were visited: as an error that is
// [ErrDamaged], joined of a [*DamagedError] for each.
//
// The first walk of a Store reads the tree; later ones go through memory.
func (s *Store) Walk(ctx context.Context, fn func(context.Context, Info) error) error {
	var damage []error
	ours, err := s.walk(ctx, func(ctx context.Context, m *metadata) error { return fn(ctx, m.info()) },
		func(err error) error { damage = append(damage, err); return nil })
	if ours != nil {
		return ours // from fn, as it is
	}
	if err = errors.Join(append([]error{err}, damage...)...); err != nil {
		return fmt.Errorf("fsmeta: walk: %w", err)
	}
	return nil
}

// All is Walk as an iterator. A damaged snapshot comes as an Info with at most its
// name, and its error; they come last. Any other error ends the iteration.
func (s *Store) All(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		stop := errors.New("stop")
		_, err := s.walk(ctx, func(_ context.Context, m *metadata) error {
			if !yield(m.info(), nil) {
				return stop
			}
			return nil
		}, func(err error) error {
			var damage *DamagedError
			errors.As(err, &damage)
			if !yield(Info{Name: damage.Name}, fmt.Errorf("fsmeta: walk: %w", err)) {
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
func (s *Store) walk(ctx context.Context, fn func(context.Context, *metadata) error, damaged func(error) error) (ours, err error) {
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
	err = t.walk(ctx, func(m *metadata) error {
		ours = fn(ctx, m)
		return ours
	}, damaged)
	return ours, err
}

// IDs returns the names of all snapshots by their identifiers. Where some snapshot
// is damaged it returns the map of the others and an error that is [ErrDamaged]: a
// driver must not delete the content of identifiers that are missing from it then. Nor
// must it before the transaction has ended without error, which is a writable one, so
// that nobody makes new content meanwhile: what IDs read may not be on disk before.
// Its cost grows with the number of snapshots.
func (s *Store) IDs(ctx context.Context) (map[string]string, error) {
	ids := map[string]string{}
	var damage []error
	_, err := s.walk(ctx, func(_ context.Context, m *metadata) error { ids[m.id] = m.name; return nil },
		func(err error) error { damage = append(damage, err); return nil })
	if err != nil {
		return nil, fmt.Errorf("fsmeta: list identifiers: %w", err)
	}
	if len(damage) > 0 {
		return ids, fmt.Errorf("fsmeta: list identifiers: %w", errors.Join(damage...))
	}
	return ids, nil
}

// NameOf returns the name of the snapshot with an identifier. Errors are
// [ErrNotExist], [ErrDamaged] where it is not among the snapshots that can be read
// but others can't, and those of the transaction. The first call on a Store reads
// every snapshot; later ones do not depend on their number.
func (s *Store) NameOf(ctx context.Context, id string) (string, error) {
	var name string
	err := s.read(ctx, func(t *transaction) error {
		if changed, ok := t.ids[id]; ok {
			name = changed
			return nil
		}
		damage, err := t.store.readAll(t.index, t.at())
		if err != nil {
			return err
		}
		for _, e := range t.index.owners(id) {
			if m, err := t.get(e.name); err != nil {
				return err
			} else if m != nil && m.id == id {
				name = m.name
				return nil
			}
		}
		if damage != nil {
			return damage
		}
		return ErrNotExist
	})
	if err != nil {
		return "", fmt.Errorf("fsmeta: name of identifier %q: %w", id, err)
	}
	return name, nil
}

// Unused reports whether nothing was ever committed to the store, as the transaction
// sees it, its own changes included: to tell a new store from one whose snapshots were
// all removed. One whose journal is damaged counts as used. A store in which transactions
// were rolled back counts as unused until all who have it open have closed it. Errors are
// those of the transaction.
func (s *Store) Unused(ctx context.Context) (bool, error) {
	var used bool
	err := s.read(ctx, func(t *transaction) error {
		var err error
		used, err = t.store.usedBy(t.index, t.at())
		used = used || t.used
		return err
	})
	if err != nil {
		return false, fmt.Errorf("fsmeta: look whether the store was used: %w", err)
	}
	return !used, nil
}

// CreateActive makes the active snapshot key on top of the committed snapshot
// parent, or on nothing where parent is empty, and returns what a driver needs to
// mount it. Its identifier has never been handed out before and never will be again,
// not after a rollback or a crash either. A readonly one (a view) can only be
// removed in the end.
//
// Errors, in this order: [ErrInvalidName]; of parent [ErrNotExist],
// [ErrNotCommitted]; of key [ErrExist]; [ErrDamaged]; those of the transaction. An
// error changes nothing. Nothing is written before the transaction's Commit, but
// for the reservation of identifiers, now and then. A driver that made content for the
// identifier deletes it if the transaction fails, but not with [ErrOutcomeUnknown].
func (s *Store) CreateActive(ctx context.Context, key, parent string, readonly bool) (Active, error) {
	return s.Create(ctx, key, parent, readonly)
}

// Create is [Store.CreateActive] with labels and usage.
func (s *Store) Create(ctx context.Context, key, parent string, readonly bool, opts ...SnapshotOption) (Active, error) {
	var active Active
	err := s.write(ctx, func(t *transaction) error {
		var err error
		active, err = t.create(key, parent, readonly, collect(opts))
		return err
	})
	if err != nil {
		return Active{}, fmt.Errorf("fsmeta: create %.256q: %w", key, err)
	}
	return active, nil
}

// NewID returns an identifier that has never been handed out before and never will be
// again, for [WithID]: so that a driver can make content under it, and sync it, before the
// transaction that creates the snapshot, which makes nobody wait for that work then. One
// that is not used is lost; content that a crash leaves under it belongs to no snapshot.
//
// It is the caller's until a call of [Store.Create] has taken it, whatever becomes of that
// call's transaction. Outside a writable transaction it waits for a turn of its own, for as
// long as ctx allows. Errors are those of [Store.TransactionContext].
func (s *Store) NewID(ctx context.Context) (string, error) {
	id, err := s.reserveID(ctx)
	if err != nil {
		return "", fmt.Errorf("fsmeta: reserve an identifier: %w", err)
	}
	return id, nil
}

func (s *Store) reserveID(ctx context.Context) (string, error) {
	if s.closed.Load() {
		return "", ErrClosed
	}
	t, err := s.transactionOf(ctx)
	if err != nil {
		return "", err
	}
	if t != nil && t.writable {
		var id string
		err := t.do(func(t *transaction) error {
			var err error
			if id, err = t.newID(); err == nil {
				s.given[id] = true
			}
			return err
		})
		return id, err
	}
	outer, _ := ctx.Value(contextKey{}).(*transaction)
	if err := s.checkWritable(outer); err != nil {
		return "", err
	}
	defer s.leave()
	if err := s.beginTurn(ctx); err != nil {
		return "", err
	}
	defer s.turn.release() // it has read nothing, so there is nothing to wait for
	id, err := s.newID()
	if err == nil {
		s.given[id] = true
	}
	return id, err
}

// newID is Store.newID for a transaction.
func (t *transaction) newID() (string, error) {
	id, err := t.store.newID()
	if err == nil {
		t.base = t.store.tip() // which a reservation moves
	}
	return id, err
}

func collect(opts []SnapshotOption) snapshotOptions {
	var o snapshotOptions
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// now is the time as it is stored.
func now() time.Time { return time.Now().Round(0).UTC() }

func (t *transaction) create(key, parent string, readonly bool, o snapshotOptions) (Active, error) {
	if err := errors.Join(checkName("key", key), checkLabels(o.labels)); err != nil {
		return Active{}, err
	}
	if parent != "" {
		if err := t.checkCommitted(parent); err != nil {
			return Active{}, err
		}
	}
	if there, err := t.get(key); err != nil {
		return Active{}, err
	} else if there != nil {
		return Active{}, ErrExist
	}
	created := now()
	m := &metadata{
		name: key, parent: parent, kind: KindActive, readonly: readonly,
		labels: o.labels, created: created, updated: created,
	}
	if o.usage != nil {
		m.usage = *o.usage
	}
	active, err := t.active(m)
	if err != nil {
		return Active{}, err
	}
	if m.id, err = t.takeID(o.id); err != nil {
		return Active{}, err
	}
	active.ID = m.id
	t.put(key, nil, m)
	return active, nil
}

// takeID returns the identifier of a new snapshot: the one given, which NewID has
// returned, or a new one.
func (t *transaction) takeID(given string) (string, error) {
	if given != "" {
		if !t.store.given[given] {
			return "", fmt.Errorf("identifier %.256q is not one of NewID, or was given before: %w", given, ErrInvalidName)
		}
		delete(t.store.given, given)
		return given, nil
	}
	return t.newID()
}

// checkCommitted reports why parent can't be a parent.
func (t *transaction) checkCommitted(parent string) error {
	m, err := t.must("parent", parent)
	if err == nil && m.kind != KindCommitted {
		err = ErrNotCommitted
	}
	if err != nil {
		return fmt.Errorf("parent %.256q: %w", parent, err)
	}
	return nil
}

// checkLabels reports labels that can't be stored.
func checkLabels(labels []label) error {
	for _, l := range labels {
		if l.key == "" || len(l.key) > maxName || !utf8.ValidString(l.key) || !utf8.ValidString(l.value) {
			return fmt.Errorf("label %.256q: %.256q has a key that is empty or over %d bytes long, or is not valid UTF-8: %w",
				l.key, l.value, maxName, ErrInvalidName)
		}
	}
	return nil
}

// Commit turns the active snapshot key into the committed snapshot name and returns
// its identifier, which stays the same. The key is free then. Labels are not taken
// over, usage is; created and updated are the time of the commit.
//
// Errors, in this order: [ErrInvalidName]; of name [ErrExist]; of key [ErrNotExist],
// [ErrNotActive] where it is committed already or readonly; [ErrDamaged]; those of
// the transaction. An error changes nothing.
func (s *Store) Commit(ctx context.Context, key, name string) (string, error) {
	return s.CommitActive(ctx, key, name)
}

// CommitActive is [Store.Commit] with labels, usage and a parent: see [WithParent]
// for its further errors.
func (s *Store) CommitActive(ctx context.Context, key, name string, opts ...SnapshotOption) (string, error) {
	var id string
	err := s.write(ctx, func(t *transaction) error {
		var err error
		id, err = t.commitActive(key, name, collect(opts))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("fsmeta: commit %.256q as %.256q: %w", key, name, err)
	}
	return id, nil
}

func (t *transaction) commitActive(key, name string, o snapshotOptions) (string, error) {
	if err := errors.Join(checkName("key", key), checkName("name", name), checkLabels(o.labels)); err != nil {
		return "", err
	}
	if there, err := t.get(name); err != nil {
		return "", err
	} else if there != nil {
		return "", fmt.Errorf("%.256q: %w", name, ErrExist)
	}
	before, err := t.must("key", key)
	if err != nil {
		return "", err
	}
	if before.kind != KindActive {
		return "", ErrNotActive
	}
	if before.readonly {
		return "", fmt.Errorf("it is readonly: %w", ErrNotActive)
	}
	after := *before
	after.name, after.kind, after.readonly, after.labels = name, KindCommitted, true, o.labels
	after.created = now()
	after.updated = after.created
	if o.usage != nil {
		after.usage = *o.usage
	}
	if o.parent != nil && *o.parent != "" && *o.parent != before.parent {
		if before.parent != "" {
			return "", fmt.Errorf("parent %.256q: %w: %.256q", *o.parent, ErrParentSet, before.parent)
		}
		if err := t.checkCommitted(*o.parent); err != nil {
			return "", err
		}
		after.parent = *o.parent
	}
	t.put(key, before, nil)
	t.put(name, nil, &after)
	return after.id, nil
}

// Remove takes the snapshot key, active or committed, out of the store and returns
// its identifier. A driver deletes the content when the transaction's Commit has
// returned nil, never before: only then can no power cut bring the snapshot back. Where
// Commit fails with [ErrOutcomeUnknown] it keeps the content.
//
// Errors are [ErrNotExist], [ErrHasChildren], [ErrInvalidName], [ErrDamaged] also
// where a damaged snapshot's parent can't be known, for it may be this one, and those
// of the transaction. An error changes nothing. The first call on a Store reads every
// snapshot; later ones do not depend on their number.
func (s *Store) Remove(ctx context.Context, key string) (string, error) {
	var id string
	err := s.write(ctx, func(t *transaction) error {
		m, err := t.must("key", key)
		if err != nil {
			return err
		}
		if m.kind == KindCommitted {
			n, err := t.store.childrenOf(t.index, key, t.base)
			if err != nil {
				return err
			}
			if n += t.children[key]; n > 0 {
				return fmt.Errorf("%w: %d", ErrHasChildren, n)
			}
		}
		t.put(key, m, nil)
		id = m.id
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("fsmeta: remove %.256q: %w", key, err)
	}
	return id, nil
}

// Update sets labels of the snapshot info.Name, and returns what it is then. Each
// field says what to take from info: "labels" all of them, "labels.KEY" that one,
// which is deleted if info.Labels doesn't have it. Without fields all labels are
// taken. Everything else in info is ignored.
//
// Errors are [ErrNotExist], [ErrInvalidName] also for a field that can't be updated
// and labels that can't be stored, [ErrDamaged], and those of the transaction. An
// error changes nothing.
func (s *Store) Update(ctx context.Context, info Info, fields ...string) (Info, error) {
	return s.change(ctx, info.Name, "update", func(m *metadata) error {
		if err := checkLabels(labelsOf(info.Labels)); err != nil {
			return err
		}
		if len(fields) == 0 {
			fields = []string{"labels"}
		}
		labels := labelMap(m.labels)
		for _, field := range fields {
			key, one := strings.CutPrefix(field, "labels.")
			value, given := info.Labels[key]
			switch {
			case field == "labels":
				labels = maps.Clone(info.Labels)
			case !one || key == "" || !utf8.ValidString(key):
				return fmt.Errorf("field %.256q can't be updated, labels and labels.KEY can: %w", field, ErrInvalidName)
			case !given:
				delete(labels, key)
			default:
				if labels == nil {
					labels = map[string]string{}
				}
				labels[key] = value
			}
		}
		m.labels = labelsOf(labels)
		return nil
	})
}

// SetUsage records what the content of the snapshot key takes, and returns what it is
// then. Errors are [ErrNotExist], [ErrInvalidName], [ErrDamaged], and those of the
// transaction. An error changes nothing.
func (s *Store) SetUsage(ctx context.Context, key string, usage Usage) (Info, error) {
	return s.change(ctx, key, "set usage of", func(m *metadata) error {
		m.usage = usage
		return nil
	})
}

// change replaces a snapshot's metadata by a copy that fn has changed.
func (s *Store) change(ctx context.Context, key, operation string, fn func(*metadata) error) (Info, error) {
	var info Info
	err := s.write(ctx, func(t *transaction) error {
		before, err := t.must("key", key)
		if err != nil {
			return err
		}
		after := *before
		if err := fn(&after); err != nil {
			return err
		}
		after.updated = now()
		t.put(key, before, &after)
		info = after.info()
		return nil
	})
	if err != nil {
		return Info{}, fmt.Errorf("fsmeta: %s %.256q: %w", operation, key, err)
	}
	return info, nil
}
