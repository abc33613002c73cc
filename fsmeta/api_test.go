package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// An option that a call does not take is an error, and changes nothing.
func TestOptionsThatACallDoesNotTake(t *testing.T) {
	a := use(t, newDir(t))
	mustDo(t, a, "layer base", "put work")
	err := a.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := a.store.CreateWith(ctx, "new", "", false, fsmeta.WithParent("base"))
		wantInvalidOption(t, "CreateWith(WithParent)", err)
		_, err = a.store.CreateWith(ctx, "new", "", false, fsmeta.WithLabels(map[string]string{"a": "b"}), fsmeta.WithParent(""))
		wantInvalidOption(t, "CreateWith(WithLabels, WithParent)", err)
		id, err := a.store.NewID(ctx)
		succeed(t, err)
		_, err = a.store.CommitWith(ctx, "work", "done", fsmeta.WithID(id))
		wantInvalidOption(t, "CommitWith(WithID)", err)
		_, err = a.store.CreateWith(ctx, "other", "", false, fsmeta.WithID(id), fsmeta.WithUsage(fsmeta.Usage{Size: 1}))
		return err
	})
	succeed(t, err)
	mustSay(t, a, "walk", "base other work")
	mustSay(t, a, "stat work", "active v= on=")
	err = a.store.WithTransaction(t.Context(), true, func(ctx context.Context) error {
		_, err := a.store.CommitWith(ctx, "work", "done", fsmeta.WithParent("base"), fsmeta.WithLabels(map[string]string{"v": "1"}))
		return err
	})
	succeed(t, err)
	mustSay(t, a, "stat done", "committed v=1 on=base")
}

func wantInvalidOption(t *testing.T, call string, err error) {
	t.Helper()
	if !errors.Is(err, fsmeta.ErrInvalidOption) {
		t.Errorf("%s: %v, want an ErrInvalidOption", call, err)
	}
}

// CarryTransaction gives the transaction of one context to another, which keeps its values and its end.
func TestCarryTransaction(t *testing.T) {
	type key struct{}
	a := use(t, newDir(t))
	waits, tx, err := a.store.TransactionContext(t.Context(), true)
	succeed(t, err)
	ended, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	cancel()
	ctx := fsmeta.CarryTransaction(ended, waits)
	if ctx.Value(key{}) != "value" || ctx.Err() != context.Canceled || fsmeta.FromContext(ctx) != a.store {
		t.Errorf("the context has the value %v and the error %v", ctx.Value(key{}), ctx.Err())
	}
	_, err = a.store.CreateActive(ctx, "x", "", false)
	succeed(t, err)
	if s := fsmeta.FromContext(fsmeta.CarryTransaction(ctx, ended)); s != nil {
		t.Error("a context carries the transaction that it carried before")
	}
	succeed(t, tx.Commit())
	_, err = a.store.Stat(t.Context(), "x")
	succeed(t, err)
}

// Nothing begins in the context of a transaction that has ended, as nothing else is done in it.
func TestBeginInAnEndedTransaction(t *testing.T) {
	a := use(t, newDir(t))
	mustDo(t, a, "put x")
	for name, end := range map[string]func(fsmeta.Transactor) error{
		"commit": fsmeta.Transactor.Commit, "rollback": fsmeta.Transactor.Rollback,
	} {
		for _, outer := range []bool{false, true} {
			ctx, tx, err := a.store.TransactionContext(t.Context(), outer)
			succeed(t, err)
			succeed(t, end(tx))
			if _, err := a.store.Stat(ctx, "x"); !errors.Is(err, fsmeta.ErrTransactionClosed) {
				t.Errorf("stat after a %s: %v", name, err)
			}
			for _, inner := range []bool{false, true} {
				if _, tx, err := a.store.TransactionContext(ctx, inner); !errors.Is(err, fsmeta.ErrTransactionClosed) {
					t.Errorf("begin (writable: %v) after a %s of one (writable: %v): %v", inner, name, outer, err)
					if err == nil {
						succeed(t, tx.Rollback())
					}
				}
				err := a.store.WithTransaction(ctx, inner, func(context.Context) error { return nil })
				if !errors.Is(err, fsmeta.ErrTransactionClosed) {
					t.Errorf("WithTransaction (writable: %v) after a %s: %v", inner, name, err)
				}
			}
			if _, err := a.store.Orphans(ctx, []string{"9"}); !errors.Is(err, fsmeta.ErrTransactionClosed) {
				t.Errorf("Orphans after a %s: %v", name, err)
			}
		}
	}
}

// logged is what a logger has written, which goes on beside the test.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// captureLog takes what is logged from now on to the end of the test.
func captureLog(t *testing.T) *logged {
	t.Helper()
	log, before := &logged{}, slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return log
}

// A wait of over a second for the writer's turn is logged, with the process that has the turn and
// since when, and so says the error.
func TestLongWaitSaysTheHolder(t *testing.T) {
	log := captureLog(t)

	dir := newDir(t)
	a := use(t, dir)
	mustDo(t, a, "put x")
	other := start(t)
	mustDo(t, other, "open "+dir, "begin")
	holder := strconv.Itoa(other.cmd.Process.Pid)
	began := time.Now()
	err := mustFail(t, a, "begin 1800", context.DeadlineExceeded)
	if waited := time.Since(began); waited < 1800*time.Millisecond {
		t.Fatalf("it waited only %v", waited)
	}
	for what, text := range map[string]string{"the error": err.Error(), "the log": log.String()} {
		if !strings.Contains(text, holder) || !strings.Contains(text, "since") {
			t.Errorf("%s does not say that process %s has the turn and since when: %q", what, holder, text)
		}
	}
	mustDo(t, other, "rollback", "close")

	log.Reset()
	mustDo(t, a, "begin")
	err = mustFail(t, &local{store: a.store}, "begin 1500", context.DeadlineExceeded)
	for what, text := range map[string]string{"the error": err.Error(), "the log": log.String()} {
		if !strings.Contains(text, strconv.Itoa(os.Getpid())) && !strings.Contains(text, "this process") || !strings.Contains(text, "since") {
			t.Errorf("%s does not say that this process has the turn and since when: %q", what, text)
		}
	}
	mustDo(t, a, "rollback")

	log.Reset()
	mustDo(t, a, "begin 5000", "rollback")
	if len(log.String()) > 0 {
		t.Errorf("a begin without a wait is logged: %s", log.String())
	}
}

// orphansOf requires that those of the identifiers are orphans, and no others.
func orphansOf(t *testing.T, a *local, ids, want []string) {
	t.Helper()
	got, err := a.store.Orphans(t.Context(), ids)
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("orphans of %q: %q, %v, want %q", ids, got, err, want)
	}
}

// Content under an identifier that no snapshot has is an orphan, but for that of snapshots that a repair has set
// aside, and what a restored store can't know.
func TestOrphans(t *testing.T) {
	dir := newDir(t)
	a := useDamaged(t, dir)
	id := map[string]string{}
	for _, name := range []string{"gone", "kept", "hurt", "last"} {
		id[name] = mustDo(t, a, "put "+name)
	}
	mustDo(t, a, "remove gone", "commit kept layer")
	all := []string{id["gone"], id["kept"], id["hurt"], id["last"]}
	orphansOf(t, a, all, []string{id["gone"]})
	orphansOf(t, a, []string{id["kept"]}, nil)
	orphansOf(t, a, nil, nil)
	pending, err := a.store.NewID(t.Context()) // content is made under it
	succeed(t, err)
	orphansOf(t, a, []string{pending, id["gone"]}, []string{id["gone"]})
	// So it is in a writable transaction, with its own changes.
	mustDo(t, a, "begin", "remove last")
	got, err := a.store.Orphans(a.ctx, all)
	if slices.Sort(got); err != nil || !slices.Equal(got, slices.Sorted(slices.Values([]string{id["gone"], id["last"]}))) {
		t.Errorf("orphans in a transaction that has removed %s: %q, %v", id["last"], got, err)
	}
	copied := newDir(t)
	mustDo(t, a, "rollback", "backup "+copied, "close")

	flip(t, metadataPath(dir, "hurt"), 100)
	b := useDamaged(t, dir)
	if got, err := b.store.Orphans(t.Context(), all); !errors.Is(err, fsmeta.ErrDamaged) || len(got) > 0 {
		t.Errorf("orphans beside a damaged snapshot: %q, %v", got, err)
	}
	mustDo(t, b, "close")
	repair(t, dir)
	b = useDamaged(t, dir)
	got, err = b.store.Orphans(t.Context(), all)
	// The identifier of what was set aside may be unknown: then nothing is known to be an orphan.
	if err != nil && (!errors.Is(err, fsmeta.ErrDamaged) || len(got) > 0) || slices.Contains(got, id["hurt"]) {
		t.Errorf("orphans beside a snapshot that was set aside: %q, %v", got, err)
	}
	mustDo(t, b, "close")
	forgetAside(t, dir)
	orphansOf(t, use(t, dir), all, []string{id["gone"], id["hurt"]})

	// In a restored store, any content may be of a snapshot from after the backup.
	c := useDamaged(t, copied)
	fresh := mustDo(t, c, "put fresh")
	later := mustDo(t, c, "put later")
	mustDo(t, c, "remove later")
	orphansOf(t, c, append(all, fresh, later), []string{later})
	mustDo(t, c, "close")
	succeed(t, os.Remove(filepath.Join(copied, "backup")))
	orphansOf(t, use(t, copied), append(all, fresh, later), []string{id["gone"], later})
}

// A store of the first format is refused, with its version.
func TestFirstFormatIsRefused(t *testing.T) {
	for _, version := range []string{"1", "3", "0"} {
		dir := newDir(t)
		build(t, dir, "put x")
		writeFile(t, filepath.Join(dir, "layout"), "{\"format\":\"fsmeta\",\"version\":"+version+"}\n")
		for _, opts := range [][]fsmeta.Option{nil, {fsmeta.ReadOnly()}} {
			if _, err := fsmeta.Open(dir, opts...); !errors.Is(err, fsmeta.ErrNotStore) || !strings.Contains(err.Error(), version) {
				t.Errorf("version %s: %v", version, err)
			}
		}
	}
}
