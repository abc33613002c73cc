package commit

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// UnknownIDs is how many identifiers are left out where it is not known how many were
// handed out: in a backup, and where a journal was lost.
const UnknownIDs = 1_000_000

// idsPerMillisecond is more than a store hands out, or leaves out while processes take turns.
const idsPerMillisecond = 4096

// mostBackup is how long the file backup may be, in bytes.
const mostBackup = 4096

// Copied is what the file backup says, of a store that was restored from a backup.
type Copied struct{ format.Backup }

// ReadCopied reads the file backup of a store, nil where there is none. One that can't be
// read, or is no regular file, is a *fault.Damaged.
func ReadCopied(dir *disk.Dir) (*Copied, error) {
	path := filepath.Join(dir.Path, format.BackupFile)
	there, _, err := dir.Exists(format.BackupFile)
	if !there {
		return nil, err
	}
	data, err := dir.ReadFile(format.BackupFile, mostBackup)
	if err != nil {
		return nil, fault.Unreadable("", path, err)
	}
	b, err := format.DecodeBackup(data)
	if err != nil {
		return nil, &fault.Damaged{Path: path, Err: err}
	}
	return &Copied{b}, nil
}

// Below returns the identifier at which the copy goes on, or has begun, where next is what
// the journal says; 0 for a store that is none.
func (c *Copied) Below(next uint64) uint64 {
	if c == nil {
		return 0
	}
	if c.To > c.From && next >= c.To {
		return c.To // it is in use
	}
	since := uint64(max(0, time.Since(c.Time).Milliseconds()))
	return max(c.To, min(c.From+min(since, MaxID/idsPerMillisecond)*idsPerMillisecond, MaxID))
}

// Write writes the file durably to a store, by way of the directory temp. A crash leaves the
// former or the new one.
func (c *Copied) Write(dir, temp string, owner disk.Owner) error {
	path := filepath.Join(dir, format.BackupFile)
	f, err := atomic.Create(path, temp)
	if err != nil {
		return err
	}
	_, err = f.Write(format.EncodeBackup(c.Backup))
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

// passCopied makes a copy that is put to use go on at identifiers that no other has handed
// out: neither the store that it is of nor a copy that was put in its place before. The
// process has the lock. A crash leaves the file or not, and no identifier handed out, or the
// file.
func (w *Writer) passCopied() error {
	c, err := ReadCopied(w.dir)
	if c == nil || err != nil {
		return err
	}
	to := c.Below(w.NextID())
	if to > c.To {
		c.To = to
		if err := c.Write(w.dir.Path, filepath.Join(w.dir.Path, format.StagingDir), w.owner); err != nil {
			return err
		}
	}
	w.RaiseID(to)
	return nil
}
