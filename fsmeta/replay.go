package fsmeta

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"

	atomicfs "github.com/fsmeta/fsmeta/atomic"
)

// takeOver makes the process the one that writes, whose lock unlock gives back. It
// takes in what others have written and brings the tree up to the journal:
//
//   - If the last line is published, its writer has renamed everything. Yet a
//     rename may have failed or been lost with the power, so each name in the
//     lines that this Store has not seen applied is compared.
//   - If other bytes follow it, a writer died or the power was cut. Whole lines
//     are committed: they are made durable, the tree is brought up to them, and a
//     checkpoint comes before anything else. What can't be read is not overwritten.
//
// A crash leaves it to the next one. After an error the lock is given back.
func (s *Store) takeOver(unlock func() error) error {
	first := !s.visited
	err := s.catchUpAndReplay()
	if err == nil {
		err = s.index.Load().ready()
	}
	if err == nil && first {
		if err = s.passCopied(); err != nil {
			s.visited = false
		}
	}
	if err != nil {
		return errors.Join(err, unlock())
	}
	s.mu.Lock()
	s.settled = s.journal.tip()
	s.mu.Unlock()
	s.unlock = unlock
	s.holding.Store(true)
	return nil
}

func (s *Store) catchUpAndReplay() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.visited && !s.dirtyTail && s.journal.bad == nil && s.applied == s.journal.tip() {
		info, err := os.Stat(s.journal.path)
		if err == nil && os.SameFile(info, s.journal.info) && s.watch.Load().quiet(s.watch.Load().next) {
			return nil // nobody was here meanwhile
		}
	}
	tail, err := s.catchUpLocked(true, true)
	if err != nil {
		return err
	}
	if s.journal.bad != nil {
		return s.journal.bad
	}
	if tail.bad {
		if err := s.checkTornLocked(); err != nil {
			return err
		}
	}
	if !s.visited {
		if err := s.firstVisit(); err != nil {
			return err
		}
	}
	if unclean(s.journal, tail) || s.dirtyTail {
		return s.recoverLocked(tail)
	}
	if err := s.bringUpLocked(max(s.applied, s.journal.header.txn), false); err != nil {
		return err
	}
	if !s.visited || s.journal != s.leftIn || s.journal.tip() != s.leftAt {
		if err := s.continueIDsLocked(); err != nil {
			return err
		}
	}
	s.visited, s.distrust = true, false
	return nil
}

// unclean reports whether the last holder of the lock left something unfinished.
func unclean(j *journal, tail scanned) bool {
	return !j.settled || tail.bad || tail.superseded || j.public < j.tip()
}

// firstVisit does what is done once by every Store that gets the lock.
func (s *Store) firstVisit() error {
	if s.tree.root == nil {
		var err error
		if s.tree.root, err = os.Open(s.dir); err != nil {
			return err
		}
	}
	// Garbage that can't be deleted harms nobody, and the next one tries again.
	_ = s.tree.cleanStaging()
	if s.journal.header.txn > 0 {
		return nil
	}
	// Who made the store may have died before its last sync.
	err := tellSync(atomicfs.SyncDir(s.dir))
	if errors.Is(err, errSync) {
		return s.fail(err)
	}
	return err
}

// recoverLocked finishes what a holder of the lock that is gone has left. Lines that
// may be known to the page cache alone become durable first, in a new file: the
// tree must not be ahead of them, and syncing the old file could succeed though an
// earlier sync of it has failed.
//
// A crash leaves the old file or one with the same lines, and the tree somewhere on
// its way up to them.
func (s *Store) recoverLocked(tail scanned) error {
	_ = s.tree.cleanStaging() // see firstVisit
	if err := s.continueIDsLocked(); err != nil {
		return err
	}
	// Where a checkpoint was given up, the tree may not have got to disk though
	// it can be read: everything is built anew. The mark that says so stays until
	// that is done.
	s.distrust = tail.superseded
	if s.journal.public < s.journal.tip() {
		if err := s.replaceLocked(s.journal.header.txn, nil, nil); err != nil {
			return err
		}
	}
	if err := s.bringUpLocked(s.journal.header.txn, s.distrust); err != nil {
		return err
	}
	if err := s.foldLocked(); err != nil {
		return err
	}
	s.distrust = false
	s.visited = true
	return nil
}

// bringUpLocked makes the tree hold the last version of every name in the lines
// after txn.
func (s *Store) bringUpLocked(txn uint64, rebuild bool) error {
	records, err := s.recordsLocked(txn, s.journal.tip())
	if err != nil {
		return err
	}
	last := map[string]*metadata{}
	for _, r := range records {
		for _, c := range r.changes {
			last[c.name] = c.after
		}
	}
	if s.tornLocked(maps.Keys(last)) { // lines are lost
		return s.journal.bad
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		if err := s.tree.bringUp(name, last[name], rebuild); err != nil {
			return fmt.Errorf("bring %q up to the journal: %w", name, err)
		}
	}
	s.applied = s.journal.tip()
	clear(s.behind)
	return nil
}

// recordsLocked reads the lines after from, up to to, out of the journal again.
func (s *Store) recordsLocked(from, to uint64) ([]*record, error) {
	j := s.journal
	var records []*record
	for txn := from + 1; txn <= to; txn++ {
		r := j.refs[txn-j.header.txn-1]
		raw := make([]byte, r.n)
		if _, err := j.file.ReadAt(raw, r.off); err != nil {
			return nil, err
		}
		l, ok := parseLine(raw)
		if !ok || l.crc != r.crc {
			return nil, j.damage(fmt.Errorf("the line of transaction %d has changed", txn))
		}
		record, err := l.decode()
		if err != nil {
			return nil, j.damage(err)
		}
		records = append(records, record)
	}
	return records, nil
}

// continueIDsLocked takes up the identifiers where others have left off: what they
// had reserved is theirs.
func (s *Store) continueIDsLocked() error {
	next := s.journal.header.nextID
	if tip := s.journal.tip(); tip > s.journal.header.txn {
		records, err := s.recordsLocked(tip-1, tip)
		if err != nil {
			return err
		}
		next = max(next, records[0].nextID)
	}
	s.nextID = max(s.nextID, next)
	s.reserved, s.safeID = s.nextID, s.nextID
	return nil
}

// checkTornLocked decides whether the bad bytes behind the last line are the torn
// end of what was never acknowledged. If the tree has a version from there or
// later, they were a line that was synced once.
func (s *Store) checkTornLocked() error {
	entries, err := s.tree.list()
	if err != nil {
		return err
	}
	names := func(yield func(string) bool) {
		for _, entry := range entries {
			if name, ok := s.tree.nameOf(entry); ok && !yield(name) {
				return
			}
		}
	}
	if s.tornLocked(names) {
		return s.journal.bad
	}
	return nil
}

// tornLocked looks whether the tree has a version of one of the names that is later than
// the last line, which is never renamed into place before its line is durable. The journal
// is damaged then.
func (s *Store) tornLocked(names iter.Seq[string]) bool {
	tip := s.journal.tip()
	for name := range names {
		if m, err := s.tree.read(name); err == nil && m != nil && m.txn > tip {
			s.journal.bad = s.journal.damage(fmt.Errorf("the line of transaction %d is damaged: %s is of transaction %d", tip+1, s.tree.path(name), m.txn))
			return true
		}
	}
	return false
}
