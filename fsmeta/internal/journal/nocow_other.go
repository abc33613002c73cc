//go:build !linux

package journal

func noCOW(string) {}
