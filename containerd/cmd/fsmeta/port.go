package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
	bolt "go.etcd.io/bbolt"
)

func importCommand() *cli.Command {
	var file, store string
	return &cli.Command{
		Name:  "import",
		Usage: "take over a driver's metadata.db, which containerd's package has written",
		Description: "With the driver stopped. Where FILE and STORE are one path, the store takes the place of the file, at once, and the file is FILE.bolt afterwards; " +
			"if that was interrupted, run it again. Otherwise STORE is filled, which must not exist or not have been used, and FILE is only read. " +
			"Identifiers and all else stay as they are. For the way back see export. " +
			"Exit status: 0 all is taken over, 1 some snapshots were left out, 2 nothing was taken over.\n\n" +
			"Example: switch a driver that looks for its metadata there:\n\n   fsmeta import /var/lib/DRIVER/metadata.db /var/lib/DRIVER/metadata.db",
		Arguments: []cli.Argument{
			&cli.StringArg{Name: "FILE", Destination: &file, UsageText: "FILE"},
			&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"},
		},
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: leaveOut, Usage: "where snapshots can't be taken over, take over the rest: their content is kept for as long as STORE/damaged is there"},
			tool.JSON("the result"),
		},
		Action: with(func(ctx context.Context, c *cli.Command) error {
			return takeOver(ctx, file, store, c.Bool(leaveOut), tool.PrinterOf(c))
		}, &store, &file),
	}
}

const leaveOut = "leave-out"

// imported is what an import has done, as JSON.
type imported struct {
	File      string  `json:"file"`
	Store     string  `json:"store"`
	Snapshots uint64  `json:"snapshots"`
	LeftOut   []unfit `json:"leftOut"`
}

// unfit is a snapshot that can't be taken over, as JSON.
type unfit struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// takeOver imports a file, in its own place or into another.
func takeOver(ctx context.Context, file, store string, partly bool, p tool.Printer) error {
	var progress tool.Progress
	done := imported{file, store, 0, []unfit{}}
	var lines []string
	note := func(u storage.Unfit) {
		done.LeftOut = append(done.LeftOut, unfit{u.Name, u.ID, u.Err.Error()})
		lines = append(lines, u.String())
	}
	var opts []storage.ImportOption
	if partly {
		opts = append(opts, storage.LeaveOut(note))
	}
	err := importFile(ctx, file, store, progress.Of("importing"), opts...)
	progress.Finish()
	if refused, ok := errors.AsType[*storage.UnfitError](err); ok {
		for _, u := range refused.Snapshots {
			note(u)
		}
	}
	for _, line := range lines {
		if perr := p.Say("%s", tool.Visible(line)); perr != nil {
			return errors.Join(err, perr)
		}
	}
	if err != nil {
		return err
	}
	if done.Snapshots, err = counted(store); err != nil {
		return err
	}
	if p.JSON {
		err = tool.NewEncoder(p.Out).Encode(done)
	} else {
		err = p.Say("%d snapshots are in %s, left out: %d", done.Snapshots, store, len(lines))
	}
	if kept := beside(store, ".bolt"); err == nil && onePath(store, file) && kept != "" {
		err = p.Say("the file that was there is %s", kept)
	}
	return tool.Found(len(lines), err)
}

func importFile(ctx context.Context, file, store string, progress func(done, total int), opts ...storage.ImportOption) (err error) {
	if onePath(store, file) {
		if err := storage.TakeOver(ctx, store, progress, opts...); err != nil {
			return err
		}
		_, err := os.Stat(store) // a take-over does nothing where nothing is
		return err
	}
	ms, err := storage.NewMetaStore(store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ms.Close()) }()
	return storage.Import(ctx, file, ms, progress, opts...)
}

// counted returns how many snapshots a store says that it has.
func counted(store string) (uint64, error) {
	look, err := fsmeta.Inspect(store)
	if err != nil {
		return 0, err
	}
	summary, err := look.Summary()
	return summary.Counted, errors.Join(err, look.Close())
}

func exportCommand() *cli.Command {
	var store, file string
	return &cli.Command{
		Name:  "export",
		Usage: "write a store as a metadata.db that containerd's package opens",
		Description: "The way back. Where STORE and FILE are one path, the file takes the place of the store, at once, and the store is STORE.fsmeta afterwards; no process may have it open. " +
			"If that was interrupted, run it again. Otherwise FILE must not exist, and has the store, which may be in use, as of one moment. " +
			"Exit status: 0, 2 where there is no file.\n\n" +
			"Example: go back, with the driver stopped, before the one that uses containerd's package is started:\n\n" +
			"   fsmeta export /var/lib/DRIVER/metadata.db /var/lib/DRIVER/metadata.db",
		Arguments: []cli.Argument{
			&cli.StringArg{Name: "STORE", Destination: &store, UsageText: "STORE"},
			&cli.StringArg{Name: "FILE", Destination: &file, UsageText: "FILE"},
		},
		Flags: []cli.Flag{tool.JSON("the result")},
		Action: with(func(ctx context.Context, c *cli.Command) error {
			return export(ctx, store, file, tool.PrinterOf(c))
		}, &store, &file),
	}
}

// exported is what an export has made, as JSON.
type exported struct {
	Store     string `json:"store"`
	File      string `json:"file"`
	Snapshots *int   `json:"snapshots"` // nil where a process uses a file that was in place already
}

// export writes a store as a file of bbolt.
func export(ctx context.Context, store, file string, p tool.Printer) error {
	var progress tool.Progress
	made := exported{Store: store, File: file}
	if !onePath(store, file) || isDirectory(store) {
		made.Snapshots = new(int)
	}
	err := exportFile(ctx, store, file, func(done, total int) {
		n := total / 2 // each is written and read back
		made.Snapshots = &n
		progress.Show("exporting", done, total)
	})
	progress.Finish()
	if err != nil {
		return err
	}
	if p.JSON {
		return tool.NewEncoder(p.Out).Encode(made)
	}
	if made.Snapshots == nil {
		return p.Say("%s is a file already, and in use", file)
	}
	if err := p.Say("%d snapshots are in %s", *made.Snapshots, file); err != nil || !onePath(store, file) {
		return err
	}
	if kept := beside(file, ".fsmeta"); kept != "" {
		if err := p.Say("the store that was there is %s", kept); err != nil {
			return err
		}
	}
	if old := beside(file, ".bolt"); old != "" {
		return p.Say("%s is of an earlier time: delete it before the next import", old)
	}
	return nil
}

// beside returns what a switch has put beside a path, or beside what that leads to; "" where it is not there.
func beside(path, end string) string {
	place, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	if _, err := os.Lstat(place + end); err != nil {
		return ""
	}
	return place + end
}

func onePath(store, file string) bool { return filepath.Clean(store) == filepath.Clean(file) }

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func exportFile(ctx context.Context, store, file string, progress func(done, total int)) (err error) {
	if onePath(store, file) {
		return storage.GoBack(ctx, store, progress)
	}
	ms, err := storage.NewMetaStore(store, func(o *bolt.Options) error { o.ReadOnly = true; return nil })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ms.Close()) }()
	return storage.Export(ctx, ms, file, progress)
}
