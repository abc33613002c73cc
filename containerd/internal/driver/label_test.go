//go:build linux

package driver

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// A walk with the label leaves out what is damaged, also where that shows only when the label is looked for.
func TestLabelsBesideDamage(t *testing.T) {
	root, config := filepath.Join(t.TempDir(), "root"), Config{UpperLabel: "upper"}
	s, err := Open(root, &fake{}, config)
	must(t, err)
	layer(t, s, "damaged", "", 1)
	dir := layer(t, s, "whole", "", 1)
	must(t, s.Close())
	must(t, os.WriteFile(filepath.Join(root, "meta", "snapshots", "damaged", "metadata.json"), []byte("{"), 0o600))
	s, err = Open(root, &fake{}, config)
	must(t, err)
	defer func() { must(t, s.Close()) }()
	labels := map[string]string{}
	must(t, s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		labels[info.Name] = info.Labels["upper"]
		return nil
	}))
	if len(labels) != 1 || labels["whole"] != filepath.Join(dir, "fs") {
		t.Errorf("the labels are %v", labels)
	}
	must(t, s.read(t.Context(), func(ctx context.Context) error {
		return s.labelling(func(context.Context, snapshots.Info) error {
			t.Error("what is damaged is visited")
			return nil
		})(ctx, snapshots.Info{Name: "damaged"})
	}))
}
