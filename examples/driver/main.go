// Command driver is a small snapshot driver on an fsmeta store. It imports each
// layer as a snapshot on the one before, opens a snapshot for a container on top,
// prints how to mount it, and shows the store as an operator sees it. It mounts
// nothing itself, so it needs no privileges.
//
//	go run ./examples/driver [-store DIR] [-wait] [LAYER...]
//
// Read driver.go to write one of your own: it has the order of content and
// metadata. content.go unpacks layers.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdout)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "driver:", err)
	switch {
	case errors.Is(err, fsmeta.ErrDamaged):
		fmt.Fprintln(os.Stderr, "Look at the path named; fsmeta check and docs/repair.md tell how to repair it. Until then leftover content is kept.")
	case errors.Is(err, fsmeta.ErrNotStore):
		fmt.Fprintln(os.Stderr, "There is content but no store for it: put meta/ back from a backup, or begin elsewhere with -store DIR.")
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(os.Stderr, "Layers must be readable and the store writable: use another with -store DIR, or run as its owner.")
	default:
		fmt.Fprintln(os.Stderr, "Mend what the error names and run again: the driver clears what was left half done, and goes on from there.")
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("driver [flags] [LAYER...]\nA LAYER is a directory, a tar or a tar.gz; "+
		"default: the folders of the Go module around the working directory.\nFlags", flag.ContinueOnError)
	store := flags.String("store", defaultStore(), "`DIR` for metadata and content, made if missing")
	wait := flags.Bool("wait", false, "keep the store open until Enter is pressed, to look at it meanwhile")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root, err := filepath.Abs(*store)
	if err != nil {
		return err
	}
	if strings.ContainsAny(root, " ,:\\\n") {
		return fmt.Errorf("-store %q: overlay and the shell would need its spaces, commas, colons or backslashes escaped", root)
	}
	layers := flags.Args()
	if len(layers) == 0 {
		if layers, err = moduleFolders(root); err != nil {
			return err
		}
	}

	fmt.Fprintln(out, "store:", root)
	d, err := openDriver(ctx, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	// Content that can't be cleared away, say because some snapshot is damaged, is no
	// reason to stop; it is reported at the end.
	_, err = d.removeActives(ctx, "import-", "")
	uncleared := errors.Join(err, d.sweep(ctx))

	parent := ""
	for _, layer := range layers {
		if layer, err = filepath.Abs(layer); err != nil {
			return err
		}
		if contains(layer, root) {
			return fmt.Errorf("layer %s contains the store: use another with -store DIR", layer)
		}
		info, reused, err := d.importLayer(ctx, layer, parent)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s: id %s, %d inodes, %d bytes, from %s\n",
			map[bool]string{false: "imported", true: "reused"}[reused], info.Name, info.ID, info.Usage.Inodes, info.Usage.Size, layer)
		parent = info.Name
	}

	container := fmt.Sprintf("container-%d", time.Now().UnixNano())
	if _, err := d.create(ctx, container, parent); err != nil {
		return err
	}
	mount, err := d.mount(ctx, container)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "created %s; to mount it:\n  %s\n", container, mount)
	removed, err := d.removeActives(ctx, "container-", container)
	for _, key := range removed {
		fmt.Fprintln(out, "removed", key)
	}
	err = errors.Join(uncleared, err, show(out, filepath.Join(root, "meta"), container))
	if *wait {
		fmt.Fprintln(out, "\nThe store stays open until Enter is pressed.")
		if _, rerr := bufio.NewReader(os.Stdin).ReadString('\n'); rerr != io.EOF {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// show prints what an operator finds with ls, cat and readlink.
func show(out io.Writer, meta, key string) error {
	fmt.Fprintf(out, "\n%s\n", meta)
	err := filepath.WalkDir(meta, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || name == meta {
			return nil // the store goes on clearing staging/ meanwhile
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(meta, name)
		fmt.Fprint(out, strings.Repeat("  ", 1+strings.Count(rel, "/")), entry.Name())
		if target, err := os.Readlink(name); err == nil {
			fmt.Fprint(out, " -> ", target)
		}
		fmt.Fprintln(out)
		return nil
	})
	if err != nil {
		return err
	}
	snapshot := filepath.Join("snapshots", key) // no character of key needs encoding
	metadata, err := os.ReadFile(filepath.Join(meta, snapshot, "metadata.json"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s/metadata.json\n%s\n", snapshot, metadata)
	if parent, err := os.Readlink(filepath.Join(meta, snapshot, "parent")); err == nil {
		fmt.Fprintf(out, "%s/parent -> %s\n", snapshot, parent)
	}
	journal, err := os.ReadFile(filepath.Join(meta, "journal"))
	if err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimRight(journal, "\x00\n"), []byte("\n")) // filled ahead with NUL
	fmt.Fprintf(out, "\njournal, the last of its %d lines (closing the store folds them into the tree)\n%s\n",
		len(lines), bytes.Join(lines[max(0, len(lines)-2):], []byte("\n")))
	fmt.Fprintf(out, `
To look further, also while a driver runs:
  cd %s
  ls -l snapshots
  cat %s/metadata.json
  readlink snapshots/*/parent
  tr '\0' '\n' <journal | jq -c '[.txn, .changes[]?.name]'
  jq -r '[.id, .kind, .name] | @tsv' snapshots/*/metadata.json
`, meta, snapshot)
	return nil
}

// defaultStore is the same directory for every run of a user.
func defaultStore() string {
	cache, err := os.UserCacheDir()
	if err == nil {
		err = os.MkdirAll(cache, 0o700)
	}
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprint("fsmeta-driver-", os.Getuid()))
	}
	return filepath.Join(cache, "fsmeta-driver")
}

// moduleFolders returns the folders of the Go module around the working
// directory, without hidden ones and the one that holds the store.
func moduleFolders(store string) (folders []string, err error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return nil, errors.New("no go.mod here or above: name the layers")
		}
		dir = filepath.Dir(dir)
	}
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		folder := filepath.Join(dir, entry.Name())
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") && !contains(folder, store) {
			folders = append(folders, folder)
		}
	}
	return folders, err
}

// contains tells whether path is dir or in it.
func contains(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
