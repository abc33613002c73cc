package peers_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// What is no file is refused, and nothing waits for it.
func TestPipeInTheWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	must(t, syscall.Mkfifo(path, 0o600))
	for _, opts := range [][]storage.Opt{nil, {storage.WithImport(nil)}} {
		if _, err := storage.NewMetaStore(path, opts...); !errors.Is(err, fsmeta.ErrNotStore) {
			t.Errorf("got %v", err)
		}
	}
	if err := storage.GoBack(t.Context(), path, nil); !errors.Is(err, fsmeta.ErrNotStore) {
		t.Errorf("got %v", err)
	}
	if err := storage.Import(t.Context(), path, newStore(t), nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
