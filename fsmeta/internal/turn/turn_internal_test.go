package turn

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsmeta/fsmeta/lock"
)

// An unlock that fails leaves the process with the lock. It takes over again before it
// writes, and tries again to unlock.
func TestUnlockFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		staging := filepath.Join(dir, "staging")
		takeOvers, leaves := 0, 0
		none := func() error { return nil }
		p := New(lock.New(staging), lock.New(dir), Hooks{
			Make:     func() error { return os.MkdirAll(staging, 0o700) },
			TakeOver: func() error { takeOvers++; return nil },
			Settle:   none,
			Leave:    func() bool { leaves++; return true },
			Failed:   none,
		})
		failures := 0
		// round makes the next n unlocks of what it locks fail.
		round := func(n int) {
			t.Helper()
			if err := p.Take(context.Background()); err != nil {
				t.Fatal(err)
			}
			if !p.Held() {
				t.Error("Take without the lock")
			}
			failures = 0
			if real := p.unlock; n > 0 {
				p.unlock = func() error {
					if failures++; failures <= n {
						return errors.New("no unlock")
					}
					return real()
				}
			}
			p.Release()
			p.End()
		}
		round(3)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if p.Held() || p.is(free) || leaves != 1 || failures == 0 {
			t.Errorf("held %v, free %v, left %d times, failed %d times", p.Held(), p.is(free), leaves, failures)
		}
		round(0)
		if takeOvers != 2 {
			t.Errorf("took over %d times", takeOvers)
		}
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		if !p.is(free) || failures <= 1 || leaves != 2 {
			t.Errorf("free %v, tried %d times, left %d times", p.is(free), failures, leaves)
		}
		round(1)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.Drop(); err == nil {
			t.Error("Drop failed and returned nil")
		}
		if err := p.Drop(); err != nil || !p.is(free) {
			t.Error(err)
		}
	})
}
