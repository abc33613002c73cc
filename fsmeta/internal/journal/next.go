package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"golang.org/x/sys/unix"
)

// Next is a journal file being made in staging/, to take the place of another. A nil *Next
// has only Discard.
type Next struct {
	path    string
	pending *atomic.File
	size    int64 // how many NUL bytes it was made with
}

// Prepare makes a file of size NUL bytes in staging, to take the place of path, and hands it
// to owner. A crash or an error leaves garbage in staging at most. After an error it returns nil.
func Prepare(path, staging string, size int, owner disk.Owner) (*Next, error) {
	pending, err := atomic.Create(path, staging)
	if err != nil {
		return nil, err
	}
	n := &Next{path: path, pending: pending, size: int64(size)}
	noCOW(pending.Name())
	if owner.Hand {
		err = pending.Chown(owner.UID, owner.GID)
	}
	for left := size; err == nil && left > 0; {
		part := min(left, len(zeros))
		_, err = pending.Write(zeros[:part])
		left -= part
	}
	if err != nil {
		return nil, errors.Join(err, n.Discard())
	}
	return n, nil
}

// Sync makes the file durable, so that Write has less to wait for. A crash leaves garbage in
// staging. So does an error, after which only Discard is of use.
func (n *Next) Sync() error { return n.pending.Sync() }

// Discard removes the file. Where it is in place, and where n is nil, it does nothing. A crash or
// an error may leave it in staging.
func (n *Next) Discard() error {
	if n == nil {
		return nil
	}
	return n.pending.Discard()
}

// Replace renames the file to the journal's path. A crash leaves the old file there or the new
// one; the new one is durable once the store's directory is synced. An error leaves the old file.
func (n *Next) Replace() error { return n.pending.Replace() }

// Write writes the content of the successor of f, and syncs it: the header, without its newline;
// the lines of f after h.Txn, as they are, published; the line of carry, unless it is nil,
// published; the superseded mark, if asked for; NUL bytes. In the header, Filled and Boot are set
// here, and Prev and Names to those of f's line h.Txn where it has them. In carry, Filled and
// Names are.
//
// Where f is nil the file is a store's first journal, or a repaired one: the header has h.Prev
// and h.Names, and no lines follow but carry.
//
// Write returns the new File, open and locked, with all its lines known. The caller closes it,
// whether or not it is put in place. A crash leaves garbage in staging; f is only read. So does an
// error, after which only Discard is of use; lines of f with changed bytes are f's damage.
func (n *Next) Write(f *File, h format.Header, carry *format.Txn, superseded bool) (*File, error) {
	file, err := openPending(n.pending.Name(), n.path)
	if err != nil {
		return nil, err
	}
	w := &successor{file: &File{path: n.path, file: file}, old: f, size: n.size}
	if err := w.write(h, carry, superseded); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s, the next journal: %w", n.pending.Name(), err), file.Close())
	}
	return w.file, nil
}

// openPending opens a file with the name that it will have in errors. A signal does not interrupt it.
func openPending(at, name string) (*os.File, error) {
	fd, err := -1, error(unix.EINTR)
	for err == unix.EINTR {
		fd, err = unix.Open(at, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// successor is a file that is being written.
type successor struct {
	file   *File
	old    *File  // or nil
	lines  []ref  // those of old that it will have
	size   int64  // of NUL bytes that are there
	filled int64  // how long the file will be
	off    int64  // where buf is to be written
	buf    []byte // not written yet
}

func (w *successor) write(h format.Header, carry *format.Txn, superseded bool) error {
	// 1. The header, with the length that the file will have.
	if err := w.plan(&h, carry); err != nil {
		return err
	}
	w.buf = append(format.EncodeHeader(h), 0)
	err := w.flush()
	if err == nil {
		err = w.file.file.Truncate(w.filled)
	}
	if err == nil {
		err = w.file.readHeader()
	}
	if err = errors.Join(err, w.file.damage); err != nil {
		return err
	}
	// 2. The lines.
	for i, r := range w.lines {
		l, err := w.old.reread(h.Txn+uint64(i)+1, r)
		if err == nil {
			err = w.line(l, r)
		}
		if err != nil {
			return err
		}
	}
	if carry != nil {
		if err := w.carry(carry); err != nil {
			return err
		}
	}
	// 3. The mark, and NUL bytes: all of it is durable before the file gets its name.
	end := make([]byte, format.SupersededLen+1)
	if superseded {
		copy(end, format.EncodeSuperseded(w.file.Tip(), w.file.crc(w.file.Tip())))
	}
	w.buf = append(w.buf, end...)
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.fill(); err != nil {
		return err
	}
	if err := atomic.SyncData(w.file.file); err != nil {
		return err
	}
	// 4. The lock: a reader must not take the first line written to it for that of a dead writer.
	if err := w.file.Lock(); err != nil {
		return err
	}
	w.file.mu.Lock()
	defer w.file.mu.Unlock()
	w.file.published, w.file.marked = w.file.tipLocked(), superseded
	w.file.aimLocked()
	return nil
}

// plan completes the header, and the numbers in carry.
func (w *successor) plan(h *format.Header, carry *format.Txn) error {
	tip, names := h.Txn, format.Names{}
	content := room(0) // how long it can be, with the most digits for what is not known yet
	if f := w.old; f != nil {
		tip = f.Tip()
		var err error
		if w.lines, err = f.known(h.Txn, tip); err != nil {
			return err
		}
		for _, r := range w.lines {
			content += int64(r.n) + 1
			w.filled = max(w.filled, r.filled)
		}
		h.Prev = f.crc(h.Txn)
		if names := f.NamesAt(h.Txn); names.Known {
			h.Names = names
		}
		names = f.NamesAt(tip)
	}
	h.Names.Known, h.Boot, h.Filled = true, bootID(), format.MaxNumber
	content += int64(len(format.EncodeHeader(*h))) + 1
	if !names.Known {
		names = h.Names
	}
	if carry != nil {
		if carry.Number != tip+1 {
			return fmt.Errorf("transaction %d can't be carried over behind transaction %d", carry.Number, tip)
		}
		carry.Names, carry.Filled = names, format.MaxNumber
		content += int64(len(format.EncodeLine(carry, 0))) + 1
	}
	w.filled = max(w.filled, w.size, content)
	h.Filled = uint64(w.filled)
	if carry != nil {
		carry.Filled = h.Filled
	}
	return nil
}

// line writes a line of the old file, published.
func (w *successor) line(l *format.Line, r ref) error {
	r.off = w.off + int64(len(w.buf))
	w.buf = append(append(w.buf, l.Raw...), '\n')
	w.file.mu.Lock()
	w.file.addLocked(r, l.NextID)
	w.file.mu.Unlock()
	if len(w.buf) < 1<<20 {
		return nil
	}
	return w.flush()
}

// carry writes the line of names that are carried over, published.
func (w *successor) carry(t *format.Txn) error {
	raw := format.EncodeLine(t, w.file.crc(w.file.Tip()))
	if len(raw) > format.MaxLine {
		return fmt.Errorf("the line of the names that are carried over would have %d bytes, %d is the most", len(raw), format.MaxLine)
	}
	l := format.Line{Raw: raw, NextID: t.NextID}
	return w.line(&l, ref{n: len(raw), crc: sealOf(raw), filled: int64(t.Filled), digest: t.Names, names: namesIn(t)})
}

func (w *successor) flush() error {
	_, err := w.file.file.WriteAt(w.buf, w.off)
	w.off += int64(len(w.buf))
	w.buf = nil
	return err
}

// fill writes NUL bytes where the next lines will stand, so that these allocate nothing. Where
// there is no room, or none was asked for, a hole will do.
func (w *successor) fill() error {
	if w.size == 0 {
		return nil
	}
	_, err := writeNUL(w.file.file, max(w.off, w.size), min(w.off+FillChunk, w.filled))
	if fault.NoRoom(err) {
		return nil
	}
	return err
}
