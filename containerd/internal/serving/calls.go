//go:build linux

// Package serving is what both that serve a snapshotter do around it, the daemon and the plugin in containerd: they log
// its calls, probe whether it can do its work, and keep how the last run has ended.
package serving

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Calls is a snapshotter with calls that are logged, counted, and, where they fail for the
// disk's sake, a reason to probe.
type Calls struct {
	snapshots.Snapshotter // a snapshots.Cleaner, too

	Root   string                                                   // its filesystem is looked at when there is no room
	Fields log.Fields                                               // of each line in the log; may be nil
	Count  func(method string, code codes.Code, took time.Duration) // is told of each call
	Probe  func()                                                   // is called where a call has failed for the disk's sake
}

var _ snapshots.Cleaner = (*Calls)(nil)

// call is one call of a snapshotter.
type call struct {
	ctx    context.Context
	method string
	fields log.Fields
	begin  time.Time
}

func begin(ctx context.Context, method string, fields log.Fields) call {
	return call{ctx, method, fields, time.Now()}
}

// end is told what a call returns.
func (s *Calls) end(c call, err *error) {
	took, code := time.Since(c.begin), codeOf(*err)
	s.Count(c.method, code, took)
	entry := log.G(c.ctx).WithFields(s.Fields).WithFields(c.fields).WithFields(log.Fields{"method": c.method, "duration": took.Round(time.Microsecond).String()})
	if *err == nil {
		entry.Log(levelOfSuccess(c.method), "done")
		return
	}
	if advice := adviseFull(s.Root, *err); advice != "" {
		entry = entry.WithField("advice", advice)
	}
	entry.WithError(*err).WithField("code", code.String()).Log(levelOf(c.method, code), "call failed")
	if OfDisk(*err) {
		s.Probe()
	}
}

// codeOf returns the code with which a client sees an error.
func codeOf(err error) codes.Code { return status.Code(errgrpc.ToGRPC(err)) }

// levelOfSuccess returns at which level a call that has succeeded is logged.
func levelOfSuccess(method string) logrus.Level {
	switch method {
	case "Prepare", "View", "Commit", "Remove":
		return logrus.DebugLevel
	}
	return logrus.TraceLevel
}

// levelOf returns at which level a call that has failed is logged. Some failures are the
// answers to questions of containerd: whether there is a layer already.
func levelOf(method string, code codes.Code) logrus.Level {
	switch code {
	case codes.NotFound:
		if method == "Stat" {
			return logrus.DebugLevel
		}
	case codes.AlreadyExists:
		return logrus.DebugLevel
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Canceled, codes.DeadlineExceeded:
	default:
		return logrus.ErrorLevel
	}
	return logrus.WarnLevel
}

func (s *Calls) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	defer s.end(begin(ctx, "Stat", log.Fields{"key": key}), &err)
	return s.Snapshotter.Stat(ctx, key)
}

func (s *Calls) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (after snapshots.Info, err error) {
	defer s.end(begin(ctx, "Update", log.Fields{"key": info.Name}), &err)
	return s.Snapshotter.Update(ctx, info, fieldpaths...)
}

func (s *Calls) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	defer s.end(begin(ctx, "Usage", log.Fields{"key": key}), &err)
	return s.Snapshotter.Usage(ctx, key)
}

func (s *Calls) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	defer s.end(begin(ctx, "Mounts", log.Fields{"key": key}), &err)
	return s.Snapshotter.Mounts(ctx, key)
}

func (s *Calls) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	defer s.end(begin(ctx, "Prepare", log.Fields{"key": key, "parent": parent}), &err)
	return s.Snapshotter.Prepare(ctx, key, parent, opts...)
}

func (s *Calls) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	defer s.end(begin(ctx, "View", log.Fields{"key": key, "parent": parent}), &err)
	return s.Snapshotter.View(ctx, key, parent, opts...)
}

func (s *Calls) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) (err error) {
	defer s.end(begin(ctx, "Commit", log.Fields{"key": key, "name": name}), &err)
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

func (s *Calls) Remove(ctx context.Context, key string) (err error) {
	defer s.end(begin(ctx, "Remove", log.Fields{"key": key}), &err)
	return s.Snapshotter.Remove(ctx, key)
}

func (s *Calls) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) (err error) {
	defer s.end(begin(ctx, "List", nil), &err)
	return s.Snapshotter.Walk(ctx, fn, filters...)
}

// Cleanup is the call by which containerd ends a garbage collection.
func (s *Calls) Cleanup(ctx context.Context) (err error) {
	defer s.end(begin(ctx, "Cleanup", nil), &err)
	return s.Snapshotter.(snapshots.Cleaner).Cleanup(ctx)
}

// diskErrors are those of a disk or filesystem that is gone.
var diskErrors = []error{unix.EIO, unix.EROFS, unix.ENODEV, unix.ENXIO, unix.ESTALE, unix.EUCLEAN, unix.ENOTCONN, unix.ESHUTDOWN}

// OfDisk reports whether an error says that the disk or the filesystem is gone.
func OfDisk(err error) bool {
	for _, target := range diskErrors {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
