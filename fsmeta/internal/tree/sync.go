package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

const (
	// syncers is how many syncs are under way at once; the kernel merges them.
	syncers = 64
	// manyNames is how many snapshots have to be synced for it to pay to sync the
	// filesystem instead, while it is quiet: less than quietKB are unwritten, in all. (Measured
	// on ext4 and xfs: without it a create takes 5 to 9 % longer, and one of 16 writers no
	// longer. It is also told of errors of files that have left the cache.)
	manyNames = 16
	quietKB   = 64 << 10
)

// Sync makes the named snapshots durable as they are in the tree, and which there are. Names that are
// gone are passed over, and so is what is no directory with a regular metadata.json: damage. foreign: another
// process has written some of them. It returns the names that could not be opened, and why: they
// lag. An error that is a fault.ErrSync means that nothing is known of any of them; after another kind of
// error call it again.
func (t *Tree) Sync(names []string, foreign bool) (lagging map[string]error, err error) {
	t.syncing.Lock() // so that no call misses an error that another call was told
	defer t.syncing.Unlock()
	if t.unsynced != nil {
		return nil, t.unsynced
	}
	defer func() {
		if errors.Is(err, fault.ErrSync) {
			t.unsynced = err // the next sync would seem to succeed
		}
	}()
	// The write of another process may have failed, and an error been reported, before this
	// process opened root: only the files themselves can tell.
	if len(names) >= manyNames && !foreign {
		if all, err := t.syncAll(); all || err != nil {
			return nil, err
		}
	}
	return t.syncEach(names)
}

// syncAll syncs the whole filesystem, if that can be done and keeps no other process waiting, and
// reports whether it has. It may fail for a file of another program. But the files don't tell:
// one that could not be written may have left the cache, and its error with it.
func (t *Tree) syncAll() (bool, error) {
	if !quiet() {
		return false, nil
	}
	err := atomic.SyncFilesystem(t.root.File)
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return err == nil, syncError(err)
}

// quiet reports whether so little is waiting to be written on this machine that
// syncing a whole filesystem keeps no other process waiting.
func quiet() bool {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false
	}
	var sum int
	for _, field := range []string{"\nDirty:", "\nWriteback:"} {
		_, rest, found := bytes.Cut(data, []byte(field))
		var kB int
		if _, err := fmt.Sscan(string(rest[:min(len(rest), 32)]), &kB); err != nil || !found {
			return false
		}
		sum += kB
	}
	return sum < quietKB
}

func (t *Tree) syncEach(names []string) (lagging map[string]error, err error) {
	work := make(chan string)
	var mu sync.Mutex
	var group sync.WaitGroup
	note := func(name string, failed error) {
		mu.Lock()
		defer mu.Unlock()
		if lags := fault.DamageOf(fault.Unreadable(name, "", failed)) != nil; !lags || errors.Is(failed, fault.ErrSync) {
			err = errors.Join(err, failed)
			return
		}
		if lagging == nil {
			lagging = map[string]error{}
		}
		lagging[name] = failed
	}
	for range min(syncers, len(names)) {
		group.Go(func() {
			for name := range work {
				if failed := t.syncSnapshot(name); failed != nil {
					note(name, failed)
				}
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	group.Wait()
	if err != nil {
		return nil, err
	}
	return lagging, syncError(t.snapshots.File.Sync())
}

// syncSnapshot makes a snapshot's file durable, and that it is in its directory. Both are
// open before the first sync: an open that fails is no failed sync.
func (t *Tree) syncSnapshot(name string) error {
	dir, err := t.snapshots.OpenDirAt(format.EncodeName(name))
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	file, err := dir.OpenFile(format.MetadataFile)
	if err != nil {
		err = errors.Join(err, dir.Close())
		if isGone(err) {
			return nil
		}
		return err
	}
	err = syncError(file.Sync())
	if err == nil {
		err = syncError(dir.File.Sync())
	}
	return errors.Join(err, syncError(file.Close()), syncError(dir.Close()))
}

// isGone reports whether an open found nothing, or no file or directory of a snapshot.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, disk.ErrNotRegular) || noDirectory(err)
}

// syncError marks the error of a sync, nil for nil.
func syncError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; %w", err, fault.ErrSync)
}
