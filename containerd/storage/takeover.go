package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/lock"
	bolt "go.etcd.io/bbolt"
)

// WithImport is an option of [NewMetaStore], which makes that call [TakeOver] where path is a
// bbolt file, or where a take-over was interrupted. Else it does nothing, so a driver can give it
// at every start. It can't be given to containerd's own NewMetaStore, which fails with it. With
// ReadOnly, nothing is taken over. Progress may be nil, see [TakeOver].
func WithImport(progress func(done, total int), opts ...ImportOption) Opt {
	return func(*bolt.Options) error {
		return setting(func(ms *MetaStore) { ms.importing = newImporting(progress, opts) })
	}
}

// setting is what an [Opt] returns that sets nothing of bbolt's, but something of the MetaStore.
// An Opt has to be a function that bbolt's options are given to, as containerd's is, and
// has no other way to say so. See own.
type setting func(*MetaStore)

func (setting) Error() string {
	return "this option is one of github.com/fsmeta/fsmeta/containerd/storage, for NewMetaStore of that package alone, and not to be wrapped"
}

// own returns options that set what is of bbolt, and of the MetaStore what is not.
func (ms *MetaStore) own(opts []Opt) []Opt {
	own := make([]Opt, 0, len(opts))
	for _, opt := range opts {
		own = append(own, func(o *bolt.Options) error {
			err := opt(o)
			if set, ok := err.(setting); ok {
				set(ms)
				return nil
			}
			return err
		})
	}
	return own
}

// TakeOver puts a store in the place of the bbolt file at path, with the content of that file as
// [Import] takes it over. The file stays, as PATH.bolt. Where PATH is a symlink, what it leads to is
// meant, also in the names of other files here. Where path is a store, or nothing,
// it does nothing, but to finish a take-over that was interrupted.
//
// The store is built in the hidden directory .NAME.import beside the file, and every snapshot in it
// read back and compared with the file. Then it is exchanged with the file in one step, so at every
// moment, also after a crash or a power cut, path is the file as it was or the whole store. A
// filesystem that can't exchange (Linux's ext4, xfs, btrfs, tmpfs and overlayfs can) has a moment between
// two renames without either. The file is PATH.bolt by then, and NewMetaStore makes no new
// store where that is. A crash may leave .NAME.import, and in it the file when the store is in place
// already. The next call finishes what can be finished, or begins anew, and removes it. So a
// call after an error is right, too.
//
// No process gets bbolt's lock on the file while it is taken over. One that waits for the lock would have
// it when TakeOver has returned, on the file under its new name: on Linux that is looked for just before and
// after the exchange, and TakeOver fails, and leaves the file where it is. So it does where it may not look: the
// file is another user's, and the process has not the capability CAP_LEASE. Some filesystems don't tell,
// so stop the old driver first. TakeOver fails, too, where another file was renamed to path meanwhile. Where
// several processes take over the same file, one does, and the others wait, and find the store.
//
// Progress, unless it is nil, is called with how many steps are done, of how many: three for each
// snapshot, which is read, written and compared. It costs what [Import] does, a walk through the
// store, and a few syncs.
//
// Errors are those of [Import]; errdefs.ErrFailedPrecondition where PATH.bolt exists beside
// the file, left by an earlier take-over: move it away; [fsmeta.ErrNotStore] where path is another file.
func TakeOver(ctx context.Context, path string, progress func(done, total int), opts ...ImportOption) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return newImporting(progress, opts).takeOver(ctx, path)
}

// boltEnd is what a bbolt file has behind its name when a store is in its place.
const boltEnd = ".bolt"

// takeover puts a store in the place of a bbolt file.
type takeover struct {
	*importing
	*stage
	place string // where the file is, and the store is to be
	kept  string // where the file is afterwards
}

func (imp *importing) takeOver(ctx context.Context, path string) (err error) {
	place, err := resolve(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // what is missing shows when it is opened
	}
	if err != nil {
		return err
	}
	dir := stageOf(place, importWork)
	staged, err := exists(dir)
	if err != nil {
		return err
	}
	if there := found(place); there != aFile && !staged {
		return nil
	} else if there == aFile && notBolt(place) != nil {
		return refuseFile(place)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("put a store in the place of %s: %w", place, advised(err, place))
		}
	}()
	s, err := enterStage(ctx, dir, place)
	if err != nil {
		return err
	}
	t := &takeover{imp, s, place, place + boltEnd}
	defer func() { err = errors.Join(err, t.leave()) }()
	return t.run(ctx)
}

// occupant is what is at a path, symlinks followed.
type occupant int

const (
	nothing occupant = iota
	aFile
	aDirectory
)

func found(path string) occupant {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nothing // what else may be wrong shows when it is opened
	case info.IsDir():
		return aDirectory
	}
	return aFile
}

// built is where the store is built, and where an exchange leaves the file.
func (t *takeover) built() string { return builtAt(t.dir) }

func builtAt(stage string) string { return filepath.Join(stage, "store") }

// run does what is left to do, given what an earlier process has left in the stage. For what a
// crash leaves see place and keep.
func (t *takeover) run(ctx context.Context) error {
	if info, err := os.Lstat(t.built()); err == nil && !info.IsDir() {
		if err := t.keepLeft(); err != nil { // exchanged, and not renamed
			return err
		}
	}
	switch found(t.place) {
	case aFile:
		return t.build(ctx)
	case nothing:
		return t.finish(ctx)
	}
	return t.clear() // another process was faster, or was killed after its last rename
}

// clear removes a store that is being built, and never the file, nor a store that a driver has used. A
// crash leaves a part of it.
func (t *takeover) clear() error {
	if !isDirectory(t.built()) {
		return nil
	}
	imported, err := t.onlyImported(t.built())
	if err != nil {
		return fmt.Errorf("whether a driver has used the store %s, which a switch has left, can't be told: repair it, or delete it if none has: %w", t.built(), err)
	}
	if !imported && found(t.place) == aDirectory {
		return fmt.Errorf("there are two stores that a driver has used, %s and %s: look at both, and delete one: %w", t.built(), t.place, errdefs.ErrFailedPrecondition)
	}
	if !imported {
		return fmt.Errorf("the store %s was made from the file %s, and a driver has used it since: a power cut, say, has put the file back in its place. "+
			"To go on with the store, mv %[2]s %[3]s and mv %[1]s %[2]s; to go on with the file, delete the store: %[4]w", t.built(), t.place, t.kept, errdefs.ErrFailedPrecondition)
	}
	return t.drop()
}

// drop removes the store that this process has built, which no other has opened. A crash leaves a part
// of it.
func (t *takeover) drop() error {
	// First: without it what is left is a part of a store, see onlyImported, and not a damaged one.
	if err := removeFile(filepath.Join(t.built(), "layout")); err != nil {
		return err
	}
	return os.RemoveAll(t.built())
}

// onlyImported reports whether a store has no more than an import has put into it, or is a part of a store.
// It writes nothing.
func (t *takeover) onlyImported(dir string) (only bool, err error) {
	whole, err := exists(filepath.Join(dir, "layout")) // which is made last
	if err != nil || !whole {
		return !whole, err
	}
	s, err := fsmeta.Open(dir, fsmeta.MustExist(), fsmeta.ReadOnly())
	if err != nil {
		return false, err
	}
	last, err := s.LastTransaction(context.Background())
	return last <= 1, errors.Join(err, s.Close())
}

// build builds the store and puts it in the place of the file. After an error it is removed.
func (t *takeover) build(ctx context.Context) (err error) {
	if err := t.clear(); err != nil {
		return err
	}
	if there, err := exists(t.kept); there || err != nil {
		return errors.Join(err, fmt.Errorf("%s exists, which an earlier import has left: delete it, or move it away: %w", t.kept, errdefs.ErrFailedPrecondition))
	}
	src, err := t.open(ctx, t.place, 3)
	if err != nil {
		return err
	}
	// When all is in place: until then no process can begin to write to it.
	defer func() { err = errors.Join(err, src.Close()) }()
	if err := t.fill(ctx, src); err != nil {
		return errors.Join(err, t.drop())
	}
	if err := t.check(ctx, src, t.built()); err != nil {
		return errors.Join(err, t.drop())
	}
	return t.put(src)
}

// fill makes the store in the stage. A crash or an error leaves a part of it.
func (t *takeover) fill(ctx context.Context, src *source) (err error) {
	if err := os.Mkdir(t.built(), 0o700); err != nil {
		return err
	}
	if err := handOver(t.built(), t.place); err != nil { // and with it all that the store makes
		return err
	}
	s, err := fsmeta.Open(t.built())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return src.fill(ctx, s, t.built(), func(done int) { t.step(src.rows+done, 3*src.rows) })
}

// check compares the store in dir with the file, snapshot by snapshot. It writes nothing.
func (t *takeover) check(ctx context.Context, src *source, dir string) (err error) {
	s, err := fsmeta.Open(dir, fsmeta.MustExist(), fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	want := make(map[string]fsmeta.Info, len(src.infos))
	for _, info := range src.infos {
		want[info.Name] = info
	}
	for info, err := range s.All(ctx) {
		if err != nil {
			return err
		}
		if w, there := want[info.Name]; !there || !reflect.DeepEqual(info, w) {
			return fmt.Errorf("snapshot %.256q is %+v in the store, and %+v in the file: %w", info.Name, info, w, errdefs.ErrDataLoss)
		}
		delete(want, info.Name)
		t.step(2*src.rows+len(src.infos)-len(want), 3*src.rows)
	}
	for name := range maps.Keys(want) {
		return fmt.Errorf("%d snapshots are in the file and not in the store, %.256q is one: %w", len(want), name, errdefs.ErrDataLoss)
	}
	next, err := nextID(dir)
	if err == nil && next < src.nextID {
		err = fmt.Errorf("identifiers from %d on are handed out by the store, and below %d were by the file: %w", next, src.nextID, errdefs.ErrDataLoss)
	}
	t.step(3*src.rows, 3*src.rows)
	return err
}

// nextID returns the identifier below which a store has reserved all.
func nextID(dir string) (uint64, error) {
	look, err := fsmeta.Inspect(dir)
	if err != nil {
		return 0, err
	}
	summary, err := look.Summary()
	return summary.NextID, errors.Join(err, look.Close())
}

// put puts the store in the place of the file, and the file where it is kept. It is durable then,
// and all that is in it. Where the filesystem can exchange, a crash before that leaves the file, a
// crash after it the store and the file in the stage, which keep renames. Otherwise it may leave
// nothing in the place, the file where it is kept, and the store in the stage: see finish. So
// does an error.
func (t *takeover) put(src *source) (err error) {
	// Until all is durable, or undone: no driver that finds the store in place can commit to it before.
	unlock, err := lockStore(t.built())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = t.remember(t.place)
	if err == nil {
		// First: no exchange must be on disk before what it puts in place.
		err = syncDirs(t.dir, filepath.Dir(t.place))
	}
	if err == nil {
		err = src.alone(t.place)
	}
	if err != nil {
		return errors.Join(err, t.drop())
	}
	err = atomic.TryExchange(t.built(), t.place)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return t.putInSteps(src)
	case err != nil:
		return errors.Join(err, t.drop())
	}
	// Again: from now on none finds it by its old name.
	if err := src.alone(t.built()); err != nil {
		return errors.Join(err, t.undo(atomic.TryExchange(t.built(), t.place)))
	}
	// What is at the place first: that is where the store has to be found.
	if err := syncDirs(filepath.Dir(t.place), t.dir); err != nil {
		return err
	}
	return t.keep()
}

// lockStore takes the lock that every process holds, shared, that has the store open. It is that of a file in
// the store, so it goes with the store where that is renamed.
func lockStore(dir string) (unlock func() error, err error) {
	layout := filepath.Join(dir, "layout")
	unlock, free, err := lock.New(layout).TryLock()
	if err == nil && !free {
		err = fmt.Errorf("the store is in use: stop what has it open (see fuser %s): %w", layout, errdefs.ErrUnavailable)
	}
	return unlock, err
}

// writerPatience is how long a process may have a bbolt file open for writing that does not wait for it.
const writerPatience = time.Second

// alone returns an error where another file than this one is at path, or a process has it open for writing, as one
// has that waits for bbolt's lock: it would get the lock when the file has another name, and write to what
// is not looked at any more.
func (b *boltFile) alone(path string) error {
	if err := b.isAt(path); err != nil {
		return err
	}
	writes, err := openForWriting(path)
	// A process that has closed it may have a child that has it until its exec.
	for begun := time.Now(); writes && err == nil && time.Since(begun) < writerPatience; writes, err = openForWriting(path) {
		time.Sleep(writerPatience / 100)
	}
	if err == nil && writes {
		err = fmt.Errorf("a process has opened it for writing meanwhile: stop it (see fuser %s): %w", path, errdefs.ErrUnavailable)
	}
	return err
}

// undo ends the undoing of a rename, which gave err, durably: a process goes on to write to the file
// that is in its place again. A crash before that may leave the store there; so does an error, after
// which the stage has what is not in place.
func (t *takeover) undo(err error) error {
	if err == nil {
		err = syncDirs(filepath.Dir(t.place), t.dir)
	}
	if err != nil {
		return err
	}
	return t.drop()
}

// keepLeft is keep for a file that a killed process has left. That process had it locked; one that has waited for
// the lock got it then, and may have written to the file.
func (t *takeover) keepLeft() (err error) {
	left, err := openBolt(t.built())
	if err != nil {
		return fmt.Errorf("%s, from which the store was made: %w", t.built(), err)
	}
	defer func() { err = errors.Join(err, left.Close()) }()
	if err := left.alone(t.built()); err != nil {
		return err
	}
	used, err := t.changed(t.built())
	if err != nil {
		return err
	}
	if used {
		return fmt.Errorf("another process has written to the file %s since the store in place was made from it: "+
			"to import the file anew, move the store %s away and mv %[1]s %[2]s; to keep the store, move the file away: %[3]w", t.built(), t.place, errdefs.ErrDataLoss)
	}
	return t.keep()
}

// keep renames the file, which an exchange has left in the stage. A crash leaves it at the one
// name or the other; so does an error.
func (t *takeover) keep() error {
	if err := atomic.RenameNew(t.built(), t.kept); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w: the store is in place, and the file it was made from is still there: move the other one away", err)
		}
		return err
	}
	return syncDirs(filepath.Dir(t.kept), t.dir)
}

// putInSteps is put without an exchange. As long as there is no store, a new one is not
// made, since the file is where it is kept.
func (t *takeover) putInSteps(src *source) error {
	if err := atomic.RenameNew(t.place, t.kept); err != nil {
		return errors.Join(err, t.drop())
	}
	if err := src.alone(t.kept); err != nil {
		return errors.Join(err, t.undo(atomic.RenameNew(t.kept, t.place)))
	}
	// Between: if the second rename alone got to the disk, the file would be gone.
	if err := syncDirs(filepath.Dir(t.place)); err != nil {
		return err
	}
	return t.putStore()
}

// putStore renames the store to its place, where nothing is. A crash leaves it at the one name
// or the other; so does an error.
func (t *takeover) putStore() error {
	if err := atomic.RenameNew(t.built(), t.place); err != nil {
		return err
	}
	return syncDirs(filepath.Dir(t.place), t.dir)
}

// finish puts a store in its place that was ready when a process ended between two renames. It
// is compared with the file, since a person may have renamed that. A crash leaves what was there;
// so does an error.
func (t *takeover) finish(ctx context.Context) (err error) {
	if found(t.kept) != aFile || found(t.built()) != aDirectory {
		return t.clear()
	}
	imp := *t.importing
	imp.leaveOut = func(Unfit) {} // that was reported
	src, err := imp.open(ctx, t.kept, 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if err := t.check(ctx, src, t.built()); err != nil {
		return fmt.Errorf("%w: a store that was built is not that of %s: to build it anew, mv %[2]s %s", err, t.kept, t.place)
	}
	return t.putStore()
}

// refuseNew returns an error where no new store may be made at path: where nothing is there, and beside it the bbolt
// file or the store is that a switch or a way back has put aside, or was to put in place.
func refuseNew(path string) error {
	path, err := resolve(path)
	if err != nil {
		return err
	}
	for _, left := range []string{path + boltEnd, path + storeEnd, builtAt(stageOf(path, importWork)), madeAt(stageOf(path, backWork))} {
		there, err := exists(left)
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("there is nothing at %s, and what was there is %s: a new store would have none of its snapshots. "+
				"Put it back (mv %[2]s %[1]s; a file is to be imported then), or move it away to begin with nothing: %[3]w",
				path, left, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
