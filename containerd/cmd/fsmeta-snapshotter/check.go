//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/moby/sys/mountinfo"
	"github.com/urfave/cli/v3"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "look for what is wrong with the metadata and the content below --root",
		Description: "Prints a line for each finding, those that are harmless with \"note:\" before them. It changes nothing, and can be run while " +
			"the daemon serves. Exit status: 0 nothing is wrong, 1 something is, 2 it could not be checked.\n\n" + tool.FindingJSON,
		Flags: []cli.Flag{tool.JSON("each finding")},
		Action: tool.Alone(func(ctx context.Context, c *cli.Command) error {
			return inRoot(ctx, c, check)
		}),
	}
}

func repairCommand() *cli.Command {
	return &cli.Command{
		Name:  "repair",
		Usage: "repair the metadata below --root, while the daemon is stopped",
		Description: "Mends what can be mended safely, and sets damaged snapshots aside in meta/damaged/. Look at them before the daemon runs " +
			"again; it keeps their content for as long as they are there. " +
			"Exit status: 0 the store is in order, 1 something was set aside or is left that a person has to decide, 2 it could not be repaired.\n\n" + tool.FindingJSON,
		Flags: []cli.Flag{tool.AcceptTree(), tool.JSON("each finding")},
		Action: tool.Alone(func(ctx context.Context, c *cli.Command) error {
			return inRoot(ctx, c, func(ctx context.Context, root string, p tool.Printer) error {
				return repair(ctx, root, p, tool.RepairOptions(c)...)
			})
		}),
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
		Flags:     []cli.Flag{tool.JSON("the result")},
		Action: func(ctx context.Context, c *cli.Command) error {
			if to == "" || c.Args().Present() {
				return errors.New("give one directory to copy to, which must not exist")
			}
			meta, err := metaOf(c.String("root"))
			if err != nil {
				return err
			}
			return tool.Backup(ctx, meta, to, tool.PrinterOf(c))
		},
	}
}

// inRoot runs do on the root directory that the command was given.
func inRoot(ctx context.Context, c *cli.Command, do func(ctx context.Context, root string, p tool.Printer) error) error {
	root, err := filepath.Abs(c.String("root"))
	if err != nil {
		return err
	}
	return do(ctx, root, tool.PrinterOf(c))
}

// metaOf returns the store of a root directory.
func metaOf(root string) (string, error) {
	kind, err := driver.Kind(root)
	if err == nil && kind == "" {
		err = fmt.Errorf("%s is no snapshotter's root directory: it has no file named snapshotter", root)
	}
	return filepath.Join(root, "meta"), err
}

// check prints everything that is wrong below root. It returns
// tool.ErrFindings if there is any.
func check(ctx context.Context, root string, p tool.Printer) error {
	meta, err := metaOf(root)
	if err != nil {
		return err
	}
	wrong, err := tool.Check(ctx, meta, p)
	if err != nil {
		return err
	}
	return report(ctx, root, wrong, p)
}

// repair repairs the metadata below root, and looks at the content then. It returns
// tool.ErrFindings if anything is wrong, or was set aside.
func repair(ctx context.Context, root string, p tool.Printer, options ...fsmeta.RepairOption) error {
	meta, err := metaOf(root)
	if err != nil {
		return err
	}
	wrong, aside, err := tool.Repair(ctx, meta, p, options...)
	if err != nil {
		return err
	}
	if aside > 0 {
		err = p.Say("%d snapshots were set aside, and containerd still believes in them: remove the containers that stand on them and their images (ctr images rm --sync IMAGE), and pull these again; "+
			"or mend what is in %s, and move it back to %s", aside, filepath.Join(meta, "damaged"), filepath.Join(meta, "snapshots"))
		if err != nil {
			return err
		}
	}
	return report(ctx, root, wrong, p)
}

// report looks at the content, and ends a check that has found so much wrong before.
func report(ctx context.Context, root string, wrong int, p tool.Printer) error {
	snapshots, missing, err := checkContent(ctx, root, p)
	if err != nil {
		return err
	}
	wrong += missing
	return tool.Found(wrong, p.Say("snapshots that can be read: %d, findings: %d", snapshots, wrong))
}

// checkContent looks whether every snapshot has its content, and names content that belongs
// to none.
func checkContent(ctx context.Context, root string, p tool.Printer) (snapshots, wrong int, err error) {
	kind, err := driver.Kind(root)
	if err != nil {
		return 0, 0, err
	}
	content := filepath.Join(root, "snapshots")
	names, err := driver.Directories(root) // before the store is read
	if err != nil {
		wrong, err = p.Findings(fsmeta.Finding{Path: content, Problem: err.Error(), Meaning: "the content of the snapshots is gone", Advice: "mount what it is on, or restore it"})
		return 0, wrong, err
	}
	store, err := fsmeta.Open(filepath.Join(root, "meta"), fsmeta.ReadOnly())
	if errors.Is(err, fsmeta.ErrDamaged) || errors.Is(err, fsmeta.ErrNotStore) {
		return 0, 0, nil // which was said already
	}
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	unsettled, err := driver.Unsettled(root)
	if err != nil {
		return 0, 0, err
	}
	known, damaged := map[string]bool{}, false
	for info, err := range store.All(ctx) {
		if errors.Is(err, fsmeta.ErrDamaged) {
			damaged = true
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		damaged = damaged || known[info.ID] // the one that it had before can't be told
		known[info.ID], known[driver.RemovedName(info.ID)] = true, true
		snapshots++
		path, err := missingContent(ctx, store, filepath.Join(content, info.ID), kind, info)
		if err != nil {
			return 0, 0, err
		}
		if path == "" {
			continue
		}
		f := fsmeta.Finding{Path: path, Name: info.Name, Problem: "its content is missing", Meaning: "it can't be mounted, nor what stands on it", Advice: "remove them, and pull the image again"}
		if removed := driver.RemovedName(info.ID); slices.Contains(names, removed) {
			f.Meaning, f.Advice, f.Harmless = "it was removed, and restored from a backup; its content is in "+removed+", and gets its name back at the next start or garbage collection", adviseNothing, true
		} else if unsettled && info.Kind != fsmeta.KindCommitted && isGone(filepath.Dir(path)) {
			f.Meaning, f.Advice, f.Harmless = "it is an active snapshot or a view, and a crash can take its directory; the next start of the daemon makes it anew", "start the daemon, or restart it", true
		}
		n, err := p.Findings(f)
		if err != nil {
			return 0, 0, err
		}
		wrong += n
	}
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	mounts, err := printMounts(content, p)
	if err != nil {
		return 0, 0, err
	}
	wrong += mounts
	names = slices.DeleteFunc(names, func(name string) bool { return known[name] })
	n, err := printUnclaimed(root, names, damaged, p)
	return snapshots, wrong + n, err
}

func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// printMounts prints what is mounted below the content. It returns how much is wrong.
func printMounts(content string, p tool.Printer) (wrong int, err error) {
	if real, err := filepath.EvalSymlinks(content); err == nil {
		content = real
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(content))
	for _, m := range mounts {
		if err == nil && m.Mountpoint != content { // a filesystem of its own for all content is good
			var n int
			n, err = p.Findings(fsmeta.Finding{Path: m.Mountpoint, Problem: "something is mounted there",
				Meaning: "it is never deleted, counted or copied, and keeps the directories above it from being deleted", Advice: "unmount it"})
			wrong += n
		}
	}
	return wrong, err
}

// printUnclaimed prints what becomes of content that belongs to no snapshot. It returns how
// much is wrong.
func printUnclaimed(root string, names []string, damaged bool, p tool.Printer) (wrong int, err error) {
	content := filepath.Join(root, "snapshots")
	kept, err := driver.Kept(root, filepath.Join(root, "meta"), damaged)
	if err != nil {
		return 0, err
	}
	others := 0
	for _, name := range names {
		why := kept(name)
		if why == "" {
			others++
			continue
		}
		n, err := p.Findings(fsmeta.Finding{Path: filepath.Join(content, name), Problem: "it belongs to no snapshot", Meaning: "it is kept: " + why, Advice: adviseNothing, Harmless: true})
		if err != nil {
			return 0, err
		}
		wrong += n
	}
	if others == 0 {
		return wrong, nil
	}
	f := fsmeta.Finding{Path: content, Problem: fmt.Sprintf("%d directories belong to no snapshot", others), Advice: adviseNothing, Harmless: true,
		Meaning: "they are just being made or removed, or left over, and deleted at the next start or garbage collection"}
	n, err := p.Findings(f)
	return wrong + n, err
}

// adviseNothing is the advice of findings that the snapshotter deals with by itself.
const adviseNothing = "nothing has to be done"

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
