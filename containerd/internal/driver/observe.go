//go:build linux

package driver

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/log"
)

// Observer is told how long what waits for the disk has taken, and what came of it. Its
// functions may be called concurrently, and may be nil.
type Observer struct {
	Metadata func(took time.Duration, err error) // commits of metadata transactions
	Content  func(took time.Duration, err error) // syncs of the content of a snapshot
}

// Observe makes o be told. It must be called before any other method.
func (s *Snapshotter) Observe(o Observer) { s.observer = o }

func tellTook(fn func(time.Duration, error), begin time.Time, err error) {
	if fn != nil {
		fn(time.Since(begin), err)
	}
}

// contentSyncs are the calls that sync content now.
type contentSyncs struct {
	mu   sync.Mutex
	list []*holder // the oldest first
}

func (c *contentSyncs) add(h *holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, h)
}

func (c *contentSyncs) remove(h *holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, other := range c.list {
		if other == h {
			c.list = append(c.list[:i], c.list[i+1:]...)
			return
		}
	}
}

// before returns the oldest one that was begun before h, or nil, and how many there are now.
func (c *contentSyncs) before(h *holder) (oldest *holder, all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) > 0 && c.list[0] != h {
		oldest = c.list[0]
	}
	return oldest, len(c.list)
}

// syncing runs fn, which makes the content of a snapshot durable for a call. Where that takes
// long, the log says so, and which call has been at it for longest.
func (s *Snapshotter) syncing(ctx context.Context, what, key string, fn func() error) error {
	me := &holder{what, key, time.Now()}
	s.syncs.add(me)
	defer s.syncs.remove(me)
	slow := time.AfterFunc(patience, func() { s.tellSync(ctx, me) })
	err := fn()
	tellTook(s.observer.Content, me.since, err)
	if !slow.Stop() {
		log.G(ctx).WithField("key", key).Warnf("the content sync of %s took %v", what, time.Since(me.since).Round(time.Millisecond))
	}
	return err
}

// tellSync says what a sync waits for.
func (s *Snapshotter) tellSync(ctx context.Context, me *holder) {
	entry := log.G(ctx).WithField("key", me.key)
	oldest, all := s.syncs.before(me)
	if oldest == nil {
		entry.Warnf("%s waits for the disk for over %v: the content of its snapshot is being synced, and %d calls do so", me.what, patience, all)
		return
	}
	entry.WithField("holder", oldest.key).Warnf("%s waits for the disk for over %v: the content of its snapshot is being synced, as %d calls do; the oldest of them is a %s, for %v",
		me.what, patience, all, oldest.what, time.Since(oldest.since).Round(time.Millisecond))
}
