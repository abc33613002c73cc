//go:build !linux

package atomic

import (
	"errors"
	"os"
)

func syncFilesystem(f *os.File) error {
	return &os.PathError{Op: "syncfs", Path: f.Name(), Err: errors.ErrUnsupported}
}
