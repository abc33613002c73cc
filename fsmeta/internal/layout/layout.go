// Package layout tells whether a directory is a store, makes one, and keeps the lock that
// says which programs have it open: all by the file layout.
package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/disk"
	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/lock"
)

// most is how long the file may be, in bytes.
const most = 64 << 10

// Read looks what dir holds. It returns nil for a store of a version that is known here. Else the
// error is one of these, or of the filesystem:
//
//   - *fault.Damaged of the file layout, and of nothing else: the file is missing, or something else
//     is in its place, and the rest of a store is there.
//   - ErrNotStore and fs.ErrNotExist: there is no layout file, and no more of a store than an
//     unfinished Make leaves. Make may make one, unless there are other files. It is an
//     ErrUnfinished, too, where Make had come as far as the journal.
//   - ErrNotStore alone: dir is a file, a store of another version, or something else.
func Read(dir string) error {
	_, err := read(dir)
	return err
}

// read is Read. Where there is no layout it also returns what else is in dir.
func read(dir string) (remains, error) {
	path := filepath.Join(dir, format.LayoutFile)
	data, err := readFile(dir)
	version, ours := format.ParseLayout(data)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return remains{}, fmt.Errorf("%w: not a directory: %w", fault.ErrNotStore, err)
	case err == nil && ours:
		return remains{}, checkVersion(path, version)
	case err != nil && !missing && !errors.Is(err, disk.ErrLarger) && !irregular(path):
		return remains{}, err
	}
	r, lerr := look(dir)
	switch {
	case lerr != nil:
		return r, lerr
	case missing && r.store(missing):
		// Another process may have made the store, and used it, between the two looks.
		if _, err := readFile(dir); !errors.Is(err, fs.ErrNotExist) {
			return read(dir)
		}
		return r, damaged(path, "the file is missing")
	case missing && r.journal:
		return r, fmt.Errorf("%w: there is no layout file: %w; %w, which the next program that may make a store finishes, or a repair", fault.ErrNotStore, err, ErrUnfinished)
	case missing:
		return r, fmt.Errorf("%w: there is no layout file: %w", fault.ErrNotStore, err)
	case r.store(missing):
		return r, damaged(path, "it is not what a store has there")
	}
	return r, fmt.Errorf("%w: %s is not what a store has there, and no more of one is beside it: choose an empty directory", fault.ErrNotStore, path)
}

// ErrUnfinished says of a directory without layout that it has what Make leaves just before that.
var ErrUnfinished = errors.New("the store is just being made, or its maker was killed")

func damaged(path, problem string) error {
	return &fault.Damaged{Path: path, Err: errors.New(problem + "; the rest of the store is there: stop what uses the store and run a repair")}
}

func checkVersion(path string, version int) error {
	switch version {
	case format.Version:
		return nil
	case 1:
		return fault.OtherVersion("%s says version 1 of the format, a preview that no release has written, and this program knows version %d: make a new store elsewhere", path, format.Version)
	}
	return fault.OtherVersion("%s says version %d of the format, and this program knows version %d: use the program that wrote it, or a newer one", path, version, format.Version)
}

// irregular reports whether path is there, and no regular file.
func irregular(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && !info.Mode().IsRegular()
}

func readFile(dir string) ([]byte, error) {
	d, err := disk.OpenDir(dir, true)
	if err != nil {
		return nil, err
	}
	data, err := d.ReadFile(format.LayoutFile, most)
	return data, errors.Join(err, d.Close())
}

// A Lock is the lock on the file layout of one open store.
type Lock struct {
	// Patience is how long Share waits for a program that has the lock alone: one that closes the
	// store has it for an instant, a repair for as long as it runs. NewLock sets ten seconds.
	Patience time.Duration

	lock   *lock.Lock
	unlock func() error // gives the shared lock back, nil where it is not held
	path   string
}

// NewLock returns the lock of the store in dir. It takes nothing.
func NewLock(dir string) *Lock {
	path := filepath.Join(dir, format.LayoutFile)
	return &Lock{Patience: 10 * time.Second, lock: lock.New(path), path: path}
}

// Share takes the lock that every open store holds shared. It waits for as long as Patience
// for a program that has it alone; then the error is an ErrInUse.
func (l *Lock) Share() error {
	for deadline := time.Now().Add(l.Patience); ; time.Sleep(50 * time.Microsecond) {
		unlock, ok, err := l.lock.TryRLock()
		if err != nil {
			return err
		}
		if ok {
			l.unlock = unlock
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: another program has had %s locked for %v, such as a repair; fuser -v %s shows it", fault.ErrInUse, l.path, l.Patience, l.path)
		}
	}
}

// Release gives the lock back, if it is held.
func (l *Lock) Release() error {
	if l.unlock == nil {
		return nil
	}
	unlock := l.unlock
	l.unlock = nil
	return unlock()
}

// Last gives the lock back, and reports whether no other program has the store open.
func (l *Lock) Last() (bool, error) {
	if err := l.Release(); err != nil {
		return false, err
	}
	unlock, alone, err := l.lock.TryLock()
	if err != nil || !alone {
		return false, err
	}
	return true, unlock()
}

// InUse is the ErrInUse of a lock that others hold: it names those that can be told.
func InUse(l *lock.Lock, path string) error {
	var all []string
	for _, h := range l.Holders() {
		all = append(all, h.String())
	}
	which := "which can't be told from here"
	if len(all) > 0 {
		which = strings.Join(all, "; ")
	}
	return fmt.Errorf("%w: stop what has it open: %s (fuser -v %s shows more)", fault.ErrInUse, which, path)
}

// Take takes the lock alone, until Release. It is an ErrInUse where another program has the
// store open.
func (l *Lock) Take() error {
	unlock, alone, err := l.lock.TryLock()
	if err == nil && !alone {
		err = InUse(l.lock, l.path)
	}
	if err == nil {
		l.unlock = unlock
	}
	return err
}
