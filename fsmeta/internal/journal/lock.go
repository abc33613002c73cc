package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta/internal/fault"
	"golang.org/x/sys/unix"
)

// The lock on a journal file says that the writer of its unpublished lines is at work. The holder
// of the lock on staging/ takes it at the end of its take-over, and keeps it until it gives
// staging/ back. It belongs to the open file: a process that ends loses it, and other descriptors
// of the same process do not.

// lockPatience is how long Lock tries. The files of a killed writer are closed one after the other,
// staging/ perhaps first, and a child process that it was just starting holds its lock until
// that executes its program. Where processors are short, both may take long.
var lockPatience = 10 * time.Second

// Lock says that this process's writer is at work on the file, which must be open for
// writing. Another writer is a fault.ErrInUse, after ten seconds: the caller has the lock on
// staging/, so that there is none that lives. It writes nothing; a crash releases the lock.
func (f *File) Lock() error {
	for end := time.Now().Add(lockPatience); ; {
		ok, err := f.tryLock()
		if err == nil && ok {
			f.locked.Store(true)
			return nil
		}
		if err == nil && time.Now().After(end) {
			err = fmt.Errorf("%w: another process writes to the journal", fault.ErrInUse)
		}
		if err != nil {
			return &fs.PathError{Op: "lock", Path: f.path, Err: err}
		}
		time.Sleep(time.Millisecond)
	}
}

// Unlock says that this process's writer is no longer at work on the file. It writes nothing.
func (f *File) Unlock() error {
	f.locked.Store(false)
	err := f.unlock()
	if err != nil {
		err = f.unlock() // once more: no other process could write as long as it stays
	}
	if err != nil {
		return &fs.PathError{Op: "unlock", Path: f.path, Err: err}
	}
	return nil
}

// AtWork reports whether the writer of unpublished lines is at work: this process or another
// holds the lock on the file, and the file is of this boot. If not, all whole lines that were
// read before the question are committed. It takes no lock, so that no writer fails for it.
func (f *File) AtWork() (bool, error) {
	if f.locked.Load() {
		return true, nil
	}
	if f.OtherBoot() {
		return false, nil
	}
	held, err := f.heldByOther()
	if err != nil {
		err = &fs.PathError{Op: "query lock", Path: f.path, Err: err}
	}
	return held, err
}

// Committed returns the last transaction that is committed: the last whole line that is known,
// unless the writer of those without a newline is at work; then the last one published. The
// question comes after the lines were read.
func (f *File) Committed() (uint64, error) {
	published, tip := f.Published(), f.Tip()
	if published == tip {
		return tip, nil
	}
	atWork, err := f.AtWork()
	if err != nil || atWork {
		return published, err
	}
	return tip, nil
}

// control makes one system call on the file, again where a signal has interrupted it.
func (f *File) control(call func(fd uintptr) error) error {
	conn, err := f.file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(fd uintptr) {
		for result = unix.EINTR; result == unix.EINTR; {
			result = call(fd)
		}
	})
	return errors.Join(err, result)
}
