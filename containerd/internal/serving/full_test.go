//go:build linux

package serving

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A full disk is dropped from what a close says only where nothing else is wrong.
func TestWithoutFull(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "journal", Err: unix.ENOSPC}
	quota := fmt.Errorf("close: %w", &os.LinkError{Op: "rename", Old: "a", New: "b", Err: unix.EDQUOT})
	broken := &os.PathError{Op: "sync", Path: "journal", Err: unix.EIO}
	for _, err := range []error{nil, full, quota, errors.Join(full, nil, quota), fmt.Errorf("close: %w", errors.Join(errors.Join(full), quota))} {
		if got := WithoutFull(err); got != nil {
			t.Errorf("%v is more than a full disk", got)
		}
	}
	for _, err := range []error{broken, errors.Join(full, broken), errors.Join(broken, full), fmt.Errorf("close: %w", errors.Join(full, errors.Join(quota, broken))), errors.New("other")} {
		if got := WithoutFull(err); got != err {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}
