//go:build !linux

package journal

// bootID identifies this boot of the machine; it can't be told.
func bootID() string { return "" }
