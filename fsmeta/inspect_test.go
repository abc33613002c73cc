package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// seen returns what an inspection of the store in dir finds, a word for each snapshot and a line for
// each thing that is wrong with the store: "base" of the tree, "base!" of the journal, "base~" where
// it lags, "base?" where it is damaged.
func seen(t *testing.T, dir string) (snapshots string, wrong []error) {
	t.Helper()
	i, err := fsmeta.Inspect(dir)
	succeed(t, err)
	defer func() { succeed(t, i.Close()) }()
	var words []string
	for s, err := range i.All(bg) {
		word := s.Name
		switch {
		case err != nil:
			wrong = append(wrong, err)
			continue
		case s.Damage != nil:
			word += "?"
		case s.Lags != "":
			word += "~"
		case s.Journal:
			word += "!"
		}
		if s.Damage == nil && (s.ID == "" || s.Txn == 0 || s.Created.IsZero()) || s.Path == "" {
			t.Errorf("not whole: %+v", s)
		}
		if (s.Advice != "") != (s.Damage != nil || s.Lags != "") {
			t.Errorf("advice %q on %q, %v", s.Advice, s.Lags, s.Damage)
		}
		words = append(words, word)
	}
	return strings.Join(words, " "), wrong
}

// An inspection shows a store in every state, with what decides about each snapshot.
func TestInspect(t *testing.T) {
	script := []string{"layer base", "put work base", "put gone"}
	for _, test := range []struct {
		name   string
		crash  bool
		change func(t *testing.T, dir string)
		want   string
		wrong  []string // in the errors of the store as a whole
	}{
		{"closed", false, func(*testing.T, string) {}, "base gone work", nil},
		{"crashed", true, func(*testing.T, string) {}, "base! gone! work!", nil},
		{"the tree behind", true, func(t *testing.T, dir string) {
			succeed(t, os.RemoveAll(filepath.Join(dir, "snapshots", "work")))
		}, "base! gone! work~", nil},
		{"a snapshot damaged", false, func(t *testing.T, dir string) { writeFile(t, metadataPath(dir, "base"), "{") },
			"gone work base?", nil},
		{"a snapshot lost", false, func(t *testing.T, dir string) {
			succeed(t, os.RemoveAll(filepath.Join(dir, "snapshots", "gone")))
		}, "base work", []string{"1 of 3 snapshots is missing"}},
		{"a parent lost", false, func(t *testing.T, dir string) {
			succeed(t, os.RemoveAll(filepath.Join(dir, "snapshots", "base")))
		}, "gone work?", []string{"1 of 3 snapshots is missing"}},
		{"a parent and the journal lost", false, func(t *testing.T, dir string) {
			succeed(t, os.RemoveAll(filepath.Join(dir, "snapshots", "base")), os.Remove(filepath.Join(dir, "journal")))
		}, "gone work?", []string{"journal: "}},
		{"a foreign file", false, func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "snapshots", "%zz"), "") },
			"base gone work ?", nil},
		{"the layout lost", false, func(t *testing.T, dir string) { succeed(t, os.Remove(filepath.Join(dir, "layout"))) },
			"base gone work", []string{"layout: the file is missing"}},
		{"the journal lost", false, func(t *testing.T, dir string) { succeed(t, os.Remove(filepath.Join(dir, "journal"))) },
			"base gone work", []string{"journal: "}},
		{"the journal damaged", true, func(t *testing.T, dir string) {
			at := strings.Index(readFile(t, filepath.Join(dir, "journal")), `"name":"gone"`)
			patch(t, filepath.Join(dir, "journal"), int64(at), 'x')
		}, "base! gone work!", []string{"journal: the line of transaction"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := newDir(t)
			if test.crash {
				crashed(t, dir, script...)
			} else {
				build(t, dir, script...)
			}
			test.change(t, dir)
			before := fingerprint(t, dir)
			got, wrong := seen(t, dir)
			if got != test.want || len(wrong) != len(test.wrong) {
				t.Fatalf("%q, %v; want %q, %q", got, wrong, test.want, test.wrong)
			}
			for i, err := range wrong {
				if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), test.wrong[i]) {
					t.Errorf("%v, want damage with %q", err, test.wrong[i])
				}
			}
			if fingerprint(t, dir) != before {
				t.Error("something has changed")
			}
		})
	}
}

// An inspection finds in each store of the corpus what its listing says. Where a store must not open, it
// shows what there is, and says what is wrong.
func TestInspectCorpus(t *testing.T) {
	for _, name := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, name)
			want := readFile(t, filepath.Join(corpusDir, name+".jsonl"))
			got, removed, err := inspectionListing(t, dir)
			if strings.HasPrefix(want, `{"error":`) {
				if err == nil && len(got.Damaged) == 0 {
					t.Errorf("nothing is wrong with it: %s", got.summary())
				}
				return
			}
			succeed(t, err)
			equal(t, "listing", got.jsonl(t), want)
			for _, gone := range removed {
				if slices.ContainsFunc(got.Snapshots, func(s listed) bool { return s.Name == gone.Name }) {
					t.Errorf("%q is removed, and listed", gone.Name)
				}
			}
		})
	}
}

// inspectionListing reads a store as an inspection does.
func inspectionListing(t *testing.T, dir string) (l storeListing, removed []fsmeta.Sight, err error) {
	t.Helper()
	i, err := fsmeta.Inspect(dir)
	if err != nil {
		return l, nil, err
	}
	defer func() { succeed(t, i.Close()) }()
	damaged := map[string]bool{}
	for s, err := range i.All(bg) {
		if err == nil && s.Damage == nil {
			l.Snapshots = append(l.Snapshots, listedOf(s.Info, s.Txn))
			continue
		}
		var damage *fsmeta.DamagedError
		if !errors.As(errors.Join(err, s.Damage), &damage) {
			t.Fatalf("list %s: %v, %v", dir, err, s.Damage)
		}
		damaged[inStore(t, dir, damage.Path)] = true
	}
	l.Damaged = slices.Sorted(maps.Keys(damaged))
	return l, i.Removed(), nil
}

// Of a snapshot that stands on a missing one, an inspection returns the metadata and what to do.
func TestInspectOrphan(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer base", "put work base")
	succeed(t, os.RemoveAll(filepath.Join(dir, "snapshots", "base")))
	i, err := fsmeta.Inspect(dir)
	succeed(t, err)
	defer func() { succeed(t, i.Close()) }()
	for s := range i.All(bg) {
		if s.Name == "" {
			continue // the store as a whole
		}
		if s.Parent != "base" || s.Kind != fsmeta.KindActive || s.ID == "" || s.Txn == 0 || !errors.Is(s.Damage, fsmeta.ErrDamaged) || !strings.Contains(s.Advice, "put the parent back") {
			t.Errorf("%+v", s)
		}
		return
	}
	t.Error("it returns no snapshot")
}

// A removed snapshot with a directory that is still there is no snapshot, but a name that lags. One
// that was made anew is no such name.
func TestInspectRemoved(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer base", "put again base", "put gone base", "put whole base")
	entry := filepath.Join(dir, "snapshots", "gone")
	kept := copyDir(t, entry)
	crashed(t, dir, "remove gone", "remove again", "put again base", "remove whole")
	succeed(t, os.Rename(kept, entry))
	got, wrong := seen(t, dir)
	if got != "again! base" || len(wrong) > 0 {
		t.Errorf("%q, %v", got, wrong)
	}
	i, err := fsmeta.Inspect(dir)
	succeed(t, err)
	defer func() { succeed(t, i.Close()) }()
	all := i.Removed()
	if len(all) != 1 || all[0].Name != "gone" || all[0].Path != entry || !all[0].Journal || all[0].Kind != 0 || !strings.Contains(all[0].Lags, "is still there") || all[0].Advice == "" {
		t.Errorf("%+v", all)
	}
}

// A walk over an inspection keeps nothing of the snapshots in memory but their names.
func TestInspectMemory(t *testing.T) {
	const snapshots, labels = 500, 20_000 // bytes of labels in each
	dir := newDir(t)
	s := openOnly(t, dir)
	s.write(func(ctx context.Context) {
		for n := range snapshots {
			must(s.CreateWith(ctx, fmt.Sprint(n), "", false, fsmeta.WithLabels(map[string]string{"long": strings.Repeat("x", labels)})))
		}
	})
	succeed(t, s.Close())
	i, err := fsmeta.Inspect(dir)
	succeed(t, err)
	defer func() { succeed(t, i.Close()) }()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, n := heap(), 0
	for _, err := range i.All(bg) {
		succeed(t, err)
		if n++; n == snapshots {
			if after := heap(); after > before+snapshots*labels/10 {
				t.Errorf("%d bytes are kept of %d snapshots", after-before, n)
			}
		}
	}
	equal(t, "snapshots", n, snapshots)
}

// The log has the transactions since the last checkpoint, and says which are lost.
func TestInspectLog(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "put old")
	log := func() (text string) {
		i, err := fsmeta.Inspect(dir)
		succeed(t, err)
		defer func() { succeed(t, i.Close()) }()
		var lines []string
		for tx, err := range i.Log() {
			line := fmt.Sprint(tx.Number)
			for _, c := range tx.Changes {
				line += fmt.Sprintf(" %s:%v→%v", c.Name, c.Before != nil, c.After != nil)
			}
			if damage := (*fsmeta.DamagedError)(nil); errors.As(err, &damage) {
				line = "lost: " + damage.Err.Error()
			} else if err != nil {
				line = err.Error()
			}
			lines = append(lines, line)
		}
		return strings.Join(lines, "\n")
	}
	equal(t, "log of a closed store", log(), "")
	crashed(t, dir, "put new", "label old 1", "remove new")
	whole := log()
	lines := strings.Split(whole, "\n")
	changes := slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, ":") })
	if len(changes) != 3 || !strings.HasSuffix(changes[0], "new:false→true") || !strings.HasSuffix(changes[1], "old:true→true") || !strings.HasSuffix(changes[2], "new:true→false") {
		t.Fatalf("log of a crashed store:\n%s", whole)
	}
	at := strings.Index(readFile(t, filepath.Join(dir, "journal")), `"labels":{"`)
	patch(t, filepath.Join(dir, "journal"), int64(at), 'x')
	number, _, _ := strings.Cut(changes[1], " ")
	last, _, _ := strings.Cut(changes[2], " ")
	if got := log(); !strings.Contains(got, "lost: it has no readable line of these transactions: "+number+"\n"+changes[2]) ||
		!strings.HasSuffix(got, "lost: it has no readable line of these transactions: any after "+last) {
		t.Errorf("log of a damaged journal:\n%s", got)
	}
}

// The summary says what the store is like, and which processes use it.
func TestInspectSummary(t *testing.T) {
	dir := newDir(t)
	summary := func() fsmeta.Summary {
		i, err := fsmeta.Inspect(dir)
		succeed(t, err)
		defer func() { succeed(t, i.Close()) }()
		return must(i.Summary())
	}
	a := start(t)
	mustDo(t, a, "open "+dir, "put x", "put y", "remove x", "begin")
	s := summary()
	if s.Format != 2 || s.Transaction == 0 || s.Counted != 1 || !s.Known || s.NextID < 3 || s.Checkpoint != 0 || s.JournalSize == 0 || s.OtherBoot {
		t.Errorf("beside a writer: %+v", s)
	}
	pid := a.cmd.Process.Pid
	if len(s.Writer) != 1 || s.Writer[0].PID != pid || len(s.Users) != 1 || s.Users[0].PID != pid {
		t.Errorf("writer %v, users %v, want process %d", s.Writer, s.Users, pid)
	}
	mustDo(t, a, "rollback", "close")
	if s := summary(); s.Checkpoint != s.Transaction || len(s.Writer) > 0 || len(s.Users) > 0 || len(s.Damage) > 0 || s.SetAside > 0 {
		t.Errorf("of a closed store: %+v", s)
	}
	succeed(t, os.Remove(filepath.Join(dir, "layout")))
	writeFile(t, filepath.Join(dir, "journal"), "garbage")
	if s := summary(); s.Known || s.NextID != 0 || len(s.Damage) != 2 {
		t.Errorf("of a damaged store: %+v", s)
	}
}

// Several walks of one inspection are each whole, also without a journal.
func TestInspectConcurrently(t *testing.T) {
	dir := newDir(t)
	build(t, dir, "layer base", "put work base", "put gone")
	succeed(t, os.Remove(filepath.Join(dir, "journal")), os.Remove(filepath.Join(dir, "layout")))
	i, err := fsmeta.Inspect(dir)
	succeed(t, err)
	defer func() { succeed(t, i.Close()) }()
	var walks sync.WaitGroup
	for range 4 {
		walks.Go(func() {
			snapshots, wrong := 0, 0
			for _, err := range i.All(t.Context()) {
				if err != nil {
					wrong++
				} else {
					snapshots++
				}
			}
			if snapshots != 3 || wrong != 2 {
				t.Errorf("%d snapshots and %d errors, want 3 and 2", snapshots, wrong)
			}
		})
	}
	walks.Wait()
}
