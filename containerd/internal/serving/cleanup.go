//go:build linux

package serving

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// CleanUp deletes what the last run has left, and logs why it has not, unless ctx has ended. A crash leaves
// what the next one deletes.
func CleanUp(ctx context.Context, sn snapshots.Cleaner) {
	err := sn.Cleanup(ctx)
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, fsmeta.ErrDamaged):
		log.G(ctx).WithError(err).Error("the metadata is damaged: run fsmeta-snapshotter check, which says what that means and what to do")
	default:
		log.G(ctx).WithError(err).Warn("directories that belong to no snapshot are kept")
	}
}

// Close closes a snapshotter. That the disk is full is no error of it, where nothing else is
// wrong: the journal has all, and is emptied when there is room again. A crash leaves what a crash of the
// snapshotter leaves.
func Close(ctx context.Context, sn snapshots.Snapshotter) error {
	err := sn.Close()
	if err != nil && WithoutFull(err) == nil {
		log.G(ctx).WithError(err).Warn("the disk is full, so the journal of the store is not emptied; nothing is lost")
		return nil
	}
	return err
}
