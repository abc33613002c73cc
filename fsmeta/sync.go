package fsmeta

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fsmeta/fsmeta/atomic"
)

const (
	// syncers is how many syncs are under way at once; the kernel merges them.
	syncers = 64
	// manyNames is how many snapshots have to be synced for it to pay to sync the
	// filesystem instead, while it is quiet: less than quietKB are unwritten, in all.
	manyNames = 16
	quietKB   = 64 << 10
)

// errSync: a sync failed, not just what comes before it.
var errSync = errors.New("what is on disk is not known any more")

// sync makes the named snapshots durable as they are in the tree, and which there
// are. Those that are gone are passed over. With foreign, other processes have written
// some of them. After an error that is also errSync nothing is known of any of them: see
// journal.sync. After another, call it again.
func (t *tree) sync(names []string, foreign bool) error {
	t.syncing.Lock() // so that nobody's call misses what another's was told
	defer t.syncing.Unlock()
	gone := t.whereabouts()
	// What others have written may have failed to reach the disk, and somebody been told
	// of it, before we opened root: only the files themselves can tell.
	all, err := false, error(nil)
	if len(names) >= manyNames && !foreign {
		all, err = t.syncAll()
	}
	if err == nil && !all {
		err = t.syncEach(names)
	}
	if err == nil {
		t.settled(gone)
	}
	return err
}

// syncAll syncs the whole filesystem, if that can be done and keeps nobody waiting, and
// reports whether it has. It may fail for somebody else's file. But the files don't tell:
// one that could not be written may have left the cache, and its error with it.
func (t *tree) syncAll() (bool, error) {
	if t.root == nil || !quiet() {
		return false, nil
	}
	err := atomic.SyncFilesystem(t.root)
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return err == nil, tellSync(err)
}

// quiet reports whether so little is waiting to be written on this machine that
// syncing a whole filesystem keeps nobody waiting.
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

func (t *tree) syncEach(names []string) error {
	work := make(chan string)
	n := min(syncers, len(names))
	errs := make(chan error, n)
	for range n {
		go func() {
			var err error
			for name := range work {
				if err == nil {
					err = t.syncSnapshot(name)
				}
			}
			errs <- err
		}()
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	return tellSync(atomic.SyncDir(t.snapshots))
}

func (t *tree) syncSnapshot(name string) error {
	dir := t.path(name)
	err := atomic.SyncFile(dir + "/" + metadataFile)
	if err == nil {
		err = atomic.SyncDir(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return tellSync(err)
}

// tellSync makes the error of a sync an errSync, but not that of an open.
func tellSync(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && path.Op == "open" || err == nil {
		return err
	}
	return errors.Join(err, errSync)
}
