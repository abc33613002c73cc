//go:build !linux

package fsck

import "github.com/fsmeta/fsmeta/fsmeta/internal/disk"

// obstacleAt says nothing here.
func obstacleAt(*disk.Dir, string) string { return "" }

// noRoom says nothing here.
func noRoom(*disk.Dir) string { return "" }
