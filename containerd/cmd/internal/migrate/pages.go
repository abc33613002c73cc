//go:build linux

package migrate

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// What bbolt writes at the beginning of pages, see internal/common in bbolt. Numbers have the
// byte order of the machine.
const (
	pageHeader    = 16 // identifier (8 bytes), flags (2), count (2), overflow (4)
	element       = 16 // of a branch: position, key size (4 each), page (8); of a leaf: flags, position, key size, value size
	bucketHeader  = 16 // root page (8), sequence (8); an inline page follows where there is none
	branchPage    = 0x01
	leafPage      = 0x02
	freelistPage  = 0x10
	bucketElement = 0x01

	metaPages     = 2
	metaFreelist  = pageHeader + 32
	metaTxid      = pageHeader + 48
	metaEnd       = pageHeader + 64
	noFreelist    = 1<<64 - 1
	manyFreePages = 0xffff // the count is the first number then
)

// checkPages looks whether every page of a bbolt file is what it has to be, before bbolt
// reads it: where pages refer to themselves, it runs until the memory is used up, and where
// a file has no list of free pages, it looks for them in a goroutine of its own when it is
// opened for writing, in which a fault ends the process.
func checkPages(tx *bolt.Tx) error {
	path := tx.DB().Path()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	size := int64(tx.DB().Info().PageSize)
	c := &pages{file: f, size: size, count: uint64(tx.Size() / size), seen: map[uint64]bool{}}
	err = c.tree(uint64(tx.Cursor().Bucket().RootPage()))
	if err == nil {
		err = c.freelist(uint64(tx.ID()))
	}
	if err != nil {
		return fmt.Errorf("%s is damaged: %w: restore it from a copy: %w", path, err, errdefs.ErrDataLoss)
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
func (c *pages) read(id uint64) ([]byte, error) {
	header := make([]byte, pageHeader)
	if id < metaPages || id >= c.count {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	if _, err := c.file.ReadAt(header, int64(id)*c.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if binary.NativeEndian.Uint64(header) != id || id+overflow >= c.count {
		return nil, fmt.Errorf("page %d is none", id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	data := make([]byte, int64(overflow+1)*c.size)
	if _, err := c.file.ReadAt(data, int64(id)*c.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return data, nil
}

// tree checks a page and those below.
func (c *pages) tree(id uint64) error {
	data, err := c.read(id)
	if err != nil {
		return err
	}
	if err := c.elements(data, false); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements checks what is in a page, which may be inline: a leaf that has no buckets.
func (c *pages) elements(data []byte, inline bool) error {
	if len(data) < pageHeader {
		return fmt.Errorf("%d bytes are no page", len(data))
	}
	flags, count := binary.NativeEndian.Uint16(data[8:]), int(binary.NativeEndian.Uint16(data[10:]))
	branch := flags == branchPage
	if !branch && flags != leafPage || branch && (inline || count == 0) || pageHeader+count*element > len(data) {
		return fmt.Errorf("flags %#x and %d elements", flags, count)
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*element
		e := data[at : at+element]
		position, keySize, valueSize := field(e, 0), field(e, 4), uint64(0)
		if !branch {
			position, keySize, valueSize = field(e, 4), field(e, 8), field(e, 12)
		}
		begin := uint64(at) + position
		if position < element || begin+keySize+valueSize > uint64(len(data)) {
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
			err = c.tree(binary.NativeEndian.Uint64(e[8:]))
		case field(e, 0) == bucketElement && !inline:
			err = c.bucket(value)
		case field(e, 0) != 0:
			err = fmt.Errorf("flags %#x", field(e, 0))
		}
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

func field(e []byte, at int) uint64 { return uint64(binary.NativeEndian.Uint32(e[at:])) }

// bucket checks a bucket, given what its element has.
func (c *pages) bucket(value []byte) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("%d bytes are no bucket", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(root)
	}
	return c.elements(value[bucketHeader:], true)
}

// freelist checks the list of free pages, if there is one, of the transaction that is the last.
func (c *pages) freelist(txid uint64) error {
	for i := range int64(metaPages) {
		meta := make([]byte, metaEnd)
		if _, err := c.file.ReadAt(meta, i*c.size); err != nil {
			return err
		}
		list := binary.NativeEndian.Uint64(meta[metaFreelist:])
		if binary.NativeEndian.Uint64(meta[metaTxid:]) != txid || list == noFreelist {
			continue
		}
		data, err := c.read(list)
		if err != nil {
			return fmt.Errorf("list of free pages: %w", err)
		}
		begin, count := uint64(pageHeader), uint64(binary.NativeEndian.Uint16(data[10:]))
		if count == manyFreePages {
			begin, count = begin+8, binary.NativeEndian.Uint64(data[begin:])
		}
		if flags := binary.NativeEndian.Uint16(data[8:]); flags != freelistPage || count > (uint64(len(data))-begin)/8 {
			return fmt.Errorf("list of free pages: flags %#x and %d pages", flags, count)
		}
		for ; count > 0; begin, count = begin+8, count-1 {
			if id := binary.NativeEndian.Uint64(data[begin:]); id < metaPages || id >= c.count || c.seen[id] {
				return fmt.Errorf("list of free pages: page %d is not free", id)
			}
		}
	}
	return nil
}
