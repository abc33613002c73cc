package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// tempStore opens a store for an example and returns how to be rid of it.
func tempStore() (*fsmeta.Store, func()) {
	dir, err := os.MkdirTemp("", "fsmeta-example-")
	if err != nil {
		log.Fatal(err)
	}
	store, err := fsmeta.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	return store, func() {
		if err := errors.Join(store.Close(), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

// A layer is unpacked into an active snapshot and committed; a container gets an
// active snapshot on top of it, and is removed in the end.
func Example() {
	store, cleanup := tempStore()
	defer cleanup()
	ctx := context.Background()

	err := store.WithTransaction(ctx, true, func(ctx context.Context) error {
		layer, err := store.CreateActive(ctx, "extract-1", "", false)
		if err != nil {
			return err
		}
		fmt.Println("unpack the layer into", layer.ID)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// The content is unpacked, and synced, outside of transactions.
	err = store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := store.CommitWith(ctx, "extract-1", "sha256:4f53",
			fsmeta.WithUsage(fsmeta.Usage{Inodes: 12, Size: 40960}))
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	err = store.WithTransaction(ctx, true, func(ctx context.Context) error {
		web, err := store.CreateActive(ctx, "web", "sha256:4f53", false)
		if err != nil {
			return err
		}
		fmt.Println("mount", web.ID, "over", web.ParentIDs)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	var id string
	err = store.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		id, err = store.Remove(ctx, "web")
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("delete the content of", id)
	// Output:
	// unpack the layer into 1
	// mount 2 over [1]
	// delete the content of 2
}

func ExampleStore_TransactionContext() {
	store, cleanup := tempStore()
	defer cleanup()

	ctx, txn, err := store.TransactionContext(context.Background(), true)
	if err != nil {
		log.Fatal(err)
	}
	defer txn.Rollback() // does nothing after Commit
	if _, err := store.CreateActive(ctx, "web", "", false); err != nil {
		log.Fatal(err)
	}
	_, inside := store.Stat(ctx, "web")
	_, outside := store.Stat(context.Background(), "web")
	fmt.Println(inside, "|", outside)
	if err := txn.Commit(); err != nil {
		log.Fatal(err)
	}
	info, err := store.Stat(context.Background(), "web")
	fmt.Println(info.ID, info.Kind, err)
	// Output:
	// <nil> | fsmeta: stat "web": does not exist
	// 1 active <nil>
}

func ExampleStore_All() {
	store, cleanup := tempStore()
	defer cleanup()
	ctx := context.Background()
	err := store.WithTransaction(ctx, true, func(ctx context.Context) error {
		for _, key := range []string{"b", "a", "c"} {
			if _, err := store.CreateActive(ctx, key, "", key == "c"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	for info, err := range store.All(ctx) {
		if err != nil {
			log.Fatal(err) // a damaged snapshot; the others have been visited
		}
		fmt.Println(info.Name, info.ID, info.Readonly)
	}
	// Output:
	// a 2 false
	// b 1 false
	// c 3 true
}

// Layers that were unpacked side by side are put on top of each other when they are
// committed.
func ExampleWithParent() {
	store, cleanup := tempStore()
	defer cleanup()
	err := store.WithTransaction(context.Background(), true, func(ctx context.Context) error {
		for _, key := range []string{"lower", "upper"} {
			if _, err := store.CreateActive(ctx, key, "", false); err != nil {
				return err
			}
		}
		if _, err := store.Commit(ctx, "lower", "sha256:lower"); err != nil {
			return err
		}
		_, err := store.CommitWith(ctx, "upper", "sha256:upper", fsmeta.WithParent("sha256:lower"))
		if err != nil {
			return err
		}
		info, err := store.Stat(ctx, "sha256:upper")
		fmt.Println(info.Name, "on", info.Parent)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// sha256:upper on sha256:lower
}

func ExampleStore_Update() {
	store, cleanup := tempStore()
	defer cleanup()
	err := store.WithTransaction(context.Background(), true, func(ctx context.Context) error {
		_, err := store.CreateWith(ctx, "web", "", false, fsmeta.WithLabels(map[string]string{"team": "blue", "old": "yes"}))
		if err != nil {
			return err
		}
		// Sets one label, and deletes another that is not given.
		info := fsmeta.Info{Name: "web", Labels: map[string]string{"team": "red"}}
		info, err = store.Update(ctx, info, "labels.team", "labels.old")
		fmt.Println(info.Labels)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// map[team:red]
}

// A driver that kept its metadata elsewhere takes it along, once, with the identifiers
// that its content directories are named after.
func ExampleStore_Import() {
	store, cleanup := tempStore()
	defer cleanup()
	ctx := context.Background()
	then := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	old := []fsmeta.Info{
		{ID: "12", Name: "web", Parent: "layer", Kind: fsmeta.KindActive, Created: then, Updated: then},
		{ID: "7", Name: "layer", Kind: fsmeta.KindCommitted, Created: then, Updated: then, Usage: fsmeta.Usage{Size: 4096}},
	}
	const nextID = 20 // those below were handed out once
	if err := store.Import(ctx, old, nextID, nil); err != nil {
		log.Fatal(err)
	}
	web, err := store.GetActive(ctx, "web")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(web.ID, "on", web.ParentIDs)
	err = store.WithTransaction(ctx, true, func(ctx context.Context) error {
		next, err := store.CreateActive(ctx, "next", "layer", false)
		fmt.Println(next.ID, "on", next.ParentIDs)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 12 on [7]
	// 20 on [7]
}

// Content is made and synced under an identifier that is reserved for it, before the
// snapshot that promises it, so that no other writer waits for that.
func ExampleStore_NewID() {
	store, cleanup := tempStore()
	defer cleanup()
	ctx := context.Background()

	id, err := store.NewID(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("make and sync the directory", id)
	err = store.WithTransaction(ctx, true, func(ctx context.Context) error {
		web, err := store.CreateWith(ctx, "web", "", false, fsmeta.WithID(id))
		if err != nil {
			return err // and delete the directory, or leave it to be swept
		}
		fmt.Println("web is", web.ID)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// make and sync the directory 1
	// web is 1
}

// A cache is filled from a transaction, and kept up to date from there on.
func ExampleStore_Watch() {
	store, cleanup := tempStore()
	defer cleanup()
	ctx := context.Background()
	create := func(key string) {
		err := store.WithTransaction(ctx, true, func(ctx context.Context) error {
			_, err := store.CreateActive(ctx, key, "", false)
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	create("old")

	cache := map[string]string{}
	var last uint64
	err := store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		for info, err := range store.All(ctx) {
			if err != nil {
				return err
			}
			cache[info.Name] = info.ID
		}
		last, err = store.LastTransaction(ctx)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	create("new") // here or in another process

	for txn, err := range store.Watch(ctx, last) {
		if errors.Is(err, fsmeta.ErrOutdated) {
			log.Fatal("too slow: fill the cache again")
		}
		if err != nil {
			log.Fatal(err)
		}
		for _, c := range txn.Changes {
			if c.After == nil {
				delete(cache, c.Name)
			} else {
				cache[c.Name] = c.After.ID
			}
		}
		break // or go on for as long as ctx does
	}
	fmt.Println(len(cache), "snapshots are known")
	// Output:
	// 2 snapshots are known
}

// A copy of the store as it is at one moment is a store.
func ExampleStore_Backup() {
	store, cleanup := tempStore()
	defer cleanup()
	ctx := context.Background()
	err := store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := store.CreateActive(ctx, "web", "", false)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fsmeta-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	if err := store.Backup(ctx, dir+"/backup", nil); err != nil {
		log.Fatal(err)
	}
	copied, err := fsmeta.Open(dir+"/backup", fsmeta.MustExist())
	if err != nil {
		log.Fatal(err)
	}
	defer copied.Close()
	web, err := copied.Stat(ctx, "web")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(web.Name, web.Kind)
	// Output:
	// web active
}

// A snapshot with a rotten file is found, and set aside.
func ExampleRepair() {
	dir, err := os.MkdirTemp("", "fsmeta-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := fsmeta.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	err = store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := store.CreateActive(ctx, "web", "", false)
		return err
	})
	if err = errors.Join(err, store.Close()); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(dir+"/snapshots/web/metadata.json", []byte("rotten"), 0o600); err != nil {
		log.Fatal(err)
	}

	findings, err := fsmeta.Check(ctx, dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range findings {
		fmt.Println(f.Name, "is harmless:", f.Harmless)
	}
	findings, err = fsmeta.Repair(ctx, dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range findings {
		fmt.Printf("%q was repaired: %v, is harmless: %v\n", f.Name, f.Repaired != "", f.Harmless)
	}
	// Output:
	// web is harmless: false
	// "web" was repaired: true, is harmless: false
	// "" was repaired: false, is harmless: true
}

// A node that is rebuilt rather than repaired need not wait for its disk.
func ExampleRelaxed() {
	dir, err := os.MkdirTemp("", "fsmeta-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := fsmeta.Open(dir, fsmeta.Relaxed())
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	err = store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := store.CreateActive(ctx, "web", "", false)
		return err // Commit doesn't wait; a power cut in the next tenth of a second may take it back
	})
	if err != nil {
		log.Fatal(err)
	}
	// An empty transaction waits until everything before it is on disk.
	err = store.WithTransaction(ctx, true, func(context.Context) error { return nil })
	if err = errors.Join(err, store.Close()); err != nil {
		log.Fatal(err)
	}
	fmt.Println("on disk")
	// Output:
	// on disk
}
