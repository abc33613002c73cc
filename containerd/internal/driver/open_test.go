//go:build linux

package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// checkError reports an error that lacks one of the words. All of Open's name the root.
func checkError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

// closedRoot makes a root directory with a snapshot, and closes it.
func closedRoot(t *testing.T) string {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "root"), &fake{}, Config{})
	must(t, err)
	layer(t, s, "layer", "", 1)
	must(t, s.Close())
	return s.root
}

// Open makes what is missing above the root too, and only the owner can look into it.
func TestOpenMakesTheRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "a", "b", "root")
	s, err := Open(root, &fake{}, Config{})
	must(t, err)
	must(t, s.Close())
	for _, name := range []string{"", snapshotsDir} {
		info, err := os.Stat(filepath.Join(root, name))
		must(t, err)
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%q has the mode %v, want 0700", name, info.Mode().Perm())
		}
	}
	marker, err := os.ReadFile(filepath.Join(root, markerFile))
	must(t, err)
	if string(marker) != "native\n" {
		t.Errorf("the marker is %q, want %q", marker, "native\n")
	}
	var names []string
	entries, err := os.ReadDir(root)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{metaDir, snapshotsDir, markerFile}; !slices.Equal(names, want) {
		t.Errorf("the root holds %q, want %q", names, want)
	}
}

// What one Snapshotter has made, the next one on the same root has, and goes on with: what
// was prepared before is committed after.
func TestOpenOneAfterTheOther(t *testing.T) {
	s, content := openFake(t, Config{})
	layer(t, s, "layer", "", 1)
	dir := prepare(t, s, "key", "layer")
	for range 3 {
		must(t, s.Close())
		next, err := Open(s.root, content, Config{})
		must(t, err)
		t.Cleanup(func() { must(t, next.Close()) })
		s = next
	}
	must(t, os.WriteFile(filepath.Join(dir, "fs", "file"), make([]byte, 1<<20), 0o600))
	must(t, s.Commit(t.Context(), "second", "key"))
	usage, err := s.Usage(t.Context(), "second")
	must(t, err)
	if usage.Size < 1<<20 {
		t.Errorf("recorded are %d bytes, want at least what was written", usage.Size)
	}
	if got, want := namesOf(t, s), []string{"layer", "second"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	must(t, s.Cleanup(t.Context()))
	checkNothingLeft(t, s)
}

// What a crash in the first Open can leave is completed by the next.
func TestOpenCompletesWhatACrashLeft(t *testing.T) {
	for name, make := range map[string]func(root string) error{
		"root":      func(root string) error { return os.MkdirAll(root, 0o700) },
		"snapshots": func(root string) error { return os.MkdirAll(filepath.Join(root, snapshotsDir), 0o700) },
		"emptyMeta": func(root string) error { return os.MkdirAll(filepath.Join(root, metaDir), 0o700) },
		"noMarker":  removedFromFull(markerFile),
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "root")
			must(t, make(root))
			s, err := Open(root, &fake{}, Config{})
			must(t, err)
			prepare(t, s, "key", "")
			must(t, s.Close())
		})
	}
}

// removedFromFull makes a root without snapshots and takes something away.
func removedFromFull(name string) func(root string) error {
	return func(root string) error {
		s, err := Open(root, &fake{}, Config{})
		if err != nil {
			return err
		}
		return errors.Join(s.Close(), os.RemoveAll(filepath.Join(root, name)))
	}
}

// A root that lacks a part, or has one that is not what it should be, is refused with an
// error that names it, and left as it is: a store must not begin empty beside content.
func TestOpenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, root string)
		words []string
	}{
		"metaGone": {func(t *testing.T, root string) {
			must(t, os.RemoveAll(filepath.Join(root, metaDir)))
		}, []string{"/" + metaDir}},
		"snapshotsGone": {func(t *testing.T, root string) {
			must(t, os.RemoveAll(filepath.Join(root, snapshotsDir)))
		}, []string{"/" + snapshotsDir}},
		"markerGone": {func(t *testing.T, root string) {
			must(t, os.Remove(filepath.Join(root, markerFile)))
		}, []string{"/" + snapshotsDir, "not empty", "/" + markerFile}},
		"otherKind": {func(t *testing.T, root string) {
			must(t, os.WriteFile(filepath.Join(root, markerFile), []byte("overlay\n"), 0o600))
		}, []string{`"overlay"`, `"native"`}},
		"unknownKind": {func(t *testing.T, root string) {
			must(t, os.WriteFile(filepath.Join(root, markerFile), []byte("other\n"), 0o600))
		}, []string{"/" + markerFile, `"other"`}},
		"emptyMarker": {func(t *testing.T, root string) {
			must(t, os.WriteFile(filepath.Join(root, markerFile), nil, 0o600))
		}, []string{"/" + markerFile}},
		"markerIsDirectory": {func(t *testing.T, root string) {
			must(t, os.Remove(filepath.Join(root, markerFile)))
			must(t, os.Mkdir(filepath.Join(root, markerFile), 0o700))
		}, []string{"/" + markerFile}},
		"metaIsFile": {func(t *testing.T, root string) {
			must(t, os.RemoveAll(filepath.Join(root, metaDir)))
			must(t, os.WriteFile(filepath.Join(root, metaDir), make([]byte, 64<<10), 0o600))
		}, []string{"/" + metaDir}},
		"metaIsEmptied": {func(t *testing.T, root string) {
			must(t, os.RemoveAll(filepath.Join(root, metaDir)))
			must(t, os.Mkdir(filepath.Join(root, metaDir), 0o700))
		}, []string{"/" + metaDir}},
		"snapshotsIsFile": {func(t *testing.T, root string) {
			must(t, os.RemoveAll(filepath.Join(root, snapshotsDir)))
			must(t, os.WriteFile(filepath.Join(root, snapshotsDir), nil, 0o600))
		}, []string{"/" + snapshotsDir}},
		"rootIsFile": {func(t *testing.T, root string) {
			must(t, os.RemoveAll(root))
			must(t, os.WriteFile(root, nil, 0o600))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := closedRoot(t)
			test.spoil(t, root)
			before := treeOf(t, root)
			s, err := Open(root, &fake{}, Config{})
			if err == nil {
				must(t, s.Close())
			}
			checkError(t, err, append(test.words, root)...)
			if after := treeOf(t, root); !slices.Equal(after, before) {
				t.Errorf("there is %q, and was %q", after, before)
			}
			// It holds nothing, so that it can be tried again when it is repaired.
			if _, err := os.Stat(root); err == nil {
				unlock, err := Lock(root)
				must(t, err)
				must(t, unlock())
			}
		})
	}
}

// treeOf returns the paths in the root and in the directories that Open could make things in.
func treeOf(t *testing.T, root string) []string {
	t.Helper()
	var paths []string
	for _, pattern := range []string{"", "*", snapshotsDir + "/*", metaDir + "/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		must(t, err)
		paths = append(paths, found...)
	}
	return paths
}

// A root is served once, be it in this process or in two; the second is told which
// and how to find the process that has it, and can have it when that has closed it or was killed.
func TestOpenIsExclusive(t *testing.T) {
	root := closedRoot(t)
	refused := func(t *testing.T) {
		t.Helper()
		_, err := Open(root, &fake{}, Config{})
		if !errors.Is(err, ErrInUse) {
			t.Errorf("Open says %v, want ErrInUse", err)
		}
		checkError(t, err, root, "fuser -v "+root)
	}
	t.Run("sameProcess", func(t *testing.T) {
		s, err := Open(root, &fake{}, Config{})
		must(t, err)
		refused(t)
		prepare(t, s, "key", "layer")
		must(t, s.Remove(t.Context(), "key"))
		must(t, s.Close())
	})
	t.Run("otherProcess", func(t *testing.T) {
		kill := startHolder(t, root)
		refused(t)
		kill()
	})
	s, err := Open(root, &fake{}, Config{})
	must(t, err)
	must(t, s.Close())
}

// A second Close returns what the first did, and does not take the root from the process that has
// opened it since. Every other call after the first is refused.
func TestCloseTwice(t *testing.T) {
	s, content := openFake(t, Config{})
	prepare(t, s, "key", "")
	must(t, s.Close())
	next, err := Open(s.root, content, Config{})
	must(t, err)
	t.Cleanup(func() { must(t, next.Close()) })
	must(t, s.Close())
	if _, err := Open(s.root, content, Config{}); !errors.Is(err, ErrInUse) {
		t.Errorf("the second Close has given up another's lock: %v", err)
	}
	before := directoriesOf(t, s)
	for name, call := range map[string]func(context.Context) error{
		"Prepare": func(ctx context.Context) error { _, err := s.Prepare(ctx, "new", ""); return err },
		"Commit":  func(ctx context.Context) error { return s.Commit(ctx, "name", "key") },
		"Remove":  func(ctx context.Context) error { return s.Remove(ctx, "key") },
		"Stat":    func(ctx context.Context) error { _, err := s.Stat(ctx, "key"); return err },
		"Cleanup": s.Cleanup,
	} {
		if err := call(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s after Close says %v, want that it is closed", name, err)
		}
	}
	if after := directoriesOf(t, s); !slices.Equal(after, before) {
		t.Errorf("there is %q, and was %q", after, before)
	}
}
