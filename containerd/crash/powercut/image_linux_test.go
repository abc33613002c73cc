package powercut

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
)

// blockSize is what filesystems rely on to be written as a whole, or not at all.
const blockSize = 4096

// image is the content of a disk: its blocks that are not all zero, by their offsets. The
// blocks are never changed, so that images can share them.
type image map[int64][]byte

var zeroBlock [blockSize]byte

// readImage returns the content of a file.
func readImage(path string) (image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := image{}
	data := make([]byte, 256*blockSize)
	for offset := int64(0); ; {
		n, err := io.ReadFull(f, data)
		m.write(offset, bytes.Clone(data[:n]))
		offset += int64(n)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (m image) clone() image { return maps.Clone(m) }

// write puts data in place and may keep it.
func (m image) write(offset int64, data []byte) {
	for len(data) > 0 {
		at := offset % blockSize
		n := min(blockSize-at, int64(len(data)))
		block := data[:n:n]
		if n < blockSize {
			whole := bytes.Clone(zeroBlock[:])
			copy(whole, m[offset-at])
			copy(whole[at:], block)
			block = whole
		}
		if bytes.Equal(block, zeroBlock[:]) {
			delete(m, offset-at)
		} else {
			m[offset-at] = block
		}
		offset, data = offset+n, data[n:]
	}
}

func (m image) read(offset int64, data []byte) {
	for len(data) > 0 {
		at := offset % blockSize
		n := min(blockSize-at, int64(len(data)))
		if block, ok := m[offset-at]; ok {
			copy(data[:n], block[at:])
		} else {
			clear(data[:n])
		}
		offset, data = offset+n, data[n:]
	}
}

// writeTo makes a file of a given size the image. The file is empty.
func (m image) writeTo(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	for offset, block := range m {
		if _, err := f.WriteAt(block, offset); err != nil {
			return err
		}
	}
	return nil
}
