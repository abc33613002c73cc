package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// smallJournals makes Stores that are opened from now on make a checkpoint when the lines
// have size bytes.
func smallJournals(t testing.TB, size int64) {
	before := commit.CheckpointSize
	commit.CheckpointSize = size
	t.Cleanup(func() { commit.CheckpointSize = before })
}

// header returns the header of a store's journal.
func header(t testing.TB, dir string) format.Header {
	t.Helper()
	raw := []byte(readFile(t, filepath.Join(dir, "journal")))
	h, err := format.ParseHeader(raw[:bytes.IndexAny(raw, "\n\x00")])
	succeed(t, err)
	return h
}

// fold makes a checkpoint of all lines: it puts the first byte of a line behind the last one, so that
// the next process that takes over makes one. No writer is in its turn meanwhile.
func fold(t testing.TB, dir string) {
	t.Helper()
	path := filepath.Join(dir, "journal")
	patch(t, path, int64(len(bytes.TrimRight([]byte(readFile(t, path)), "\x00"))), '{')
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	last, err := s.LastTransaction(t.Context())
	succeed(t, err, s.WithTransaction(t.Context(), true, func(context.Context) error { return nil }), s.Close())
	if h := header(t, dir); h.Txn != last {
		t.Fatalf("the header is of transaction %d, %d was the last", h.Txn, last)
	}
}

// unsettle takes the newline behind the header away: so it is when a process dies between
// putting a journal in place and saying so.
func unsettle(t testing.TB, dir string) {
	t.Helper()
	path := filepath.Join(dir, "journal")
	patch(t, path, int64(strings.IndexByte(readFile(t, path), '\n')), 0)
}

// Checkpoints go on beside commits, and lose nothing.
func TestCheckpointsBesideCommits(t *testing.T) {
	smallJournals(t, 3000)
	dir := newDir(t)
	a, b := use(t, dir), useDamaged(t, dir)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			writer, reader := &local{store: a.store}, &local{store: b.store}
			if w == 3 {
				writer = reader
			}
			for i := range 30 {
				name := fmt.Sprintf("%d-%02d", w, i)
				_, err := writer.do("put " + name)
				_, seen := reader.do("id " + name)
				if err := errors.Join(err, seen); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if header(t, dir).Txn == 0 {
		t.Error("no checkpoint was made")
	}
	want := mustDo(t, a, "walk")
	if n := len(strings.Fields(want)); n != 120 {
		t.Errorf("%d snapshots, want 120", n)
	}
	mustSay(t, b, "walk", want)
	copied := newDir(t)
	copyTree(t, dir, copied) // the last checkpoint may still be at work in staging/
	mustSay(t, useDamaged(t, copied, fsmeta.ReadOnly()), "walk", want)
	mustSay(t, use(t, copied), "walk", want)
	mustDo(t, b, "close")
}

// A reader that missed two checkpoints can't know the state before: its transaction fails,
// and the next one is right.
func TestGap(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put a", "put b")
	w, r := useDamaged(t, dir), useDamaged(t, dir, fsmeta.ReadOnly())
	mustDo(t, r, "id a")
	ctx, tx, err := r.store.TransactionContext(t.Context(), false)
	succeed(t, err)
	old := &local{store: r.store, ctx: ctx}
	for _, line := range []string{"put c", "put d", "remove b"} {
		mustDo(t, w, line)
		fold(t, dir)
	}
	mustDo(t, old, "id a") // which it has read before
	mustFail(t, old, "id b", fsmeta.ErrOutdated)
	mustFail(t, old, "walk", fsmeta.ErrOutdated)
	succeed(t, tx.Commit())
	mustSay(t, r, "walk", "a c d")
}

// A reader that missed one checkpoint has missed nothing.
func TestOneCheckpointIsNoGap(t *testing.T) {
	dir := newDir(t)
	w, r := use(t, dir), useDamaged(t, dir, fsmeta.ReadOnly())
	mustDo(t, w, "put a", "put b")
	ctx, tx, err := r.store.TransactionContext(t.Context(), false)
	succeed(t, err)
	mustDo(t, w, "put c", "remove a")
	fold(t, dir)
	mustDo(t, w, "put d", "remove b")
	mustSay(t, r, "walk", "c d")
	mustSay(t, &local{store: r.store, ctx: ctx}, "walk", "a b")
	succeed(t, tx.Commit(), r.store.Close())
}

// A reader in a file that was superseded, with a successor that was superseded, too, does not see
// later transactions, though the latest file is not there for good yet.
func TestReaderBehindTwoCheckpoints(t *testing.T) {
	dir := newDir(t)
	w, r := use(t, dir), useDamaged(t, dir, fsmeta.ReadOnly())
	mustDo(t, w, "put a")
	ctx, tx, err := r.store.TransactionContext(t.Context(), false)
	succeed(t, err)
	for _, line := range []string{"put b", "put c"} {
		mustDo(t, w, line)
		fold(t, dir)
	}
	unsettle(t, dir)
	if info, err := r.store.Stat(ctx, "c"); !errors.Is(err, fsmeta.ErrNotExist) && !errors.Is(err, fsmeta.ErrOutdated) {
		t.Errorf("a transaction sees a later one: %+v, %v", info, err)
	}
	succeed(t, tx.Commit())
	mustSay(t, r, "walk", "a b c")
	succeed(t, r.store.Close())
}

// A process that dies between putting a new journal in place and saying so leaves two files
// that others may have open. All of them go on in one.
func TestCheckpointNotSettled(t *testing.T) {
	dir := newDir(t)
	s, old := use(t, dir), useDamaged(t, dir)
	mustDo(t, s, "put 1", "put 2")
	mustSay(t, old, "walk", "1 2")
	fold(t, dir)
	unsettle(t, dir)
	fresh := useDamaged(t, dir)
	mustDo(t, old, "put 3")
	mustDo(t, fresh, "put 4")
	mustDo(t, old, "put 5")
	for _, x := range []*local{old, fresh, s} {
		mustSay(t, x, "walk", "1 2 3 4 5")
		mustSay(t, x, "ids", "1 2 3 4 5")
	}
	succeed(t, old.store.Close(), fresh.store.Close())
}

// Stores that write in turn and make the journal longer do not overwrite each other's lines.
func TestFillingInTurn(t *testing.T) {
	smallJournals(t, 1<<30)
	dir := newDir(t)
	// Together they write more than the file is filled ahead.
	build(t, dir, "put a")
	stores := []*local{use(t, dir), useDamaged(t, dir)}
	want := []string{"a"}
	for i := range 40 {
		mustDo(t, stores[i%2], "begin", fmt.Sprintf("put b%02d", i), fmt.Sprintf("label b%02d %s", i, strings.Repeat("x", 20_000)), "end")
		want = append(want, fmt.Sprintf("b%02d", i))
	}
	for _, s := range stores {
		mustSay(t, s, "walk", strings.Join(want, " "))
	}
	killed := use(t, copyDir(t, dir))
	mustSay(t, killed, "walk", strings.Join(want, " "))
	mustDo(t, killed, "put c")
	succeed(t, stores[1].store.Close())
}

// A snapshot of which the name could not be read at first is in the next walk.
func TestNameReadLater(t *testing.T) {
	long := strings.Repeat("long", 100)
	dir := newDir(t)
	build(t, dir, "put a", "put "+long)
	s := use(t, dir)
	file := filepath.Join(dir, "snapshots", format.EncodeName(long), "metadata.json")
	succeed(t, os.Rename(file, file+".away"))
	mustFail(t, s, "walk", fsmeta.ErrDamaged)
	succeed(t, os.Rename(file+".away", file))
	mustSay(t, s, "walk", "a "+long)
}
