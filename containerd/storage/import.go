package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

// Import fills a store that was never used with the content of boltFile, a metadata.db
// that containerd's package has written: identifiers, kinds, parents, labels, times and
// usage stay as they are, so that the driver's content directories stay valid, and no
// identifier that was handed out there is handed out again. The file is only read.
// Progress, unless it is nil, is called with how many snapshots are done, of how many;
// each counts twice, when it is read, which is fast, and when it is written, which is not.
//
// All of it is there and durable when Import returns nil. After an error or a crash there
// is nothing, unless the error is [fsmeta.ErrOutcomeUnknown]. It is safe to run again:
// where the store has all of the file's snapshots already, just as they are there, it
// does nothing and returns nil.
//
// Errors are errdefs.ErrUnavailable where another process has the file open for
// writing: stop it first; errdefs.ErrFailedPrecondition, also [fsmeta.ErrUsed], where
// the store has been used for something else; errdefs.ErrDataLoss where the file is
// damaged; errdefs.ErrInvalidArgument where it is no such file or has a snapshot that
// can't be taken over, which is named; and fs.ErrNotExist.
func Import(ctx context.Context, boltFile string, store *MetaStore, progress func(done, total int)) error {
	if progress == nil {
		progress = func(int, int) {}
	}
	if err := importInto(ctx, store, boltFile, progress); err != nil {
		return fmt.Errorf("import %s into %s: %w", boltFile, store.dir, err)
	}
	return nil
}

func importInto(ctx context.Context, store *MetaStore, boltFile string, progress func(done, total int)) error {
	db, err := openBolt(boltFile)
	if err != nil {
		return err
	}
	// Until the end, so that nobody begins to write to it meanwhile.
	defer db.Close() //nolint:errcheck // nothing was written
	infos, nextID, err := readBolt(ctx, db, progress)
	if err != nil {
		return err
	}
	s, err := store.open()
	if err != nil {
		return err
	}
	n, written := len(infos), 0
	err = s.Import(ctx, infos, nextID, func(done int) { written = done; progress(n+done, 2*n) })
	switch {
	case err == nil && written < n:
		progress(2*n, 2*n) // all was there
	case errors.Is(err, fsmeta.ErrUsed):
		return fmt.Errorf("this import can't be run again, choose a path where there is nothing yet for a new one: %w", err)
	case errors.Is(err, fsmeta.ErrInvalidName):
		return classified{err, errdefs.ErrInvalidArgument}
	case errors.Is(err, fsmeta.ErrNotExist), errors.Is(err, fsmeta.ErrNotCommitted), errors.Is(err, fsmeta.ErrExist):
		return reclassified{err, errdefs.ErrDataLoss} // containerd's package allows none of that
	}
	return err
}

// boltPatience is how long to wait for a bbolt file that another process has locked.
const boltPatience = 200 * time.Millisecond

// openBolt opens a bbolt file for reading, if nobody has it open for writing.
func openBolt(path string) (*bolt.DB, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || !isBolt(path) {
		return nil, fmt.Errorf("not a bbolt file: %w", errdefs.ErrInvalidArgument)
	}
	var db *bolt.DB
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: boltPatience})
		return err
	})
	if errors.Is(err, errbolt.ErrTimeout) {
		return nil, fmt.Errorf("it is in use: stop the process that has it open (see fuser %s): %w", path, errdefs.ErrUnavailable)
	}
	return db, err
}

// guard runs fn, which reads a bbolt file. Where that is damaged or cut short bbolt
// panics, or its memory map faults. (bbolt's own check runs in a goroutine of its own,
// where a fault ends the process, so it is not used.)
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the file is damaged: bbolt can't read it (%v): %w", r, errdefs.ErrDataLoss)
		}
	}()
	return fn()
}

// isBolt reports whether a file looks like one of bbolt's: its magic number stands
// behind the header of the first or the second page.
func isBolt(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // nothing was written
	const header, magic = 16, 0xED0CDAED
	for _, page := range []int64{0, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		var b [4]byte
		if _, err := f.ReadAt(b[:], page+header); err == nil && binary.NativeEndian.Uint32(b[:]) == magic {
			return true
		}
	}
	return false
}

// readBolt returns all snapshots in a bbolt file, and the first identifier that was
// not handed out there.
func readBolt(ctx context.Context, db *bolt.DB, progress func(done, total int)) (infos []fsmeta.Info, nextID uint64, err error) {
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			version := tx.Bucket([]byte("v1"))
			if version == nil && firstBucket(tx) == nil {
				nextID = 1
				return nil // nothing was ever written to it
			}
			if version == nil || version.Bucket([]byte("snapshots")) == nil {
				return fmt.Errorf("it holds no snapshots of a driver; theirs is DRIVER/metadata.db: %w", errdefs.ErrInvalidArgument)
			}
			bucket := version.Bucket([]byte("snapshots"))
			nextID = bucket.Sequence() + 1
			infos, err = readSnapshots(ctx, bucket, progress)
			return err
		})
	})
	return infos, nextID, err
}

func firstBucket(tx *bolt.Tx) []byte {
	name, _ := tx.Cursor().First()
	return name
}

func readSnapshots(ctx context.Context, bucket *bolt.Bucket, progress func(done, total int)) ([]fsmeta.Info, error) {
	var names [][]byte
	if err := bucket.ForEachBucket(func(name []byte) error { names = append(names, name); return nil }); err != nil {
		return nil, err
	}
	infos := make([]fsmeta.Info, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		info, err := readSnapshot(string(name), bucket.Bucket(name))
		if err != nil {
			return nil, fmt.Errorf("snapshot %.256q: %w", name, err)
		}
		infos = append(infos, info)
		progress(len(infos), 2*len(names))
	}
	return infos, nil
}

// readSnapshot reads one snapshot as containerd's package has written it.
func readSnapshot(name string, b *bolt.Bucket) (fsmeta.Info, error) {
	info := fsmeta.Info{Name: name, Parent: string(b.Get([]byte("parent")))}
	id, n := binary.Uvarint(b.Get([]byte("id")))
	kind := b.Get([]byte("kind"))
	if n <= 0 || len(kind) != 1 {
		return info, fmt.Errorf("it has no identifier or kind, as is left where a commit failed: remove it with the old driver: %w", errdefs.ErrInvalidArgument)
	}
	info.ID = strconv.FormatUint(id, 10)
	switch snapshots.Kind(kind[0]) {
	case snapshots.KindActive:
		info.Kind = fsmeta.KindActive
	case snapshots.KindView:
		info.Kind, info.Readonly = fsmeta.KindActive, true
	case snapshots.KindCommitted:
		info.Kind, info.Readonly = fsmeta.KindCommitted, true
	default:
		return info, fmt.Errorf("kind %d is not known: %w", kind[0], errdefs.ErrInvalidArgument)
	}
	info.Usage.Inodes, _ = binary.Varint(b.Get([]byte("inodes"))) // 0 where there is none
	info.Usage.Size, _ = binary.Varint(b.Get([]byte("size")))
	if err := boltutil.ReadTimestamps(b, &info.Created, &info.Updated); err != nil {
		return info, fmt.Errorf("times: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	labels, err := boltutil.ReadLabels(b)
	if len(labels) > 0 {
		info.Labels = labels
	}
	return info, err
}
