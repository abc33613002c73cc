package storage

import "os"

// isBolt reports whether a file looks like one of bbolt's: its magic number, behind
// the header of either of the first two pages.
func isBolt(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	buf := make([]byte, 20)
	if _, err := f.ReadAt(buf, 0); err != nil {
		return false
	}
	return buf[16] == 0xed
}
