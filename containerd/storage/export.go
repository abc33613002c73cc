package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	containerd "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
)

// Export writes boltFile, a metadata.db that containerd's package opens, with all that is in a
// store as of one moment: identifiers, kinds, parents, labels, times and usage stay as they are,
// so that the driver's content directories stay valid. It is the way back. The store may be in
// use; it is only read. What is exported is what is committed, whatever transaction ctx carries.
//
// The file hands out identifiers from there on up to which the store has reserved them. So
// none is handed out again that was handed out before that moment. A store that goes on being
// used hands out those that the file does, too, and a process that has it open has reserved up
// to 256 more than it has handed out. So for going back, stop the driver first, and put the file where
// it looks for it before it is started.
//
// The file is written and synced in the hidden directory .NAME.export beside it, read back with
// containerd's own package, compared with the store, and renamed. It is there and durable
// when Export returns nil, and not there after an error, unless that comes from the last sync. A crash
// leaves no file or the whole of it, and perhaps .NAME.export, which the next Export to that path
// removes, unless a driver has used the file in there: then it is an errdefs.ErrFailedPrecondition. An existing file is
// not replaced.
//
// Progress, unless it is nil, is called with how many steps are done, of how many: two for each
// snapshot, which is written and read back. It costs a walk through the store, about two kilobytes
// of memory for each snapshot, and a few syncs.
//
// Errors are fs.ErrExist where boltFile exists; [fsmeta.ErrDamaged] where the store is damaged: repair
// it first; errdefs.ErrFailedPrecondition where the store has records of snapshots that a
// repair has set aside, or an import left out: the old driver would delete their content, so look
// at STORE/damaged, and move it away; or where the store was restored from a backup, and the file backup in it
// was not deleted since; the context's, and those of the filesystem.
func Export(ctx context.Context, store *MetaStore, boltFile string, progress func(done, total int)) error {
	if progress == nil {
		progress = func(int, int) {}
	}
	place, err := filepath.Abs(boltFile)
	if err == nil {
		err = export(ctx, store, place, progress)
	}
	if err != nil {
		return fmt.Errorf("export %s to %s: %w", store.dir, boltFile, advised(err, boltFile))
	}
	return nil
}

func export(ctx context.Context, store *MetaStore, place string, progress func(done, total int)) (err error) {
	if there, err := exists(place); there || err != nil {
		return errors.Join(err, fmt.Errorf("it exists: %w", fs.ErrExist))
	}
	// What is committed, also where ctx carries a transaction that has more, or has ended.
	content, err := contentOf(fsmeta.WithoutTransaction(ctx), store)
	if err != nil {
		return err
	}
	content.progress = progress
	stage, err := enterStage(ctx, stageOf(place, exportWork), store.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.leave()) }()
	file := stage.path("metadata.db")
	err = stage.clearFile(file, fmt.Sprintf("a power cut, say, has taken it from its place, %[2]s. To go on with it, mv %[1]s %[2]s; otherwise delete it", file, place))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.dropFile(file)) }()
	if err := content.make(ctx, file, store.dir); err != nil {
		return err
	}
	unlock, err := stage.seal(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// First: a power cut leaves the file at one of the two names.
	if err := syncDirs(stage.dir, filepath.Dir(place)); err != nil {
		return err
	}
	if err := atomic.RenameNew(file, place); err != nil {
		return err
	}
	return atomic.SyncDir(filepath.Dir(place))
}

// make makes a bbolt file, which belongs to the owner of the store, and reads it back. It is durable
// then, but for its name. A crash or an error leaves a part of it.
func (c *content) make(ctx context.Context, file, store string) error {
	if err := c.write(ctx, file); err != nil {
		return err
	}
	if err := handOver(file, store); err != nil {
		return err
	}
	if err := c.check(ctx, file); err != nil {
		return err
	}
	return atomic.SyncFile(file) // once more, with its owner, and after all that has opened it
}

// removeFile removes a file, if it is there. A crash leaves it or not.
func removeFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// content is all that a store says.
type content struct {
	infos    []fsmeta.Info // in the order of their names
	ids      map[string]uint64
	last     uint64 // the highest identifier that may have been handed out
	unused   bool   // nothing was ever written to the store, and so it is with the file
	progress func(done, total int)
}

// attempts is how often a store is read that changes too fast.
const attempts = 10

// contentOf reads a store as of one moment.
func contentOf(ctx context.Context, store *MetaStore) (*content, error) {
	s, err := store.open()
	if err != nil {
		return nil, err
	}
	c := &content{}
	for range attempts {
		if c.infos, err = infosOf(ctx, s); !errors.Is(err, fsmeta.ErrOutdated) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	// After the snapshots: an import that has just filled the store has recorded first what it has left out.
	if aside, err := setAside(store.dir); err != nil {
		return nil, err
	} else if len(aside) > 0 {
		return nil, fmt.Errorf("%s has records of %d snapshots that a repair has set aside, or an import left out; the file would not have them, and a driver that uses it would delete their content: look at them, and move that directory away first: %w",
			filepath.Join(store.dir, "damaged"), len(aside), errdefs.ErrFailedPrecondition)
	}
	// After the snapshots: these are of identifiers that are reserved by now.
	next, err := nextID(store.dir)
	if err != nil {
		return nil, err
	}
	below, err := s.RestoredBelow()
	if err != nil {
		return nil, err
	}
	if below > 0 {
		return nil, fmt.Errorf("the store was restored from a backup, and there may be content of snapshots that were made after it; the file would not tell, and a driver that uses it would delete that content: "+
			"look at it, and delete %s first: %w", filepath.Join(store.dir, "backup"), errdefs.ErrFailedPrecondition)
	}
	if next == 0 {
		return nil, fmt.Errorf("the journal does not tell which identifiers were handed out: %w", errdefs.ErrDataLoss)
	}
	c.last = next - 1
	unused, err := s.Unused(ctx)
	if err != nil {
		return nil, err
	}
	c.unused = unused && c.last == 0
	c.ids = make(map[string]uint64, len(c.infos))
	for _, info := range c.infos {
		if c.ids[info.Name], err = strconv.ParseUint(info.ID, 10, 64); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func infosOf(ctx context.Context, s *fsmeta.Store) ([]fsmeta.Info, error) {
	var infos []fsmeta.Info
	for info, err := range s.All(ctx) {
		if err != nil {
			return nil, err
		}
		// containerd's package has no such labels.
		maps.DeleteFunc(info.Labels, func(_, value string) bool { return value == "" })
		if len(info.Labels) == 0 {
			info.Labels = nil
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b fsmeta.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// batch is how many snapshots are written in one of bbolt's transactions, which needs memory
// for each.
const batch = 1000

// write writes a bbolt file. It is durable then. A crash or an error leaves a part of it.
func (c *content) write(ctx context.Context, file string) (err error) {
	// Not synced before the end: until then it is nothing that any process uses.
	db, err := bolt.Open(file, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true, Timeout: boltPatience})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = guard(func() error {
		if c.unused {
			return nil
		}
		if err := db.Update(func(tx *bolt.Tx) error { _, _, err := c.buckets(tx); return err }); err != nil {
			return err
		}
		done := 0
		for part := range slices.Chunk(c.infos, batch) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := db.Update(func(tx *bolt.Tx) error { return c.put(tx, part, done) }); err != nil {
				return err
			}
			done += len(part)
		}
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return db.Sync()
}

// buckets returns the buckets of snapshots and of parents, which it makes if they are missing.
func (c *content) buckets(tx *bolt.Tx) (all, parents *bolt.Bucket, err error) {
	version, err := tx.CreateBucketIfNotExists(bucketVersion)
	if err != nil {
		return nil, nil, err
	}
	if all, err = version.CreateBucketIfNotExists(bucketSnapshots); err != nil {
		return nil, nil, err
	}
	if parents, err = version.CreateBucketIfNotExists(bucketParents); err != nil {
		return nil, nil, err
	}
	return all, parents, all.SetSequence(c.last)
}

// put writes snapshots, of which so many are written already.
func (c *content) put(tx *bolt.Tx, infos []fsmeta.Info, done int) error {
	all, parents, err := c.buckets(tx)
	if err != nil {
		return err
	}
	for i, info := range infos {
		if err := c.putSnapshot(all, parents, info); err != nil {
			return fmt.Errorf("snapshot %.256q: %w", info.Name, err)
		}
		c.progress(done+i+1, 2*len(c.infos))
	}
	return nil
}

// putSnapshot writes what putSnapshot and putUsage in containerd's package do.
func (c *content) putSnapshot(all, parents *bolt.Bucket, info fsmeta.Info) error {
	b, err := all.CreateBucket([]byte(info.Name))
	if err != nil {
		return err
	}
	id := c.ids[info.Name]
	kind := kindOf(info.Kind, info.Readonly)
	values := map[string][]byte{string(keyID): binary.AppendUvarint(nil, id), string(keyKind): {byte(kind)}}
	if info.Parent != "" {
		values[string(keyParent)] = []byte(info.Parent)
		if err := parents.Put(parentKey(c.ids[info.Parent], id), []byte(info.Name)); err != nil {
			return err
		}
	}
	if kind == snapshots.KindCommitted || info.Usage != (fsmeta.Usage{}) {
		values[string(keyInodes)] = binary.AppendVarint(nil, info.Usage.Inodes)
		values[string(keySize)] = binary.AppendVarint(nil, info.Usage.Size)
	}
	for key, value := range values {
		if err := b.Put([]byte(key), value); err != nil {
			return err
		}
	}
	if err := boltutil.WriteTimestamps(b, info.Created, info.Updated); err != nil {
		return err
	}
	return boltutil.WriteLabels(b, info.Labels)
}

// check reads a bbolt file back: all of it as an import does, and as a driver does it with
// containerd's package. It writes nothing.
func (c *content) check(ctx context.Context, file string) error {
	if err := c.checkRows(ctx, file); err != nil {
		return fmt.Errorf("read %s back: %w", file, err)
	}
	ms, err := containerd.NewMetaStore(file)
	if err != nil {
		return err
	}
	err = guard(func() error {
		return ms.WithTransaction(ctx, false, c.checkTheirs)
	})
	if err = errors.Join(err, ms.Close()); err != nil {
		return fmt.Errorf("read %s back with containerd's package: %w", file, err)
	}
	return nil
}

// checkRows compares the rows of a file and its sequence with what was to be written.
func (c *content) checkRows(ctx context.Context, file string) (err error) {
	db, err := openBolt(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, next, err := readBolt(ctx, db)
	if err != nil {
		return err
	}
	if c.unused && next == 0 {
		return nil
	}
	if next != c.last+1 || len(rows) != len(c.infos) {
		return fmt.Errorf("it has %d snapshots and the sequence %d, want %d and %d: %w", len(rows), next-1, len(c.infos), c.last, errdefs.ErrDataLoss)
	}
	for i, r := range rows {
		if r.err != nil || !reflect.DeepEqual(r.Info, c.infos[i]) {
			return fmt.Errorf("it has %+v (%v), want %+v: %w", r.Info, r.err, c.infos[i], errdefs.ErrDataLoss)
		}
	}
	return nil
}

// checkTheirs asks containerd's package for each snapshot in a transaction of that.
func (c *content) checkTheirs(ctx context.Context) error {
	names, err := containerd.IDMap(ctx)
	if c.unused && errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	parents := make(map[string]string, len(c.infos))
	for _, info := range c.infos {
		parents[info.Name] = info.Parent
	}
	for i, info := range c.infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, got, _, err := containerd.GetInfo(ctx, info.Name)
		if err != nil {
			return err
		}
		if id != info.ID || names[id] != info.Name || got.Parent != info.Parent {
			return fmt.Errorf("snapshot %.256q has identifier %s of %.256q, and parent %.256q: %w", info.Name, id, names[id], got.Parent, errdefs.ErrDataLoss)
		}
		if err := c.checkChain(ctx, info, parents); err != nil {
			return fmt.Errorf("snapshot %.256q: %w", info.Name, err)
		}
		c.progress(len(c.infos)+i+1, 2*len(c.infos))
	}
	return nil
}

// checkChain asks for what a driver mounts.
func (c *content) checkChain(ctx context.Context, info fsmeta.Info, parents map[string]string) error {
	if info.Kind == fsmeta.KindCommitted {
		return nil
	}
	s, err := containerd.GetSnapshot(ctx, info.Name)
	if err != nil {
		return err
	}
	var want []string
	for name := info.Parent; name != ""; name = parents[name] {
		want = append(want, strconv.FormatUint(c.ids[name], 10))
	}
	if !slices.Equal(s.ParentIDs, want) {
		return fmt.Errorf("it stands on %v, want %v: %w", s.ParentIDs, want, errdefs.ErrDataLoss)
	}
	return nil
}
