package peers_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"
)

// boltFile returns a metadata.db that containerd's package has written, with an
// identifier that was used and is free again, and the highest of all among those.
func boltFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "metadata.db")
	ms, err := theirs.NewMetaStore(path)
	must(t, err)
	in := func(fn func(ctx context.Context) error) {
		t.Helper()
		must(t, ms.WithTransaction(t.Context(), true, fn))
	}
	create := func(kind snapshots.Kind, key, parent string, labels map[string]string) {
		in(func(ctx context.Context) error {
			_, err := theirs.CreateSnapshot(ctx, kind, key, parent, snapshots.WithLabels(labels))
			return err
		})
	}
	commit := func(key, name string, usage snapshots.Usage, opts ...snapshots.Opt) {
		in(func(ctx context.Context) error {
			_, err := theirs.CommitActive(ctx, key, name, usage, opts...)
			return err
		})
	}
	create(snapshots.KindActive, "default/1/extract-1 sha256:a", "", nil)
	commit("default/1/extract-1 sha256:a", "sha256:a", snapshots.Usage{Inodes: 3, Size: 1 << 40},
		snapshots.WithLabels(map[string]string{"containerd.io/snapshot.ref": "sha256:a", "ünïcode/label": "«x»"}))
	create(snapshots.KindActive, "gone", "", nil)
	create(snapshots.KindActive, "unpack", "", nil)
	commit("unpack", "sha256:b", snapshots.Usage{Size: -1}, withParent("sha256:a"))
	create(snapshots.KindActive, "default/2/web", "sha256:b", map[string]string{"a": "b"})
	create(snapshots.KindView, "default/2/view "+strings.Repeat("long", 100), "sha256:b", nil)
	create(snapshots.KindActive, "last", "", nil)
	in(func(ctx context.Context) error {
		_, _, err := theirs.Remove(ctx, "gone")
		must(t, err)
		_, _, err = theirs.Remove(ctx, "last")
		must(t, err)
		_, err = theirs.UpdateInfo(ctx, snapshots.Info{Name: "default/2/web", Labels: map[string]string{"a": "c"}}, "labels.a")
		return err
	})
	must(t, ms.Close())
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStore(t *testing.T) *storage.MetaStore {
	t.Helper()
	ms, err := storage.NewMetaStore(filepath.Join(t.TempDir(), "meta"))
	must(t, err)
	t.Cleanup(func() { must(t, ms.Close()) })
	return ms
}

// content is all that a store says.
type content struct {
	IDs       map[string]string
	Infos     map[string]snapshots.Info
	Usages    map[string]snapshots.Usage
	Snapshots map[string]peers.Snapshot
}

// contentOf reads a whole store of either kind.
func contentOf(t *testing.T, peer peers.Peer, path string) content {
	t.Helper()
	ms, err := peer.Open(path)
	must(t, err)
	c := content{nil, map[string]snapshots.Info{}, map[string]snapshots.Usage{}, map[string]peers.Snapshot{}}
	must(t, ms.WithTransaction(t.Context(), false, func(ctx context.Context) error {
		c.IDs, err = ms.IDMap(ctx)
		must(t, err)
		return ms.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			_, c.Infos[info.Name], c.Usages[info.Name], err = ms.GetInfo(ctx, info.Name)
			must(t, err)
			if info.Kind != snapshots.KindCommitted {
				c.Snapshots[info.Name], err = ms.GetSnapshot(ctx, info.Name)
			}
			return err
		})
	}))
	must(t, ms.Close())
	return c
}

func TestImportKeepsEverything(t *testing.T) {
	file := boltFile(t)
	before, err := os.ReadFile(file)
	must(t, err)
	want := contentOf(t, peers.Bolt, file)
	if len(want.IDs) != 4 {
		t.Fatalf("the file has %d snapshots", len(want.IDs))
	}
	path := filepath.Join(t.TempDir(), "meta")
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	var steps []string
	must(t, storage.Import(t.Context(), file, ms, func(done, total int) { steps = append(steps, fmt.Sprintf("%d/%d", done, total)) }))
	if got := strings.Join(steps, " "); got != "1/8 2/8 3/8 4/8 5/8 6/8 7/8 8/8" {
		t.Errorf("progress was %s", got)
	}
	// Again, and once more when there is something new beside it.
	must(t, storage.Import(t.Context(), file, ms, nil))
	must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		s, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "new", "sha256:b")
		if s.ID != "7" { // 6 is of the one that is gone
			t.Errorf("the next identifier is %s, want 7", s.ID)
		}
		return err
	}))
	must(t, storage.Import(t.Context(), file, ms, nil))
	must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, _, err := storage.Remove(ctx, "new")
		return err
	}))
	must(t, ms.Close())
	if diff := cmp.Diff(want, contentOf(t, peers.FS, path)); diff != "" {
		t.Errorf("bbolt has -, the import has +:\n%s", diff)
	}
	after, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestImportIntoUsedStore(t *testing.T) {
	file := boltFile(t)
	for _, test := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"another snapshot", func(ctx context.Context) error {
			_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "other", "")
			return err
		}},
		{"all removed", func(ctx context.Context) error {
			if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "other", ""); err != nil {
				return err
			}
			_, _, err := storage.Remove(ctx, "other")
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ms := newStore(t)
			must(t, ms.WithTransaction(t.Context(), true, test.do))
			before := walk(t, ms)
			err := storage.Import(t.Context(), file, ms, nil)
			if !errors.Is(err, fsmeta.ErrUsed) || !errdefs.IsFailedPrecondition(err) {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(before, walk(t, ms)); diff != "" {
				t.Errorf("the store changed:\n%s", diff)
			}
		})
	}
	for name, change := range map[string]func(ctx context.Context) error{
		"one removed since": func(ctx context.Context) error {
			_, _, err := storage.Remove(ctx, "default/2/web")
			return err
		},
		"one changed since": func(ctx context.Context) error {
			_, err := storage.UpdateInfo(ctx, snapshots.Info{Name: "sha256:a"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ms := newStore(t)
			must(t, storage.Import(t.Context(), file, ms, nil))
			must(t, ms.WithTransaction(t.Context(), true, change))
			if err := storage.Import(t.Context(), file, ms, nil); !errors.Is(err, fsmeta.ErrUsed) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// walk returns the names in a store, nil where nothing was ever written to it.
func walk(t *testing.T, ms *storage.MetaStore) []string {
	t.Helper()
	names := []string{}
	err := ms.WithTransaction(t.Context(), false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		})
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	must(t, err)
	return names
}

func TestImportRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, file string)
		want   func(error) bool
	}{
		{"a file that is missing", func(t *testing.T, file string) { must(t, os.Remove(file)) },
			func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		{"another file", func(t *testing.T, file string) { must(t, os.WriteFile(file, []byte("text"), 0o600)) }, errdefs.IsInvalidArgument},
		{"a directory", func(t *testing.T, file string) { must(t, os.Remove(file)); must(t, os.Mkdir(file, 0o700)) }, errdefs.IsInvalidArgument},
		{"a file in use", func(t *testing.T, file string) {
			db, err := bolt.Open(file, 0o600, nil)
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
		}, errdefs.IsUnavailable},
		{"a file cut short", func(t *testing.T, file string) { must(t, os.Truncate(file, 9000)) }, isDataLoss},
		{"what is not a driver's", func(t *testing.T, file string) {
			edit(t, file, func(tx *bolt.Tx) error {
				must(t, tx.DeleteBucket([]byte("v1")))
				_, err := tx.CreateBucket([]byte("v1"))
				return err
			})
		}, errdefs.IsInvalidArgument},
		{"a snapshot without an identifier", func(t *testing.T, file string) {
			edit(t, file, func(tx *bolt.Tx) error {
				_, err := tx.Bucket([]byte("v1")).Bucket([]byte("snapshots")).CreateBucket([]byte("left behind"))
				return err
			})
		}, func(err error) bool {
			return errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), "left behind")
		}},
		{"a name that is not UTF-8", func(t *testing.T, file string) {
			rename(t, file, "default/2/web", "default/2/\xff")
		}, func(err error) bool { return errdefs.IsInvalidArgument(err) && strings.Contains(err.Error(), `\xff`) }},
		{"a parent that is missing", func(t *testing.T, file string) { rename(t, file, "sha256:b", "sha256:c") },
			func(err error) bool { return isDataLoss(err) && strings.Contains(err.Error(), "sha256:b") }},
		{"two snapshots with one identifier", func(t *testing.T, file string) {
			edit(t, file, func(tx *bolt.Tx) error {
				b := tx.Bucket([]byte("v1")).Bucket([]byte("snapshots"))
				return b.Bucket([]byte("sha256:b")).Put([]byte("id"), b.Bucket([]byte("sha256:a")).Get([]byte("id")))
			})
		}, isDataLoss},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := boltFile(t)
			test.damage(t, file)
			ms := newStore(t)
			err := storage.Import(t.Context(), file, ms, nil)
			if err == nil || !test.want(err) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %v", err)
			}
			if names := walk(t, ms); names != nil {
				t.Errorf("the store has %q", names)
			}
		})
	}
}

func isDataLoss(err error) bool { return errdefs.IsDataLoss(err) }

func edit(t *testing.T, file string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, nil)
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
}

// rename moves a snapshot's bucket to another name.
func rename(t *testing.T, file, from, to string) {
	t.Helper()
	edit(t, file, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("v1")).Bucket([]byte("snapshots"))
		into, err := b.CreateBucket([]byte(to))
		must(t, err)
		must(t, b.Bucket([]byte(from)).ForEach(func(k, v []byte) error {
			if v == nil {
				return nil // labels
			}
			return into.Put(k, v)
		}))
		return b.DeleteBucket([]byte(from))
	})
}

// importSame reports whether a file is imported. Then the store is as containerd's package reads the file, and has nothing
// from behind a page; otherwise it is empty.
func importSame(t *testing.T, file string) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta")
	ms, err := storage.NewMetaStore(path)
	must(t, err)
	refused := storage.Import(t.Context(), file, ms, nil)
	if names := walk(t, ms); refused != nil && names != nil {
		t.Errorf("%v, and the store has %q", refused, names)
	}
	must(t, ms.Close())
	if refused != nil {
		return false
	}
	if diff := cmp.Diff(contentOf(t, peers.Bolt, file), contentOf(t, peers.FS, path), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("bbolt has -, the store has +:\n%.1000s", diff)
	}
	return true
}

// A damaged file never takes the process with it, wherever a bit is wrong, and what is
// imported all the same is whole.
func TestImportDamagedFile(t *testing.T) {
	file := boltFile(t)
	data, err := os.ReadFile(file)
	must(t, err)
	imported := map[bool]int{}
	for at := 0; at < len(data); at += 37 {
		damaged := bytes.Clone(data)
		damaged[at] ^= 1 << (at % 8)
		must(t, os.WriteFile(file, damaged, 0o600))
		imported[importSame(t, file)]++
	}
	if len(imported) != 2 {
		t.Errorf("imported or not: %v", imported)
	}
}

// A label whose value reaches beyond its page is damage: what is behind that is other memory of the process.
func TestImportRefusesLongValue(t *testing.T) {
	file := boltFile(t)
	data, err := os.ReadFile(file)
	must(t, err)
	const key, value = "ünïcode/label", "«x»"
	sizes := func(value int) []byte { // as an element of a page has them
		return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(len(key))), uint32(value))
	}
	long := bytes.ReplaceAll(data, sizes(len(value)), sizes(5000))
	if bytes.Equal(data, long) {
		t.Fatal("the label is not there")
	}
	must(t, os.WriteFile(file, long, 0o600))
	if err := storage.Import(t.Context(), file, newStore(t), nil); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

// A file with pages that refer to themselves is damaged, and no reason to use up the memory.
func TestImportCircularFile(t *testing.T) {
	file := randomBolt(t, 1, 300)
	data, err := os.ReadFile(file)
	must(t, err)
	size, circles := os.Getpagesize(), 0
	for at := 0; at+size <= len(data); at += size {
		page := data[at : at+size]
		flags, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
		if flags != 1 || binary.NativeEndian.Uint64(page) != uint64(at/size) {
			continue
		}
		for i := range count {
			binary.NativeEndian.PutUint64(page[16+16*i+8:], uint64(at/size))
		}
		circles++
	}
	if circles == 0 {
		t.Fatal("the file has no branch page")
	}
	must(t, os.WriteFile(file, data, 0o600))
	if err := storage.TakeOver(t.Context(), file, nil); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

func TestImportEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ms := newStore(t)
	if err := storage.Import(ctx, boltFile(t), ms, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if names := walk(t, ms); names != nil {
		t.Errorf("the store has %q", names)
	}
}

// A store that is opened where a bbolt file is says how to go on.
func TestBoltFileInTheWay(t *testing.T) {
	file := boltFile(t)
	_, err := storage.NewMetaStore(file)
	if !errors.Is(err, fsmeta.ErrNotStore) || !strings.Contains(err.Error(), "WithImport") ||
		!strings.Contains(err.Error(), fmt.Sprintf("fsmeta import %s %s", file, file)) {
		t.Fatalf("got %v", err)
	}
}

// The times of a snapshot that was not changed since stay to the nanosecond.
func TestImportKeepsTimes(t *testing.T) {
	file := boltFile(t)
	edit(t, file, func(tx *bolt.Tx) error {
		at, err := time.Date(2019, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600)).MarshalBinary()
		must(t, err)
		return tx.Bucket([]byte("v1")).Bucket([]byte("snapshots")).Bucket([]byte("sha256:a")).Put([]byte("createdat"), at)
	})
	ms := newStore(t)
	must(t, storage.Import(t.Context(), file, ms, nil))
	must(t, ms.WithTransaction(t.Context(), false, func(ctx context.Context) error {
		_, info, _, err := storage.GetInfo(ctx, "sha256:a")
		if want := time.Date(2019, 2, 3, 3, 5, 6, 7, time.UTC); !info.Created.Equal(want) || info.Created.Location() != time.UTC {
			t.Errorf("created %v, want %v", info.Created, want)
		}
		return err
	}))
}
