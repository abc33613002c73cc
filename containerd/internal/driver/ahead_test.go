//go:build linux

package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The first cleanup and the first removal after a start look at every snapshot, but read none while they have the
// metadata transaction: what they have not read before is damaged by then, and they don't notice.
func TestNothingIsReadInATransaction(t *testing.T) {
	for what, call := range map[string]func(context.Context, *Snapshotter) error{
		"clean up": func(ctx context.Context, s *Snapshotter) error { return s.Cleanup(ctx) },
		"remove":   func(ctx context.Context, s *Snapshotter) error { return s.Remove(ctx, "layer 7") },
	} {
		t.Run(what, func(t *testing.T) {
			s, content := openFake(t, Config{})
			for i := range 20 {
				layer(t, s, fmt.Sprint("layer ", i), "", 1)
			}
			must(t, s.Close())
			s, err := Open(s.root, content, Config{})
			must(t, err)
			t.Cleanup(func() { must(t, s.Close()) })
			newOrphan(t, s)

			release := keepTurn(t, t.Context(), s, "commit", "keeping")
			ctx, caught := withLog(t.Context())
			done := make(chan error, 1)
			go func() { done <- call(ctx, s) }()
			awaitLine(t, caught, what+" waits for the metadata transaction")
			files, err := filepath.Glob(filepath.Join(s.meta.Path(), "snapshots", "*", "metadata.json"))
			must(t, err)
			if len(files) != 20 {
				t.Fatalf("there are %d files, want 20", len(files))
			}
			for _, file := range files {
				must(t, os.Rename(file, file+".away"))
			}
			must(t, release())
			must(t, await(t, what, done))
			if what == "clean up" {
				checkNothingLeft(t, s)
			}
		})
	}
}
