package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/lock"
)

// Make makes an empty store in dir, and the directories above that are missing: directories
// and journal first, layout last, each synced. ahead tells how far the journal is filled ahead,
// in bytes. Until layout is there, there is no store, and the next call begins again. Where
// another process was faster, Make returns nil.
func Make(dir string, ahead func(*disk.Dir) int) error {
	if err := atomic.MkdirAll(dir, format.DirMode); err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("%w: %w", fault.ErrNotStore, err)
		}
		return err
	}
	if err := CheckVacant(dir); err != nil {
		if Read(dir) == nil {
			return nil // another process has just made it
		}
		return err
	}
	d, err := disk.OpenDir(dir, true)
	if err != nil {
		return err
	}
	owner, err := disk.OwnerOf(d.File)
	if err == nil {
		err = makeLocked(d, owner, ahead(d))
	}
	return errors.Join(err, d.Close())
}

// makeLocked is Make with the lock on staging/.
func makeLocked(d *disk.Dir, owner disk.Owner, fill int) error {
	if err := CheckNames(d); err != nil {
		return err
	}
	if err := makeDir(d, format.StagingDir, owner); err != nil {
		return err
	}
	unlock, err := lock.New(filepath.Join(d.Path, format.StagingDir)).Lock(context.Background())
	if err != nil {
		return err
	}
	if err = Read(d.Path); errors.Is(err, fs.ErrNotExist) { // else another process was faster
		if err = CheckVacant(d.Path); err == nil {
			err = makeParts(d, owner, fill)
		}
	}
	return errors.Join(err, unlock())
}

func makeParts(d *disk.Dir, owner disk.Owner, fill int) error {
	if err := makeDir(d, format.SnapshotsDir, owner); err != nil {
		return err
	}
	first := format.Header{NextID: 1, Names: format.Names{Known: true}}
	if err := WriteJournal(d, owner, first, nil, fill); err != nil {
		return err
	}
	// The last: the maker of dir may have died before it was synced.
	for _, dir := range []string{format.SnapshotsDir, format.StagingDir, ".", ".."} {
		if err := atomic.SyncDir(filepath.Join(d.Path, dir)); err != nil {
			return err
		}
	}
	return WriteLayout(d.Path, owner)
}

// WriteJournal puts a journal in place, durably, that has no line but carry, or none where that
// is nil. A crash or an error leaves the former file, if there was one, or the new one.
func WriteJournal(d *disk.Dir, owner disk.Owner, h format.Header, carry *format.Txn, fill int) error {
	next, err := journal.Prepare(filepath.Join(d.Path, format.JournalFile), filepath.Join(d.Path, format.StagingDir), fill, owner)
	if err != nil {
		return err
	}
	j, err := next.Write(nil, h, carry, false)
	if err == nil {
		if err = next.Replace(); err == nil {
			err = d.File.Sync()
		}
		if err == nil {
			err = j.Place()
		}
		err = errors.Join(err, j.Close())
	}
	return errors.Join(err, next.Discard())
}

// WriteLayout puts the layout file in place, durably. A crash leaves the former file, if there
// was one, or the new one.
func WriteLayout(dir string, owner disk.Owner) error {
	f, err := atomic.Create(filepath.Join(dir, format.LayoutFile), filepath.Join(dir, format.StagingDir))
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(format.LayoutContent))
	if err == nil && owner.Hand {
		err = f.Chown(owner.UID, owner.GID)
	}
	if err == nil {
		err = f.Replace()
	}
	if err != nil {
		return errors.Join(err, f.Discard())
	}
	return atomic.SyncDir(dir)
}

// makeDir makes a directory that may be there, but not as anything else, such as a symlink
// that leads elsewhere. A crash leaves it or not.
func makeDir(d *disk.Dir, name string, owner disk.Owner) error {
	err := d.At().Mkdir(name, format.DirMode, owner)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	is, err := d.Lstat(name)
	if err == nil && !is.Type.IsDir() {
		err = &fault.Damaged{Path: filepath.Join(d.Path, name), Err: errors.New("it is not a directory")}
	}
	return err
}

// CheckVacant refuses a directory that holds anything else than what an unfinished Make
// leaves: a store that has lost its layout must not become an empty one.
func CheckVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if err != nil {
			return err
		}
		inUse := ""
		switch e.Name() {
		case format.StagingDir, format.LayoutFile, "lost+found":
		case format.JournalFile:
			inUse, err = journalUse(filepath.Join(dir, format.JournalFile))
		case format.SnapshotsDir:
			var inside []fs.DirEntry
			if inside, err = os.ReadDir(filepath.Join(dir, format.SnapshotsDir)); len(inside) > 0 {
				inUse = "there are snapshots"
			}
		default:
			err = fmt.Errorf("%w: there is no layout file, and there is %q: choose an empty directory", fault.ErrNotStore, e.Name())
		}
		if err == nil && inUse != "" {
			err = &fault.Damaged{Path: filepath.Join(dir, format.LayoutFile), Err: errors.New("the file is missing, and " + inUse)}
		}
	}
	return err
}

// journalUse says that the journal at path has been used, "" where it has not.
func journalUse(path string) (string, error) {
	j, err := journal.Open(path, false)
	if err != nil {
		return "", err
	}
	_, err = j.Scan(true)
	used := j.Damage() != nil || j.Header().NextID != 1 || j.Tip() > 0
	if err = errors.Join(err, j.Close()); err != nil || !used {
		return "", err
	}
	return "the journal has been used", nil
}

// LooksLikeStore reports whether a directory without a layout was a store.
func LooksLikeStore(dir string) bool {
	j, err := journal.Open(filepath.Join(dir, format.JournalFile), false)
	if err != nil {
		return false
	}
	return errors.Join(j.Damage(), j.Close()) == nil
}
