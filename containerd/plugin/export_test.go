//go:build linux

package plugin

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// Times are how long a snapshotter waits for what.
type Times struct{ Retry, Interval, Grace time.Duration }

// Begin serves a root directory that open opens.
func Begin(ctx context.Context, root string, open func() (snapshots.Snapshotter, error), times Times) (snapshots.Snapshotter, error) {
	s := &snapshotter{root: root, open: open, retry: times.Retry, interval: times.Interval, grace: times.Grace}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	return s.logged(), nil
}
