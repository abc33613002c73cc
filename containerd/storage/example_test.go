package storage_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// What a snapshot driver does when a layer is unpacked and a container started on it.
func Example() {
	dir, err := os.MkdirTemp("", "driver")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ms, err := storage.NewMetaStore(filepath.Join(dir, "metadata.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer ms.Close()

	ctx := context.Background()
	err = ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		s, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "extract", "")
		if err != nil {
			return err
		}
		fmt.Println("unpack into", s.ID)
		_, err = storage.CommitActive(ctx, "extract", "layer", snapshots.Usage{Size: 4096})
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	err = ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		s, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "web", "layer")
		if err != nil {
			return err
		}
		fmt.Println("mount", s.ID, "over", s.ParentIDs)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// unpack into 1
	// mount 2 over [1]
}

// A driver that has used containerd's package opens its file with this one, and can go back.
func ExampleWithImport() {
	dir, err := os.MkdirTemp("", "driver")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "metadata.db")
	if err := writeWithBolt(path); err != nil {
		log.Fatal(err)
	}

	// What was in the file is in the store, which is in its place.
	ms, err := storage.NewMetaStore(path, storage.WithImport(func(done, total int) { fmt.Println(done, "of", total) }))
	if err != nil {
		log.Fatal(err)
	}
	defer ms.Close()
	ctx := context.Background()
	err = ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, _, err := storage.GetInfo(ctx, "layer")
		fmt.Println(id, info.Name, info.Kind)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	// The way back: a file as containerd's package has it.
	if err := storage.Export(ctx, ms, filepath.Join(dir, "back.db"), nil); err != nil {
		log.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range names {
		fmt.Println(filepath.Base(name))
	}
	// Output:
	// 1 of 3
	// 2 of 3
	// 3 of 3
	// 1 layer Committed
	// back.db
	// metadata.db
	// metadata.db.bolt
}

// writeWithBolt makes a file as containerd's package does.
func writeWithBolt(path string) error {
	ms, err := theirs.NewMetaStore(path)
	if err != nil {
		return err
	}
	defer ms.Close()
	return ms.WithTransaction(context.Background(), true, func(ctx context.Context) error {
		if _, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "extract", ""); err != nil {
			return err
		}
		_, err := theirs.CommitActive(ctx, "extract", "layer", snapshots.Usage{Size: 4096})
		return err
	})
}
