//go:build !linux

package disk

import "testing"

var readWays = []struct {
	name string
	set  func(t *testing.T)
}{{"in steps", func(*testing.T) {}}}
