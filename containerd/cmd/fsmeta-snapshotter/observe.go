//go:build linux

package main

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// observed is a snapshotter whose calls are logged, counted, and, where they fail for the
// disk's sake, a reason to probe.
type observed struct {
	snapshots.Snapshotter
	root  string
	count func(method string, code codes.Code, took time.Duration)
	probe func()
}

var _ snapshots.Cleaner = (*observed)(nil)

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
func (o *observed) end(c call, err *error) {
	took, code := time.Since(c.begin), codeOf(*err)
	o.count(c.method, code, took)
	entry := log.G(c.ctx).WithFields(c.fields).WithFields(log.Fields{"method": c.method, "duration": took.Round(time.Microsecond).String()})
	if *err == nil {
		entry.Log(levelOfSuccess(c.method), "done")
		return
	}
	if advice := adviseFull(o.root, *err); advice != "" {
		entry = entry.WithField("advice", advice)
	}
	entry.WithError(*err).WithField("code", code.String()).Log(levelOf(c.method, code), "call failed")
	if ofDisk(*err) {
		o.probe()
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

func (o *observed) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	defer o.end(begin(ctx, "Stat", log.Fields{"key": key}), &err)
	return o.Snapshotter.Stat(ctx, key)
}

func (o *observed) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (after snapshots.Info, err error) {
	defer o.end(begin(ctx, "Update", log.Fields{"key": info.Name}), &err)
	return o.Snapshotter.Update(ctx, info, fieldpaths...)
}

func (o *observed) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	defer o.end(begin(ctx, "Usage", log.Fields{"key": key}), &err)
	return o.Snapshotter.Usage(ctx, key)
}

func (o *observed) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	defer o.end(begin(ctx, "Mounts", log.Fields{"key": key}), &err)
	return o.Snapshotter.Mounts(ctx, key)
}

func (o *observed) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	defer o.end(begin(ctx, "Prepare", log.Fields{"key": key, "parent": parent}), &err)
	return o.Snapshotter.Prepare(ctx, key, parent, opts...)
}

func (o *observed) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	defer o.end(begin(ctx, "View", log.Fields{"key": key, "parent": parent}), &err)
	return o.Snapshotter.View(ctx, key, parent, opts...)
}

func (o *observed) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) (err error) {
	defer o.end(begin(ctx, "Commit", log.Fields{"key": key, "name": name}), &err)
	return o.Snapshotter.Commit(ctx, name, key, opts...)
}

func (o *observed) Remove(ctx context.Context, key string) (err error) {
	defer o.end(begin(ctx, "Remove", log.Fields{"key": key}), &err)
	return o.Snapshotter.Remove(ctx, key)
}

func (o *observed) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) (err error) {
	defer o.end(begin(ctx, "List", nil), &err)
	return o.Snapshotter.Walk(ctx, fn, filters...)
}

// Cleanup is the call by which containerd ends a garbage collection.
func (o *observed) Cleanup(ctx context.Context) (err error) {
	defer o.end(begin(ctx, "Cleanup", nil), &err)
	return o.Snapshotter.(snapshots.Cleaner).Cleanup(ctx)
}
