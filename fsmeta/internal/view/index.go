package view

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// index is the snapshots as they are known in memory: for each name, its versions by
// transaction. Journal lines add versions, reading the tree adds the oldest. All of it but
// the lines is only speed.
//
// An index is good from the moment it was made until the journal has a gap; then it is
// stale: what it holds stays true for the transactions that use it, but nothing can be
// added to it any more.
type index struct {
	path        string // of the journal, for errors
	stale       atomic.Bool
	searches    atomic.Int32  // how often pending was searched
	generations atomic.Uint64 // see generation; changes under mu
	leftovers   atomic.Bool   // left is not empty

	mu      sync.RWMutex
	pending []format.Line     // lines added and not decoded yet, oldest first; see ready
	bad     error             // the damage of the first line that was decoded and is nonsense
	entries map[string]*entry // a name that is not in it is as the tree has it, or absent if listed
	tip     uint64            // the last transaction added
	usedAt  uint64            // see firstUse
	left    map[string]bool   // names that forget could not forget, for the sake of a reader
	folded  uint64            // the tree holds all lines up to here; the journal has dropped them

	listed   bool                // entries has every name there is
	sorted   []*entry            // by name, those known when it was made; never changed in place
	added    []*entry            // the others
	dropped  int                 // how many of sorted are forgotten
	unnamed  map[string]bool     // entries of snapshots/ that have no known name
	children *children           // nil until it is needed
	byID     map[string][]*entry // nil until every entry was read, and none is damaged

	points points
}

// never is after every transaction.
const never = math.MaxUint64

// patience is how many lookups search the pending lines before all are decoded.
const patience = 32

// entry is one name.
type entry struct {
	name    string
	hash    uint64   // see format.HashOfName
	head    *version // newest first; nil: not read yet
	dropped bool     // forgotten: no longer in index.entries
	present bool     // the tree had it, while no line was about it; see KeepNothing
}

// version is a name's state from a transaction on, nil if it wasn't there.
type version struct {
	txn  uint64 // 0 for the oldest that is known
	meta *format.Snapshot
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

func newIndex(path string, txn uint64, names format.Names) *index {
	ix := &index{path: path, entries: map[string]*entry{}, left: map[string]bool{}, unnamed: map[string]bool{}, tip: txn, folded: txn}
	if txn == 0 {
		ix.usedAt = never
	}
	ix.points.init(txn, names)
	return ix
}

// addLines takes lines in, which follow the tip. Several are decoded when more than a few
// single names are needed: a process that looks up one or two does not pay for a long journal.
// (Measured: it opens a store with 325 lines in 0.75 to 1.2 ms, and in 4 to 5.5 ms if it decodes them.)
func (ix *index) addLines(lines []format.Line) {
	if len(lines) == 0 {
		return
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for _, l := range lines {
		if l.Txn > ix.tip {
			ix.pending = append(ix.pending, l)
			ix.tip = l.Txn
		}
	}
	if len(ix.pending) == 1 { // as after each commit: searches would cost more
		ix.readyLocked()
	}
	ix.generations.Add(1)
}

// addTxn takes a transaction in that this process has just written.
func (ix *index) addTxn(t *format.Txn) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if t.Number <= ix.tip {
		return // a reader has found its line
	}
	ix.addTxnLocked(t)
	ix.tip = t.Number
	ix.generations.Add(1)
}

// ready decodes the lines that were taken in. One that is nonsense is left out.
func (ix *index) ready() {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.readyLocked()
}

func (ix *index) readyLocked() {
	if len(ix.pending) == 0 {
		return
	}
	for i := range ix.pending {
		t, err := ix.pending[i].Decode()
		if err == nil {
			ix.addTxnLocked(t)
		} else if ix.bad == nil {
			ix.bad = &fault.Damaged{Path: ix.path, Err: err}
		}
	}
	ix.pending = nil
	ix.searches.Store(0)
}

// damage returns what is wrong with the first line that is nonsense, of those that were decoded.
func (ix *index) damage() error {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return ix.bad
}

func (ix *index) addTxnLocked(t *format.Txn) {
	oldest := ix.points.oldest()
	for _, c := range t.Changes {
		if c.Before != nil || c.After != nil {
			ix.usedAt = min(ix.usedAt, t.Number)
		}
		e := ix.entries[c.Name]
		if e == nil {
			e = ix.newEntryLocked(c.Name)
		}
		if e.head == nil {
			ix.pushLocked(e, &version{meta: c.Before})
		}
		ix.pushLocked(e, &version{txn: t.Number, meta: c.After, prev: e.head})
		ix.cutLocked(e, oldest)
		if ix.children != nil {
			ix.children.add(c.Before, -1)
			ix.children.add(c.After, +1)
		}
	}
}

// noteUse notes that something was committed in txn or before.
func (ix *index) noteUse(txn uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.usedAt = min(ix.usedAt, txn)
}

// firstUse returns the transaction in which, or before which, something was committed for
// the first time, or never.
func (ix *index) firstUse() uint64 {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.readyLocked()
	return ix.usedAt
}

func (ix *index) newEntryLocked(name string) *entry {
	e := &entry{name: name, hash: format.HashOfName(name)}
	ix.entries[name] = e
	if len(ix.unnamed) > 0 {
		delete(ix.unnamed, format.EncodeName(name))
	}
	if ix.listed {
		ix.added = append(ix.added, e)
	}
	return e
}

func (ix *index) pushLocked(e *entry, v *version) {
	e.head = v
	if ix.byID != nil {
		ix.noteIDLocked(v, e)
	}
}

// cutLocked drops the versions of e that no reader at oldest or later sees.
func (ix *index) cutLocked(e *entry, oldest uint64) {
	v := e.at(oldest)
	if v == nil {
		return
	}
	old := v.prev
	v.prev = nil
	for ; old != nil && ix.byID != nil; old = old.prev {
		if old.meta != nil && !e.hadID(old.meta.ID) {
			ix.dropIDLocked(old.meta.ID, e)
		}
	}
}

func (e *entry) hadID(id string) bool {
	for v := e.head; v != nil; v = v.prev {
		if v.meta != nil && v.meta.ID == id {
			return true
		}
	}
	return false
}

func (ix *index) dropIDLocked(id string, e *entry) {
	ix.byID[id] = slices.DeleteFunc(ix.byID[id], func(o *entry) bool { return o == e })
	if len(ix.byID[id]) == 0 {
		delete(ix.byID, id)
	}
}

func (ix *index) noteIDLocked(v *version, e *entry) {
	if v.meta != nil && !slices.Contains(ix.byID[v.meta.ID], e) {
		ix.byID[v.meta.ID] = append(ix.byID[v.meta.ID], e)
	}
}

// find returns the version of name at g. Where it isn't known, known is false and the tree
// has to be asked.
func (ix *index) find(name string, g uint64) (m *format.Snapshot, known bool) {
	if ix.searches.Load() >= patience {
		ix.ready()
	}
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if len(ix.pending) > 0 {
		ix.searches.Add(1)
		if m, known := ix.searchLocked(name, g); known {
			return m, known
		}
	}
	e := ix.entries[name]
	if e == nil {
		// Or it is one of the entries without a known name.
		return nil, ix.listed && (len(ix.unnamed) == 0 || !ix.unnamed[format.EncodeName(name)])
	}
	if v := e.at(g); v != nil {
		return v.meta, true
	}
	return nil, false
}

// searchLocked is find in the pending lines alone.
func (ix *index) searchLocked(name string, g uint64) (m *format.Snapshot, known bool) {
	needle := format.NeedleOf(name)
	for i := range ix.pending {
		l := &ix.pending[i]
		if known && l.Txn > g {
			break
		}
		if !bytes.Contains(l.Raw, needle) {
			continue
		}
		t, err := l.Decode()
		if err != nil {
			continue // nonsense, which ready notes
		}
		i := slices.IndexFunc(t.Changes, func(c format.Change) bool { return c.Name == name })
		switch {
		case i < 0: // mentioned, as a parent say
		case l.Txn <= g:
			m, known = t.Changes[i].After, true
		case ix.entries[name] != nil && ix.entries[name].at(g) != nil:
			return nil, false // known from before these lines
		default:
			return t.Changes[i].Before, true
		}
	}
	return m, known
}

// generation changes whenever lines are added.
func (ix *index) generation() uint64 { return ix.generations.Load() }

// learn keeps what the tree has for name, which no line is about that was added up to a
// generation. If others were added since, or another reader has learned it, nothing happens.
// Of names that aren't there nothing is kept.
func (ix *index) learn(name string, m *format.Snapshot, generation uint64) {
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

// notePresent notes that the tree has a name that is listed, where learn would keep what it has.
func (ix *index) notePresent(name string, generation uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.stale.Load() || ix.generations.Load() != generation {
		return
	}
	if e := ix.entries[name]; e != nil {
		e.present = true
	}
}

// present reports whether the tree had a name when no line was about it, which is so now, too.
func (ix *index) present(name string) bool {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	e := ix.entries[name]
	return e != nil && e.head == nil && e.present
}

// setListing takes in the names that the tree has, and the entries that have none. A name
// that the tree has lost meanwhile has come by a line, or is found to be gone when it is
// read.
func (ix *index) setListing(names []string, unnamed []string) error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.listed {
		return nil
	}
	if ix.stale.Load() {
		return fault.ErrOutdated
	}
	ix.readyLocked()
	for _, name := range names {
		if ix.entries[name] == nil {
			ix.newEntryLocked(name)
		}
	}
	for _, at := range unnamed {
		ix.unnamed[at] = true
	}
	if len(unnamed) > 0 { // lines may have the names of some
		for name := range ix.entries {
			delete(ix.unnamed, format.EncodeName(name))
		}
	}
	ix.listed = true
	ix.added = slices.Collect(maps.Values(ix.entries))
	return nil
}

// listing returns every entry in order of the names, and those that have no name; or ok ==
// false where the tree has to be listed first. The slice is shared: don't change it.
func (ix *index) listing() (entries []*entry, unnamed []string, ok bool) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.readyLocked()
	if !ix.listed {
		return nil, nil, false
	}
	if len(ix.added) > 0 || ix.dropped > len(ix.sorted)/4 {
		byName := func(a, b *entry) int { return strings.Compare(a.name, b.name) }
		slices.SortFunc(ix.added, byName)
		ix.sorted = mergeEntries(ix.sorted, ix.added)
		ix.added, ix.dropped = nil, 0
	}
	return ix.sorted, slices.Sorted(maps.Keys(ix.unnamed)), true
}

// mergeEntries merges two sorted lists into a new one, without the forgotten ones.
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

// versions looks up many entries at once: for each the version at g, nil where it isn't
// known.
func (ix *index) versions(into []*version, entries []*entry, g uint64) []*version {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	for _, e := range entries {
		into = append(into, e.at(g))
	}
	return into
}

// preferTree adds, for the names in the lines, versions that the tree has and that are
// later than theirs, and returns the latest transaction it knows of then. It is for a
// damaged journal, of which lines are missing.
func (ix *index) preferTree(read func(name string) (*format.Snapshot, error)) uint64 {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for name, e := range ix.entries {
		if e.head == nil || e.head.txn == 0 {
			continue
		}
		if m, err := read(name); err == nil && m != nil && m.Txn > e.head.txn {
			ix.pushLocked(e, &version{txn: m.Txn, meta: m, prev: e.head})
			ix.tip = max(ix.tip, m.Txn)
		}
	}
	return ix.tip
}

// forget drops what no reader needs of the names: versions before the oldest reader, and
// names that are gone. The tree holds all lines up to txn. What a reader still needs is
// dropped when that reader ends, see trim.
func (ix *index) forget(names []string, txn uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.folded = max(ix.folded, txn)
	for _, name := range names {
		ix.left[name] = true
	}
	ix.trimLocked()
}

// trim drops what forget had to leave for a reader that has ended.
func (ix *index) trim() {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.trimLocked()
}

func (ix *index) trimLocked() {
	oldest := min(ix.points.oldest(), ix.folded)
	for name := range ix.left {
		if e := ix.entries[name]; e != nil {
			ix.cutLocked(e, oldest)
			v := e.head
			if v != nil && v.prev != nil && v.txn <= ix.folded {
				continue // for a reader; a line behind folded has another forget
			}
			if v != nil && v.txn <= oldest && v.meta == nil {
				ix.dropLocked(e)
			}
		}
		delete(ix.left, name)
	}
	ix.leftovers.Store(len(ix.left) > 0)
}

func (ix *index) dropLocked(e *entry) {
	e.dropped = true
	ix.dropped++
	delete(ix.entries, e.name)
}

// indexIDs makes identifiers known to owners, where every entry was read and kept: a line may
// have come while one was read.
func (ix *index) indexIDs() {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.byID != nil || !ix.listed || len(ix.unnamed) > 0 || len(ix.pending) > 0 {
		return
	}
	ix.byID = make(map[string][]*entry, len(ix.entries))
	for _, e := range ix.entries {
		if e.head == nil {
			ix.byID = nil
			return
		}
		for v := e.head; v != nil; v = v.prev {
			ix.noteIDLocked(v, e)
		}
	}
}

// owners returns the names that have or had an identifier; ok is false where indexIDs comes first.
func (ix *index) owners(id string) (names []string, ok bool) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.readyLocked()
	for _, e := range ix.byID[id] {
		names = append(names, e.name)
	}
	return names, ix.byID != nil
}

// setName gives an entry of snapshots/ that had no known name its name, or, where name is
// "", says that the entry is gone.
func (ix *index) setName(at, name string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	delete(ix.unnamed, at)
	if name != "" && ix.entries[name] == nil {
		ix.newEntryLocked(name)
	}
}
