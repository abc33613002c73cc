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
	"github.com/fsmeta/fsmeta/containerd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "look for what is wrong with the metadata and the content below --root",
		Description: "Prints a line for each finding, those that are harmless with \"note:\" before them. It changes nothing, and can be run while " +
			"the daemon serves. Exit status: 0 nothing is wrong, 1 something is, 2 it could not be checked.",
		Action: func(ctx context.Context, c *cli.Command) error {
			return check(ctx, c.String("root"), c.Root().Writer)
		},
	}
}

func repairCommand() *cli.Command {
	return &cli.Command{
		Name:  "repair",
		Usage: "repair the metadata below --root, while the daemon is stopped",
		Description: "Mends what can be mended safely, and sets damaged snapshots aside in meta/damaged/. Look at them before the daemon runs " +
			"again; it keeps their content for as long as they are there. " +
			"Exit status: 0 the store is in order, 1 something was set aside or is left that a person has to decide, 2 it could not be repaired.",
		Action: func(ctx context.Context, c *cli.Command) error {
			meta, err := metaOf(c.String("root"))
			if err != nil {
				return err
			}
			return tool.Repair(ctx, meta, c.Root().Writer)
		},
	}
}

func backupCommand() *cli.Command {
	var to string
	return &cli.Command{
		Name:  "backup",
		Usage: "copy the metadata below --root to the new directory DIR; the daemon may serve meanwhile",
		Description: "The content of the snapshots is not in it. To restore it, stop the daemon, and put it in the place of meta/ below --root; " +
			"snapshots that were made since are unknown then. Their content is kept until the file meta/backup is deleted.",
		Arguments: []cli.Argument{&cli.StringArg{Name: "DIR", Destination: &to, UsageText: "DIR"}},
		Action: func(ctx context.Context, c *cli.Command) error {
			if to == "" || c.Args().Present() {
				return errors.New("give one directory to copy to, which must not exist")
			}
			meta, err := metaOf(c.String("root"))
			if err != nil {
				return err
			}
			return tool.Backup(ctx, meta, to, c.Root().Writer)
		},
	}
}

// metaOf returns the store of a root directory.
func metaOf(root string) (string, error) {
	kind, err := driver.Kind(root)
	if err == nil && kind == "" {
		err = fmt.Errorf("%s is no snapshotter's root directory: it has no file named snapshotter", root)
	}
	return filepath.Join(root, "meta"), err
}

// check writes a line to out for everything that is wrong below root. It returns
// tool.ErrFindings if there is any.
func check(ctx context.Context, root string, out io.Writer) error {
	meta, err := metaOf(root)
	if err != nil {
		return err
	}
	wrong, err := tool.Check(ctx, meta, out)
	if err != nil {
		return err
	}
	snapshots, missing, err := checkContent(ctx, root, meta, out)
	if err != nil {
		return err
	}
	wrong += missing
	if _, err := fmt.Fprintf(out, "%d snapshots, %d findings\n", snapshots, wrong); err != nil {
		return err
	}
	if wrong > 0 {
		return tool.ErrFindings
	}
	return nil
}

// checkContent looks whether every snapshot has its content.
func checkContent(ctx context.Context, root, meta string, out io.Writer) (snapshots, missing int, err error) {
	kind, err := driver.Kind(root)
	if err != nil {
		return 0, 0, err
	}
	store, err := fsmeta.Open(meta, fsmeta.ReadOnly())
	if errors.Is(err, fsmeta.ErrDamaged) || errors.Is(err, fsmeta.ErrNotStore) {
		return 0, 0, nil // which was said already
	}
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	for info, err := range store.All(ctx) {
		if errors.Is(err, fsmeta.ErrDamaged) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		snapshots++
		path, err := missingContent(ctx, store, filepath.Join(root, "snapshots", info.ID), kind, info)
		if err != nil {
			return 0, 0, err
		}
		if path == "" {
			continue
		}
		missing++
		if _, err := fmt.Fprintf(out, "%s: it is missing, the content of snapshot %q; it can't be mounted, nor what stands on it: remove them, and pull the image again\n", path, info.Name); err != nil {
			return 0, 0, err
		}
	}
	return snapshots, missing, ctx.Err()
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
