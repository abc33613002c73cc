package peers_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	bolt "go.etcd.io/bbolt"
)

// around takes a bbolt file over, goes back, and takes over once more. At each place containerd's package and ours
// read the same.
func around(t *testing.T, path string, want content) {
	t.Helper()
	opts := cmpopts.EquateEmpty() // where there are no labels any more
	for round := range 2 {
		must(t, storage.TakeOver(t.Context(), path, nil))
		if diff := cmp.Diff(want, contentOf(t, peers.FS, path), opts); diff != "" {
			t.Fatalf("round %d: bbolt has -, the store has +:\n%.3000s", round, diff)
		}
		if round > 0 {
			break
		}
		must(t, storage.GoBack(t.Context(), path, nil))
		if diff := cmp.Diff(want, contentOf(t, peers.Bolt, path), opts); diff != "" {
			t.Fatalf("round %d: bbolt had -, has +:\n%.3000s", round, diff)
		}
		must(t, os.Remove(path+".bolt"))
	}
}

// oddNames are of snapshots, as UTF-8 allows them.
var oddNames = []string{
	" ", "/", "..", ".", "a/b/../c", "%2F", "new\nline", "\x00", "tab\t", "~", "\ufeffbom", "\u00e9", "e\u0301", "CASE", "case",
	strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("\u00fc", bolt.MaxKeySize/2), "\ufffd", "\U0010ffff",
}

// oddFile makes a metadata.db in which everything is as odd as containerd's package can read it.
func oddFile(t *testing.T) string {
	t.Helper()
	path := boltFile(t)
	many := map[string]string{"huge": strings.Repeat("<\u00fc\x00", 1<<18), strings.Repeat("k", bolt.MaxKeySize): "long key"}
	for i := range 2000 {
		many[fmt.Sprint("label ", i)] = strings.Repeat("v", i%100+1)
	}
	ms, err := theirs.NewMetaStore(path)
	must(t, err)
	must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		for i, name := range oddNames {
			if _, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "key", "sha256:b", snapshots.WithLabels(many)); err != nil {
				return err
			}
			usage := snapshots.Usage{Inodes: math.MinInt64, Size: math.MaxInt64 - int64(i)}
			if _, err := theirs.CommitActive(ctx, "key", name, usage, snapshots.WithLabels(map[string]string{"of": name, "containerd.io/x": ""})); err != nil {
				return err
			}
			if _, err := theirs.CreateSnapshot(ctx, snapshots.KindView, fmt.Sprint("view ", i), name, snapshots.WithLabels(many)); err != nil {
				return err
			}
			clear(many)
		}
		return nil
	}))
	must(t, ms.Close())
	edit(t, path, func(tx *bolt.Tx) error {
		all := tx.Bucket([]byte("v1")).Bucket([]byte("snapshots"))
		put := func(name, key string, value []byte) { must(t, all.Bucket([]byte(name)).Put([]byte(key), value)) }
		for i, at := range []time.Time{
			{}, time.Unix(0, 0), time.Date(0, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 30, 0, 0, 0, 999999999, time.UTC),
			time.Date(2024, 2, 29, 1, 2, 3, 4, time.FixedZone("", 20700)), time.Date(1880, 1, 1, 0, 0, 0, 1, time.FixedZone("", -(3600+59))),
		} {
			data, err := at.MarshalBinary()
			must(t, err)
			put(oddNames[i], "createdat", data)
			put(oddNames[i+1], "updatedat", data)
		}
		none := all.Bucket([]byte(oddNames[8])) // as an old or a careless writer leaves them
		for _, key := range []string{"createdat", "updatedat", "inodes", "size"} {
			must(t, none.Delete([]byte(key)))
		}
		must(t, none.DeleteBucket([]byte("labels")))
		_, err := none.CreateBucket([]byte("labels"))
		must(t, err)
		put("default/2/web", "inodes", binary.AppendVarint(nil, -3)) // an active one with usage
		put("default/2/web", "size", binary.AppendVarint(nil, 1<<62))

		must(t, all.Put([]byte("no bucket"), []byte("value")))
		put("sha256:a", "unknown", []byte("value"))
		_, err = all.Bucket([]byte("sha256:a")).CreateBucket([]byte("unknown bucket"))
		must(t, err)
		parents := tx.Bucket([]byte("v1")).Bucket([]byte("parents"))
		must(t, parents.Put(binary.AppendUvarint([]byte{1, 0}, 1<<40), []byte("gone"))) // a child of sha256:a
		must(t, parents.Put([]byte("odd"), nil))
		_, err = tx.CreateBucket([]byte("v2"))
		return err
	})
	return path
}

// A file with all that is odd goes round the ring.
func TestRingOfOddData(t *testing.T) {
	path := oddFile(t)
	want := contentOf(t, peers.Bolt, path)
	if len(want.IDs) < 2*len(oddNames) {
		t.Fatalf("the file has %d snapshots", len(want.IDs))
	}
	around(t, path, want)
}

// Files with many snapshots, and with many that stand on each other, go round the ring.
func TestRingOfManySnapshots(t *testing.T) {
	for _, c := range []struct{ all, chain int }{{10_000, 20}, {1500, 1500}} {
		t.Run(fmt.Sprintf("%d of them %d deep", c.all, c.chain), func(t *testing.T) {
			path, parent := boltFile(t), "sha256:b"
			ms, err := theirs.NewMetaStore(path)
			must(t, err)
			layer := func(ctx context.Context, n int) error {
				name := fmt.Sprint("layer ", n)
				if _, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "key", parent); err != nil {
					return err
				}
				if n < c.chain {
					parent = name
				}
				_, err := theirs.CommitActive(ctx, "key", name, snapshots.Usage{Size: int64(n)}, snapshots.WithLabels(map[string]string{"n": name}))
				return err
			}
			for i := 0; i < c.all; i += 500 {
				must(t, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
					for n := i; n < i+500; n++ {
						if err := layer(ctx, n); err != nil {
							return err
						}
					}
					_, err := theirs.CreateSnapshot(ctx, snapshots.KindView, fmt.Sprint("view ", i), parent)
					return err
				}))
			}
			must(t, ms.Close())
			around(t, path, contentOf(t, peers.Bolt, path))
		})
	}
}
