//go:build linux

package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/moby/sys/mountinfo"
	bolt "go.etcd.io/bbolt"
)

// complete reports whether there is nothing left to do, as can be told without any lock.
func (m *migration) complete() (bool, error) {
	line, err := os.ReadFile(m.marker())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	if err != nil || string(line) != m.finished() {
		return false, err
	}
	receipt, err := os.ReadFile(m.receipt())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it was begun by the snapshotter itself
	}
	return string(receipt) == m.imported() && isDir(m.store()) && isDir(m.content()), err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// check takes the locks and looks whether everything is as it has to be, and how far an
// earlier run came. It writes nothing.
func (m *migration) check() error {
	if err := m.lockRoot(); err != nil {
		return err
	}
	begun, err := m.checkRoot()
	if err != nil {
		return err
	}
	m.moved = begun && exists(m.content())
	if err := m.openFiles(); err != nil {
		return err
	}
	if err := checkMounts(m.oldContent()); err != nil {
		return err
	}
	taken, err := m.countSnapshots(m.Name)
	if err != nil {
		return err
	}
	if m.moved {
		m.changed = taken > 0
		return m.checkMoved()
	}
	if taken > 0 {
		return fmt.Errorf("%s: snapshotter %q has %d snapshots already: choose another name, or remove them and what uses them: %w", m.metaFile(), m.Name, taken, fsmeta.ErrUsed)
	}
	return m.checkOld()
}

// checkRoot looks at the root directory, which must be empty, or of a snapshotter that was
// never used, or left by a run that did not finish: then it reports true.
func (m *migration) checkRoot() (begun bool, err error) {
	entries, err := os.ReadDir(m.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	line, err := os.ReadFile(m.marker())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	switch marked := err == nil; {
	case marked && string(line) == m.unfinished():
		return true, nil
	case marked && strings.HasPrefix(string(line), unfinishedPrefix):
		return false, fmt.Errorf("%s is left by a run with other options, %q: finish that first, with the same options, or choose another root directory: %w", m.Root, strings.TrimSpace(string(line)), errdefs.ErrFailedPrecondition)
	case marked && string(line) == m.finished():
		if was, err := os.ReadFile(m.receipt()); err == nil {
			return false, fmt.Errorf("%s was filled already, with %s: with these options, import prints the way back: %w", m.Root, strings.TrimSpace(string(was)), fsmeta.ErrUsed)
		}
		return false, m.checkUnused()
	case marked:
		return false, fmt.Errorf("%s belongs to a snapshotter of the kind %q: choose another root directory, or remove this one if nothing was ever made in it: %w", m.Root, strings.TrimSpace(string(line)), fsmeta.ErrUsed)
	}
	for _, e := range entries {
		if !isTemporary(e.Name(), m.marker()) {
			return false, fmt.Errorf("%s is not empty, it has %q: choose an empty directory, or one that does not exist: %w", m.Root, e.Name(), fsmeta.ErrUsed)
		}
	}
	return false, nil
}

// checkUnused refuses a root directory in which a snapshotter has made anything.
func (m *migration) checkUnused() (err error) {
	vacant, err := vacant(m.content())
	if err != nil {
		return err
	}
	s, err := fsmeta.Open(m.store(), fsmeta.MustExist(), fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	unused, err := s.Unused(context.Background())
	if err == nil && (!vacant || !unused) {
		err = fmt.Errorf("%s is in use by a snapshotter already: choose another root directory: %w", m.Root, fsmeta.ErrUsed)
	}
	return err
}

// openFiles opens both bbolt files, which locks them: meta.db for writing, the old metadata.db
// for reading, as the import does, too. The latter may be gone when the content is moved.
func (m *migration) openFiles() (err error) {
	m.meta, err = openMeta(m.metaFile())
	if errors.Is(err, fs.ErrNotExist) {
		return reclassified{fmt.Errorf("%w: %s is not the root directory of a containerd", err, m.ContainerdRoot), errdefs.ErrNotFound}
	}
	if err != nil {
		return err
	}
	m.old, err = openRead(m.oldMeta())
	if errors.Is(err, fs.ErrNotExist) && m.moved {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return reclassified{fmt.Errorf("%w: snapshotter %s has no snapshots to take over in %s; if it has another root directory (root_path in config.toml), that can't be taken over", err, m.From, m.oldDir()), errdefs.ErrNotFound}
	}
	return err
}

// countSnapshots returns how many snapshots of a snapshotter meta.db has.
func (m *migration) countSnapshots(snapshotter string) (n int, err error) {
	err = guard(m.metaFile(), func() error {
		return m.meta.View(func(tx *bolt.Tx) error {
			if tx.Bucket(bucketVersion) == nil {
				return fmt.Errorf("%s: it has no bucket %q, so it is not containerd's: %w", m.metaFile(), bucketVersion, errdefs.ErrInvalidArgument)
			}
			n, err = countSnapshots(tx, snapshotter)
			return err
		})
	})
	return n, err
}

// checkOld looks at the built-in snapshotter: its content is not moved yet.
func (m *migration) checkOld() error {
	if exists(m.retired()) {
		return fmt.Errorf("%s is left by an earlier run, and %s is there all the same: move the one away that is not wanted: %w", m.retired(), m.oldMeta(), errdefs.ErrFailedPrecondition)
	}
	if info, err := os.Lstat(m.oldContent()); err != nil {
		return reclassified{fmt.Errorf("the content of snapshotter %s: %w", m.From, err), errdefs.ErrNotFound}
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a directory, but %v: put the content itself there: %w", m.oldContent(), info.Mode().Type(), errdefs.ErrFailedPrecondition)
	}
	if err := m.checkMount(); err != nil {
		return err
	}
	old, err := readSnapshots(m.old)
	if err != nil {
		return err
	}
	return m.checkContent(old)
}

// checkMount looks whether the content can be moved by a rename, which crosses no mount, not one of the same
// filesystem either.
func (m *migration) checkMount() error {
	there, err := existing(m.Root)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	var homes []*mountinfo.Info
	var real []string
	for _, path := range []string{m.oldContent(), m.oldDir(), there} {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		home, _ := homeOf(mounts, path)
		homes, real = append(homes, home), append(real, path)
	}
	switch own := homes[1] != nil && homes[1].Mountpoint == real[1]; {
	case homes[0] != homes[1]:
		return fmt.Errorf("%s is a mount of its own and can't be renamed: with containerd stopped, put the content itself into that directory: %w", m.oldContent(), errdefs.ErrFailedPrecondition)
	case homes[1] != homes[2] && own:
		return fmt.Errorf("%s is a mount of its own, and the content is to be moved, not copied, so that the root directory has to be in it: with containerd stopped, mount it "+
			"at another directory, make %[1]s a symlink to that, and choose a new directory in there: %[2]w", m.oldDir(), errdefs.ErrFailedPrecondition)
	case homes[1] != homes[2]:
		return otherFilesystem(m.Root, m.oldContent(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// checkContent looks whether every snapshot has its content.
func (m *migration) checkContent(snapshots []snapshot) error {
	var missing []string
	for _, s := range snapshots {
		dir := filepath.Join(m.oldContent(), strconv.FormatUint(s.id, 10))
		if m.From == "overlayfs" {
			dir = filepath.Join(dir, "fs")
		} else if s.view && s.parent {
			continue // what is mounted is the parent
		}
		info, err := os.Stat(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return err
		}
		if err != nil || !info.IsDir() {
			missing = append(missing, fmt.Sprintf("%q (%s)", s.name, dir))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%d snapshots have no content: %s: restore it, or remove them with containerd: %w", len(missing), some(missing), errdefs.ErrDataLoss)
}

// some joins the first of a list.
func some(list []string) string {
	const most = 10
	if len(list) > most {
		return strings.Join(list[:most], ", ") + ", …"
	}
	return strings.Join(list, ", ")
}

// checkMoved looks at what may have happened since an earlier run moved the content. As long as
// meta.db doesn't say the new name, a containerd that was started in between has gone on with
// the old metadata, so that must not say more than what was imported.
func (m *migration) checkMoved() error {
	if m.changed {
		return nil
	}
	for _, dir := range []string{m.content(), m.store()} {
		if !isDir(dir) {
			return fmt.Errorf("%s is gone or no directory: restore it: %w", dir, errdefs.ErrDataLoss)
		}
	}
	vacant, err := vacant(m.oldContent())
	if err != nil {
		return err
	}
	var more []string
	if m.old != nil {
		if more, err = m.notImported(); err != nil {
			return err
		}
	}
	if vacant && len(more) == 0 {
		return nil
	}
	return fmt.Errorf("containerd has run since an earlier run of this moved its content to %[1]s, and has made new snapshots (%[5]s): move the content back "+
		"(mkdir -p %[2]s && mv %[1]s/* %[2]s/ && rmdir %[1]s), remove %[3]s and %[4]s, and run this again: %[6]w",
		m.content(), m.oldContent(), m.store(), m.marker(), some(append(more, m.oldContent())), errdefs.ErrFailedPrecondition)
}

// notImported returns the names of snapshots in the old metadata that the store doesn't have.
func (m *migration) notImported() (names []string, err error) {
	old, err := readSnapshots(m.old)
	if err != nil || len(old) == 0 {
		return nil, err
	}
	ms, err := storage.NewMetaStore(m.store())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ms.Close()) }()
	var ids map[string]string
	err = ms.WithTransaction(context.Background(), false, func(ctx context.Context) (err error) {
		ids, err = storage.IDMap(ctx)
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	for _, s := range old {
		if ids[strconv.FormatUint(s.id, 10)] != s.name {
			names = append(names, strconv.Quote(s.name))
		}
	}
	return names, nil
}
