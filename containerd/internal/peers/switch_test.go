package peers_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// rawOf returns all keys and values of a bbolt file, and the sequences of its buckets, by their paths.
func rawOf(t *testing.T, file string) map[string]string {
	t.Helper()
	all := map[string]string{}
	db, err := bolt.Open(file, 0, &bolt.Options{ReadOnly: true})
	must(t, err)
	var walk func(path string, b *bolt.Bucket) error
	walk = func(path string, b *bolt.Bucket) error {
		all[path+"/"] = fmt.Sprint(b.Sequence())
		return b.ForEach(func(k, v []byte) error {
			at := fmt.Sprintf("%s/%q", path, k)
			if v == nil {
				return walk(at, b.Bucket(k))
			}
			all[at] = fmt.Sprintf("%x", v)
			return nil
		})
	}
	must(t, db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return walk(string(name), b) })
	}))
	must(t, db.Close())
	return all
}

// randomBolt makes a metadata.db by random calls of containerd's package, some of which are
// rolled back.
func randomBolt(t *testing.T, seed uint64, steps int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "metadata.db")
	change(t, file, seed, steps)
	return file
}

// change makes random calls of containerd's package on a metadata.db.
func change(t *testing.T, file string, seed uint64, steps int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	ms, err := theirs.NewMetaStore(file)
	must(t, err)
	undo := errors.New("undo")
	for i := range steps {
		err := ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			if err := changeOnce(ctx, r, fmt.Sprintf("k%d-%d ünï", seed, i)); err != nil {
				return err
			}
			if r.IntN(8) == 0 {
				return undo
			}
			return nil
		})
		if err != nil && !errors.Is(err, undo) && !errdefs.IsFailedPrecondition(err) { // it has children
			t.Fatal(err)
		}
	}
	must(t, ms.Close())
}

func changeOnce(ctx context.Context, r *rand.Rand, key string) error {
	var committed, active, all []string
	err := theirs.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		all = append(all, info.Name)
		switch info.Kind {
		case snapshots.KindCommitted:
			committed = append(committed, info.Name)
		case snapshots.KindActive:
			active = append(active, info.Name)
		}
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	parent := ""
	if len(committed) > 0 && r.IntN(4) > 0 {
		parent = committed[r.IntN(len(committed))]
	}
	labels := snapshots.WithLabels(map[string]string{"containerd.io/x": key, fmt.Sprint("l", r.IntN(9)): strings.Repeat("v", r.IntN(300)), "empty": ""})
	switch what := r.IntN(10); {
	case what < 4 || len(all) == 0:
		_, err = theirs.CreateSnapshot(ctx, snapshots.KindActive, key, parent, labels)
	case what < 5:
		_, err = theirs.CreateSnapshot(ctx, snapshots.KindView, key, parent)
	case what < 8 && len(active) > 0:
		of := active[r.IntN(len(active))]
		opts := []snapshots.Opt{labels}
		if _, info, _, err := theirs.GetInfo(ctx, of); err != nil {
			return err
		} else if info.Parent == "" && parent != "" && parent != of {
			opts = append(opts, withParent(parent))
		}
		_, err = theirs.CommitActive(ctx, of, "layer "+key, snapshots.Usage{Inodes: r.Int64N(1000), Size: r.Int64() - r.Int64()}, opts...)
	case what < 9:
		_, err = theirs.UpdateInfo(ctx, snapshots.Info{Name: all[r.IntN(len(all))], Labels: map[string]string{"new": key}}, "labels.new")
	default:
		_, _, err = theirs.Remove(ctx, all[r.IntN(len(all))])
	}
	return err
}

// Stores go from bbolt to fsmeta, back, and over again, and every bit of them stays.
func TestRing(t *testing.T) {
	last := uint64(8)
	if text := os.Getenv("FSMETA_TEST_RUNS"); text != "" {
		last = parse(t, text)
	}
	for seed := range last {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			path := randomBolt(t, seed, int(20+seed%5*40))
			for round := range 3 {
				raw, want := rawOf(t, path), contentOf(t, peers.Bolt, path)
				turn(t, path, raw, want)
				change(t, path, 1000*uint64(round+1)+seed, 10)
			}
		})
	}
}

// turn takes a bbolt file over, exports the store, and goes back.
func turn(t *testing.T, path string, raw map[string]string, want content) {
	t.Helper()
	must(t, storage.TakeOver(t.Context(), path, nil))
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Fatalf("bbolt has -, the store has +:\n%s", diff)
	}
	if diff := cmp.Diff(raw, rawOf(t, path+".bolt")); diff != "" {
		t.Fatalf("the file that is kept has changed:\n%s", diff)
	}
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	must(t, storage.Export(t.Context(), ms, path+".back", nil))
	must(t, ms.Close())
	wantEntries(t, path, "metadata.db", "metadata.db.back", "metadata.db.bolt")
	must(t, storage.GoBack(t.Context(), path, nil))
	for _, file := range []string{path, path + ".back"} {
		if diff := cmp.Diff(raw, rawOf(t, file)); diff != "" {
			t.Fatalf("the file was -, its export is +:\n%s", diff)
		}
		if diff := cmp.Diff(want, contentOf(t, peers.Bolt, file)); diff != "" {
			t.Fatalf("containerd's package says - of the file, + of its export:\n%s", diff)
		}
	}
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path+".fsmeta")); diff != "" {
		t.Fatalf("bbolt has -, the store that is kept has +:\n%s", diff)
	}
	wantEntries(t, path, "metadata.db", "metadata.db.back", "metadata.db.bolt", "metadata.db.fsmeta")
	must(t, os.RemoveAll(path+".fsmeta"))
	must(t, os.Remove(path+".back"))
	must(t, os.Remove(path+".bolt"))
}

// wantEntries requires that nothing else is in the directory of path.
func wantEntries(t *testing.T, path string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("there should be - and is +:\n%s", diff)
	}
}

// An option takes a file over, once, and does nothing from then on, nor where there is none.
func TestWithImport(t *testing.T) {
	path := boltFile(t)
	want := contentOf(t, peers.Bolt, path)
	steps := 0
	option := storage.WithImport(func(done, total int) {
		if steps++; done != steps || total != 12 {
			t.Errorf("step %d is %d of %d", steps, done, total)
		}
	})
	for range 2 {
		ms, err := storage.NewMetaStore(path, func(o *bolt.Options) error { o.NoSync = false; return nil }, option)
		must(t, err)
		must(t, ms.Close())
	}
	if steps != 12 {
		t.Errorf("there were %d steps", steps)
	}
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Errorf("bbolt has -, the store has +:\n%s", diff)
	}
	ms, err := storage.NewMetaStore(filepath.Join(t.TempDir(), "metadata.db"), option)
	must(t, err)
	if names := walk(t, ms); names != nil {
		t.Errorf("a new store has %q", names)
	}
	must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "new", "")
		return err
	}))
	must(t, ms.Close())
	if _, err := storage.NewMetaStore(filepath.Join(t.TempDir(), "none", "metadata.db"), option); err != nil {
		t.Errorf("a directory that is missing, which shows later: %v", err)
	}
	// Given to containerd's own, it does not seem to work.
	if err := option(&bolt.Options{}); err == nil || !strings.Contains(err.Error(), "NewMetaStore of that package alone") {
		t.Errorf("got %v", err)
	}
}

// A store that is opened read-only takes nothing over.
func TestWithImportReadOnly(t *testing.T) {
	path := boltFile(t)
	_, err := storage.NewMetaStore(path, storage.WithImport(nil), func(o *bolt.Options) error { o.ReadOnly = true; return nil })
	if !errors.Is(err, fsmeta.ErrNotStore) {
		t.Errorf("got %v", err)
	}
	wantEntries(t, path, "metadata.db")
}

// Where a take-over is refused, the file stays what and where it is, and nothing is left.
func TestTakeOverRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, path string) context.Context
		want  func(error) bool
		extra []string
	}{
		"a file in use": {func(t *testing.T, path string) context.Context {
			db, err := bolt.Open(path, 0, nil)
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
			return t.Context()
		}, errdefs.IsUnavailable, nil},
		"a file cut short": {func(t *testing.T, path string) context.Context {
			must(t, os.Truncate(path, 9000))
			return t.Context()
		}, errdefs.IsDataLoss, nil},
		"a file that is none of bbolt's": {func(t *testing.T, path string) context.Context {
			must(t, os.WriteFile(path, []byte("text"), 0o600))
			return t.Context()
		}, func(err error) bool { return errors.Is(err, fsmeta.ErrNotStore) }, nil},
		"a context that has ended": {func(t *testing.T, path string) context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		}, func(err error) bool { return errors.Is(err, context.Canceled) }, nil},
		"a file of an earlier time": {func(t *testing.T, path string) context.Context {
			must(t, os.WriteFile(path+".bolt", nil, 0o600))
			return t.Context()
		}, errdefs.IsFailedPrecondition, []string{"metadata.db.bolt"}},
		"a parent that is missing": {func(t *testing.T, path string) context.Context {
			rename(t, path, "sha256:b", "sha256:c")
			return t.Context()
		}, func(err error) bool {
			var unfit *storage.UnfitError
			return errors.As(err, &unfit) && len(unfit.Snapshots) == 2 && errdefs.IsDataLoss(err)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := boltFile(t)
			ctx := c.spoil(t, path)
			before, err := os.ReadFile(path)
			must(t, err)
			if err := storage.TakeOver(ctx, path, nil); err == nil || !c.want(err) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
			after, err := os.ReadFile(path)
			must(t, err)
			if !bytes.Equal(before, after) {
				t.Error("the file has changed")
			}
			wantEntries(t, path, append([]string{"metadata.db"}, c.extra...)...)
		})
	}
}

// A context that ends while the store is built or compared ends the work.
func TestTakeOverEndsWithContext(t *testing.T) {
	for step := range 8 {
		path := boltFile(t)
		ctx, cancel := context.WithCancel(t.Context())
		err := storage.TakeOver(ctx, path, func(done, _ int) {
			if done == step+1 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("step %d: got %v", step+1, err)
		}
		wantEntries(t, path, "metadata.db")
		cancel()
	}
}

// While a file is taken over no process can write to it. Any number of those that take it over
// end with the one store.
func TestTakeOverAtOnce(t *testing.T) {
	path := boltFile(t)
	want := contentOf(t, peers.Bolt, path)
	var group sync.WaitGroup
	built := make(chan int, 100)
	for i := range 6 {
		group.Go(func() {
			ms, err := storage.NewMetaStore(path, storage.WithImport(func(done, total int) {
				if done == 1 {
					built <- i
				}
				if _, err := bolt.Open(path, 0, &bolt.Options{Timeout: 1}); err == nil {
					t.Error("the file can be opened for writing")
				}
			}))
			if err == nil {
				_, err = ms.NewID(t.Context())
			}
			if err = errors.Join(err, ms.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(built) != 1 {
		t.Errorf("%d have built it", len(built))
	}
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Errorf("bbolt has -, the store has +:\n%s", diff)
	}
	wantEntries(t, path, "metadata.db", "metadata.db.bolt")
}

// Two processes take a file over at the same time: each ends with the one store.
func TestTakeOverByProcesses(t *testing.T) {
	path := randomBolt(t, 7, 200)
	want := contentOf(t, peers.Bolt, path)
	var all []*exec.Cmd
	for range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTakeOverChild$")
		cmd.Env = append(os.Environ(), "FSMETA_TEST_TAKEOVER="+path, "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		all = append(all, cmd)
	}
	for _, cmd := range all {
		must(t, cmd.Wait())
	}
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Errorf("bbolt has -, the store has +:\n%s", diff)
	}
	wantEntries(t, path, "metadata.db", "metadata.db.bolt")
}

// TestTakeOverChild is one of these processes.
func TestTakeOverChild(t *testing.T) {
	path := os.Getenv("FSMETA_TEST_TAKEOVER")
	if path == "" {
		t.Skip("this is a part of TestTakeOverByProcesses")
	}
	ms, err := storage.NewMetaStore(path, storage.WithImport(nil))
	must(t, err)
	if len(walk(t, ms)) == 0 {
		t.Error("the store is empty")
	}
	must(t, ms.Close())
}

// remember makes what a stage has of a file that is exchanged: its checksum.
func remember(t *testing.T, stage, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(stage, "written"), fmt.Appendf(nil, "%x\n", sha256.Sum256(data)), 0o600))
}

// What a crash has left is finished or begun anew, and the file stays.
func TestTakeOverFinishes(t *testing.T) {
	stage := func(path string) string { return filepath.Join(filepath.Dir(path), ".metadata.db.import") }
	built := func(path string) string { return filepath.Join(stage(path), "store") }
	for name, leave := range map[string]func(t *testing.T, path string){
		"an empty stage": func(t *testing.T, path string) { must(t, os.Mkdir(stage(path), 0o700)) },
		"a part of a store": func(t *testing.T, path string) {
			must(t, os.MkdirAll(filepath.Join(built(path), "snapshots"), 0o700))
		},
		"another store": func(t *testing.T, path string) {
			must(t, os.Mkdir(stage(path), 0o700))
			ms, err := storage.NewMetaStore(built(path))
			must(t, err)
			must(t, storage.Import(t.Context(), randomBolt(t, 1, 50), ms, nil))
			must(t, ms.Close())
		},
		"exchanged": func(t *testing.T, path string) {
			must(t, storage.TakeOver(t.Context(), path, nil))
			must(t, os.Mkdir(stage(path), 0o700))
			remember(t, stage(path), path+".bolt")
			must(t, os.Rename(path+".bolt", built(path)))
		},
		"exchanged and put aside": func(t *testing.T, path string) {
			must(t, storage.TakeOver(t.Context(), path, nil))
			must(t, os.Mkdir(stage(path), 0o700))
			remember(t, stage(path), path+".bolt")
		},
		"done, but for the stage": func(t *testing.T, path string) {
			must(t, storage.TakeOver(t.Context(), path, nil))
			must(t, os.Mkdir(stage(path), 0o700))
		},
		"between two renames": func(t *testing.T, path string) {
			must(t, storage.TakeOver(t.Context(), path, nil))
			must(t, os.Mkdir(stage(path), 0o700))
			must(t, os.Rename(path, built(path)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := boltFile(t)
			want, raw := contentOf(t, peers.Bolt, path), rawOf(t, path)
			leave(t, path)
			must(t, storage.TakeOver(t.Context(), path, nil))
			if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
				t.Errorf("bbolt has -, the store has +:\n%s", diff)
			}
			if diff := cmp.Diff(raw, rawOf(t, path+".bolt")); diff != "" {
				t.Errorf("the file that is kept has changed:\n%s", diff)
			}
			wantEntries(t, path, "metadata.db", "metadata.db.bolt")
		})
	}
}

// A file that nothing was ever written to becomes a store of which that is true, and the other way round: a driver's
// cleanup goes on to fail, and takes no content for garbage.
func TestNeverWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Close())
	notFound := func(peer peers.Peer, path string) {
		t.Helper()
		ms, err := peer.Open(path)
		must(t, err)
		must(t, ms.WithTransaction(t.Context(), false, func(ctx context.Context) error {
			if ids, err := ms.IDMap(ctx); !errdefs.IsNotFound(err) {
				t.Errorf("got %v, %v", ids, err)
			}
			return nil
		}))
		must(t, ms.Close())
	}
	notFound(peers.Bolt, path)
	must(t, storage.TakeOver(t.Context(), path, nil))
	notFound(peers.FS, path)
	ms := newStore(t)
	must(t, storage.Import(t.Context(), path+".bolt", ms, nil))
	must(t, ms.Close())
	notFound(peers.FS, ms.Path())
	must(t, storage.GoBack(t.Context(), path, nil))
	notFound(peers.Bolt, path)
}

// A store that a driver has used is not deleted where the file is in its place again, as after a power cut.
func TestTakeOverKeepsUsedStore(t *testing.T) {
	path := boltFile(t)
	commit := func(name string) {
		t.Helper()
		ms, err := storage.NewMetaStore(path)
		must(t, err)
		must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, name, "")
			return err
		}))
		must(t, ms.Close())
	}
	must(t, storage.TakeOver(t.Context(), path, nil))
	commit("since")
	stage := filepath.Join(filepath.Dir(path), ".metadata.db.import")
	store := filepath.Join(stage, "store")
	must(t, os.Mkdir(stage, 0o700))
	must(t, os.Rename(path, store))
	must(t, os.Rename(path+".bolt", path))
	for range 2 {
		err := storage.TakeOver(t.Context(), path, nil)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "mv "+store+" "+path) {
			t.Fatalf("got %v", err)
		}
	}
	must(t, os.Rename(path, path+".bolt")) // as it says
	must(t, os.Rename(store, path))
	must(t, storage.TakeOver(t.Context(), path, nil))
	wantEntries(t, path, "metadata.db", "metadata.db.bolt")
	commit("still")
	if got := contentOf(t, peers.FS, path); got.Infos["since"].Name == "" || len(got.IDs) != 6 {
		t.Errorf("the store has %v", got.IDs)
	}
}

// A file that a killed take-over has left is not put aside where a process has written to it since, or may do so,
// whether a driver has gone on with the store or not.
func TestTakeOverLooksAtLeftFile(t *testing.T) {
	for _, used := range []bool{false, true} {
		t.Run(fmt.Sprint("the store was used: ", used), func(t *testing.T) {
			path := boltFile(t)
			must(t, storage.TakeOver(t.Context(), path, nil))
			stage := filepath.Join(filepath.Dir(path), ".metadata.db.import")
			file := filepath.Join(stage, "store")
			must(t, os.Mkdir(stage, 0o700))
			remember(t, stage, path+".bolt")
			must(t, os.Rename(path+".bolt", file))
			if used {
				ms, err := storage.NewMetaStore(path)
				must(t, err)
				must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
					_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "since", "")
					return err
				}))
				must(t, ms.Close())
			}
			db, err := bolt.Open(file, 0, nil)
			must(t, err)
			if err := storage.TakeOver(t.Context(), path, nil); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), file) {
				t.Errorf("in use: got %v", err)
			}
			must(t, db.Close())
			before, err := os.ReadFile(file)
			must(t, err)
			change(t, file, 3, 5)
			for range 2 {
				if err := storage.TakeOver(t.Context(), path, nil); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "mv "+file+" "+path) {
					t.Errorf("written to: got %v", err)
				}
			}
			wantEntries(t, path, ".metadata.db.import", "metadata.db")
			must(t, os.WriteFile(file, before, 0o600))
			must(t, storage.TakeOver(t.Context(), path, nil))
			wantEntries(t, path, "metadata.db", "metadata.db.bolt")
		})
	}
}

// Where the path is a symlink, what it leads to is switched and goes back, and the symlink stays.
func TestSwitchThroughSymlink(t *testing.T) {
	for name, link := range map[string]func(path string) (to string){
		"absolute": func(path string) string { return path },
		"relative": func(path string) string {
			return filepath.Join("..", filepath.Base(filepath.Dir(path)), filepath.Base(path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			real := boltFile(t)
			dir := filepath.Join(filepath.Dir(filepath.Dir(real)), "links")
			must(t, os.MkdirAll(dir, 0o700))
			path := filepath.Join(dir, "metadata.db")
			must(t, os.Symlink(link(real), path))
			want := contentOf(t, peers.Bolt, path)
			must(t, storage.TakeOver(t.Context(), path, nil))
			wantEntries(t, path, "metadata.db")
			wantEntries(t, real, "metadata.db", "metadata.db.bolt")
			if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
				t.Errorf("bbolt has -, the store has +:\n%s", diff)
			}
			must(t, os.Rename(real, real+".away"))
			ms, err := storage.NewMetaStore(path)
			must(t, err)
			if _, _, err := ms.TransactionContext(t.Context(), true); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), real+".bolt") {
				t.Errorf("where the store is gone: got %v", err)
			}
			must(t, ms.Close())
			must(t, os.Rename(real+".away", real))
			must(t, storage.GoBack(t.Context(), path, nil))
			wantEntries(t, path, "metadata.db")
			wantEntries(t, real, "metadata.db", "metadata.db.bolt", "metadata.db.fsmeta")
			if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSymlink {
				t.Errorf("the symlink is gone: %v, %v", info, err)
			}
			if diff := cmp.Diff(want, contentOf(t, peers.Bolt, path)); diff != "" {
				t.Errorf("bbolt had -, the file has +:\n%s", diff)
			}
		})
	}
}

// What is no directory is not taken for the stage of a switch.
func TestNoStage(t *testing.T) {
	path := boltFile(t)
	stage := func(work string) string { return filepath.Join(filepath.Dir(path), ".metadata.db."+work) }
	must(t, os.Symlink("nowhere", stage("import")))
	if err := storage.TakeOver(t.Context(), path, nil); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), stage("import")) {
		t.Errorf("got %v", err)
	}
	must(t, os.Remove(stage("import")))
	must(t, storage.TakeOver(t.Context(), path, nil))
	must(t, os.WriteFile(stage("goback"), nil, 0o600))
	if err := storage.GoBack(t.Context(), path, nil); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), stage("goback")) {
		t.Errorf("got %v", err)
	}
}

// What root has begun can be finished by the owner of the file.
func TestStageBelongsToOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := boltFile(t)
	must(t, os.Chown(path, 12345, 12345))
	seen := false
	must(t, storage.TakeOver(t.Context(), path, func(int, int) {
		info, err := os.Stat(filepath.Join(filepath.Dir(path), ".metadata.db.import"))
		must(t, err)
		stat := info.Sys().(*syscall.Stat_t)
		if seen = true; stat.Uid != 12345 || stat.Gid != 12345 {
			t.Errorf("it belongs to %d:%d", stat.Uid, stat.Gid)
		}
	}))
	if !seen {
		t.Error("there was no progress")
	}
}

// A file that a driver has used is not deleted where the store is in its place again, as after a power cut.
func TestGoBackKeepsUsedFile(t *testing.T) {
	path := boltFile(t)
	must(t, storage.TakeOver(t.Context(), path, nil))
	stage := filepath.Join(filepath.Dir(path), ".metadata.db.goback")
	file := filepath.Join(stage, "metadata.db")
	// What a way back that is killed just before the exchange leaves.
	var data []byte
	leave := func() {
		t.Helper()
		must(t, os.MkdirAll(stage, 0o700))
		must(t, os.WriteFile(file, data, 0o600))
		remember(t, stage, file)
	}
	data, err := os.ReadFile(path + ".bolt")
	must(t, err)
	leave()
	change(t, file, 3, 5)
	want := contentOf(t, peers.Bolt, file)
	for range 2 {
		err := storage.GoBack(t.Context(), path, nil)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "mv "+file+" "+path) {
			t.Fatalf("got %v", err)
		}
	}
	must(t, os.Rename(path, path+".fsmeta")) // as it says
	must(t, os.Rename(file, path))
	must(t, storage.GoBack(t.Context(), path, nil))
	wantEntries(t, path, "metadata.db", "metadata.db.bolt", "metadata.db.fsmeta")
	if diff := cmp.Diff(want, contentOf(t, peers.Bolt, path)); diff != "" {
		t.Errorf("the file had -, has +:\n%s", diff)
	}
	must(t, os.Remove(path))
	must(t, os.Rename(path+".fsmeta", path))
	leave() // one that no driver has used
	must(t, storage.GoBack(t.Context(), path, nil))
	wantEntries(t, path, "metadata.db", "metadata.db.bolt", "metadata.db.fsmeta")
}

// A store that was begun from another state of the file is not put in the place of that.
func TestTakeOverKnowsItsStore(t *testing.T) {
	path := boltFile(t)
	must(t, storage.TakeOver(t.Context(), path, nil))
	stage := filepath.Join(filepath.Dir(path), ".metadata.db.import")
	must(t, os.Mkdir(stage, 0o700))
	must(t, os.Rename(path, filepath.Join(stage, "store")))
	change(t, path+".bolt", 3, 5)
	if err := storage.TakeOver(t.Context(), path, nil); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), fmt.Sprintf("mv %s.bolt %s", path, path)) {
		t.Fatalf("got %v", err)
	}
	must(t, os.Rename(path+".bolt", path)) // as it says
	want := contentOf(t, peers.Bolt, path)
	must(t, storage.TakeOver(t.Context(), path, nil))
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Errorf("bbolt has -, the store has +:\n%s", diff)
	}
}

// Where the store is gone and the file is kept, no empty store takes its place, with the option
// or without.
func TestNoNewStoreBesideKeptFile(t *testing.T) {
	path := boltFile(t)
	must(t, storage.TakeOver(t.Context(), path, nil))
	must(t, os.Rename(path, path+".away"))
	for name, opts := range map[string][]storage.Opt{"without": nil, "with": {storage.WithImport(nil)}} {
		t.Run(name, func(t *testing.T) {
			ms, err := storage.NewMetaStore(path, opts...)
			must(t, err)
			_, _, err = ms.TransactionContext(t.Context(), true)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), path+".bolt") {
				t.Errorf("got %v", err)
			}
			must(t, ms.Close())
			wantEntries(t, path, "metadata.db.away", "metadata.db.bolt")
		})
	}
	must(t, os.Rename(path+".away", path))
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	if names := walk(t, ms); len(names) != 4 {
		t.Errorf("the store has %q", names)
	}
	must(t, ms.Close())
}

// unfitFile returns a metadata.db in which two snapshots are sound, sha256:a and
// default/2/b on it, and others are not.
func unfitFile(t *testing.T) string {
	path := boltFile(t)
	rename(t, path, "default/2/web", "default/2/\xff")
	edit(t, path, func(tx *bolt.Tx) error {
		all := tx.Bucket([]byte("v1")).Bucket([]byte("snapshots"))
		put := func(name, parent string, id uint64, kind snapshots.Kind) {
			b, err := all.CreateBucket([]byte(name))
			must(t, err)
			must(t, b.Put([]byte("id"), binary.AppendUvarint(nil, id)))
			must(t, b.Put([]byte("kind"), []byte{byte(kind)}))
			must(t, b.Put([]byte("parent"), []byte(parent)))
		}
		put("default/2/b", "sha256:a", 90, snapshots.KindActive)
		put("dangling", "gone", 91, snapshots.KindCommitted)
		put("on dangling", "dangling", 92, snapshots.KindActive)
		put("circle 1", "circle 2", 93, snapshots.KindCommitted)
		put("circle 2", "circle 1", 94, snapshots.KindCommitted)
		put("on the circle", "circle 1", 95, snapshots.KindView)
		put("twin 1", "sha256:a", 96, snapshots.KindView)
		put("twin 2", "sha256:a", 96, snapshots.KindView)
		put("on an active", "default/2/b", 97, snapshots.KindView)
		put("highest", "gone", 98, snapshots.KindView)
		_, err := all.CreateBucket([]byte("nothing"))
		return err
	})
	return path
}

// What can't be taken over is listed and refused, or left out and listed; then its identifiers
// stay taken, and a driver's cleanup keeps its content.
func TestLeaveOut(t *testing.T) {
	want := map[string]string{
		"default/2/\xff": "4", "dangling": "91", "on dangling": "92", "circle 1": "93", "circle 2": "94", "on the circle": "95",
		"twin 1": "96", "twin 2": "96", "on an active": "97", "highest": "98", "nothing": "",
	}
	path := unfitFile(t)
	err := storage.TakeOver(t.Context(), path, nil)
	var unfit *storage.UnfitError
	if !errors.As(err, &unfit) || !errdefs.IsDataLoss(err) || !errdefs.IsInvalidArgument(err) {
		t.Fatalf("got %v", err)
	}
	got := map[string]string{}
	for _, u := range unfit.Snapshots {
		got[u.Name] = u.ID
		if u.Err == nil || !strings.Contains(err.Error(), u.String()) {
			t.Errorf("%q has the reason %v, and the text of all is %v", u.Name, u.Err, err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, listed are +:\n%s", diff)
	}

	clear(got)
	must(t, storage.TakeOver(t.Context(), path, nil, storage.LeaveOut(func(u storage.Unfit) { got[u.Name] = u.ID })))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, left out are +:\n%s", diff)
	}
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	if diff := cmp.Diff([]string{"default/2/b", "default/2/view " + strings.Repeat("long", 100), "sha256:a", "sha256:b"}, slices.Sorted(slices.Values(walk(t, ms)))); diff != "" {
		t.Errorf("want -, the store has +:\n%s", diff)
	}
	must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		s, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "new", "")
		if s.ID != "99" {
			t.Errorf("the next identifier is %s", s.ID)
		}
		return err
	}))
	must(t, ms.WithTransaction(t.Context(), false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if diff := cmp.Diff([]string{"1", "3", "4", "5", "90", "91", "92", "93", "94", "95", "96", "97", "98", "99"}, sortedIDs(ids)); diff != "" {
			t.Errorf("want -, a cleanup keeps +:\n%s", diff)
		}
		return err
	}))
	// To be exported, it must not have content that the file would not know.
	if err := storage.Export(t.Context(), ms, path+".back", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	must(t, ms.Close())
	findings, err := fsmeta.Check(t.Context(), path, nil)
	must(t, err)
	if len(findings) != 1 || !findings[0].Harmless {
		t.Errorf("a check finds %v", findings)
	}
}

func sortedIDs(ids map[string]string) []string {
	return slices.SortedFunc(maps.Keys(ids), func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
}

// Snapshots with identifiers that a store can't have are left out, their content is kept, and the highest possible is taken.
func TestLeaveOutHighIdentifiers(t *testing.T) {
	for id, fits := range map[uint64]bool{1<<61 - 1: true, 1 << 61: false, 1<<63 - 1: false, 1 << 63: false, 1<<64 - 1: false} {
		t.Run(fmt.Sprint(id), func(t *testing.T) {
			path, name := boltFile(t), fmt.Sprint(id)
			edit(t, path, func(tx *bolt.Tx) error {
				b := tx.Bucket([]byte("v1")).Bucket([]byte("snapshots")).Bucket([]byte("default/2/web"))
				return b.Put([]byte("id"), binary.AppendUvarint(nil, id))
			})
			err := storage.TakeOver(t.Context(), path, nil)
			if fits {
				must(t, err)
				return
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v", err)
			}
			must(t, storage.TakeOver(t.Context(), path, nil, storage.LeaveOut(func(storage.Unfit) {})))
			ms, err := storage.NewMetaStore(path)
			must(t, err)
			must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
				ids, err := storage.IDMap(ctx)
				if _, kept := ids[name]; !kept || len(ids) != 4 {
					t.Errorf("a cleanup keeps %v", ids)
				}
				must(t, err)
				_, err = storage.CreateSnapshot(ctx, snapshots.KindActive, "new", "")
				return err
			}))
			if err := storage.Export(t.Context(), ms, path+".back", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("got %v", err)
			}
			must(t, ms.Close())
			findings, err := fsmeta.Check(t.Context(), path, nil)
			must(t, err)
			for _, f := range findings {
				if !f.Harmless {
					t.Errorf("a check finds %v", f)
				}
			}
		})
	}
}

// An import into a store of its own leaves out the same.
func TestImportLeavesOut(t *testing.T) {
	file, ms := unfitFile(t), newStore(t)
	n := 0
	for range 2 { // it can be run again
		must(t, storage.Import(t.Context(), file, ms, nil, storage.LeaveOut(func(storage.Unfit) { n++ })))
	}
	if names := walk(t, ms); n != 2*11 || len(names) != 4 {
		t.Errorf("%d were left out, and the store has %q", n, names)
	}
}

// What was made since the switch is in an export too, also of a store that is in use, as of one
// moment; and the identifiers go on.
func TestExportOfStoreInUse(t *testing.T) {
	path := boltFile(t)
	ms, err := storage.NewMetaStore(path, storage.WithImport(nil))
	must(t, err)
	must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "since", "sha256:b")
		return err
	}))
	id, err := ms.NewID(t.Context()) // for content that is being made
	must(t, err)
	ctx, tx, err := ms.TransactionContext(t.Context(), true)
	must(t, err)
	_, err = storage.CreateSnapshot(ctx, snapshots.KindActive, "not yet", "")
	must(t, err)
	back := path + ".back"
	must(t, storage.Export(t.Context(), ms, back, nil))
	must(t, tx.Rollback())
	got := contentOf(t, peers.Bolt, back)
	if diff := cmp.Diff(contentOf(t, peers.FS, path), got); diff != "" {
		t.Errorf("the store has -, the export has +:\n%s", diff)
	}
	if len(got.IDs) != 5 {
		t.Errorf("it has %v", got.IDs)
	}
	must(t, ms.Close())
	theirStore, err := theirs.NewMetaStore(back)
	must(t, err)
	must(t, theirStore.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		s, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "new", "")
		if parse(t, s.ID) <= parse(t, id)+1 {
			t.Errorf("the next identifier is %s, and %s and another one were handed out", s.ID, id)
		}
		return err
	}))
	must(t, theirStore.Close())
}

// An export is refused, or ends, without a file.
func TestExportRefuses(t *testing.T) {
	open := func(t *testing.T) (*storage.MetaStore, string) {
		path := boltFile(t)
		ms, err := storage.NewMetaStore(path, storage.WithImport(nil))
		must(t, err)
		t.Cleanup(func() { must(t, ms.Close()) })
		return ms, path
	}
	t.Run("a file that exists", func(t *testing.T) {
		ms, path := open(t)
		if err := storage.Export(t.Context(), ms, path+".bolt", nil); !errors.Is(err, fs.ErrExist) {
			t.Errorf("got %v", err)
		}
		wantEntries(t, path, "metadata.db", "metadata.db.bolt")
	})
	t.Run("a context that ends", func(t *testing.T) {
		ms, path := open(t)
		for step := range 7 {
			ctx, cancel := context.WithCancel(t.Context())
			if step == 0 {
				cancel()
			}
			err := storage.Export(ctx, ms, path+".back", func(done, _ int) {
				if done == step {
					cancel()
				}
			})
			cancel()
			if !errors.Is(err, context.Canceled) {
				t.Errorf("step %d: got %v", step, err)
			}
			wantEntries(t, path, "metadata.db", "metadata.db.bolt")
		}
	})
	t.Run("a damaged store", func(t *testing.T) {
		ms, path := open(t)
		must(t, os.WriteFile(filepath.Join(path, "snapshots", "sha256:a", "metadata.json"), []byte("{"), 0o600))
		must(t, ms.Close())
		ms, err := storage.NewMetaStore(path)
		must(t, err)
		if err := storage.Export(t.Context(), ms, path+".back", nil); !errors.Is(err, fsmeta.ErrDamaged) {
			t.Errorf("got %v", err)
		}
		must(t, ms.Close())
		wantEntries(t, path, "metadata.db", "metadata.db.bolt")
	})
	t.Run("a store that was restored from a backup", func(t *testing.T) {
		ms, path := open(t)
		must(t, ms.Close())
		s, err := fsmeta.Open(path)
		must(t, err)
		must(t, s.Backup(t.Context(), path+".backup", nil))
		must(t, s.Close())
		must(t, os.RemoveAll(path))
		must(t, os.Rename(path+".backup", path))
		for range 2 {
			if err := storage.GoBack(t.Context(), path, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), filepath.Join(path, "backup")) {
				t.Errorf("got %v", err)
			}
		}
		wantEntries(t, path, "metadata.db", "metadata.db.bolt")
		must(t, os.Remove(filepath.Join(path, "backup")))
		must(t, storage.GoBack(t.Context(), path, nil))
		wantEntries(t, path, "metadata.db", "metadata.db.bolt", "metadata.db.fsmeta")
	})
	t.Run("what a killed process has left is replaced", func(t *testing.T) {
		ms, path := open(t)
		stage := filepath.Join(filepath.Dir(path), ".metadata.db.back.export")
		must(t, os.Mkdir(stage, 0o700))
		must(t, os.WriteFile(filepath.Join(stage, "metadata.db"), []byte("part"), 0o600))
		must(t, storage.Export(t.Context(), ms, path+".back", nil))
		wantEntries(t, path, "metadata.db", "metadata.db.back", "metadata.db.bolt")
	})
}

// A store that is in use, or was written to meanwhile, stays.
func TestGoBackRefuses(t *testing.T) {
	path := boltFile(t)
	ms, err := storage.NewMetaStore(path, storage.WithImport(nil))
	must(t, err)
	want := walk(t, ms)
	if err := storage.GoBack(t.Context(), path, nil); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("in use: got %v", err)
	}
	must(t, ms.Close())
	err = storage.GoBack(t.Context(), path, func(done, _ int) {
		if done > 1 {
			return
		}
		ms, err := storage.NewMetaStore(path)
		must(t, err)
		must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "meanwhile", "")
			return err
		}))
		must(t, ms.Close())
	})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("written to: got %v", err)
	}
	must(t, os.Mkdir(path+".fsmeta", 0o700))
	if err := storage.GoBack(t.Context(), path, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("beside a store of an earlier time: got %v", err)
	}
	must(t, os.Remove(path+".fsmeta"))
	if err := storage.GoBack(t.Context(), path+".none", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: got %v", err)
	}
	ms, err = storage.NewMetaStore(path)
	must(t, err)
	if got := walk(t, ms); len(got) != len(want)+1 {
		t.Errorf("the store has %q, had %q", got, want)
	}
	must(t, ms.Close())
	wantEntries(t, path, "metadata.db", "metadata.db.bolt")
}

// A process that waits for the file, to write to it, keeps it where it is.
func TestTakeOverSeesWaiter(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system does not tell")
	}
	path := boltFile(t)
	var waiter *os.File
	err := storage.TakeOver(t.Context(), path, func(done, total int) {
		if done == total {
			var err error
			waiter, err = os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
		}
	})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("got %v", err)
	}
	wantEntries(t, path, "metadata.db")
	must(t, waiter.Close())
	must(t, storage.TakeOver(t.Context(), path, nil))
}
