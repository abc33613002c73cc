package fsmeta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/fsmeta/fsmeta/atomic"
	"golang.org/x/sys/unix"
)

const (
	journalFormat = "fsmeta journal"
	formatVersion = 1

	// fillChunk is how far the file is filled ahead with NUL bytes, so that
	// writing a line neither grows the file nor allocates anything.
	fillChunk = 128 << 10
)

// Every line, the header too, ends in its own checksum.
const (
	crcTailStart = `,"crc32c":"`
	crcTailEnd   = `"}`
	crcTailLen   = len(crcTailStart) + 8 + len(crcTailEnd)
	prevStart    = `,"prev":"`
	prevLen      = len(prevStart) + 8 + 1
)

// header is the first line of a journal: where its lines begin.
type header struct {
	txn    uint64 // the checkpoint: the tree holds everything up to here
	nextID uint64 // identifiers below are handed out or reserved
	prev   uint32 // checksum of the line of transaction txn, 0 where there was none
}

// change is what a transaction did to one name.
type change struct {
	name          string
	before, after *metadata // nil: not there
}

// record is what a line says.
type record struct {
	txn     uint64
	time    time.Time
	nextID  uint64
	synced  uint64
	changes []change
}

// line is one whole line as it stands in the file, verified by its checksum but
// not decoded.
type line struct {
	txn       uint64
	off       int64
	raw       []byte
	prev, crc uint32
	newline   bool // its newline is there: published
}

func sealLine(b []byte, prev uint32) []byte {
	b = append(b, prevStart...)
	b = appendCRC(b, prev)
	b = append(b, '"')
	sum := checksum(b)
	b = append(b, crcTailStart...)
	b = appendCRC(b, sum)
	return append(b, crcTailEnd...)
}

// headerStart is how a header that this package writes begins; see formatVersion.
const headerStart = `{"format":"` + journalFormat + `","version":1,"txn":`

func encodeHeader(h header) []byte {
	b := strconv.AppendUint([]byte(headerStart), h.txn, 10)
	b = append(b, `,"nextID":`...)
	return sealLine(strconv.AppendUint(b, h.nextID, 10), h.prev)
}

// supersededLen is how long what encodeSuperseded makes can be.
var supersededLen = len(encodeSuperseded(math.MaxUint64, 0))

func encodeSuperseded(txn uint64, prev uint32) []byte {
	return sealLine(fmt.Appendf(nil, `{"superseded":%d`, txn), prev)
}

func encodeLine(r *record, prev uint32) []byte {
	b := make([]byte, 0, 256+1024*len(r.changes))
	b = append(b, `{"txn":`...)
	b = strconv.AppendUint(b, r.txn, 10)
	b = append(b, `,"time":"`...)
	b = r.time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","nextID":`...)
	b = strconv.AppendUint(b, r.nextID, 10)
	b = append(b, `,"synced":`...)
	b = strconv.AppendUint(b, r.synced, 10)
	b = append(b, `,"changes":[`...)
	for i, c := range r.changes {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendString(b, c.name)
		b = append(b, `,"before":`...)
		b = appendImage(b, c.before)
		b = append(b, `,"after":`...)
		b = appendImage(b, c.after)
		b = append(b, '}')
	}
	return sealLine(append(b, ']'), prev)
}

// verifyLine checks a line's own checksum and returns it and its predecessor's.
func verifyLine(raw []byte) (prev, crc uint32, ok bool) {
	if len(raw) < crcTailLen+prevLen || !bytes.HasSuffix(raw, []byte(crcTailEnd)) {
		return 0, 0, false
	}
	body, tail := raw[:len(raw)-crcTailLen], raw[len(raw)-crcTailLen:]
	crc, ok = parseCRC(string(tail[len(crcTailStart) : len(crcTailStart)+8]))
	if !ok || !bytes.HasPrefix(tail, []byte(crcTailStart)) || checksum(body) != crc {
		return 0, 0, false
	}
	at := len(body) - prevLen
	if !bytes.HasPrefix(body[at:], []byte(prevStart)) {
		return 0, 0, false
	}
	prev, ok = parseCRC(string(body[at+len(prevStart) : len(body)-1]))
	return prev, crc, ok
}

// leadingNumber reads the number behind a line's first key.
func leadingNumber(raw []byte, key string) (uint64, bool) {
	rest, ok := bytes.CutPrefix(raw, []byte(key))
	if !ok {
		return 0, false
	}
	n := bytes.IndexByte(rest, ',')
	if n < 0 {
		return 0, false
	}
	v, err := strconv.ParseUint(string(rest[:n]), 10, 63)
	return v, err == nil
}

// parseLine verifies a transaction's line without decoding it.
func parseLine(raw []byte) (line, bool) {
	prev, crc, ok := verifyLine(raw)
	if !ok {
		return line{}, false
	}
	txn, ok := leadingNumber(raw, `{"txn":`)
	return line{txn: txn, raw: raw, prev: prev, crc: crc}, ok
}

// decode returns what a verified line says. An error means that whoever wrote
// the line wrote nonsense.
func (l *line) decode() (*record, error) {
	var w struct {
		Txn     uint64    `json:"txn"`
		Time    time.Time `json:"time"`
		NextID  uint64    `json:"nextID"`
		Synced  uint64    `json:"synced"`
		Changes []struct {
			Name   string `json:"name"`
			Before *wire  `json:"before"`
			After  *wire  `json:"after"`
		} `json:"changes"`
	}
	if err := json.Unmarshal(l.raw, &w); err != nil {
		return nil, fmt.Errorf("line of transaction %d: %w", l.txn, err)
	}
	r := &record{txn: w.Txn, time: w.Time, nextID: w.NextID, synced: w.Synced}
	for _, wc := range w.Changes {
		c := change{name: wc.Name}
		for _, image := range []struct {
			from *wire
			to   **metadata
		}{{wc.Before, &c.before}, {wc.After, &c.after}} {
			if image.from == nil {
				continue
			}
			image.from.Name = wc.Name
			m, err := image.from.metadata()
			if err != nil {
				return nil, fmt.Errorf("line of transaction %d: change of %q: %w", l.txn, wc.Name, err)
			}
			*image.to = m
		}
		if err := checkName("name", c.name); err != nil {
			return nil, fmt.Errorf("line of transaction %d: %v", l.txn, err)
		}
		r.changes = append(r.changes, c)
	}
	return r, nil
}

// ownHeader reads a journal's first line, if it is as encodeHeader writes it.
func ownHeader(raw []byte) (h header, ok bool) {
	prev, _, ok := verifyLine(raw)
	if !ok || !bytes.HasPrefix(raw, []byte(headerStart)) {
		return header{}, false
	}
	t := &text{rest: string(raw[:len(raw)-crcTailLen-prevLen]) + "}"}
	h = header{txn: t.count(headerStart, ","), nextID: t.count(`"nextID":`, "}"), prev: prev}
	return h, !t.bad && t.rest == "" && h.nextID > 0
}

// parseHeader reads a journal's first line. Its checksum may be missing, where a
// person wrote the line.
func parseHeader(raw []byte) (header, error) {
	if h, ok := ownHeader(raw); ok {
		return h, nil
	}
	var w struct {
		Format  string  `json:"format"`
		Version int     `json:"version"`
		Txn     uint64  `json:"txn"`
		NextID  uint64  `json:"nextID"`
		Prev    string  `json:"prev"`
		CRC     *string `json:"crc32c"`
	}
	if err := decodeStrict(raw, &w); err != nil {
		return header{}, fmt.Errorf("header: %w", err)
	}
	if _, _, ok := verifyLine(raw); !ok && w.CRC != nil {
		return header{}, errors.New("header: checksum does not match")
	}
	if w.Format != journalFormat || w.Version != formatVersion {
		return header{}, fmt.Errorf("header: format %q version %d, want %q version %d", w.Format, w.Version, journalFormat, formatVersion)
	}
	if w.NextID == 0 {
		return header{}, errors.New("header: nextID is missing")
	}
	h := header{txn: w.Txn, nextID: w.NextID}
	if w.Prev != "" {
		var ok bool
		if h.prev, ok = parseCRC(w.Prev); !ok {
			return header{}, fmt.Errorf("header: prev is %q", w.Prev)
		}
	}
	return h, nil
}

// scanned is what a stretch of a journal holds.
type scanned struct {
	lines      []line // each whole and the successor of the one before
	published  int    // how many of them are published
	superseded bool   // ends with the word that a new file takes over
	bad        bool   // other bytes follow, or not even the byte that ends the last line
	damaged    bool   // and they were a synced line once: it is published, or a later line says so
	cut        bool   // damaged: what stands behind a published line was cut off
	stray      []line // whole lines behind the bad bytes
}

// scan reads the bytes of a journal from offset off, where the successor of the
// line (txn, crc) would begin.
func scan(buf []byte, off int64, txn uint64, crc uint32) scanned {
	var s scanned
	pos := 0
	for pos < len(buf) && buf[pos] != 0 {
		raw, newline := cutLine(buf[pos:])
		l, ok := parseLine(raw)
		if !ok || l.prev != crc || l.txn != txn+1 {
			if raw2 := encodeSuperseded(txn, crc); bytes.Equal(raw, raw2) {
				s.superseded = true
				pos += len(raw)
			} else {
				s.damaged = newline // which is written when the line is on disk
			}
			break
		}
		l.off, l.newline = off+int64(pos), newline
		s.lines = append(s.lines, l)
		if newline {
			// A newline is written after those before it.
			s.published = len(s.lines)
		}
		txn, crc = l.txn, l.crc
		pos += len(raw) + 1
	}
	for i := range s.lines[:s.published] {
		s.lines[i].newline = true
	}
	// Whoever writes a line fills the file ahead, with what the sync of the line makes durable.
	s.bad = pos >= len(buf)
	s.cut = s.bad && len(s.lines) > 0 && s.published == len(s.lines)
	s.damaged = s.damaged || s.cut
	if pos < len(buf) {
		s.scanRest(buf[pos:], off+int64(pos), txn+1)
	}
	return s
}

// why says what is wrong with a damaged stretch that line txn should follow.
func (s *scanned) why(txn uint64) error {
	if s.cut {
		return fmt.Errorf("it was cut off behind the line of transaction %d", txn-1)
	}
	return fmt.Errorf("the line of transaction %d is damaged", txn)
}

// scanRest looks at the bytes behind the last good line, which should be NUL. badTxn
// is the transaction whose line would stand there. Without a later line that says
// otherwise they are the torn end of what was never acknowledged.
func (s *scanned) scanRest(buf []byte, off int64, badTxn uint64) {
	pos := 0
	for pos < len(buf) {
		rest := trimZeros(buf[pos:])
		if len(rest) == 0 {
			return
		}
		pos = len(buf) - len(rest)
		s.bad = true
		raw, newline := cutLine(rest)
		if l, ok := parseLine(raw); ok && l.txn > badTxn {
			l.off, l.newline = off+int64(pos), newline
			s.stray = append(s.stray, l)
			// A line is published after those before it were synced.
			r, err := l.decode()
			s.damaged = s.damaged || newline || err == nil && r.synced >= badTxn
		}
		pos += len(raw) + 1
	}
}

var zeros [4096]byte

// trimZeros returns b without the NUL bytes that it begins with. There may be many.
func trimZeros(b []byte) []byte {
	for len(b) >= len(zeros) && bytes.Equal(b[:len(zeros)], zeros[:]) {
		b = b[len(zeros):]
	}
	return bytes.TrimLeft(b, "\x00")
}

// cutLine returns the bytes up to the next newline or NUL, and whether it was a
// newline. A line holds neither itself.
func cutLine(buf []byte) (raw []byte, newline bool) {
	n := bytes.IndexByte(buf, '\n')
	if z := bytes.IndexByte(buf[:max(n, 0)], 0); n >= 0 && z < 0 {
		return buf[:n], true
	} else if n >= 0 {
		return buf[:z], false
	}
	if z := bytes.IndexByte(buf, 0); z >= 0 {
		return buf[:z], false
	}
	return buf, false
}

// ref is where a known line stands.
type ref struct {
	off   int64
	n     int
	crc   uint32
	names []string // that it is about, where this Store has written it
}

// journal is an open journal file and what is known of it.
type journal struct {
	path    string
	file    *os.File
	info    os.FileInfo // which file it is
	header  header
	settled bool   // the header's newline is there: the file is in its place for good
	start   int64  // where the first line begins
	refs    []ref  // the known lines: refs[i] is of transaction header.txn+1+i
	foreign bool   // others have written some of the lines
	public  uint64 // the last transaction whose newline is known to be there
	filled  int64  // the file is at least that long
	bad     error  // what is wrong with it, an ErrDamaged
	stray   bool   // the lines that verify in a damaged journal were taken in
}

func (j *journal) tip() uint64 { return j.header.txn + uint64(len(j.refs)) }

// crcOf returns the checksum of the line of txn, which must be between the
// header's transaction and the tip.
func (j *journal) crcOf(txn uint64) uint32 {
	if txn == j.header.txn {
		return j.header.prev
	}
	return j.refs[txn-j.header.txn-1].crc
}

// next returns the offset where the successor of transaction txn begins.
func (j *journal) next(txn uint64) int64 {
	if txn == j.header.txn {
		return j.start
	}
	r := j.refs[txn-j.header.txn-1]
	return r.off + int64(r.n) + 1
}

// openJournal opens the file and reads its header. It reads no lines.
func openJournal(path string, writable bool) (*journal, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	// Nobody is to hold us up with a pipe, or to lead us elsewhere.
	file, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &DamagedError{Path: path, Err: errors.New("the file is missing")}
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENXIO):
		return nil, notRegular(path)
	case err != nil:
		return nil, err
	}
	j := &journal{path: path, file: file}
	if err := j.readHeader(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

func notRegular(path string) error {
	return &DamagedError{Path: path, Err: errors.New("not a regular file")}
}

func (j *journal) readHeader() error {
	var err error
	if j.info, err = j.file.Stat(); err != nil {
		return err
	}
	if !j.info.Mode().IsRegular() {
		return notRegular(j.path)
	}
	j.filled = j.info.Size()
	buf := make([]byte, 512)
	n, err := j.file.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return err
	}
	raw, newline := cutLine(buf[:n])
	if len(raw) == 0 {
		return &DamagedError{Path: j.path, Err: errors.New("there is nothing in it")}
	}
	j.start, j.settled = int64(len(raw))+1, newline
	if j.header, err = parseHeader(raw); err != nil {
		j.bad = j.damage(err)
	}
	if _, _, ours := verifyLine(raw); ours && newline && j.filled <= j.start { // see scan
		j.bad = j.damage(fmt.Errorf("it was cut off behind the header, of transaction %d", j.header.txn))
	}
	j.public = j.header.txn
	return nil
}

// goesBeyond reports whether the journal has lines, or begins, behind transaction txn.
func (j *journal) goesBeyond(txn uint64) (bool, error) {
	buf, err := j.readFrom(j.start, false)
	if err != nil {
		return false, err
	}
	lines := scan(buf, j.start, j.header.txn, j.header.prev).lines
	return j.header.txn+uint64(len(lines)) > txn, nil
}

// settledNow reads again whether the header's newline is there.
func (j *journal) settledNow() (bool, error) {
	var b [1]byte
	_, err := j.file.ReadAt(b[:], j.start-1)
	if err == io.EOF {
		err = nil
	}
	return b[0] == '\n', err
}

func (j *journal) damage(err error) error {
	return &DamagedError{Path: j.path, Err: fmt.Errorf("%w; reads go on from the tree, writes need the journal repaired", err)}
}

// readFrom reads the file from off to where two NUL bytes follow each other: no lines
// are further apart than one. With whole it looks whether there is anything else
// behind, and if so reads to the end.
func (j *journal) readFrom(off int64, whole bool) ([]byte, error) {
	var buf []byte
	for {
		at := len(buf)
		step := max(4<<10, at) // mostly there is nothing
		buf = slices.Grow(buf, step)[:at+step]
		n, err := j.file.ReadAt(buf[at:], off+int64(at))
		buf = buf[:at+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if !bytes.HasSuffix(buf, []byte{0, 0}) {
			continue
		}
		if whole {
			whole, err = j.anythingFrom(off + int64(len(buf)))
			if err != nil {
				return nil, err
			}
		}
		if !whole {
			return buf, nil
		}
	}
}

// anythingFrom reports whether there is any byte from off on that is not NUL.
func (j *journal) anythingFrom(off int64) (bool, error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := j.file.ReadAt(buf, off)
		if len(trimZeros(buf[:n])) > 0 {
			return true, nil
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		off += int64(n)
	}
}

// write puts a line where the tip's successor begins, with the file filled ahead
// behind it. It syncs nothing.
//
// A crash leaves nothing, a part of the line, or the line; until it is synced a
// power cut can take it back. An error leaves nothing of it in the file, unless
// the error is also errDirtyTail.
func (j *journal) write(raw []byte) error {
	off := j.next(j.tip())
	// Its end byte, and behind that NUL bytes, which a file that was cut doesn't have, and
	// which have room for the mark that nothing may be left of the room for later.
	if err := j.fill(off + int64(len(raw)+1+supersededLen+1)); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(raw, off); err != nil {
		if _, zerr := j.file.WriteAt(make([]byte, len(raw)), off); zerr != nil {
			return errors.Join(err, zerr, errDirtyTail)
		}
		return err
	}
	return nil
}

// errDirtyTail: a line that was not wanted could not be taken back.
var errDirtyTail = errors.New("the journal's end could not be cleaned, a checkpoint has to come first")

// fill makes the file at least end bytes long, and in whole chunks of NUL bytes if
// there is room. The sync of the next line makes the new length durable. A crash or an
// error leaves the file longer by a part of it, which harms nothing.
func (j *journal) fill(end int64) error {
	if end <= j.filled {
		return nil
	}
	info, err := j.file.Stat() // others may have filled, and written there
	if err != nil {
		return err
	}
	if j.filled = info.Size(); end <= j.filled {
		return nil
	}
	err = j.fillTo(max(foldAt+fillChunk, (end+fillChunk-1)/fillChunk*fillChunk))
	if err != nil && j.filled < end {
		return j.fillTo(end) // filling ahead is for speed alone
	}
	return nil
}

func (j *journal) fillTo(end int64) error {
	zeros := make([]byte, min(end-j.filled, fillChunk))
	for j.filled < end {
		n, err := j.file.WriteAt(zeros[:min(end-j.filled, fillChunk)], j.filled)
		j.filled += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// sync makes all lines written so far durable. After an error nothing is known of
// any of them: the kernel may have dropped the pages it failed to write, and would
// report success the next time.
func (j *journal) sync() error { return atomic.SyncData(j.file) }

// publish writes the newline of the line that ends at off, by which other processes know that
// it is synced and in the tree. A crash leaves it published or not; a line that is
// synced and not published is committed by who takes the lock next.
func (j *journal) publish(off int64) error {
	_, err := j.file.WriteAt([]byte{'\n'}, off)
	return err
}
