package fsmeta_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// isPublished reports whether every line of a store's journal is: then all of it is durable.
func isPublished(t testing.TB, dir string) bool {
	t.Helper()
	text := bytes.TrimRight([]byte(readFile(t, filepath.Join(dir, "journal"))), "\x00")
	return len(text) > 0 && text[len(text)-1] == '\n'
}

// A relaxed commit is seen here at once, by others soon, and by all when its process was killed.
func TestRelaxed(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir, fsmeta.Relaxed())
	mustDo(t, s, "put a", "put b")
	var killed string
	for { // until the sync has not come between
		mustDo(t, s, "put c")
		mustSay(t, s, "walk", "a b c")
		if killed = copyDir(t, dir); !isPublished(t, killed) {
			break
		}
		mustDo(t, s, "remove c")
	}
	mustSay(t, use(t, killed), "walk", "a b c")
	other := useDamaged(t, dir, fsmeta.ReadOnly())
	for deadline := time.Now().Add(time.Minute); mustDo(t, other, "walk") != "a b c"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("another Store does not see it")
		}
	}
	if _, err := os.Stat(metadataPath(dir, "c")); err != nil {
		t.Errorf("it is shown to others and not in the tree: %v", err)
	}
	mustDo(t, other, "close")
}

// An empty transaction waits until all that was committed is durable; so does Close.
func TestRelaxedBarrier(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir, fsmeta.Relaxed())
	for i := range 50 {
		mustDo(t, s, fmt.Sprintf("put %d", i), "begin", "end")
		if !isPublished(t, dir) {
			t.Fatal("something is not synced")
		}
	}
	mustDo(t, s, "put last", "close")
	wantClean(t, dir)
	if h := header(t, dir); h.Names.Count != 51 {
		t.Errorf("%d snapshots when all is closed", h.Names.Count)
	}
}

// Two Stores of which one is relaxed take turns, and lose nothing.
func TestRelaxedBesideAnother(t *testing.T) {
	smallJournals(t, 3000)
	dir := newDir(t)
	s, other := use(t, dir, fsmeta.Relaxed()), useDamaged(t, dir)
	for i := range 60 {
		writer := s
		if i%3 == 0 {
			writer = other
		}
		mustDo(t, writer, fmt.Sprintf("put %02d", i))
	}
	mustDo(t, s, "begin", "end")
	want := mustDo(t, s, "walk")
	if n := len(strings.Fields(want)); n != 60 {
		t.Errorf("%d snapshots", n)
	}
	mustSay(t, other, "walk", want)
	mustDo(t, other, "close")
	mustSay(t, use(t, copyDir(t, dir)), "walk", want)
}

// An import waits for the disk in a relaxed store, too.
func TestRelaxedImport(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir, fsmeta.Relaxed())
	when := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	succeed(t, s.store.Import(context.Background(), []fsmeta.Info{{ID: "7", Name: "a", Kind: fsmeta.KindCommitted, Created: when, Updated: when}}, 1, nil))
	if _, err := os.Stat(metadataPath(dir, "a")); err != nil || !isPublished(t, dir) {
		t.Errorf("it is not all on disk: %v", err)
	}
}

// A watch finds a relaxed transaction when no power cut can take it any more.
func TestRelaxedIsWatchedLater(t *testing.T) {
	dir := newDir(t)
	s := use(t, dir, fsmeta.Relaxed())
	mustDo(t, s, "put a")
	for txn, err := range s.store.Watch(t.Context(), 0) {
		succeed(t, err)
		if len(txn.Changes) > 0 {
			break
		}
	}
	if !isPublished(t, dir) {
		t.Error("it is not durable yet")
	}
}
