package peers_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/lock"
	bolt "go.etcd.io/bbolt"
)

// TestNoSync requires a commit of a store with NoSync not to wait for the disk: other stores see it
// when that is done, a tenth of a second later by a clock that stands still until then.
func TestNoSync(t *testing.T) {
	for _, noSync := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			ms, err := storage.NewMetaStore(dir, func(o *bolt.Options) error { o.NoSync = noSync; return nil })
			noError(t, err)
			defer ms.Close()
			other, err := fsmeta.Open(dir)
			noError(t, err)
			defer other.Close()
			noError(t, ms.WithTransaction(bg, true, func(ctx context.Context) error {
				_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "a", "")
				return err
			}))
			_, err = other.Stat(bg, "a")
			equal(t, "the other store sees it at once", err == nil, !noSync)
			time.Sleep(time.Second)
			_, err = other.Stat(bg, "a")
			noError(t, err)
		})
	}
}

// TestTimeout opens a store that another program has for itself: with bbolt every program that has
// it open, with ours a repair.
func TestTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		needOptions(t, p.peer.Name)
		p.prepare("begin w write\n w: create active a\n commit w")
		if p.peer.Name == peers.FS.Name {
			unlock, free, err := lock.New(filepath.Join(p.path, "layout")).TryLock()
			noError(t, err)
			if !free { // the player's store has it
				p.prepare("close")
				unlock, free, err = lock.New(filepath.Join(p.path, "layout")).TryLock()
				noError(t, err)
				defer p.prepare("open")
			}
			equal(t, "locked", free, true)
			defer func() { noError(t, unlock()) }()
		}
		ms, err := openers[p.peer.Name](p.path, func(o *bolt.Options) error { o.Timeout = time.Millisecond; return nil })
		noError(t, err)
		_, tx, err := ms.begin(bg, false)
		equal(t, "class", classOf(err, nil), "Timeout")
		equal(t, "no transaction", tx == nil, true)
		noError(t, ms.close())
	})
}

// logged returns what is logged while fn runs.
func logged(fn func()) string {
	var out bytes.Buffer
	logger := log.L.Logger
	defer logger.SetOutput(logger.Out)
	logger.SetOutput(&out)
	fn()
	return out.String()
}

// TestIgnoredOptionsAreLogged requires one warning that names the options without a counterpart
// that were set, and none of others.
func TestIgnoredOptionsAreLogged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	open := func(opts ...storage.Opt) func() {
		return func() {
			ms, err := storage.NewMetaStore(path, opts...)
			noError(t, err)
			for range 2 {
				noError(t, ms.WithTransaction(bg, false, func(context.Context) error { return nil }))
			}
			noError(t, ms.Close())
		}
	}
	equal(t, "log", logged(open()), "")
	equal(t, "log", logged(open(func(o *bolt.Options) error {
		o.NoSync, o.Timeout = true, time.Hour
		o.NoFreelistSync, o.FreelistType = false, bolt.FreelistArrayType // their defaults
		return nil
	})), "")
	equal(t, "log", logged(open(func(o *bolt.Options) error { o.ReadOnly = true; return nil })), "")

	text := logged(open(
		func(o *bolt.Options) error { o.NoFreelistSync, o.NoSync, o.PageSize = true, true, 4096; return nil },
		func(o *bolt.Options) error { o.OpenFile = nil; o.FreelistType = bolt.FreelistMapType; return nil },
	))
	equal(t, "lines", strings.Count(text, "\n"), 1)
	for _, part := range []string{"level=warning", "[NoFreelistSync FreelistType PageSize]", path} {
		if !strings.Contains(text, part) {
			t.Errorf("the log says %s, and not %s", text, part)
		}
	}
	failed := logged(func() {
		_, err := storage.NewMetaStore(path, func(o *bolt.Options) error { o.Mlock = true; return errOption })
		is(t, err, errOption)
	})
	equal(t, "log of a store that is not opened", failed, "")
}
