package fsmeta

import (
	"bytes"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// index is what is known in memory of the snapshots: for each name, its versions
// by transaction. Journal lines add versions, reading the tree adds the oldest.
// All of it but the lines is only speed.
//
// An index is good from the moment it was made until the journal has a gap; then
// it is stale: what it holds stays true for the transactions that use it, but it
// can't be added to any more.
type index struct {
	path        string            // of the journal, for errors
	remember    func(name string) // is told every name in a version
	stale       atomic.Bool
	searches    atomic.Int32  // how often pending was searched
	generations atomic.Uint64 // see generation; changes under mu

	mu      sync.RWMutex
	pending []line            // lines added and not decoded yet, oldest first; see ready
	entries map[string]*entry // a name that is not in it is as the tree has it, or nothing if listed
	tip     uint64            // the last transaction added
	usedAt  uint64            // see firstUse

	listed   bool                // entries has every name there is
	sorted   []*entry            // by name, those known when it was made; never changed in place
	added    []*entry            // the others
	dropped  int                 // how many of sorted are forgotten
	unnamed  map[string]bool     // entries of snapshots/ whose name can't be known
	children map[string]int      // by parent, at the tip; nil until it is needed
	allRead  bool                // every entry was read, and none is damaged
	orphans  map[string]bool     // damaged snapshots whose parent could not be known for children
	byID     map[string][]*entry // who has or had an identifier; nil until it is needed

	points points
}

// never is after every transaction.
const never = math.MaxUint64

// patience is how many lookups search the pending lines before all are decoded.
const patience = 32

// entry is one name.
type entry struct {
	name    string
	head    *version // newest first; nil: not read yet
	dropped bool     // forgotten: no longer in index.entries
}

// version is a name's state from a transaction on, nil if it wasn't there.
type version struct {
	txn  uint64 // 0 for the oldest that is known
	meta *metadata
	prev *version
}

// at returns the version that a reader at g sees, nil if it isn't known.
func (e *entry) at(g uint64) *version {
	v := e.head
	for v != nil && v.txn > g {
		v = v.prev
	}
	return v
}

// points is what this process's readers may see, and which of them are at work.
type points struct {
	mu        sync.Mutex
	published uint64
	readers   reader // ring, oldest first
}

// reader is a transaction that reads at a point in time.
type reader struct {
	at         uint64
	prev, next *reader
}

func (p *points) init(published uint64) {
	p.published = published
	p.readers.prev, p.readers.next = &p.readers, &p.readers
}

// begin puts r at the newest point.
func (p *points) begin(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.at = p.published
	r.prev, r.next = p.readers.prev, &p.readers
	r.prev.next, r.next.prev = r, r
}

func (p *points) end(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.prev.next, r.next.prev = r.next, r.prev
}

func (p *points) publish(txn uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = max(p.published, txn)
}

// publishWith publishes txn while show shows it to other processes: whoever begins
// meanwhile waits for that.
func (p *points) publishWith(txn uint64, show func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	show()
	p.published = max(p.published, txn)
}

func (p *points) newest() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.published
}

// oldest returns the oldest point that somebody reads at, or may begin to.
func (p *points) oldest() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := p.readers.next; first != &p.readers {
		return first.at
	}
	return p.published
}

func newIndex(path string, txn uint64, remember func(string)) *index {
	ix := &index{path: path, remember: remember, entries: map[string]*entry{}, unnamed: map[string]bool{}, tip: txn}
	if txn == 0 {
		ix.usedAt = never
	}
	ix.points.init(txn)
	return ix
}

// addLines takes lines in, which follow the tip. They are decoded when somebody
// needs more than a few single names: a process that only looks up one or two should
// not pay for them.
func (ix *index) addLines(lines []line) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for _, l := range lines {
		ix.pending = append(ix.pending, l)
		ix.tip = l.txn
	}
	ix.generations.Add(1)
}

// addRecord takes a transaction in that this process has just written.
func (ix *index) addRecord(r *record) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.addRecordLocked(r)
	ix.tip = r.txn
	ix.generations.Add(1)
}

// ready decodes the lines that were taken in.
func (ix *index) ready() error {
	ix.mu.RLock()
	done := len(ix.pending) == 0
	ix.mu.RUnlock()
	if done {
		return nil
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.readyLocked()
}

func (ix *index) readyLocked() error {
	for len(ix.pending) > 0 {
		r, err := ix.pending[0].decode()
		if err != nil {
			return &DamagedError{Path: ix.path, Err: err}
		}
		r.txn = ix.pending[0].txn
		ix.addRecordLocked(r)
		ix.pending = ix.pending[1:]
	}
	ix.pending = nil
	ix.searches.Store(0)
	return nil
}

func (ix *index) addRecordLocked(r *record) {
	oldest := ix.points.oldest()
	if len(r.changes) > 0 {
		ix.noteUseLocked(r.txn)
	}
	for i := range r.changes {
		c := &r.changes[i]
		e := ix.entries[c.name]
		if e == nil {
			e = ix.newEntryLocked(c.name)
		}
		if e.head == nil {
			ix.pushLocked(e, &version{meta: c.before})
		}
		ix.pushLocked(e, &version{txn: r.txn, meta: c.after, prev: e.head})
		ix.cutLocked(e, oldest)
		if ix.children != nil {
			if !ix.orphans[c.name] {
				ix.countLocked(c.before, -1)
			}
			ix.countLocked(c.after, +1)
			delete(ix.orphans, c.name)
		}
	}
}

// noteUse notes that something was committed in txn or before.
func (ix *index) noteUse(txn uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.noteUseLocked(txn)
}

func (ix *index) noteUseLocked(txn uint64) {
	ix.usedAt = min(ix.usedAt, txn)
}

// firstUse returns the transaction in which, or before which, something was committed
// for the first time, or never.
func (ix *index) firstUse() (uint64, error) {
	if err := ix.ready(); err != nil {
		return 0, err
	}
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.usedAt, nil
}

func (ix *index) newEntryLocked(name string) *entry {
	e := &entry{name: name}
	ix.entries[name] = e
	if ix.listed {
		ix.added = append(ix.added, e)
	}
	return e
}

func (ix *index) pushLocked(e *entry, v *version) {
	e.head = v
	if v.meta != nil {
		ix.remember(v.meta.name)
		ix.remember(v.meta.parent)
	}
	if ix.byID != nil && v.meta != nil {
		ix.noteIDLocked(v.meta.id, e)
	}
}

// cutLocked drops the versions of e that nobody who reads at oldest or later sees.
func (ix *index) cutLocked(e *entry, oldest uint64) {
	v := e.at(oldest)
	if v == nil {
		return
	}
	old := v.prev
	v.prev = nil
	for ; old != nil && ix.byID != nil; old = old.prev {
		if old.meta != nil && !e.hadID(old.meta.id) {
			ix.dropIDLocked(old.meta.id, e)
		}
	}
}

func (e *entry) hadID(id string) bool {
	for v := e.head; v != nil; v = v.prev {
		if v.meta != nil && v.meta.id == id {
			return true
		}
	}
	return false
}

func (ix *index) dropIDLocked(id string, e *entry) {
	rest := slices.DeleteFunc(ix.byID[id], func(o *entry) bool { return o == e })
	if len(rest) == 0 {
		delete(ix.byID, id)
	} else {
		ix.byID[id] = rest
	}
}

func (ix *index) noteIDLocked(id string, e *entry) {
	if !slices.Contains(ix.byID[id], e) {
		ix.byID[id] = append(ix.byID[id], e)
	}
}

func (ix *index) countLocked(m *metadata, delta int) {
	if m == nil || m.parent == "" {
		return
	}
	if n := ix.children[m.parent] + delta; n != 0 {
		ix.children[m.parent] = n
	} else {
		delete(ix.children, m.parent)
	}
}

// find returns the version of name at g. Where it isn't known, known is false and
// the tree has to be asked.
func (ix *index) find(name string, g uint64) (m *metadata, known bool, err error) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if len(ix.pending) > 0 {
		if ix.searches.Add(1) > patience {
			ix.mu.RUnlock()
			err := ix.ready()
			ix.mu.RLock()
			if err != nil {
				return nil, false, err
			}
		} else if m, known, err := ix.searchLocked(name, g); known || err != nil {
			return m, known, err
		}
	}
	e := ix.entries[name]
	if e == nil {
		// Or it is one of those that can't be read to know their names.
		return nil, ix.listed && (len(ix.unnamed) == 0 || !ix.unnamed[encodeName(name)]), nil
	}
	if v := e.at(g); v != nil {
		return v.meta, true, nil
	}
	return nil, false, nil
}

// searchLocked is find in the pending lines alone.
func (ix *index) searchLocked(name string, g uint64) (m *metadata, known bool, err error) {
	needle := needleOf(name)
	for _, l := range ix.pending {
		if known && l.txn > g {
			break
		}
		if !bytes.Contains(l.raw, needle) {
			continue
		}
		r, err := l.decode()
		if err != nil {
			return nil, false, &DamagedError{Path: ix.path, Err: err}
		}
		i := slices.IndexFunc(r.changes, func(c change) bool { return c.name == name })
		switch {
		case i < 0: // mentioned, as a parent say
		case l.txn <= g:
			m, known = r.changes[i].after, true
		case ix.entries[name] != nil && ix.entries[name].at(g) != nil:
			return nil, false, nil // known from before these lines
		default:
			return r.changes[i].before, true, nil
		}
	}
	return m, known, nil
}

// needleOf returns what every line about name contains: the end of the name as lines
// spell it, short enough for bytes.Contains to be fast.
func needleOf(name string) []byte {
	quoted := appendString(nil, name)
	return quoted[max(0, len(quoted)-40):]
}

// generation changes whenever lines are added.
func (ix *index) generation() uint64 { return ix.generations.Load() }

// learn keeps what the tree has for name, which no line is about that was added up to
// a generation. If others were added since, or somebody else has learned it, nothing
// happens. Of names that aren't there nothing is kept.
func (ix *index) learn(name string, m *metadata, generation uint64) {
	if m == nil {
		return
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.stale.Load() || ix.generations.Load() != generation {
		return
	}
	e := ix.entries[name]
	if e == nil {
		if ix.listed {
			return // forgotten meanwhile
		}
		e = ix.newEntryLocked(name)
	}
	if e.head == nil {
		ix.pushLocked(e, &version{meta: m})
	}
}

// setListing takes in the names that the tree has. A name that the tree has lost
// meanwhile has come by a line, or is found to be gone when it is read.
func (ix *index) setListing(names []string, unnamed []string) error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.listed || ix.stale.Load() {
		return nil
	}
	if err := ix.readyLocked(); err != nil {
		return err
	}
	for _, name := range names {
		if ix.entries[name] == nil {
			ix.newEntryLocked(name)
		}
	}
	for _, entry := range unnamed {
		ix.unnamed[entry] = true
	}
	ix.listed = true
	ix.added = slices.Collect(maps.Values(ix.entries))
	return nil
}

// listing returns every entry in order of the names, and what has no name; or ok
// == false where the tree has to be listed first. The slice is shared: don't
// change it.
func (ix *index) listing() (entries []*entry, unnamed []string, ok bool, err error) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if err := ix.readyLocked(); err != nil || !ix.listed {
		return nil, nil, false, err
	}
	if len(ix.added) > 0 || ix.dropped > len(ix.sorted)/4 {
		byName := func(a, b *entry) int { return strings.Compare(a.name, b.name) }
		slices.SortFunc(ix.added, byName)
		ix.sorted = mergeEntries(ix.sorted, ix.added)
		ix.added, ix.dropped = nil, 0
	}
	return ix.sorted, slices.Sorted(maps.Keys(ix.unnamed)), true, nil
}

// mergeEntries merges two sorted lists into a new one, without what was dropped.
func mergeEntries(a, b []*entry) []*entry {
	out := make([]*entry, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[0].name < a[0].name {
			from = &b
		}
		if e := (*from)[0]; !e.dropped {
			out = append(out, e)
		}
		*from = (*from)[1:]
	}
	return out
}

// versions looks up many entries at once: for each the version at g, nil where it
// isn't known.
func (ix *index) versions(into []*version, entries []*entry, g uint64) []*version {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	for _, e := range entries {
		into = append(into, e.at(g))
	}
	return into
}

// preferTree adds, for the names in the lines, versions that the tree has and that
// are later than theirs, and returns the latest transaction it knows of then. It is
// for a damaged journal, of which lines are missing.
func (ix *index) preferTree(read func(name string) (*metadata, error)) uint64 {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for name, e := range ix.entries {
		if e.head == nil || e.head.txn == 0 {
			continue
		}
		if m, err := read(name); err == nil && m != nil && m.txn > e.head.txn {
			ix.pushLocked(e, &version{txn: m.txn, meta: m, prev: e.head})
			ix.tip = max(ix.tip, m.txn)
		}
	}
	return ix.tip
}

// forget drops what nobody needs of the names: versions before the oldest reader,
// and names that are gone. The tree holds all lines up to txn.
func (ix *index) forget(names []string, txn uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	oldest := min(ix.points.oldest(), txn)
	for _, name := range names {
		e := ix.entries[name]
		if e == nil {
			continue
		}
		ix.cutLocked(e, oldest)
		if v := e.head; v != nil && v.txn <= oldest && v.meta == nil {
			e.dropped = true
			ix.dropped++
			delete(ix.entries, name)
		}
	}
}

// owners returns the entries that have or had an identifier. It needs the listing
// and every entry read.
func (ix *index) owners(id string) []*entry {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.byID == nil {
		ix.byID = make(map[string][]*entry, len(ix.entries))
		for _, e := range ix.entries {
			for v := e.head; v != nil; v = v.prev {
				if v.meta != nil {
					ix.noteIDLocked(v.meta.id, e)
				}
			}
		}
	}
	return slices.Clone(ix.byID[id])
}

// countChildren builds the count of children by parent. It needs the listing and
// every entry read but the damaged ones, whose parents are guessed. Only the holder of
// the lock may call it: nobody else adds lines meanwhile.
func (ix *index) countChildren(guessParent func(entry string, names iter.Seq[string]) guess) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.children, ix.orphans = map[string]int{}, map[string]bool{}
	var stray []string
	count := func(name, entry string) {
		g := guessParent(entry, maps.Keys(ix.entries))
		if !g.known {
			ix.orphans[name] = true
			return
		}
		ix.countLocked(&metadata{parent: g.parent}, +1)
		if g.stray {
			stray = append(stray, name)
		}
	}
	for name, e := range ix.entries {
		if e.head != nil {
			ix.countLocked(e.head.meta, +1)
		} else {
			count(name, encodeName(name))
		}
	}
	for entry := range ix.unnamed {
		if isHashed(entry) {
			count(entry, entry)
		}
	}
	for _, name := range stray {
		if ix.children[name] > 0 {
			ix.orphans[name] = true // it was a snapshot once
		}
	}
}

// childCount returns how many snapshots stand on name at the tip, or why that
// can't be known.
func (ix *index) childCount(name string) (n int, known bool, orphans []string) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.children[name], ix.children != nil, slices.Sorted(maps.Keys(ix.orphans))
}

// setName gives an entry of snapshots/ whose name could not be known its name, or,
// where name is "", says that it is gone.
func (ix *index) setName(entry, name string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	delete(ix.unnamed, entry)
	if name != "" && ix.entries[name] == nil {
		ix.newEntryLocked(name)
	}
}
