package fsmeta_test

import (
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A line that carries a lagging name over to the next journal changes nothing for a watch.
func TestWatchOfLaggingName(t *testing.T) {
	dir := newDir(t)
	s := useDamaged(t, dir)
	mustDo(t, s, "put x", "put y")
	x := filepath.Join(dir, "snapshots", "x")
	mount(t, x, x, "", unix.MS_BIND, "")
	last, err := s.store.LastTransaction(t.Context())
	succeed(t, err)
	mustDo(t, s, "label x 1")
	fold(t, dir)
	mustDo(t, s, "label y 1")
	var got []string
	number := last
	for txn, err := range s.store.Watch(t.Context(), last+1) { // which the new journal begins behind
		succeed(t, err)
		if number++; txn.Number != number+1 {
			t.Fatalf("transaction %d, want %d", txn.Number, number+1)
		}
		if got = append(got, changed(txn)); changed(txn) == "~y" {
			break
		}
	}
	if want := []string{"", "~y"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
