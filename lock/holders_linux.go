package lock

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holders looks the file that path names up in /proc/locks.
func holders(path string) []Holder {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	var found []Holder
	for _, pid := range lockedBy(locks, uint64(stat.Dev), stat.Ino) {
		found = append(found, holder(pid))
	}
	return found
}

// holder describes a process. One that has ended has no command any more.
func holder(pid int) Holder {
	proc := "/proc/" + strconv.Itoa(pid)
	command, _ := os.ReadFile(proc + "/comm")
	stat, _ := os.ReadFile(proc + "/stat") // PID (COMMAND) STATE …, and the command may have any characters
	_, state, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return Holder{PID: pid, Command: strings.TrimSuffix(string(command), "\n"), Stopped: len(state) > 0 && (state[0] == 'T' || state[0] == 't')}
}

// lockedBy returns the processes that hold an flock on an inode, each once, in the
// order of the list.
//
// btrfs and overlayfs report one device number for a file in stat and another in
// /proc/locks. Such numbers are anonymous: their major number is 0. Where no lock
// of an anonymous device fits, the inode alone decides.
func lockedBy(locks []byte, dev, inode uint64) []int {
	var exact, alike []int
	for line := range bytes.Lines(locks) {
		l, ok := parseFlock(line)
		if !ok || l.inode != inode {
			continue
		}
		if l.major == unix.Major(dev) && l.minor == unix.Minor(dev) {
			exact = addOnce(exact, l.pid)
		} else if l.major == 0 {
			alike = addOnce(alike, l.pid)
		}
	}
	if len(exact) > 0 || unix.Major(dev) != 0 {
		return exact
	}
	return alike
}

func addOnce(pids []int, pid int) []int {
	if slices.Contains(pids, pid) {
		return pids
	}
	return append(pids, pid)
}

// flockLine is one lock that is held, as /proc/locks lists it.
type flockLine struct {
	pid          int
	major, minor uint32
	inode        uint64
}

// parseFlock reads a line such as
//
//	7: FLOCK  ADVISORY  WRITE 4242 fe:00:398607 0 EOF
//
// It reports whether the line is one of an flock that is held. The line of a waiter has
// an arrow behind its number; the process of an open file description lock is -1, and
// that of another PID namespace is 0.
func parseFlock(line []byte) (l flockLine, ok bool) {
	fields := strings.Fields(string(line))
	if len(fields) != 8 || fields[1] != "FLOCK" {
		return l, false
	}
	pid, err := strconv.ParseInt(fields[4], 10, 32)
	if err != nil || pid <= 0 {
		return l, false
	}
	file := strings.Split(fields[5], ":")
	if len(file) != 3 {
		return l, false
	}
	major, err1 := strconv.ParseUint(file[0], 16, 32)
	minor, err2 := strconv.ParseUint(file[1], 16, 32)
	inode, err3 := strconv.ParseUint(file[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return l, false
	}
	return flockLine{int(pid), uint32(major), uint32(minor), inode}, true
}
