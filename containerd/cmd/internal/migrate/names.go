//go:build linux

package migrate

import (
	"bytes"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// The names of buckets and keys in meta.db, see core/metadata/buckets.go in containerd.
var (
	bucketVersion   = []byte("v1")
	bucketLabels    = []byte("labels")
	bucketSnapshots = []byte("snapshots")
	keySnapshotter  = []byte("snapshotter")
	keyDefault      = []byte("containerd.io/defaults/snapshotter")
)

// labelled are the paths, in a namespace, to buckets of buckets that are objects with labels.
// Snapshots are one level deeper.
var labelled = [][]string{{"images"}, {"containers"}, {"content", "blob"}, {"content", "ingests"}, {"sandboxes"}, {"leases"}}

// Prefixes of labels by which an object holds a snapshot, or is held by one; the name of the
// snapshotter follows, up to a slash. See core/metadata/gc.go in containerd.
var (
	referencePrefixes = []string{"containerd.io/gc.ref.snapshot.", "containerd.io/gc.bref.snapshot."}
	conditionPrefix   = "containerd.io/gc.cond.snapshot" // and any number of . and /
)

// names changes the name of a snapshotter in a meta.db.
type names struct{ from, to string }

// change makes everything that is said of from be said of to, in every namespace. Of to there
// must be no snapshots yet. What it doesn't know it leaves alone.
func (n names) change(tx *bolt.Tx) error {
	return eachBucket(tx.Bucket(bucketVersion), func(name []byte, namespace *bolt.Bucket) error {
		if err := n.namespace(namespace); err != nil {
			return fmt.Errorf("namespace %q: %w", name, err)
		}
		return nil
	})
}

func (n names) namespace(namespace *bolt.Bucket) error {
	if err := n.value(namespace.Bucket(bucketLabels), keyDefault); err != nil {
		return fmt.Errorf("default snapshotter: %w", err)
	}
	for _, path := range labelled {
		objects := namespace
		for _, name := range path {
			objects = child(objects, []byte(name))
		}
		if err := eachBucket(objects, n.labels); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(path, "/"), err)
		}
	}
	err := eachBucket(namespace.Bucket(bucketSnapshots), func(_ []byte, snapshotter *bolt.Bucket) error {
		return eachBucket(snapshotter, n.labels)
	})
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	err = eachBucket(namespace.Bucket([]byte("containers")), func(_ []byte, container *bolt.Bucket) error {
		return n.value(container, keySnapshotter)
	})
	if err != nil {
		return fmt.Errorf("containers: %w", err)
	}
	err = eachBucket(namespace.Bucket([]byte("leases")), func(_ []byte, lease *bolt.Bucket) error {
		return n.bucket(lease.Bucket(bucketSnapshots))
	})
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	if err := n.bucket(namespace.Bucket(bucketSnapshots)); err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	return nil
}

// value changes the value of a key, if it is the name.
func (n names) value(b *bolt.Bucket, key []byte) error {
	if b == nil || string(b.Get(key)) != n.from {
		return nil
	}
	return b.Put(key, []byte(n.to))
}

// labels changes the labels of an object.
func (n names) labels(_ []byte, object *bolt.Bucket) error {
	labels := object.Bucket(bucketLabels)
	if labels == nil {
		return nil
	}
	changed := map[string][]byte{} // by their old keys, as a bucket must not change while it is read
	err := labels.ForEach(func(k, v []byte) error {
		if _, ok := n.label(string(k)); ok && v != nil {
			changed[string(k)] = bytes.Clone(v)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, value := range changed {
		if err := labels.Delete([]byte(key)); err != nil {
			return err
		}
		// One that is there refers to a snapshot that is not.
		to, _ := n.label(key)
		if err := labels.Put([]byte(to), value); err != nil {
			return err
		}
	}
	return nil
}

// label returns what the key of a label is to be, if it has the name.
func (n names) label(key string) (string, bool) {
	for _, prefix := range referencePrefixes {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			return n.named(prefix, rest)
		}
	}
	if rest, ok := strings.CutPrefix(key, conditionPrefix); ok {
		name := strings.TrimLeft(rest, "./")
		return n.named(strings.TrimSuffix(key, name), name)
	}
	return "", false
}

// named returns before and rest with the new name, if rest is the old one or has a slash
// behind it.
func (n names) named(before, rest string) (string, bool) {
	name, _, _ := strings.Cut(rest, "/")
	return before + n.to + rest[len(name):], name == n.from
}

// bucket gives the bucket of the name in parent the new name: one that is there already, with
// no snapshots, takes what it has.
func (n names) bucket(parent *bolt.Bucket) error {
	from := child(parent, []byte(n.from))
	if from == nil {
		return nil
	}
	to, err := parent.CreateBucketIfNotExists([]byte(n.to))
	if err != nil {
		return err
	}
	if err := copyBucket(to, from); err != nil {
		return err
	}
	return parent.DeleteBucket([]byte(n.from))
}

// copyBucket copies all that is in from, and its sequence, by which containerd tells the keys
// of snapshots apart, if that is higher.
func copyBucket(to, from *bolt.Bucket) error {
	if from.Sequence() > to.Sequence() {
		if err := to.SetSequence(from.Sequence()); err != nil {
			return err
		}
	}
	return from.ForEach(func(k, v []byte) error {
		nested := from.Bucket(k)
		if nested == nil {
			return to.Put(k, v)
		}
		into, err := to.CreateBucketIfNotExists(k)
		if err != nil {
			return err
		}
		return copyBucket(into, nested)
	})
}

// countSnapshots returns how many snapshots a snapshotter has, in all namespaces.
func countSnapshots(tx *bolt.Tx, snapshotter string) (n int, err error) {
	err = eachBucket(tx.Bucket(bucketVersion), func(_ []byte, namespace *bolt.Bucket) error {
		return eachBucket(child(namespace.Bucket(bucketSnapshots), []byte(snapshotter)), func([]byte, *bolt.Bucket) error {
			n++
			return nil
		})
	})
	return n, err
}

// child is b.Bucket, for a bucket that may be nil.
func child(b *bolt.Bucket, name []byte) *bolt.Bucket {
	if b == nil {
		return nil
	}
	return b.Bucket(name)
}

// eachBucket calls fn for every bucket in b, which may be nil. fn may change them and b.
func eachBucket(b *bolt.Bucket, fn func(name []byte, b *bolt.Bucket) error) error {
	if b == nil {
		return nil
	}
	var names [][]byte
	if err := b.ForEachBucket(func(name []byte) error { names = append(names, bytes.Clone(name)); return nil }); err != nil {
		return err
	}
	for _, name := range names {
		if nested := b.Bucket(name); nested != nil {
			if err := fn(name, nested); err != nil {
				return err
			}
		}
	}
	return nil
}
