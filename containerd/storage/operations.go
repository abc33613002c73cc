package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// GetInfo returns the identifier, the info and the usage of a snapshot of any kind.
// Errors are errdefs.ErrNotFound, [ErrNoTransaction], and [fsmeta.ErrDamaged].
func GetInfo(ctx context.Context, key string) (string, snapshots.Info, snapshots.Usage, error) {
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return "", snapshots.Info{}, snapshots.Usage{}, ErrNoTransaction
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return "", snapshots.Info{}, snapshots.Usage{}, classifyLookup(err)
	}
	return info.ID, theirs(&info), snapshots.Usage(info.Usage), nil
}

// theirs returns an info as containerd has it. The labels are the same map.
func theirs(info *fsmeta.Info) snapshots.Info {
	return snapshots.Info{
		Kind: kindOf(info.Kind, info.Readonly), Name: info.Name, Parent: info.Parent,
		Labels: info.Labels, Created: info.Created, Updated: info.Updated,
	}
}

// kindOf returns containerd's kind: a view is an active snapshot that is readonly.
func kindOf(kind fsmeta.Kind, readonly bool) snapshots.Kind {
	switch {
	case kind == fsmeta.KindCommitted:
		return snapshots.KindCommitted
	case readonly:
		return snapshots.KindView
	default:
		return snapshots.KindActive
	}
}

// UpdateInfo sets labels of the snapshot info.Name and returns what it is then. Each
// field path says what to take from info: "labels" all of them, "labels.KEY" that one;
// without any all labels are taken. A label with an empty value, or that info doesn't
// have, is deleted.
//
// Errors, in this order: [ErrNoTransaction], errdefs.ErrNotFound,
// errdefs.ErrInvalidArgument for another field, bbolt's ErrTxNotWritable in a read-only
// transaction, its ErrKeyRequired for a label without a key.
func UpdateInfo(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return snapshots.Info{}, ErrNoTransaction
	}
	now, err := s.Stat(ctx, info.Name)
	if err != nil {
		return snapshots.Info{}, classifyLookup(err)
	}
	labels := now.Labels
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	for _, path := range fieldpaths {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
			labels = maps.Clone(info.Labels)
		case !one:
			return snapshots.Info{}, fmt.Errorf("field %.256q of snapshot %.256q can't be updated, labels and labels.KEY can: %w",
				path, info.Name, errdefs.ErrInvalidArgument)
		default:
			if labels == nil {
				labels = map[string]string{}
			}
			labels[key] = info.Labels[key]
		}
	}
	labels = withoutEmpty(labels)
	now, err = s.Update(ctx, fsmeta.Info{Name: info.Name, Labels: labels}, "labels")
	if errors.Is(err, fsmeta.ErrInvalidName) {
		return snapshots.Info{}, checkLabels(labels)
	}
	if err != nil {
		return snapshots.Info{}, classify(err)
	}
	return theirs(&now), nil
}

// withoutEmpty returns a copy of labels that has none with an empty value, which
// containerd takes for none.
func withoutEmpty(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	labels = maps.Clone(labels)
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	return labels
}

// WalkInfo calls fn for every snapshot that one of the filters matches, or for every
// snapshot where there are none, in byte order of the names. Filters are containerd's,
// over kind, name, parent and labels. The context that fn is given carries the
// transaction; in it everything is allowed, also to change what is walked over. An error of
// fn ends the walk and is returned as it is. A context that ends does not end the walk: fn can
// look at it.
//
// Errors are those of a filter, errdefs.ErrNotFound on a store that nothing was ever
// written to, [ErrNoTransaction], and [fsmeta.ErrDamaged] when all other snapshots
// were visited.
func WalkInfo(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return err
	}
	s, err := usedStore(ctx, "walk")
	if err != nil {
		return err
	}
	var ended error // by fn: it is returned as it is
	visit := func(_ context.Context, info fsmeta.Info) error {
		ended = fn(ctx, theirs(&info))
		return ended
	}
	if len(fs) > 0 { // apart: a filter takes each info to the heap
		visit = func(_ context.Context, info fsmeta.Info) error {
			if si := theirs(&info); filter.Match(adapt(&si)) {
				ended = fn(ctx, si)
			}
			return ended
		}
	}
	if err := s.Walk(neverEnding(ctx), visit); ended == nil && err != nil {
		return classify(err)
	}
	return ended
}

// usedStore returns the store of the transaction that ctx carries, or an error where nothing
// was ever written to it.
func usedStore(ctx context.Context, what string) (*fsmeta.Store, error) {
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return nil, ErrNoTransaction
	}
	unused, err := s.Unused(ctx)
	if err != nil {
		return nil, classify(err)
	}
	if unused {
		return nil, notFound(what)
	}
	return s, nil
}

// adapt gives filters the fields of info.
func adapt(info *snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(fieldpath []string) (string, bool) {
		if len(fieldpath) == 0 {
			return "", false
		}
		switch fieldpath[0] {
		case "kind":
			return strings.ToLower(info.Kind.String()), true
		case "name":
			return info.Name, true
		case "parent":
			return info.Parent, true
		case "labels":
			value, ok := info.Labels[strings.Join(fieldpath[1:], ".")]
			return value, ok
		}
		return "", false
	})
}

// GetSnapshot returns what a driver needs to mount an active snapshot or a view.
// Errors are [ErrNoTransaction], errdefs.ErrNotFound, errdefs.ErrFailedPrecondition for
// a committed one, and [fsmeta.ErrDamaged] also of one of its parents.
func GetSnapshot(ctx context.Context, key string) (Snapshot, error) {
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return Snapshot{}, ErrNoTransaction
	}
	active, err := s.GetActive(ctx, key)
	if err != nil {
		return Snapshot{}, classifyLookup(err)
	}
	return snapshotOf(active), nil
}

// snapshotOf takes active over: it reverses its parents.
func snapshotOf(active fsmeta.Active) Snapshot {
	slices.Reverse(active.ParentIDs)
	return Snapshot{kindOf(fsmeta.KindActive, active.Readonly), active.ID, active.ParentIDs}
}

// CreateSnapshot makes the active snapshot or view key on the committed snapshot
// parent, or on nothing where parent is empty. Of what the options set, labels are taken.
//
// Errors, in this order: errdefs.ErrInvalidArgument for another kind, an option's,
// [ErrNoTransaction], bbolt's ErrTxNotWritable, of parent errdefs.ErrNotFound and
// errdefs.ErrInvalidArgument where it is not committed, of key bbolt's
// ErrBucketNameRequired where it is empty and errdefs.ErrAlreadyExists, bbolt's
// ErrKeyRequired for a label without a key.
func CreateSnapshot(ctx context.Context, kind snapshots.Kind, key, parent string, opts ...snapshots.Opt) (Snapshot, error) {
	return CreateSnapshotWithID(ctx, "", kind, key, parent, opts...)
}

// CreateSnapshotWithID is [CreateSnapshot] under an identifier that [MetaStore.NewID] has
// returned; where id is empty it takes a new one. containerd's package has no such
// function. The last of its errors is errdefs.ErrInvalidArgument for another identifier, or
// one that was given before.
func CreateSnapshotWithID(ctx context.Context, id string, kind snapshots.Kind, key, parent string, opts ...snapshots.Opt) (Snapshot, error) {
	if kind != snapshots.KindActive && kind != snapshots.KindView {
		return Snapshot{}, fmt.Errorf("a snapshot of kind %v can't be created, active ones and views can: %w", kind, errdefs.ErrInvalidArgument)
	}
	base, err := collect(opts)
	if err != nil {
		return Snapshot{}, err
	}
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return Snapshot{}, ErrNoTransaction
	}
	labels := withoutEmpty(base.Labels)
	active, err := s.CreateWith(ctx, key, parent, kind == snapshots.KindView, fsmeta.WithLabels(labels), fsmeta.WithID(id))
	switch {
	case errors.Is(err, fsmeta.ErrInvalidName):
		return Snapshot{}, cmp.Or(createMisuse(ctx, s, key, parent, labels), classify(err))
	case errors.Is(err, fsmeta.ErrNotCommitted):
		return Snapshot{}, reclassified{err, errdefs.ErrInvalidArgument}
	case err != nil:
		return Snapshot{}, classify(err)
	}
	return snapshotOf(active), nil
}

func collect(opts []snapshots.Opt) (base snapshots.Info, err error) {
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return snapshots.Info{}, err
		}
	}
	return base, nil
}

// createMisuse says which error comes first where a name or label is not possible.
func createMisuse(ctx context.Context, s *fsmeta.Store, key, parent string, labels map[string]string) error {
	if parent != "" {
		if err := checkParent(ctx, s, parent, errdefs.ErrInvalidArgument); err != nil {
			return err
		}
	}
	if err := checkFree(ctx, s, key); err != nil {
		return err
	}
	return checkLabels(labels)
}

// checkFree says why name can't be the name of a new snapshot.
func checkFree(ctx context.Context, s *fsmeta.Store, name string) error {
	if err := checkNew(name); err != nil {
		return err
	}
	_, err := s.Stat(ctx, name)
	switch {
	case err == nil:
		return fmt.Errorf("snapshot %.256q: %w", name, errdefs.ErrAlreadyExists)
	case errors.Is(err, fsmeta.ErrNotExist):
		return nil
	default:
		return classify(err)
	}
}

// Remove takes a snapshot of any kind out of the store and returns its identifier and
// kind. Errors, in this order: [ErrNoTransaction], errdefs.ErrNotFound,
// errdefs.ErrFailedPrecondition where others stand on it, bbolt's ErrTxNotWritable in a
// read-only transaction, [fsmeta.ErrDamaged].
func Remove(ctx context.Context, key string) (string, snapshots.Kind, error) {
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return "", 0, ErrNoTransaction
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return "", 0, classifyLookup(err)
	}
	id, err := s.Remove(ctx, key)
	if errors.Is(err, fsmeta.ErrReadOnlyTransaction) {
		if child, werr := hasChild(ctx, s, key); werr != nil {
			return "", 0, classify(werr)
		} else if child {
			return "", 0, fmt.Errorf("snapshot %.256q has children: %w", key, errdefs.ErrFailedPrecondition)
		}
	}
	if err != nil {
		return "", 0, classify(err)
	}
	return id, kindOf(info.Kind, info.Readonly), nil
}

// hasChild reports whether a snapshot stands on key.
func hasChild(ctx context.Context, s *fsmeta.Store, key string) (bool, error) {
	for info, err := range s.All(neverEnding(ctx)) {
		if err != nil {
			return false, err
		}
		if info.Parent == key {
			return true, nil
		}
	}
	return false, nil
}

// CommitActive turns the active snapshot key into the committed snapshot name, records
// its usage, and returns its identifier, which stays the same. Created and updated are
// the time of the commit, and the labels those of the options: none are taken over. With
// snapshots.WithParent an active snapshot that stands on nothing gets a parent.
//
// Errors, in this order: an option's, [ErrNoTransaction], bbolt's ErrTxNotWritable in a
// read-only transaction, of name bbolt's ErrBucketNameRequired where it is empty and
// errdefs.ErrAlreadyExists, of key errdefs.ErrNotFound and errdefs.ErrFailedPrecondition
// where it is not active, errdefs.ErrInvalidArgument for a parent other than the one it
// has, bbolt's ErrKeyRequired for a label without a key, of the new parent
// errdefs.ErrNotFound and errdefs.ErrFailedPrecondition where it is not committed.
func CommitActive(ctx context.Context, key, name string, usage snapshots.Usage, opts ...snapshots.Opt) (string, error) {
	base, err := collect(opts)
	if err != nil {
		return "", err
	}
	s := fsmeta.FromContext(ctx)
	if s == nil {
		return "", ErrNoTransaction
	}
	labels := withoutEmpty(base.Labels)
	id, err := s.CommitWith(ctx, key, name, fsmeta.WithLabels(labels), fsmeta.WithUsage(fsmeta.Usage(usage)), fsmeta.WithParent(base.Parent))
	if err == nil {
		return id, nil
	}
	if first := commitMisuse(ctx, s, key, name, base.Parent, labels, errors.Is(err, fsmeta.ErrReadOnlyTransaction)); first != nil {
		return "", first
	}
	return "", classify(err)
}

// commitMisuse says which error comes first of those that a call of CommitActive can
// be the reason of, nil where it is not the reason of any.
func commitMisuse(ctx context.Context, s *fsmeta.Store, key, name, parent string, labels map[string]string, readOnly bool) error {
	if _, err := usedStore(ctx, "commit"); err != nil {
		return err
	}
	if readOnly {
		return nil
	}
	if err := checkFree(ctx, s, name); err != nil {
		return err
	}
	if key == name { // it would be what is just being made
		return fmt.Errorf("snapshot %.256q can't become itself: %w", key, errdefs.ErrFailedPrecondition)
	}
	info, err := s.Stat(ctx, key)
	switch {
	case err != nil:
		return classifyLookup(err)
	case info.Kind != fsmeta.KindActive || info.Readonly:
		return fmt.Errorf("snapshot %.256q is not active: %w", key, errdefs.ErrFailedPrecondition)
	case parent != "" && info.Parent != "" && parent != info.Parent:
		return fmt.Errorf("snapshot %.256q has another parent already: %w", key, errdefs.ErrInvalidArgument)
	}
	if err := checkLabels(labels); err != nil {
		return err
	}
	if parent == "" || parent == info.Parent {
		return nil
	}
	if parent == key { // which will not be there any more
		return fmt.Errorf("snapshot %.256q can't stand on itself: %w", key, errdefs.ErrNotFound)
	}
	return checkParent(ctx, s, parent, errdefs.ErrFailedPrecondition)
}

// checkParent says why nothing can stand on parent: it is not there, or not committed,
// which is of the class given.
func checkParent(ctx context.Context, s *fsmeta.Store, parent string, notCommitted error) error {
	info, err := s.Stat(ctx, parent)
	if err != nil {
		return classifyLookup(err)
	}
	if info.Kind != fsmeta.KindCommitted {
		return fmt.Errorf("parent %.256q is not committed: %w", parent, notCommitted)
	}
	return nil
}

// IDMap returns the names of all snapshots by their identifiers. Errors are
// [ErrNoTransaction], errdefs.ErrNotFound on a store that nothing was ever written to,
// and [fsmeta.ErrDamaged] where a snapshot can't be read: its content must not be
// taken for garbage. For the same reason the identifiers of snapshots that a repair has set aside, or
// an import has left out, are there, without a name: see [fsmeta.SetAside].
//
// Two kinds are not there: those that [MetaStore.NewID] has returned and no snapshot has yet, and those of
// content that is newer than a backup from which the store was restored, see [fsmeta.Store.RestoredBelow].
// A driver that may have such content asks [fsmeta.Store.Orphans] what it can delete; [fsmeta.FromContext]
// returns the store.
func IDMap(ctx context.Context) (map[string]string, error) {
	s, err := usedStore(ctx, "list identifiers")
	if err != nil {
		return nil, err
	}
	ids, err := s.IDs(neverEnding(ctx))
	if err == nil {
		err = keepSetAside(s.Dir(), ids)
	}
	if err != nil {
		return nil, classify(err)
	}
	return ids, nil
}
