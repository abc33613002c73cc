package peers_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/google/go-cmp/cmp"
)

// stageOf is where what is to be at a path is staged.
func stageOf(path, work string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+work)
}

// driver's cleanup would delete all content.
func TestNoNewStoreBesideWhatIsLeft(t *testing.T) {
	for name, left := range map[string]func(path string) string{
		"the file, after an import": func(path string) string { return path + ".bolt" },
		"the file, after an import that was interrupted": func(path string) string {
			return filepath.Join(stageOf(path, "import"), "store")
		},
		"the store, after a way back": func(path string) string { return path + ".fsmeta" },
		"the store, after a way back that was interrupted": func(path string) string {
			return filepath.Join(stageOf(path, "goback"), "metadata.db")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := boltFile(t)
			must(t, os.MkdirAll(filepath.Dir(left(path)), 0o700))
			must(t, os.Rename(path, left(path)))
			ms, err := storage.NewMetaStore(path)
			must(t, err)
			_, _, err = ms.TransactionContext(t.Context(), true)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), fmt.Sprintf("mv %s %s", left(path), path)) {
				t.Errorf("got %v", err)
			}
			must(t, ms.Close())
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something was made: %v", err)
			}
		})
	}
}

// An export to the path of a way back that was interrupted leaves alone what that has left: a driver may have used it.
func TestExportLeavesWayBackAlone(t *testing.T) {
	path := boltFile(t)
	want := contentOf(t, peers.Bolt, path)
	left := filepath.Join(stageOf(path, "goback"), "metadata.db")
	must(t, storage.TakeOver(t.Context(), path, nil))
	must(t, os.Mkdir(filepath.Dir(left), 0o700))
	must(t, os.Rename(path+".bolt", left))
	must(t, os.Rename(path, path+".fsmeta"))
	ms, err := storage.NewMetaStore(path + ".fsmeta")
	must(t, err)
	must(t, storage.Export(t.Context(), ms, path, nil))
	must(t, ms.Close())
	for _, file := range []string{left, path} {
		if diff := cmp.Diff(want, contentOf(t, peers.Bolt, file)); diff != "" {
			t.Errorf("%s should have -, has +:\n%s", file, diff)
		}
	}
}

// A file that takes the place of the one that is being taken over stays, and is the next to be taken over.
func TestTakeOverSeesOtherFile(t *testing.T) {
	path, other := boltFile(t), randomBolt(t, 3, 40)
	want := contentOf(t, peers.Bolt, other)
	err := storage.TakeOver(t.Context(), path, func(done, total int) {
		if done == total {
			must(t, os.Rename(other, path))
		}
	})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	wantEntries(t, path, "metadata.db")
	if diff := cmp.Diff(want, contentOf(t, peers.Bolt, path)); diff != "" {
		t.Errorf("the other file had -, has +:\n%s", diff)
	}
	must(t, storage.TakeOver(t.Context(), path, nil))
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Errorf("bbolt has -, the store has +:\n%s", diff)
	}
}

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

// A store can be used though what is no stage has the name of one.
func TestNoStageOpens(t *testing.T) {
	path := boltFile(t)
	must(t, storage.TakeOver(t.Context(), path, nil))
	must(t, os.WriteFile(stageOf(path, "import"), nil, 0o600))
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	if names := walk(t, ms); len(names) != 4 {
		t.Errorf("the store has %q", names)
	}
	must(t, ms.Close())
}

// An export has what is committed, though its context carries a transaction that has more, or has ended.
func TestExportInTransaction(t *testing.T) {
	path := boltFile(t)
	want := contentOf(t, peers.Bolt, path)
	must(t, storage.TakeOver(t.Context(), path, nil))
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	ctx, tx, err := ms.TransactionContext(t.Context(), true)
	must(t, err)
	_, err = storage.CreateSnapshot(ctx, snapshots.KindActive, "not yet", "")
	must(t, err)
	for _, back := range []string{path + ".open", path + ".ended"} {
		must(t, storage.Export(ctx, ms, back, nil))
		if diff := cmp.Diff(want, contentOf(t, peers.Bolt, back)); diff != "" {
			t.Errorf("committed is -, the export has +:\n%s", diff)
		}
		if err := tx.Rollback(); err != nil && back == path+".open" {
			t.Error(err)
		}
	}
	must(t, ms.Close())
}

// Root that leaves snapshots out of an import into a store of another user gives away nothing but what is in the store.
func TestRecordsFollowNoSymlink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	for name, link := range map[string]string{"an entry": "damaged/link", "the directory": "damaged", "one below": "damaged/import"} {
		t.Run(name, func(t *testing.T) {
			ms, outside := newStore(t), t.TempDir()
			if names := walk(t, ms); names != nil { // which makes the store
				t.Fatal(names)
			}
			must(t, os.MkdirAll(filepath.Join(ms.Path(), filepath.Dir(link)), 0o700))
			must(t, os.Symlink(outside, filepath.Join(ms.Path(), link)))
			must(t, filepath.WalkDir(ms.Path(), func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, 12345, 12345))
			}))
			err := storage.Import(t.Context(), unfitFile(t), ms, nil, storage.LeaveOut(func(storage.Unfit) {}))
			if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), filepath.Join(ms.Path(), link)) {
				t.Errorf("got %v", err)
			}
			info, err := os.Stat(outside)
			must(t, err)
			if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 0 {
				t.Errorf("a directory of root belongs to %d", stat.Uid)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
				t.Errorf("it has %v: %v", entries, err)
			}
		})
	}
}

// A panic of the caller's progress is the caller's, and no damage of the file.
func TestProgressPanics(t *testing.T) {
	path := boltFile(t)
	defer func() {
		if r := recover(); r != "stop" {
			t.Errorf("got %v", r)
		}
		wantEntries(t, path, "metadata.db")
	}()
	t.Error(storage.TakeOver(t.Context(), path, func(int, int) { panic("stop") }))
}

// A store in the stage that is damaged is not deleted, since a driver may have used it, and the error says what to do.
func TestDamagedStoreIsLeft(t *testing.T) {
	path := boltFile(t)
	must(t, storage.TakeOver(t.Context(), path, nil))
	store := filepath.Join(stageOf(path, "import"), "store")
	must(t, os.Mkdir(filepath.Dir(store), 0o700))
	must(t, os.Rename(path, store))
	must(t, os.Rename(path+".bolt", path))
	must(t, os.Remove(filepath.Join(store, "journal")))
	err := storage.TakeOver(t.Context(), path, nil)
	if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), store+", which a switch has left, can't be told: repair it, or delete it") {
		t.Errorf("got %v", err)
	}
	wantEntries(t, path, ".metadata.db.import", "metadata.db")
	must(t, os.RemoveAll(store)) // as it says
	must(t, storage.TakeOver(t.Context(), path, nil))
	wantEntries(t, path, "metadata.db", "metadata.db.bolt")
}

// A file that an export has put in its place, that a driver has used, and that is back in the stage, as after a power
// cut, is not deleted by the next export; others that are left are.
func TestExportKeepsUsedFile(t *testing.T) {
	path := boltFile(t)
	must(t, storage.TakeOver(t.Context(), path, nil))
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	back := path + ".back"
	stage := stageOf(back, "export")
	left := filepath.Join(stage, "metadata.db")
	must(t, os.Mkdir(stage, 0o700))
	must(t, os.Rename(path+".bolt", left))
	remember(t, stage, left)
	change(t, left, 3, 5)
	want := contentOf(t, peers.Bolt, left)
	for range 2 {
		if err := storage.Export(t.Context(), ms, back, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "mv "+left+" "+back) {
			t.Fatalf("got %v", err)
		}
	}
	must(t, os.Rename(left, back)) // as it says
	if diff := cmp.Diff(want, contentOf(t, peers.Bolt, back)); diff != "" {
		t.Errorf("it had -, has +:\n%s", diff)
	}
	more := path + ".more"
	must(t, os.Rename(stage, stageOf(more, "export")))
	left = filepath.Join(stageOf(more, "export"), "metadata.db")
	must(t, os.Rename(back, left))
	remember(t, filepath.Dir(left), left) // which no driver has used
	must(t, storage.Export(t.Context(), ms, more, nil))
	must(t, ms.Close())
	wantEntries(t, path, "metadata.db", "metadata.db.more")
}
