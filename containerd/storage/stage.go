package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/atomic"
	"github.com/fsmeta/fsmeta/lock"
)

// stage is a hidden directory beside a path, in which what is to be there is built. One
// process at a time has it: it holds the flock on the directory. A process that is killed leaves
// the directory with what is in it, and the next one that enters finds out how far it got.
type stage struct {
	dir    string
	unlock func() error
}

// The kinds of work. Each has a stage of its own: what one leaves is not for the others to remove.
const (
	importWork = "import"
	exportWork = "export"
	backWork   = "goback"
)

// stageOf returns where what is to be at path is staged by work of some kind.
func stageOf(path, work string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+work)
}

// resolve returns the path with its symlinks followed, also where nothing is at the end: what is there is what
// is put in place, and not a symlink to it.
func resolve(path string) (string, error) {
	for range 40 { // as Linux does
		real, err := filepath.EvalSymlinks(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return real, err
		}
		to, err := os.Readlink(path)
		if err != nil { // it is none
			dir, err := filepath.EvalSymlinks(filepath.Dir(path))
			return filepath.Join(dir, filepath.Base(path)), err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
}

// isDirectory reports whether a directory is at path, and not a symlink to one.
func isDirectory(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// enterStage makes a stage's directory, where it is missing, and waits for its lock. It belongs to the
// owner of what is at path, as far as there is any, so that a driver which is not root can finish what root has begun.
// A crash leaves the directory; so does an error, perhaps.
func enterStage(ctx context.Context, dir, path string) (*stage, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
			return nil, fmt.Errorf("%s is no directory, but %v: move it away: %w", dir, info.Mode().Type(), fs.ErrExist)
		}
		unlock, err := lock.New(dir).Lock(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the process that had it is done, and has removed it
		}
		if err != nil {
			return nil, err
		}
		err = handOver(dir, path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, unlock())
		}
		return &stage{dir, unlock}, nil
	}
}

// path is that of an entry.
func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

// written is where it stands what is in a bbolt file that is to be exchanged, by its checksum: one that comes back, or is
// left after a kill, may have been used by a driver meanwhile.
func (s *stage) written() string { return s.path("written") }

// remember writes what is in a file, for changed, durably. A crash or an error leaves a part of that, without the
// newline at its end.
func (s *stage) remember(file string) error {
	sum, err := checksum(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.written(), sum, 0o600); err != nil {
		return err
	}
	if err := handOver(s.written(), s.dir); err != nil {
		return err
	}
	return atomic.SyncFile(s.written())
}

// seal makes a file ready for its place. Until it is unlocked, when all is durable, no driver that finds it there can
// commit to it. For one that comes after a kill, which unlocks it, too, see clearFile.
func (s *stage) seal(file string) (unlock func() error, err error) {
	db, err := openBolt(file)
	if err != nil {
		return nil, err
	}
	if err := s.remember(file); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db.Close, nil
}

// clearFile removes a file that a killed process has left, but not one that was in its place and that a driver has used
// there: then the error says what to do. A crash leaves a part of it.
func (s *stage) clearFile(file, advice string) error {
	there, err := exists(file)
	used := false
	if err == nil && there {
		used, err = s.changed(file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // then it was not in its place
		return err
	}
	if used {
		return fmt.Errorf("the file %s was made from the store, and a driver has used it since: %s: %w", file, advice, errdefs.ErrFailedPrecondition)
	}
	return s.dropFile(file)
}

// dropFile removes a file, and its checksum last: without that it counts as one that no driver has used. A crash leaves
// some of it.
func (s *stage) dropFile(file string) error {
	return errors.Join(removeFile(file), removeFile(s.written()))
}

// changed reports whether a file has another content than the one that was remembered. Where that was not done to
// its end, there was no exchange after it.
func (s *stage) changed(file string) (bool, error) {
	want, err := os.ReadFile(s.written())
	if err != nil || !bytes.HasSuffix(want, []byte("\n")) {
		return false, err
	}
	sum, err := checksum(file)
	return err == nil && !bytes.Equal(sum, want), err
}

// checksum returns that of a file, as a line.
func checksum(file string) (sum []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%x\n", h.Sum(nil)), nil
}

// leave removes the stage's directory, unless something is in it, and gives the lock back. A
// crash leaves the directory, which the next process removes.
func (s *stage) leave() error {
	err := s.forget()
	if err == nil {
		err = os.Remove(s.dir)
	}
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		err = nil // the error of the work says why
	}
	return errors.Join(err, s.unlock(), atomic.SyncDir(filepath.Dir(s.dir)))
}

// forget removes the checksum, where what it is of is not in the stage any more. A crash leaves it or not.
func (s *stage) forget() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(s.written()) {
		return err
	}
	return removeFile(s.written())
}

// syncInterrupted makes durable what is at path, where a process may have been killed after it has put it
// there, and before it has synced that: else a power cut would take it away again, with all that was written to it since.
func syncInterrupted(path string) error {
	path, err := resolve(path)
	if err != nil {
		return err
	}
	for _, work := range []string{importWork, backWork} {
		stage := stageOf(path, work)
		info, err := os.Lstat(stage)
		if err == nil && info.IsDir() {
			err = syncDirs(filepath.Dir(path), stage)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the process that has removed it has synced
			return err
		}
	}
	return nil
}

// advised adds to an error of the filesystem what to do.
func advised(err error, path string) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: make room on the filesystem of %s, and do this again", err, path)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w: something is mounted at %s, which can't be renamed: unmount it, and do this where it comes from", err, path)
	}
	return err
}

// exists reports whether there is something at path, be it a symlink that leads nowhere.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// syncDirs makes the names in directories durable, in this order.
func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := atomic.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
