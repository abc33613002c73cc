package lock

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLockedBy(t *testing.T) {
	const locks = `1: FLOCK  ADVISORY  WRITE 100 fe:00:7 0 EOF
1: -> FLOCK  ADVISORY  WRITE 101 fe:00:7 0 EOF
2: FLOCK  ADVISORY  READ  102 fe:01:7 0 EOF
3: FLOCK  ADVISORY  READ  103 fe:01:7 0 EOF
4: FLOCK  ADVISORY  READ  103 fe:01:7 0 EOF
5: POSIX  ADVISORY  WRITE 104 fe:00:7 0 EOF
6: OFDLCK ADVISORY  WRITE -1 fe:00:7 0 EOF
7: FLOCK  ADVISORY  WRITE 105 00:1f:8 0 EOF
8: FLOCK  ADVISORY  WRITE 106 00:20:9 0 EOF
9: FLOCK  ADVISORY  WRITE 107 00:21:9 0 EOF
10: FLOCK  ADVISORY  WRITE 0 fe:00:7 0 EOF
`
	tests := []struct {
		major, minor uint32
		inode        uint64
		want         []int
	}{
		{0xfe, 0, 7, []int{100}},
		{0xfe, 1, 7, []int{102, 103}},
		{0xfe, 2, 7, nil},             // another device
		{0xfe, 0, 8, nil},             // another inode
		{0, 0x30, 8, []int{105}},      // btrfs: the inode decides
		{0, 0x21, 9, []int{107}},      // a device that fits excludes others
		{0, 0x30, 7, nil},             // only anonymous devices are alike
		{0xfe, 0x1f, 8, nil},          // a block device has one number
		{0x1fe, 0x100, 7, nil},        // numbers above 255
		{0xfe, 0, 1 << 40, nil},       // no such inode
		{0, 0x1f, 8, []int{105}},      // the device fits
		{0, 0x20, 9, []int{106}},      // likewise
		{0, 0x99, 9, []int{106, 107}}, // btrfs, two fit
	}
	for _, test := range tests {
		got := lockedBy([]byte(locks), unix.Mkdev(test.major, test.minor), test.inode)
		if !slices.Equal(got, test.want) {
			t.Errorf("%x:%x:%d: got %v, want %v", test.major, test.minor, test.inode, got, test.want)
		}
	}
}

// A line that is accepted says what was understood of it.
func FuzzParseFlock(f *testing.F) {
	f.Add("7: FLOCK  ADVISORY  WRITE 4242 fe:00:398607 0 EOF\n")
	f.Add("7: -> FLOCK  ADVISORY  WRITE 4242 fe:00:398607 0 EOF\n")
	f.Add("1: FLOCK ADVISORY READ -1 00:00:0 0 EOF")
	f.Add("1: FLOCK ADVISORY READ 99999999999 0:0:18446744073709551616 0 EOF")
	f.Fuzz(func(t *testing.T, line string) {
		l, ok := parseFlock([]byte(line))
		if !ok {
			if l != (flockLine{}) {
				t.Errorf("a refused line gave %+v", l)
			}
			return
		}
		if l.pid <= 0 {
			t.Errorf("process %d", l.pid)
		}
		again := fmt.Sprintf("1: FLOCK ADVISORY WRITE %d %x:%x:%d 0 EOF", l.pid, l.major, l.minor, l.inode)
		if l2, ok := parseFlock([]byte(again)); !ok || l2 != l {
			t.Errorf("%q gave %+v, and %q gave %+v", line, l, again, l2)
		}
		if strings.Contains(line, "->") && len(strings.Fields(line)) != 8 {
			t.Errorf("a waiter is a holder: %q", line)
		}
	})
}
