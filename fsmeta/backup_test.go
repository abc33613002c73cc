package fsmeta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// all returns everything that a walk sees.
func all(t *testing.T, s *Store) (infos []Info) {
	t.Helper()
	for info, err := range s.All(bg) {
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	return infos
}

// A backup is the store as it was, and hands out other identifiers.
func TestBackup(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a", "with space", strings.Repeat("long", 100))
	err := s.WithTransaction(bg, true, func(ctx context.Context) error {
		if _, err := s.CommitActive(ctx, "a", "b", WithLabels(map[string]string{"k": "é"}), WithUsage(Usage{3, 4})); err != nil {
			return err
		}
		_, err := s.CreateActive(ctx, "c", "b", true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "backup")
	var told []int
	if err := s.Backup(bg, to, func(done, total int) { told = append(told, done, total) }); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(told) != "[1 4 2 4 3 4 4 4]" {
		t.Errorf("progress %v", told)
	}
	if err := s.Backup(bg, to, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("to a directory that is there: %v", err)
	}
	if findings, err := Check(bg, to, nil); err != nil || len(findings) > 0 {
		t.Errorf("%v, %v", findings, err)
	}
	copied := openTest(t, to)
	if got, want := all(t, copied), all(t, s); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for range 300 {
		mustCreate(t, s, "later")
		id, err := s.NewID(bg)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WithTransaction(bg, true, func(ctx context.Context) error { _, err := s.Remove(ctx, "later"); return err }); err != nil {
			t.Fatal(err)
		}
		if other, err := copied.NewID(bg); err != nil || len(other) <= len(id) {
			t.Fatalf("identifier %s after %s, %v", other, id, err)
		}
	}
}

// Copies of one backup that are put in its place one after the other hand out other
// identifiers each, and go on with them.
func TestBackupRestoredTwice(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a")
	dir := t.TempDir()
	backup := filepath.Join(dir, "backup")
	if err := s.Backup(bg, backup, nil); err != nil {
		t.Fatal(err)
	}
	use := func(restored string) uint64 {
		t.Helper()
		r, err := Open(restored)
		if err != nil {
			t.Fatal(err)
		}
		id, err := r.NewID(bg)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		n, err := parseID(id)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// As if the second were used an hour after the first.
	var ids []uint64
	for i, age := range []time.Duration{0, time.Hour} {
		restored := filepath.Join(dir, fmt.Sprint(i))
		if err := os.CopyFS(restored, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
		c, err := readCopied(restored)
		if err != nil {
			t.Fatal(err)
		}
		c.Time = c.Time.Add(-age)
		if err := c.write(restored, restored); err != nil {
			t.Fatal(err)
		}
		first, second := use(restored), use(restored)
		if second <= first || second > first+1000 {
			t.Errorf("identifier %d, and %d when it is opened again", first, second)
		}
		if c, err = readCopied(restored); err != nil || first < c.To {
			t.Errorf("identifier %d is handed out, and the file says %+v, %v", first, c, err)
		}
		ids = append(ids, first)
	}
	if ids[1] < ids[0]+uint64(time.Hour.Milliseconds())/2 {
		t.Errorf("identifiers %d", ids)
	}
	// Nor does a copy of a copy that was not in use yet.
	second := openTest(t, filepath.Join(dir, "1"), ReadOnly())
	if err := second.Backup(bg, filepath.Join(dir, "2"), nil); err != nil {
		t.Fatal(err)
	}
	if id := use(filepath.Join(dir, "2")); id < ids[1] {
		t.Errorf("identifiers %d, and %d in a copy of the last", ids, id)
	}
}

// RestoredBelow is above all that was handed out elsewhere, before the copy is used and after.
func TestRestoredBelow(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a")
	if below, err := s.RestoredBelow(); below != 0 || err != nil {
		t.Errorf("in a store that is no copy: %d, %v", below, err)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	if err := s.Backup(bg, dir, nil); err != nil {
		t.Fatal(err)
	}
	number := func(id string, err error) uint64 {
		t.Helper()
		n, perr := parseID(id)
		if err = errors.Join(err, perr); err != nil {
			t.Fatal(err)
		}
		return n
	}
	c := openTest(t, dir)
	below := func() uint64 {
		t.Helper()
		below, err := c.RestoredBelow()
		if err != nil {
			t.Fatal(err)
		}
		return below
	}
	if other := number(s.NewID(bg)); below() <= other {
		t.Errorf("below %d, and %d was handed out elsewhere", below(), other)
	}
	first := number(c.NewID(bg))
	for range 2 { // it stays so
		if below() > first || below() <= unknownIDs {
			t.Errorf("below %d, and %d was handed out in the copy", below(), first)
		}
		number(c.NewID(bg))
	}
}

// A file "backup" that says nothing keeps writers off, is found, and is set aside by a
// repair, which leaves the journal alone. One that is no file is nobody's business.
func TestBackupFileDamaged(t *testing.T) {
	for _, text := range []string{"", "{", "{}", `{"identifiersFrom":9,"identifiersTo":8}`} {
		s := tampered(t, newSpecimen(t, false))
		s.put(backupFile, text)
		if err := create(openTest(t, s.dir), "b", ""); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
	}
	s := tampered(t, newSpecimen(t, false))
	s.put(backupFile, "{")
	wantCheck(t, s.dir, wanted{backupFile, false, "does not say below which"})
	before := newTree(s.dir)
	findings, err := Repair(bg, s.dir, nil)
	s.check(err)
	if len(findings) != 1 || findings[0].Path != s.at(backupFile) || findings[0].Repaired == "" {
		t.Errorf("%v", findings)
	}
	wantCheck(t, s.dir)
	store := openTest(t, s.dir)
	mustCreate(t, store, "b")
	info, err := store.Stat(bg, "b")
	s.check(err)
	if n, err := parseID(info.ID); err != nil || n < unknownIDs {
		t.Errorf("identifier %s, %v", info.ID, err)
	}
	if m, err := before.read("alone"); m == nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}

	odd := tampered(t, newSpecimen(t, false))
	odd.check(os.Mkdir(odd.at(backupFile), dirMode))
	wantCheck(t, odd.dir, wanted{backupFile, true, "no part of the store"})
	mustCreate(t, openTest(t, odd.dir), "b")
}

// A backup beside writers is one point in time.
func TestBackupBesideWriters(t *testing.T) {
	smallJournals(t, 5000)
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	done := make(chan bool)
	var writers sync.WaitGroup
	writers.Go(func() { // two names change together
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			labels := map[string]string{"n": fmt.Sprint(i)}
			err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				for _, name := range []string{"one", "two"} {
					if i > 0 {
						if _, err := s.Remove(ctx, name); err != nil {
							return err
						}
					}
					if _, err := s.Create(ctx, name, "", false, WithLabels(labels)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	dir := t.TempDir()
	for i := range 20 {
		to := filepath.Join(dir, fmt.Sprint(i))
		if err := s.Backup(bg, to, nil); err != nil {
			t.Fatal(err)
		}
		copied := openTest(t, to, ReadOnly())
		if infos := all(t, copied); len(infos) != 0 && (len(infos) != 2 || infos[0].Labels["n"] != infos[1].Labels["n"]) {
			t.Errorf("%v", infos)
		}
	}
	close(done)
	writers.Wait()
}

// An error leaves nothing.
func TestBackupFails(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "store"))
	mustCreate(t, s, "a", "b")
	foldAll(t, s)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if err := s.Backup(ctx, filepath.Join(dir, "x"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := s.Backup(bg, filepath.Join(dir, "no", "x"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where the directory above is missing: %v", err)
	}
	if err := os.Truncate(s.tree.path("b")+"/"+metadataFile, 10); err != nil {
		t.Fatal(err)
	}
	if err := openTest(t, s.dir, ReadOnly()).Backup(bg, filepath.Join(dir, "x"), nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("of a store with a damaged snapshot: %v", err)
	}
	if names, err := readNames(dir); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	inside := openTest(t, filepath.Join(t.TempDir(), "store"))
	for _, to := range []string{"x", "snapshots/x"} {
		if err := inside.Backup(bg, filepath.Join(inside.dir, to), nil); err == nil || !strings.Contains(err.Error(), "is in the store") {
			t.Errorf("into the store itself: %v", err)
		}
	}
}
