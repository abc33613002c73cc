package atomic_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fsmeta/fsmeta/atomic"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dirs returns where files are to be published and where they are staged.
func dirs(t *testing.T) (dir, temp string) {
	t.Helper()
	root := t.TempDir()
	dir, temp = filepath.Join(root, "dir"), filepath.Join(root, "temp")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Mkdir(temp, 0o700))
	return dir, temp
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: got %q, want %q", dir, got, want)
	}
}

// wantError requires that err names operation and path, and is want if that is
// not nil.
func wantError(t *testing.T, err, want error) {
	t.Helper()
	var pathErr *os.PathError
	var linkErr *os.LinkError
	switch {
	case errors.As(err, &pathErr) && pathErr.Op != "" && pathErr.Path != "":
	case errors.As(err, &linkErr) && linkErr.Op != "" && linkErr.Old != "" && linkErr.New != "":
	default:
		t.Errorf("got error %v, want one with operation and path", err)
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func TestWriteFile(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	large := strings.Repeat("0123456789", 1<<17)
	for _, content := range []string{"one", "", large, "two"} {
		must(t, atomic.WriteFile(path, temp, []byte(content)))
		wantContent(t, path, content)
		info, err := os.Lstat(path)
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("got mode %v, want 0600", info.Mode())
		}
	}
	wantNames(t, dir, "file")
	wantNames(t, temp)
}

// Mode 0600 is given whatever the umask and the file that is replaced have.
func TestWriteFileMode(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, nil, 0o644))
	defer syscall.Umask(syscall.Umask(0o277))
	must(t, atomic.WriteFile(path, temp, nil))
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("got mode %v, want 0600", info.Mode())
	}
}

func TestWriteFileReplacesSymlink(t *testing.T) {
	dir, temp := dirs(t)
	path, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
	must(t, os.WriteFile(target, []byte("old"), 0o600))
	must(t, os.Symlink("target", path))
	must(t, atomic.WriteFile(path, temp, []byte("new")))
	wantContent(t, path, "new")
	wantContent(t, target, "old")
	if _, err := os.Readlink(path); err == nil {
		t.Error("still a symlink")
	}
}

// A reader that opened the file before keeps its former content.
func TestWriteFileLeavesOpenFile(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	must(t, atomic.WriteFile(path, temp, []byte("old")))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, atomic.WriteFile(path, temp, []byte("new")))
	got := make([]byte, 8)
	n, _ := f.Read(got)
	if string(got[:n]) != "old" {
		t.Errorf("got %q, want %q", got[:n], "old")
	}
}

func TestWriteFileErrors(t *testing.T) {
	dir, temp := dirs(t)
	directory := filepath.Join(dir, "directory")
	must(t, os.Mkdir(directory, 0o700))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("old"), 0o600))
	tests := map[string]struct {
		path, temp string
		want       error
	}{
		"path is a directory":   {directory, temp, nil},
		"no directory for path": {filepath.Join(dir, "missing", "file"), temp, fs.ErrNotExist},
		"file for a directory":  {filepath.Join(file, "file"), temp, syscall.ENOTDIR},
		"tempDir missing":       {file, filepath.Join(temp, "missing"), fs.ErrNotExist},
		"tempDir is a file":     {file, file, syscall.ENOTDIR},
		"tempDir empty":         {file, "", fs.ErrInvalid},
		"name too long":         {filepath.Join(dir, strings.Repeat("x", 256)), temp, syscall.ENAMETOOLONG},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			wantError(t, atomic.WriteFile(test.path, test.temp, []byte("new")), test.want)
			wantNames(t, dir, "directory", "file")
			wantNames(t, temp)
			wantContent(t, file, "old")
		})
	}
}

func TestFile(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	f, err := atomic.Create(path, temp)
	must(t, err)
	if n, err := f.Write([]byte("hello world")); n != 11 || err != nil {
		t.Fatal(n, err)
	}
	must(t, f.Sync())
	if n, err := f.WriteAt([]byte("J"), 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := f.Write([]byte("!")); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantContent(t, path, "old")
	must(t, f.Replace())
	wantContent(t, path, "Jello world!")
	wantNames(t, temp)

	// All that comes after is refused, and Discard has nothing to do.
	wantError(t, f.Replace(), fs.ErrClosed)
	wantError(t, f.Sync(), fs.ErrClosed)
	_, err = f.Write([]byte("x"))
	wantError(t, err, fs.ErrClosed)
	_, err = f.WriteAt([]byte("x"), 0)
	wantError(t, err, fs.ErrClosed)
	must(t, f.Discard())
	wantContent(t, path, "Jello world!")
}

func TestChown(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	f, err := atomic.Create(path, temp)
	must(t, err)
	must(t, f.Chown(-1, -1))
	if os.Geteuid() == 0 {
		must(t, f.Chown(1234, 5678))
	} else {
		wantError(t, f.Chown(1234, 5678), fs.ErrPermission)
	}
	must(t, f.Replace())
	info, err := os.Stat(path)
	must(t, err)
	if stat := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (stat.Uid != 1234 || stat.Gid != 5678) {
		t.Errorf("user %d, group %d", stat.Uid, stat.Gid)
	}
	wantError(t, f.Chown(-1, -1), fs.ErrClosed)
}

func TestDiscard(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	f, err := atomic.Create(path, temp)
	must(t, err)
	_, err = f.Write([]byte("new"))
	must(t, err)
	must(t, f.Discard())
	must(t, f.Discard())
	wantError(t, f.Replace(), fs.ErrClosed)
	wantNames(t, dir)
	wantNames(t, temp)
}

func TestDiscardOfWhatIsGone(t *testing.T) {
	dir, temp := dirs(t)
	f, err := atomic.Create(filepath.Join(dir, "file"), temp)
	must(t, err)
	must(t, os.RemoveAll(temp))
	must(t, f.Discard())
	must(t, f.Discard())
	wantNames(t, dir)
}

// An error can't be got rid of by trying again: a part may be missing.
func TestFileKeepsFirstError(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "file")
	f, err := atomic.Create(path, temp)
	must(t, err)
	_, first := f.WriteAt([]byte("x"), -1)
	wantError(t, first, nil)
	if _, err := f.Write([]byte("x")); err != first {
		t.Errorf("Write: got %v, want %v", err, first)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err != first {
		t.Errorf("WriteAt: got %v, want %v", err, first)
	}
	if err := f.Sync(); err != first {
		t.Errorf("Sync: got %v, want %v", err, first)
	}
	if err := f.Replace(); err != first {
		t.Errorf("Replace: got %v, want %v", err, first)
	}
	must(t, f.Discard())
	wantNames(t, dir)
	wantNames(t, temp)
}

func TestReplaceError(t *testing.T) {
	dir, temp := dirs(t)
	path := filepath.Join(dir, "path")
	must(t, os.Mkdir(path, 0o700))
	f, err := atomic.Create(path, temp)
	must(t, err)
	first := f.Replace()
	wantError(t, first, nil)
	must(t, os.Remove(path))
	if err := f.Replace(); err != first {
		t.Errorf("got %v, want %v", err, first)
	}
	must(t, f.Discard())
	wantNames(t, dir)
	wantNames(t, temp)
}

func TestSymlink(t *testing.T) {
	dir, _ := dirs(t)
	path := filepath.Join(dir, "link")
	for _, target := range []string{"one", "../two", "/three/missing"} {
		must(t, atomic.Symlink(target, path))
		if got, err := os.Readlink(path); err != nil || got != target {
			t.Errorf("got %q, %v, want %q", got, err, target)
		}
	}
	wantNames(t, dir, "link")
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, atomic.Symlink("link", file))
	if got, err := os.Readlink(file); err != nil || got != "link" {
		t.Errorf("got %q, %v, want %q", got, err, "link")
	}
	wantNames(t, dir, "file", "link")
}

func TestSymlinkErrors(t *testing.T) {
	dir, _ := dirs(t)
	directory := filepath.Join(dir, "directory")
	must(t, os.Mkdir(directory, 0o700))
	wantError(t, atomic.Symlink("target", directory), nil)
	wantError(t, atomic.Symlink("target", filepath.Join(dir, "missing", "link")), fs.ErrNotExist)
	wantNames(t, dir, "directory")
}

func TestSyncFile(t *testing.T) {
	dir, _ := dirs(t)
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("content"), 0o400))
	must(t, atomic.SyncFile(file))
	wantContent(t, file, "content")

	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	must(t, os.Symlink("file", link))
	must(t, unix.Mkfifo(pipe, 0o600))
	wantError(t, atomic.SyncFile(link), nil)
	wantError(t, atomic.SyncFile(pipe), nil) // and doesn't wait for a writer
	wantError(t, atomic.SyncFile(filepath.Join(dir, "missing")), fs.ErrNotExist)
	if os.Geteuid() != 0 {
		must(t, os.Chmod(file, 0))
		wantError(t, atomic.SyncFile(file), fs.ErrPermission)
	}
}

func TestSyncDir(t *testing.T) {
	dir, _ := dirs(t)
	must(t, atomic.SyncDir(dir))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, atomic.SyncDir(dir))
	wantError(t, atomic.SyncDir(file), syscall.ENOTDIR)
	wantError(t, atomic.SyncDir(filepath.Join(dir, "missing")), fs.ErrNotExist)
}

func TestMkdirAll(t *testing.T) {
	dir, _ := dirs(t)
	must(t, atomic.MkdirAll(dir, 0o700))
	deep := filepath.Join(dir, "a", "b", "c")
	must(t, atomic.MkdirAll(deep, 0o710))
	for path := deep; path != dir; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		must(t, err)
		if want := fs.ModeDir | 0o710; info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", path, info.Mode(), want)
		}
	}
	must(t, atomic.MkdirAll(deep, 0o700))
	must(t, os.Symlink("a", filepath.Join(dir, "link")))
	must(t, atomic.MkdirAll(filepath.Join(dir, "link", "d"), 0o700))
	wantNames(t, filepath.Join(dir, "a"), "b", "d")

	file, nowhere := filepath.Join(dir, "file"), filepath.Join(dir, "nowhere")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Symlink("missing", nowhere))
	wantError(t, atomic.MkdirAll(file, 0o700), syscall.ENOTDIR)
	wantError(t, atomic.MkdirAll(filepath.Join(file, "below"), 0o700), syscall.ENOTDIR)
	wantError(t, atomic.MkdirAll(nowhere, 0o700), fs.ErrExist)
	if err := atomic.MkdirAll(nowhere, 0o700); !strings.Contains(err.Error(), nowhere) || !strings.Contains(err.Error(), `symlink to "missing"`) {
		t.Errorf("it says %v, want where the symlink leads", err)
	}
	wantError(t, atomic.MkdirAll(filepath.Join(nowhere, "below"), 0o700), fs.ErrExist)
}

func TestSyncData(t *testing.T) {
	dir, _ := dirs(t)
	f, err := os.Create(filepath.Join(dir, "file"))
	must(t, err)
	_, err = f.Write(bytes.Repeat([]byte("x"), 1<<16))
	must(t, err)
	must(t, atomic.SyncData(f))
	must(t, f.Close())
	wantError(t, atomic.SyncData(f), fs.ErrClosed)

	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	wantError(t, atomic.SyncData(w), nil)

	if err := atomic.SyncData(nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v, want %v", err, fs.ErrInvalid)
	}
}

func TestSyncFilesystem(t *testing.T) {
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := atomic.SyncFilesystem(f); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var pathErr *os.PathError
	if err := atomic.SyncFilesystem(f); !errors.As(err, &pathErr) || !errors.Is(err, fs.ErrClosed) && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("of a closed file: %v", err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	// A filesystem that is not known to tell of failures is refused.
	proc, err := os.Open("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if err := atomic.SyncFilesystem(proc); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("of /proc: %v", err)
	}
}
