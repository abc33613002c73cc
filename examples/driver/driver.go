package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/lock"
)

// A driver keeps what is known of its snapshots in a store, and their content
// beside it, one folder per snapshot, named after its identifier: fs/ holds the
// files, work/ is for overlay's own use.
//
// The two can't change in one step. So the order is always such that a crash in
// between leaves content without metadata, which sweep deletes at the next
// start, and never metadata without content.
type driver struct {
	store   *fsmeta.Store // in <root>/meta
	content string        // <root>/content
	unlock  func() error
}

// openDriver waits until no other driver works on root. The store itself does not
// need that: other processes may read and write it meanwhile. But a driver removes
// the active snapshots of earlier drivers, so these must have ended.
func openDriver(ctx context.Context, root string) (d *driver, err error) {
	d = &driver{content: filepath.Join(root, "content")}
	if err := os.MkdirAll(d.content, 0o700); err != nil {
		return nil, err
	}
	if err := atomic.SyncDir(root); err != nil {
		return nil, err
	}
	if d.unlock, err = takeTurn(ctx, root); err != nil {
		return nil, err
	}
	var options []fsmeta.Option
	folders, err := os.ReadDir(d.content)
	if len(folders) > 0 {
		// There is content, so there was a store. To make a new, empty one
		// would be to let sweep delete everything.
		options = append(options, fsmeta.MustExist())
	}
	if err == nil {
		d.store, err = fsmeta.Open(filepath.Join(root, "meta"), options...)
	}
	if err != nil {
		return nil, errors.Join(err, d.unlock())
	}
	return d, nil
}

// takeTurn takes the lock on the directory, and says so where another process has it: content has one user at a time.
func takeTurn(ctx context.Context, root string) (unlock func() error, err error) {
	l := lock.New(root)
	unlock, free, err := l.TryLock()
	if err != nil || free {
		return unlock, err
	}
	fmt.Fprintf(os.Stderr, "waiting for another process that has %s (fuser -v %[1]s shows it)\n", root)
	return l.Lock(ctx)
}

func (d *driver) close() error { return errors.Join(d.store.Close(), d.unlock()) }

// folder is where the content of the snapshot with this identifier is.
func (d *driver) folder(id string) string { return filepath.Join(d.content, id) }

// sweep deletes the content that belongs to no snapshot.
func (d *driver) sweep(ctx context.Context) error {
	// The folders first, then the question. Orphans waits for a writable transaction of its
	// own: a folder that was seen here and is just being filled belongs to a snapshot by then.
	folders, err := os.ReadDir(d.content)
	if err != nil {
		return err
	}
	var names []string
	for _, folder := range folders {
		names = append(names, folder.Name())
	}
	// Where a snapshot is damaged or missing, any of the content may be its own: this is an
	// error then.
	orphans, err := d.store.Orphans(ctx, names)
	if err != nil {
		return err
	}
	// What Orphans has read is on disk, so that no power cut brings a snapshot back. Nor is an
	// identifier ever used again.
	for _, id := range orphans {
		err = errors.Join(err, os.RemoveAll(d.folder(id)))
	}
	return err
}

// create makes the active snapshot key on parent, with an empty folder.
func (d *driver) create(ctx context.Context, key, parent string) (active fsmeta.Active, err error) {
	err = d.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		// The identifier first, as the folder is named after it. Then the folder,
		// on disk. Then, as this function returns, the commit.
		active, err = d.store.CreateActive(ctx, key, parent, false)
		if err != nil {
			return err
		}
		folder := d.folder(active.ID)
		for _, dir := range []string{folder, filepath.Join(folder, "fs"), filepath.Join(folder, "work")} {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
		}
		return errors.Join(atomic.SyncDir(folder), atomic.SyncDir(d.content))
	})
	// After an error the folder is left to sweep: where the outcome of the commit
	// is unknown, it may be needed.
	return active, err
}

// importLayer makes the layer at path a committed snapshot on parent, unless it
// is there already: its name tells what is in it and in all those below.
func (d *driver) importLayer(ctx context.Context, path, parent string) (info fsmeta.Info, reused bool, err error) {
	digest, err := readLayer(path, func(io.Reader) error { return nil })
	if err != nil {
		return info, false, err
	}
	name := chain(parent, digest)
	info, err = d.store.Stat(ctx, name)
	if !errors.Is(err, fsmeta.ErrNotExist) {
		return info, true, err
	}

	key := fmt.Sprintf("import-%d", time.Now().UnixNano())
	active, err := d.create(ctx, key, parent)
	if err != nil {
		return info, false, err
	}
	// It takes long, so it happens outside transactions. Where the driver dies in
	// the middle, the next one begins by removing the snapshot.
	var usage fsmeta.Usage
	unpacked, err := readLayer(path, func(stream io.Reader) (err error) {
		usage, err = unpack(stream, filepath.Join(d.folder(active.ID), "fs"))
		return err
	})
	if err == nil && unpacked != digest {
		err = fmt.Errorf("layer %s changed while it was imported", path)
	}
	if err != nil {
		return info, false, errors.Join(err, d.remove(ctx, key))
	}
	// Now the content is on disk. Had this been committed sooner, a power cut
	// could leave a snapshot that says it is whole and isn't.
	err = d.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		labels := map[string]string{"example/source": strings.ToValidUTF8(path, "?"), "example/digest": digest}
		_, err := d.store.CommitWith(ctx, key, name, fsmeta.WithLabels(labels), fsmeta.WithUsage(usage))
		return err
	})
	if err != nil {
		return info, false, err
	}
	info, err = d.store.Stat(ctx, name)
	return info, false, err
}

// remove takes a snapshot out of the store, and then deletes its content. The
// other way round, a crash would leave a snapshot without content; and one that
// Remove refuses, because others stand on it, would have lost it.
func (d *driver) remove(ctx context.Context, key string) error {
	var id string
	err := d.store.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		id, err = d.store.Remove(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(d.folder(id))
}

// removeActives removes the active snapshots that other runs have left: those with keys
// that begin with prefix, except one. It returns their keys.
func (d *driver) removeActives(ctx context.Context, prefix, except string) (keys []string, err error) {
	for info, err := range d.store.All(ctx) {
		if errors.Is(err, fsmeta.ErrDamaged) {
			continue // the damaged ones come last; sweep reports them
		}
		if err == nil && info.Kind == fsmeta.KindActive && info.Name != except && strings.HasPrefix(info.Name, prefix) {
			if err = d.remove(ctx, info.Name); err == nil {
				keys = append(keys, info.Name)
			}
		}
		if err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// mount returns the command that makes the files of the active snapshot key
// visible, with those of all snapshots below.
func (d *driver) mount(ctx context.Context, key string) (string, error) {
	active, err := d.store.GetActive(ctx, key)
	if err != nil {
		return "", err
	}
	upper, work := filepath.Join(d.folder(active.ID), "fs"), filepath.Join(d.folder(active.ID), "work")
	if len(active.ParentIDs) == 0 {
		return fmt.Sprintf("mount --bind %s /mnt", upper), nil
	}
	var lower []string // the store has the lowest first, overlay wants the highest first
	for _, id := range slices.Backward(active.ParentIDs) {
		lower = append(lower, filepath.Join(d.folder(id), "fs"))
	}
	return fmt.Sprintf("mount -t overlay overlay -o lowerdir=%s,upperdir=%s,workdir=%s /mnt",
		strings.Join(lower, ":"), upper, work), nil
}
