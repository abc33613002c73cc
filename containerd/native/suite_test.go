//go:build linux

package native_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// containerd's own suite, with each option that changes what it sees.
func TestSuite(t *testing.T) {
	requireRoot(t)
	for name, opts := range map[string][]native.Opt{
		"plain":              nil,
		"asynchronousRemove": {native.AsynchronousRemove},
		"withoutSync":        {native.WithoutSync},
	} {
		t.Run(name, func(t *testing.T) {
			testsuite.SnapshotterSuite(t, "native", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				sn, err := native.NewSnapshotter(root, opts...)
				if err != nil {
					return nil, nil, err
				}
				return sn, sn.Close, nil
			})
		})
	}
	t.Run("withMetaStore", func(t *testing.T) {
		testsuite.SnapshotterSuite(t, "native", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
			meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
			if err != nil {
				return nil, nil, err
			}
			sn, err := native.NewSnapshotter(root, native.WithMetaStore(meta))
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
