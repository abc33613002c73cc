//go:build linux

package driver

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// A sync of content that takes long logs which call is at it for longest.
func TestSlowContentSyncNamesTheOldest(t *testing.T) {
	s, _ := openFake(t, Config{})
	finish := make(chan struct{})
	sync := func(what, key string) (said *lines, done chan error) {
		ctx, said := withLog(t.Context())
		begun, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- s.syncing(ctx, what, key, func() error {
				close(begun)
				<-finish
				return nil
			})
		}()
		await(t, "the sync of "+key, begun)
		return said, done
	}
	firstSaid, first := sync("commit", "first")
	secondSaid, second := sync("prepare", "second")
	awaitLine(t, firstSaid, "level=warning", "commit waits for the disk", "content", "key=first", "2 calls")
	awaitLine(t, secondSaid, "level=warning", "prepare waits for the disk", "the oldest of them is a commit", "holder=first", "key=second")
	close(finish)
	must(t, await(t, "the first sync", first))
	must(t, await(t, "the second sync", second))
	awaitLine(t, secondSaid, "level=warning", "the content sync of prepare took", "key=second")
	if len(s.syncs.list) > 0 {
		t.Errorf("%d syncs count as under way", len(s.syncs.list))
	}
}

// Commits of transactions and syncs of content are told, each with its error, and what
// waits for no disk is not.
func TestObserver(t *testing.T) {
	s, _ := openFake(t, Config{})
	var mu sync.Mutex
	var metadata, content []error
	tell := func(all *[]error) func(time.Duration, error) {
		return func(_ time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			*all = append(*all, err)
		}
	}
	s.Observe(Observer{Metadata: tell(&metadata), Content: tell(&content)})
	expect := func(what string, m, c int) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if len(metadata) != m || len(content) != c {
			t.Errorf("after %s %d commits and %d syncs were told, not %d and %d", what, len(metadata), len(content), m, c)
		}
	}
	prepare(t, s, "key", "")
	expect("Prepare", 1, 1)
	must(t, s.Commit(t.Context(), "name", "key"))
	expect("Commit", 2, 2)
	if _, err := s.Stat(t.Context(), "name"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "none"); err == nil {
		t.Error("what does not exist was removed")
	}
	expect("calls that commit nothing", 2, 2)
	must(t, s.Remove(t.Context(), "name"))
	expect("Remove", 3, 2)
	if err := errors.Join(append(metadata, content...)...); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	if err := s.syncing(t.Context(), "commit", "key", func() error { return broken }); err != broken || content[2] != broken {
		t.Errorf("of a sync that fails, %v is returned and %v told", err, content[2])
	}
}
