//go:build linux

package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What is mounted below a snapshot, from the same filesystem too, survives its removal, and is not
// counted; the log says once where it is. When it is unmounted, the rest of the snapshot is deleted.
func TestMountBelowASnapshot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
	for name, async := range map[string]bool{"async": true, "atOnce": false} {
		t.Run(name, func(t *testing.T) {
			s, _ := openFake(t, Config{AsyncRemove: async})
			outside := t.TempDir()
			must(t, os.WriteFile(filepath.Join(outside, "file"), make([]byte, 1<<20), 0o600))
			dir := prepare(t, s, "key", "")
			before, err := s.Usage(t.Context(), "key")
			must(t, err)
			mounted := filepath.Join(dir, "fs", "mounted")
			must(t, os.Mkdir(mounted, 0o700))
			must(t, unix.Mount(outside, mounted, "", unix.MS_BIND, ""))
			at := strings.Replace(mounted, dir, s.dir(removedPrefix+filepath.Base(dir)+partSuffix), 1)
			t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) }) // the test does it, unless it has failed

			usage, err := s.Usage(t.Context(), "key")
			must(t, err)
			if usage != before {
				t.Errorf("the usage is %+v with the mount, %+v without", usage, before)
			}
			must(t, s.Commit(t.Context(), "layer", "key"))
			ctx, caught := withLog(t.Context())
			must(t, s.Remove(ctx, "layer"))
			for range 2 {
				must(t, s.Cleanup(ctx))
			}
			if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
				t.Errorf("what is mounted was emptied: %v", err)
			}
			if n := strings.Count(caught.String(), at); n != 1 {
				t.Errorf("the log names %s %d times:\n%s", at, n, caught)
			}
			if state := s.State(); state.Orphaned != 1 {
				t.Errorf("the state is %+v, want one directory that can't be deleted", state)
			}
			must(t, unix.Unmount(at, unix.MNT_DETACH))
			must(t, s.Cleanup(ctx))
			checkNothingLeft(t, s)
		})
	}
}
