package fsck

import (
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// A journal that the disk can't read is damage, and any other error of reading it is none: the look fails.
func TestUnreadable(t *testing.T) {
	l := &Look{store: store{dir: "/store"}}
	for _, test := range []struct {
		path   string
		err    error
		damage bool
	}{
		{"/store/journal", syscall.EIO, true},
		{"/store/journal", syscall.EACCES, true},
		{"/store/journal", syscall.EMFILE, false},
		{"/store/journal", syscall.ENOMEM, false},
		{"/store/snapshots", syscall.EIO, false},
	} {
		err := fmt.Errorf("so: %w", &fs.PathError{Op: "read", Path: test.path, Err: test.err})
		damage := l.unreadable(err)
		if (damage != nil) != test.damage || damage != nil && damage.Path != test.path {
			t.Errorf("%v: %v", err, damage)
		}
	}
}
