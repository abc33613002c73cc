package atomic

import (
	"errors"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
)

// WriteFile makes data the whole content of path, with mode 0600. What was at
// path is replaced, a symlink itself and not what it points to; a directory is
// not replaced, but an error. The file is written in tempDir, which must be on
// the same filesystem as path, as a dot, the name and a number.
//
// WriteFile is atomic: at any time, and after a crash, path is what it was or
// has all of data. It is durable once [SyncDir] of its directory has returned
// nil. A crash may leave the file in tempDir, where nothing else refers to it.
//
// An error, an *os.PathError or *os.LinkError, leaves path as it was and
// nothing in tempDir, unless that can't be removed either, in which case the
// error joins both, or [Create] failed to set the mode. WriteFile may be called
// again, as it begins with a new file.
func WriteFile(path, tempDir string, data []byte) error {
	f, err := Create(path, tempDir)
	if err != nil {
		return err
	}
	// The error of Write is that of Replace, too.
	_, _ = f.Write(data)
	if err := f.Replace(); err != nil {
		if discard := f.Discard(); discard != nil {
			return errors.Join(err, discard)
		}
		return err
	}
	return nil
}

// File is a whole file that is written in a temporary directory, and at path
// only when Replace returns. Until then a crash leaves path as it was, and
// perhaps the temporary file. It is not for use by several goroutines at once.
//
// The first error of Write, WriteAt, Sync or Replace is returned by all calls
// of these from then on, so that a file is never published with a part missing,
// or with one that could not be synced. Discard it and begin anew.
type File struct {
	pending *renameio.PendingFile
	path    string
	err     error // the first one, or fs.ErrClosed after Replace and Discard
}

// Create begins a file that is to replace path, as [WriteFile] does. It is
// empty, of mode 0600, in tempDir. Call Discard when done, whether or not
// Replace was called.
//
// A crash leaves path as it was, and perhaps the empty file; so does an error,
// an *os.PathError, with nothing left in tempDir, unless the file was created
// and its mode could not be set, as on a filesystem without modes. Create may
// be called again. An empty tempDir is an [fs.ErrInvalid].
func Create(path, tempDir string) (*File, error) {
	if tempDir == "" {
		// renameio would look for a directory of its own choice.
		return nil, &os.PathError{Op: "create", Path: path, Err: fs.ErrInvalid}
	}
	pending, err := renameio.NewPendingFile(path,
		renameio.WithTempDir(tempDir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return nil, err
	}
	return &File{pending: pending, path: path}, nil
}

// Write appends to the pending file; see [os.File.Write]. A crash leaves path
// as it was; so does an error, after which only Discard is of use.
func (f *File) Write(data []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.pending.Write(data)
	f.err = err
	return n, err
}

// WriteAt writes to the pending file at offset; see [os.File.WriteAt]. A crash
// leaves path as it was; so does an error, after which only Discard is of use.
func (f *File) WriteAt(data []byte, offset int64) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.pending.WriteAt(data, offset)
	f.err = err
	return n, err
}

// Chown gives the pending file, and so what will be at path, to another user; -1 leaves a
// number as it is. A crash leaves path as it was; so does an error, an *os.PathError, and the
// pending file has the owner that it had. Chown may be called again.
func (f *File) Chown(uid, gid int) error {
	if f.err != nil {
		return f.err
	}
	return f.pending.Chown(uid, gid)
}

// Sync makes what was written so far durable, in the pending file, as [SyncData] does;
// [File.Replace] syncs it itself. A crash leaves path as it was; so does an error, after
// which only Discard is of use.
func (f *File) Sync() error {
	if f.err == nil {
		f.err = SyncData(f.pending.File)
	}
	return f.err
}

// Replace syncs and closes the pending file and renames it to path. It is
// atomic: at any time, and after a crash, path is what it was or all that was
// written. It is durable once [SyncDir] of its directory has returned nil.
//
// An error leaves path as it was, and the pending file until Discard. Calling
// Replace again returns the same error.
func (f *File) Replace() error {
	if f.err != nil {
		return f.err
	}
	// In this order, since a rename may reach the disk before the content.
	f.err = f.pending.CloseAtomicallyReplace()
	if f.err != nil {
		return f.err
	}
	f.err = &os.PathError{Op: "replace", Path: f.path, Err: fs.ErrClosed}
	return nil
}

// Discard closes and removes the pending file; after Replace has returned nil,
// or Discard has, or where f is nil, it does nothing. A crash may leave the pending
// file. Path is never touched.
//
// An error leaves the pending file, and Discard may be called again.
func (f *File) Discard() error {
	if f == nil {
		return nil
	}
	err := f.pending.Cleanup()
	// Gone already, or closed already by a Discard that could not remove it.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	if f.err == nil {
		f.err = &os.PathError{Op: "replace", Path: f.path, Err: fs.ErrClosed}
	}
	return err
}

// Name returns where the file is until Replace.
func (f *File) Name() string { return f.pending.Name() }

// Symlink makes path a symlink to target, which need not exist. What was at
// path is replaced, even a file; a directory is not, but an error.
//
// Symlink is atomic: at any time, and after a crash, path is what it was or the
// new symlink. It is durable once [SyncDir] of its directory has returned nil.
// If there was something at path, a crash may leave a directory beside it,
// named as a dot, the name and a number, that holds a symlink at most.
//
// An error, an *os.PathError or *os.LinkError, leaves path as it was, unless
// all that failed is to remove that directory. Symlink may be called again.
func Symlink(target, path string) error {
	return renameio.Symlink(target, path)
}
