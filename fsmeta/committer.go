package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// idBlock is how many identifiers a line reserves beyond those handed out. Reserved
// ones are lost in a crash, and when another process has written meanwhile.
const idBlock = 256

// written is a transaction whose line is written, on its way to be published.
type written struct {
	txn     uint64
	newline int64 // where its newline goes
	nextID  uint64
	moves   []move
}

// move brings one name of the tree up to a transaction.
type move struct {
	name   string
	staged string    // "" to take the name away
	before *metadata // what is there, nil for nothing
}

// beginTurn waits until it is our turn in this process and the process holds the
// lock, with everything known that others have written.
func (s *Store) beginTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		s.turn.join()
		return err
	}
	if err := s.turn.take(ctx, s.ctx); err != nil {
		return err
	}
	err := s.holdLock(ctx)
	if err == nil {
		err = s.failed() // while the process had the lock all along
	}
	if err == nil && s.closed.Load() {
		err = ErrClosed
	}
	if err != nil {
		s.turn.release()
	}
	return err
}

// holdLock takes the lock on staging, unless the process has it already and nobody
// else waits. It is our turn.
func (s *Store) holdLock(ctx context.Context) error {
	if s.unlock != nil {
		s.yieldIfAwaited() // also while nobody writes anything
	}
	if s.unlock != nil && s.yield.Load() {
		if err := s.settle(s.tip()); err != nil {
			return err
		}
		if err := s.letGo(); err != nil {
			return err
		}
	}
	if s.unlock != nil {
		return nil
	}
	if err := s.failed(); err != nil {
		return err
	}
	s.yield.Store(false)
	// It holds nothing that is missed, and some backups leave it out.
	if err := mkdir(s.tree.staging); err != nil {
		return err
	}
	unlock, err := s.waitForOthers(ctx)
	if err != nil {
		return err
	}
	return s.takeOver(unlock)
}

// waitForOthers waits for the lock on staging, through the turnstile: who waits is
// seen by who holds the lock, and goes first when that one comes back.
func (s *Store) waitForOthers(ctx context.Context) (unlock func() error, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(ErrClosed) })()
	pass, err := s.turnstile.Lock(ctx)
	if err == nil {
		unlock, err = s.staging.Lock(ctx)
		if perr := pass(); err == nil && perr != nil {
			err = errors.Join(perr, unlock())
		}
	}
	if err == nil {
		return unlock, nil
	}
	if s.closed.Load() {
		return nil, ErrClosed
	}
	return nil, fmt.Errorf("wait for other processes: %w", err)
}

// letGo gives the lock back, unless a checkpoint needs it. It is our turn, and nothing
// is written that is not published, unless the Store has failed. If the lock can't be
// given back, the process still has it.
func (s *Store) letGo() error {
	s.mu.Lock()
	if s.checkpointing {
		s.mu.Unlock()
		return nil
	}
	s.setWatchLocked()
	s.leftAt, s.leftIn = s.journal.tip(), s.journal
	s.holding.Store(false)
	s.mu.Unlock()
	if err := s.unlock(); err != nil {
		s.holding.Store(s.failed() == nil)
		return err
	}
	s.unlock = nil
	return nil
}

// linger is how long a process keeps the lock that none of its writers uses, so that
// one transaction after the other need not take it anew, and how often it looks
// whether another process waits for it.
const linger = time.Millisecond

// leave is called once by everyone who has called beginTurn, when nothing of theirs
// is under way any more. The last one sees to it that the lock is given back.
func (s *Store) leave() {
	if !s.turn.leave() {
		return
	}
	stay := s.unlock != nil && !s.yield.Load() && s.failed() == nil && !s.closed.Load()
	if s.unlock != nil && !stay {
		_ = s.letGo() // where it fails we still have it, and the next one tries again
	}
	s.turn.release()
	if stay {
		s.idle.Reset(linger) // now that letGoIdle can have the turn
	}
}

// letGoIdle gives the lock back if no writer has come meanwhile.
func (s *Store) letGoIdle() {
	if !s.turn.takeIdle() {
		return // who has come leaves in the end
	}
	if s.unlock != nil && s.letGo() != nil {
		defer s.idle.Reset(linger) // try again
	}
	s.turn.release()
}

// newID returns an identifier that was never handed out, and never will be again
// even if the power is cut now: it is below a synced nextID. It is our turn.
func (s *Store) newID() (string, error) {
	if s.nextID >= maxID-idBlock {
		return "", errors.New("identifiers are used up")
	}
	for settled := false; s.nextID >= s.safe(); settled = true {
		var err error
		if settled { // what the lines so far reserve is used up
			_, err = s.append(nil, 0, nil)
		}
		if err == nil {
			err = s.settle(s.tip())
		}
		if err != nil {
			return "", fmt.Errorf("reserve identifiers: %w", err)
		}
	}
	s.nextID++
	return strconv.FormatUint(s.nextID-1, 10), nil
}

// safe returns the identifier below which all are reserved durably.
func (s *Store) safe() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.safeID
}

// append stages what changes and writes its line. It is our turn; the next one
// builds on this transaction. Nothing is durable yet, see settle. Identifiers go on at
// nextID at the lowest then. Where staged is not nil it is told how many changes are staged,
// after each.
//
// A crash leaves the transaction written or not: a whole line will be committed. An
// error leaves nothing of it, and can be tried again.
func (s *Store) append(changes []change, nextID uint64, staged func(int)) (uint64, error) {
	if err := s.failed(); err != nil {
		return 0, err
	}
	if s.needsFolding() {
		if err := s.fold(); err != nil {
			return 0, err
		}
	}
	txn := s.tip() + 1
	moves, err := s.stageAll(changes, txn, staged)
	if err != nil {
		return 0, errors.Join(err, s.discardAll(moves))
	}
	err = s.writeLine(txn, changes, moves, nextID)
	if errors.Is(err, unix.ENOSPC) && s.fold() == nil {
		// A journal without lines needs less room, and the old one's is free.
		err = s.writeLine(txn, changes, moves, nextID)
	}
	if err != nil {
		return 0, errors.Join(err, s.discardAll(moves))
	}
	return txn, nil
}

func (s *Store) needsFolding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dirtyTail
}

// stageAll builds the directories of what changes.
func (s *Store) stageAll(changes []change, txn uint64, staged func(int)) ([]move, error) {
	moves := make([]move, 0, len(changes))
	for _, c := range changes {
		m := move{name: c.name, before: c.before}
		if c.after != nil {
			c.after.txn = txn
			var err error
			if m.staged, err = s.tree.stage(c.after); err != nil {
				return moves, err
			}
		}
		moves = append(moves, m)
		if staged != nil {
			staged(len(moves))
		}
	}
	return moves, nil
}

func (s *Store) discardAll(moves []move) error {
	var err error
	for _, m := range moves {
		if m.staged != "" {
			err = errors.Join(err, s.tree.discard(m.staged))
		}
	}
	return err
}

// writeLine writes the line of a transaction whose directories are staged, and
// shows it to the writers after it.
func (s *Store) writeLine(txn uint64, changes []change, moves []move, nextID uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed(); err != nil {
		return err // the journal may have been given up meanwhile
	}
	j, ix := s.journal, s.index.Load()
	reserved, next := s.reserved, max(s.nextID, nextID)
	if next+idBlock/2 > reserved {
		reserved = max(reserved, min(next+idBlock, maxID))
	}
	r := &record{txn: txn, time: time.Now().UTC(), nextID: reserved, synced: s.settled, changes: changes}
	raw := encodeLine(r, j.crcOf(j.tip()))
	off := j.next(j.tip())
	if err := j.write(raw); err != nil {
		s.dirtyTail = s.dirtyTail || errors.Is(err, errDirtyTail)
		return fmt.Errorf("write %s: %w", j.path, err)
	}
	_, crc, _ := verifyLine(raw)
	names := make([]string, len(changes))
	for i := range changes {
		names[i] = changes[i].name
	}
	j.refs = append(j.refs, ref{off, len(raw), crc, names})
	s.nextID, s.reserved = next, reserved
	s.queue = append(s.queue, &written{txn, off + int64(len(raw)), reserved, moves})
	ix.addRecord(r)
	return nil
}

// settle returns when everything up to txn is durable, in the tree and published.
// Whoever comes first does it for all who wait by then.
//
// A crash before the sync leaves each of them whole or not at all, after it all of
// them. If settle returns an error, the sync failed: what of them is there is
// unknown until the store is opened anew.
func (s *Store) settle(txn uint64) error {
	s.flush.Lock()
	if s.settledUpTo() >= txn {
		s.flush.Unlock()
		return nil
	}
	garbage, foreign, err := s.flushLocked()
	s.flush.Unlock()
	if err != nil {
		return err
	}
	for _, dir := range garbage {
		// What can't be deleted now is deleted with the rest of staging later.
		if foreign || dir.failed {
			_ = s.tree.discard(dir.path)
		} else {
			_ = s.tree.recycle(dir.spareDir)
		}
	}
	s.checkpointIfDue()
	return nil
}

func (s *Store) settledUpTo() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled
}

// relaxedFor is how long a relaxed commit may have to wait before its sync begins.
const relaxedFor = 100 * time.Millisecond

// settleLater shows a transaction whose line is written to this process's readers, and
// sees to it that it is settled soon. Until then the process keeps the lock.
//
// A crash of the process leaves it committed, a power cut whole or not at all.
func (s *Store) settleLater(txn uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.Load().points.publish(txn)
	if s.later != nil {
		return
	}
	s.turn.join()
	s.later = time.AfterFunc(relaxedFor, func() {
		s.mu.Lock()
		s.later = nil
		s.mu.Unlock()
		_ = s.settle(s.tip()) // a failure ends writing, and is told from then on
		s.leave()
	})
}

// stopLater calls off what settleLater has planned; the caller settles.
func (s *Store) stopLater() {
	s.mu.Lock()
	planned := s.later != nil && s.later.Stop()
	if planned {
		s.later = nil
	}
	s.mu.Unlock()
	if planned {
		s.leave()
	}
}

// leftover is a directory that a rename has left in staging.
type leftover struct {
	spareDir
	failed bool // it was to be renamed itself
}

// flushLocked syncs, renames and publishes all that is written. It returns what is
// left in staging, and whether others have written to the journal, too.
func (s *Store) flushLocked() (garbage []leftover, foreign bool, err error) {
	if err := s.failed(); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	batch, j, foreign := s.queue, s.journal, s.journal.foreign
	s.queue = nil
	s.mu.Unlock()
	if len(batch) == 0 {
		return nil, foreign, nil
	}
	if err := j.sync(); err != nil { // the instant of commit
		return nil, foreign, s.fail(err)
	}
	for _, w := range batch {
		garbage = append(garbage, s.renameAll(w.moves)...)
	}
	if len(s.behind) > 0 {
		s.retryBehind(batch[len(batch)-1].txn)
	}
	s.publish(batch)
	s.yieldIfAwaited()
	return garbage, foreign, nil
}

// renameAll brings the tree up to a durable transaction. What can't be renamed is
// left to retryBehind; until then the journal serves it.
func (s *Store) renameAll(moves []move) (garbage []leftover) {
	for _, m := range moves {
		old, err := m.staged, error(nil)
		switch {
		case s.behind[m.name]:
			err = errors.New("an earlier rename has to come first")
		case m.staged != "":
			old, err = s.tree.place(m.staged, m.name, m.before != nil)
		default:
			old, err = s.tree.displace(m.name)
		}
		if err != nil {
			s.behind[m.name] = true
		}
		if old != "" {
			garbage = append(garbage, leftover{spareDir{old, targetOf(m.before)}, err != nil})
		}
	}
	return garbage
}

// retryBehind tries again to bring up names whose renames have failed. Line txn is
// durable.
func (s *Store) retryBehind(txn uint64) {
	for _, name := range slices.Sorted(maps.Keys(s.behind)) {
		m, known, err := s.index.Load().find(name, txn)
		if err == nil && known && s.tree.bringUp(name, m, false) == nil {
			delete(s.behind, name)
		}
	}
}

// publish shows durable transactions to the readers of all processes. Who begins in this
// process while others are shown them waits, so that nobody finds less than somebody else
// who began before.
func (s *Store) publish(batch []*written) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := batch[len(batch)-1]
	s.index.Load().points.publishWith(last.txn, func() {
		for _, w := range batch {
			if err := s.journal.publish(w.newline); err != nil {
				// Committed all the same. A checkpoint will show it to the others.
				s.dirtyTail = true
				break
			}
			s.journal.public = w.txn
		}
	})
	s.safeID, s.settled = last.nextID, last.txn
	if len(s.behind) == 0 {
		s.applied = last.txn
	}
}

// yieldIfAwaited looks whether another process waits at the turnstile, unless somebody
// has just looked.
func (s *Store) yieldIfAwaited() {
	now, before := time.Now().UnixNano(), s.looked.Load()
	if d := now - before; 0 <= d && d < int64(linger) || !s.looked.CompareAndSwap(before, now) {
		return
	}
	unlock, free, err := s.turnstile.TryLock()
	if err == nil && free {
		err = unlock()
	}
	if err != nil || !free {
		s.yield.Store(true)
	}
}
