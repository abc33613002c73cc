package powercut

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// Every sector that a cut leaves is as it was flushed last, or as a later write before the
// cut has made it.
func TestCutsAreAllowed(t *testing.T) {
	const blocks = 8
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		rec := newRecord(image{}, nil)
		rec.add(event{kind: begun})
		rec.add(event{kind: flushed})
		rec.add(event{kind: noted})
		for range 30 {
			if r.IntN(4) == 0 {
				rec.add(event{kind: flushed})
				continue
			}
			from := r.IntN(blocks * blockSize / sectorSize)
			n := 1 + r.IntN(blocks*blockSize/sectorSize-from)
			rec.add(event{kind: written, offset: int64(from) * sectorSize, data: sectorsOf(r.Uint32N(1<<31), n)})
		}
		images := newCutter(rec)
		for _, c := range randomCuts(r, rec, 20) {
			left := make([]byte, blocks*blockSize)
			images.image(c).read(0, left)
			for at := 0; at < len(left); at += sectorSize {
				if !allowed(rec.events[:c.at], int64(at), left[at:at+sectorSize]) {
					t.Fatalf("seed %d, cut %v: the sector at %d is as it can't be", seed, c, at)
				}
			}
		}
	}
}

// sectorsOf returns sectors that are text, or not, and say which write they are of.
func sectorsOf(number uint32, n int) []byte {
	fill := []byte("text")
	if number%2 == 0 {
		fill = []byte{0xff, 0xff, 0xff, 0xff}
	}
	data := bytes.Repeat(fill, n*sectorSize/4)
	for at := 0; at < len(data); at += sectorSize {
		if number%2 == 0 {
			binary.BigEndian.PutUint32(data[at:], number)
			continue
		}
		for i := range 31 {
			data[at+i] = '0' + byte(number>>i&1)
		}
	}
	return data
}

// allowed reports whether a sector may be as it is after some events.
func allowed(events []event, at int64, sector []byte) bool {
	settled := false // by a flush that is later than the event looked at
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		if e.kind == flushed {
			settled = true
		}
		if e.kind != written || at < e.offset || at >= e.offset+int64(len(e.data)) {
			continue
		}
		if bytes.Equal(e.data[at-e.offset:][:sectorSize], sector) {
			return true
		}
		if settled {
			return false
		}
	}
	return bytes.Equal(sector, zeroBlock[:sectorSize])
}

// Of a cut with all that was written the image is what the disk was then, and one without
// what was not flushed leaves that out.
func TestCutsInOrder(t *testing.T) {
	rec := newRecord(image{}, nil)
	write := func(text string) {
		rec.add(event{kind: written, offset: 100, data: []byte(text)})
	}
	write("one")
	rec.add(event{kind: flushed})
	write("two")
	write("six")
	for _, c := range []struct {
		at   int
		keep func(*rand.Rand, []event) []event
		want string
	}{
		{1, nothing, "\x00\x00\x00"},
		{1, everything, "one"},
		{2, nothing, "one"},
		{3, everything, "two"},
		{4, everything, "six"},
		{4, nothing, "one"},
	} {
		got := make([]byte, 3)
		newCutter(rec).image(cut{at: c.at, keep: c.keep}).read(100, got)
		if string(got) != c.want {
			t.Errorf("after event %d: %q, want %q", c.at, got, c.want)
		}
	}
}
