package fsmeta

import (
	"context"
	"encoding/json"
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
// Identifiers are handed out from a million higher on in the copy, and, when it is put to
// use, from 4096 more on for each millisecond since the backup: those that the store hands
// out after the backup, or another copy in its place, are not given to other snapshots when
// it is restored. (The clock must not have gone back.) That is kept in the file "backup", see
// [Store.RestoredBelow]. Transactions are numbered anew.
//
// When it returns nil, all of it is on disk. An error or a crash leaves no dir, or, at the very
// end, one that is whole; and after a crash what was made so far in dir.unfinished, which may
// be deleted. Errors are
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
	if inside, err := s.holdsPath(dir); err != nil || inside {
		return errors.Join(err, fmt.Errorf("%s is in the store: choose another place", dir))
	}
	snapshots, next, err := s.everything(ctx)
	if err != nil {
		return err
	}
	if err := os.Mkdir(unfinished, dirMode); err != nil {
		return err
	}
	next = min(next+unknownIDs, maxID)
	note := copied{Time: now(), From: next, To: next}
	err = fill(ctx, unfinished, snapshots, next, progress)
	if err == nil {
		err = note.write(unfinished, unfinished) // which syncs the directory
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := atomicfs.RenameNew(unfinished, dir); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	return atomicfs.SyncDir(filepath.Dir(dir))
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
	c, err := readCopied(s.dir)
	return snapshots, max(next, c.below(next)), err
}

// RestoredBelow returns the identifier below which content may be of snapshots that were made
// after the backup from which this store was restored, 0 where it was not. A driver should
// keep content that it finds under one of these, though no snapshot has it, until a person has
// looked at it and deleted the file "backup" in the store. Errors are [ErrDamaged] where that
// can't be read, and what the filesystem says.
func (s *Store) RestoredBelow() (uint64, error) {
	c, err := readCopied(s.dir)
	if err == nil {
		err = s.look()
	}
	if err != nil {
		return 0, fmt.Errorf("fsmeta: look from which backup %s was restored: %w", s.dir, err)
	}
	return c.below(s.nextReserved()), nil
}

// copied is what the file "backup" says of a copy.
type copied struct {
	Time time.Time `json:"time"`            // of the backup
	From uint64    `json:"identifiersFrom"` // where the copy would go on
	To   uint64    `json:"identifiersTo"`   // where it goes on, once it is in use; else From
}

// idsPerMillisecond is more than a store hands out, or leaves out while processes take turns.
const idsPerMillisecond = 4096

// below returns the identifier at which the copy goes on, or has begun, where next is what the
// journal says; 0 for a store that is none.
func (c *copied) below(next uint64) uint64 {
	if c == nil {
		return 0
	}
	if c.To > c.From && next >= c.To {
		return c.To // it is in use
	}
	since := uint64(max(0, time.Since(c.Time).Milliseconds()))
	return max(c.To, min(c.From+min(since, maxID/idsPerMillisecond)*idsPerMillisecond, maxID))
}

// write writes the file durably. A crash leaves the former or the new one.
func (c *copied) write(dir, temp string) error {
	data, err := json.Marshal(c)
	if err == nil {
		err = atomicfs.WriteFile(filepath.Join(dir, backupFile), temp, append(data, '\n'))
	}
	if err == nil {
		err = atomicfs.SyncDir(dir)
	}
	return err
}

// readCopied reads the file, nil where there is none.
func readCopied(dir string) (*copied, error) {
	path := filepath.Join(dir, backupFile)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	var data []byte
	if err == nil {
		data, err = readFile(path)
	}
	if err != nil {
		return nil, err
	}
	var c copied
	if err := json.Unmarshal(data, &c); err != nil || c.From == 0 || c.To < c.From || c.To > maxID {
		return nil, &DamagedError{Path: path, Err: errors.Join(err, errors.New("it does not say below which identifiers others were handed out"))}
	}
	return &c, nil
}

// passCopied makes a copy that is put to use go on at identifiers that nobody else has handed
// out: neither the store that it is of nor a copy that was put in its place before. The
// process has the lock. A crash leaves the file or not, and no identifier handed out, or the
// file.
func (s *Store) passCopied() error {
	c, err := readCopied(s.dir)
	if c == nil || err != nil {
		return err
	}
	to := c.below(s.nextID)
	if to > c.To {
		c.To = to
		if err := c.write(s.dir, s.tree.staging); err != nil {
			return err
		}
	}
	s.nextID = max(s.nextID, to)
	return nil
}

// fill makes a store with these snapshots in an empty directory.
func fill(ctx context.Context, dir string, snapshots []Info, next uint64, progress func(done, total int)) error {
	s, err := Open(dir)
	if err != nil {
		return err
	}
	err = s.importAll(ctx, snapshots, next, maxID, func(done int) {
		if progress != nil {
			progress(done, len(snapshots))
		}
	})
	return errors.Join(err, s.Close())
}
