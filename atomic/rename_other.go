//go:build !linux

package atomic

func renameNew(from, to string) error { return renameNewInSteps(from, to) }

func exchange(a, b string) error { return exchangeInSteps(a, b) }
