package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open returns an open directory with what words say in it: "d/" is a directory, "f=text" a file,
// "l->target" a symlink and "p|" a pipe.
func open(t *testing.T, words string) *Dir {
	t.Helper()
	path := t.TempDir()
	for word := range strings.FieldsSeq(words) {
		var err error
		if name, text, ok := strings.Cut(word, "="); ok {
			err = os.WriteFile(filepath.Join(path, name), []byte(text), 0o600)
		} else if name, target, ok := strings.Cut(word, "->"); ok {
			err = os.Symlink(target, filepath.Join(path, name))
		} else if name, ok := strings.CutSuffix(word, "|"); ok {
			err = unix.Mkfifo(filepath.Join(path, name), 0o600)
		} else {
			err = os.Mkdir(filepath.Join(path, word), 0o700)
		}
		must(t, err)
	}
	d, err := OpenDir(path, false)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func wantPath(t *testing.T, err error, path string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got error %v, want one that names %s", err, path)
	}
}

const owner = 12345 // neither root nor the user that runs the tests

func self() Owner { return Owner{UID: os.Geteuid(), GID: os.Getegid()} }

func TestReadFile(t *testing.T) {
	d := open(t, "f=text e= d/ d/f=below d/l->f d/p| s->d l->f p| up->.. d/d/ loop->loop dangling->x")
	must(t, os.Truncate(d.Path+"/e", 1<<40))
	for _, test := range []struct {
		name, want string
		err        error
	}{
		{name: "f", want: "text"},
		{name: "d/f", want: "below"},
		{name: "l", err: unix.ELOOP},
		{name: "d/l", err: unix.ELOOP},
		{name: "s/f", err: fs.ErrInvalid}, // ENOTDIR or ELOOP
		{name: "up/f", err: fs.ErrInvalid},
		{name: "loop/f", err: fs.ErrInvalid},
		{name: "dangling/f", err: fs.ErrInvalid},
		{name: "f/f", err: unix.ENOTDIR},
		{name: "p/f", err: unix.ENOTDIR},
		{name: "p", err: ErrNotRegular},
		{name: "d/p", err: ErrNotRegular},
		{name: "d", err: ErrNotRegular},
		{name: "d/d", err: ErrNotRegular},
		{name: "none", err: fs.ErrNotExist},
		{name: "d/none", err: fs.ErrNotExist},
		{name: "none/f", err: fs.ErrNotExist},
		{name: "e", err: errAny},
	} {
		for _, way := range readWays {
			way.set(t)
			data, err := d.ReadFile(test.name, 100)
			if test.err == nil {
				if err != nil || string(data) != test.want {
					t.Errorf("%s: %s: got %q, %v", way.name, test.name, data, err)
				}
				continue
			}
			wantPath(t, err, d.Path+"/"+test.name[:min(1, len(test.name))])
			switch test.err {
			case errAny:
			case fs.ErrInvalid:
				if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
					t.Errorf("%s: %s: got error %v", way.name, test.name, err)
				}
			default:
				if !errors.Is(err, test.err) {
					t.Errorf("%s: %s: got error %v, want %v", way.name, test.name, err, test.err)
				}
			}
		}
	}
}

var errAny = errors.New("any")

// A file of just the most bytes is read, and one byte more is an error.
func TestReadFileIsBounded(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 1000, 5000} {
		d := open(t, "d/ d/f="+strings.Repeat("x", size))
		data, err := d.ReadFile("d/f", int64(size))
		if err != nil || len(data) != size {
			t.Errorf("%d bytes: got %d, %v", size, len(data), err)
		}
		if size == 0 {
			continue
		}
		if data, err = d.ReadFile("d/f", int64(size-1)); err == nil {
			t.Errorf("%d bytes where %d may be read: got %d", size, size-1, len(data))
		}
	}
}

// read is told the size that fstat saw; the file may have another when it is read.
func TestReadOfAnotherSize(t *testing.T) {
	d := open(t, "f="+strings.Repeat("x", 3000))
	for _, size := range []int64{0, 10, 2999, 3000, 3001, 9000} {
		for _, max := range []int64{2999, 3000, 3001, 9000} {
			f, err := os.Open(d.Path + "/f")
			must(t, err)
			data, err := read(int(f.Fd()), size, max)
			want := 3000
			if max < 3000 || max < size {
				want = 0
			}
			if len(data) != want || (err == nil) != (want > 0) {
				t.Errorf("size %d, at most %d: got %d bytes, %v", size, max, len(data), err)
			}
			must(t, f.Close())
		}
	}
}

func TestOpenDir(t *testing.T) {
	d := open(t, "d/ d/f=1 l->d f=1 p|")
	follow, err := OpenDir(d.Path+"/l", true)
	must(t, err)
	defer follow.Close()
	if names, err := follow.Names(); err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("through the symlink: %q, %v", names, err)
	}
	_, err = OpenDir(d.Path+"/l", false)
	wantPath(t, err, d.Path+"/l")
	for _, name := range []string{"l", "f", "p", "none"} {
		_, err := d.OpenDirAt(name)
		wantPath(t, err, d.Path+"/"+name)
		_, err = d.Enter(name)
		wantPath(t, err, d.Path+"/"+name)
		_, err = d.At().EnterToRead(name)
		wantPath(t, err, d.Path+"/"+name)
	}
	for range 2 { // a listing moves no position that the next one needs
		names, err := d.Names()
		slices.Sort(names)
		if err != nil || !slices.Equal(names, []string{"d", "f", "l", "p"}) {
			t.Errorf("got %q, %v", names, err)
		}
	}
	below, err := d.OpenDirAt("d")
	must(t, err)
	if below.Path != d.Path+"/d" {
		t.Errorf("its path is %s", below.Path)
	}
	must(t, below.Close())
}

// A call after Close reports that, and uses no descriptor that another file has by then.
func TestClosed(t *testing.T) {
	d := open(t, "d/ d/f=1")
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for {
				data, err := d.ReadFile("d/f", 10)
				if errors.Is(err, fs.ErrClosed) {
					return
				}
				if err != nil || string(data) != "1" {
					t.Errorf("got %q, %v", data, err)
					return
				}
			}
		})
	}
	must(t, d.Close())
	calls.Wait()
	_, readErr := d.ReadFile("f", 10)
	_, namesErr := d.Names()
	_, lstatErr := d.Lstat("d")
	_, enterErr := d.Enter("d")
	_, openErr := d.OpenFile("f")
	for _, err := range []error{readErr, namesErr, lstatErr, enterErr, openErr} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestOpenFile(t *testing.T) {
	d := open(t, "f=1 l->f p| d/")
	f, err := d.OpenFile("f")
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	for _, name := range []string{"l", "p", "d", "none"} {
		_, err := d.OpenFile(name)
		wantPath(t, err, d.Path+"/"+name)
	}
}

// Only a plain file is overwritten: nothing else changes, and nothing waits.
func TestOverwrite(t *testing.T) {
	at := open(t, "f=0123456789 l->f p| d/ hard=1 mode=1").At()
	must(t, os.Link(at.path+"/hard", at.path+"/copy"))
	must(t, os.Chmod(at.path+"/mode", 0o640))
	for _, text := range []string{"abc", "abcdefghijklmno", ""} {
		must(t, at.Overwrite("f", []byte(text), 0o600, self()))
		if data, err := at.ReadFile("f", 100); err != nil || string(data) != text {
			t.Errorf("got %q, %v, want %q", data, err, text)
		}
	}
	for _, name := range []string{"l", "p", "d", "hard", "mode", "none"} {
		wantPath(t, at.Overwrite(name, []byte("2"), 0o600, self()), at.path+"/"+name)
	}
	for _, name := range []string{"hard", "copy", "mode"} {
		if data, err := os.ReadFile(at.path + "/" + name); string(data) != "1" {
			t.Errorf("%s has become %q, %v", name, data, err)
		}
	}
	if err := at.Overwrite("f", nil, 0o600, Owner{UID: owner}); err == nil {
		t.Error("the file of another user was overwritten")
	}
}

func TestCreate(t *testing.T) {
	at := open(t, "f=1 l->new").At()
	must(t, at.Create("n", []byte("text"), 0o600, self()))
	if data, err := at.ReadFile("n", 10); err != nil || string(data) != "text" {
		t.Errorf("got %q, %v", data, err)
	}
	for _, name := range []string{"f", "l"} {
		if err := at.Create(name, []byte("2"), 0o600, self()); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := at.Lstat("new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a symlink was followed: %v", err)
	}
}

func TestRename(t *testing.T) {
	for name, renameNew := range map[string]func(At, string, At, string) error{"RenameNew": RenameNew, "in steps": renameNewInSteps} {
		at := open(t, "d/ e/ f=1 l->none").At()
		for _, to := range []string{"e", "f", "l"} {
			err := renameNew(at, "d", at, to)
			wantPath(t, err, at.path+"/d")
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: to %s: %v", name, to, err)
			}
		}
		must(t, renameNew(at, "d", at, "n"))
		wantPath(t, renameNew(at, "none", at, "m"), at.path+"/none")
		names, err := at.Names()
		slices.Sort(names)
		if err != nil || !slices.Equal(names, []string{"e", "f", "l", "n"}) {
			t.Errorf("%s: there are %q, %v", name, names, err)
		}
	}
}

func TestHoldsOnly(t *testing.T) {
	at := open(t, "none/ one/ one/a=1 both/ both/a=1 both/b->x more/ more/a=1 more/b=1 more/c=1 other/ other/ab=1").At()
	for name, want := range map[string]bool{"none": true, "one": true, "both": true, "more": false, "other": false} {
		dir, err := at.EnterToRead(name)
		must(t, err)
		if got, err := dir.HoldsOnly("a", "b"); err != nil || got != want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		must(t, dir.Close())
	}
}

func TestRemoveAll(t *testing.T) {
	outside := open(t, "d/ d/f=1 f=2")
	d := open(t, "f=1 p| d/ d/e/ d/e/f=1 d/p| d/f=1 empty/")
	must(t, os.Symlink(outside.Path, d.Path+"/l"))
	must(t, os.Symlink(outside.Path+"/d", d.Path+"/d/l"))
	must(t, os.Symlink(outside.Path+"/f", d.Path+"/d/e/l"))
	for _, name := range []string{"f", "p", "d", "empty", "l", "none"} {
		must(t, d.At().RemoveAll(name, "f", "none"))
	}
	if names, err := d.Names(); err != nil || len(names) > 0 {
		t.Errorf("%q are left, %v", names, err)
	}
	if names, err := outside.Names(); err != nil || len(names) != 2 {
		t.Errorf("outside %q are left, %v", names, err)
	}
	if data, err := outside.ReadFile("d/f", 10); err != nil || string(data) != "1" {
		t.Errorf("outside: %q, %v", data, err)
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d := open(t, "target=1")
	o, err := OwnerOf(d.File)
	if err != nil || o.Hand || o.UID != 0 {
		t.Errorf("of its own directory: %+v, %v", o, err)
	}
	must(t, os.Chown(d.Path, owner, owner+1))
	o, err = OwnerOf(d.File)
	if want := (Owner{owner, owner + 1, true}); err != nil || o != want {
		t.Errorf("got %+v, %v, want %+v", o, err, want)
	}
	at := d.At()
	must(t, at.Mkdir("d", 0o700, o))
	must(t, at.Create("f", nil, 0o600, o))
	must(t, at.Symlink("target", "l", o))
	f, err := os.Create(d.Path + "/given")
	must(t, err)
	must(t, o.Give(f))
	for _, name := range []string{"d", "f", "l", "given"} {
		var stat unix.Stat_t
		must(t, unix.Lstat(d.Path+"/"+name, &stat))
		if stat.Uid != owner || stat.Gid != owner+1 {
			t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
		}
	}
	if is, err := d.Lstat("target"); err != nil || is.UID != 0 {
		t.Errorf("the symlink's target belongs to %d, %v", is.UID, err)
	}
	must(t, f.Close())
	wantPath(t, o.Give(f), d.Path+"/given")
}
