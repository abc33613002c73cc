package main

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
)

// What was denied is explained to the user that it was denied to: no user is told to become itself.
func TestDenied(t *testing.T) {
	dir := t.TempDir()
	owner := os.Geteuid()
	t.Cleanup(func() { euid = os.Geteuid })
	at := func(err error) error { return &fs.PathError{Op: "open", Path: dir + "/journal", Err: err} }
	for _, test := range []struct {
		user      int
		chown     int
		err       error
		dir, want string
	}{
		{1000, 1000, at(syscall.EACCES), dir, "chmod -R u+rwX " + dir},
		{1000, 1000, at(syscall.EPERM), dir, "lsattr -d " + dir + "/journal"},
		{1000, 0, at(syscall.EACCES), dir, "run it as user 0, which"},
		{1000, 0, at(syscall.EPERM), dir, "run it as user 0, which"},
		{0, 1000, at(syscall.EACCES), dir, "root is denied it"},
		{0, 1000, at(syscall.EPERM), dir, "lsattr -d " + dir + "/journal"},
		{1000, 0, syscall.EACCES, dir + "/gone", "the user that the store belongs to"},
		{0, 0, fmt.Errorf("%w; it is immutable: chattr -i -a %s", at(syscall.EPERM), dir), dir, "chattr -i -a " + dir},
	} {
		if test.chown != owner {
			if err := os.Chown(dir, test.chown, -1); err != nil {
				continue // only root can
			}
			owner = test.chown
		}
		euid = func() int { return test.user }
		got := explain(test.err, test.dir).Error()
		if !strings.Contains(got, test.want) || test.user == 0 && strings.Contains(got, "as root") {
			t.Errorf("user %d, store of %d, %v: %q, want %q", test.user, test.chown, test.err, got, test.want)
		}
	}
}
