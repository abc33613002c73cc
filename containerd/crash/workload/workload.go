// Package workload changes a store at random, says what was acknowledged, and judges the
// store afterwards, whatever has become of the program or the machine meanwhile.
//
// A run has a number of writers, each with names of its own, so that what is to be there
// follows from the transactions of each writer alone. Before a transaction is committed a
// writer notes what it is about to do, and, once it is committed, that it is. After a crash
// each writer's names must be as the transactions that were acknowledged have left them, or
// with the one that was under way on top, as a whole.
package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Names is the state of one writer's snapshots, by their names.
type Names map[string]State

// State is what is checked of a snapshot.
type State struct {
	ID        string
	Parent    string
	Committed bool
	Label     string
}

// Note is a line of the log of a run.
type Note struct {
	Writer int
	Txn    int      // counted for each writer, from 1
	Acked  bool     // committed; else: about to be
	Failed string   // it was not committed, and why; "" where it was
	After  Names    // the writer's names with it
	IDs    []string // identifiers that were handed out
	Found  bool     `json:",omitempty"` // not of a transaction: After is what the run found, see Config
}

// Config says what a run does.
type Config struct {
	Dir     string
	Seed    uint64
	Writers int
	Txns    int // for each writer; 0 means until the context ends
	Padding int // labels are up to this much longer, so that the journal fills sooner
	Options []fsmeta.Option
	Log     io.Writer // takes one line of JSON for each Note, in one Write

	Found  bool                  // note what is there before the first transaction and after the last
	Before func(writer, txn int) // is called before each transaction, where it is not nil
}

// Run runs a workload. A transaction that fails is noted, and the writer goes on, unless
// the store has failed or is closed. It returns the error of opening or closing the store.
func Run(ctx context.Context, c Config) error {
	s, err := fsmeta.Open(c.Dir, c.Options...)
	if err != nil {
		return err
	}
	before, err := read(ctx, s, c.Writers)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	log := &logger{w: c.Log}
	if c.Found {
		log.found(before, true)
	}
	var writers sync.WaitGroup
	for i := range c.Writers {
		w := &writer{store: s, number: i, rand: rand.New(rand.NewPCG(c.Seed, uint64(i))), padding: c.Padding, before: c.Before, names: before[i], log: log}
		writers.Go(func() { w.run(ctx, c.Txns) })
	}
	writers.Wait()
	if c.Found {
		after, err := read(ctx, s, c.Writers)
		if err != nil {
			return errors.Join(err, s.Close())
		}
		log.found(after, false)
	}
	return s.Close()
}

type logger struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *logger) note(n Note) {
	line, err := json.Marshal(n)
	if err != nil {
		panic(err) // it is of our own making
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(line, '\n')); err != nil {
		panic(err) // without a log the run is worth nothing
	}
}

type writer struct {
	store   *fsmeta.Store
	number  int
	rand    *rand.Rand
	padding int
	before  func(writer, txn int)
	names   Names
	log     *logger
}

func (w *writer) run(ctx context.Context, txns int) {
	for txn := 1; (txns == 0 || txn <= txns) && ctx.Err() == nil; txn++ {
		if w.before != nil {
			w.before(w.number, txn)
		}
		err := w.transaction(ctx, txn)
		if errors.Is(err, fsmeta.ErrFailed) || errors.Is(err, fsmeta.ErrClosed) {
			return
		}
	}
}

// transaction makes some random changes and commits them.
func (w *writer) transaction(ctx context.Context, txn int) error {
	note := Note{Writer: w.number, Txn: txn, After: maps.Clone(w.names)}
	tctx, t, err := w.store.TransactionContext(ctx, true)
	if err == nil {
		for range 1 + w.rand.IntN(3) {
			if err = w.change(tctx, &note); err != nil {
				break
			}
		}
		if err == nil {
			w.log.note(note)
			err = t.Commit()
		} else {
			err = errors.Join(err, t.Rollback())
		}
	}
	switch {
	case err == nil:
		w.names = note.After
		note.Acked = true
	default:
		note.Failed = err.Error()
		if errors.Is(err, fsmeta.ErrOutcomeUnknown) {
			return err // as if it were still under way
		}
	}
	w.log.note(note)
	return err
}

// change makes one random change.
func (w *writer) change(ctx context.Context, note *Note) error {
	names := slices.Sorted(maps.Keys(note.After))
	pick := func(ok func(string, State) bool) string {
		var from []string
		for _, name := range names {
			if ok(name, note.After[name]) {
				from = append(from, name)
			}
		}
		if len(from) == 0 {
			return ""
		}
		return from[w.rand.IntN(len(from))]
	}
	active := pick(func(_ string, s State) bool { return !s.Committed })
	committed := pick(func(_ string, s State) bool { return s.Committed })
	leaf := pick(func(name string, _ State) bool {
		for _, other := range note.After {
			if other.Parent == name {
				return false
			}
		}
		return true
	})
	switch choice := w.rand.IntN(10); {
	case choice < 2 && active != "": // commit
		name := w.name(note.After)
		if name == "" {
			return nil
		}
		if _, err := w.store.Commit(ctx, active, name); err != nil {
			return err
		}
		s := note.After[active]
		delete(note.After, active)
		note.After[name] = State{ID: s.ID, Parent: s.Parent, Committed: true}
	case choice < 5 && leaf != "": // remove
		if _, err := w.store.Remove(ctx, leaf); err != nil {
			return err
		}
		delete(note.After, leaf)
	case choice < 7 && len(names) > 0: // label
		name := names[w.rand.IntN(len(names))]
		label := fmt.Sprint(w.rand.IntN(1000))
		if w.padding > 0 {
			label += strings.Repeat("+", w.rand.IntN(w.padding))
		}
		if _, err := w.store.Update(ctx, fsmeta.Info{Name: name, Labels: map[string]string{"l": label}}, "labels.l"); err != nil {
			return err
		}
		s := note.After[name]
		s.Label = label
		note.After[name] = s
	default: // create
		name := w.name(note.After)
		if name == "" {
			return nil
		}
		a, err := w.store.CreateActive(ctx, name, committed, false)
		if err != nil {
			return err
		}
		note.After[name] = State{ID: a.ID, Parent: committed}
		note.IDs = append(note.IDs, a.ID)
	}
	return nil
}

// name returns one of a few names that is free, "" where none is: names are used again and
// again, which is what is hard.
func (w *writer) name(names Names) string {
	for range 20 {
		name := fmt.Sprintf("%d/%d", w.number, w.rand.IntN(12))
		if w.rand.IntN(4) == 0 {
			name += strings.Repeat("-long", 60)
		}
		if _, taken := names[name]; !taken {
			return name
		}
	}
	return ""
}

// read returns what each writer's snapshots are.
func read(ctx context.Context, s *fsmeta.Store, writers int) ([]Names, error) {
	all := make([]Names, writers)
	for i := range all {
		all[i] = Names{}
	}
	err := s.Walk(ctx, func(_ context.Context, info fsmeta.Info) error {
		var number int
		if _, err := fmt.Sscanf(info.Name, "%d/", &number); err != nil || number >= writers {
			return fmt.Errorf("snapshot %q is of no writer", info.Name)
		}
		all[number][info.Name] = State{ID: info.ID, Parent: info.Parent, Committed: info.Kind == fsmeta.KindCommitted, Label: info.Labels["l"]}
		return nil
	})
	return all, err
}

// ReadLog reads the log of a run as far as it was written.
func ReadLog(r io.Reader) ([]Note, error) {
	var notes []Note
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return notes, nil // a last line without its end was not written whole
		}
		if err != nil {
			return nil, err
		}
		var n Note
		if err := json.Unmarshal(line, &n); err != nil {
			return nil, err
		}
		notes = append(notes, n)
	}
}

// History is what the log of a run, or of several on one store, says.
type History struct {
	acked   []Names            // of each writer, as its last acknowledged transaction has left them
	pending []map[string]Names // and with a transaction that may have been committed or not
	ids     map[string]bool    // that were handed out
	Acked   int                // transactions that were acknowledged
	moments []moment           // that a power cut may have gone back to, see AddCut

	// Links says that calls on parent links have failed: Verify lets a check find such a link,
	// as something harmless, and repairs it.
	Links bool
}

// NewHistory returns the history of a store that is empty.
func NewHistory(writers int) *History {
	h := &History{acked: make([]Names, writers), pending: make([]map[string]Names, writers), ids: map[string]bool{}}
	for i := range writers {
		h.acked[i], h.pending[i] = Names{}, map[string]Names{}
	}
	return h
}

// Add takes in the log of a run. It returns an error where an identifier was handed out
// twice.
func (h *History) Add(notes []Note) error {
	var errs error
	for _, n := range notes {
		if n.Found {
			errs = errors.Join(errs, h.foundBy(n))
			continue
		}
		if !n.Acked && n.Failed == "" { // about to be committed
			for _, id := range n.IDs {
				if h.ids[id] {
					errs = errors.Join(errs, fmt.Errorf("writer %d, transaction %d: identifier %s was handed out before", n.Writer, n.Txn, id))
				}
				h.ids[id] = true
			}
			h.pending[n.Writer] = map[string]Names{"the transaction under way": n.After}
			continue
		}
		if len(h.pending[n.Writer]) == 0 { // rolled back before it was to be committed
			errs = errors.Join(errs, h.handOut(n))
		}
		h.pending[n.Writer] = map[string]Names{}
		if n.Acked {
			h.acked[n.Writer] = n.After
			h.Acked++
		}
	}
	return errs
}

// Verify opens the store and judges it: everything that was acknowledged is there and
// nothing is there in part, nothing is wrong with it, and it can be written. What it finds
// is what the next run begins with.
func (h *History) Verify(ctx context.Context, dir string, opts ...fsmeta.Option) error {
	if err := h.Judge(ctx, dir); err != nil {
		return fmt.Errorf("before recovery: %w", err)
	}
	s, err := fsmeta.Open(dir, opts...)
	if err != nil {
		return err
	}
	found, err := read(ctx, s, len(h.acked))
	if err == nil {
		err = h.match(found)
	}
	if err == nil {
		err = h.write(ctx, s)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err = h.check(ctx, dir); err != nil {
		err = fmt.Errorf("after recovery: %w", err)
	}
	for i := range found {
		h.acked[i], h.pending[i] = found[i], map[string]Names{}
	}
	h.moments = nil
	return err
}

// check returns what is wrong with the store, for all that a check finds.
func (h *History) check(ctx context.Context, dir string) error {
	findings, err := fsmeta.Check(ctx, dir, nil)
	if h.Links && err == nil && slices.ContainsFunc(findings, isLink) {
		if _, err = fsmeta.Repair(ctx, dir, nil); err == nil {
			findings, err = fsmeta.Check(ctx, dir, nil)
		}
	}
	for _, f := range findings {
		err = errors.Join(err, fmt.Errorf("%v", f))
	}
	return err
}

// isLink reports whether nothing but a parent link is not as it should be.
func isLink(f fsmeta.Finding) bool { return f.Harmless && filepath.Base(f.Path) == "parent" }

// Judge looks at the store without changing it, as a read-only program sees it.
func (h *History) Judge(ctx context.Context, dir string) error {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	found, err := read(ctx, s, len(h.acked))
	if err == nil {
		err = h.match(found)
	}
	return errors.Join(err, s.Close())
}

// match compares what is there with what may be there.
func (h *History) match(found []Names) error {
	if h.moments != nil {
		return h.matchMoment(found)
	}
	var errs error
	for i, is := range found {
		if maps.Equal(is, h.acked[i]) {
			continue
		}
		if slices.ContainsFunc(slices.Collect(maps.Values(h.pending[i])), func(may Names) bool { return maps.Equal(is, may) }) {
			continue
		}
		errs = errors.Join(errs, fmt.Errorf("writer %d: the store has\n  %v\nacknowledged was\n  %v\nand under way\n  %v", i, is, h.acked[i], h.pending[i]))
	}
	return errs
}

// write makes and removes a snapshot, with an identifier that must be new.
func (h *History) write(ctx context.Context, s *fsmeta.Store) error {
	var id string
	for _, do := range []func(ctx context.Context) error{
		func(ctx context.Context) error {
			a, err := s.CreateActive(ctx, "0/after", "", false)
			id = a.ID
			return err
		},
		func(ctx context.Context) error {
			_, err := s.Remove(ctx, "0/after")
			return err
		},
	} {
		if err := s.WithTransaction(ctx, true, do); err != nil {
			return fmt.Errorf("write to it again: %w", err)
		}
	}
	if h.ids[id] {
		return fmt.Errorf("identifier %s was handed out before", id)
	}
	h.ids[id] = true
	return nil
}
