package atomic

import (
	"errors"

	"golang.org/x/sys/unix"
)

func renameNew(from, to string) error {
	err := renameat2(from, to, unix.RENAME_NOREPLACE)
	if unsupported(err) {
		return renameNewInSteps(from, to)
	}
	if err != nil {
		return linkError("rename", from, to, err)
	}
	return nil
}

func exchange(a, b string) error {
	err := tryExchange(a, b)
	if errors.Is(err, errors.ErrUnsupported) {
		return exchangeInSteps(a, b)
	}
	return err
}

func tryExchange(a, b string) error {
	err := renameat2(a, b, unix.RENAME_EXCHANGE)
	if unsupported(err) {
		err = errors.ErrUnsupported
	}
	if err != nil {
		return linkError("exchange", a, b, err)
	}
	return nil
}

// unsupported reports whether the filesystem or the kernel may not know the flag. EINVAL
// has other reasons too, such as a directory renamed into itself. For these the steps fail
// likewise.
func unsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

func renameat2(from, to string, flags uint) error {
	return retryEINTR(func() error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	})
}
