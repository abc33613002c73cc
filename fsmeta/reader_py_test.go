package fsmeta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// readerProgram reads stores, too, by the rules of layout.md. It shares no code with this package.
const readerProgram = "../examples/reader.py"

// readerOfAll lets the program read many stores in one process, since Python takes long to start. Behind
// the output about each it prints a line that says the exit status.
const readerOfAll = `
import json, sys
sys.path.insert(0, "../examples")
import reader
for store in sys.argv[1:]:
    end = json.dumps({"end": reader.main(["--txn", store])})
    print(end, flush=True)
    print(end, file=sys.stderr, flush=True)
`

// readerListing reads a store with examples/reader.py, as its users do. It has a minute for that, whatever
// is written meanwhile.
func readerListing(t *testing.T, dir string) storeListing {
	t.Helper()
	stdout, stderr, status := runPython(t, readerProgram, "--txn", dir)
	return readerOutput(t, json.NewDecoder(stdout), json.NewDecoder(stderr), status)
}

// runPython runs a program that may fail.
func runPython(t *testing.T, args ...string) (stdout, stderr *bytes.Buffer, status int) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skipf("needs python3: %v", err)
	}
	ctx, cancel := context.WithTimeout(bg, hangs)
	defer cancel()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd := exec.CommandContext(ctx, python, append([]string{"-B"}, args...)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%s: %v, %v", cmd, err, ctx.Err())
	}
	return stdout, stderr, cmd.ProcessState.ExitCode()
}

// readerOutput takes what the program has printed about a store, up to a line that says the status, or to the
// end.
func readerOutput(t *testing.T, stdout, stderr *json.Decoder, status int) (l storeListing) {
	t.Helper()
	type record struct {
		listed
		Txn                      *uint64 `json:"txn"`
		End                      *int
		Damaged, Unreadable, Why string
	}
	for {
		var r record
		err := stdout.Decode(&r)
		switch {
		case err == io.EOF:
		case err != nil:
			t.Fatalf("%s: %v", readerProgram, err)
		case r.End != nil:
			status = *r.End
		case r.Name == "":
			l.Txn = *r.Txn
			continue
		default:
			r.listed.Txn = *r.Txn
			l.Snapshots = append(l.Snapshots, r.listed)
			continue
		}
		break
	}
	for {
		var r record
		err := stderr.Decode(&r)
		if err == io.EOF || r.End != nil {
			break
		}
		if err != nil || r.Why == "" {
			rest, _ := io.ReadAll(stderr.Buffered())
			t.Fatalf("%s: %v: %+v\n%.1500s", readerProgram, err, r, rest)
		}
		if l.Unreadable = r.Unreadable; l.Unreadable == "" {
			l.Damaged = append(l.Damaged, r.Damaged)
		}
	}
	want := 0
	if len(l.Damaged) > 0 {
		want = 1
	}
	if l.Unreadable != "" {
		want = 2
	}
	equal(t, "exit status", status, want)
	return l
}

// readersAgree requires that both readers find the same in a store, and returns that.
func readersAgree(t *testing.T, dir string) storeListing {
	t.Helper()
	return listingsAgree(t, libraryListing(t, dir), readerListing(t, dir))
}

func listingsAgree(t *testing.T, want, got storeListing) storeListing {
	t.Helper()
	got.Error = want.Error // an exit status has no classes
	equal(t, "the listing of "+readerProgram, got.jsonl(t), want.jsonl(t))
	equal(t, "the transaction of "+readerProgram, got.Txn, want.Txn)
	return want
}

func TestReaderOfCorpus(t *testing.T) {
	names := corpus(t)
	var dirs, before []string
	for _, name := range names {
		dirs = append(dirs, unpack(t, name))
		before = append(before, fingerprint(t, dirs[len(dirs)-1]))
	}
	stdout, stderr, status := runPython(t, append([]string{"-c", readerOfAll}, dirs...)...)
	if status != 0 {
		t.Fatalf("exit status %d\n%.1500s", status, stderr)
	}
	out, problems := json.NewDecoder(stdout), json.NewDecoder(stderr)
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			got := readerOutput(t, out, problems, -1)
			listingsAgree(t, libraryListing(t, dirs[i]), got)
			equal(t, "the store after reads", fingerprint(t, dirs[i]), before[i])
		})
	}
}

// A line that is too long to be one is too long for the corpus, too: a published one is followed by
// 256 MiB of bytes without end.
func TestReaderOfEndlessLine(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: run it without -short")
	}
	dir := filepath.Join(fastDir(t), "store")
	crashed(t, dir, small...)
	lines, _ := readJournal(t, dir)
	writeFile(t, dir+"/journal", strings.Join(lines, "\n")+"\n"+strings.Repeat("x", 256<<20+1)+"\x00")
	equal(t, "listing", readersAgree(t, dir).summary(), smallEnd+" ! journal")
}

// What a user may not read is no reason to show nothing, where there is a rest. An archive keeps no modes,
// so these stores are not in the corpus.
func TestReaderOfForbidden(t *testing.T) {
	dir, here := alone(t, false)
	if !here {
		return
	}
	const whole, one, none = "base; *top < base", "*top < base ! snapshots/base", ""
	for i, test := range []struct {
		path       string
		mode       fs.FileMode
		open       bool   // with a journal that names all
		want, seen string // what both readers find, and an inspection; "" where there is none
		wrong      int    // with the store as a whole
	}{
		{"snapshots/base/metadata.json", 0, false, one, "top base?", 0},
		{"snapshots/base", 0, false, one, "top base?", 0},
		{"snapshots/base", 0o400, false, one, "top base?", 0},
		{"snapshots/base", 0, true, whole, "base~ top!", 0},
		{"journal", 0, false, "! permission: journal", "base top", 1},
		{"journal", 0, true, "! permission: journal", "base top", 1},
		{"layout", 0, false, "! permission: layout", none, 0},
		{"snapshots", 0, false, "! permission: snapshots", none, 0},
		{"snapshots", 0o400, false, "! permission: snapshots", none, 0},
		{"snapshots", 0o300, true, "! permission: snapshots", none, 0},
		{".", 0, false, "! permission: .", none, 0},
	} {
		t.Run(fmt.Sprintf("%s %#o %v", test.path, test.mode, test.open), func(t *testing.T) {
			store := filepath.Join(dir, fmt.Sprint(i))
			s := openOnly(t, store)
			s.build("base; *top < base")
			if !test.open {
				succeed(t, s.Close())
			}
			chmod(t, filepath.Join(store, test.path), test.mode)
			equal(t, "listing", readersAgree(t, store).summary(), test.want)
			if test.seen == none {
				i, err := fsmeta.Inspect(store)
				if err == nil {
					for _, err = range i.All(bg) {
					}
					succeed(t, i.Close())
				}
				wantPermission(t, err, store)
				return
			}
			got, wrong := seen(t, store)
			equal(t, "what an inspection sees", got, test.seen)
			equal(t, "what is wrong with the store", len(wrong), test.wrong)
			for _, err := range wrong {
				if !errors.Is(err, fsmeta.ErrDamaged) {
					t.Errorf("%v is no damage", err)
				}
				wantPermission(t, err, filepath.Join(store, test.path))
			}
		})
	}
}

// Stores of a writer that was killed at some moment of its work, which no test can choose: behind each
// number of answers the next command has just begun.
func TestReaderOfKilledWriter(t *testing.T) {
	script := slices.Concat(small, later, []string{"layer top mid", "churn work 9", "put view top", "commit new newer", "churn view 9", "remove work"})
	for _, mode := range []string{"", " relaxed"} {
		for moment := 1 + len(mode)%2; moment <= len(script); moment += 3 {
			dir := filepath.Join(fastDir(t), "store")
			r := start(t)
			mustDo(t, r, "open "+dir+mode)
			mustDo(t, r, script[:moment-1]...)
			r.send(script[moment-1])
			r.kill()
			if l := readersAgree(t, dir); len(l.Damaged) > 0 || l.Unreadable != "" {
				t.Errorf("killed in %q: %s", script[moment-1], l.summary())
			}
		}
	}
}

// storeHistory is what a store held after each transaction, as Watch says.
type storeHistory struct {
	mu       sync.Mutex
	moved    *sync.Cond
	from, to uint64 // the transactions that are known
	versions map[string][]watched
	err      error // why no more are known
}

// watched is a version of a name from a transaction on, nil where it is gone.
type watched struct {
	txn  uint64
	info *fsmeta.Info
}

// watchHistory begins a history of a store. Where a checkpoint has taken what was not seen yet, it begins anew.
func watchHistory(t *testing.T, dir string) *storeHistory {
	h := &storeHistory{}
	h.moved = sync.NewCond(&h.mu)
	s := openOnly(t, dir, fsmeta.ReadOnly())
	ctx, cancel := context.WithCancel(bg)
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		err := fsmeta.ErrOutdated
		for errors.Is(err, fsmeta.ErrOutdated) {
			if err = h.begin(s); err == nil {
				err = h.follow(ctx, s)
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = err
		h.moved.Broadcast()
	}()
	return h
}

// begin takes in all that a store holds now.
func (h *storeHistory) begin(s *store) error {
	return s.WithTransaction(bg, false, func(ctx context.Context) error {
		infos, err := s.walk(ctx)
		if err != nil {
			return err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.versions = map[string][]watched{}
		for _, info := range infos {
			h.versions[info.Name] = []watched{{0, &info}}
		}
		h.from, err = s.LastTransaction(ctx)
		h.to = h.from
		return err
	})
}

// follow takes in what comes then.
func (h *storeHistory) follow(ctx context.Context, s *store) error {
	for txn, err := range s.Watch(ctx, h.from) {
		if err != nil {
			return err
		}
		h.mu.Lock()
		for _, c := range txn.Changes {
			h.versions[c.Name] = append(h.versions[c.Name], watched{txn.Number, c.After})
		}
		h.to = txn.Number
		h.moved.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

// at waits until a transaction is known, and returns the snapshots then. ok is false where it is not
// known, since there was a gap. The transaction that wrote a version is 0 where it is older.
func (h *storeHistory) at(t *testing.T, txn uint64) (found []listed, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.to < txn && h.err == nil {
		h.moved.Wait()
	}
	nilError(t, h.err)
	for _, name := range slices.Sorted(maps.Keys(h.versions)) {
		var last watched
		for _, v := range h.versions[name] {
			if v.txn <= txn {
				last = v
			}
		}
		if last.info != nil {
			found = append(found, listedOf(*last.info, last.txn))
		}
	}
	return found, h.from <= txn
}

// While processes write without a pause, each listing of the other reader is that of the transaction
// which it says.
func TestReaderOfLiveStore(t *testing.T) {
	dir := filepath.Join(fastDir(t), "store")
	first := start(t)
	mustDo(t, first, "open "+dir, "layer base", "begin")
	for i := range 200 {
		mustDo(t, first, fmt.Sprintf("put old%03d base", i))
	}
	mustDo(t, first, "end")
	h := watchHistory(t, dir)
	var stops []func()
	for i, r := range []*remote{first, start(t)} {
		if r != first {
			mustDo(t, r, "open "+dir)
		}
		stops = append(stops, writeOn(t, r, fmt.Sprint(i)))
	}
	for compared, begun := 0, h.latest(); compared < 4 || h.latest() < begun+200; {
		l := readerListing(t, dir)
		want, ok := h.at(t, l.Txn)
		if !ok {
			continue
		}
		compared++
		equal(t, "what the other reader finds damaged", l.Damaged, nil)
		for i := range want {
			if want[i].Txn == 0 && i < len(l.Snapshots) { // from before the history
				want[i].Txn = l.Snapshots[i].Txn
			}
		}
		equal(t, fmt.Sprintf("listing at transaction %d", l.Txn), l.jsonl(t), storeListing{Snapshots: want}.jsonl(t))
	}
	for _, stop := range stops {
		stop()
	}
	readersAgree(t, dir)
}

func (h *storeHistory) latest() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.to
}

// writeOn lets a process write until stop is called, which requires that all succeeded.
func writeOn(t *testing.T, r *remote, id string) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			name := fmt.Sprintf("%s-%d", id, i)
			for _, line := range []string{"put " + name + " base", "label " + name + " 1", "commit " + name + " done-" + name, "layer layer-" + name + " done-" + name,
				fmt.Sprintf("label old%03d %d", i%200, i), "remove layer-" + name, "remove done-" + name} {
				if _, err := r.do(line); err != nil {
					ended <- fmt.Errorf("%s: %w", line, err)
					return
				}
			}
			select {
			case <-stopped:
				ended <- nil
				return
			default:
			}
		}
	}()
	return func() {
		t.Helper()
		close(stopped)
		succeed(t, <-ended)
	}
}
