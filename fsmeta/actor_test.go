package fsmeta_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// An actor runs commands on a store. Each command is a line of words, see commands; without
// begin before it, it is a transaction of its own.
type actor interface {
	// do returns the answer. Commands that list give both: a list, and the error it ended with.
	do(line string) (string, error)
}

// commands are the commands of an actor.
var commands = map[string]func(x *local, args []string) (string, error){
	"open": func(x *local, args []string) (_ string, err error) { // DIR [readonly|relaxed|existing|hurried]
		var opts []fsmeta.Option
		for _, arg := range args[1:] {
			opts = append(opts, map[string]fsmeta.Option{
				"readonly": fsmeta.ReadOnly(), "relaxed": fsmeta.Relaxed(), "existing": fsmeta.MustExist(), "hurried": fsmeta.Patience(100 * time.Millisecond)}[arg])
		}
		x.store, err = fsmeta.Open(args[0], opts...)
		return "", err
	},
	"close": func(x *local, _ []string) (string, error) { return "", x.store.Close() },
	"begin": func(x *local, args []string) (_ string, err error) { // [MILLISECONDS], to wait at most
		wait := time.Minute
		if len(args) > 0 {
			n, _ := strconv.Atoi(args[0])
			wait = time.Duration(n) * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		ctx, x.tx, err = x.store.TransactionContext(ctx, true)
		if err == nil {
			x.ctx = context.WithoutCancel(ctx)
		}
		return "", err
	},
	"end":      func(x *local, _ []string) (string, error) { x.ctx = nil; return "", x.tx.Commit() },
	"rollback": func(x *local, _ []string) (string, error) { x.ctx = nil; return "", x.tx.Rollback() },
	"put": func(x *local, args []string) (string, error) { // NAME [PARENT]
		return x.write(func(ctx context.Context) (string, error) {
			a, err := x.store.CreateActive(ctx, args[0], strings.Join(args[1:], ""), false)
			return a.ID, err
		})
	},
	"layer": func(x *local, args []string) (string, error) { // NAME [PARENT], committed
		return x.write(func(ctx context.Context) (string, error) {
			key := args[0] + "-key"
			if _, err := x.store.CreateActive(ctx, key, strings.Join(args[1:], ""), false); err != nil {
				return "", err
			}
			return x.store.Commit(ctx, key, args[0])
		})
	},
	"commit": func(x *local, args []string) (string, error) { // KEY NAME
		return x.write(func(ctx context.Context) (string, error) { return x.store.Commit(ctx, args[0], args[1]) })
	},
	"remove": func(x *local, args []string) (string, error) { // NAME
		return x.write(func(ctx context.Context) (string, error) { return x.store.Remove(ctx, args[0]) })
	},
	"label": func(x *local, args []string) (string, error) { // NAME VALUE
		return x.write(func(ctx context.Context) (string, error) { return x.label(ctx, args[0], args[1]) })
	},
	"churn": func(x *local, args []string) (string, error) { // NAME TIMES, with 16 KiB each
		times, err := strconv.Atoi(args[1])
		for i := range times {
			if err == nil {
				_, err = x.write(func(ctx context.Context) (string, error) {
					return x.label(ctx, args[0], strings.Repeat(strconv.Itoa(i%10), 16<<10))
				})
			}
		}
		return "", err
	},
	"stat": func(x *local, args []string) (string, error) {
		info, err := x.store.Stat(x.context(), args[0])
		if err != nil {
			return "", err
		}
		return describe(info), nil
	},
	"id": func(x *local, args []string) (string, error) {
		info, err := x.store.Stat(x.context(), args[0])
		return info.ID, err
	},
	"active": func(x *local, args []string) (string, error) {
		_, err := x.store.GetActive(x.context(), args[0])
		return "", err
	},
	"name": func(x *local, args []string) (string, error) { return x.store.NameOf(x.context(), args[0]) },
	"walk": func(x *local, _ []string) (string, error) {
		var names []string
		err := x.store.Walk(x.context(), func(_ context.Context, info fsmeta.Info) error {
			names = append(names, info.Name)
			return nil
		})
		return strings.Join(names, " "), err
	},
	"all": func(x *local, _ []string) (string, error) {
		var names []string
		var errs []error
		for info, err := range x.store.All(x.context()) {
			if err != nil {
				errs = append(errs, err)
				continue
			}
			names = append(names, info.Name)
		}
		return strings.Join(names, " "), errors.Join(errs...)
	},
	"ids": func(x *local, _ []string) (string, error) {
		ids, err := x.store.IDs(x.context())
		var names []string
		for _, name := range ids {
			names = append(names, name)
		}
		slices.Sort(names)
		return strings.Join(names, " "), err
	},
	"backup": func(x *local, args []string) (string, error) { // DIR
		return "", x.store.Backup(x.context(), args[0], nil)
	},
	"check": func(_ *local, args []string) (string, error) {
		return found(fsmeta.Check(context.Background(), args[0], nil))
	},
	"repair": func(_ *local, args []string) (string, error) {
		return found(fsmeta.Repair(context.Background(), args[0], nil))
	},
}

// found is findings as an answer, one a line.
func found(findings []fsmeta.Finding, err error) (string, error) {
	var lines []string
	for _, f := range findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n"), err
}

// describe tells a snapshot in a few words: its kind, label v and parent.
func describe(info fsmeta.Info) string {
	v := info.Labels["v"]
	if len(v) > 20 {
		v = v[:20]
	}
	return fmt.Sprintf("%s v=%s on=%s", info.Kind, v, info.Parent)
}

// local runs commands in this process.
type local struct {
	store *fsmeta.Store
	ctx   context.Context // of the transaction between begin and end
	tx    fsmeta.Transactor
}

func (x *local) do(line string) (string, error) {
	words := strings.Fields(line)
	return commands[words[0]](x, words[1:])
}

func (x *local) context() context.Context {
	if x.ctx != nil {
		return x.ctx
	}
	return context.Background()
}

func (x *local) write(fn func(ctx context.Context) (string, error)) (answer string, err error) {
	if x.ctx != nil {
		return fn(x.ctx)
	}
	err = x.store.WithTransaction(context.Background(), true, func(ctx context.Context) (err error) {
		answer, err = fn(ctx)
		return err
	})
	return answer, err
}

func (x *local) label(ctx context.Context, name, value string) (string, error) {
	_, err := x.store.Update(ctx, fsmeta.Info{Name: name, Labels: map[string]string{"v": value}}, "labels.v")
	return "", err
}

// mustDo runs commands that must succeed, and returns the last answer.
func mustDo(t testing.TB, a actor, lines ...string) (answer string) {
	t.Helper()
	for _, line := range lines {
		var err error
		if answer, err = a.do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return answer
}

// mustFail runs a command that must fail with that error.
func mustFail(t testing.TB, a actor, line string, want error) error {
	t.Helper()
	_, err := a.do(line)
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want an error that is %q", line, err, want)
	}
	return err
}

// mustSay runs a command that must succeed with that answer.
func mustSay(t testing.TB, a actor, line, want string) {
	t.Helper()
	if got, err := a.do(line); err != nil || got != want {
		t.Errorf("%s: %q, %v, want %q", line, got, err, want)
	}
}

// The processes. A child is this test binary, which runs TestInterpreter alone.
const childVariable = "FSMETA_TEST_INTERPRETER"

// errorClasses are the errors that a child's answer keeps.
var errorClasses = map[string]error{
	"damaged": fsmeta.ErrDamaged, "absent": fsmeta.ErrNotExist, "exists": fsmeta.ErrExist, "children": fsmeta.ErrHasChildren,
	"used": fsmeta.ErrInUse, "nostore": fsmeta.ErrNotStore, "outdated": fsmeta.ErrOutdated, "failed": fsmeta.ErrFailed,
	"unknown": fsmeta.ErrOutcomeUnknown, "deadline": context.DeadlineExceeded, "denied": fs.ErrPermission,
	"full": syscall.ENOSPC, "quota": syscall.EDQUOT, "links": syscall.EMLINK, "forbidden": syscall.EPERM,
}

// reply is a child's answer to a command.
type reply struct {
	Text, Err string
	Classes   []string
}

// remoteError is a child's error.
type remoteError reply

func (e *remoteError) Error() string { return e.Err }

func (e *remoteError) Is(target error) bool {
	return slices.ContainsFunc(e.Classes, func(class string) bool { return errorClasses[class] == target })
}

// TestInterpreter is no test but what a child runs: it takes commands from descriptor 3 and
// answers on descriptor 4.
func TestInterpreter(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		t.Skip("only in a child process")
	}
	x := &local{}
	in, out := bufio.NewScanner(os.NewFile(3, "commands")), json.NewEncoder(os.NewFile(4, "answers"))
	for in.Scan() {
		text, err := x.do(in.Text())
		r := reply{Text: text}
		if err != nil {
			r.Err = cmp.Or(err.Error(), "an error without text")
			for class, is := range errorClasses {
				if errors.Is(err, is) {
					r.Classes = append(r.Classes, class)
				}
			}
		}
		if err := out.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
}

// remote runs commands in a child process.
type remote struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan reply // closed when the child has ended
	stderr  strings.Builder
}

// start starts a child. Each change may alter the command before.
func start(t testing.TB, changes ...func(*exec.Cmd)) *remote {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{t: t, replies: make(chan reply, 1), cmd: exec.Command(self, "-test.run=^TestInterpreter$")}
	r.cmd.Env = append(os.Environ(), childVariable+"=1")
	r.cmd.Dir = "/"
	r.cmd.WaitDelay = time.Second
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that kill reaches what it starts
	r.cmd.Stdout, r.cmd.Stderr = &r.stderr, &r.stderr
	for _, change := range changes {
		change(r.cmd)
	}
	commandsRead, commandsWrite := pipe(t)
	answersRead, answersWrite := pipe(t)
	r.in, r.cmd.ExtraFiles = commandsWrite, []*os.File{commandsRead, answersWrite}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	commandsRead.Close()
	answersWrite.Close()
	t.Cleanup(r.kill)
	go func() {
		for d := json.NewDecoder(answersRead); ; {
			var a reply
			if d.Decode(&a) != nil {
				break
			}
			r.replies <- a
		}
		answersRead.Close()
		close(r.replies)
	}()
	return r
}

func pipe(t testing.TB) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return read, write
}

func (r *remote) do(line string) (string, error) {
	r.t.Helper()
	r.send(line)
	return r.receive(line)
}

// send begins a command. receive returns its answer.
func (r *remote) send(line string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, line+"\n"); err != nil {
		r.t.Fatalf("%s: %v: %s", line, err, r.end())
	}
}

// repeatedly lets a process do a command over and over. more waits until it has done that so many times
// more; stop ends it. Both require that each time succeeded.
func repeatedly(t *testing.T, r *remote, line string) (more func(times int), stop func()) {
	done, stopped, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if _, err := r.do(line); err != nil {
				ended <- err
				return
			}
			select {
			case <-stopped:
				ended <- nil
				return
			case done <- struct{}{}:
			default:
			}
		}
	}()
	more = func(times int) {
		t.Helper()
		for range times {
			select {
			case <-done:
			case err := <-ended:
				t.Fatalf("%.40s: %v", line, err)
			}
		}
	}
	stop = func() {
		t.Helper()
		close(stopped)
		succeed(t, <-ended)
	}
	return more, stop
}

// hangs is the time after which a command that has no answer counts as hanging.
const hangs = time.Minute

// receive waits for the answer to a command.
func (r *remote) receive(line string) (string, error) {
	r.t.Helper()
	select {
	case a, ok := <-r.replies:
		if !ok {
			r.t.Fatalf("%s: the process has ended: %s", line, r.end())
		}
		if a.Err != "" {
			e := remoteError(a)
			return a.Text, &e
		}
		return a.Text, nil
	case <-time.After(hangs):
		r.kill()
		r.t.Fatalf("%s: no answer in %v", line, hangs)
		return "", nil
	}
}

// end ends a child that does not answer, and returns how it ended and the beginning of its output.
func (r *remote) end() string {
	r.kill()
	return fmt.Sprintf("%v\n%.1500s", r.cmd.ProcessState, r.stderr.String())
}

// kill ends a child at once, as kill -9 does, and waits for that.
func (r *remote) kill() {
	if r.cmd.ProcessState == nil {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		r.in.Close()
		_ = r.cmd.Wait()
	}
}
