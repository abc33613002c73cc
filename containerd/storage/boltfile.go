package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
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

// The names of buckets and keys in a metadata.db, see core/snapshots/storage/bolt.go in
// containerd. Labels and times are those of its package boltutil.
var (
	bucketVersion   = []byte("v1")
	bucketSnapshots = []byte("snapshots") // a bucket for each by its name; its sequence is the last identifier
	bucketParents   = []byte("parents")   // from the identifiers of parent and child to the child's name
	keyID           = []byte("id")
	keyParent       = []byte("parent")
	keyKind         = []byte("kind")
	keyInodes       = []byte("inodes")
	keySize         = []byte("size")
)

// parentKey is the key in the bucket of parents.
func parentKey(parent, child uint64) []byte {
	return binary.AppendUvarint(append(binary.AppendUvarint(nil, parent), 0), child)
}

// boltPatience is how long to wait for a bbolt file that another process has locked.
const boltPatience = 200 * time.Millisecond

// openBolt opens a bbolt file for reading, unless another process has it open for writing.
// None can open it for writing until it is closed. Nothing is written.
func openBolt(path string) (*boltFile, error) {
	if err := notBolt(path); err != nil {
		return nil, err
	}
	b := &boltFile{}
	open := func(name string, flag int, mode fs.FileMode) (f *os.File, err error) {
		b.file, err = os.OpenFile(name, flag, mode)
		return b.file, err
	}
	err := guard(func() (err error) {
		b.DB, err = bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: boltPatience, OpenFile: open})
		return err
	})
	if errors.Is(err, errbolt.ErrTimeout) {
		err = fmt.Errorf("it is in use: stop the process that has it open (see fuser %s): %w", path, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// boltFile is a bbolt file that is open.
type boltFile struct {
	*bolt.DB
	file *os.File
}

// isAt returns an error where another file is at path.
func (b *boltFile) isAt(path string) error {
	info, err := b.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(path)
	if err == nil && !os.SameFile(info, there) {
		err = fmt.Errorf("%s has been replaced by another file meanwhile: stop what does that: %w", path, errdefs.ErrUnavailable)
	}
	return err
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

// notBolt returns why a file is none of bbolt's, nil where it looks like one: the magic number stands behind the header
// of the first or the second page.
func notBolt(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	notBolt := fmt.Errorf("not a bbolt file: %w", errdefs.ErrInvalidArgument)
	if !info.Mode().IsRegular() {
		return notBolt // to open a pipe may wait for ever
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	const header, magic = 16, 0xED0CDAED
	for _, page := range []int64{0, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		var b [4]byte
		if _, err := f.ReadAt(b[:], page+header); err == nil && binary.NativeEndian.Uint32(b[:]) == magic {
			return nil
		}
	}
	return notBolt
}

// row is a snapshot in a bbolt file.
type row struct {
	fsmeta.Info
	id  uint64 // Info.ID as a number, 0 for none
	err error  // why it can't be taken over
}

// readBolt returns all snapshots in a bbolt file, in the order of their names, and the first
// identifier that was not handed out there, 0 where nothing was ever written to it.
func readBolt(ctx context.Context, db *boltFile) (rows []*row, nextID uint64, err error) {
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if err := checkPages(tx, db.file); err != nil {
				return err
			}
			version := tx.Bucket(bucketVersion)
			if version == nil && firstBucket(tx) == nil {
				return nil
			}
			if version == nil || version.Bucket(bucketSnapshots) == nil {
				return fmt.Errorf("it holds no snapshots of a driver; theirs is DRIVER/metadata.db: %w", errdefs.ErrInvalidArgument)
			}
			bucket := version.Bucket(bucketSnapshots)
			nextID = bucket.Sequence() + 1
			rows, err = readRows(ctx, bucket)
			return err
		})
	})
	return rows, nextID, err
}

func firstBucket(tx *bolt.Tx) []byte {
	name, _ := tx.Cursor().First()
	return name
}

func readRows(ctx context.Context, bucket *bolt.Bucket) ([]*row, error) {
	var names [][]byte
	if err := bucket.ForEachBucket(func(name []byte) error { names = append(names, name); return nil }); err != nil {
		return nil, err
	}
	rows := make([]*row, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := &row{Info: fsmeta.Info{Name: string(name)}}
		r.err = r.read(bucket.Bucket(name))
		rows = append(rows, r)
	}
	return rows, nil
}

// read reads one snapshot as containerd's package has written it.
func (r *row) read(b *bolt.Bucket) error {
	r.Parent = string(b.Get(keyParent))
	id, n := binary.Uvarint(b.Get(keyID))
	if n > 0 && id > 0 {
		r.id, r.ID = id, strconv.FormatUint(id, 10)
	}
	kind := b.Get(keyKind)
	if r.id == 0 || len(kind) != 1 {
		return fmt.Errorf("it has no identifier or kind, as is left where a commit failed: %w", errdefs.ErrInvalidArgument)
	}
	switch snapshots.Kind(kind[0]) {
	case snapshots.KindActive:
		r.Kind = fsmeta.KindActive
	case snapshots.KindView:
		r.Kind, r.Readonly = fsmeta.KindActive, true
	case snapshots.KindCommitted:
		r.Kind, r.Readonly = fsmeta.KindCommitted, true
	default:
		return fmt.Errorf("kind %d is not known: %w", kind[0], errdefs.ErrInvalidArgument)
	}
	r.Usage.Inodes, _ = binary.Varint(b.Get(keyInodes)) // 0 where there is none
	r.Usage.Size, _ = binary.Varint(b.Get(keySize))
	if err := boltutil.ReadTimestamps(b, &r.Created, &r.Updated); err != nil {
		return fmt.Errorf("times: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	r.Created, r.Updated = r.Created.UTC(), r.Updated.UTC()
	labels, err := boltutil.ReadLabels(b)
	if len(labels) > 0 {
		r.Labels = labels
	}
	return err
}
