package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// Backup makes a store in dir that has every snapshot just as it is now, or as the
// transaction in ctx sees it, while others read and write. dir must not exist, nor dir with
// ".unfinished" behind it, which is where it is made; the directory above must. It may be on
// another filesystem. In a writable transaction, what that has changed so far is in the copy,
// though it is not committed yet; with a context that carries none, Backup waits for no
// transaction and copies what is committed. To restore it, copy it to where the store was, while no program has
// that open: cp -a will do, as will any archive.
//
// Identifiers are handed out from a million higher on in the copy, and, when it is put to
// use, from 4096 more on for each millisecond since the backup: those that the store hands
// out after the backup, or another copy in its place, are not given to other snapshots when
// it is restored. (The clock must not have gone back.) That is kept in the file "backup", see
// [Store.RestoredBelow]. Transactions are numbered anew.
//
// The copy belongs to the caller; where that is root, to the owner of the store.
//
// When it returns nil, all of it is on disk. An error or a crash leaves no dir, or, at the very
// end, one that is whole. A crash also leaves dir.unfinished with a part, which may be deleted.
//
// Errors are fs.ErrExist, [ErrDamaged] where a snapshot or the journal is or snapshots are
// missing (repair that first, or copy the files as they are), and those of the transaction and
// of the filesystem. Progress, unless it is nil, is told how many of how many snapshots are
// written. It costs about as much as [Store.Import].
func (s *Store) Backup(ctx context.Context, dir string, progress func(done, total int)) error {
	if err := s.backup(ctx, dir, progress); err != nil {
		return fmt.Errorf("fsmeta: back up %s to %s: %w", s.dir, dir, err)
	}
	return nil
}

func (s *Store) backup(ctx context.Context, dir string, progress func(done, total int)) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	unfinished := dir + format.UnfinishedEnd
	for _, path := range []string{dir, unfinished} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("%s: %w", path, fs.ErrExist))
			if path == unfinished {
				err = fmt.Errorf("%w: delete it if no backup is running, one that was killed has left it", err)
			}
			return err
		}
	}
	if damage := s.view.Damage(); damage != nil {
		return damage
	}
	inside, err := s.holdsPath(dir)
	if err == nil && inside {
		err = fmt.Errorf("%s is in the store: choose another place", dir)
	}
	if err != nil {
		return err
	}
	snapshots, next, err := s.everything(ctx)
	if err != nil {
		return err
	}
	owner := s.heir()
	err = os.Mkdir(unfinished, format.DirMode)
	if err == nil && owner.Hand { // what is made in it is handed over, too
		if err = os.Chown(unfinished, owner.UID, owner.GID); err != nil {
			err = errors.Join(err, os.Remove(unfinished))
		}
	}
	if err != nil {
		return err
	}
	next = min(next+commit.UnknownIDs, commit.MaxID)
	note := commit.Copied{Backup: format.Backup{Time: now(), From: next, To: next}}
	err = fill(ctx, unfinished, snapshots, next, progress)
	if err == nil {
		err = note.Write(unfinished, unfinished, owner) // which syncs the directory
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := atomic.RenameNew(unfinished, dir); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return atomic.SyncDir(filepath.Dir(dir))
}

// heir is the user that a copy belongs to: root hands one to the owner of the store, so that the owner
// can use it in the place of the store. Others can't.
func (s *Store) heir() disk.Owner {
	owner := s.tree.Owner()
	owner.Hand = owner.Hand && os.Geteuid() == 0
	return owner
}

// holdsPath reports whether a path is below the store's directory.
func (s *Store) holdsPath(path string) (bool, error) {
	store, err := os.Stat(s.dir)
	if err != nil {
		return false, err
	}
	for above := filepath.Dir(path); ; above = filepath.Dir(above) {
		info, err := os.Stat(above)
		if err != nil {
			return false, err
		}
		if os.SameFile(info, store) {
			return true, nil
		}
		if above == filepath.Dir(above) {
			return false, nil
		}
	}
}

// everything returns all snapshots as a transaction sees them, and an identifier above all
// that were handed out.
func (s *Store) everything(ctx context.Context) (snapshots []Info, next uint64, err error) {
	for tries := 0; ; tries++ {
		snapshots = nil
		_, err = s.walkAll(ctx, func(_ context.Context, m *format.Snapshot) error {
			snapshots = append(snapshots, infoOf(m))
			return nil
		})
		if t, terr := s.transactionOf(ctx); tries == 10 || !errors.Is(err, ErrOutdated) || t != nil || terr != nil {
			break // else others have made checkpoints meanwhile: as it is now, then
		}
	}
	if err != nil {
		return nil, 0, err
	}
	if next = s.nextReserved(); next == 0 {
		return nil, 0, errors.New("the journal does not tell which identifiers were handed out")
	}
	c, err := commit.ReadCopied(s.root)
	return snapshots, max(next, c.Below(next)), err
}

// RestoredBelow returns the identifier below which content may be of snapshots that were made
// after the backup from which this store was restored, 0 where it was not. A driver should
// keep content that it finds under one of these, though no snapshot has it, until a person has
// looked at it and deleted the file "backup" in the store. Errors are [ErrDamaged] where that
// can't be read, and what the filesystem says.
func (s *Store) RestoredBelow() (uint64, error) {
	c, err := commit.ReadCopied(s.root)
	if err == nil {
		err = s.view.Look()
	}
	if err != nil {
		return 0, fmt.Errorf("fsmeta: look from which backup %s was restored: %w", s.dir, err)
	}
	return c.Below(s.nextReserved()), nil
}

// fill makes a store with these snapshots in an empty directory.
func fill(ctx context.Context, dir string, snapshots []Info, next uint64, progress func(done, total int)) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	err = s.importAll(ctx, snapshots, next, commit.MaxID, func(done int) {
		if progress != nil {
			progress(done, len(snapshots))
		}
	})
	return errors.Join(err, s.Close())
}
