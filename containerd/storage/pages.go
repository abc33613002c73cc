package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// What bbolt writes at the beginning of pages, see internal/common in bbolt. Numbers have the byte order of
// the machine. containerd/cmd/internal/migrate checks more, since it opens files for writing.
const (
	metaPages     = 2
	pageHeader    = 16 // identifier (8 bytes), flags (2), count (2), overflow (4)
	pageElement   = 16 // of a branch: position, key size (4 each), page (8); of a leaf: flags, position, key size, value size
	bucketHeader  = 16 // root page (8), sequence (8); an inline page follows where there is none
	branchPage    = 0x01
	leafPage      = 0x02
	bucketElement = 0x01
)

// checkPages returns an error where the pages of a file don't form a tree, or what is in them is not as bbolt writes
// it. bbolt follows pages that refer to themselves until the memory is used up, and takes for keys and
// values what is behind the end of a page, or of the file: other memory of the process.
func checkPages(tx *bolt.Tx, file io.ReaderAt) error {
	size := int64(tx.DB().Info().PageSize)
	p := &pages{file: file, size: size, count: uint64(tx.Size() / size), seen: map[uint64]bool{}}
	if err := p.tree(uint64(tx.Cursor().Bucket().RootPage())); err != nil {
		return fmt.Errorf("the file is damaged: %w: %w", err, errdefs.ErrDataLoss)
	}
	return nil
}

// pages are those of a bbolt file.
type pages struct {
	file  io.ReaderAt
	size  int64
	count uint64
	seen  map[uint64]bool
}

// read returns a page with all that belongs to it. Each can be read once.
func (p *pages) read(id uint64) ([]byte, error) {
	header := make([]byte, pageHeader)
	if id < metaPages || id >= p.count {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	if _, err := p.file.ReadAt(header, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if binary.NativeEndian.Uint64(header) != id || id+overflow >= p.count {
		return nil, fmt.Errorf("page %d is none", id)
	}
	for i := id; i <= id+overflow; i++ {
		if p.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		p.seen[i] = true
	}
	data := make([]byte, int64(overflow+1)*p.size)
	if _, err := p.file.ReadAt(data, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return data, nil
}

// tree checks a page and those below.
func (p *pages) tree(id uint64) error {
	data, err := p.read(id)
	if err == nil {
		err = p.elements(data, false)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks what is in a page, which may be inline: a leaf that has no buckets.
func (p *pages) elements(data []byte, inline bool) error {
	if len(data) < pageHeader {
		return fmt.Errorf("%d bytes are no page", len(data))
	}
	flags, count := binary.NativeEndian.Uint16(data[8:]), int(binary.NativeEndian.Uint16(data[10:]))
	branch := flags == branchPage
	if !branch && flags != leafPage || branch && (inline || count == 0) || pageHeader+count*pageElement > len(data) {
		return fmt.Errorf("flags %#x and %d elements", flags, count)
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*pageElement
		e := data[at : at+pageElement]
		kind, position, keySize, valueSize := field(e, 0), field(e, 4), field(e, 8), field(e, 12)
		if branch {
			kind, position, keySize, valueSize = 0, field(e, 0), field(e, 4), 0
		}
		begin := uint64(at) + position
		if position < pageElement || begin+keySize+valueSize > uint64(len(data)) {
			return fmt.Errorf("element %d reaches beyond the page", i)
		}
		key, value := data[begin:begin+keySize], data[begin+keySize:begin+keySize+valueSize]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return fmt.Errorf("element %d is not in order", i)
		}
		last = key
		var err error
		switch {
		case branch:
			err = p.tree(binary.NativeEndian.Uint64(e[8:]))
		case kind == bucketElement && !inline:
			err = p.bucket(value)
		case kind != 0:
			err = fmt.Errorf("flags %#x", kind)
		}
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

func field(e []byte, at int) uint64 { return uint64(binary.NativeEndian.Uint32(e[at:])) }

// bucket checks a bucket, given what its element has.
func (p *pages) bucket(value []byte) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("%d bytes are no bucket", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return p.tree(root)
	}
	return p.elements(value[bucketHeader:], true)
}
