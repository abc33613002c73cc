//go:build linux

package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// errFill is what content that can't be made gives.
var errFill = errors.New("the content can't be made")

// A parent that is removed while content is made on it is not found, whether that made the
// content fail or not, and nothing is left.
func TestPrepareWhenTheParentIsRemoved(t *testing.T) {
	for name, fails := range map[string]error{"contentMade": nil, "contentFails": errFill} {
		t.Run(name, func(t *testing.T) {
			s, content := openFake(t, Config{})
			layer(t, s, "parent", "", 1)
			content.nextFill(func(string, string) error {
				must(t, s.Remove(t.Context(), "parent"))
				return fails
			})
			_, err := s.Prepare(t.Context(), "key", "parent")
			if !errdefs.IsNotFound(err) {
				t.Errorf("Prepare says %v, want not found", err)
			}
			checkNothingLeft(t, s)
		})
	}
}

// Where another parent has taken the place and the name of the one that content was made
// on, it is made once more, on that one.
func TestPrepareWhenTheParentIsReplaced(t *testing.T) {
	for name, fails := range map[string]error{"contentMade": nil, "contentFails": errFill} {
		t.Run(name, func(t *testing.T) {
			s, content := openFake(t, Config{})
			layer(t, s, "parent", "", 1)
			var second, filledOn string
			content.nextFill(func(string, string) error {
				must(t, s.Remove(t.Context(), "parent"))
				second = layer(t, s, "parent", "", 1)
				content.nextFill(func(_, parent string) error {
					filledOn = parent
					return nil
				})
				return fails
			})
			mounts, err := s.Prepare(t.Context(), "key", "parent")
			must(t, err)
			if got := mounts[0].Options; len(got) != 1 || got[0] != second || filledOn != second {
				t.Errorf("it stands on %q and was made on %q, want %q", got, filledOn, second)
			}
			checkNothingLeft(t, s)
		})
	}
}

// A parent that is replaced by an active snapshot of the same name can't be stood on.
func TestPrepareWhenTheParentIsActiveNow(t *testing.T) {
	s, content := openFake(t, Config{})
	layer(t, s, "parent", "", 1)
	content.nextFill(func(string, string) error {
		must(t, s.Remove(t.Context(), "parent"))
		prepare(t, s, "parent", "")
		return nil
	})
	_, err := s.Prepare(t.Context(), "key", "parent")
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("Prepare says %v, want invalid argument", err)
	}
	checkNothingLeft(t, s)
}

// Of two calls that make the same key, one gets it, and the other leaves nothing.
func TestPrepareWhenTheKeyIsTaken(t *testing.T) {
	for name, fails := range map[string]error{"contentMade": nil, "contentFails": errFill} {
		t.Run(name, func(t *testing.T) {
			s, content := openFake(t, Config{})
			var winner string
			content.nextFill(func(string, string) error {
				winner = prepare(t, s, "key", "")
				return fails
			})
			_, err := s.Prepare(t.Context(), "key", "")
			if !errdefs.IsAlreadyExists(err) {
				t.Errorf("Prepare says %v, want already exists", err)
			}
			mounts, err := s.Mounts(t.Context(), "key")
			must(t, err)
			if mounts[0].Source != winner {
				t.Errorf("key is mounted from %s, want %s", mounts[0].Source, winner)
			}
			checkNothingLeft(t, s)
		})
	}
}

// Content that can't be made makes the call fail with the reason and the key, and leaves
// nothing.
func TestPrepareWhenContentFails(t *testing.T) {
	s, content := openFake(t, Config{})
	content.nextFill(func(string, string) error { return errFill })
	_, err := s.Prepare(t.Context(), "key", "")
	if !errors.Is(err, errFill) || !strings.Contains(err.Error(), "key") {
		t.Errorf("Prepare says %v, want %v with the key", err, errFill)
	}
	if got := directoriesOf(t, s); len(got) > 0 {
		t.Errorf("%q is left", got)
	}
	prepare(t, s, "key", "")
}

// A context that ends while content is made makes no snapshot and leaves nothing.
func TestPrepareWhenTheContextEnds(t *testing.T) {
	s, content := openFake(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	content.nextFill(func(string, string) error {
		cancel()
		return nil
	})
	_, err := s.Prepare(ctx, "key", "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Prepare says %v, want that of the context", err)
	}
	if got := directoriesOf(t, s); len(got) > 0 {
		t.Errorf("%q is left", got)
	}
}

// replace puts another active snapshot in the place of key, with content of that size.
func replace(t *testing.T, s *Snapshotter, key string, size int) (dir string) {
	t.Helper()
	must(t, s.Remove(t.Context(), key))
	dir = prepare(t, s, key, "")
	must(t, os.WriteFile(filepath.Join(dir, "fs", "file"), make([]byte, size), 0o600))
	return dir
}

// Where another snapshot has taken the key while Commit was measuring, it is measured
// anew: what is recorded is what is committed.
func TestCommitWhenTheKeyIsReplaced(t *testing.T) {
	for name, config := range map[string]Config{
		"contentLeft":    {AsyncRemove: true},
		"contentDeleted": {},
	} {
		t.Run(name, func(t *testing.T) {
			s, content := openFake(t, config)
			prepare(t, s, "key", "")
			const size = 1 << 20
			var second string
			content.nextMeasure(func() { second = replace(t, s, "key", size) })
			if err := s.Commit(t.Context(), "name", "key"); err != nil {
				t.Fatalf("Commit says %v, want it to begin again", err)
			}
			usage, err := s.Usage(t.Context(), "name")
			must(t, err)
			if usage.Size < size {
				t.Errorf("recorded are %d bytes, want at least the %d of what was committed", usage.Size, size)
			}
			mounts, err := s.View(t.Context(), "view", "name")
			must(t, err)
			if got := mounts[0].Options[0]; got != second {
				t.Errorf("committed is %s, want %s", got, second)
			}
		})
	}
}

// A key that is removed while Commit measures is not found, with its content or without.
func TestCommitWhenTheKeyIsRemoved(t *testing.T) {
	for name, config := range map[string]Config{
		"contentLeft":    {AsyncRemove: true},
		"contentDeleted": {},
	} {
		t.Run(name, func(t *testing.T) {
			s, content := openFake(t, config)
			prepare(t, s, "key", "")
			content.nextMeasure(func() { must(t, s.Remove(t.Context(), "key")) })
			if err := s.Commit(t.Context(), "name", "key"); !errdefs.IsNotFound(err) {
				t.Errorf("Commit says %v, want not found", err)
			}
			if got := namesOf(t, s); len(got) > 0 {
				t.Errorf("there is %q, want nothing", got)
			}
		})
	}
}

// A name that is taken while Commit measures exists already, and the key stays active.
func TestCommitWhenTheNameIsTaken(t *testing.T) {
	s, content := openFake(t, Config{})
	prepare(t, s, "key", "")
	content.nextMeasure(func() { layer(t, s, "name", "", 1) })
	if err := s.Commit(t.Context(), "name", "key"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Commit says %v, want already exists", err)
	}
	info, err := s.Stat(t.Context(), "key")
	must(t, err)
	if info.Kind != snapshots.KindActive {
		t.Errorf("key is %v, want it active", info.Kind)
	}
	checkNothingLeft(t, s)
}

// While the content of one snapshot is made, every other call goes on.
func TestNobodyWaitsForContentThatIsMade(t *testing.T) {
	s, content := openFake(t, Config{})
	finish := make(chan struct{})
	content.nextFill(blockUntil(finish))
	first := make(chan error)
	go func() {
		_, err := s.Prepare(t.Context(), "slow", "")
		first <- err
	}()
	checkEverythingWorks(t, s, func() bool { return content.filling.Load() == nil })
	select {
	case err := <-first:
		t.Errorf("Prepare has ended before its content was made: %v", err)
	default:
	}
	close(finish)
	must(t, await(t, "Prepare", first))
	checkNothingLeft(t, s)
}

func blockUntil(c <-chan struct{}) func(string, string) error {
	return func(string, string) error {
		<-c
		return nil
	}
}

// While the content of one snapshot is measured to be committed, every other call goes on.
func TestNobodyWaitsForContentThatIsMeasured(t *testing.T) {
	s, content := openFake(t, Config{})
	prepare(t, s, "slow", "")
	finish := make(chan struct{})
	content.nextMeasure(func() { <-finish })
	first := make(chan error)
	go func() { first <- s.Commit(t.Context(), "slow layer", "slow") }()
	checkEverythingWorks(t, s, func() bool { return content.measuring.Load() == nil })
	close(finish)
	must(t, await(t, "Commit", first))
	checkNothingLeft(t, s)
}

// checkEverythingWorks makes every kind of call once begun says that the slow one is at work.
func checkEverythingWorks(t *testing.T, s *Snapshotter, begun func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !begun() {
		must(t, ctx.Err())
		time.Sleep(time.Millisecond)
	}
	_, err := s.Prepare(ctx, "other", "")
	must(t, err)
	must(t, s.Commit(ctx, "other layer", "other"))
	_, err = s.View(ctx, "view", "other layer")
	must(t, err)
	_, err = s.Mounts(ctx, "view")
	must(t, err)
	_, err = s.Update(ctx, snapshots.Info{Name: "view", Labels: map[string]string{"a": "b"}})
	must(t, err)
	_, err = s.Usage(ctx, "other layer")
	must(t, err)
	must(t, s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }))
	must(t, s.Remove(ctx, "view"))
	must(t, s.Cleanup(ctx))
}
