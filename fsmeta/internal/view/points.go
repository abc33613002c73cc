package view

import (
	"sync"

	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// points is what this process's readers may see, and which of them are at work.
type points struct {
	mu        sync.Mutex
	published uint64
	names     format.Names // after the published transaction
	readers   Reader       // ring, oldest first
}

// Point is a point in time that something is read at.
type Point struct {
	At    uint64       // the last transaction that is seen
	names format.Names // after that transaction
	index *index
}

// Names returns which snapshots the journal says that there are.
func (p *Point) Names() format.Names { return p.names }

// Reader is a read-only transaction: a point in time that the View keeps readable until
// End is called.
type Reader struct {
	Point
	prev, next *Reader
}

func (p *points) init(published uint64, names format.Names) {
	p.published, p.names = published, names
	p.readers.prev, p.readers.next = &p.readers, &p.readers
}

// begin puts r at the newest point.
func (p *points) begin(r *Reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.At, r.names = p.published, p.names
	r.prev, r.next = p.readers.prev, &p.readers
	r.prev.next, r.next.prev = r, r
}

// end takes r out, and reports whether it was the oldest.
func (p *points) end(r *Reader) (oldest bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest = p.readers.next == r
	r.prev.next, r.next.prev = r.next, r.prev
	return oldest
}

// publish moves the newest point to txn, unless it is there or beyond. show, unless it is
// nil, shows txn to other processes meanwhile: a reader that begins now waits for that, so
// that it does not find less than one elsewhere that began before.
func (p *points) publish(txn uint64, names format.Names, show func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if show != nil {
		show()
	}
	if txn > p.published || txn == p.published && names.Known {
		p.published, p.names = txn, names
	}
}

// oldest returns the oldest point that a reader reads at, or may begin to.
func (p *points) oldest() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := p.readers.next; first != &p.readers {
		return first.At
	}
	return p.published
}
