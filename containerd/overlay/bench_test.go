//go:build linux

package overlay_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	peer "github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	"golang.org/x/sys/unix"
)

// contender is a snapshotter that is measured, on an ext4 of its own: a sync reaches what
// others have written to the same filesystem.
type contender struct {
	name string
	side
	times []time.Duration
}

// contenders are measured in turn, in each iteration of a benchmark.
func contenders(b *testing.B) []*contender {
	b.Helper()
	all := []*contender{{name: "synced"}, {name: "withoutSync"}, {name: "containerd"}}
	open := []func(root string) (snapshots.Snapshotter, error){
		func(root string) (snapshots.Snapshotter, error) { return overlay.NewSnapshotter(root) },
		func(root string) (snapshots.Snapshotter, error) {
			return overlay.NewSnapshotter(root, overlay.WithoutSync)
		},
		func(root string) (snapshots.Snapshotter, error) { return peer.NewSnapshotter(root) },
	}
	for i, c := range all {
		c.root = filepath.Join(mountImage(b), "root")
		s, err := open[i](c.root)
		must(b, err)
		b.Cleanup(func() { must(b, s.Close()) })
		c.Snapshotter = s
	}
	return all
}

// mountImage mounts a new ext4 on a file until the benchmark ends.
func mountImage(b *testing.B) string {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("only root can mount: run the benchmarks as root")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		b.Skip("mkfs.ext4 is missing: install it")
	}
	dir := b.TempDir()
	image, target := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	must(b, os.Mkdir(target, 0o700))
	must(b, os.WriteFile(image, nil, 0o600))
	must(b, os.Truncate(image, 2<<30))
	for _, command := range [][]string{{mkfs, "-q", image}, {"mount", "-o", "loop", image, target}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			b.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	b.Cleanup(func() { must(b, unix.Unmount(target, 0)) })
	return target
}

// settle leaves nothing that the next measurement would write.
func (c *contender) settle(b *testing.B) {
	dir, err := os.Open(c.root)
	must(b, err)
	must(b, unix.Syncfs(int(dir.Fd())))
	must(b, dir.Close())
}

// measure calls step with each contender, in an order that changes, as often as the
// benchmark says. It reports the median of what step returns, in microseconds, and that
// of ours as a multiple of containerd's.
func measure(b *testing.B, step func(c *contender, i int) time.Duration) {
	all := contenders(b)
	i := 0
	for b.Loop() {
		for n := range all {
			c := all[(i+n)%len(all)]
			c.settle(b)
			c.times = append(c.times, step(c, i))
		}
		i++
	}
	median := func(c *contender) float64 {
		slices.Sort(c.times)
		return float64(c.times[len(c.times)/2].Nanoseconds()) / 1000
	}
	theirs := median(all[2])
	for _, c := range all {
		b.ReportMetric(median(c), c.name+"-µs")
		if c != all[2] {
			b.ReportMetric(median(c)/theirs, c.name+"/containerd")
		}
	}
	b.ReportMetric(0, "ns/op") // it would be the sum, with what is not measured
}

// What it costs to prepare a snapshot without a parent.
func BenchmarkPrepare(b *testing.B) {
	measure(b, func(c *contender, i int) time.Duration {
		begin := time.Now()
		_, err := c.Prepare(b.Context(), fmt.Sprint("key", i), "")
		took := time.Since(begin)
		must(b, err)
		return took
	})
}

// What it costs to commit a layer of 100 files, a megabyte together, that were just written.
func BenchmarkCommit(b *testing.B) {
	measure(b, func(c *contender, i int) time.Duration {
		key := fmt.Sprint("key", i)
		writeLayer(b, c, key)
		begin := time.Now()
		err := c.Commit(b.Context(), "layer "+key, key)
		took := time.Since(begin)
		must(b, err)
		must(b, c.Remove(b.Context(), "layer "+key))
		return took
	})
}

// What it costs to prepare such a layer, write and commit it, altogether.
func BenchmarkLayer(b *testing.B) {
	measure(b, func(c *contender, i int) time.Duration {
		key := fmt.Sprint("key", i)
		begin := time.Now()
		writeLayer(b, c, key)
		err := c.Commit(b.Context(), "layer "+key, key)
		took := time.Since(begin)
		must(b, err)
		must(b, c.Remove(b.Context(), "layer "+key))
		return took
	})
}

// writeLayer prepares a snapshot and writes the files of a layer.
func writeLayer(b *testing.B, c *contender, key string) {
	b.Helper()
	mounts, err := c.Prepare(b.Context(), key, "")
	must(b, err)
	data := bytes.Repeat([]byte("content of a layer "), 600)[:10<<10]
	for n := range 100 {
		dir := filepath.Join(upperOf(mounts), fmt.Sprint("directory", n%10))
		must(b, os.MkdirAll(dir, 0o755))
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint("file", n)), data, 0o644))
	}
}
