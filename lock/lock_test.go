package lock_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/lock"
)

// childPath is set for a child process: it locks that path, says so, and
// unlocks when its standard input ends.
const childPath = "LOCK_TEST_CHILD_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		if err := child(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(path string) error {
	unlock, err := lock.New(path).Lock(context.Background())
	if err != nil {
		return err
	}
	fmt.Println("locked")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := unlock(); err != nil {
		return err
	}
	fmt.Println("unlocked")
	return nil
}

// process is a child.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, path string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	// Under -race, a process would sleep for a second when it ends.
	cmd.Env = append(os.Environ(), childPath+"="+path, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() // an error if it has ended, as it should have
		cmd.Wait()
	})
	return &process{t, cmd, in, bufio.NewReader(out)}
}

func (p *process) expect(want string) {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if got := strings.TrimSpace(line); got != want {
		p.t.Fatalf("child said %q (%v), want %q", got, err, want)
	}
}

func (p *process) unlock() {
	p.t.Helper()
	must(p.t, p.in.Close())
	p.expect("unlocked")
	must(p.t, p.cmd.Wait())
}

// waitContext tells when a call waits for it to end. Lock asks for Done only
// when it could not have the lock at once.
type waitContext struct {
	context.Context
	once    sync.Once
	waiting chan struct{}
}

func newWaitContext() (*waitContext, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	return &waitContext{Context: ctx, waiting: make(chan struct{})}, cancel
}

func (c *waitContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.waiting) })
	return c.Context.Done()
}

type result struct {
	unlock func() error
	err    error
}

// lockWaiting returns when a call of Lock waits.
func lockWaiting(t *testing.T, l *lock.Lock) (got chan result, cancel context.CancelFunc) {
	t.Helper()
	ctx, cancel := newWaitContext()
	t.Cleanup(cancel)
	got = make(chan result, 1)
	go func() {
		unlock, err := l.Lock(ctx)
		got <- result{unlock, err}
	}()
	<-ctx.waiting
	return got, cancel
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustLock(t *testing.T, l *lock.Lock) (unlock func() error) {
	t.Helper()
	unlock, err := l.Lock(context.Background())
	must(t, err)
	return unlock
}

func mustGet(t *testing.T, got chan result) (unlock func() error) {
	t.Helper()
	r := <-got
	must(t, r.err)
	return r.unlock
}

// mustTry requires that the lock can or can't be had, and gives it back.
func mustTry(t *testing.T, path string, want bool) {
	t.Helper()
	unlock, ok, err := lock.New(path).TryLock()
	must(t, err)
	if ok != want {
		t.Fatalf("TryLock: got %v, want %v", ok, want)
	}
	if ok {
		must(t, unlock())
	}
}

// goroutinesIn counts the goroutines that are in function, or in what it calls.
func goroutinesIn(function string) int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return strings.Count(string(stacks), function)
}

func wantPathError(t *testing.T, err error, op, path string, is error) {
	t.Helper()
	var pathErr *os.PathError
	if !errors.As(err, &pathErr) || pathErr.Op != op || pathErr.Path != path || !errors.Is(err, is) {
		t.Errorf("got error %v, want an *os.PathError of %s %s: %v", err, op, path, is)
	}
	if strings.Count(err.Error(), path) != 1 {
		t.Errorf("error names the path more than once: %v", err)
	}
}

func TestGoroutinesExcludeEachOther(t *testing.T) {
	path := t.TempDir()
	shared := lock.New(path)
	tests := map[string]func() *lock.Lock{
		"one Lock":     func() *lock.Lock { return shared },
		"several Lock": func() *lock.Lock { return lock.New(path) },
	}
	for name, get := range tests {
		t.Run(name, func(t *testing.T) {
			const goroutines, rounds = 8, 50
			var inside, entered atomic.Int32
			var all sync.WaitGroup
			for range goroutines {
				all.Go(func() {
					l := get()
					for range rounds {
						unlock, err := l.Lock(context.Background())
						if err != nil {
							t.Error(err)
							return
						}
						if inside.Add(1) != 1 {
							t.Error("two inside")
						}
						runtime.Gosched()
						entered.Add(1)
						inside.Add(-1)
						if err := unlock(); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			if got := entered.Load(); got != goroutines*rounds {
				t.Errorf("entered %d times, want %d", got, goroutines*rounds)
			}
		})
	}
}

// The race detector is the check here: nothing but the lock guards count.
func TestOrdersMemory(t *testing.T) {
	l := lock.New(t.TempDir())
	count := 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 50 {
				var unlock func() error
				var err error
				if i%2 == 0 {
					unlock, err = l.Lock(context.Background())
				} else {
					for ok := false; !ok && err == nil; runtime.Gosched() {
						unlock, ok, err = l.TryLock()
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				count++
				if err := unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if count != 8*50 {
		t.Errorf("counted %d, want %d", count, 8*50)
	}
}

func TestProcessesExcludeEachOther(t *testing.T) {
	path := t.TempDir()
	one := start(t, path)
	one.expect("locked")
	mustTry(t, path, false)

	got, _ := lockWaiting(t, lock.New(path))
	one.unlock()
	unlock := mustGet(t, got)

	two := start(t, path)
	must(t, unlock())
	two.expect("locked")
	mustTry(t, path, false)
	two.unlock()
	mustTry(t, path, true)
}

func TestKilledProcessReleases(t *testing.T) {
	path := t.TempDir()
	holder := start(t, path)
	holder.expect("locked")
	got, _ := lockWaiting(t, lock.New(path))
	must(t, holder.cmd.Process.Signal(syscall.SIGKILL))
	must(t, mustGet(t, got)())
	if err := holder.cmd.Wait(); err == nil {
		t.Error("child ended by itself")
	}
	mustTry(t, path, true)
}

func TestUnlock(t *testing.T) {
	path := t.TempDir()
	l := lock.New(path)
	first := mustLock(t, l)
	must(t, first())
	second := mustLock(t, l)
	must(t, first())
	mustTry(t, path, false) // the second is still held
	must(t, second())
	mustTry(t, path, true)
}

// A child between fork and exec has every open file, as a duplicate has.
func TestUnlockDespiteDuplicate(t *testing.T) {
	path, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	unlock := mustLock(t, lock.New(path))
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no way to find the descriptor:", err)
	}
	var held []int
	for _, entry := range open {
		if target, _ := os.Readlink("/proc/self/fd/" + entry.Name()); target == path {
			fd, err := strconv.Atoi(entry.Name())
			must(t, err)
			held = append(held, fd)
		}
	}
	if len(held) != 1 {
		t.Fatalf("%s is open %d times, want 1", path, len(held))
	}
	duplicate, err := syscall.Dup(held[0])
	must(t, err)
	defer syscall.Close(duplicate)

	mustTry(t, path, false)
	must(t, unlock())
	mustTry(t, path, true)
}

func TestContext(t *testing.T) {
	path := t.TempDir()
	l := lock.New(path)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := l.Lock(cancelled)
	wantPathError(t, err, "lock", path, context.Canceled)
	mustTry(t, path, true)

	unlock := mustLock(t, l)
	got, cancel := lockWaiting(t, l)
	cancel()
	wantPathError(t, (<-got).err, "lock", path, context.Canceled)

	expired, cancel := context.WithTimeout(context.Background(), 1)
	defer cancel()
	_, err = l.Lock(expired)
	wantPathError(t, err, "lock", path, context.DeadlineExceeded)

	mustTry(t, path, false)
	must(t, unlock())
	must(t, mustLock(t, l)())
}

// Waits that are given up leave nothing behind: one after the other, each through a Lock
// of its own, and all at once through one.
func TestGivenUpWaits(t *testing.T) {
	path := t.TempDir()
	unlock := mustLock(t, lock.New(path))
	shared := lock.New(path)
	const waits = 500
	before := resourcesUsed(t)
	for range waits {
		got, cancel := lockWaiting(t, lock.New(path))
		cancel()
		wantPathError(t, (<-got).err, "lock", path, context.Canceled)
	}
	before.mustHold(t)

	var all []chan result
	var cancels []context.CancelFunc
	for range waits {
		got, cancel := lockWaiting(t, shared)
		all, cancels = append(all, got), append(cancels, cancel)
	}
	for i, cancel := range cancels {
		cancel()
		wantPathError(t, (<-all[i]).err, "lock", path, context.Canceled)
	}
	before.mustHold(t)

	// The lock is as free as if there had been no waits.
	must(t, unlock())
	mustTry(t, path, true)
	must(t, mustLock(t, shared)())
}

// resources counts what a wait could leave behind.
type resources struct{ goroutines, threads, descriptors int }

func resourcesUsed(t *testing.T) resources {
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
	now := resourcesUsed(t)
	if now.goroutines > before.goroutines || now.descriptors > before.descriptors || now.threads > before.threads+ownThreads {
		t.Errorf("%+v are used, before it were %+v", now, before)
	}
}

func TestCancelRacesGrant(t *testing.T) {
	path := t.TempDir()
	l := lock.New(path)
	for range 100 {
		unlock := mustLock(t, l)
		first, cancel := lockWaiting(t, l)
		second, _ := lockWaiting(t, l)
		go cancel()
		must(t, unlock())
		if r := <-first; r.err == nil {
			must(t, r.unlock())
		} else if !errors.Is(r.err, context.Canceled) {
			t.Fatal(r.err)
		}
		must(t, mustGet(t, second)())
	}
}

func TestWaitersOfOneLockAreServedInOrder(t *testing.T) {
	path := t.TempDir()
	unlock := mustLock(t, lock.New(path))
	l := lock.New(path)
	var waits []chan result
	for range 5 {
		got, _ := lockWaiting(t, l)
		waits = append(waits, got)
		for goroutinesIn("lock.(*Lock).wait(") < len(waits) || goroutinesIn("[select") < len(waits) {
			runtime.Gosched() // until it has queued up
		}
	}
	for i, got := range waits {
		must(t, unlock())
		unlock = mustGet(t, got)
		for _, later := range waits[i+1:] {
			if len(later) > 0 {
				t.Fatal("two have the lock")
			}
		}
	}
	must(t, unlock())
}

func TestSharedAndExclusive(t *testing.T) {
	path := t.TempDir()
	l := lock.New(path)
	one, ok, err := l.TryRLock()
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	two, ok, err := l.TryRLock()
	if err != nil || !ok {
		t.Fatal("shared excludes shared", ok, err)
	}
	mustTry(t, path, false)
	got, _ := lockWaiting(t, l)
	must(t, one())
	mustTry(t, path, false)
	must(t, two())
	exclusive := mustGet(t, got)
	if _, ok, err = l.TryRLock(); err != nil || ok {
		t.Fatal("exclusive doesn't exclude shared", ok, err)
	}
	must(t, exclusive())
}

func TestHolders(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc/locks")
	}
	path := t.TempDir()
	l := lock.New(path)
	if got := l.Holders(); got != nil {
		t.Errorf("got %v for a free lock", got)
	}
	one, two := start(t, path), start(t, t.TempDir())
	one.expect("locked")
	two.expect("locked")
	got, cancel := lockWaiting(t, l) // a waiter is no holder
	command := filepath.Base(os.Args[0])
	want := lock.Holder{PID: one.cmd.Process.Pid, Command: command[:min(len(command), 15)]}
	if got := l.Holders(); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want %v alone", got, want)
	}
	cancel()
	wantPathError(t, (<-got).err, "lock", path, context.Canceled)
	if got, want := want.String(), fmt.Sprintf("process %d (%s)", want.PID, want.Command); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	must(t, one.cmd.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(one.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatal(status, err)
	}
	if got := l.Holders(); len(got) != 1 || !got[0].Stopped || !strings.Contains(got[0].String(), "which is stopped (kill -CONT") {
		t.Errorf("got %v, want one that is stopped", got)
	}
	must(t, one.cmd.Process.Signal(syscall.SIGCONT))
	one.unlock()
	two.unlock()

	for range 2 { // two open files of one process
		unlock, ok, err := l.TryRLock()
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		defer unlock()
	}
	if got := l.Holders(); len(got) != 1 || got[0].PID != os.Getpid() {
		t.Errorf("got %v, want this process once", got)
	}
	if got := lock.New(filepath.Join(path, "missing")).Holders(); got != nil {
		t.Errorf("got %v for a missing path", got)
	}
}

func TestRegularFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o400))
	unlock := mustLock(t, lock.New(path))
	mustTry(t, path, false)
	must(t, unlock())
	mustTry(t, path, true)
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	denied := filepath.Join(dir, "denied")
	must(t, os.Mkdir(denied, 0))
	for path, want := range map[string]error{
		filepath.Join(dir, "missing"): fs.ErrNotExist,
		denied:                        fs.ErrPermission,
	} {
		if want == fs.ErrPermission && os.Geteuid() == 0 {
			continue // root may
		}
		l := lock.New(path)
		_, err := l.Lock(context.Background())
		wantPathError(t, err, "lock", path, want)
		_, ok, err := l.TryLock()
		wantPathError(t, err, "lock", path, want)
		_, rok, err := l.TryRLock()
		wantPathError(t, err, "rlock", path, want)
		if ok || rok {
			t.Errorf("%s: ok with an error", path)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("missing path was created")
	}
}

// A waiter gets the lock of the file that the path names in the end.
func TestPathReplacedWhileWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	must(t, os.Mkdir(path, 0o700))
	unlock := mustLock(t, lock.New(path))
	l := lock.New(path)
	got, _ := lockWaiting(t, l)
	must(t, os.Mkdir(path+".new", 0o700))
	must(t, syscall.Rename(path+".new", path)) // os.Rename refuses to replace a directory
	second := mustGet(t, got)                  // while the directory that was removed is still locked
	mustTry(t, path, false)
	must(t, unlock())
	mustTry(t, path, false)
	must(t, second())

	unlock = mustLock(t, l)
	got, _ = lockWaiting(t, l)
	also, _ := lockWaiting(t, l)
	must(t, os.Remove(path))
	must(t, unlock())
	wantPathError(t, (<-got).err, "lock", path, fs.ErrNotExist)
	wantPathError(t, (<-also).err, "lock", path, fs.ErrNotExist)
}
