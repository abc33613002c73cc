package disk

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// readWays are the ways to read below an entry.
var readWays = []struct {
	name string
	set  func(t *testing.T)
}{
	{"openat2", func(t *testing.T) { setNoOpenat2(t, false) }},
	{"in steps", func(t *testing.T) { setNoOpenat2(t, true) }},
}

func setNoOpenat2(t *testing.T, no bool) {
	was := noOpenat2.Swap(no)
	t.Cleanup(func() { noOpenat2.Store(was) })
}

// A mount is not deleted through, not even one of the same filesystem.
func TestRemoveAllLeavesMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	outside := open(t, "f=1 d/ d/f=2")
	for name, mount := range map[string]func(path string) error{
		"bind":  func(path string) error { return unix.Mount(outside.Path, path, "", unix.MS_BIND, "") },
		"tmpfs": func(path string) error { return unix.Mount("tmpfs", path, "tmpfs", 0, "") },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, "d/ d/f=1 d/m/ d/e/ d/e/f=1 m/")
			for _, at := range []string{d.Path + "/m", d.Path + "/d/m"} {
				if err := mount(at); err != nil {
					t.Skipf("can't mount: %v", err)
				}
				t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
			}
			for _, name := range []string{"m", "d"} {
				if err := d.At().RemoveAll(name); !errors.Is(err, unix.EBUSY) {
					t.Errorf("%s: got %v", name, err)
				}
			}
			if names, err := os.ReadDir(d.Path + "/d"); err != nil || len(names) != 1 || names[0].Name() != "m" {
				t.Errorf("around the mount %v are left, %v", names, err)
			}
			if data, err := outside.ReadFile("d/f", 10); err != nil || string(data) != "2" {
				t.Errorf("behind the mount: %q, %v", data, err)
			}
		})
	}
}

// A device is not read.
func TestReadFileOfDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d := open(t, "d/")
	if err := unix.Mknod(d.Path+"/d/zero", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
		t.Skipf("can't make a device: %v", err)
	}
	if data, err := d.ReadFile("d/zero", 1<<20); err == nil {
		t.Errorf("got %d bytes", len(data))
	}
}

func BenchmarkReadFile(b *testing.B) {
	path := b.TempDir()
	if err := errors.Join(os.Mkdir(path+"/d", 0o700), os.WriteFile(path+"/d/f", make([]byte, 500), 0o600)); err != nil {
		b.Fatal(err)
	}
	d, err := OpenDir(path, false)
	if err != nil {
		b.Fatal(err)
	}
	for _, steps := range []bool{false, true} {
		name := "openat2"
		if steps {
			name = "steps"
		}
		b.Run(name, func(b *testing.B) {
			noOpenat2.Store(steps)
			defer noOpenat2.Store(false)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.ReadFile("d/f", 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("os.ReadFile", func(b *testing.B) {
		for b.Loop() {
			if _, err := os.ReadFile(path + "/d/f"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
