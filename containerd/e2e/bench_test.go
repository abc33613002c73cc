//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// contestant is one of those that are compared.
type contestant struct {
	name      string   // in the results
	plugin    string   // what it is called in containerd
	arguments []string // of ctr images import
	durable   bool     // what it has unpacked is on the disk
}

// contest is a containerd with all that are compared, on one filesystem.
type contest struct {
	*stand
	contestants []contestant
}

// startContest returns one with containerd's own snapshotter, with and without syncs, with the daemon, likewise, and with the
// snapshotter in containerd itself, with these options, where there is such a containerd.
func startContest(b *testing.B, options ...string) *contest {
	b.Helper()
	c := &contest{newStand(b, "overlayfs"), []contestant{{"built-in", "overlayfs", nil, false}}}
	if containerdMajor() >= 2 {
		c.contestants = append(c.contestants, contestant{"built-in, --sync-fs", "overlayfs", []string{"--sync-fs"}, true})
	}
	c.startDaemon("served", "--snapshotter", "overlay")
	c.startDaemon("unsynced", "--snapshotter", "overlay", "--no-sync")
	c.contestants = append(c.contestants, contestant{"fsmeta", "served", nil, true}, contestant{"fsmeta --no-sync", "unsynced", nil, false})
	if _, err := exec.LookPath(insideName); err == nil && containerdMajor() >= 2 {
		c.placeInside(options...)
		c.contestants = append(c.contestants, contestant{strings.Join(append([]string{"inside"}, options...), " "), pluginName, nil, len(options) == 0})
	}
	c.startContainerd()
	return c
}

// An image of 60 layers is unpacked, one after the other. Its layers are in containerd already. ctr has to be told to do that itself: containerd's
// transfer service knows nothing of --sync-fs.
func BenchmarkUnpack(b *testing.B) { benchmarkUnpack(b, startContest(b), false) }

// The same, where the snapshotter in containerd syncs nothing.
func BenchmarkUnpackUnsynced(b *testing.B) {
	benchmarkUnpack(b, startContest(b, "no_sync = true"), false)
}

// The same, while another program writes to the same filesystem.
func BenchmarkUnpackBeside(b *testing.B) { benchmarkUnpack(b, startContest(b), true) }

func benchmarkUnpack(b *testing.B, s *contest, beside bool) {
	im := newImage(b, "sixty", manyLayers(b, 60))
	archive := im.save(b, s.dir)
	unpack := []string{"images", "import"}
	if containerdMajor() >= 2 {
		unpack = append(unpack, "--local")
	}
	what := "unpack of a 60-layer image"
	if beside {
		what += " beside a program that writes 50 MB a second"
	}
	results := newResults(what, s.contestants)
	for b.Loop() {
		results.round(func(c contestant) time.Duration {
			s.ctr("images", "import", "--no-unpack", archive)
			took := s.timed(func() {
				if beside {
					defer s.writeOn()()
				}
				s.ctr(slices.Concat(unpack, c.arguments, []string{"--snapshotter", c.plugin, archive})...)
			})
			s.clear()
			return took
		})
	}
	results.report(b)
}

// writeOn writes to a file until stop is called, and leaves it to the kernel when that reaches the disk.
func (s *contest) writeOn() (stop func()) {
	s.Helper()
	f, err := os.Create(s.path("noise"))
	must(s, err)
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		data := make([]byte, 1<<20)
		for i := int64(0); ; i++ {
			select {
			case <-end:
				ended <- f.Close()
				return
			case <-time.After(20 * time.Millisecond):
			}
			if _, err := f.WriteAt(data, i%512<<20); err != nil {
				ended <- errors.Join(err, f.Close())
				return
			}
		}
	}()
	return func() {
		close(end)
		must(s, <-ended)
	}
}

// An image of 60 layers is pulled from a registry on this machine, by containerd's transfer service, which unpacks four
// layers at once, and syncs nothing itself.
func BenchmarkPull(b *testing.B) {
	s := startContest(b)
	s.contestants = slices.DeleteFunc(s.contestants, func(c contestant) bool { return c.arguments != nil })
	im := newImage(b, "sixty", manyLayers(b, 60))
	im.name = im.serveRegistry(b)
	results := newResults("pull of a 60-layer image, four layers at once", s.contestants)
	for b.Loop() {
		results.round(func(c contestant) time.Duration {
			took := s.timed(func() { s.ctr("images", "pull", "--plain-http", "--snapshotter", c.plugin, im.name) })
			s.clear()
			return took
		})
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
	s.contestants = slices.DeleteFunc(s.contestants, func(c contestant) bool { return c.arguments != nil }) // nothing is unpacked
	for _, c := range s.contestants {
		s.ctr("images", "import", "--snapshotter", c.plugin, archive)
	}
	started := newResults(fmt.Sprintf("start of %d containers in parallel", n), s.contestants)
	removed := newResults(fmt.Sprintf("removal of %d containers in parallel", n), s.contestants)
	for b.Loop() {
		removals := map[string]time.Duration{}
		started.round(func(c contestant) time.Duration {
			took := s.timed(func() {
				var group errgroup.Group
				for i := range n {
					group.Go(func() error {
						_, err := s.tryCtr("run", "--snapshotter", c.plugin, "--detach", "--null-io", im.name, fmt.Sprintf("container-%d", i), "/bin/sleep", "1000")
						return err
					})
				}
				must(b, group.Wait())
			})
			removals[c.name] = s.timed(func() { s.removeAtOnce(n) })
			return took
		})
		removed.round(func(c contestant) time.Duration { return removals[c.name] })
	}
	s.clear()
	started.report(b)
	removed.report(b)
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
	if s.inside != "" {
		dirs = append(dirs, filepath.Join(s.root(), "snapshots"))
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
	what        string
	contestants []contestant
	times       [][]time.Duration
}

func newResults(what string, contestants []contestant) *results {
	return &results{what, contestants, make([][]time.Duration, len(contestants))}
}

// round measures each contestant once. They take turns at being the first.
func (r *results) round(measure func(c contestant) time.Duration) {
	first := len(r.times[0])
	for turn := range r.contestants {
		i := (first + turn) % len(r.contestants)
		r.times[i] = append(r.times[i], measure(r.contestants[i]))
	}
}

// peer returns which one a contestant is compared with: containerd's own snapshotter, with syncs where it syncs.
func (r *results) peer(i int) int {
	for own, c := range r.contestants {
		if c.plugin == "overlayfs" && c.durable == r.contestants[i].durable {
			return own
		}
	}
	return 0
}

// report reports the medians of the times, and of the ratios in each round: the time of containerd's own snapshotter
// divided by that of the other. 2 means that it takes half as long.
func (r *results) report(b *testing.B) {
	b.ReportMetric(0, "ns/op") // it would be that of all of them, with cleaning up
	table := fmt.Sprintf("%s, medians of %d rounds with quartiles, containerd %d:\n| | time | that of containerd's own / this |\n| --- | ---: | ---: |\n",
		r.what, len(r.times[0]), containerdMajor())
	for i, c := range r.contestants {
		times := spreadOf(r.times[i])
		var ratios []float64
		for round, took := range r.times[i] {
			ratios = append(ratios, float64(r.times[r.peer(i)][round])/float64(took))
		}
		ratio := spreadOf(ratios)
		table += fmt.Sprintf("| %s | %.0f ms (%.0f–%.0f) | %.2f (%.2f–%.2f) to %s |\n",
			c.name, times.median/1e6, times.low/1e6, times.high/1e6, ratio.median, ratio.low, ratio.high, r.contestants[r.peer(i)].name)
	}
	fmt.Println(table) // go test cuts what b.Log writes
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
