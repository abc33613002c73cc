package fsmeta

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
	"golang.org/x/sys/unix"
)

// closedFill is how far a journal is filled ahead when the store is closed: whoever opens it
// next reads that.
const closedFill = 1 << 10

// foldAt is how long the lines may get, in bytes, before a checkpoint folds them into the
// tree. It bounds what opening a store reads.
const foldAt = 256 << 10

// foldSize is foldAt but in tests.
var foldSize int64 = foldAt

// checkpointIfDue starts a checkpoint in the background when the lines are long
// enough.
func (s *Store) checkpointIfDue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.journal
	due := max(s.checkpointAt, j.start+foldSize)
	if s.checkpointing || j.next(j.tip()) < due || s.closed.Load() || !s.holding.Load() || s.failed() != nil {
		return
	}
	s.checkpointing = true
	s.turn.join() // so that the process keeps the lock, which it has now
	s.group.Go(func() {
		defer s.leave()
		err := s.checkpoint()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.checkpointing = false
		s.checkpointAt = 0
		if err != nil {
			// Nothing is lost: the journal is kept. Try again when it has
			// grown. A failed sync is in failure; of anything else, Close
			// tells, if its own checkpoint fails as well.
			s.checkpointAt = s.journal.next(s.journal.tip()) + foldSize
		}
	})
}

// checkpoint drops the lines that the tree holds durably. The tree is synced while
// this process goes on committing; its writers wait for the change of files alone.
// Other processes wait for all of it: were they to sync the same files after a sync
// of ours has failed, theirs would seem to succeed.
//
// A crash leaves the old journal or the new one, and the tree with everything that
// the one at hand doesn't have. An error keeps the old one; if a sync has failed,
// writing has ended.
func (s *Store) checkpoint() error {
	s.mu.Lock()
	j, upTo, foreign := s.journal, s.applied, s.journal.foreign
	names, err := s.namesLocked(j.header.txn, upTo)
	s.mu.Unlock()
	if err != nil || upTo <= j.header.txn {
		return err
	}
	if err := s.tree.sync(names, foreign); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.giveUpLocked(err)
	}
	// What takes long is to fill the new file, so that is done before writers wait.
	// If there is no room for that, stageJournal makes do with less.
	f, err := s.prepareJournal(foldAt + fillChunk)
	defer f.Discard() //nolint:errcheck // does nothing once it is in place; else cleanStaging does
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Discard() // at once: it may be what there is no room for
		f = nil
	}
	err = s.turn.take(s.ctx, s.ctx)
	defer s.leave()
	if err != nil {
		return err
	}
	defer s.turn.release()
	if err := s.settle(s.tip()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal != j {
		return nil // a transaction had to make one itself
	}
	return s.replaceLocked(upTo, names, f)
}

// fold makes a checkpoint of everything and leaves no line in the journal. It is
// our turn, and the process has the lock.
func (s *Store) fold() error {
	if err := s.settle(s.tip()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.journal
	if len(j.refs) == 0 && j.settled && !s.dirtyTail && j.header.nextID == s.nextID {
		return nil
	}
	if s.applied < j.tip() {
		if err := s.bringUpLocked(max(s.applied, j.header.txn), false); err != nil {
			return err
		}
	}
	reserved := s.reserved
	s.reserved = s.nextID // the rest of the block is given back
	err := s.foldLocked()
	if err != nil && s.journal == j {
		s.reserved = reserved
	}
	return err
}

// foldLocked syncs the tree, which holds every line, and drops them all.
func (s *Store) foldLocked() error {
	j := s.journal
	names, err := s.namesLocked(j.header.txn, j.tip())
	if err != nil {
		return err
	}
	if err := s.tree.sync(names, j.foreign); err != nil {
		return s.giveUpLocked(err)
	}
	return s.replaceLocked(j.tip(), names, nil)
}

// namesLocked returns the names that the lines after from are about, up to to.
func (s *Store) namesLocked(from, to uint64) ([]string, error) {
	names := map[string]bool{}
	for txn := from + 1; txn <= to; txn++ {
		known := s.journal.refs[txn-s.journal.header.txn-1].names
		if known == nil { // another process has written it
			records, err := s.recordsLocked(txn-1, txn)
			if err != nil {
				return nil, err
			}
			for _, c := range records[0].changes {
				known = append(known, c.name)
			}
		}
		for _, name := range known {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// giveUpLocked ends writing after a sync of the tree has failed, and tells who takes
// the lock next not to trust what the tree seems to hold: a journal that ends as if
// superseded, with no successor, has to be replayed in full. An error of another kind,
// of opening a file say, costs nothing but the checkpoint.
func (s *Store) giveUpLocked(err error) error {
	if !errors.Is(err, errSync) {
		return err
	}
	return s.fail(errors.Join(err, s.supersedeLocked()))
}

func (s *Store) supersedeLocked() error {
	j := s.journal
	raw := encodeSuperseded(j.tip(), j.crcOf(j.tip()))
	raw = append(raw, 0) // there may be garbage behind it
	if err := j.fill(j.next(j.tip()) + int64(len(raw))); err != nil {
		return err
	}
	_, err := j.file.WriteAt(raw, j.next(j.tip()))
	return err
}

// unsupersedeLocked takes back what supersedeLocked wrote.
func (s *Store) unsupersedeLocked() error {
	j := s.journal
	raw := encodeSuperseded(j.tip(), j.crcOf(j.tip()))
	_, err := j.file.WriteAt(make([]byte, len(raw)), j.next(j.tip()))
	return err
}

// replaceLocked puts a new journal in place of the old one, with the lines after
// txn; the tree holds the others durably. All lines are published. It is our turn,
// and the process has the lock. Where a file was prepared for it, that is used.
//
// A crash leaves either file. Nothing is acknowledged in the new one before it is
// in its place for good, which its header's newline tells others. An error keeps
// the old one, unless the directory could not be synced: then which of the two a
// power cut leaves is unknown, and writing has ended.
func (s *Store) replaceLocked(txn uint64, names []string, prepared *atomicfs.File) error {
	content, err := s.successorLocked(txn)
	if err != nil {
		return err
	}
	f, j, err := s.stageJournal(content, prepared)
	if err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return errors.Join(err, f.Discard(), j.file.Close())
	}
	defer dir.Close()
	// Readers who find this look for the new file from now on, so it has to be
	// there before the old one is out of sight.
	err = s.supersedeLocked()
	if err == nil {
		err = f.Replace()
	}
	if err != nil {
		return errors.Join(err, f.Discard(), j.file.Close(), s.keepOldLocked())
	}
	if err := dir.Sync(); err != nil {
		return errors.Join(s.fail(err), j.file.Close())
	}
	return s.adoptLocked(j, content, txn, names)
}

// prepareJournal makes a file of NUL bytes in staging/ that a journal can be written to.
// A crash or an error leaves garbage at most; the file is to be discarded after either.
func (s *Store) prepareJournal(size int) (*atomicfs.File, error) {
	f, err := atomicfs.Create(filepath.Join(s.dir, journalFile), s.tree.staging)
	if err == nil {
		_, err = f.Write(make([]byte, size))
	}
	return f, err
}

// stageJournal writes a journal's content to a file in staging/ and syncs it. It
// returns the file to be put in place and, open already, the journal that it is then.
// A crash leaves garbage; an error leaves nothing.
func (s *Store) stageJournal(content []byte, prepared *atomicfs.File) (*atomicfs.File, *journal, error) {
	f, err := prepared, error(nil)
	if f == nil {
		ahead := foldAt + fillChunk
		if s.closed.Load() {
			ahead = closedFill
		}
		f, err = s.prepareJournal(len(content) + ahead)
	}
	if err == nil {
		err = writeAndSync(f, content)
	}
	if errors.Is(err, unix.ENOSPC) { // filling ahead is for speed alone
		_ = f.Discard() // else cleanStaging does
		if f, err = s.prepareJournal(len(content)); err == nil {
			err = writeAndSync(f, content)
		}
	}
	var j *journal
	if err == nil {
		j, err = openJournal(f.Name(), true)
	}
	if err == nil && j.bad != nil {
		err = errors.Join(j.bad, j.file.Close())
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Discard())
	}
	j.path = filepath.Join(s.dir, journalFile)
	return f, j, nil
}

func writeAndSync(f *atomicfs.File, content []byte) error {
	_, err := f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	return err
}

// keepOldLocked undoes supersedeLocked. Where it can't, the next transaction makes a
// checkpoint first.
func (s *Store) keepOldLocked() error {
	if s.distrust {
		return nil // the mark was there before
	}
	err := s.unsupersedeLocked()
	s.dirtyTail = s.dirtyTail || err != nil
	return err
}

// successorLocked returns the content of the journal that follows, up to its last line and
// with the NUL bytes that have to follow that.
func (s *Store) successorLocked(txn uint64) ([]byte, error) {
	j := s.journal
	b := append(encodeHeader(header{txn: txn, nextID: s.reserved, prev: j.crcOf(txn)}), 0)
	if from := j.next(txn); from < j.next(j.tip()) {
		lines := make([]byte, j.next(j.tip())-from)
		// The byte behind the last line is not there where the file was cut.
		if n, err := j.file.ReadAt(lines, from); err != nil && !(err == io.EOF && n == len(lines)-1) {
			return nil, fmt.Errorf("read %s: %w", j.path, err)
		}
		for _, r := range j.refs[txn-j.header.txn:] {
			lines[r.off+int64(r.n)-from] = '\n'
		}
		b = append(b, lines...)
		if s.distrust {
			b = append(b, encodeSuperseded(j.tip(), j.crcOf(j.tip()))...)
		}
	}
	return append(b, make([]byte, supersededLen+1)...), nil // see scan and journal.write
}

// adoptLocked goes on with the new journal, which is in its place for good.
func (s *Store) adoptLocked(j *journal, content []byte, txn uint64, names []string) error {
	old := s.journal
	tail := scan(content[j.start:], j.start, j.header.txn, j.header.prev)
	for _, l := range tail.lines {
		names := old.refs[l.txn-old.header.txn-1].names
		j.refs = append(j.refs, ref{l.off, len(l.raw), l.crc, names})
		j.foreign = j.foreign || names == nil
	}
	ix := s.index.Load()
	if j.tip() != old.tip() {
		return s.fail(errors.Join(old.damage(fmt.Errorf("it ends with transaction %d and should end with %d", j.tip(), old.tip())), j.file.Close()))
	}
	s.journal = j
	j.public = j.tip()
	s.reserved, s.safeID = j.header.nextID, j.header.nextID
	ix.points.publish(j.tip())
	s.setWatchLocked()
	ix.forget(names, txn)
	err := j.publish(j.start - 1)
	j.settled = err == nil
	s.dirtyTail = err != nil
	return errors.Join(err, old.file.Close())
}
