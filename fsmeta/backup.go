package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
)

// Backup makes a store in dir that has every snapshot just as it is now, or as the
// transaction in ctx sees it, while others read and write. dir must not exist, nor dir with
// ".unfinished" behind it, which is where it is made; the directory above must. It may be on
// another filesystem. To restore it, copy it to where the store was, while no program has
// that open: cp -a will do, as will any archive.
//
// Identifiers are handed out from a million higher on in the copy: those that the store
// hands out after the backup are not given to other snapshots when it is restored. The file
// "backup" in the copy says which these are, identifiersFrom up to below identifiersTo: a
// driver should keep content that it finds under one of them, since it was made after the
// backup, until a person has looked at it and deleted the file. Transactions are numbered
// anew.
//
// When it returns nil, all of it is on disk. An error or a crash leaves no dir, and after a
// crash what was made so far in dir.unfinished, which may be deleted. Errors are
// fs.ErrExist, [ErrDamaged] where a snapshot or the journal is (repair that first, or copy
// the files as they are), those of the transaction and what the filesystem says. Progress,
// unless it is nil, is told how many of how many snapshots are written. It costs about as
// much as [Store.Import].
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
	unfinished := dir + ".unfinished"
	for _, path := range []string{dir, unfinished} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, fmt.Errorf("%s: %w", path, fs.ErrExist))
		}
	}
	if damage := s.journalDamage(); damage != nil {
		return damage
	}
	snapshots, next, err := s.everything(ctx)
	if err != nil {
		return err
	}
	if err := os.Mkdir(unfinished, dirMode); err != nil {
		return err
	}
	err = fill(ctx, unfinished, snapshots, next+unknownIDs, progress)
	if err == nil {
		note := fmt.Appendf(nil, `{"time":%q,"identifiersFrom":%d,"identifiersTo":%d}`+"\n", now().Format(time.RFC3339), above(snapshots), next+unknownIDs)
		err = atomicfs.WriteFile(filepath.Join(unfinished, backupFile), unfinished, note)
	}
	if err == nil {
		err = atomicfs.SyncDir(unfinished)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := atomicfs.RenameNew(unfinished, dir); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return atomicfs.SyncDir(filepath.Dir(dir))
}

// everything returns all snapshots as a transaction sees them, and the lowest identifier
// that may be handed out next.
func (s *Store) everything(ctx context.Context) (snapshots []Info, next uint64, err error) {
	for tries := 0; ; tries++ {
		snapshots = nil
		var damage []error
		_, err = s.walk(ctx, func(_ context.Context, m *metadata) error { snapshots = append(snapshots, m.info()); return nil },
			func(err error) error { damage = append(damage, err); return nil })
		err = errors.Join(append(damage, err)...)
		if t, terr := s.transactionOf(ctx); tries == 10 || !errors.Is(err, ErrOutdated) || t != nil || terr != nil {
			break // else others have folded the journal meanwhile: as it is now, then
		}
	}
	if err != nil {
		return nil, 0, err
	}
	if next = s.nextReserved(); next == 0 {
		return nil, 0, errors.New("the journal does not tell which identifiers were handed out")
	}
	return snapshots, next, nil
}

// above returns the lowest identifier above all that snapshots have: not the next one that
// is reserved, for those between may be handed out after the copy was made.
func above(snapshots []Info) (next uint64) {
	next = 1
	for _, info := range snapshots {
		if id, err := parseID(info.ID); err == nil {
			next = max(next, id+1)
		}
	}
	return next
}

// fill makes a store with these snapshots in an empty directory.
func fill(ctx context.Context, dir string, snapshots []Info, next uint64, progress func(done, total int)) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	err = s.Import(ctx, snapshots, next, func(done int) {
		if progress != nil {
			progress(done, len(snapshots))
		}
	})
	return errors.Join(err, s.Close())
}
