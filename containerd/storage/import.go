package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// An ImportOption changes what [Import], [TakeOver] and [WithImport] do.
type ImportOption func(*importing)

// importing is one import, and what was asked for.
type importing struct {
	progress func(done, total int)
	done     int         // of what was told to progress
	leaveOut func(Unfit) // nil to refuse a file that has such
}

func newImporting(progress func(done, total int), opts []ImportOption) *importing {
	if progress == nil {
		progress = func(int, int) {}
	}
	imp := &importing{progress: progress}
	for _, opt := range opts {
		opt(imp)
	}
	return imp
}

// LeaveOut makes an import take over the rest of a file that has snapshots which can't be taken
// over: a name that is not valid UTF-8, a parent that is missing, and what stands on such. Each
// is given to report, or, where that is nil, to the default logger of package slog.
//
// Their content is not lost: their identifiers are not handed out again, and they are recorded
// in the store as what a repair has set aside is, in damaged/import/foreign/ID, with the reason.
// For as long as they are there, [IDMap] and [fsmeta.Store.Orphans] keep their content. A
// snapshot without an identifier has no content.
func LeaveOut(report func(Unfit)) ImportOption {
	if report == nil {
		report = func(u Unfit) { slog.Warn("left out of an import", "snapshot", u.Name, "id", u.ID, "reason", u.Err) }
	}
	return func(imp *importing) { imp.leaveOut = report }
}

// Import fills a store that was never used with the content of boltFile, a metadata.db
// that containerd's package has written: identifiers, kinds, parents, labels, times and
// usage stay as they are, so that the driver's content directories stay valid, and no
// identifier that was handed out there is handed out again. The file is only read. To put a
// store in the place of the file, use [WithImport] or [TakeOver].
//
// Progress, unless it is nil, is called with how many steps are done, of how many. There are
// two for each snapshot: when it is read, which is fast, and when it is written, which is not.
//
// All of it is there and durable when Import returns nil. After an error or a crash there
// is nothing, unless the error is [fsmeta.ErrOutcomeUnknown]. It is safe to run again:
// where the store has all of the file's snapshots already, just as they are there, it
// does nothing and returns nil. So it is where nothing was ever written to the file: then [IDMap] goes
// on to say errdefs.ErrNotFound.
//
// Errors are errdefs.ErrUnavailable where another process has the file open for
// writing: stop it first; errdefs.ErrFailedPrecondition, also [fsmeta.ErrUsed], where
// the store has been used for something else; [*UnfitError] where the file has snapshots that
// can't be taken over, which are listed, see [LeaveOut]; errdefs.ErrDataLoss where the file is
// damaged; errdefs.ErrInvalidArgument where it is no such file; and fs.ErrNotExist.
func Import(ctx context.Context, boltFile string, store *MetaStore, progress func(done, total int), opts ...ImportOption) error {
	if err := newImporting(progress, opts).into(ctx, store, boltFile); err != nil {
		return fmt.Errorf("import %s into %s: %w", boltFile, store.dir, advised(err, store.dir))
	}
	return nil
}

// step calls progress, once for each step.
func (imp *importing) step(done, total int) {
	if done != imp.done {
		imp.done = done
		imp.progress(done, total)
	}
}

// into is Import.
func (imp *importing) into(ctx context.Context, store *MetaStore, boltFile string) (err error) {
	src, err := imp.open(ctx, boltFile, 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	s, err := store.open()
	if err != nil {
		return err
	}
	if err := src.fill(ctx, s, store.dir, func(done int) { imp.step(src.rows+done, 2*src.rows) }); err != nil {
		return err
	}
	imp.step(2*src.rows, 2*src.rows) // also where all was there, or some was left out
	return nil
}

// source is a bbolt file that no process can open for writing until it is closed, and all that
// it says.
type source struct {
	*boltFile
	rows   int           // so many snapshots
	infos  []fsmeta.Info // those to be taken over
	unfit  []Unfit       // the others
	nextID uint64        // identifiers below were handed out; 0 where nothing was ever written to it
}

// open opens and reads a bbolt file, which is the first of so many parts of the work. Those
// that are left out are reported.
func (imp *importing) open(ctx context.Context, boltFile string, parts int) (*source, error) {
	db, err := openBolt(boltFile)
	if err != nil {
		return nil, err
	}
	rows, nextID, err := readBolt(ctx, db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	for i := range rows {
		imp.step(i+1, parts*len(rows)) // not while bbolt reads: a panic of the caller's is no damage of the file
	}
	src := &source{boltFile: db, rows: len(rows), nextID: nextID}
	src.infos, src.unfit = sortOut(rows)
	for _, r := range rows {
		if r.id < maxID {
			src.nextID = max(src.nextID, r.id+1) // of those that are left out, too
		}
	}
	if len(src.unfit) > 0 && imp.leaveOut == nil {
		return nil, errors.Join(&UnfitError{src.unfit}, db.Close())
	}
	for _, u := range src.unfit {
		imp.leaveOut(u)
	}
	return src, nil
}

// fill fills a store in dir. A crash or an error leaves it without snapshots, and perhaps with
// records of those that are left out.
func (src *source) fill(ctx context.Context, s *fsmeta.Store, dir string, progress func(done int)) error {
	if src.nextID == 0 {
		return nil // the store stays one that was never written to, of which a driver takes no content for garbage
	}
	unused, err := s.Unused(ctx)
	if err != nil {
		return err
	}
	if unused {
		// First: their content must not become garbage.
		if err := recordUnfit(dir, src.unfit); err != nil {
			return err
		}
	}
	err = s.Import(ctx, src.infos, src.nextID, progress)
	switch {
	case errors.Is(err, fsmeta.ErrUsed):
		return fmt.Errorf("this import can't be run again, choose a path where there is nothing yet for a new one: %w", err)
	case errors.Is(err, fsmeta.ErrInvalidName):
		return classified{err, errdefs.ErrInvalidArgument}
	case errors.Is(err, fsmeta.ErrNotExist), errors.Is(err, fsmeta.ErrNotCommitted), errors.Is(err, fsmeta.ErrExist):
		return reclassified{err, errdefs.ErrDataLoss} // containerd's package allows none of that
	}
	return err
}
