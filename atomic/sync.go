package atomic

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// SyncFile makes the file at path durable: its content and what is known of it,
// such as its size and mode, but not its name, which is up to [SyncDir]. The
// caller must be allowed to read the file. A symlink is not followed, but an
// error; so is what can't be synced, such as a pipe, which is not waited for.
//
// If the error is nil, a crash leaves the file as it was when SyncFile was
// called, or as changed since. After an error, an *os.PathError, a crash may
// leave any part of what was written since the last sync. Don't retry: the
// kernel may have dropped what it couldn't write, and then a second sync
// returns nil for it. Write the file anew. For the same reason nil vouches for
// nothing with a failure that was reported through another open file before.
func SyncFile(path string) error {
	return syncPath(path, unix.O_NOFOLLOW|unix.O_NONBLOCK)
}

// SyncDir makes the names in the directory at path durable: what was created,
// renamed and removed in it, but not the content of the files, nor the name of
// the directory itself, which is up to SyncDir of its parent.
//
// If the error is nil, a crash leaves the names as they were when SyncDir was
// called, or as changed since. After an error, an *os.PathError, a crash may
// leave each change since the last sync or not. It is no use to retry, unless
// the directory could not be opened, since a second sync may return nil for what
// was lost. Some filesystems can't sync directories; that is an error, too.
func SyncDir(path string) error {
	return syncPath(path, unix.O_DIRECTORY)
}

// SyncData makes what was written to f durable, with the size that is needed to
// read it back, but not its times or mode, where the system can make this
// difference; elsewhere it is f.Sync. Nor its name, which is up to [SyncDir].
//
// If the error is nil, a crash leaves all that was written to f before. After
// an error, an *os.PathError, a crash may leave any part of what was written
// since the last sync. Don't retry: the kernel may have dropped what it
// couldn't write, and then a second sync returns nil for it.
func SyncData(f *os.File) error {
	return syncData(f)
}

// SyncFilesystem makes everything on the filesystem that f is on durable, of all
// programs: the cheaper the more files there are to sync, the dearer the more others write.
//
// If the error is nil, a crash leaves everything as it was when SyncFilesystem was
// called, or as changed since. f must have been open since before the first write that
// it is to vouch for. An error, an *os.PathError, may be about files of other programs:
// sync your own with [SyncFile] and [SyncDir] to know of those. It is
// [errors.ErrUnsupported] where the system has no such call or it does not tell of all
// failures: everywhere but on ext4, xfs and btrfs on Linux 5.17 and later, or where it can't
// be told which filesystem it is. A failure is told once for each f: after one, nil means
// nothing any more.
func SyncFilesystem(f *os.File) error {
	return syncFilesystem(f)
}

func syncPath(path string, flags int) error {
	f, err := os.OpenFile(path, os.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// retryEINTR is for the calls that package os doesn't make, as it retries its
// own.
func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
