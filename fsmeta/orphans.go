package fsmeta

import (
	"context"
	"errors"
	"fmt"

	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fsck"
)

// Orphans returns those of ids, the identifiers under which a driver has content, under
// which the content can be deleted: no snapshot has them. It leaves out
//
//   - those that [Store.NewID] has returned and that no snapshot has got yet, of this Store
//     (of another process it can't know: one process alone should delete content);
//   - those of snapshots that a repair has set aside, see [SetAside];
//   - those that may have been handed out after the backup from which the store was restored,
//     see [Store.RestoredBelow];
//   - those that the store has not handed out, and what is no identifier.
//
// First look which content there is, then call it. Without a transaction in ctx it waits for
// a writable one of its own, so that content which is just being made in one belongs to a
// snapshot by then, and what it returns can be deleted at once. In a writable transaction,
// its own changes count, and the content may be deleted when the transaction has ended without
// an error: before, what it has read may not be on disk, and a power cut would bring a snapshot
// back without its content.
//
// In a Store opened [ReadOnly] it looks at what is committed now: for a report, and not to
// delete on the strength of it.
//
// Where there is damage, the error is [ErrDamaged] and no orphans are returned: the content
// may belong to a snapshot that can't be read. So it is where two snapshots have one identifier,
// because a person has edited one: the one that it had before is in no snapshot. Other errors are those of
// [Store.TransactionContext] and [Store.Walk]. It costs a walk.
func (s *Store) Orphans(ctx context.Context, ids []string) (orphans []string, err error) {
	t, err := s.transactionOf(ctx)
	if err == nil && t == nil && s.writer != nil {
		err = s.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
			orphans, err = s.orphans(ctx, ids)
			return err
		})
	} else if err == nil {
		orphans, err = s.orphans(ctx, ids)
	}
	if err != nil {
		return nil, fmt.Errorf("fsmeta: look for orphans: %w", err)
	}
	return orphans, nil
}

func (s *Store) orphans(ctx context.Context, ids []string) ([]string, error) {
	next, given := s.nextReserved(), func(string) bool { return false }
	if s.writer != nil {
		if err := s.write(ctx, func(*transaction) error { next = s.writer.NextID(); return nil }); err != nil {
			return nil, err
		}
		given = s.writer.Given
	}
	known, err := s.namesByID(ctx)
	if err != nil {
		return nil, err
	}
	aside, err := fsck.SetAside(s.dir)
	copied, cerr := commit.ReadCopied(s.root)
	if err = errors.Join(err, cerr); err != nil {
		return nil, err
	}
	for _, id := range aside {
		known[id] = "" // it has no snapshot, and content all the same
	}
	below := copied.Below(next)
	var orphans []string
	for _, id := range ids {
		_, used := known[id]
		if n, err := format.ParseID(id); err == nil && n >= below && n < next && !used && !given(id) {
			orphans = append(orphans, id)
		}
	}
	return orphans, nil
}
