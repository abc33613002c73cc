//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// contestants are what is compared: the plugin, and what it is called in the results.
// The first is containerd's own, and what the others are compared with.
var contestants = []struct{ plugin, name string }{
	{"overlayfs", "built-in"},
	{pluginName, "fsmeta"},
	{"unsynced", "no-sync"},
}

// startContest returns a containerd with all contestants, on one filesystem.
func startContest(b *testing.B) *stand {
	b.Helper()
	s := newStand(b, contestants[0].plugin)
	s.startDaemon(contestants[1].plugin, "--snapshotter", "overlay")
	s.startDaemon(contestants[2].plugin, "--snapshotter", "overlay", "--no-sync")
	s.startContainerd()
	return s
}

// An image of 60 layers is unpacked. Its layers are in containerd already.
func BenchmarkUnpack(b *testing.B) {
	s := startContest(b)
	im := newImage(b, "sixty", manyLayers(b, 60))
	archive := im.save(b, s.dir)
	results := newResults("unpack of a 60-layer image")
	for b.Loop() {
		s.ctr("images", "import", "--no-unpack", archive)
		results.round(func(plugin string) time.Duration {
			return s.timed(func() { s.ctr("images", "import", "--snapshotter", plugin, archive) })
		})
		s.clear()
	}
	results.report(b)
}

// 50 containers are started at once, of an image with a few layers, and are all running
// when it ends.
func BenchmarkStart(b *testing.B) {
	const n = 50
	s := startContest(b)
	im := newImage(b, "changing", changingLayers(b))
	archive := im.save(b, s.dir)
	for _, c := range contestants {
		s.ctr("images", "import", "--snapshotter", c.plugin, archive)
	}
	results := newResults(fmt.Sprintf("start of %d containers in parallel", n))
	for b.Loop() {
		results.round(func(plugin string) time.Duration {
			took := s.timed(func() {
				var group errgroup.Group
				for i := range n {
					group.Go(func() error {
						_, err := s.tryCtr("run", "--snapshotter", plugin, "--detach", "--null-io", im.name, fmt.Sprintf("container-%d", i), "/bin/sleep", "1000")
						return err
					})
				}
				must(b, group.Wait())
			})
			s.removeAtOnce(n)
			return took
		})
	}
	s.clear()
	results.report(b)
}

// timed returns how long f takes when nothing is left to be written before.
func (s *stand) timed(f func()) time.Duration {
	s.Helper()
	dir, err := os.Open(s.dir)
	must(s, err)
	must(s, errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close()))
	begun := time.Now()
	f()
	return time.Since(begun)
}

// removeAtOnce removes the n containers that run, and what was theirs.
func (s *stand) removeAtOnce(n int) {
	s.Helper()
	tasks := strings.Fields(s.ctr("tasks", "ls", "--quiet"))
	if len(tasks) != n {
		s.Fatalf("%d tasks run, want %d", len(tasks), n)
	}
	var group errgroup.Group
	group.SetLimit(8)
	for _, id := range tasks {
		group.Go(func() error {
			_, err := s.tryCtr("tasks", "delete", "--force", id)
			return err
		})
	}
	must(s, group.Wait())
	s.removeContainers()
	s.collect()
}

// clear removes all images and waits until no contestant has any content.
func (s *stand) clear() {
	s.Helper()
	s.removeImages()
	dirs := []string{s.path("root", "io.containerd.snapshotter.v1.overlayfs", "snapshots")}
	for _, name := range s.plugins() {
		dirs = append(dirs, s.path(name, "snapshots"))
	}
	eventually(s, "everything is removed", func() error {
		for _, dir := range dirs {
			entries, err := os.ReadDir(dir)
			if err == nil && len(entries) > 0 {
				err = fmt.Errorf("%d entries are in %s", len(entries), dir)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// results are the times of all rounds, by contestant.
type results struct {
	what  string
	times [][]time.Duration
}

func newResults(what string) *results {
	return &results{what, make([][]time.Duration, len(contestants))}
}

// round measures each contestant once. They take turns at being the first.
func (r *results) round(measure func(plugin string) time.Duration) {
	first := len(r.times[0])
	for turn := range contestants {
		i := (first + turn) % len(contestants)
		r.times[i] = append(r.times[i], measure(contestants[i].plugin))
	}
}

// report reports the medians of the times, and of the ratios in each round: the built-in
// snapshotter's time divided by that of the other. 2 means that it takes half as long.
func (r *results) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // it would be that of all of them, with cleaning up
	row := "| " + r.what
	for i, c := range contestants {
		times := spreadOf(r.times[i])
		b.ReportMetric(times.median/1e6, c.name+"-ms")
		row += fmt.Sprintf(" | %.0f ms (%.0f–%.0f)", times.median/1e6, times.low/1e6, times.high/1e6)
	}
	for i, c := range contestants[1:] {
		var ratios []float64
		for round, took := range r.times[i+1] {
			ratios = append(ratios, float64(r.times[0][round])/float64(took))
		}
		ratio := spreadOf(ratios)
		b.ReportMetric(ratio.median, contestants[0].name+"/"+c.name)
		row += fmt.Sprintf(" | %.2f (%.2f–%.2f)", ratio.median, ratio.low, ratio.high)
	}
	b.Logf("medians of %d rounds with quartiles, containerd %d:\n"+
		"| what | built-in | fsmeta | fsmeta --no-sync | built-in / fsmeta | built-in / fsmeta --no-sync |\n"+
		"| --- | ---: | ---: | ---: | ---: | ---: |\n%s |", len(r.times[0]), containerdMajor(), row)
}

// spread is a median between its quartiles.
type spread struct{ low, median, high float64 }

func spreadOf[T ~int64 | ~float64](values []T) spread {
	sorted := slices.SortedFunc(slices.Values(values), cmp.Compare[T])
	quantile := func(q float64) float64 {
		at := q * float64(len(sorted)-1)
		below := int(at)
		above := min(below+1, len(sorted)-1)
		return float64(sorted[below]) + (at-float64(below))*float64(sorted[above]-sorted[below])
	}
	return spread{quantile(0.25), quantile(0.5), quantile(0.75)}
}
