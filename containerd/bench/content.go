//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
)

// A store is filled with images of ten layers, each with a container on top: ten
// committed snapshots that stand on one another, and an active one. Everything
// follows from the number of a snapshot, so that two stores of a size hold the same,
// and another process knows their names.
const layers = 10

func isContainer(i int) bool { return i%(layers+1) == layers }

// nameOf returns the name of a store's i-th snapshot, as containerd gives them.
func nameOf(i int) string {
	if isContainer(i) {
		return fmt.Sprintf("default/%d/k8s-%x", i, sha256.Sum256(fmt.Append(nil, "container ", i)))
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, "layer ", i)))
}

// parentOf returns what the i-th snapshot stands on.
func parentOf(i int) string {
	if i%(layers+1) == 0 {
		return ""
	}
	return nameOf(i - 1)
}

// topOf returns the uppermost layer of some image of a store of that size.
func topOf(i, size int) string {
	images := size / (layers + 1)
	return nameOf(i%images*(layers+1) + layers - 1)
}

const (
	refLabel   = "containerd.io/snapshot.ref"
	rootLabel  = "containerd.io/gc.root"
	imageLabel = "containerd.io/snapshot/cri.image-ref"
)

// labelsOf returns the labels of the i-th snapshot: all layers have one that names
// them, the lowest ones one of the image too; containers, and a layer in five, are
// kept from garbage collection.
func labelsOf(i int) map[string]string {
	labels := map[string]string{}
	if !isContainer(i) {
		labels[refLabel] = nameOf(i)
	}
	if i%(layers+1) == 0 {
		labels[imageLabel] = fmt.Sprintf("registry.example/library/app-%d:v1", i)
	}
	if isContainer(i) || i%5 == 0 {
		labels[rootLabel] = "2026-01-02T03:04:05Z"
	}
	return labels
}

// usageOf returns what the content of a layer takes.
func usageOf(i int) snapshots.Usage {
	return snapshots.Usage{Inodes: int64(100 + i%1000), Size: int64(1+i%100) << 20}
}

// committedOf returns the name of the i-th snapshot that is committed while something is
// measured.
func committedOf(i int) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, "committed ", i)))
}

// fillAtOnce is how many snapshots a transaction makes when a store is filled.
const fillAtOnce = 2000

// fill makes the snapshots of a store of that size.
func fill(ctx context.Context, store peers.Store, size int) error {
	for from := 0; from < size; from += fillAtOnce {
		err := store.WithTransaction(ctx, true, func(ctx context.Context) error {
			for i := from; i < min(from+fillAtOnce, size); i++ {
				if err := makeOne(ctx, store, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
	}
	return nil
}

// age makes snapshots and removes them again, so that a store has a past: bbolt's file
// has room inside then, and need not grow at every commit, which costs it more.
func age(ctx context.Context, store peers.Store, n int) error {
	key := func(i int) string { return fmt.Sprintf("default/%d/gone", i) }
	for _, do := range []func(ctx context.Context, i int) error{
		func(ctx context.Context, i int) error {
			_, err := store.CreateSnapshot(ctx, snapshots.KindActive, key(i), "", snapshots.WithLabels(labelsOf(i)))
			return err
		},
		func(ctx context.Context, i int) error {
			_, _, err := store.Remove(ctx, key(i))
			return err
		},
	} {
		err := store.WithTransaction(ctx, true, func(ctx context.Context) error {
			for i := range n {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("age the store: %w", err)
		}
	}
	return nil
}

func makeOne(ctx context.Context, store peers.Store, i int) error {
	if isContainer(i) {
		_, err := store.CreateSnapshot(ctx, snapshots.KindActive, nameOf(i), parentOf(i), snapshots.WithLabels(labelsOf(i)))
		return err
	}
	key := fmt.Sprintf("default/%d/extract", i)
	if _, err := store.CreateSnapshot(ctx, snapshots.KindActive, key, parentOf(i)); err != nil {
		return err
	}
	_, err := store.CommitActive(ctx, key, nameOf(i), usageOf(i), snapshots.WithLabels(labelsOf(i)))
	return err
}
