package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// step is a transaction of a test.
type step func(ctx context.Context, s *fsmeta.Store) error

// steps are the transactions that make the store of most tests.
var steps = []step{
	func(ctx context.Context, s *fsmeta.Store) error {
		_, err := s.CreateActive(ctx, "extract base", "", false)
		return err
	},
	func(ctx context.Context, s *fsmeta.Store) error {
		_, err := s.CommitWith(ctx, "extract base", "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5",
			fsmeta.WithUsage(fsmeta.Usage{Inodes: 12, Size: 4 << 20}), fsmeta.WithLabels(map[string]string{"role": "base", "a": "x=y"}))
		return err
	},
	func(ctx context.Context, s *fsmeta.Store) error {
		_, web := s.CreateWith(ctx, "web", "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5", false, fsmeta.WithLabels(map[string]string{"old": "1", "kept": "2"}))
		_, view := s.CreateActive(ctx, "view", "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5", true)
		_, gone := s.CreateActive(ctx, "gone", "", false)
		return errors.Join(web, view, gone)
	},
	func(ctx context.Context, s *fsmeta.Store) error {
		_, err := s.Remove(ctx, "gone")
		return err
	},
	func(ctx context.Context, s *fsmeta.Store) error {
		_, labels := s.Update(ctx, fsmeta.Info{Name: "web", Labels: map[string]string{"new": "a\nb", "kept": "3"}}, "labels")
		_, usage := s.SetUsage(ctx, "web", fsmeta.Usage{Inodes: 1, Size: 1500})
		return errors.Join(labels, usage)
	},
}

// do makes transactions.
func do(s *fsmeta.Store, steps ...step) (err error) {
	for _, step := range steps {
		err = errors.Join(err, s.WithTransaction(context.Background(), true, func(ctx context.Context) error { return step(ctx, s) }))
	}
	return err
}

// closed makes a store, and closes it.
func closed(t testing.TB, steps ...step) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	s, err := fsmeta.Open(dir)
	if err == nil {
		err = errors.Join(do(s, steps...), s.Close())
	}
	succeed(t, err)
	return dir
}

// write makes the store of most tests, says so, and keeps it open until standard input ends.
func write(dir string) error {
	s, err := fsmeta.Open(dir)
	if err == nil {
		err = do(s, steps...)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// total is a snapshot that all churning processes change.
const total = "total"

// churn makes the snapshot key, says so, and gives it the name and makes it again until it is
// killed. Each transaction counts on the label of total, and labels its snapshot with the number.
func churn(dir, key, name string) error {
	s, err := fsmeta.Open(dir)
	if err != nil {
		return err
	}
	create := func(ctx context.Context, s *fsmeta.Store) error {
		number, err := count(ctx, s)
		if err == nil {
			_, err = s.CreateWith(ctx, key, "", false, fsmeta.WithLabels(number))
		}
		return err
	}
	commit := func(ctx context.Context, s *fsmeta.Store) error {
		number, err := count(ctx, s)
		if err == nil {
			_, err = s.CommitWith(ctx, key, name, fsmeta.WithLabels(number))
		}
		return err
	}
	again := func(ctx context.Context, s *fsmeta.Store) error {
		_, err := s.Remove(ctx, name)
		return errors.Join(err, create(ctx, s))
	}
	if err = do(s, create); err == nil {
		fmt.Println("ready")
	}
	for err == nil {
		err = do(s, commit, again)
	}
	return err
}

// count returns labels with the number of total, which is one higher now.
func count(ctx context.Context, s *fsmeta.Store) (map[string]string, error) {
	is, err := s.Stat(ctx, total)
	if errors.Is(err, fsmeta.ErrNotExist) {
		_, err = s.CreateActive(ctx, total, "", false)
	}
	last, _ := strconv.Atoi(is.Labels["number"]) // 0 in the beginning
	number := map[string]string{"number": strconv.Itoa(last + 1)}
	if err == nil {
		_, err = s.Update(ctx, fsmeta.Info{Name: total, Labels: number}, "labels")
	}
	return number, err
}

// live makes the store of most tests in another process, which keeps it open until kill.
func live(t testing.TB) (dir string, kill func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	return dir, other(t, "writer", dir)
}

// other begins another process, and waits until it says that it is ready. It goes on until
// kill, or the end of the test.
func other(t testing.TB, what string, arguments ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], arguments...)
	cmd.Env, cmd.Stderr = append(os.Environ(), child+"="+what), os.Stderr
	in, err := cmd.StdinPipe()
	succeed(t, err)
	out, err := cmd.StdoutPipe()
	succeed(t, err)
	succeed(t, cmd.Start())
	kill = func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	return kill
}

// killed makes the store of most tests in a process that is killed.
func killed(t testing.TB) (dir string) {
	t.Helper()
	dir, kill := live(t)
	kill()
	return dir
}

func succeed(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
