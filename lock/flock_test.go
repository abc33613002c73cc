package lock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/gofrs/flock"
)

// The file that was opened is replaced before the lock is granted.
func TestReplacedBetweenOpenAndGrant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	replace := []func() error{
		func() error { return os.Rename(path, path+".old") },
		func() error { return os.Mkdir(path, 0o700) },
	}
	tests := map[string]struct {
		steps int
		want  error
	}{
		"replaced": {2, nil},
		"removed":  {1, fs.ErrNotExist},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			os.RemoveAll(path + ".old")
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			attempts := 0
			held, err := try(path, func(f *flock.Flock) (bool, error) {
				ok, err := f.TryLock()
				if attempts++; attempts == 1 {
					for _, step := range replace[:test.steps] {
						err = errors.Join(err, step())
					}
				}
				return ok, err
			})
			if !errors.Is(err, test.want) {
				t.Fatalf("got error %v, want %v", err, test.want)
			}
			if old, err := try(path+".old", (*flock.Flock).TryLock); old == nil || err != nil {
				t.Errorf("the file that was replaced is still locked: %v", err)
			}
			if test.want != nil {
				return
			}
			if other, err := try(path, (*flock.Flock).TryLock); other != nil || err != nil {
				t.Errorf("the new file is not locked: %v", err)
			}
			if err := unlock(held); err != nil {
				t.Error(err)
			}
		})
	}
}
