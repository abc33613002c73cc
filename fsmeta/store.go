package fsmeta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/lock"
)

const (
	layoutFormat  = "fsmeta"
	layoutContent = `{"format":"` + layoutFormat + `","version":1}` + "\n" // see formatVersion
)

// Store is an open store. All methods may be called concurrently.
//
// A snapshot has a name, of which there is one snapshot at a time, and an
// identifier that is never given to another. It is active, then committed; the
// name of an active one is called its key. It stands on its parent, a committed
// snapshot, or on nothing.
type Store struct {
	dir      string
	readOnly bool
	relaxed  bool        // Commit does not wait for the disk
	identity os.FileInfo // of the directory snapshots/
	tree     *tree

	opened    func() error // gives back the shared lock on layout
	layout    *lock.Lock   // held shared by every open Store
	staging   *lock.Lock   // held by the writing process
	turnstile *lock.Lock   // held by the process that waits for staging

	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	closed  atomic.Bool
	holding atomic.Bool  // staging is held, and everything in the journal is known
	yield   atomic.Bool  // another process waits: let it in before the next turn
	looked  atomic.Int64 // when we last looked whether one does, in Unix nanoseconds
	failure atomic.Pointer[error]
	index   atomic.Pointer[index]
	watch   atomic.Pointer[watch]
	group   sync.WaitGroup // background checkpoints

	// Lock order: turn, flush, mu, the index's, its points'.

	// turn is whose turn to write it is in this process. What is below it
	// belongs to whom the turn belongs to.
	turn    turn
	unlock  func() error    // of staging, nil while it is not held
	idle    *time.Timer     // gives staging back when nobody here has used it for a while
	visited bool            // this Store has held staging before
	leftAt  uint64          // the tip when it gave it back
	leftIn  *journal        // and the file
	nextID  uint64          // the next identifier to hand out
	given   map[string]bool // identifiers that NewID has returned and no snapshot has got

	// flush is held by whom syncs, renames and publishes, for all who wait.
	flush  sync.Mutex
	behind map[string]bool // names whose rename failed and is to be tried again

	mu            sync.Mutex
	journal       *journal
	queue         []*written // lines written and not published, oldest first
	settled       uint64     // every line up to here is durable and published, since we have the lock
	applied       uint64     // the tree holds every line up to here
	reserved      uint64     // identifiers below are reserved by the last line
	safeID        uint64     // identifiers below are reserved by a synced line
	dirtyTail     bool       // the journal takes no more lines before a checkpoint
	distrust      bool       // the journal ends with the mark of a checkpoint given up
	checkpointing bool
	checkpointAt  int64       // journal offset from which on a checkpoint is due
	later         *time.Timer // relaxed: until settleLater settles, nil where there is nothing to
}

// watch is where other processes' next step would show: the newline of the first
// line that is not published, if there is one, and the next line, or the word that
// the file is superseded.
type watch struct {
	file          *os.File
	publish, next int64
}

// Open opens the store in dir. Where dir is empty or does not exist it makes one, with
// the directories above, unless [MustExist] or [ReadOnly] is given. Close must be called
// in the end.
//
// Any number of processes may have a store open, and each as often as it likes.
// What another process did and did not finish, because it died or the power was
// cut, is finished by the next writable transaction.
//
// Errors are [ErrNotStore] where dir is a file, holds something else or a layout
// this version does not know, [ErrDamaged] where a part of the store is missing,
// and what the filesystem says, such as fs.ErrPermission. A crash or an error while
// a store is being made leaves one that is not there yet, and that the next Open
// makes.
func Open(dir string, opts ...Option) (*Store, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	s, err := open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("fsmeta: open %s: %w", dir, err)
	}
	return s, nil
}

func open(dir string, o options) (_ *Store, err error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: the path is empty: %w", ErrNotStore, fs.ErrNotExist)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := readLayout(dir); errors.Is(err, fs.ErrNotExist) && !o.readOnly && !o.mustExist {
		err = makeStore(dir)
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	s := newStore(dir, o.readOnly)
	s.relaxed = o.relaxed
	if s.opened, err = shareLayout(s.layout); err != nil {
		return nil, err
	}
	if err := s.openFiles(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	return s, nil
}

// newStore returns a Store that nothing is opened of yet.
func newStore(dir string, readOnly bool) *Store {
	s := &Store{
		dir: dir, readOnly: readOnly, tree: newTree(dir),
		layout:    lock.New(filepath.Join(dir, layoutFile)),
		staging:   lock.New(filepath.Join(dir, stagingDir)),
		turnstile: lock.New(filepath.Join(dir, snapshotsDir)),
		given:     map[string]bool{},
		behind:    map[string]bool{},
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.idle = time.AfterFunc(time.Hour, s.letGoIdle)
	s.idle.Stop()
	return s
}

// readLayout looks whether dir holds a store of a layout that is known here.
func readLayout(dir string) error {
	path := filepath.Join(dir, layoutFile)
	data, err := readFile(path)
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: not a directory: %w", ErrNotStore, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no layout file: %w", ErrNotStore, err)
	}
	if err != nil || string(data) == layoutContent {
		return err
	}
	version, ok := parseLayout(data)
	if !ok {
		return fmt.Errorf("%w: %s says %.100q; if it was a store, see 'A layout that is missing' in layout.md", ErrNotStore, path, bytes.TrimSpace(data))
	}
	if version != formatVersion {
		return fmt.Errorf("%w: %s says version %d, and this program knows version %d: use the program that wrote it, or a newer one",
			ErrNotStore, path, version, formatVersion)
	}
	return nil
}

// parseLayout returns the version of the layout that the file speaks of, if it is one of
// fsmeta.
func parseLayout(data []byte) (version int, ok bool) {
	var layout struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	err := json.Unmarshal(data, &layout)
	return layout.Version, err == nil && layout.Format == layoutFormat && layout.Version != 0
}

// makeStore makes an empty store: directories and journal first, layout last, each
// synced. Until layout is there, there is no store, and the next call starts again.
func makeStore(dir string) error {
	if err := atomicfs.MkdirAll(dir, dirMode); err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("%w: %w", ErrNotStore, err)
		}
		return err
	}
	if err := checkVacant(dir); err != nil {
		if readLayout(dir) == nil {
			return nil // somebody has just made it
		}
		return err
	}
	staging, snapshots := filepath.Join(dir, stagingDir), filepath.Join(dir, snapshotsDir)
	if err := mkdir(staging); err != nil {
		return err
	}
	unlock, err := lock.New(staging).Lock(context.Background())
	if err != nil {
		return err
	}
	err = func() error {
		if err := readLayout(dir); !errors.Is(err, fs.ErrNotExist) {
			return err // somebody else was faster
		}
		if err := checkVacant(dir); err != nil {
			return err
		}
		if err := mkdir(snapshots); err != nil {
			return err
		}
		head := append(encodeHeader(header{nextID: 1}), '\n')
		head = append(head, make([]byte, foldAt+fillChunk)...)
		if err := atomicfs.WriteFile(filepath.Join(dir, journalFile), staging, head); err != nil {
			return err
		}
		// The last: dir may have been made by one that died then.
		for _, d := range []string{snapshots, staging, dir, filepath.Dir(dir)} {
			if err := atomicfs.SyncDir(d); err != nil {
				return err
			}
		}
		if err := atomicfs.WriteFile(filepath.Join(dir, layoutFile), staging, []byte(layoutContent)); err != nil {
			return err
		}
		return atomicfs.SyncDir(dir)
	}()
	return errors.Join(err, unlock())
}

// checkVacant refuses a directory that holds anything else than what an unfinished
// makeStore leaves: a store whose layout was lost must not become an empty one.
func checkVacant(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case stagingDir, layoutFile, "lost+found":
		case journalFile:
			if err := checkUnused(filepath.Join(dir, journalFile)); err != nil {
				return err
			}
		case snapshotsDir:
			inside, err := os.ReadDir(filepath.Join(dir, snapshotsDir))
			if err != nil {
				return err
			}
			if len(inside) > 0 {
				return &DamagedError{Path: filepath.Join(dir, layoutFile), Err: errors.New("the file is missing, and there are snapshots")}
			}
		default:
			return fmt.Errorf("%w: there is no layout file, and there is %q: choose an empty directory", ErrNotStore, e.Name())
		}
	}
	return nil
}

// checkUnused refuses a journal in which somebody has written already.
func checkUnused(path string) error {
	j, err := openJournal(path, false)
	if err != nil {
		return err
	}
	buf, err := j.readFrom(j.start, false)
	if err = errors.Join(err, j.file.Close()); err != nil {
		return err
	}
	if j.bad != nil || j.header.nextID != 1 || len(bytes.TrimLeft(buf, "\x00")) > 0 {
		return &DamagedError{Path: filepath.Join(filepath.Dir(path), layoutFile), Err: errors.New("the file is missing, and the journal has been used")}
	}
	return nil
}

// mkdir makes a directory that may be there, but not as anything else, such as a symlink
// that leads elsewhere.
func mkdir(path string) error {
	err := os.Mkdir(path, dirMode)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		err = &DamagedError{Path: path, Err: errors.New("it is not a directory")}
	}
	return err
}

// shareLayout takes the lock that every open Store holds shared. Who closes a store
// takes it exclusively for an instant.
func shareLayout(layout *lock.Lock) (func() error, error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Microsecond) {
		unlock, ok, err := layout.TryRLock()
		if ok || err != nil {
			return unlock, err
		}
		if time.Now().After(deadline) {
			return nil, errors.New("another program keeps the file layout locked: see /proc/locks")
		}
	}
}

// openFiles opens the journal and takes in what it says. It writes nothing, unless
// somebody has left lines for others to finish.
func (s *Store) openFiles() error {
	var err error
	s.identity, err = os.Lstat(s.tree.snapshots)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !s.identity.IsDir() {
		return &DamagedError{Path: s.tree.snapshots, Err: errors.New("the directory is missing")}
	}
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, journalFile)
	j, err := openJournal(path, !s.readOnly)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.journal = j
	s.resetIndexLocked()
	tail, err := s.catchUpLocked(true, false)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if len(tail.lines) > tail.published {
		err = s.openUnfinished()
	}
	if err == nil && tail.bad && !s.damaged() {
		err = s.openTorn()
	}
	return err
}

// openTorn is called where the journal ends in bad bytes. If nobody is writing them, and
// the tree has later versions of names in the lines before, they were a line that was
// committed, and the journal is damaged. (Of other names, the tree is believed anyway.)
func (s *Store) openTorn() error {
	unlock, free, err := s.staging.TryRLock()
	if errors.Is(err, fs.ErrNotExist) {
		unlock, free, err = func() error { return nil }, true, nil // so nobody can hold it
	}
	if err != nil || !free {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	tail, err := s.catchUpLocked(true, true)
	if err == nil && tail.bad && s.journal.bad == nil {
		var names []string
		if names, err = s.namesLocked(s.journal.header.txn, s.journal.tip()); err == nil && s.tornLocked(slices.Values(names)) {
			err = s.strayLocked()
		}
	}
	return errors.Join(err, unlock())
}

// openUnfinished is called where there are whole lines that are not published.
// Either their writer is at work on them; then they are none of our business, but
// it may also be finishing what was acknowledged before a power cut, so we give it
// a while. Or it is gone; then they are committed, and we finish them or, read-only,
// take them as they are.
func (s *Store) openUnfinished() error {
	seen := s.index.Load().tip
	try := s.staging.TryLock
	if s.readOnly {
		try = s.staging.TryRLock
	} else if err := mkdir(s.tree.staging); err != nil {
		return err
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		unlock, ok, err := try()
		if s.readOnly && errors.Is(err, fs.ErrNotExist) {
			unlock, ok, err = func() error { return nil }, true, nil // so nobody can hold it
		}
		if err != nil {
			return err
		}
		if ok {
			return s.takeUnfinished(seen, unlock)
		}
		if err := s.look(); err != nil {
			return err
		}
		if s.index.Load().points.newest() >= seen || time.Now().After(deadline) {
			return nil
		}
	}
}

// takeUnfinished takes the lines up to txn, whose writer is gone, for committed, and,
// where the store is open for writing, finishes them. It gives the lock back.
func (s *Store) takeUnfinished(txn uint64, unlock func() error) error {
	if !s.readOnly {
		if err := s.takeOver(unlock); err == nil {
			return s.letGo()
		}
		// Say because the disk is full: the next writable transaction says so,
		// and reads can go on.
		unlock = func() error { return nil }
	}
	ix := s.index.Load()
	ix.points.publish(min(txn, s.tip()))
	return unlock()
}

// Close ends the use of the store. Open transactions are rolled back; commits that
// are under way are finished first. Where no one else has the store open, the
// journal is folded into the tree. If Close returns an error, that or giving back
// a lock has failed, say because the disk is full; or, with [ErrFailed], a sync did
// earlier. Nothing that was committed is lost: the journal has it, and the next one to
// write brings it into the tree. Every call after the first returns nil.
func (s *Store) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	s.cancel(ErrClosed)
	if t := s.turn.holder(); t != nil {
		t.abort()
	}
	s.mu.Lock() // behind it, nobody starts a checkpoint any more
	//lint:ignore SA2001 the point is to have been inside
	s.mu.Unlock()
	s.group.Wait()
	var err error
	if !s.readOnly {
		err = s.closeWriter()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = errors.Join(err, s.failed(), s.closeFiles())
	if err != nil {
		return fmt.Errorf("fsmeta: close %s: %w", s.dir, err)
	}
	return nil
}

// closeFiles closes what openFiles has opened, as far as it got, and gives back the lock
// on layout.
func (s *Store) closeFiles() error {
	var err error
	if s.journal != nil {
		err = s.journal.file.Close()
	}
	if s.tree.root != nil {
		err = errors.Join(err, s.tree.root.Close())
	}
	return errors.Join(err, s.opened())
}

// closeWriter finishes what was written, and folds the journal if nobody else has
// the store open. It takes the turn for good.
func (s *Store) closeWriter() error {
	err := s.turn.take(context.Background(), context.Background())
	s.idle.Stop()
	s.stopLater()
	if s.unlock != nil {
		err = s.settle(s.tip())
	}
	if err == nil && s.failed() == nil && !s.damaged() {
		err = s.closeLast()
	}
	if s.unlock != nil {
		_ = s.tree.dropSpares() // what is left is deleted with the rest of staging later
		err = errors.Join(err, s.letGo())
	}
	return err
}

// closeLast folds the journal if nobody else has the store open: they would have to
// drop what they know.
func (s *Store) closeLast() error {
	if err := s.opened(); err != nil {
		return err
	}
	unlock, alone, err := s.layout.TryLock()
	if err != nil || !alone {
		return err
	}
	if err := unlock(); err != nil {
		return err
	}
	if s.unlock == nil {
		if err := mkdir(s.tree.staging); err != nil {
			return err
		}
		unlock, free, err := s.staging.TryLock()
		if err != nil || !free {
			return err
		}
		if err := s.takeOver(unlock); err != nil {
			return err
		}
	}
	return s.fold()
}

// sameStore reports whether two Stores are of one directory.
func (s *Store) sameStore(o *Store) bool {
	return s == o || os.SameFile(s.identity, o.identity)
}

// failed returns why nothing can be written any more, if so.
func (s *Store) failed() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail ends writing until the store is opened anew.
func (s *Store) fail(err error) error {
	err = fmt.Errorf("%w until the store is closed and opened anew: a sync failed: %w", ErrFailed, err)
	s.failure.CompareAndSwap(nil, &err)
	return s.failed()
}

// damaged reports whether the journal is, so that nothing can be written.
func (s *Store) damaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.bad != nil
}

// tip returns the last transaction whose line is known.
func (s *Store) tip() uint64 {
	ix := s.index.Load()
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.tip
}

// resetIndexLocked starts anew from the journal's header.
func (s *Store) resetIndexLocked() {
	if old := s.index.Load(); old != nil {
		old.stale.Store(true)
	}
	s.index.Store(newIndex(s.journal.path, s.journal.header.txn, s.tree.remember))
}

// look takes in what other processes have written since. Where nothing is new it
// costs one small read, two where a line is not published yet, and none while this
// process writes.
func (s *Store) look() error {
	if s.holding.Load() {
		return nil
	}
	w := s.watch.Load()
	if w.quiet(w.publish) && (w.next == w.publish || w.quiet(w.next)) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return ErrClosed
	}
	_, err := s.catchUpLocked(false, false)
	return err
}

// quiet reports whether nothing is written at off.
func (w *watch) quiet(off int64) bool {
	var b [1]byte
	n, err := w.file.ReadAt(b[:], off)
	return err == io.EOF || err == nil && n == 1 && b[0] == 0
}

// setWatchLocked points the watch behind what is known.
func (s *Store) setWatchLocked() {
	j := s.journal
	w := &watch{file: j.file, next: j.next(j.tip())}
	w.publish = w.next
	if j.public < j.tip() {
		w.publish = j.next(j.public+1) - 1
	}
	s.watch.Store(w)
}

// catchUpLocked takes in the lines behind the last published one, whole those that
// are not published too, and goes on in a new file where one has taken over. With
// whole it reads to the end of the file. Who is alone, having the lock on staging, goes
// on in whatever file is in place. It returns what it found last.
func (s *Store) catchUpLocked(whole, alone bool) (scanned, error) {
	defer s.setWatchLocked()
	for {
		j := s.journal
		if j.bad != nil {
			return scanned{}, s.strayLocked()
		}
		tail, err := s.scanLocked(whole)
		if err != nil {
			return tail, err
		}
		if tail.damaged {
			j.bad = j.damage(tail.why(j.public + uint64(len(tail.lines)) + 1))
		}
		if !s.takeInLocked(tail) {
			// Not what was there before: somebody put another file here.
			s.resetIndexLocked()
			j.refs, j.foreign, j.public = nil, false, j.header.txn
			continue
		}
		if tail.damaged {
			return tail, s.strayLocked()
		}
		if !tail.superseded && !alone {
			return tail, nil
		}
		if switched, err := s.switchLocked(alone); err != nil || !switched {
			return tail, err
		}
	}
}

// scanLocked reads the lines behind the last published one. Where a line is damaged
// it may just have been written while it was read, if others hold the lock; if so, it
// is whole when it is read again.
func (s *Store) scanLocked(whole bool) (scanned, error) {
	j := s.journal
	for before := -1; ; {
		buf, err := j.readFrom(j.next(j.public), whole)
		if err != nil {
			return scanned{}, err
		}
		tail := scan(buf, j.next(j.public), j.public, j.crcOf(j.public))
		if !tail.damaged || len(tail.lines) == before {
			return tail, nil
		}
		before, whole = len(tail.lines), true
	}
}

// takeInLocked takes in good lines, some of which may be known. It reports whether
// those are the same.
func (s *Store) takeInLocked(tail scanned) bool {
	j, ix := s.journal, s.index.Load()
	var fresh []line
	for _, l := range tail.lines {
		switch {
		case l.txn <= j.tip():
			if j.crcOf(l.txn) != l.crc {
				return false
			}
			continue
		case l.txn > ix.tip:
			fresh = append(fresh, l)
		}
		j.refs = append(j.refs, ref{off: l.off, n: len(l.raw), crc: l.crc})
		j.foreign = true
	}
	if len(fresh) > 0 {
		ix.addLines(fresh)
	}
	if tail.published > 0 {
		j.public = tail.lines[tail.published-1].txn
		ix.points.publish(j.public)
	}
	return true
}

// strayLocked takes in, once, the lines of a damaged journal that can be verified
// one by one. Reads make do with them and the tree; whichever of the two has the later
// version of a name is believed.
func (s *Store) strayLocked() error {
	j, ix := s.journal, s.index.Load()
	if j.stray {
		return nil
	}
	buf, err := j.readFrom(0, true)
	if err != nil {
		return err
	}
	j.stray = true
	var all scanned
	all.scanRest(buf, 0, 0)
	for _, l := range all.stray {
		if l.txn > ix.tip {
			ix.addLines([]line{l})
		}
	}
	if err := ix.ready(); err != nil {
		return err
	}
	ix.points.publish(ix.preferTree(s.tree.read))
	return nil
}

// switchLocked goes on to the file that has taken the journal's place, if it is
// there for good, if it has what is not known, or if who asks is alone and has to do with
// what is there. Where it does
// not continue what is known, lines are missing: the index is dropped.
func (s *Store) switchLocked(alone bool) (bool, error) {
	old, ix := s.journal, s.index.Load()
	j, err := openJournal(old.path, !s.readOnly)
	if err != nil {
		return false, err
	}
	if os.SameFile(j.info, old.info) || !alone && j.bad != nil {
		return false, j.file.Close()
	}
	if !alone && !j.settled {
		// Its lines are those of the file before it, which may not be ours.
		if news, err := j.goesBeyond(old.tip()); err != nil || !news {
			return false, errors.Join(err, j.file.Close())
		}
	}
	c := j.header.txn
	if j.bad != nil || c < old.header.txn || c > old.tip() || old.crcOf(c) != j.header.prev {
		s.journal = j
		s.resetIndexLocked()
	} else {
		ix.points.publish(c)
		// What can't be forgotten now only costs memory.
		if names, err := s.namesLocked(old.header.txn, c); err == nil && ix.ready() == nil {
			ix.forget(names, c)
		}
		s.journal = j
	}
	s.setWatchLocked()
	return true, old.file.Close()
}
