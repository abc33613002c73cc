//go:build linux

package driver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// keepTurn keeps the metadata transaction as a call of that name until release is called.
func keepTurn(t *testing.T, ctx context.Context, s *Snapshotter, what, key string) (release func() error) {
	t.Helper()
	has, finish, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.write(ctx, what, key, func(context.Context) error {
			close(has)
			<-finish
			return nil
		})
	}()
	await(t, "the turn", has)
	return func() error {
		close(finish)
		return await(t, what, done)
	}
}

// awaitLine returns a line of the log that has all of the words.
func awaitLine(t *testing.T, caught *lines, words ...string) {
	t.Helper()
	has := func(line string) bool {
		for _, word := range words {
			if !strings.Contains(line, word) {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for line := range strings.Lines(caught.String()) {
			if has(line) {
				return
			}
		}
	}
	t.Errorf("no line of the log has all of %q:\n%s", words, caught)
}

// A call that waits long for the metadata transaction logs which has it, and the one that has it logs that
// too, each with its own key; at the end, both how long it took.
func TestSlowTransactionNamesItsHolder(t *testing.T) {
	s, _ := openFake(t, Config{})
	prepare(t, s, "waiting", "")
	holderCtx, holderLog := withLog(t.Context())
	release := keepTurn(t, holderCtx, s, "commit", "keeping")
	ctx, caught := withLog(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.Update(ctx, snapshots.Info{Name: "waiting"})
		done <- err
	}()
	awaitLine(t, caught, "level=warning", "update waits", "commit has it", "holder=keeping", "key=waiting")
	awaitLine(t, holderLog, "level=warning", "commit keeps the metadata transaction", "key=keeping")
	must(t, release())
	must(t, await(t, "Update", done))
	awaitLine(t, caught, "level=warning", "the metadata transaction of update took", "key=waiting")
	awaitLine(t, holderLog, "level=warning", "the metadata transaction of commit took", "key=keeping")
}

// Where another process keeps the store, no call of this one is named, but the file with the
// lock it is.
func TestSlowTransactionOfAnotherProcess(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Snapshotter) error{
		"update": func(ctx context.Context, s *Snapshotter) error {
			_, err := s.Update(ctx, snapshots.Info{Name: "key"})
			return err
		},
		"prepare": func(ctx context.Context, s *Snapshotter) error {
			_, err := s.Prepare(ctx, "new", "")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := openFake(t, Config{})
			prepare(t, s, "key", "")
			other, err := storage.NewMetaStore(s.root + "/" + metaDir)
			must(t, err)
			t.Cleanup(func() { must(t, other.Close()) })
			_, tx, err := other.TransactionContext(t.Context(), true)
			must(t, err)

			ctx, caught := withLog(t.Context())
			done := make(chan error, 1)
			go func() { done <- call(ctx, s) }()
			awaitLine(t, caught, "level=warning", "another process", "fuser -v "+s.root+"/"+metaDir)
			must(t, tx.Rollback())
			must(t, await(t, name, done))
		})
	}
}

// What is not slow is not logged.
func TestQuickTransactionIsSilent(t *testing.T) {
	s, _ := openFake(t, Config{})
	ctx, caught := withLog(t.Context())
	_, err := s.Prepare(ctx, "key", "")
	must(t, err)
	must(t, s.Commit(ctx, "name", "key"))
	must(t, s.Remove(ctx, "name"))
	must(t, s.Cleanup(ctx))
	if caught.String() != "" {
		t.Errorf("the log says %s", caught)
	}
}

// A context ends the wait for another's transaction, and nothing is left of the call.
func TestSlowTransactionCanBeLeft(t *testing.T) {
	s, _ := openFake(t, Config{})
	release := keepTurn(t, t.Context(), s, "commit", "keeping")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Prepare(ctx, "key", "")
		done <- err
	}()
	cancel()
	if err := await(t, "Prepare", done); err == nil {
		t.Error("Prepare has succeeded with a context that has ended")
	}
	must(t, release())
	checkNothingLeft(t, s)
}

// A client that went away has its snapshot removed all the same, also where another call keeps the
// transaction for longer than a context that has ended waits for.
func TestRemoveUnderAnEndedContext(t *testing.T) {
	for _, config := range []Config{{}, {AsyncRemove: true}} {
		s, _ := openFake(t, config)
		layer(t, s, "layer", "", 1)
		ctx, caught := withLog(t.Context())
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		prepare(t, s, "key", "layer")
		must(t, s.Remove(ctx, "key"))

		release := keepTurn(t, t.Context(), s, "commit", "keeping")
		done := make(chan error, 1)
		go func() { done <- s.Remove(ctx, "layer") }()
		awaitLine(t, caught, "level=warning", "remove waits", "key=layer")
		must(t, release())
		must(t, await(t, "Remove", done))
		must(t, s.Cleanup(t.Context()))
		checkNothingLeft(t, s)
	}
}
