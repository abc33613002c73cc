//go:build linux

package driver

import (
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// label adds the label of [Config.UpperLabel] to what is known of the snapshot with an identifier.
func (s *Snapshotter) label(info *snapshots.Info, id string) {
	if s.config.UpperLabel == "" {
		return
	}
	if info.Labels == nil {
		info.Labels = map[string]string{}
	}
	info.Labels[s.config.UpperLabel] = s.content.Upper(s.dir(id))
}

// labelling returns fn for a walk that gives snapshots the label of [Config.UpperLabel]. It leaves out one that is found
// to be damaged only now.
func (s *Snapshotter) labelling(fn snapshots.WalkFunc) snapshots.WalkFunc {
	if s.config.UpperLabel == "" {
		return fn
	}
	return func(ctx context.Context, info snapshots.Info) error {
		id, _, _, err := storage.GetInfo(ctx, info.Name)
		if s.onlyLocal(ctx, err) {
			return nil
		}
		if err != nil {
			return err
		}
		s.label(&info, id)
		return fn(ctx, info)
	}
}
