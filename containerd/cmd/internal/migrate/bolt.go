//go:build linux

package migrate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

// patience is how long to wait for a bbolt file that another process has locked.
const patience = 200 * time.Millisecond

// openMeta opens containerd's meta.db for writing, which locks it, with the options that
// containerd gives. It writes nothing.
func openMeta(path string) (*bolt.DB, error) {
	db, err := openRead(path)
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	return open(path, bolt.Options{NoFreelistSync: true, NoStatistics: true})
}

// openRead opens a bbolt file for reading, which no process can open for writing meanwhile, if all
// of it is as bbolt writes it.
func openRead(path string) (*bolt.DB, error) {
	db, err := open(path, bolt.Options{ReadOnly: true, NoStatistics: true})
	if err != nil {
		return nil, err
	}
	if err := guard(path, func() error { return db.View(checkPages) }); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// open opens a bbolt file that is there, and makes none.
func open(path string, o bolt.Options) (db *bolt.DB, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, fmt.Errorf("%s is not a bbolt file: %w", path, errdefs.ErrInvalidArgument)
	}
	o.Timeout = patience
	err = guard(path, func() (err error) {
		db, err = bolt.Open(path, 0, &o)
		return err
	})
	switch {
	case errors.Is(err, errbolt.ErrTimeout):
		return nil, fmt.Errorf("%s is in use: containerd has to be stopped first (fuser -v %[1]s shows the process): %w", path, errdefs.ErrUnavailable)
	case errors.Is(err, errbolt.ErrInvalid), errors.Is(err, errbolt.ErrChecksum), errors.Is(err, errbolt.ErrVersionMismatch):
		return nil, fmt.Errorf("%s is not a bbolt file, or it is damaged: %w: %w", path, err, errdefs.ErrInvalidArgument)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// guard runs fn, which reads the bbolt file path. Where that is damaged or cut short bbolt
// panics, or its memory map faults.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s is damaged: %v: restore it from a copy: %w", path, r, errdefs.ErrDataLoss)
		}
	}()
	return fn()
}

// snapshot is what metadata.db says of one, as far as content depends on it.
type snapshot struct {
	name         string
	id           uint64
	view, parent bool
}

// readSnapshots returns the snapshots in a metadata.db. What the import refuses is left out.
func readSnapshots(db *bolt.DB) (list []snapshot, err error) {
	err = guard(db.Path(), func() error {
		return db.View(func(tx *bolt.Tx) error {
			bucket := child(tx.Bucket(bucketVersion), bucketSnapshots)
			return eachBucket(bucket, func(name []byte, b *bolt.Bucket) error {
				id, n := binary.Uvarint(b.Get([]byte("id")))
				kind := b.Get([]byte("kind"))
				if n > 0 && len(kind) == 1 {
					list = append(list, snapshot{
						name:   string(name),
						id:     id,
						view:   snapshots.Kind(kind[0]) == snapshots.KindView,
						parent: len(b.Get([]byte("parent"))) > 0,
					})
				}
				return nil
			})
		})
	})
	return list, err
}

// reclassified is an error that is of a class of package errdefs, too.
type reclassified struct {
	error
	class error
}

func (e reclassified) Unwrap() []error { return []error{e.error, e.class} }
