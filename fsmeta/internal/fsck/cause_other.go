//go:build !linux

package fsck

import "github.com/fsmeta/fsmeta/fsmeta/internal/disk"

// None of these can tell anything here.

func obstacleAt(*disk.Dir, string) string { return "" }
func flagAt(*disk.Dir, string) string     { return "" }
func readOnly(*disk.Dir) bool             { return false }
func noRoom(*disk.Dir) string             { return "" }
