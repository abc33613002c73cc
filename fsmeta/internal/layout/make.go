package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	if made, err := prepare(dir); made || err != nil {
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

// prepare reports whether a store is there, because another process was faster. A directory in which
// none may be made is an error.
func prepare(dir string) (made bool, err error) {
	r, err := read(dir)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	case err != nil && r.other != "":
		return false, fmt.Errorf("%w: there is no layout file, and there is %q: choose an empty directory", fault.ErrNotStore, r.other)
	}
	return err == nil, nil
}

// makeLocked is Make with the lock on staging/.
func makeLocked(d *disk.Dir, owner disk.Owner, fill int) error {
	if err := d.CheckNames(format.MaxEntry); err != nil {
		return err
	}
	if err := makeDir(d, format.StagingDir, owner); err != nil {
		return err
	}
	unlock, err := lock.New(filepath.Join(d.Path, format.StagingDir)).Lock(context.Background())
	if err != nil {
		return err
	}
	made, err := prepare(d.Path)
	if err == nil && !made {
		err = makeParts(d, owner, fill)
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
// or a mount that leads elsewhere. A crash leaves it or not.
func makeDir(d *disk.Dir, name string, owner disk.Owner) error {
	err := d.At().Mkdir(name, format.DirMode, owner)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	is, err := d.Lstat(name)
	switch {
	case err != nil:
	case !is.Type.IsDir():
		err = &fault.Damaged{Path: filepath.Join(d.Path, name), Err: errors.New("it is not a directory")}
	case d.IsMount(name):
		err = &fault.Damaged{Path: filepath.Join(d.Path, name), Err: disk.ErrMounted}
	}
	return err
}

// remains is what a directory holds beside a layout file.
type remains struct {
	journal bool   // of a store
	used    bool   // there are snapshots, or the journal has been used
	other   string // an entry that Make does not leave, "" for none
}

// store reports whether that is the rest of a store, which must not become an empty one. Without a
// layout file, what an unfinished Make leaves is none.
func (r remains) store(missing bool) bool {
	return r.used || r.journal && (!missing || r.other != "")
}

// look looks what there is in dir beside layout. Where there is no dir, that is nothing.
func look(dir string) (r remains, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	for _, e := range entries {
		if err != nil {
			break
		}
		path, ours, used := filepath.Join(dir, e.Name()), false, false
		switch e.Name() {
		case format.StagingDir, format.LayoutFile, "lost+found":
			ours = true
		case format.JournalFile:
			ours, used, err = lookJournal(path)
			r.journal = ours
		case format.SnapshotsDir:
			ours, used, err = lookSnapshots(path)
		}
		r.used = r.used || used
		if !ours {
			r.other = e.Name()
		}
	}
	return r, err
}

// lookJournal reports whether there is a journal of a store at path, and whether it has been used.
func lookJournal(path string) (ours, used bool, err error) {
	j, err := journal.Open(path, false)
	if fault.DamageOf(err) != nil {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	if ours = j.Header().NextID > 0; ours { // else the header is none
		_, err = j.Scan(true)
		used = j.Damage() != nil || j.Header().NextID != 1 || j.Tip() > 0
	}
	return ours, used, errors.Join(err, j.Close())
}

// lookSnapshots reports whether path is a directory that Make leaves, or has a snapshot in it.
func lookSnapshots(path string) (ours, used bool, err error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrNotExist) { // a file, or a symlink to nothing
		return false, false, nil
	}
	used = slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		_, err := os.Lstat(filepath.Join(path, e.Name(), format.MetadataFile))
		return err == nil
	})
	return used || len(entries) == 0, used, err
}
