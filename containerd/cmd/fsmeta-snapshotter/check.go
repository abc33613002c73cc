//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "look for what is wrong with the metadata and the content below --root",
		Description: "Prints a line for each finding. It changes nothing, and can be run while the daemon serves. " +
			"Exit status: 0 nothing is wrong, 1 something is, 2 it could not be checked.",
		Action: func(ctx context.Context, c *cli.Command) error {
			return check(ctx, c.String("root"), c.Root().Writer)
		},
	}
}

// check writes a line to out for everything that is wrong below root. It returns
// errFindings if there is any.
func check(ctx context.Context, root string, out io.Writer) (err error) {
	kind, err := driver.Kind(root)
	if err != nil {
		return err
	}
	if kind == "" {
		return fmt.Errorf("%s is no snapshotter's root directory: it has no file named snapshotter", root)
	}
	store, err := fsmeta.Open(filepath.Join(root, "meta"), fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	bar := newBar("checking", -1)
	snapshots, findings := 0, 0
	ids := map[string]bool{}
	found := func(format string, args ...any) {
		findings++
		fmt.Fprintf(out, format+"\n", args...)
	}
	for info, err := range store.All(ctx) {
		bar.add(1)
		switch {
		case errors.Is(err, fsmeta.ErrDamaged):
			found("%v", err)
			continue
		case err != nil:
			return err
		}
		snapshots++
		ids[info.ID] = true
		missing, err := missingContent(ctx, store, filepath.Join(root, "snapshots", info.ID), kind, info)
		if err != nil {
			return err
		}
		if missing != "" {
			found("%s is missing, the content of snapshot %q: remove the snapshot, and what stands on it, and pull the image again", missing, info.Name)
		}
	}
	bar.finish()
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d snapshots, %d findings\n", snapshots, findings)
	if findings > 0 {
		return errFindings
	}
	return nil
}

// missingContent returns a directory that a snapshot should have and doesn't, "" where it
// has all.
func missingContent(ctx context.Context, store *fsmeta.Store, dir, kind string, info fsmeta.Info) (string, error) {
	need := []string{dir}
	switch {
	case kind == "overlay" && info.Readonly:
		need = []string{filepath.Join(dir, "fs")}
	case kind == "overlay":
		need = []string{filepath.Join(dir, "fs"), filepath.Join(dir, "work")}
	case info.Kind == fsmeta.KindActive && info.Readonly && info.Parent != "":
		return "", nil // a view shows its parent
	}
	for _, path := range need {
		_, err := os.Stat(path)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		now, err := store.Stat(ctx, info.Name)
		if err == nil && now.ID == info.ID {
			return path, nil
		}
		if err != nil && !errors.Is(err, fsmeta.ErrNotExist) {
			return "", err
		}
		return "", nil // it was removed meanwhile
	}
	return "", nil
}
