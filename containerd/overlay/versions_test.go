//go:build linux

package overlay_test

import (
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	peer "github.com/containerd/containerd/v2/plugins/snapshots/overlay"
)

// The module works with containerd 2.0 and newer; what it is compared with is containerd's own snapshotter of 2.4, since older
// ones lack some of what it has.

// withParent is snapshots.WithParent, which containerd has since 2.2.
func withParent(parent string) snapshots.Opt {
	return func(info *snapshots.Info) error {
		info.Parent = parent
		return nil
	}
}

// needNewest skips a test that compares with an older one: that gives no parent at Commit.
func needNewest(t *testing.T) {
	t.Helper()
	s, err := peer.NewSnapshotter(filepath.Join(t.TempDir(), "peer"))
	must(t, err)
	for _, name := range []string{"low", "high"} {
		_, err := s.Prepare(t.Context(), "key", "")
		must(t, err)
		parent := map[string]string{"high": "low"}[name]
		must(t, s.Commit(t.Context(), name, "key", withParent(parent)))
	}
	high, err := s.Stat(t.Context(), "high")
	must(t, err)
	must(t, s.Close())
	if high.Parent == "" {
		t.Skip("it is compared with containerd 2.4, and the tests are built with an older one: make newest")
	}
}
