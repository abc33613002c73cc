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
}
