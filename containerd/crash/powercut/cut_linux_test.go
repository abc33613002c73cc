package powercut

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// cut is a power cut: what is left is all that was flushed before a point of a record, some
// of the writes between that flush and the point, and nothing of what came later.
type cut struct {
	at   int // so many events had happened
	how  string
	keep func(*rand.Rand, []event) []event // which writes of those since the last flush
	rand *rand.Rand
}

func (c cut) String() string { return fmt.Sprintf("after event %d, %s", c.at, c.how) }

// ways are the ways in which writes may be missing. Their order is of no account: of two
// writes to one place, the later cannot be undone by the earlier that comes late, as the
// disk has but one cache. That the later alone is missing has the same result, and is here.
var ways = []struct {
	how  string
	keep func(*rand.Rand, []event) []event
}{
	{"with all that was written", everything},
	{"with all that was written", everything},
	{"without what was not flushed", nothing},
	{"with some of what was not flushed", some},
	{"with some of what was not flushed", some},
	{"without one write", allButOne},
	{"with one write", one},
	{"with some blocks of what was not flushed", someBlocks},
	{"with some sectors of what was not flushed", someSectors},
	{"with some sectors of one write", oneTorn},
}

func everything(_ *rand.Rand, since []event) []event { return since }

func nothing(*rand.Rand, []event) []event { return nil }

func some(r *rand.Rand, since []event) []event {
	share := []float64{0.1, 0.5, 0.9}[r.IntN(3)]
	return slices.DeleteFunc(slices.Clone(since), func(event) bool { return r.Float64() >= share })
}

func allButOne(r *rand.Rand, since []event) []event {
	if len(since) == 0 {
		return nil
	}
	i := r.IntN(len(since))
	return slices.Delete(slices.Clone(since), i, i+1)
}

func one(r *rand.Rand, since []event) []event {
	if len(since) == 0 {
		return nil
	}
	i := r.IntN(len(since))
	return since[i : i+1]
}

func someBlocks(r *rand.Rand, since []event) []event {
	var parts []event
	for _, w := range since {
		parts = append(parts, pieces(w, blockSize)...)
	}
	return some(r, parts)
}

func someSectors(r *rand.Rand, since []event) []event {
	var parts []event
	for _, w := range since {
		parts = append(parts, sectors(w)...)
	}
	return some(r, parts)
}

// oneTorn keeps all but some sectors of one write, which is likely one of the last.
func oneTorn(r *rand.Rand, since []event) []event {
	if len(since) == 0 {
		return nil
	}
	i := len(since) - 1 - r.IntN(min(4, len(since)))
	return slices.Concat(since[:i], some(r, sectors(since[i])), since[i+1:])
}

const sectorSize = 512

// sectors takes a write apart into what a disk may have written of it. Blocks are taken
// apart only where they are a file's content: filesystems rely on whole ones for what is
// their own, as all disks of today provide; but a store is to do with less.
func sectors(w event) []event {
	var parts []event
	for _, p := range pieces(w, blockSize) {
		if isText(p.data) {
			parts = append(parts, pieces(p, sectorSize)...)
		} else {
			parts = append(parts, p)
		}
	}
	return parts
}

// isText reports whether a block is of a journal or a metadata.json, and not of the
// filesystem's own: it is ASCII, filled up with NUL bytes.
func isText(block []byte) bool {
	text := 0
	for _, c := range block {
		switch {
		case c == 0:
		case c == '\n' || ' ' <= c && c <= '~':
			text++
		default:
			return false
		}
	}
	return text >= 64
}

// pieces takes a write apart at all multiples of a size.
func pieces(w event, size int64) []event {
	var parts []event
	for offset, data := w.offset, w.data; len(data) > 0; {
		n := min(size-offset%size, int64(len(data)))
		parts = append(parts, event{kind: written, offset: offset, data: data[:n:n]})
		offset, data = offset+n, data[n:]
	}
	return parts
}

// randomCuts returns cuts of a record, in order.
func randomCuts(r *rand.Rand, rec *record, n int) []cut {
	places := map[kind][]int{}
	for i, e := range rec.events {
		places[e.kind] = append(places[e.kind], i)
	}
	cuts := make([]cut, n)
	for i := range cuts {
		way := ways[r.IntN(len(ways))]
		at := min(randomPoint(r, places, len(rec.events)), len(rec.events))
		cuts[i] = cut{at: at, how: way.how, keep: way.keep, rand: rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))}
	}
	slices.SortFunc(cuts, func(a, b cut) int { return a.at - b.at })
	return cuts
}

// randomPoint returns any point of a record, or one of those where most is at stake.
func randomPoint(r *rand.Rand, places map[kind][]int, events int) int {
	at := func(k kind) int { return places[k][r.IntN(len(places[k]))] }
	switch r.IntN(8) {
	case 0, 1, 2: // before a flush is through
		return at(flushed)
	case 3, 4: // when something was promised, or soon after
		return at(noted) + 1 + r.IntN(4)
	case 5: // while a store is being made, or what was left of it is taken over
		return at(begun) + 1 + r.IntN(100)
	}
	return 1 + r.IntN(events)
}

// cutter makes the images that cuts of one record leave, of one cut after the other.
type cutter struct {
	record  *record
	settled image // what was flushed
	at      int   // up to here
}

func newCutter(r *record) *cutter { return &cutter{record: r, settled: r.base.clone()} }

// image returns what a cut leaves. Cuts must be asked for in order.
func (c *cutter) image(cut cut) image {
	var since []event
	for _, e := range c.record.events[c.at:cut.at] {
		switch e.kind {
		case written:
			since = append(since, e)
		case flushed:
			c.settle(since)
			since = nil
		}
	}
	// What is not flushed is looked at again by the next cut.
	c.at = lastFlush(c.record.events, c.at, cut.at)
	left := c.settled.clone()
	for _, e := range cut.keep(cut.rand, since) {
		left.write(e.offset, e.data)
	}
	return left
}

func (c *cutter) settle(writes []event) {
	for _, e := range writes {
		c.settled.write(e.offset, e.data)
	}
}

// lastFlush returns the point after the last flush between two, or the first of them.
func lastFlush(events []event, from, to int) int {
	for i := to; i > from; i-- {
		if events[i-1].kind == flushed {
			return i
		}
	}
	return from
}
