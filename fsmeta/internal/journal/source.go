package journal

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"golang.org/x/sys/unix"
)

// source reads a file forward, and never holds more of it than the longest line has. Holes
// cost it nothing.
type source struct {
	file *os.File
	off  int64  // where buf stands in the file
	buf  []byte // read ahead; what run returns is a part of it, so it is not written to again
	eof  bool   // the file ends behind buf
	step int    // how much to read next
}

const (
	firstStep = 512        // mostly there is one new line, or none
	wholeStep = ClosedFill // where all of the file is read: as much as that of a closed store has
	lastStep  = 256 << 10
	nulStep   = 8 << 10 // over NUL bytes, always into the same buffer
)

// longest is the most bytes that are read as one line; it is less in tests.
var longest = format.MaxLine

func newSource(file *os.File, off int64) *source {
	return &source{file: file, off: off, step: firstStep}
}

// run is the bytes from one place to the next NUL byte, newline or end of the file.
type run struct {
	off  int64
	raw  []byte // nil where it is too long
	long bool   // it has more than the longest line
	end  byte   // the byte behind it: '\n', or 0; not there where eof is set
	eof  bool
}

// next returns the run that begins where the source stands, which may be empty, and moves
// behind its end byte.
func (s *source) next() (run, error) {
	r := run{off: s.off}
	for seen := 0; ; {
		if n := indexEnd(s.buf[seen:]); n >= 0 {
			r.take(s.buf, seen+n)
			r.end = s.buf[seen+n]
			s.drop(seen + n + 1)
			return r, nil
		}
		seen = len(s.buf)
		if s.eof {
			r.take(s.buf, seen)
			r.eof = true
			s.drop(seen)
			return r, nil
		}
		if seen > longest {
			r.long = true
			s.drop(seen)
			seen = 0
		}
		if err := s.read(); err != nil {
			return run{}, err
		}
	}
}

// nextStray is next behind the NUL bytes that follow. ok is false where only such follow.
func (s *source) nextStray() (r run, ok bool, err error) {
	if ok, err = s.skip(); ok {
		r, err = s.next()
	}
	return r, ok, err
}

// take takes the first n bytes of buf, a copy where these would keep a large buffer from being
// freed.
func (r *run) take(buf []byte, n int) {
	r.long = r.long || n > longest
	switch {
	case r.long:
	case cap(buf) > 2*lastStep && n < cap(buf)/2:
		r.raw = bytes.Clone(buf[:n])
	default:
		r.raw = buf[:n:n]
	}
}

// drop moves n bytes on.
func (s *source) drop(n int) {
	s.off += int64(n)
	s.buf = s.buf[n:]
	if len(s.buf) == 0 {
		s.buf = nil
	}
}

// read reads more behind buf: at least as much again, so that a long line is not copied often.
func (s *source) read() error {
	room := min(max(s.step, len(s.buf)), longest+1-len(s.buf))
	buf := make([]byte, len(s.buf)+room)
	have := copy(buf, s.buf)
	n, err := s.file.ReadAt(buf[have:], s.off+int64(have))
	s.buf = buf[:have+n]
	s.step = min(2*s.step, lastStep)
	s.eof = err == io.EOF
	return noEOF(err)
}

// skip moves to the next byte that is not NUL. It returns false where there is none. Behind the
// lines of a journal, NUL bytes are all that there is to read, and they may be many.
func (s *source) skip() (bool, error) {
	var nul []byte
	for {
		rest := trimNUL(s.buf)
		s.drop(len(s.buf) - len(rest))
		if len(rest) > 0 || s.eof {
			return len(rest) > 0, nil
		}
		at, ok := nextData(s.file, s.off)
		if !ok {
			s.eof = true
			return false, nil
		}
		if nul == nil {
			nul = make([]byte, nulStep)
		}
		n, err := s.file.ReadAt(nul, at)
		s.off, s.buf, s.eof = at, nul[:n], err == io.EOF
		if noEOF(err) != nil {
			return false, err
		}
	}
}

// nextData returns where the next byte of the file is that is not in a hole; ok is false
// where there is none. Without an answer of the filesystem it is off.
func nextData(file *os.File, off int64) (at int64, ok bool) {
	at, err := file.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return off, false
	case err != nil || at < off:
		return off, true
	}
	return at, true
}

// indexEnd returns where the first NUL byte or newline is, or -1. It looks at short pieces: the
// other of the two may be far away.
func indexEnd(b []byte) int {
	const piece = 512
	for at := 0; at < len(b); at += piece {
		part := b[at:min(at+piece, len(b))]
		n := bytes.IndexByte(part, '\n')
		if n >= 0 {
			part = part[:n]
		}
		if z := bytes.IndexByte(part, 0); z >= 0 {
			n = z
		}
		if n >= 0 {
			return at + n
		}
	}
	return -1
}

// zeros are for writing.
var zeros [FillChunk]byte

// trimNUL returns b without the NUL bytes that it begins with. There may be many: where they are
// all, each byte is the same as the one before it.
func trimNUL(b []byte) []byte {
	if len(b) > 0 && b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) {
		return nil
	}
	return bytes.TrimLeft(b, "\x00")
}
