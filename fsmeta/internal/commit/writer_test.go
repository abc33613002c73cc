package commit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
	"github.com/fsmeta/fsmeta/fsmeta/internal/layout"
	"github.com/fsmeta/fsmeta/fsmeta/internal/tree"
	"github.com/fsmeta/fsmeta/fsmeta/internal/view"
)

var bg = context.Background()

// handle is a store that is open for writing.
type handle struct {
	*Writer
	t   *testing.T
	dir string
}

// newStore makes a store, and opens it until the end of the test.
func newStore(t *testing.T) *handle { t.Helper(); return open(t, filepath.Join(t.TempDir(), "store")) }

// open opens a store until the end of the test, as one of others that have it open.
func open(t *testing.T, dir string) *handle {
	t.Helper()
	check(t, layout.Make(dir, Ahead))
	root, err := disk.OpenDir(dir, true)
	check(t, err)
	tr, err := tree.Open(root)
	check(t, err)
	v, err := view.Open(dir, tr, true)
	check(t, err)
	h := &handle{New(Config{Dir: root, Tree: tr, View: v}), t, dir}
	t.Cleanup(func() {
		_ = h.Close(func() (bool, error) { return false, nil })
		_ = errors.Join(v.Close(), tr.Close(), root.Close())
	})
	return h
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inTurn runs fn with the turn.
func (h *handle) inTurn(fn func() error) error {
	defer h.End()
	if err := h.Begin(bg); err != nil {
		return err
	}
	defer h.Release()
	return fn()
}

// write is one transaction of words: "+name", "-name", "~name".
func (h *handle) write(words ...string) error {
	return h.inTurn(func() error {
		var changes []format.Change
		for _, word := range words {
			name := word[1:]
			before, err := h.view.Lookup(h.view.Base(), name)
			if err != nil {
				return err
			}
			c := format.Change{Name: name, Before: before}
			switch word[0] {
			case '+':
				id, err := h.NewID()
				if err != nil {
					return err
				}
				when := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
				c.After = &format.Snapshot{ID: id, Name: name, Kind: format.Active, Created: when, Updated: when}
			case '~':
				after := *before
				after.Usage.Size++
				c.After = &after
			}
			changes = append(changes, c)
		}
		slices.SortFunc(changes, func(a, b format.Change) int { return strings.Compare(a.Name, b.Name) })
		return h.Commit(changes)
	})
}

func (h *handle) mustWrite(words ...string) {
	h.t.Helper()
	check(h.t, h.write(words...))
}

// want requires that a new reader finds these snapshots, with their sizes, in this handle and in another.
func (h *handle) want(names string) {
	h.t.Helper()
	for _, v := range []*view.View{h.view, open(h.t, h.dir).view} {
		var r view.Reader
		check(h.t, v.Begin(&r))
		var all []string
		err := v.Walk(r.Point, nil, func(m *format.Snapshot) error {
			all = append(all, m.Name+strings.Repeat("'", int(m.Usage.Size)))
			return nil
		}, func(d view.Damage) error { return d.Err })
		v.End(&r)
		if got := strings.Join(all, " "); err != nil || got != names {
			h.t.Errorf("a reader finds %q, %v, want %q", got, err, names)
		}
	}
}

// lines returns the header and the whole lines on disk.
func (h *handle) lines() (format.Header, []format.Line) {
	h.t.Helper()
	j, err := journal.Open(filepath.Join(h.dir, format.JournalFile), false)
	check(h.t, err)
	tail, err := j.Scan(true)
	check(h.t, errors.Join(err, j.Damage(), j.Close()))
	return j.Header(), tail.Fresh
}

// file reads a file of the store.
func (h *handle) file(path ...string) []byte {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{h.dir}, path...)...))
	check(h.t, err)
	return data
}

// keep makes the store keep the lock until the end of the test, so that no timer comes between.
func (h *handle) keep() {
	h.t.Helper()
	check(h.t, h.inTurn(func() error { h.turn.Join(); return nil }))
	h.t.Cleanup(h.End)
}

// A checkpoint that can't be made leaves the old journal as it was, and everything goes on.
func TestCheckpointFails(t *testing.T) {
	for name, obstruct := range map[string]func(h *handle) (free func() error){
		"no staging directory": func(h *handle) func() error {
			staging := filepath.Join(h.dir, format.StagingDir)
			check(h.t, os.Rename(staging, staging+".away"))
			return func() error { return os.Rename(staging+".away", staging) }
		},
		"a directory in the place of the journal": func(h *handle) func() error {
			path := filepath.Join(h.dir, format.JournalFile)
			check(h.t, errors.Join(os.Rename(path, path+".away"), os.Mkdir(path, format.DirMode)))
			return func() error { return errors.Join(os.Remove(path), os.Rename(path+".away", path)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newStore(t)
			h.mustWrite("+a", "+b")
			h.keep()
			before := h.file(format.JournalFile)
			free := obstruct(h)
			err := h.inTurn(h.Fold)
			check(t, free())
			if err == nil || errors.Is(err, fault.ErrFailed) || h.Failed() != nil {
				t.Errorf("the checkpoint says %v", err)
			}
			if !bytes.Equal(h.file(format.JournalFile), before) {
				t.Error("the journal has changed")
			}
			h.mustWrite("+c", "-a")
			h.want("b c")
			check(t, h.inTurn(h.Fold))
			if header, lines := h.lines(); len(lines) > 0 || header.Names.Count != 2 {
				t.Errorf("header %+v, %d lines", header, len(lines))
			}
			h.want("b c")
		})
	}
}

// A checkpoint that fails gives no identifiers back: a later one says in its header all that were
// handed out.
func TestFailedCheckpointKeepsIdentifiers(t *testing.T) {
	h := newStore(t)
	h.mustWrite("+a")
	h.keep()
	staging := filepath.Join(h.dir, format.StagingDir)
	check(t, os.Rename(staging, staging+".away"))
	if err := h.inTurn(h.Fold); err == nil {
		t.Fatal("a checkpoint was made without staging/")
	}
	check(t, os.Rename(staging+".away", staging))
	var last uint64
	check(t, h.inTurn(func() error {
		for range 3 {
			id, err := h.NewID()
			if err != nil {
				return err
			}
			if last, err = format.ParseID(id); err != nil {
				return err
			}
		}
		return nil
	}))
	check(t, h.checkpoint())
	if header, _ := h.lines(); header.NextID <= last {
		t.Errorf("the header says %d, and %d was handed out", header.NextID, last)
	}
}

// Where it is not known which journal a power cut would leave, writing ends, and the next process
// finds everything.
func TestCheckpointNotDurable(t *testing.T) {
	h := newStore(t)
	h.mustWrite("+a")
	check(t, h.inTurn(func() error {
		if err := h.Writer.dir.File.Close(); err != nil { // it can't be synced then
			return err
		}
		if err := h.Fold(); !errors.Is(err, fault.ErrFailed) || !errors.Is(err, fault.ErrSync) {
			t.Errorf("the checkpoint says %v", err)
		}
		return nil
	}))
	if err := h.write("+b"); !errors.Is(err, fault.ErrFailed) {
		t.Errorf("the next transaction: %v", err)
	}
	next := open(t, h.dir)
	next.want("a")
	next.mustWrite("+c")
	next.want("a c")
	if header, _ := next.lines(); header.Txn == 0 || header.NextID < 2 {
		t.Errorf("the header is %+v", header)
	}
}

// After a sync of the tree has failed, the journal ends as superseded, with no successor: the next
// process believes nothing of the tree, and builds every name in the lines anew.
func TestTreeIsBuiltAnew(t *testing.T) {
	h := newStore(t)
	h.mustWrite("+old")
	check(t, h.inTurn(h.Fold))
	h.mustWrite("+a", "+b")
	h.mustWrite("~a", "-b", "+c")
	check(t, h.inTurn(func() error {
		_ = h.fail(errors.New("a sync of the tree has failed"))
		return h.view.Journal().Supersede()
	}))
	stat := func(name string) os.FileInfo {
		t.Helper()
		info, err := os.Lstat(filepath.Join(h.dir, format.SnapshotsDir, name))
		check(t, err)
		return info
	}
	before := map[string]os.FileInfo{}
	for _, name := range []string{"old", "a", "c"} {
		// So that no inode is free to be used again for the new one.
		check(t, os.Rename(filepath.Join(h.dir, format.SnapshotsDir, name), filepath.Join(h.dir, name)))
		check(t, os.CopyFS(filepath.Join(h.dir, format.SnapshotsDir, name), os.DirFS(filepath.Join(h.dir, name))))
		before[name] = stat(name)
	}
	next := open(t, h.dir)
	next.want("a' c old")
	check(t, next.inTurn(func() error { return nil }))
	for name, info := range before {
		if same := os.SameFile(info, stat(name)); same != (name == "old") {
			t.Errorf("%s is the same directory: %v", name, same)
		}
	}
	if header, lines := next.lines(); len(lines) > 0 || header.Txn == 0 {
		t.Errorf("header %+v, %d lines", header, len(lines))
	}
	next.mustWrite("+d")
	next.want("a' c d old")
}

// A new journal with hardly any NUL bytes behind its lines is not taken for one that was cut.
func TestJournalWithoutFill(t *testing.T) {
	h := newStore(t)
	h.mustWrite("+a", "+b")
	h.mustWrite("~a")
	check(t, h.inTurn(func() error {
		next, err := h.prepare(1)
		if err != nil {
			return err
		}
		return h.replace(synced{txn: h.view.Journal().Header().Txn}, h.ids.reserved, next)
	}))
	if _, lines := h.lines(); len(lines) == 0 {
		t.Error("lines were dropped")
	}
	h.want("a' b")
	h.mustWrite("+c")
	h.want("a' b c")
}

// An identifier is below a durable nextID before it is handed out, however many are. When they
// are used up, none is handed out.
func TestIdentifiersAreReserved(t *testing.T) {
	h := newStore(t)
	check(t, h.inTurn(func() error {
		for n := range uint64(4 * idBlock) {
			id, err := h.NewID()
			if err != nil || id != fmt.Sprint(n+1) {
				t.Fatalf("identifier %s, %v, want %d", id, err, n+1)
			}
			if n%61 != 0 && n%idBlock != 0 {
				continue
			}
			header, lines := h.lines()
			reserved := header.NextID
			for _, l := range lines {
				if l.Newline {
					reserved = l.NextID
				}
			}
			if reserved <= n+1 {
				t.Fatalf("identifier %d is handed out, %d is reserved", n+1, reserved)
			}
		}
		h.RaiseID(MaxID - 2*idBlock)
		for n := 0; ; n++ {
			id, err := h.NewID()
			if err == nil && n <= 2*idBlock {
				continue
			}
			if !errors.Is(err, fault.ErrDamaged) || !strings.Contains(err.Error(), "docs/repair.md") || n == 0 || h.NextID() > MaxID {
				t.Errorf("identifier %s of %d, %v", id, uint64(MaxID), err)
			}
			return nil
		}
	}))
	h.mustWrite() // without a new snapshot, everything goes on
	if header, lines := h.lines(); header.NextID > MaxID || len(lines) > 0 && lines[len(lines)-1].NextID > MaxID {
		t.Error("more are reserved than there are")
	}
}

// Identifiers that another process has reserved are not handed out here, and those that Give has
// returned are taken once.
func TestIdentifiersOfTwo(t *testing.T) {
	h := newStore(t)
	other := open(t, h.dir)
	seen := map[string]bool{}
	for n := range 40 {
		w := []*handle{h, other}[n%2]
		check(t, w.inTurn(func() error {
			id, err := w.Give()
			if err != nil {
				return err
			}
			if seen[id] {
				t.Errorf("identifier %s is handed out twice", id)
			}
			if seen[id] = true; !w.Given(id) {
				t.Errorf("identifier %s is not given", id)
			}
			if n%3 == 0 {
				if err := errors.Join(w.Take(id), nil); err != nil || w.Given(id) || !errors.Is(w.Take(id), fault.ErrInvalidName) {
					t.Errorf("identifier %s can be taken more than once, or never: %v", id, err)
				}
			}
			return nil
		}))
	}
}

// A process that gets the lock again, with nothing written meanwhile, goes on where it was; with
// something written, it takes that in.
func TestTakeOverAgain(t *testing.T) {
	h := newStore(t)
	other := open(t, h.dir)
	for n := range 3 {
		h.mustWrite(fmt.Sprint("+a", n))
		h.mustWrite(fmt.Sprint("+b", n))
		other.mustWrite(fmt.Sprint("~a", n), fmt.Sprint("-b", n))
		if n == 1 {
			check(t, other.inTurn(other.Fold))
		}
	}
	h.want("a0' a1' a2'")
	other.want("a0' a1' a2'")
}
