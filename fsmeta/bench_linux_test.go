package fsmeta_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkSystem measures the bare system calls that a durable create can't do
// without: a directory with a file and a symlink, a line in the journal that is
// synced, and the rename.
func BenchmarkSystem(b *testing.B) {
	metadata, line := bytes.Repeat([]byte("x"), 500), bytes.Repeat([]byte("x"), 600)
	mkdir := func(dir string, i int) string {
		path := filepath.Join(dir, fmt.Sprint(i))
		check(b, unix.Mkdir(path, 0o700))
		return path
	}
	write := func(path string) {
		fd := must(unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600))
		must(unix.Write(fd, metadata))
		check(b, unix.Close(fd))
	}
	symlink := func(dir string) { check(b, unix.Symlink("../parent", filepath.Join(dir, "parent"))) }
	for _, bm := range []struct {
		name string
		do   func(dir string, journal, i int)
	}{
		{"Mkdir", func(dir string, _, i int) { mkdir(dir, i) }},
		{"Write500", func(dir string, _, i int) { write(filepath.Join(dir, fmt.Sprint(i))) }},
		{"Symlink", func(dir string, _, i int) {
			check(b, unix.Symlink("../parent", filepath.Join(dir, fmt.Sprint(i))))
		}},
		{"Rename", func(dir string, _, i int) {
			check(b, unix.Rename(filepath.Join(dir, fmt.Sprint(i)), filepath.Join(dir, fmt.Sprint(i+1))))
		}},
		{"Pwrite", func(_ string, journal, i int) { pwrite(journal, line, i) }},
		{"PwriteFdatasync", func(_ string, journal, i int) {
			pwrite(journal, line, i)
			check(b, unix.Fdatasync(journal))
		}},
		{"All", func(dir string, journal, i int) {
			staged := mkdir(dir, i)
			write(filepath.Join(staged, "metadata.json"))
			symlink(staged)
			pwrite(journal, line, i)
			check(b, unix.Fdatasync(journal))
			check(b, unix.Rename(staged, staged+".renamed"))
		}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			dir := benchDir(b)
			journal := filledAhead(b, filepath.Join(dir, "journal"))
			if bm.name == "Rename" {
				mkdir(dir, 0)
			}
			for i := 0; b.Loop(); i++ {
				bm.do(dir, journal, i)
			}
		})
	}
}

const filled = 1 << 20 // bytes of a journal that is filled ahead

// filledAhead makes a file of NUL bytes that is synced, and returns its descriptor.
func filledAhead(b *testing.B, path string) int {
	b.Helper()
	check(b, os.WriteFile(path, make([]byte, filled), 0o600))
	fd := must(unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0))
	b.Cleanup(func() { unix.Close(fd) })
	check(b, unix.Fsync(fd))
	return fd
}

// pwrite writes the i-th line, from the start again where the file ends.
func pwrite(fd int, line []byte, i int) {
	must(unix.Pwrite(fd, line, int64(i%(filled/len(line))*len(line))))
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
