package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// ErrDirty marks an error of a journal that takes no more lines: other bytes than NUL stand
// where the next one would begin. A checkpoint has to come first.
var ErrDirty = errors.New("the journal takes no more lines before a checkpoint")

// Append writes the line of t, the successor of the tip, and makes it the tip. It sets t.Filled. It
// syncs nothing unless the file has to grow: there is always room for a superseded mark
// behind the line.
//
// A crash leaves nothing, a part of the line or all of it; a whole line is committed. An error
// leaves nothing of it, and Append may be called again, unless the error is also ErrDirty (the
// line could not be taken back) or a fault.ErrSync. An error of growing for lack of room is a
// fault.NoRoom; nothing is written then but NUL bytes.
func (f *File) Append(t *format.Txn) error {
	f.mu.Lock()
	tip, off, prev, filled := f.tipLocked(), f.nextLocked(f.tipLocked()), f.crcLocked(f.tipLocked()), f.filled
	dirty, bad := f.torn || f.marked, f.damage
	f.mu.Unlock()
	switch {
	case bad != nil:
		return bad
	case dirty:
		return fmt.Errorf("%s: %w", f.path, ErrDirty)
	case t.Number != tip+1 || t.Number > format.MaxNumber:
		return fmt.Errorf("%s ends with transaction %d: no line of transaction %d can follow", f.path, tip, t.Number)
	}
	t.Filled = uint64(filled)
	raw := format.EncodeLine(t, prev)
	if len(raw) > format.MaxLine {
		return fmt.Errorf("the line of the transaction would have %d bytes, %d is the most", len(raw), format.MaxLine)
	}
	if off+room(len(raw)) > filled {
		var err error
		// The new length may have more digits.
		if filled, err = f.grow(off + room(len(raw)) + numberLen); err != nil {
			return err
		}
		t.Filled = uint64(filled)
		raw = format.EncodeLine(t, prev)
	}
	n := len(raw)
	// The NUL bytes behind it come first: where the file has holes, they make sure of the room. So
	// a write that fails never leaves a whole line, which a reader could take in before it is
	// taken back.
	if err := f.put(zeros[:room(0)], off+int64(n)); err != nil {
		return err
	}
	if err := f.put(raw, off); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := (ref{off: off, n: n, crc: sealOf(raw), filled: filled, digest: t.Names, names: namesIn(t)}); f.tipLocked() < t.Number {
		f.addLocked(r, t.NextID)
	} else { // a Scan has found it already
		f.refLocked(t.Number).names = r.names
	}
	f.aimLocked()
	return nil
}

// numberLen is the most digits that a number has.
var numberLen = int64(len(strconv.Itoa(format.MaxNumber)))

// room is how many bytes there have to be for a line: its own, its end byte, a superseded
// mark and the NUL byte behind that.
func room(n int) int64 { return int64(n + 1 + format.SupersededLen + 1) }

// sealOf returns the checksum at the end of a line that was just encoded.
func sealOf(raw []byte) uint32 {
	at := len(raw) - len(`xxxxxxxx"}`)
	sum, err := strconv.ParseUint(string(raw[at:at+8]), 16, 32)
	if err != nil {
		panic(err) // EncodeLine writes no other
	}
	return uint32(sum)
}

// put writes the bytes of a line or mark where NUL bytes are. A crash leaves any part of them. An
// error leaves none of them, unless it is also ErrDirty.
func (f *File) put(raw []byte, off int64) error {
	_, err := f.file.WriteAt(raw, off)
	if err == nil {
		return nil
	}
	back := f.takeBack(off, len(raw))
	if back == nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.torn = true
	return errors.Join(fmt.Errorf("%w: %w", err, ErrDirty), back)
}

// takeBack erases what a write that failed has left of n bytes at off. The write does not say how
// much; where there is no room, only that can be overwritten. What is written here next must not
// be mixed with it by a power cut.
func (f *File) takeBack(off int64, n int) error {
	left := make([]byte, n)
	if _, err := f.file.ReadAt(left, off); noEOF(err) != nil {
		return err
	}
	if left = bytes.TrimRight(left, "\x00"); len(left) == 0 {
		return nil
	}
	return f.erase(off, int64(len(left)))
}

// erase overwrites bytes with NUL bytes and syncs. A crash leaves any part of the old bytes. After
// an error it is not known which are there.
func (f *File) erase(off, n int64) error {
	if _, err := writeNUL(f.file, off, off+n); err != nil {
		return err
	}
	return f.Sync()
}

// grow makes the file so long, durably, and a chunk longer where there is room, and returns its new
// length, for lines to say. A crash leaves the file as it was or longer by NUL bytes. So does
// an error, which is a fault.ErrSync where a sync failed.
func (f *File) grow(end int64) (int64, error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, err
	}
	size, want := info.Size(), end+FillChunk
	for size < want {
		if size, err = writeNUL(f.file, size, want); err == nil {
			continue
		}
		if want == end {
			return 0, err
		}
		want = max(size, end) // ahead is for speed alone
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Not size: what stands behind was not written by a writer.
	f.filled = max(f.filled, want)
	return f.filled, nil
}

// writeNUL writes NUL bytes from off to end. It returns how far it got at least.
func writeNUL(file io.WriterAt, off, end int64) (int64, error) {
	for off < end {
		n, err := file.WriteAt(zeros[:min(end-off, int64(len(zeros)))], off)
		off += int64(n)
		if err != nil {
			return off, err
		}
	}
	return off, nil
}

// Sync makes all lines written so far durable: with nil they survive a power cut. This is
// the instant of commit. An error is a fault.ErrSync: nothing is known of any of them, and another
// Sync may succeed without having written them.
func (f *File) Sync() error {
	if err := atomic.SyncData(f.file); err != nil {
		return fmt.Errorf("%w: %w", fault.ErrSync, err)
	}
	return nil
}

// Publish writes the newlines behind the lines up to txn, in order, by which other processes know
// that they are durable and in the tree. A crash leaves some of them, the first ones in the order
// of the file or, after a power cut, any: whole lines without one are committed by the take-over.
// An error leaves those that Published says; call it again.
func (f *File) Publish(txn uint64) error {
	for {
		f.mu.Lock()
		next := f.published + 1
		if next > min(txn, f.tipLocked()) {
			f.aimLocked()
			f.mu.Unlock()
			return nil
		}
		off := f.refLocked(next).end()
		f.mu.Unlock()
		if _, err := f.file.WriteAt([]byte{'\n'}, off); err != nil {
			return err
		}
		f.mu.Lock()
		f.published = max(f.published, next)
		f.mu.Unlock()
	}
}

// Place writes the newline behind the header: the file is in its place for good. A crash leaves it
// there or not; without it the next take-over makes a checkpoint. An error leaves nothing.
func (f *File) Place() error {
	if _, err := f.file.WriteAt([]byte{'\n'}, f.start-1); err != nil {
		return err
	}
	f.placed.Store(true)
	return nil
}

// Supersede writes the mark that another file takes over behind the tip, and a NUL byte. Where the
// mark is known to be there it writes nothing. It syncs nothing but what had to be overwritten
// before.
//
// A crash leaves the mark or any part of it, which is torn. An error leaves nothing of it, unless
// the error is also ErrDirty or a fault.ErrSync.
func (f *File) Supersede() error {
	f.mu.Lock()
	tip := f.tipLocked()
	off := f.nextLocked(tip)
	raw := append(format.EncodeSuperseded(tip, f.crcLocked(tip)), 0)
	torn, marked, filled := f.torn, f.marked, f.filled
	f.mu.Unlock()
	if marked {
		return nil
	}
	if off+int64(len(raw)) > filled {
		if _, err := f.grow(off + int64(len(raw))); err != nil {
			return err
		}
	}
	if torn { // see put
		if err := f.erase(off, int64(len(raw))); err != nil {
			return err
		}
	}
	if err := f.put(raw, off); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marked = true
	return nil
}

// Restore takes the mark of Supersede back, durably, so that a line can take its place. A crash
// leaves the mark, any part of it, which is torn, or nothing. After an error the journal takes no
// more lines before a checkpoint, and the error is a fault.ErrSync where a sync failed.
func (f *File) Restore() error {
	f.mu.Lock()
	tip := f.tipLocked()
	off, n := f.nextLocked(tip), len(format.EncodeSuperseded(tip, f.crcLocked(tip)))
	f.marked, f.torn = false, true // until it is known to be gone
	f.mu.Unlock()
	if err := f.erase(off, int64(n)); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.torn = false
	return nil
}
