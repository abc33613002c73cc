package fsmeta_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// A power cut takes the latest relaxed transactions, and no identifier is used again.
func TestRelaxedPowerCut(t *testing.T) {
	dir := newDir(t)
	r := start(t)
	mustDo(t, r, "open "+dir+" relaxed")
	var ids []string
	for published := true; published; {
		for range 100 { // more than one block of identifiers in the end
			ids = append(ids, mustDo(t, r, fmt.Sprintf("put %04d", len(ids))))
		}
		signal(t, r, syscall.SIGSTOP) // so that nothing is synced meanwhile
		if published = len(ids) < 300 || isPublished(t, dir); published {
			signal(t, r, syscall.SIGCONT)
		}
	}
	cut := copyDir(t, dir)
	r.kill()
	// The lines that were not synced are gone, and nothing of the tree is ahead.
	path := filepath.Join(cut, "journal")
	text := readFile(t, path)
	end := strings.LastIndexByte(text, '\n') + 1
	writeFile(t, path, text[:end]+strings.Repeat("\x00", len(text)-end))
	again := use(t, cut)
	if n := len(strings.Fields(mustDo(t, again, "walk"))); n == 0 || n >= len(ids) {
		t.Errorf("%d snapshots of %d", n, len(ids))
	}
	id, err := again.store.NewID(t.Context())
	if succeed(t, err); slices.Contains(ids, id) {
		t.Errorf("identifier %s was handed out again", id)
	}
}

// Where the sync behind a relaxed commit fails, later transactions and Close say so.
func TestRelaxedFails(t *testing.T) {
	dir := newDir(t)
	s := useDamaged(t, dir, fsmeta.Relaxed())
	mustDo(t, s, "begin", "put a")
	back := swap(t, dir, os.DevNull, unix.O_RDWR)
	mustDo(t, s, "end") // does not wait
	if _, err := s.do("begin"); err == nil {
		mustFail(t, s, "rollback", fsmeta.ErrFailed) // waits for all lines that it could have read
	} else if !errors.Is(err, fsmeta.ErrFailed) {
		t.Error(err)
	}
	back()
	mustFail(t, s, "put b", fsmeta.ErrFailed)
	mustFail(t, s, "close", fsmeta.ErrFailed)
}
