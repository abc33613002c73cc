package journal

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
)

const holderEnv = "FSMETA_TEST_JOURNAL_HOLDER"

// TestMain makes the test binary a writer that dies in the middle of its work: it writes a
// line to the journal that the environment names, says so, and waits to be killed.
func TestMain(m *testing.M) {
	path := os.Getenv(holderEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	f, err := Open(path, true)
	if err == nil {
		_, err = f.Scan(true)
	}
	if err == nil {
		err = f.Lock()
	}
	if err == nil {
		err = f.Append(txn(f))
	}
	fmt.Println(err)
	_, _ = io.ReadAll(os.Stdin) // until the test ends
}

func wantAtWork(t *testing.T, f *File, want bool) {
	t.Helper()
	if got, err := f.AtWork(); got != want || err != nil {
		t.Errorf("at work: %v, %v, want %v", got, err, want)
	}
}

func TestLock(t *testing.T) {
	s := newStore(t)
	w := s.put(t, nil, first, nil, ClosedFill) // locked when it is made
	reader, other := s.open(t, false), s.open(t, true)
	for range 2 {
		wantAtWork(t, w, true)
		wantAtWork(t, reader, true)
		wantAtWork(t, other, true)
		defer func(d time.Duration) { lockPatience = d }(lockPatience)
		lockPatience = 5 * time.Millisecond
		wantError(t, other.Lock(), fault.ErrInUse)
		must(t, w.Lock()) // held already
	}
	must(t, w.Unlock())
	must(t, w.Unlock())
	for _, f := range []*File{w, reader, other} {
		wantAtWork(t, f, false)
	}
	// Questions do not hold the lock.
	must(t, other.Lock())
	wantAtWork(t, w, true)
	must(t, other.Close())
	wantAtWork(t, w, false)
	wantAtWork(t, reader, false)
	if err := reader.Lock(); err == nil && runtime.GOOS == "linux" {
		t.Error("a file that is open for reading was locked")
	}
	wantAtWork(t, reader, false)
}

// A writer that is stopped is at work; one that was killed is not, and its lines are committed.
func TestKilledWriter(t *testing.T) {
	s := newStore(t)
	must(t, s.put(t, nil, first, nil, ClosedFill).Close())
	r, f := s.open(t, false), follow(t, s, 10)

	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), holderEnv+"="+s.path)
	command.Stderr = os.Stderr
	_, err := command.StdinPipe()
	must(t, err)
	out, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	defer command.Process.Kill() //nolint:errcheck // it is gone where the test passes
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "<nil>\n" {
		t.Fatal(said, err)
	}
	tail, err := r.Scan(false)
	must(t, err)
	if len(tail.Fresh) != 1 || tail.Fresh[0].Newline {
		t.Fatal(tail)
	}
	wantAtWork(t, r, true)
	wantNext(t, f, "")
	must(t, command.Process.Signal(syscall.SIGSTOP))
	wantAtWork(t, r, true)
	must(t, command.Process.Kill())
	_ = command.Wait() // returns that it was killed
	wantAtWork(t, r, false)
	wantNext(t, f, "11")
	must(t, s.open(t, true).Lock())
}

func TestOtherBoot(t *testing.T) {
	s := newStore(t)
	if bootID() == "" {
		t.Skip("the boot is not known here")
	}
	for boot, other := range map[string]bool{bootID(): false, "": false, "another": true} {
		h := format.Header{NextID: 1, Boot: boot, Filled: 1000}
		must(t, os.WriteFile(s.path, append(format.EncodeHeader(h), make([]byte, 1000)...), 0o600))
		w, r := s.open(t, true), s.open(t, false)
		if w.OtherBoot() != other {
			t.Errorf("boot %q: other is %v", boot, w.OtherBoot())
		}
		wantAtWork(t, r, false)
		must(t, w.Lock())
		wantAtWork(t, r, !other)
		must(t, w.Close())
	}
}
