package atomic

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

func syncFilesystem(f *os.File) error {
	if !syncfsReports() {
		return &os.PathError{Op: "syncfs", Path: f.Name(), Err: errors.ErrUnsupported}
	}
	return control(f, "syncfs", unix.Syncfs)
}

// syncfsReports reports whether syncfs tells of data that could not be written. It
// does since Linux 5.8.
var syncfsReports = sync.OnceValue(func() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > 5 || major == 5 && minor >= 8
})
