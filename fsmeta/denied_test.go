package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// alone runs the test in a process of its own, with privileges or without, and reports
// whether this is that process. The directory is for its use.
func alone(t *testing.T, privileged bool) (dir string, here bool) {
	t.Helper()
	const variable = "FSMETA_TEST_ALONE"
	if dir := os.Getenv(variable); dir != "" {
		if os.Getuid() == 0 && !privileged {
			nilError(t, syscall.Setgroups(nil))
			nilError(t, syscall.Setgid(plainUser))
			nilError(t, syscall.Setuid(plainUser))
		}
		return dir, true
	}
	dir = t.TempDir()
	if os.Getuid() == 0 && !privileged {
		nilError(t, os.Chmod(filepath.Dir(dir), 0o711))
		nilError(t, os.Chown(dir, plainUser, plainUser))
	}
	child := exec.Command(must(os.Executable()), "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), variable+"="+dir)
	out, err := child.CombinedOutput()
	if t.Logf("%s", out); err != nil || !bytes.Contains(out, []byte("=== RUN   "+t.Name()+"/")) {
		t.Fatalf("in a process of its own: %v", err)
	}
	return "", false
}

// plainUser is the user of a test where root would be allowed everything.
const plainUser = 65534

// A file that can't grow stands for a full disk: the transaction fails and leaves nothing,
// and the Store goes on as soon as there is room again.
func TestFullDisk(t *testing.T) {
	dir, here := alone(t, true)
	if !here {
		return
	}
	for i, test := range []struct {
		name string
		room uint64 // bytes that a file can have
		do   func(ctx context.Context, s *store)
	}{
		{"no room for metadata", 0, func(ctx context.Context, s *store) { s.make(ctx, "top < base; *work2 < top") }},
		{"no room to update", 0, func(ctx context.Context, s *store) {
			must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
		}},
		{"no room to remove", 0, func(ctx context.Context, s *store) { must(s.Remove(ctx, "work")) }},
		{"no room for the second one", 4096, func(ctx context.Context, s *store) {
			s.make(ctx, "*a < base")
			must(s.CreateWith(ctx, "b", "base", false, fsmeta.WithLabels(map[string]string{"text": strings.Repeat("text ", 6000)})))
		}},
		{"no room in the journal", 1 << 20, func(ctx context.Context, s *store) {
			labels := map[string]string{"text": strings.Repeat("text ", 6000)}
			for i := range 200 {
				must(s.CreateWith(ctx, fmt.Sprint("key", i), "base", false, fsmeta.WithLabels(labels)))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := openStore(t, filepath.Join(dir, fmt.Sprint("store", i)))
			s.build("base; *work < base")
			infos := must(dump(bg, s.Store))
			disk := fingerprint(t, s.dir, "journal", "staging")
			staged := func() (n int) {
				for _, entry := range must(os.ReadDir(filepath.Join(s.dir, "staging"))) {
					if entry.Type() != fs.ModeSymlink { // a link to a parent, kept for its next child
						n++
					}
				}
				return n
			}
			kept := staged()
			for range 2 {
				err := withRoom(t, test.room, func() error {
					return s.WithTransaction(bg, true, func(ctx context.Context) error { test.do(ctx, s); return nil })
				})
				if !errors.Is(err, syscall.EFBIG) || errors.Is(err, fsmeta.ErrOutcomeUnknown) || errors.Is(err, fsmeta.ErrFailed) {
					t.Fatalf("got error %v, want a plain one of %v", err, syscall.EFBIG)
				}
				equal(t, "store", must(dump(bg, s.Store)), infos)
				equal(t, "disk", fingerprint(t, s.dir, "journal", "staging"), disk)
				if n := staged(); n > kept {
					t.Errorf("%d entries in staging, there were %d", n, kept)
				}
			}
			killed := openStore(t, s.kill())
			equal(t, "store after a crash", must(dump(bg, killed.Store)), infos)
			s.write(func(ctx context.Context) { test.do(ctx, s) }) // there is room again
		})
	}
}

// withRoom runs do while no file of this process can grow over room bytes.
func withRoom(t *testing.T, room uint64, do func() error) error {
	t.Helper()
	ossignal.Ignore(syscall.SIGXFSZ)
	defer ossignal.Reset(syscall.SIGXFSZ)
	var limit syscall.Rlimit
	nilError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit))
	small := limit
	switch cur := any(&small.Cur).(type) { // which it is depends on the system
	case *uint64:
		*cur = room
	case *int64:
		*cur = int64(room)
	}
	nilError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &small))
	defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	return do()
}

// TestPermissions runs its cases as a plain user.
func TestPermissions(t *testing.T) {
	dir, here := alone(t, false)
	if !here {
		return
	}
	for i, test := range permissionTests {
		t.Run(test.name, func(t *testing.T) {
			top := filepath.Join(dir, fmt.Sprint("case", i))
			nilError(t, os.Mkdir(top, 0o700))
			test.do(t, filepath.Join(top, "store"))
		})
	}
}

var permissionTests = []struct {
	name string
	do   func(t *testing.T, dir string)
}{
	{"to make a store", func(t *testing.T, dir string) {
		chmod(t, filepath.Dir(dir), 0o500)
		_, err := fsmeta.Open(dir)
		wantPermission(t, err, dir)
		equal(t, "entries", len(must(os.ReadDir(filepath.Dir(dir)))), 0)
	}},
	{"to make a store in a directory", func(t *testing.T, dir string) {
		nilError(t, os.Mkdir(dir, 0o500))
		_, err := fsmeta.Open(dir)
		wantPermission(t, err, dir)
		equal(t, "entries", len(must(os.ReadDir(dir))), 0)
	}},
	{"to enter", func(t *testing.T, dir string) {
		made(t, dir)
		chmod(t, dir, 0)
		for _, opts := range [][]fsmeta.Option{nil, {fsmeta.MustExist()}, {fsmeta.ReadOnly()}} {
			_, err := fsmeta.Open(dir, opts...)
			wantPermission(t, err, dir)
		}
		chmod(t, dir, 0o700)
		openStore(t, dir).want(bg, "base; *work < base")
	}},
	{"to write", func(t *testing.T, dir string) {
		made(t, dir)
		undo := chmodAll(t, dir, 0o500, 0o400)
		before := fingerprint(t, dir)
		useReadOnly(t, dir, "base; *work < base")
		if s, err := fsmeta.Open(dir); err != nil {
			wantPermission(t, err, dir)
		} else {
			err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(s.CreateActive(ctx, "new", "", false))
			})
			wantPermission(t, err, dir)
			nilError(t, s.Close())
		}
		equal(t, "directory", fingerprint(t, dir), before)
		undo()
		openStore(t, dir).build("new")
	}},
	{"to read a snapshot", func(t *testing.T, dir string) {
		made(t, dir)
		path := filepath.Join(dir, "snapshots", "base", "metadata.json")
		chmod(t, path, 0)
		s := openOnly(t, dir)
		wantPermission(t, drop(s.Stat(bg, "base")), path)
		got, err := s.list(bg)
		wantPermission(t, err, path)
		equal(t, "all others", got, "*work < base")
		s.build("new")
		nilError(t, s.Close())
		chmod(t, path, 0o600)
		openStore(t, dir).want(bg, "base; new; *work < base")
	}},
	{"to write in staging", func(t *testing.T, dir string) {
		s := openStore(t, dir)
		s.build("base; *work < base")
		disk := fingerprint(t, dir, "journal", "staging")
		chmod(t, filepath.Join(dir, "staging"), 0o500)
		for range 2 {
			err := s.WithTransaction(bg, true, func(ctx context.Context) error {
				return drop(s.CreateActive(ctx, "new", "base", false))
			})
			wantPermission(t, err, dir)
			s.want(bg, "base; *work < base")
			equal(t, "disk", fingerprint(t, dir, "journal", "staging"), disk)
		}
		chmod(t, filepath.Join(dir, "staging"), 0o700)
		s.build("new < base")
		s.want(bg, "base; new < base; *work < base")
	}},
	{"to rename into snapshots", func(t *testing.T, dir string) { // after the sync: it is committed
		s := openStore(t, dir)
		s.build("base; *work < base")
		second := openStore(t, dir)
		chmod(t, filepath.Join(dir, "snapshots"), 0o500)
		s.build("new < base")
		s.build("last < new") // names that lag keep no other transaction from being committed
		const want = "base; last < new; new < base; *work < base"
		s.want(bg, want)
		second.want(bg, want)
		equal(t, "tree while they lag", diskList(t, dir), "base; *work < base")
		chmod(t, filepath.Join(dir, "snapshots"), 0o700)
		nilError(t, second.Close())
		nilError(t, s.Close()) // tries them again
		equal(t, "tree on disk", diskList(t, dir), want)
		openStore(t, dir).want(bg, want)
	}},
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	nilError(t, os.Chmod(path, mode))
	t.Cleanup(func() { os.Chmod(path, mode|0o700) }) // so that it can be removed
}

// chmodAll changes the permissions of all directories and files. undo changes them back.
func chmodAll(t *testing.T, dir string, dirMode, fileMode fs.FileMode) func() {
	t.Helper()
	var undo []func()
	nilError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type() == fs.ModeSymlink {
			return err
		}
		mode, old := fileMode, fs.FileMode(0o600)
		if entry.IsDir() {
			mode, old = dirMode, 0o700
		}
		undo = append(undo, func() { os.Chmod(path, old) })
		return os.Chmod(path, mode)
	}))
	return func() {
		for _, undo := range undo {
			undo()
		}
	}
}

func wantPermission(t *testing.T, err error, path string) {
	t.Helper()
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want one of %v that mentions %s", err, fs.ErrPermission, path)
	}
}
