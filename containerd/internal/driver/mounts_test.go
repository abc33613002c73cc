//go:build linux

package driver

import (
	"fmt"
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

// Files that vanish while the content is measured and synced fail no call.
func TestUsageAndCommitWhileFilesVanish(t *testing.T) {
	s, _ := openFake(t, Config{})
	for round := range 10 {
		key := fmt.Sprint("key ", round)
		upper := filepath.Join(prepare(t, s, key, ""), "fs")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				dir := fmt.Sprintf("%s/%d", upper, i%10)
				if os.MkdirAll(dir, 0o700) == nil {
					_ = os.WriteFile(dir+"/file", nil, 0o600) // the directory may be gone
				}
				_ = os.RemoveAll(fmt.Sprintf("%s/%d", upper, (i+5)%10)) // the next round makes it anew
			}
		}()
		for range 50 {
			if _, err := s.Usage(t.Context(), key); err != nil {
				t.Errorf("Usage: %v", err)
			}
		}
		if err := s.Commit(t.Context(), fmt.Sprint("layer ", round), key); err != nil {
			t.Errorf("Commit: %v", err)
		}
		close(stop)
		<-stopped
	}
}

// Content with names that are nested deeper than a path can say is measured, synced and deleted.
func TestDeepContent(t *testing.T) {
	s, _ := openFake(t, Config{})
	dir := prepare(t, s, "key", "")
	at, err := unix.Open(filepath.Join(dir, "fs"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range 60 {
		name := strings.Repeat("n", 200)
		must(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
	usage, err := s.Usage(t.Context(), "key")
	must(t, err)
	if usage.Inodes != 61 {
		t.Errorf("%d inodes are counted, want 61", usage.Inodes)
	}
	must(t, s.Commit(t.Context(), "layer", "key"))
	must(t, s.Remove(t.Context(), "layer"))
	checkNothingLeft(t, s)
}
