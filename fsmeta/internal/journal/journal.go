// Package journal is one journal file: the header, the transactions since the last
// checkpoint, one line each, and the file that follows it. It decides which lines are
// whole, published, committed, torn or damaged, and writes lines, newlines and marks.
//
// # Torn or damaged
//
// "Torn or damaged" in layout.md lists what makes a journal damaged, and why a power cut leaves
// none of it; exam follows that list. For this, no line is written over other bytes than NUL: what
// is taken back is overwritten with NUL bytes and synced, and invalid bytes are followed by a new
// file. Other bytes behind the last whole line are torn: they were never acknowledged.
//
// A reader without the lock may see a line that is just being written. It takes torn bytes for
// nothing yet, and damage for damage only if it finds it again at the same transaction: the
// bytes that were there when the first look ended are all seen by the second.
package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"golang.org/x/sys/unix"
)

// Sizes.
const (
	FillChunk  = 128 << 10 // how far a file is filled ahead behind what it must hold
	ClosedFill = 16 << 10  // how far, where the store is being closed: the next to open it reads that

	maxHeader = 4 << 10 // bytes in a header; one of this package has less than 400
)

// File is an open journal file and what is known of it. All methods may be called
// concurrently. Those that write (Append, Publish, Place, Supersede, Restore, Sync) are called by
// the holder of the lock on staging/ alone, and of these only Sync and Publish beside another.
type File struct {
	path   string
	file   *os.File
	info   fs.FileInfo // which file it is
	header format.Header
	start  int64 // where the first line begins

	placed atomic.Bool // the header's newline is there
	locked atomic.Bool // this process holds the lock on the file
	probe  atomic.Pointer[probe]

	mu        sync.Mutex // guards the rest; not held during a write or a sync
	refs      []ref      // the known lines: refs[i] is of transaction header.Txn+1+i
	published uint64     // the last transaction with a newline that is known to be there
	nextID    uint64     // the highest in the header and the known lines
	filled    int64      // the highest in them: the file is at least that long, durably
	torn      bool       // invalid bytes stand behind the tip: it takes no more lines
	marked    bool       // the superseded mark stands behind the tip
	damage    error
}

// ref is where a known line stands, and what is asked of it.
type ref struct {
	off    int64
	n      int
	crc    uint32
	filled int64
	digest format.Names
	names  []string // that it is about; nil where Scan has found it
}

// end is where the line's end byte stands.
func (r *ref) end() int64 { return r.off + int64(r.n) }

// Open opens the file and reads its header, no lines. A file that is missing, is not
// regular or begins with no header at all (it is empty, or its first byte is NUL or a newline)
// is a *fault.Damaged error. A header that breaks a rule makes a File with Damage.
func Open(path string, writable bool) (*File, error) {
	file, err := openFile(path, writable)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, file: file}
	if err := f.readHeader(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

func openFile(path string, writable bool) (*os.File, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	// A pipe must not hold the caller up, nor a symlink lead elsewhere.
	file, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &fault.Damaged{Path: path, Err: errors.New("the file is missing")}
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EMLINK), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO):
		return nil, notRegular(path)
	}
	return file, err
}

func notRegular(path string) error {
	return &fault.Damaged{Path: path, Err: errors.New("not a regular file")}
}

func (f *File) readHeader() error {
	var err error
	if f.info, err = f.file.Stat(); err != nil {
		return err
	}
	if !f.info.Mode().IsRegular() {
		return notRegular(f.path)
	}
	buf := make([]byte, maxHeader)
	n, err := f.file.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return err
	}
	raw, end := buf[:n], indexEnd(buf[:n])
	if end >= 0 {
		raw = buf[:end]
		f.placed.Store(buf[end] == '\n')
	}
	if len(raw) == 0 {
		return &fault.Damaged{Path: f.path, Err: errors.New("it does not begin with a header")}
	}
	f.start = int64(len(raw)) + 1
	if f.header, err = format.ParseHeader(raw); err != nil {
		f.damage = f.damaged(err)
	}
	f.published, f.nextID = f.header.Txn, f.header.NextID
	if f.header.Sealed {
		f.filled = int64(f.header.Filled)
		if size, want := f.info.Size(), max(f.filled, f.start); size < want {
			f.damage = f.damaged(cut(size, want, 0))
		}
	}
	f.aimLocked()
	return nil
}

// cut says that the file has fewer bytes than a line says, or the header where txn is 0.
func cut(size, want int64, txn uint64) error {
	says := "the header"
	if txn > 0 {
		says = fmt.Sprintf("the line of transaction %d", txn)
	}
	return fmt.Errorf("the file was cut off: it has %d bytes, and %s says that it had %d at least", size, says, want)
}

// damaged makes an error the damage of the journal.
func (f *File) damaged(err error) error {
	return &fault.Damaged{Path: f.path, Err: fmt.Errorf("%w; reads go on, writes need the journal repaired", err)}
}

// Close closes the file, which releases its lock. It writes nothing.
func (f *File) Close() error { return f.file.Close() }

// Path is the path that the journal has, or will have.
func (f *File) Path() string { return f.path }

// Header returns the header, which is zero where it breaks a rule.
func (f *File) Header() format.Header { return f.header }

// Damage returns the damage of the journal, a *fault.Damaged, or nil. It never becomes nil again.
func (f *File) Damage() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.damage
}

// OtherBoot reports whether the file was made during another boot of the machine, so that
// no writer of its lines can be at work. It is false where one of the two is not known.
func (f *File) OtherBoot() bool {
	return f.header.Boot != "" && bootID() != "" && f.header.Boot != bootID()
}

// Placed reports whether the header's newline is there: the file is in its place for good.
// It reads the byte again where it was not.
func (f *File) Placed() (bool, error) {
	if f.placed.Load() {
		return true, nil
	}
	var b [1]byte
	_, err := f.file.ReadAt(b[:], f.start-1)
	if b[0] == '\n' {
		f.placed.Store(true)
	}
	return b[0] == '\n', noEOF(err)
}

// InPlace reports whether the path still names this file.
func (f *File) InPlace() (bool, error) {
	info, err := os.Lstat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(info, f.info), err
}

// Tip is the last transaction of which the whole line is known.
func (f *File) Tip() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tipLocked()
}

// Published is the last transaction with a newline that is known to be there.
func (f *File) Published() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.published
}

// Foreign reports whether Scan has found any of the known lines. The others were written by
// Append, into this file or the one before it.
func (f *File) Foreign() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.refs, func(r ref) bool { return r.names == nil })
}

// NamesAt returns the names after a transaction, which is the header's or that of a known line.
// They are not known for any other.
func (f *File) NamesAt(txn uint64) format.Names {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.namesLocked(txn)
}

func (f *File) namesLocked(txn uint64) format.Names {
	switch {
	case txn == f.header.Txn:
		return f.header.Names
	case f.header.Txn < txn && txn <= f.tipLocked():
		return f.refLocked(txn).digest
	}
	return format.Names{}
}

// NextID is the highest nextID in the header and the known lines.
func (f *File) NextID() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nextID
}

// Size is how many bytes the header and the known lines take.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nextLocked(f.tipLocked()) - 1
}

// Continues reports whether the file begins where old has its header or a known line, with
// the same checksum: a reader of old that goes on in it misses nothing.
func (f *File) Continues(old *File) bool {
	old.mu.Lock()
	defer old.mu.Unlock()
	txn := f.header.Txn
	return f.header.NextID > 0 && old.header.Txn <= txn && txn <= old.tipLocked() && old.crcLocked(txn) == f.header.Prev
}

func (f *File) tipLocked() uint64 { return f.header.Txn + uint64(len(f.refs)) }

func (f *File) refLocked(txn uint64) *ref { return &f.refs[txn-f.header.Txn-1] }

// crcLocked returns the checksum of the line of txn, which is the header's or known.
func (f *File) crcLocked(txn uint64) uint32 {
	if txn == f.header.Txn {
		return f.header.Prev
	}
	return f.refLocked(txn).crc
}

func (f *File) crc(txn uint64) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crcLocked(txn)
}

// nextLocked returns where the successor of transaction txn begins.
func (f *File) nextLocked(txn uint64) int64 {
	if txn == f.header.Txn {
		return f.start
	}
	return f.refLocked(txn).end() + 1
}

// addLocked makes a line known that continues the tip.
func (f *File) addLocked(r ref, nextID uint64) {
	f.refs = append(f.refs, r)
	f.nextID = max(f.nextID, nextID)
	f.filled = max(f.filled, r.filled)
}

// probe is where the next step of another process would show.
type probe struct {
	next    int64 // behind the tip: a line, or the superseded mark
	publish int64 // the newline of the first line without one; 0 where all have it
	short   bool  // the file may end before next: a person wrote the header
}

// aimLocked points the probe behind what is known.
func (f *File) aimLocked() {
	p := &probe{next: f.nextLocked(f.tipLocked()), short: f.filled == 0}
	if f.published < f.tipLocked() {
		p.publish = f.refLocked(f.published + 1).end()
	}
	f.probe.Store(p)
}

// Quiet reports whether nothing was written where the next step of another process would
// show. It costs one small read, two where lines are not published, and takes no lock.
func (f *File) Quiet() (bool, error) {
	p := f.probe.Load()
	var b [1]byte
	n, err := f.file.ReadAt(b[:], p.next)
	if err != nil && err != io.EOF || b[0] != 0 || n == 0 && !p.short {
		return false, noEOF(err)
	}
	if p.publish == 0 {
		return true, nil
	}
	if _, err := f.file.ReadAt(b[:], p.publish); err != nil {
		return false, noEOF(err)
	}
	return b[0] != '\n', nil
}

// noEOF passes errors on; the end of the file is none.
func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
