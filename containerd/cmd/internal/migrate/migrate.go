//go:build linux

package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/lock"
	bolt "go.etcd.io/bbolt"
)

// Options say what to take over, and to where. All are required, and paths are absolute.
type Options struct {
	ContainerdRoot string // containerd's root directory, /var/lib/containerd
	From           string // the built-in snapshotter: "overlayfs" or "native"
	Root           string // the root directory of the new snapshotter
	Name           string // the name of the proxy plugin in containerd's config.toml
}

// Progress is told what is being done and how far it is: done of total, which is 0 where it
// isn't known.
type Progress func(step string, done, total int)

// Run takes over the snapshots of a built-in snapshotter, as the package comment says.
// Containerd, its containers and the new snapshotter must be stopped. Progress may be nil.
//
// When it returns nil, everything is taken over and durable. Where it is already, Run tells
// progress so, and does nothing. After an error or a crash call it again with the same
// options: it finishes what was begun. Before the content was moved, containerd can be
// started instead and goes on as before; the error says if it was. The context ends it only
// until then.
//
// An error that is found before anything is written changes nothing: errdefs.ErrInvalidArgument
// for bad options; errdefs.ErrNotFound where containerd has no such snapshotter;
// errdefs.ErrUnavailable where containerd, a container or the new snapshotter is running;
// [fsmeta.ErrUsed], an errdefs.ErrFailedPrecondition as are others of that kind, where Root
// is in use for something else or Name has snapshots already; errdefs.ErrDataLoss where a
// snapshot has no content, or a file is damaged. Those of the filesystem are passed on.
func Run(ctx context.Context, o Options, progress Progress) error {
	if progress == nil {
		progress = func(string, int, int) {}
	}
	m := &migration{Options: o, progress: progress}
	err := m.checkOptions()
	if err == nil {
		err = m.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("take over snapshotter %s of %s into %s: %w", o.From, o.ContainerdRoot, o.Root, err)
	}
	return nil
}

// kinds are what the content of each built-in snapshotter is called in the file "snapshotter".
var kinds = map[string]string{"overlayfs": "overlay", "native": "native"}

// builtIn are the names of containerd's own snapshotters, which no plugin can have.
var builtIn = []string{"aufs", "blockfile", "btrfs", "devmapper", "erofs", "lcow", "native", "overlayfs", "windows", "windows-lcow", "zfs"}

// migration is one run.
type migration struct {
	Options
	progress Progress

	meta, old *bolt.DB // meta.db and, nil where there is none any more, the old metadata.db
	unlock    func() error
	moved     bool // the content is in Root already
	changed   bool // meta.db says Name already
}

// Where things are.
func (m *migration) oldDir() string     { return m.plugin("snapshotter.v1." + m.From) }
func (m *migration) oldMeta() string    { return filepath.Join(m.oldDir(), "metadata.db") }
func (m *migration) retired() string    { return m.oldMeta() + ".imported" }
func (m *migration) oldContent() string { return filepath.Join(m.oldDir(), "snapshots") }
func (m *migration) list() string       { return m.oldContent() + ".moved" }
func (m *migration) metaFile() string   { return filepath.Join(m.plugin("metadata.v1.bolt"), "meta.db") }
func (m *migration) backup() string     { return m.metaFile() + ".before-" + m.Name }
func (m *migration) marker() string     { return filepath.Join(m.Root, "snapshotter") }
func (m *migration) store() string      { return filepath.Join(m.Root, "meta") }
func (m *migration) content() string    { return filepath.Join(m.Root, "snapshots") }

func (m *migration) plugin(name string) string {
	return filepath.Join(m.ContainerdRoot, "io.containerd."+name)
}

// The lines in the marker file: while the work is not finished, and then.
func (m *migration) unfinished() string {
	return fmt.Sprintf("%s of %s in %s to %s: run it again\n", unfinishedPrefix, m.From, m.ContainerdRoot, m.Name)
}
func (m *migration) finished() string { return kinds[m.From] + "\n" }

// receipt is the file that says which migration has filled Root.
func (m *migration) receipt() string { return filepath.Join(m.Root, "imported") }

func (m *migration) imported() string {
	return fmt.Sprintf("snapshotter %s of %s, for the plugin %s\n", m.From, m.ContainerdRoot, m.Name)
}

const unfinishedPrefix = "unfinished migration"

func (m *migration) checkOptions() error {
	_, known := kinds[m.From]
	switch {
	case !filepath.IsAbs(m.ContainerdRoot):
		return invalid("containerd's root directory %q is not an absolute path", m.ContainerdRoot)
	case !filepath.IsAbs(m.Root):
		return invalid("the root directory of the new snapshotter, %q, is not an absolute path", m.Root)
	case !known:
		return invalid("%q can't be taken over, only overlayfs and native", m.From)
	case m.Name == "":
		return invalid("the new snapshotter has no name: it is that of the proxy plugin in containerd's config.toml")
	case slices.Contains(builtIn, m.Name):
		return invalid("containerd has a snapshotter %q of its own: call the new one something else", m.Name)
	}
	if err := identifiers.Validate(m.Name); err != nil {
		return fmt.Errorf("the name of the new snapshotter: %w", err)
	}
	m.ContainerdRoot, m.Root = filepath.Clean(m.ContainerdRoot), filepath.Clean(m.Root)
	if within(m.Root, m.oldDir()) || within(m.oldDir(), m.Root) {
		return invalid("%s can't be in %s, nor around it: choose another directory on the same filesystem", m.Root, m.oldDir())
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// within reports whether path is dir or in it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && (rel == "." || filepath.IsLocal(rel))
}

// after is called after each step, for tests to end the run there.
var after = func(step string) error { return nil }

// run is the whole of it, see the package comment. What a crash leaves is said of each step.
func (m *migration) run(ctx context.Context) (err error) {
	m.progress("check", 0, 0)
	if done, err := m.complete(); done || err != nil {
		if done {
			m.progress("all is taken over already", 0, 0)
		}
		return err
	}
	defer func() { err = errors.Join(err, m.release()) }()
	if err := m.check(); err != nil {
		return err
	}
	if !m.moved {
		if err := m.prepare(ctx); err != nil {
			return fmt.Errorf("%w; nothing of containerd's is changed yet", err)
		}
	}
	if err := m.switchOver(); err != nil {
		return err
	}
	if err := m.finish(); err != nil {
		return fmt.Errorf("%w; the content is moved and meta.db changed: run this again to finish", err)
	}
	return nil
}

// release gives the locks back.
func (m *migration) release() (err error) {
	for _, db := range []*bolt.DB{m.old, m.meta} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if m.unlock != nil {
		err = errors.Join(err, m.unlock())
	}
	return err
}

// prepare writes all that can be written beside what containerd has. A crash or an error
// leaves some of it, in a root directory that is marked as unfinished, or not there, or empty.
func (m *migration) prepare(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"made", m.makeRoot},
		{"cleared", m.clearRoot},
		{"marked", func(context.Context) error { return m.mark(m.unfinished()) }},
		{"imported", m.fill},
		{"backed up", m.backUp},
		{"listed", m.writeList},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		if err := after(step.name); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// makeRoot makes the root directory and locks it, if it isn't there; it gets the mode of the
// old one. A crash leaves it, empty, or directories above it.
func (m *migration) makeRoot(context.Context) error {
	if m.unlock != nil {
		return nil
	}
	info, err := os.Stat(m.oldDir())
	if err != nil {
		return err
	}
	if err := atomic.MkdirAll(m.Root, info.Mode().Perm()); err != nil {
		return err
	}
	if err := m.lockRoot(); err != nil {
		return err
	}
	_, err = m.checkRoot() // once more: another process may have made it
	return err
}

// clearRoot removes the empty directory for content that a snapshotter has made which was
// never used. A crash leaves it or not, and the store in any case, which says so.
func (m *migration) clearRoot(context.Context) error {
	err := os.Remove(m.content())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomic.SyncDir(m.Root)
}

// removeTemporary removes what a crash has left of writing path: a file beside it.
func removeTemporary(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isTemporary(e.Name(), path) {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// isTemporary reports whether name is that of a file that was to become path: a dot, the name
// and a number.
func isTemporary(name, path string) bool {
	number, ok := strings.CutPrefix(name, "."+filepath.Base(path))
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// existing returns path, or the nearest directory above it that exists.
func existing(path string) (string, error) {
	for {
		_, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
			return path, err
		}
		path = filepath.Dir(path)
	}
}

// lockRoot takes the lock that the new snapshotter has as long as it runs, if the root
// directory exists.
func (m *migration) lockRoot() error {
	unlock, free, err := lock.New(m.Root).TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !free:
		return fmt.Errorf("%s is in use: the new snapshotter runs and has to be stopped first (fuser -v %[1]s shows it): %w", m.Root, errdefs.ErrUnavailable)
	}
	m.unlock = unlock
	return nil
}

// mark writes the marker file, and makes the root directory durable with it. A crash leaves
// the former line or the new one, and perhaps a temporary file beside it.
func (m *migration) mark(line string) error {
	if err := removeTemporary(m.marker()); err != nil {
		return err
	}
	if err := atomic.WriteFile(m.marker(), m.Root, []byte(line)); err != nil {
		return err
	}
	return atomic.SyncDir(m.Root)
}

// fill makes the store and fills it. What was there is of a snapshotter that was never used,
// or of an earlier run: no other process can have written to it, as the root directory is marked.
// A crash leaves a part of the store.
func (m *migration) fill(ctx context.Context) (err error) {
	m.progress("import the metadata", 0, 0)
	if err := os.RemoveAll(m.store()); err != nil {
		return err
	}
	ms, err := storage.NewMetaStore(m.store())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ms.Close()) }()
	err = storage.Import(ctx, m.oldMeta(), ms, func(done, total int) { m.progress("import the metadata", done, total) })
	if err != nil {
		return err
	}
	return atomic.SyncDir(m.Root)
}

// backUp copies meta.db. A crash leaves no copy or the whole of it; one of an earlier run
// is replaced.
func (m *migration) backUp(context.Context) (err error) {
	m.progress("copy meta.db", 0, 0)
	dir := filepath.Dir(m.backup())
	if err := removeTemporary(m.backup()); err != nil {
		return err
	}
	f, err := atomic.Create(m.backup(), dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Discard()) }()
	err = guard(m.metaFile(), func() error {
		return m.meta.View(func(tx *bolt.Tx) error {
			_, err := tx.WriteTo(f)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", m.metaFile(), m.backup(), err)
	}
	if err := f.Replace(); err != nil {
		return err
	}
	return atomic.SyncDir(dir)
}

// writeList writes the names of the directories that are to be moved, for the way back. A crash
// leaves no list or the whole of it; one of an earlier run is replaced.
func (m *migration) writeList(context.Context) error {
	entries, err := os.ReadDir(m.oldContent())
	if err != nil {
		return err
	}
	var list bytes.Buffer
	for _, e := range entries {
		list.WriteString(e.Name() + "\n")
	}
	if err := removeTemporary(m.list()); err != nil {
		return err
	}
	if err := atomic.WriteFile(m.list(), m.oldDir(), list.Bytes()); err != nil {
		return err
	}
	return atomic.SyncDir(m.oldDir())
}

// switchOver moves the content and changes meta.db. The change is prepared first, so that
// nothing but the commit is left when the content is moved. A crash leaves both as they were,
// the content moved, or both done; so does an error, and then another run goes on from there.
func (m *migration) switchOver() error {
	if m.changed {
		return nil
	}
	m.progress("switch over", 0, 0)
	err := guard(m.metaFile(), func() error {
		return m.meta.Update(func(tx *bolt.Tx) error {
			if err := (names{m.From, m.Name}).change(tx); err != nil {
				return err
			}
			if err := after("prepared"); err != nil {
				return err
			}
			if err := m.move(); err != nil {
				return err
			}
			return after("moved")
		})
	})
	if err != nil && m.moved {
		return fmt.Errorf("%s: say %s for %s: %w; the content is in %s by now: don't start containerd, run this again", m.metaFile(), m.Name, m.From, err, m.content())
	}
	if err != nil {
		return fmt.Errorf("switch over: %w; nothing of containerd's is changed yet", err)
	}
	return after("changed")
}

// move renames the directory with the content, if that was not done. A crash leaves it at one
// of its names. After an error it is at the old one, unless it was the sync that failed.
func (m *migration) move() error {
	if m.moved {
		return nil
	}
	err := atomic.RenameNew(m.oldContent(), m.content())
	if errors.Is(err, syscall.EXDEV) {
		return otherFilesystem(m.Root, m.oldContent(), err)
	}
	if err != nil {
		return err
	}
	m.moved = true
	// The new name first: where the two don't reach the disk together, rather both than none.
	if err := atomic.SyncDir(m.Root); err != nil {
		return err
	}
	return atomic.SyncDir(m.oldDir())
}

func otherFilesystem(root, content string, err error) error {
	return fmt.Errorf("%s and %s are not on the same filesystem, or not in the same mount, and the content is to be moved, not copied: choose a root directory there: %w", root, content, err)
}

// finish puts the old metadata away and marks the root directory as what it is now. A crash
// leaves the one or the other, or both to do.
func (m *migration) finish() error {
	m.progress("finish", 0, 0)
	if err := m.retire(); err != nil {
		return err
	}
	if err := after("retired"); err != nil {
		return err
	}
	if err := atomic.WriteFile(m.receipt(), m.Root, []byte(m.imported())); err != nil {
		return err
	}
	if err := m.mark(m.finished()); err != nil {
		return err
	}
	return after("finished")
}

// retire renames the old metadata, which names content that is gone. It stays where a
// containerd has begun to use the built-in snapshotter again since meta.db was changed: then
// it has new snapshots, too. A crash leaves it at one of its names.
func (m *migration) retire() error {
	vacant, err := vacant(m.oldContent())
	if err != nil || !vacant {
		return err
	}
	err = atomic.RenameNew(m.oldMeta(), m.retired())
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Done by an earlier run, and perhaps begun anew by containerd: nothing to do.
	return atomic.SyncDir(m.oldDir())
}

// vacant reports whether a directory is empty or does not exist.
func vacant(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}
