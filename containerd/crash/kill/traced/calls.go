//go:build linux && amd64

package traced

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Call is a system call on a file of the scenario.
type Call struct {
	Kind string // what it is called, of opening also what for
	Path string // the file, from the scenario's directory on; of a rename both
	N    int    // the how many-th call of this kind it is, from 1
}

func (c Call) String() string { return c.Kind + " " + strconv.Itoa(c.N) + " of " + c.Path }

// operand says which arguments of a call name a file: a path, one that begins at a
// directory's descriptor, or a descriptor.
type operand struct{ dir, path, fd int }

func at(dir, path int) operand { return operand{dir, path, -1} }
func path(path int) operand    { return operand{-1, path, -1} }
func fd(fd int) operand        { return operand{-1, -1, fd} }

type shape struct {
	name  string
	files []operand
}

// shapes are the calls that can concern a file.
var shapes = map[uint64]shape{
	unix.SYS_READ:            {"read", []operand{fd(0)}},
	unix.SYS_PREAD64:         {"pread64", []operand{fd(0)}},
	unix.SYS_READV:           {"readv", []operand{fd(0)}},
	unix.SYS_PREADV:          {"preadv", []operand{fd(0)}},
	unix.SYS_WRITE:           {"write", []operand{fd(0)}},
	unix.SYS_PWRITE64:        {"pwrite64", []operand{fd(0)}},
	unix.SYS_WRITEV:          {"writev", []operand{fd(0)}},
	unix.SYS_PWRITEV:         {"pwritev", []operand{fd(0)}},
	unix.SYS_OPENAT:          {"openat", []operand{at(0, 1)}},
	unix.SYS_OPEN:            {"open", []operand{path(0)}},
	unix.SYS_CLOSE:           {"close", []operand{fd(0)}},
	unix.SYS_STAT:            {"stat", []operand{path(0)}},
	unix.SYS_LSTAT:           {"lstat", []operand{path(0)}},
	unix.SYS_FSTAT:           {"fstat", []operand{fd(0)}},
	unix.SYS_NEWFSTATAT:      {"newfstatat", []operand{at(0, 1)}},
	unix.SYS_STATX:           {"statx", []operand{at(0, 1)}},
	unix.SYS_FSTATFS:         {"fstatfs", []operand{fd(0)}},
	unix.SYS_LSEEK:           {"lseek", []operand{fd(0)}},
	unix.SYS_GETDENTS64:      {"getdents64", []operand{fd(0)}},
	unix.SYS_READLINKAT:      {"readlinkat", []operand{at(0, 1)}},
	unix.SYS_READLINK:        {"readlink", []operand{path(0)}},
	unix.SYS_FACCESSAT:       {"faccessat", []operand{at(0, 1)}},
	unix.SYS_FACCESSAT2:      {"faccessat2", []operand{at(0, 1)}},
	unix.SYS_MKDIR:           {"mkdir", []operand{path(0)}},
	unix.SYS_MKDIRAT:         {"mkdirat", []operand{at(0, 1)}},
	unix.SYS_UNLINK:          {"unlink", []operand{path(0)}},
	unix.SYS_UNLINKAT:        {"unlinkat", []operand{at(0, 1)}},
	unix.SYS_RMDIR:           {"rmdir", []operand{path(0)}},
	unix.SYS_RENAME:          {"rename", []operand{path(0), path(1)}},
	unix.SYS_RENAMEAT:        {"renameat", []operand{at(0, 1), at(2, 3)}},
	unix.SYS_RENAMEAT2:       {"renameat2", []operand{at(0, 1), at(2, 3)}},
	unix.SYS_LINK:            {"link", []operand{path(0), path(1)}},
	unix.SYS_LINKAT:          {"linkat", []operand{at(0, 1), at(2, 3)}},
	unix.SYS_SYMLINK:         {"symlink", []operand{path(1)}},
	unix.SYS_SYMLINKAT:       {"symlinkat", []operand{at(1, 2)}},
	unix.SYS_FSYNC:           {"fsync", []operand{fd(0)}},
	unix.SYS_FDATASYNC:       {"fdatasync", []operand{fd(0)}},
	unix.SYS_SYNCFS:          {"syncfs", []operand{fd(0)}},
	unix.SYS_SYNC_FILE_RANGE: {"sync_file_range", []operand{fd(0)}},
	unix.SYS_FLOCK:           {"flock", []operand{fd(0)}},
	unix.SYS_FCNTL:           {"fcntl", []operand{fd(0)}},
	unix.SYS_TRUNCATE:        {"truncate", []operand{path(0)}},
	unix.SYS_FTRUNCATE:       {"ftruncate", []operand{fd(0)}},
	unix.SYS_FALLOCATE:       {"fallocate", []operand{fd(0)}},
	unix.SYS_FCHMOD:          {"fchmod", []operand{fd(0)}},
	unix.SYS_FCHMODAT:        {"fchmodat", []operand{at(0, 1)}},
	unix.SYS_UTIMENSAT:       {"utimensat", []operand{at(0, 1)}},
	unix.SYS_COPY_FILE_RANGE: {"copy_file_range", []operand{fd(0), fd(2)}},
}

// kind tells what a call is called, and, of one that opens a file, what for.
func (s shape) kind(args [6]uint64) string {
	if s.name != "openat" {
		return s.name
	}
	switch flags := args[2]; {
	case flags&unix.O_PATH != 0:
		return "openat to enter"
	case flags&unix.O_CREAT != 0:
		return "openat to create"
	case flags&unix.O_ACCMODE != unix.O_RDONLY:
		return "openat to write"
	}
	return "openat to read"
}

// file returns the path of the file that a call of thread tid is about.
func (o operand) file(tid int, args [6]uint64) string {
	if o.fd >= 0 {
		return descriptor(tid, args[o.fd])
	}
	name := readString(tid, uintptr(args[o.path]))
	if o.dir < 0 || filepath.IsAbs(name) || int32(args[o.dir]) == unix.AT_FDCWD {
		return name
	}
	return filepath.Join(descriptor(tid, args[o.dir]), name)
}

// descriptor returns the path behind a file descriptor, "" where there is none.
func descriptor(tid int, fd uint64) string {
	path, err := os.Readlink("/proc/" + strconv.Itoa(tid) + "/fd/" + strconv.Itoa(int(int32(fd))))
	if err != nil {
		return ""
	}
	return path
}

// readString reads a string out of a thread's memory, page by page as the next one need not
// be there.
func readString(tid int, at uintptr) string {
	var s []byte
	for page := uintptr(os.Getpagesize()); at != 0 && len(s) < unix.PathMax; {
		buf := make([]byte, page-at%page)
		n, err := unix.ProcessVMReadv(tid,
			[]unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}, []unix.RemoteIovec{{Base: at, Len: len(buf)}}, 0)
		if err != nil {
			break
		}
		if end := bytes.IndexByte(buf[:n], 0); end >= 0 {
			return string(append(s, buf[:end]...))
		}
		s, at = append(s, buf[:n]...), at+uintptr(n)
	}
	return string(s)
}

// observed returns the call that a thread is about to make, if it is on a file in dir, or
// the one file outside that the store reads.
func observed(tid int, nr uint64, args [6]uint64, dir string) (Call, bool) {
	shape, ok := shapes[nr]
	if !ok {
		return Call{}, false
	}
	var inside bool
	var names []string
	for _, o := range shape.files {
		name := o.file(tid, args)
		short, ok := strings.CutPrefix(name, dir+"/")
		inside = inside || ok || name == dir || name == "/proc/meminfo"
		names = append(names, short)
	}
	return Call{Kind: shape.kind(args), Path: strings.Join(names, " and ")}, inside
}
