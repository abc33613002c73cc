package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/commit"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

// newID reserves an identifier.
func newID(t testing.TB, s *local) uint64 {
	t.Helper()
	id, err := s.store.NewID(context.Background())
	succeed(t, err)
	n, err := format.ParseID(id)
	succeed(t, err)
	return n
}

// backupFile reads the file backup of a copy.
func backupFile(t testing.TB, dir string) format.Backup {
	t.Helper()
	b, err := format.DecodeBackup([]byte(readFile(t, filepath.Join(dir, "backup"))))
	succeed(t, err)
	return b
}

// A backup is the store as it was, and hands out other identifiers.
func TestBackup(t *testing.T) {
	s := use(t, newDir(t))
	mustDo(t, s, "layer b", "put c b", "label c é", "put "+strings.Repeat("long", 100))
	succeed(t, s.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := s.store.CreateWith(ctx, "with space", "b", true, fsmeta.WithLabels(map[string]string{"k": ""}), fsmeta.WithUsage(fsmeta.Usage{Inodes: 3, Size: 4}))
		return err
	}))
	to := newDir(t)
	var told []int
	succeed(t, s.store.Backup(t.Context(), to, func(done, total int) { told = append(told, done, total) }))
	if want := []int{1, 4, 2, 4, 3, 4, 4, 4}; !slices.Equal(told, want) {
		t.Errorf("progress %v", told)
	}
	mustFail(t, s, "backup "+to, fs.ErrExist)
	wantClean(t, to)
	copied := use(t, to)
	if got, want := must(dump(t.Context(), copied.store)), must(dump(t.Context(), s.store)); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for range 300 { // more than a block
		if id, other := newID(t, s), newID(t, copied); other < id+commit.UnknownIDs/2 {
			t.Fatalf("identifier %d here, %d in the copy", id, other)
		}
	}
}

// Copies of one backup that are put in its place one after the other hand out other
// identifiers each, and go on with them.
func TestBackupRestoredTwice(t *testing.T) {
	s := use(t, newDir(t))
	mustDo(t, s, "put a")
	backup := newDir(t)
	mustDo(t, s, "backup "+backup)
	once := func(dir string) uint64 {
		t.Helper()
		r := useDamaged(t, dir)
		id := newID(t, r)
		mustDo(t, r, "close")
		return id
	}
	// As if the second were used an hour after the first.
	var ids []uint64
	var restored string
	for _, age := range []time.Duration{0, time.Hour} {
		restored = copyDir(t, backup)
		b := backupFile(t, restored)
		b.Time = b.Time.Add(-age)
		writeFile(t, filepath.Join(restored, "backup"), string(format.EncodeBackup(b)))
		first, second := once(restored), once(restored)
		if second <= first || second > first+1000 {
			t.Errorf("identifier %d, and %d when it is opened again", first, second)
		}
		if b = backupFile(t, restored); first < b.To {
			t.Errorf("identifier %d is handed out, and the file says %+v", first, b)
		}
		ids = append(ids, first)
	}
	if ids[1] < ids[0]+uint64(time.Hour.Milliseconds())*4000 {
		t.Errorf("identifiers %d", ids)
	}
	// Nor does a copy of a copy.
	again := newDir(t)
	mustDo(t, useDamaged(t, restored, fsmeta.ReadOnly()), "backup "+again)
	if id := once(again); id < ids[1]+commit.UnknownIDs/2 {
		t.Errorf("identifiers %d, and %d in a copy of the last", ids, id)
	}
}

// RestoredBelow is above all that was handed out elsewhere, before the copy is used and after.
func TestRestoredBelow(t *testing.T) {
	s := use(t, newDir(t))
	mustDo(t, s, "put a")
	below := func(x *local) uint64 {
		t.Helper()
		n, err := x.store.RestoredBelow()
		succeed(t, err)
		return n
	}
	if n := below(s); n != 0 {
		t.Errorf("%d in a store that is no copy", n)
	}
	dir := newDir(t)
	mustDo(t, s, "backup "+dir)
	c := use(t, dir)
	if other := newID(t, s); below(c) <= other {
		t.Errorf("below %d, and %d was handed out elsewhere", below(c), other)
	}
	first := newID(t, c)
	for range 2 { // it stays so
		if n := below(c); n > first || n <= commit.UnknownIDs {
			t.Errorf("below %d, and %d was handed out in the copy", n, first)
		}
		newID(t, c)
	}
	succeed(t, os.Remove(filepath.Join(dir, "backup"))) // a person has looked at the content
	if n := below(c); n != 0 {
		t.Errorf("%d without the file", n)
	}
}

// A "backup" that breaks a rule, or is no file, keeps writers off, is found, and is replaced by a
// repair with one that keeps all content so far: it may be newer than the backup.
func TestBackupFileDamaged(t *testing.T) {
	origin := newDir(t)
	build(t, origin, "put a")
	const when = `{"time":"2026-03-01T12:00:00Z",`
	for _, text := range []string{"", "{", "{}", when + `"identifiersFrom":9,"identifiersTo":8}`, when + `"identifiersFrom":0,"identifiersTo":8}`, when + `"identifiersTo":8}`, "directory"} {
		dir := copyDir(t, origin)
		path := filepath.Join(dir, "backup")
		if text == "directory" {
			succeed(t, os.Mkdir(path, 0o700))
		} else {
			writeFile(t, path, text)
		}
		s := useDamaged(t, dir)
		mustFail(t, s, "put b", fsmeta.ErrDamaged)
		mustSay(t, s, "walk", "a")
		if _, err := s.store.RestoredBelow(); !errors.Is(err, fsmeta.ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
		_ = s.store.Close() // which can't empty the journal
		if findings := wantFinding(t, dir); len(findings) != 1 || findings[0].Path != path {
			t.Errorf("%q: %+v", text, findings)
		}
		repair(t, dir)
		s = useDamaged(t, dir)
		below, err := s.store.RestoredBelow()
		orphans, oerr := s.store.Orphans(t.Context(), []string{"1", "2", "300"})
		if err != nil || oerr != nil || below < commit.UnknownIDs || len(orphans) > 0 {
			t.Errorf("%q: after the repair: below %d, %v; orphans %v, %v", text, below, err, orphans, oerr)
		}
		succeed(t, os.Remove(path)) // a person has looked
		if below, err := s.store.RestoredBelow(); below != 0 || err != nil {
			t.Errorf("%q: after it was deleted: %d, %v", text, below, err)
		}
		if id := newID(t, s); id < commit.UnknownIDs {
			t.Errorf("%q: identifier %d", text, id)
		}
		mustSay(t, s, "walk", "a")
	}
}

// A backup beside writers is one point in time.
func TestBackupBesideWriters(t *testing.T) {
	smallJournals(t, 5000)
	s := use(t, newDir(t))
	mustDo(t, s, "begin", "put one", "put two", "end")
	done := make(chan bool)
	var writers sync.WaitGroup
	writers.Go(func() { // two names change together
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			for _, line := range []string{"begin", "remove one", "remove two", "put one", "put two", fmt.Sprint("label one ", i), fmt.Sprint("label two ", i), "end"} {
				if _, err := s.do(line); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	other := &local{store: s.store}
	seen := map[string]bool{}
	for i := 0; i < 10 || len(seen) < 2 && i < 1000; i++ {
		to := newDir(t)
		mustDo(t, other, "backup "+to)
		copied := useDamaged(t, to, fsmeta.ReadOnly())
		one := mustDo(t, copied, "stat one")
		mustSay(t, copied, "stat two", one)
		mustSay(t, copied, "walk", "one two")
		seen[one] = true
	}
	close(done)
	writers.Wait()
	if len(seen) < 2 {
		t.Error("nothing was written meanwhile")
	}
}

// A backup beside an open writable transaction does not wait for it. In the transaction it copies what
// that has changed; outside of it, what is committed.
func TestBackupInATransaction(t *testing.T) {
	s := use(t, newDir(t))
	mustDo(t, s, "put a", "begin", "put b", "remove a")
	inside, outside := newDir(t), newDir(t)
	mustDo(t, s, "backup "+inside)
	mustDo(t, &local{store: s.store}, "backup "+outside)
	mustDo(t, s, "put c", "rollback")
	for dir, want := range map[string]string{inside: "b", outside: "a"} {
		mustSay(t, use(t, dir), "walk", want)
		wantClean(t, dir)
	}
	mustSay(t, s, "walk", "a")
}

// An error leaves nothing.
func TestBackupFails(t *testing.T) {
	dir, to := newDir(t), t.TempDir()
	build(t, dir, "put a", "put b")
	s := useDamaged(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.store.Backup(ctx, filepath.Join(to, "x"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	meanwhile, cancel := context.WithCancel(t.Context())
	if err := s.store.Backup(meanwhile, filepath.Join(to, "x"), func(int, int) { cancel() }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ends meanwhile: %v", err)
	} else if err == nil {
		succeed(t, os.RemoveAll(filepath.Join(to, "x")))
	}
	mustFail(t, s, "backup "+filepath.Join(to, "no", "x"), fs.ErrNotExist)
	for _, inside := range []string{"x", "snapshots/x", "snapshots/a/x"} {
		if _, err := s.do("backup " + filepath.Join(dir, inside)); err == nil || !strings.Contains(err.Error(), "is in the store") {
			t.Errorf("into the store itself: %v", err)
		}
	}
	succeed(t, os.Truncate(metadataPath(dir, "b"), 10))
	mustFail(t, useDamaged(t, dir, fsmeta.ReadOnly()), "backup "+filepath.Join(to, "x"), fsmeta.ErrDamaged)
	if left, err := os.ReadDir(to); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What a killed backup has left is not overwritten, and the error says what to do with it.
func TestBackupBesideAnUnfinishedOne(t *testing.T) {
	dir, to := newDir(t), filepath.Join(t.TempDir(), "x")
	build(t, dir, "put a")
	s := use(t, dir)
	succeed(t, os.Mkdir(to+".unfinished", 0o700))
	if err := s.store.Backup(t.Context(), to, nil); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), to+".unfinished: file already exists: delete it") {
		t.Errorf("%v, want that it exists and is to be deleted", err)
	}
	succeed(t, os.Remove(to+".unfinished"), s.store.Backup(t.Context(), to, nil))
}
