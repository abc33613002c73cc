//go:build linux

package overlay

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// mappedRoot returns the user that the mapping in a snapshot's labels makes root, -1 for both where
// there is none.
func mappedRoot(labels map[string]string) (uid, gid int, err error) {
	uids, gids := labels[snapshots.LabelSnapshotUIDMapping], labels[snapshots.LabelSnapshotGIDMapping]
	if uids == "" && gids == "" {
		return -1, -1, nil
	}
	if uid, err = rootOf(uids); err != nil {
		return 0, 0, fmt.Errorf("label %s=%q: %w", snapshots.LabelSnapshotUIDMapping, uids, err)
	}
	if gid, err = rootOf(gids); err != nil {
		return 0, 0, fmt.Errorf("label %s=%q: %w", snapshots.LabelSnapshotGIDMapping, gids, err)
	}
	return uid, gid, nil
}

// invalidID is no user or group.
const invalidID = 1<<32 - 1

// rootOf returns what a mapping of the form CONTAINER:HOST:SIZE,… maps 0 to. An empty one
// maps each to itself.
func rootOf(mapping string) (int, error) {
	if mapping == "" {
		return 0, nil
	}
	root := -1
	for part := range strings.SplitSeq(mapping, ",") {
		fields := strings.Split(part, ":")
		if len(fields) != 3 {
			return 0, fmt.Errorf("%q is not of the form CONTAINER:HOST:SIZE: %w", part, errdefs.ErrInvalidArgument)
		}
		var n [3]uint64
		for i, field := range fields {
			var err error
			if n[i], err = strconv.ParseUint(field, 10, 32); err != nil {
				return 0, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
			}
		}
		if n[0] == 0 && n[2] > 0 && root < 0 && n[1] != invalidID {
			root = int(n[1])
		}
	}
	if root < 0 {
		return 0, fmt.Errorf("it maps nothing to the container's root: %w", errdefs.ErrInvalidArgument)
	}
	return root, nil
}
