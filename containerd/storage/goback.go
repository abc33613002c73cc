package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/atomic"
	bolt "go.etcd.io/bbolt"
)

// GoBack puts a metadata.db in the place of the store at path, with all that is in the store, as
// [Export] writes it: the reverse of [TakeOver]. The store stays, as PATH.fsmeta. No process may have it
// open. Where PATH is a symlink, what it leads to is meant. Where path is a file, GoBack does nothing, but to finish what was interrupted.
//
// Both are exchanged in one step, so at every moment, also after a crash or a power cut, path is the
// store or the whole file, and no driver finds nothing there, whichever it is. A crash may
// leave the hidden directory .NAME.goback, and in it the store when the file is in place. The next
// call removes it, and gives the store its name. So a call after an error is right, too.
//
// A PATH.bolt of the switch stays as well. It is of an earlier time: delete it, or move it away
// before the next switch.
//
// Errors are those of Export; errdefs.ErrUnavailable where a process has the store open, or has written to it
// meanwhile; errdefs.ErrFailedPrecondition where PATH.fsmeta exists; and [errors.ErrUnsupported] where the
// filesystem can't exchange: then use Export and two renames, while nothing can start a driver. Progress
// is as with Export; where the file is in place already, it is called once, with all steps done, unless a process
// uses the file.
func GoBack(ctx context.Context, path string, progress func(done, total int)) (err error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("put a bbolt file in the place of %s: %w", path, advised(err, path))
		}
	}()
	place, err := filepath.Abs(path)
	if err == nil {
		place, err = resolve(place)
	}
	if err != nil {
		return err
	}
	s, err := enterStage(ctx, stageOf(place, backWork), place)
	if err != nil {
		return err
	}
	g := &goback{s, place, place + storeEnd, progress}
	defer func() { err = errors.Join(err, g.leave()) }()
	return g.run(ctx)
}

// storeEnd is what a store has behind its name when a bbolt file is in its place.
const storeEnd = ".fsmeta"

// goback puts a bbolt file in the place of a store.
type goback struct {
	*stage
	place    string // where the store is, and the file is to be
	kept     string // where the store is afterwards
	progress func(done, total int)
}

// made is where the file is made, and where an exchange leaves the store.
func (g *goback) made() string { return madeAt(g.dir) }

func madeAt(stage string) string { return filepath.Join(stage, "metadata.db") }

// run does what is left to do. For what a crash leaves see put and keep.
func (g *goback) run(ctx context.Context) error {
	if isDirectory(g.made()) {
		if err := g.keep(); err != nil { // exchanged, and not renamed
			return err
		}
	}
	err := g.clearFile(g.made(), fmt.Sprintf("a power cut, say, has put the store back in its place, %[2]s. "+
		"To go on with the file, mv %[2]s %[3]s and mv %[1]s %[2]s; to go on with the store, delete the file", g.made(), g.place, g.kept))
	if err != nil {
		return err
	}
	switch found(g.place) {
	case aFile:
		return g.inPlace(ctx)
	case nothing:
		return &fs.PathError{Op: "open", Path: g.place, Err: fs.ErrNotExist}
	}
	if there, err := exists(g.kept); there || err != nil {
		return errors.Join(err, fmt.Errorf("%s exists, which an earlier way back has left: delete it, or move it away: %w", g.kept, errdefs.ErrFailedPrecondition))
	}
	err = g.export(ctx)
	if !isDirectory(g.made()) {
		err = errors.Join(err, g.dropFile(g.made()))
	}
	return err
}

// inPlace tells progress how many snapshots the file has that is in place already, unless a driver uses it. It is an
// error where the file is none of bbolt's.
func (g *goback) inPlace(ctx context.Context) (err error) {
	if notBolt(g.place) != nil {
		return refuseFile(g.place)
	}
	db, err := openBolt(g.place)
	if errdefs.IsUnavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, _, err := readBolt(ctx, db)
	if err == nil {
		g.progress(2*len(rows), 2*len(rows))
	}
	return err
}

// export writes the file and puts it in place. A crash or an error leaves a part of the file
// in the stage, or what put leaves.
func (g *goback) export(ctx context.Context) (err error) {
	before, err := g.journal()
	if err != nil {
		return err
	}
	if err := g.write(ctx); err != nil {
		return err
	}
	// No process can open it until it has another name.
	unlock, err := lockStore(g.place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	after, err := g.journal()
	if err != nil {
		return err
	}
	if !bytes.Equal(before, after) {
		return fmt.Errorf("the store was written to meanwhile: stop what uses it: %w", errdefs.ErrUnavailable)
	}
	return g.put()
}

// journal returns what is in the journal of the store, in which every commit is.
func (g *goback) journal() ([]byte, error) { return os.ReadFile(filepath.Join(g.place, "journal")) }

// write writes the file, from a store that is opened read-only, so that it does not change.
func (g *goback) write(ctx context.Context) (err error) {
	ms, err := NewMetaStore(g.place, func(o *bolt.Options) error { o.ReadOnly = true; return nil })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ms.Close()) }()
	c, err := contentOf(ctx, ms)
	if err != nil {
		return err
	}
	c.progress = g.progress
	return c.make(ctx, g.made(), g.place)
}

// put exchanges file and store. It is durable then. A crash before that leaves the store in place,
// a crash after it the file, and the store in the stage, which keep renames.
func (g *goback) put() (err error) {
	unlock, err := g.seal(g.made())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	// First: no exchange must be on disk before what it puts in place.
	if err := syncDirs(g.dir, filepath.Dir(g.place)); err != nil {
		return err
	}
	if err := atomic.TryExchange(g.made(), g.place); err != nil {
		return err
	}
	if err := syncDirs(filepath.Dir(g.place), g.dir); err != nil {
		return err
	}
	return g.keep()
}

// keep renames the store, which an exchange has left in the stage. A crash leaves it at the one
// name or the other; so does an error.
func (g *goback) keep() error {
	if err := atomic.RenameNew(g.made(), g.kept); err != nil {
		return err
	}
	return syncDirs(filepath.Dir(g.kept), g.dir)
}
