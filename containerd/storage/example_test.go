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

// What was in containerd's bbolt file is in the store afterwards.
func ExampleImport() {
	dir, err := os.MkdirTemp("", "driver")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	old := filepath.Join(dir, "metadata.db")
	if err := writeWithBolt(old); err != nil {
		log.Fatal(err)
	}

	// Opening a store where the file is tells what to do; here it is done.
	if err := os.Rename(old, old+".bolt"); err != nil {
		log.Fatal(err)
	}
	ms, err := storage.NewMetaStore(old)
	if err != nil {
		log.Fatal(err)
	}
	defer ms.Close()
	ctx := context.Background()
	err = storage.Import(ctx, old+".bolt", ms, func(done, total int) { fmt.Println(done, "of", total) })
	if err != nil {
		log.Fatal(err)
	}
	err = ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		id, info, _, err := storage.GetInfo(ctx, "layer")
		fmt.Println(id, info.Name, info.Kind)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 of 2
	// 2 of 2
	// 1 layer Committed
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
