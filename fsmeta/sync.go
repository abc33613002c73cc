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
	if len(names) < manyNames || foreign || !t.syncAll() {
		if err := t.syncEach(names); err != nil {
			return err
		}
	}
	t.settled(gone)
	return nil
}

// syncAll syncs the whole filesystem, if that keeps nobody waiting, and reports whether
// it has. After a failure it never does again: a second call may seem to succeed.
// Whether it is ours what could not be written, the files tell.
func (t *tree) syncAll() bool {
	if t.root == nil || t.rootFailed || !quiet() {
		return false
	}
	err := atomic.SyncFilesystem(t.root)
	t.rootFailed = err != nil
	return err == nil
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
