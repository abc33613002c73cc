package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// What bbolt writes at the beginning of pages, see internal/common in bbolt. Numbers have the byte order of
// the machine. containerd/cmd/internal/migrate checks more, since it opens files for writing.
const (
	pageHeader    = 16 // identifier (8 bytes), flags (2), count (2), overflow (4)
	pageElement   = 16 // of a branch: position, key size (4 each), page (8); of a leaf: flags, position, key size, value size
	bucketHeader  = 16 // root page (8), sequence (8); an inline page follows where there is none
	branchPage    = 0x01
	bucketElement = 0x01
)

// checkPages returns an error where the pages of a file don't form a tree. bbolt follows pages that refer
// to themselves until the memory is used up.
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
	if id >= p.count || p.seen[id] {
		return nil, fmt.Errorf("page %d is missing, or used twice", id)
	}
	p.seen[id] = true
	header := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(header, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if id+overflow >= p.count {
		return nil, fmt.Errorf("page %d reaches beyond the file", id)
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
	if err != nil {
		return err
	}
	branch, count := binary.NativeEndian.Uint16(data[8:])&branchPage != 0, int(binary.NativeEndian.Uint16(data[10:]))
	if pageHeader+count*pageElement > len(data) {
		return fmt.Errorf("page %d has %d elements", id, count)
	}
	for i := range count {
		at := pageHeader + i*pageElement
		e := data[at : at+pageElement]
		below := uint64(0)
		if branch {
			below = binary.NativeEndian.Uint64(e[8:])
		} else if below, err = bucketRoot(data, at); err != nil {
			return fmt.Errorf("page %d: element %d: %w", id, i, err)
		}
		if branch || below != 0 {
			if err := p.tree(below); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucketRoot returns the page of the bucket that an element of a leaf has, 0 where it has none, or an inline one.
func bucketRoot(data []byte, at int) (uint64, error) {
	field := func(i int) uint64 { return uint64(binary.NativeEndian.Uint32(data[at+i:])) }
	if field(0)&bucketElement == 0 {
		return 0, nil
	}
	begin := uint64(at) + field(4) + field(8)
	if begin+bucketHeader > uint64(len(data)) {
		return 0, errors.New("it reaches beyond the page")
	}
	return binary.NativeEndian.Uint64(data[begin:]), nil
}
