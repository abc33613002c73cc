//go:build linux

package overlay_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// containerd's own suite, with each option that changes what it sees.
func TestSuite(t *testing.T) {
	requireRoot(t)
	for name, opts := range map[string][]overlay.Opt{
		"plain":              nil,
		"asynchronousRemove": {overlay.AsynchronousRemove},
		"withRemapIDs":       {overlay.WithRemapIDs},
		"withoutSync":        {overlay.WithoutSync},
	} {
		t.Run(name, func(t *testing.T) {
			testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				sn, err := overlay.NewSnapshotter(root, opts...)
				if err != nil {
					return nil, nil, err
				}
				return sn, sn.Close, nil
			})
		})
	}
	t.Run("withMetaStore", func(t *testing.T) {
		testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			if err != nil {
				return nil, nil, err
			}
			sn, err := overlay.NewSnapshotter(root, overlay.WithMetaStore(meta))
			if err != nil {
				return nil, nil, errors.Join(err, meta.Close())
			}
			return sn, sn.Close, nil
		})
	})
}

func requireRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
}
