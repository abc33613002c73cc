package fsmeta

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

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
	return s.CreateWith(ctx, key, parent, readonly)
}

// CreateWith is [Store.CreateActive] with options: [WithLabels], [WithUsage] and [WithID].
// Others are an [ErrInvalidOption].
func (s *Store) CreateWith(ctx context.Context, key, parent string, readonly bool, opts ...SnapshotOption) (Active, error) {
	var active Active
	err := s.write(ctx, func(t *transaction) error {
		o := collect(opts)
		if o.parent != nil {
			return fmt.Errorf("WithParent is for CommitWith: %w", ErrInvalidOption)
		}
		var err error
		active, err = t.create(key, parent, readonly, o)
		return err
	})
	if err != nil {
		return Active{}, fmt.Errorf("fsmeta: create %.256q: %w", key, err)
	}
	return active, nil
}

func (t *transaction) create(key, parent string, readonly bool, o snapshotOptions) (Active, error) {
	if err := checkArguments(o, argument{"key", key}); err != nil {
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
	m := &format.Snapshot{
		Name: key, Parent: parent, Kind: format.Active, Readonly: readonly,
		Labels: o.labels, Created: created, Updated: created,
	}
	if o.usage != nil {
		m.Usage = format.Usage(*o.usage)
	}
	active, err := t.active(m)
	if err != nil {
		return Active{}, err
	}
	if m.ID = o.id; m.ID == "" {
		if m.ID, err = t.newID(); err != nil {
			return Active{}, err
		}
	}
	if err := invalid(m.CheckSize()); err != nil {
		return Active{}, err
	}
	if o.id != "" { // last: an error leaves it to the caller
		if err := t.store.writer.Take(o.id); err != nil {
			return Active{}, err
		}
	}
	active.ID = m.ID
	t.put(key, nil, m)
	return active, nil
}

// argument is a name that a call was given.
type argument struct{ what, name string }

// checkArguments returns which names or labels can't be stored.
func checkArguments(o snapshotOptions, names ...argument) error {
	for _, a := range names {
		if err := format.CheckName(a.what, a.name); err != nil {
			return invalid(err)
		}
	}
	return invalid(format.CheckLabels(o.labels))
}

// newID returns a new identifier. Reserving some may have moved the point that the
// transaction builds on.
func (t *transaction) newID() (string, error) {
	id, err := t.store.writer.NewID()
	t.reader.Point = t.store.view.Base()
	return id, err
}

// checkCommitted returns why parent can't be a parent.
func (t *transaction) checkCommitted(parent string) error {
	m, err := t.must("parent", parent)
	if err == nil && m.Kind != format.Committed {
		err = ErrNotCommitted
	}
	if err != nil {
		return fmt.Errorf("parent %.256q: %w", parent, err)
	}
	return nil
}

// NewID returns an identifier that has never been handed out before and never will be
// again, for [WithID]: so that a driver can make content under it, and sync it, before the
// transaction that creates the snapshot, which makes no other writer wait for that work
// then. One that is not used is lost; content that a crash leaves under it belongs to no
// snapshot.
//
// It is the caller's until a call of [Store.CreateWith] with it has succeeded, whatever becomes
// of that call's transaction then. Outside a writable transaction it waits for a turn of its own, for
// as long as ctx allows. Errors are those of [Store.TransactionContext].
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
			id, err = s.writer.Give()
			t.reader.Point = s.view.Base()
			return err
		})
		return id, err
	}
	if err := (&transaction{store: s, outer: innermost(ctx), writable: true}).checkOuter(); err != nil {
		return "", err
	}
	defer s.writer.End()
	if err := s.writer.Begin(ctx); err != nil {
		return "", err
	}
	defer s.writer.Release() // it has read nothing, so there is nothing to wait for
	return s.writer.Give()
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

// Commit turns the active snapshot key into the committed snapshot name and returns
// its identifier, which stays the same. The key is free then. Labels are not taken
// over, usage is; created and updated are the time of the commit.
//
// Errors, in this order: [ErrInvalidName]; of name [ErrExist]; of key [ErrNotExist],
// [ErrNotActive] where it is committed already or readonly; [ErrDamaged]; those of
// the transaction. An error changes nothing.
func (s *Store) Commit(ctx context.Context, key, name string) (string, error) {
	return s.CommitWith(ctx, key, name)
}

// CommitWith is [Store.Commit] with options: [WithLabels], [WithUsage] and [WithParent],
// which see for its further errors. Others are an [ErrInvalidOption].
func (s *Store) CommitWith(ctx context.Context, key, name string, opts ...SnapshotOption) (string, error) {
	var id string
	err := s.write(ctx, func(t *transaction) error {
		o := collect(opts)
		if o.id != "" {
			return fmt.Errorf("WithID is for CreateWith: %w", ErrInvalidOption)
		}
		var err error
		id, err = t.commitActive(key, name, o)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("fsmeta: commit %.256q as %.256q: %w", key, name, err)
	}
	return id, nil
}

func (t *transaction) commitActive(key, name string, o snapshotOptions) (string, error) {
	if err := checkArguments(o, argument{"key", key}, argument{"name", name}); err != nil {
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
	if before.Kind != format.Active {
		return "", ErrNotActive
	}
	if before.Readonly {
		return "", fmt.Errorf("it is readonly: %w", ErrNotActive)
	}
	after := *before
	after.Name, after.Kind, after.Readonly, after.Labels = name, format.Committed, true, o.labels
	after.Created = now()
	after.Updated = after.Created
	if o.usage != nil {
		after.Usage = format.Usage(*o.usage)
	}
	if o.parent != nil {
		if err := t.rebase(&after, *o.parent); err != nil {
			return "", err
		}
	}
	if err := invalid(after.CheckSize()); err != nil {
		return "", err
	}
	t.put(key, before, nil)
	t.put(name, nil, &after)
	return after.ID, nil
}

// rebase gives a snapshot that is being committed a parent.
func (t *transaction) rebase(m *format.Snapshot, parent string) error {
	if parent == "" || parent == m.Parent {
		return nil
	}
	if m.Parent != "" {
		return fmt.Errorf("parent %.256q: %w: %.256q", parent, ErrParentSet, m.Parent)
	}
	if err := t.checkCommitted(parent); err != nil {
		return err
	}
	m.Parent = parent
	return nil
}

// Remove takes the snapshot key, active or committed, out of the store and returns
// its identifier. A driver deletes the content when the transaction's Commit has
// returned nil, never before: only then can no power cut bring the snapshot back. Where
// Commit fails with [ErrOutcomeUnknown] it keeps the content. Removing succeeds on a full
// disk, too.
//
// Errors are [ErrNotExist], [ErrHasChildren], also where a damaged snapshot's link says that
// it stands on this one, [ErrInvalidName], [ErrDamaged] also for a committed one while
// snapshots are missing that may stand on it, and for one with the identifier of another: the
// content may be the other's. Further those of the transaction. An error changes nothing. The
// first call on a Store reads every snapshot; later ones do not depend on their number.
func (s *Store) Remove(ctx context.Context, key string) (string, error) {
	var id string
	err := s.write(ctx, func(t *transaction) error {
		m, err := t.must("key", key)
		if err != nil {
			return err
		}
		if err := t.checkRemovable(m); err != nil {
			return err
		}
		t.put(key, m, nil)
		id = m.ID
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("fsmeta: remove %.256q: %w", key, err)
	}
	return id, nil
}

// checkRemovable returns why m can't be removed.
func (t *transaction) checkRemovable(m *format.Snapshot) error {
	v := t.store.view
	if m.Kind == format.Committed {
		n, err := v.ChildrenOf(t.reader.Point, m.Name)
		if err != nil {
			return err
		}
		switch n += t.children[m.Name]; {
		case n == 1:
			return fmt.Errorf("%w: 1 snapshot stands on it", ErrHasChildren)
		case n > 1:
			return fmt.Errorf("%w: %d snapshots stand on it", ErrHasChildren, n)
		}
	}
	names, err := v.Sharing(t.reader.Point, m.ID)
	if err != nil || len(names) < 2 {
		return err
	}
	return t.store.shared(m, names[0], names[1])
}

// shared is the damage of m where snapshots of these names have its identifier.
func (s *Store) shared(m *format.Snapshot, name, other string) error {
	return &fault.Damaged{Name: m.Name, Path: s.tree.Path(m.Name) + "/" + format.MetadataFile, Err: fmt.Errorf("snapshots %.256q and %.256q have one identifier, %s, and the content is of one of them: "+
		"remove neither, see 'Two snapshots with one identifier' in docs/repair.md", name, other, m.ID)}
}

// Update replaces all labels of the snapshot info.Name by those of info, unless fields say
// which to take: without fields it deletes every label that info does not have. A field is
// "labels" for all of them, or "labels.KEY" for that one, which is deleted if info.Labels
// doesn't have it. Everything else in info is ignored. It returns the snapshot as it is then.
// Its Updated is the time of the call, also where no label has changed.
//
// Errors are [ErrNotExist], [ErrInvalidName] also for a field that can't be updated
// and labels that can't be stored, [ErrDamaged], and those of the transaction. An
// error changes nothing.
func (s *Store) Update(ctx context.Context, info Info, fields ...string) (Info, error) {
	return s.change(ctx, info.Name, "update", func(m *format.Snapshot) error {
		if err := invalid(format.CheckLabels(format.LabelsOf(info.Labels))); err != nil {
			return err
		}
		if len(fields) == 0 {
			fields = []string{"labels"}
		}
		labels := format.LabelMap(m.Labels)
		for _, field := range fields {
			key, one := strings.CutPrefix(field, "labels.")
			value, given := info.Labels[key]
			switch {
			case field == "labels":
				labels = maps.Clone(info.Labels)
			case !one || format.CheckName("label", key) != nil:
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
		m.Labels = format.LabelsOf(labels)
		return nil
	})
}

// SetUsage records what the content of the snapshot key takes, and returns the snapshot as
// it is then. Its Updated is the time of the call, also where the usage was the same. Errors are [ErrNotExist], [ErrInvalidName], [ErrDamaged], and those of the
// transaction. An error changes nothing.
func (s *Store) SetUsage(ctx context.Context, key string, usage Usage) (Info, error) {
	return s.change(ctx, key, "set usage of", func(m *format.Snapshot) error {
		m.Usage = format.Usage(usage)
		return nil
	})
}

// change replaces a snapshot's metadata by a copy that fn has changed.
func (s *Store) change(ctx context.Context, key, operation string, fn func(*format.Snapshot) error) (Info, error) {
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
		after.Updated = now()
		if err := invalid(after.CheckSize()); err != nil {
			return err
		}
		t.put(key, before, &after)
		info = infoOf(&after)
		return nil
	})
	if err != nil {
		return Info{}, fmt.Errorf("fsmeta: %s %.256q: %w", operation, key, err)
	}
	return info, nil
}
