package turn_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/turn"
	"github.com/fsmeta/fsmeta/lock"
)

// process is a Turn on a directory, with hooks that record their calls. Two of them in one
// process exclude each other like two processes, because they open files of their own.
type process struct {
	*turn.Turn
	t   *testing.T
	dir string

	takeOver error       // what the hook returns
	failed   atomic.Bool // writing has ended
	stay     atomic.Bool // Leave refuses

	mu    sync.Mutex
	calls []string
}

var errFailed = errors.New("writing has ended")

func start(t *testing.T, dir string) *process {
	p := &process{t: t, dir: dir}
	must(t, os.MkdirAll(filepath.Join(dir, "snapshots"), 0o700))
	p.Turn = turn.New(lock.New(p.staging()), lock.New(p.turnstile()), turn.Hooks{
		Make:     func() error { p.call("Make"); return os.MkdirAll(p.staging(), 0o700) },
		TakeOver: func() error { p.call("TakeOver"); return p.takeOver },
		Settle:   func() error { p.call("Settle"); return nil },
		Leave:    func() bool { p.call("Leave"); return !p.stay.Load() },
		Failed: func() error {
			if p.failed.Load() {
				return errFailed
			}
			return nil
		},
	})
	return p
}

func (p *process) staging() string   { return filepath.Join(p.dir, "staging") }
func (p *process) turnstile() string { return filepath.Join(p.dir, "snapshots") }

func (p *process) call(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, name)
}

func (p *process) count(name string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c == name {
			n++
		}
	}
	return n
}

// wantCalls requires the calls of hooks since the last time.
func (p *process) wantCalls(want string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.calls, " "); got != want {
		p.t.Errorf("hooks called: %q, want %q", got, want)
	}
	p.calls = nil
}

func (p *process) take() {
	p.t.Helper()
	must(p.t, p.Take(context.Background()))
}

func (p *process) round() {
	p.t.Helper()
	p.take()
	p.Release()
	p.End()
}

// wantFree requires that staging/ can or can't be locked.
func (p *process) wantFree(want bool) {
	p.t.Helper()
	unlock, ok, err := lock.New(p.staging()).TryLock()
	must(p.t, err)
	if ok {
		must(p.t, unlock())
	}
	if ok != want {
		p.t.Errorf("the lock is free: %v, want %v", ok, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watched is a context that says when a call waits for it to end.
type watched struct {
	context.Context
	once    sync.Once
	waiting chan struct{}
}

func (c *watched) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waiting) })
	return c.Context.Done()
}

// waiting returns when take waits: in the goroutines' queue, if that is where it must.
func waiting(t *testing.T, take func(context.Context) error) (got chan error, cancel context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w := &watched{Context: ctx, waiting: make(chan struct{})}
	got = make(chan error, 1)
	go func() { got <- take(w) }()
	<-w.waiting
	return got, cancel
}

func TestArrivalOrder(t *testing.T) {
	p := start(t, t.TempDir())
	p.take()
	var order []int
	var all sync.WaitGroup
	for i := range 20 {
		got, cancel := waiting(t, p.Take)
		if i%5 == 4 { // a claim that is given up changes nothing for the others
			cancel()
			if err := <-got; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			p.End()
			continue
		}
		all.Go(func() {
			if err := <-got; err != nil {
				t.Error(err)
			}
			order = append(order, i)
			p.Release()
			p.End()
		})
	}
	p.Release()
	p.End()
	all.Wait()
	if !slices.IsSorted(order) || len(order) != 16 {
		t.Errorf("served in the order %v", order)
	}
}

// Every Take that returns nil is alone, among the goroutines of two Turns.
func TestExclusion(t *testing.T) {
	dir := t.TempDir()
	var inside, entered atomic.Int32
	var all sync.WaitGroup
	for range 2 {
		p := start(t, dir)
		for i := range 4 {
			all.Go(func() {
				for j := range 200 {
					ctx, cancel := context.WithCancel(context.Background())
					if (i+j)%3 == 0 {
						go cancel() // races with the grant
					}
					err := p.Take(ctx)
					if err == nil {
						if inside.Add(1) != 1 || !p.Held() {
							t.Error("not alone")
						}
						runtime.Gosched()
						entered.Add(1)
						inside.Add(-1)
						p.Release()
					} else if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					p.End()
					cancel()
				}
			})
		}
		t.Cleanup(func() {
			must(t, p.Close())
			must(t, p.Drop())
			if p.Held() {
				t.Error("Drop kept the lock")
			}
		})
	}
	all.Wait()
	if n := entered.Load(); n < 2*4*200*6/10 {
		t.Errorf("entered %d times only", n)
	}
}

// The lock is kept between transactions, and for a moment after the last one.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, t.TempDir())
		for range 100 {
			p.round()
			time.Sleep(900 * time.Microsecond)
		}
		p.wantCalls("Make TakeOver")
		if p.wantFree(false); !p.Held() {
			t.Error("the process has the lock, and Held says no")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		p.wantCalls("Leave")
		if p.wantFree(true); p.Held() {
			t.Error("the lock is free, and Held says yes")
		}
		p.round()
		p.wantCalls("Make TakeOver")
	})
}

// A writer keeps the lock until it ends, with and without the turn.
func TestWritersKeepTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, t.TempDir())
		p.take()
		p.Join()
		p.Release()
		p.End()
		time.Sleep(time.Second)
		p.wantFree(false)
		must(t, p.TakeTurn(context.Background()))
		got, cancel := waiting(t, p.TakeTurn)
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		next, _ := waiting(t, p.Take)
		p.Release()
		must(t, <-next)
		p.End() // of the Join
		time.Sleep(time.Second)
		p.wantFree(false)
		p.Release()
		p.End()
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		p.wantFree(true)
		p.wantCalls("Make TakeOver Leave")
	})
}

// A busy holder sees the waiter, settles and lets it in.
func TestBusyHolderLetsOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, b := start(t, dir), start(t, dir)
		a.take()
		a.Join() // as a relaxed commit does
		a.Release()
		a.End()
		served := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			b.take()
			served <- time.Since(began)
			b.Release()
			b.End()
		}()
		synctest.Wait()
		for rounds := 0; len(served) == 0; rounds++ {
			if rounds > 1000 {
				t.Fatal("the waiter is not served")
			}
			a.take()
			a.Join()
			time.Sleep(100 * time.Microsecond)
			a.Release()
			a.End()
			a.End() // of the Join before
		}
		if d := <-served; d > 5*time.Millisecond {
			t.Errorf("the waiter was served after %v", d)
		}
		a.wantCalls("Make TakeOver Settle Leave Make TakeOver")
		a.End()
	})
}

// busy lets processes work for a while, each all the time. It returns their rounds and the longest
// wait for a turn.
func busy(t *testing.T, work, total time.Duration, processes ...*process) (rounds []int, longest time.Duration) {
	rounds = make([]int, len(processes))
	waits := make([]time.Duration, len(processes))
	began := time.Now()
	var all sync.WaitGroup
	for i, p := range processes {
		all.Go(func() {
			for time.Since(began) < total {
				now := time.Now()
				if err := p.Take(context.Background()); err != nil {
					t.Error(err)
				}
				waits[i] = max(waits[i], time.Since(now))
				time.Sleep(work)
				rounds[i]++
				p.Release()
				p.End()
			}
		})
	}
	all.Wait()
	return rounds, slices.Max(waits)
}

// Busy processes get about the same share, and little time is lost between them.
func TestBusyProcessesShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		const work, total = 100 * time.Microsecond, 300 * time.Millisecond
		rounds, longest := busy(t, work, total, start(t, dir), start(t, dir), start(t, dir))
		sum := 0
		for _, n := range rounds {
			sum += n
		}
		if slices.Min(rounds) < sum/5 || sum < int(total/work)/2 || longest > 20*time.Millisecond {
			t.Errorf("%v rounds of %v in %v, the longest wait was %v", rounds, work, total, longest)
		}
	})
}

// A turnstile that stays locked, as by a process that is stopped, costs the others little
// and does not keep them from taking turns.
func TestStuckTurnstile(t *testing.T) {
	const work, total = 100 * time.Microsecond, 2 * time.Second
	for name, test := range map[string]struct {
		processes int
		rounds    int           // all of them together, at least
		longest   time.Duration // wait
	}{
		"one": {1, int(total / work * 95 / 100), 25 * time.Millisecond},
		"two": {2, int(total / work * 40 / 100), 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				var processes []*process
				for range test.processes {
					processes = append(processes, start(t, dir))
				}
				stuck, err := lock.New(processes[0].turnstile()).Lock(context.Background())
				must(t, err)
				rounds, longest := busy(t, work, total, processes...)
				must(t, stuck())
				sum := 0
				for _, n := range rounds {
					sum += n
				}
				if sum < test.rounds || longest > test.longest || slices.Min(rounds) < sum/test.processes/2 {
					t.Errorf("%v rounds of %v in %v, the longest wait was %v", rounds, work, total, longest)
				}
			})
		})
	}
}

// A waiter that passed a stuck turnstile by is seen by the next holder when the turnstile
// is free again: the holder must not keep the lock for ever.
func TestWaiterGoesBackToTheTurnstile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, b := start(t, dir), start(t, dir)
		a.take()
		stuck, err := lock.New(a.turnstile()).Lock(context.Background())
		must(t, err)
		served := make(chan struct{})
		go func() {
			b.round()
			close(served)
		}()
		time.Sleep(100 * time.Millisecond) // b waits for staging/ alone
		must(t, stuck())
		a.Join()
		for n := 0; ; n++ {
			time.Sleep(100 * time.Microsecond)
			a.Release()
			a.End()
			select {
			case <-served:
				a.End()
				return
			default:
			}
			if n == 1000 {
				t.Fatal("the waiter is not served")
			}
			a.take()
			a.Join()
			a.End()
		}
	})
}

func TestLeaveRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, b := start(t, dir), start(t, dir)
		a.round()
		a.stay.Store(true)
		served := make(chan struct{})
		go func() {
			b.round()
			close(served)
		}()
		for range 50 {
			time.Sleep(time.Millisecond)
			a.take() // neither waits nor fails
			if !a.Held() {
				t.Fatal("the lock is gone")
			}
			a.Release()
			a.End()
		}
		if a.count("TakeOver") != 1 || a.count("Leave") == 0 || b.count("TakeOver") != 0 {
			t.Errorf("hooks called: %v and %v", a.calls, b.calls)
		}
		a.stay.Store(false)
		<-served
	})
}

func TestTakeOverFails(t *testing.T) {
	p := start(t, t.TempDir())
	p.takeOver = errors.New("no take-over")
	if err := p.Take(context.Background()); !errors.Is(err, p.takeOver) {
		t.Errorf("got %v", err)
	}
	p.wantFree(true)
	p.End()
	p.takeOver = nil
	p.take()
	p.wantFree(false)
	p.wantCalls("Make TakeOver Make TakeOver")
}

func TestFailed(t *testing.T) {
	p := start(t, t.TempDir())
	p.take()
	p.failed.Store(true)
	p.Join()
	p.Release()
	if err := p.Take(context.Background()); !errors.Is(err, errFailed) {
		t.Errorf("got %v", err)
	}
	p.End()
	p.End()
	p.wantFree(false)
	p.End()
	p.wantFree(true) // at once
	p.wantCalls("Make TakeOver Leave")
	if err := p.Take(context.Background()); !errors.Is(err, errFailed) {
		t.Errorf("got %v", err)
	}
	p.wantFree(true)
	p.End()
	p.wantCalls("")
}

func TestMissingTurnstile(t *testing.T) {
	p := start(t, t.TempDir())
	must(t, os.Remove(p.turnstile()))
	if err := p.Take(context.Background()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), p.turnstile()) {
		t.Errorf("got %v", err)
	}
	p.End()
	must(t, os.Mkdir(p.turnstile(), 0o700))
	p.round()
}

func TestEndedContext(t *testing.T) {
	p := start(t, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Take(ctx); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	p.End()
	if err := p.TakeTurn(ctx); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	p.wantCalls("")
}

func TestClose(t *testing.T) {
	dir := t.TempDir()
	p, other := start(t, dir), start(t, dir)
	p.take()
	take, _ := waiting(t, p.Take)
	takeTurn, _ := waiting(t, p.TakeTurn)
	outside := make(chan error, 1)
	go func() { outside <- other.Take(context.Background()) }()

	closed := make(chan error, 1)
	go func() { closed <- p.Close() }()
	for _, got := range []chan error{take, takeTurn} {
		if err := <-got; err != fault.ErrClosed {
			t.Errorf("got %v", err)
		}
	}
	p.End()
	if err := p.Take(context.Background()); err != fault.ErrClosed {
		t.Errorf("got %v", err)
	}
	p.End()
	if err := p.TakeTurn(context.Background()); err != fault.ErrClosed {
		t.Errorf("got %v", err)
	}
	if len(closed) > 0 {
		t.Error("Close did not wait for the holder")
	}
	p.Join()
	p.Release()
	must(t, <-closed)
	p.End()
	p.End()
	must(t, p.Close())

	must(t, other.Close()) // it waits for the lock
	if err := <-outside; err != fault.ErrClosed {
		t.Errorf("got %v", err)
	}
	other.End()
	p.wantFree(false) // the lock stayed as it was
	p.wantCalls("Make TakeOver")
	if ok, err := p.Acquire(); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := other.Acquire(); ok || err != nil {
		t.Error(ok, err)
	}
	must(t, p.Drop())
	must(t, p.Drop())
	p.wantCalls("Leave")
	if ok, err := other.Acquire(); !ok || err != nil || !other.Held() {
		t.Error(ok, err)
	}
	other.stay.Store(true)
	if err := other.Drop(); err == nil {
		t.Error("Drop kept the lock and returned nil")
	}
	other.stay.Store(false)
	must(t, other.Drop())
	other.takeOver = errors.New("no take-over")
	if ok, err := other.Acquire(); ok || !errors.Is(err, other.takeOver) {
		t.Error(ok, err)
	}
	p.wantFree(true)
}

// The hot path allocates nothing.
func TestAllocations(t *testing.T) {
	p := start(t, t.TempDir())
	p.Join()
	p.round()
	if n := testing.AllocsPerRun(1000, p.round); n >= 1 {
		t.Errorf("%v allocations a round", n)
	}
	p.End()
}

// Waits that are given up leave nothing: of the queue, and of other processes.
func TestGivenUpWaits(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	p.take()
	before := used(t)
	const waits = 500
	for range waits {
		other := start(t, dir)
		got, cancel := waiting(t, other.Take)
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		other.End()
	}
	before.mustHold(t)

	var all []chan error
	var cancels []context.CancelFunc
	for range waits {
		got, cancel := waiting(t, p.Take)
		all, cancels = append(all, got), append(cancels, cancel)
	}
	for i, cancel := range cancels {
		cancel()
		if err := <-all[i]; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		p.End()
	}
	before.mustHold(t)
	p.Release()
	p.End()
	start(t, dir).round() // which also gets the turnstile
}

// resources counts what a wait could leave behind.
type resources struct{ goroutines, threads, descriptors int }

func used(t *testing.T) resources {
	t.Helper()
	r := resources{goroutines: runtime.NumGoroutine()}
	for dir, n := range map[string]*int{"/proc/self/task": &r.threads, "/proc/self/fd": &r.descriptors} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // not Linux
		}
		*n = len(entries)
	}
	return r
}

// mustHold requires that no more is used than before. Goroutines that have returned their
// result may still be ending, and the runtime starts threads of its own.
func (before resources) mustHold(t *testing.T) {
	t.Helper()
	const ownThreads = 20
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before.goroutines && time.Now().Before(end); {
		runtime.Gosched()
	}
	now := used(t)
	if now.goroutines > before.goroutines || now.descriptors > before.descriptors || now.threads > before.threads+ownThreads {
		t.Errorf("%+v are used, before it were %+v", now, before)
	}
}

func BenchmarkRound(b *testing.B) {
	p := start(&testing.T{}, b.TempDir())
	p.Join()
	p.round()
	for b.Loop() {
		if err := p.Take(context.Background()); err != nil {
			b.Fatal(err)
		}
		p.Release()
		p.End()
	}
	p.End()
}

func BenchmarkRoundLingering(b *testing.B) {
	p := start(&testing.T{}, b.TempDir())
	for b.Loop() {
		if err := p.Take(context.Background()); err != nil {
			b.Fatal(err)
		}
		p.Release()
		p.End()
	}
}
