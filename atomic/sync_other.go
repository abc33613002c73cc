//go:build !aix && !linux && !solaris

package atomic

import "os"

func syncData(f *os.File) error { return f.Sync() }
