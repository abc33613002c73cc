//go:build linux

package fsmeta_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
	"golang.org/x/sys/unix"
)

// Nothing outside of a store is read as a part of it, written or deleted.

// outside makes a directory outside of the store, with a copy of a snapshot in it, and returns what
// requires that it is as it was.
func outside(t *testing.T, from string) (dir string, wantUntouched func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "outside")
	succeed(t, os.CopyFS(dir, os.DirFS(from)),
		os.WriteFile(filepath.Join(dir, "precious"), []byte("precious"), 0o600),
		os.MkdirAll(filepath.Join(dir, "sub", "sub"), 0o700),
		os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("precious, too"), 0o600))
	before := listing(t, dir)
	return dir, func() {
		t.Helper()
		if after := listing(t, dir); after != before {
			t.Errorf("outside of the store there was\n%s\nand now there is\n%s", before, after)
		}
	}
}

// listing is all that is below a directory, with modes and contents.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	succeed(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(info.Mode().String() + " " + path)
		if info.Mode().IsRegular() {
			b.WriteString(": " + readFile(t, path))
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

// detours lead from a place in the store to a directory outside.
var detours = []struct {
	name   string
	lead   func(t *testing.T, store, outside string)
	damage bool // x is damaged then
}{
	{"snapshot", func(t *testing.T, store, outside string) {
		succeed(t, os.RemoveAll(entry(store, "x")), os.Symlink(outside, entry(store, "x")))
	}, true},
	{"relative", func(t *testing.T, store, outside string) {
		target, err := filepath.Rel(filepath.Join(store, "snapshots"), outside)
		succeed(t, err, os.RemoveAll(entry(store, "x")), os.Symlink(target, entry(store, "x")))
	}, true},
	{"another snapshot", func(t *testing.T, store, _ string) {
		succeed(t, os.RemoveAll(entry(store, "x")), os.Symlink("y", entry(store, "x")))
	}, true},
	{"dangling", func(t *testing.T, store, _ string) {
		succeed(t, os.RemoveAll(entry(store, "x")), os.Symlink("nothing", entry(store, "x")))
	}, true},
	{"metadata.json", func(t *testing.T, store, outside string) {
		file := metadataPath(store, "x")
		succeed(t, os.Remove(file), os.Symlink(filepath.Join(outside, "metadata.json"), file))
	}, true},
	{"below a snapshot", func(t *testing.T, store, outside string) {
		succeed(t, os.Symlink(outside, entry(store, "x/extra")))
	}, false},
	{"mount below a snapshot", func(t *testing.T, store, outside string) {
		target := entry(store, "x/extra")
		succeed(t, os.Mkdir(target, 0o700))
		mount(t, outside, target, "", unix.MS_BIND, "")
	}, false},
	{"below staging", func(t *testing.T, store, outside string) {
		succeed(t, os.Symlink(outside, filepath.Join(store, "staging", "0badcafe-1")))
	}, false},
	{"mount below staging", func(t *testing.T, store, outside string) {
		target := filepath.Join(store, "staging", "0badcafe-1")
		succeed(t, os.Mkdir(target, 0o700))
		mount(t, outside, target, "", unix.MS_BIND, "")
	}, false},
}

func TestNothingOutsideIsTouched(t *testing.T) {
	for _, d := range detours {
		for _, script := range []string{"remove x", "label x 1", "commit x n", "remove x\nput x", "put x", "put z"} {
			for _, before := range []bool{false, true} { // x is known before
				t.Run(d.name+"/"+script, func(t *testing.T) {
					dir := newDir(t)
					build(t, dir, "layer base", "put x base", "put y")
					out, wantUntouched := outside(t, entry(dir, "x"))
					a := useDamaged(t, dir)
					if before {
						mustDo(t, a, "label x 0", "label y 0", "stat x")
					}
					d.lead(t, dir, out)
					if d.damage && !before {
						mustFail(t, a, "stat x", fsmeta.ErrDamaged)
						got, err := a.do("walk")
						if got != "base y" || !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), entry(dir, "x")) {
							t.Errorf("walk: %q, %v", got, err)
						}
						wantFinding(t, dir, entry(dir, "x"))
					}
					for line := range strings.SplitSeq(script, "\n") {
						_, _ = a.do(line)
					}
					wantUntouched()
					mustDo(t, a, "put q", "remove q", "label y 1", "close")
					wantUntouched()
					b := useDamaged(t, dir)
					mustDo(t, b, "put r", "label y 2", "churn y 20")
					_, _ = b.do("remove x")
					mustDo(t, b, "close")
					wantUntouched()
					repair(t, dir)
					wantUntouched()
					mustDo(t, useDamaged(t, dir), "put s", "remove s", "close")
					wantUntouched()
				})
			}
		}
	}
}

// The error says what is in the place of a snapshot's directory or file.
func TestObstacleIsNamed(t *testing.T) {
	for _, test := range []struct {
		path string
		put  func(path string) error
		want string
	}{
		{"x", func(path string) error { return os.Symlink("y", path) }, "the snapshot's directory is a symlink"},
		{"x", func(path string) error { return os.Symlink("none", path) }, "the snapshot's directory is a symlink"},
		{"x", func(path string) error { return os.WriteFile(path, nil, 0o600) }, "something else is in place of the snapshot's directory"},
		{"x/metadata.json", func(path string) error { return os.Symlink("../y/metadata.json", path) }, "the file is a symlink"},
	} {
		dir := newDir(t)
		build(t, dir, "put x", "put y")
		path := entry(dir, test.path)
		succeed(t, os.RemoveAll(path), test.put(path))
		_, err := useDamaged(t, dir).do("stat x")
		if !errors.Is(err, fsmeta.ErrDamaged) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "too many levels") {
			t.Errorf("%s: %v, want that %s", test.path, err, test.want)
		}
	}
}

// A store of which a part is a symlink is refused, or used where the symlink leads to; nothing but
// the store's own files is touched there.
func TestPartsThatLeadOutside(t *testing.T) {
	for _, part := range []string{"staging", "snapshots", "journal", "layout"} {
		t.Run(part, func(t *testing.T) {
			dir := newDir(t)
			build(t, dir, "put x", "put y")
			out, wantUntouched := outside(t, entry(dir, "x"))
			target := out
			if part == "journal" || part == "layout" {
				target = filepath.Join(out, "precious")
			}
			succeed(t, os.RemoveAll(filepath.Join(dir, part)), os.Symlink(target, filepath.Join(dir, part)))
			if s, err := fsmeta.Open(dir); err == nil {
				a := &local{store: s}
				for _, line := range []string{"put z", "label x 1", "remove x", "churn y 20", "close"} {
					_, _ = a.do(line)
				}
			}
			wantUntouched()
			_, _ = fsmeta.Check(t.Context(), dir, nil)
			_, _ = fsmeta.Repair(t.Context(), dir, nil)
			wantUntouched()
		})
	}
}
