//go:build !linux

package commit

import "github.com/fsmeta/fsmeta/fsmeta/internal/disk"

func onBtrfs(*disk.Dir) bool { return false }
