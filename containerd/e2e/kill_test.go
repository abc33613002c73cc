//go:build linux

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// randomly returns a source of random choices, and logs the seed that repeats them.
func randomly(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("FSMETA_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("FSMETA_TEST_SEED=%d repeats the moments of this run", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// runs returns how often something random is done: normally, or so many times as often
// as FSMETA_TEST_RUNS says.
func runs(t testing.TB, normally int) int {
	t.Helper()
	text := os.Getenv("FSMETA_TEST_RUNS")
	if text == "" {
		return normally
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("FSMETA_TEST_RUNS=%q is not a number of runs", text)
	}
	return normally * n
}

// killDaemon kills the daemon, or the containerd that has the snapshotter in it, looks at what it has left, and starts it
// again. It returns when containerd has found it.
func (s *stand) killDaemon() {
	s.Helper()
	if s.inside != "" {
		s.containerd.kill()
		s.check()
		s.startContainerd()
		return
	}
	must(s, s.daemons[pluginName].running())
	s.daemons[pluginName].kill()
	s.check()
	s.restartDaemon(pluginName)
	s.awaitDaemon(s.namespace)
}

// awaitDaemon returns when containerd has found the daemon that was started again. There must
// be snapshots in the namespace: for none containerd does not call the daemon.
func (s *stand) awaitDaemon(namespace string) {
	s.Helper()
	eventually(s, "containerd finds the daemon that was started again", func() error {
		_, err := s.ctrIn(namespace, "snapshots", "--snapshotter", pluginName, "ls")
		return err
	})
}

// However often the daemon is killed while an image is unpacked, the image can be
// unpacked in the end, and is right.
func TestKilledWhileUnpacking(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		kills := runs(t, 10)
		layers := manyLayers(t, 12)
		chance, im := randomly(t), newImage(t, "deep", layers)
		archive := im.save(t, s.dir)
		unpack := func() error {
			_, err := s.tryCtr("images", "import", "--snapshotter", s.snapshotter, archive)
			return err
		}
		begun := time.Now()
		must(t, unpack())
		takes := time.Since(begun)
		s.removeImages()
		s.checkEmpty()

		failed := 0
		for range kills {
			ended := make(chan error, 1)
			go func() { ended <- unpack() }()
			time.Sleep(time.Duration(chance.Int64N(int64(takes)))) // the moment
			s.killDaemon()
			if <-ended == nil {
				s.removeImages() // and from the beginning
			} else {
				failed++
			}
		}
		t.Logf("%d of %d imports have failed", failed, kills)
		if failed == 0 {
			t.Error("no import was under way when the daemon was killed")
		}
		eventually(t, "unpack the image", unpack)
		s.checkConsistent()
		s.checkTree(im, "look", apply(layers))
		s.removeImages()
		s.removeLeases()
		s.collectAll()
		s.checkEmpty()
	})
}

// removeLeases removes those of clients that were not told what has become of their call. They end by themselves in a day.
func (s *stand) removeLeases() {
	s.Helper()
	for lease := range strings.Lines(s.ctr("leases", "ls", "--quiet")) {
		s.ctr("leases", "rm", strings.TrimSpace(lease))
	}
}

// However often the daemon is killed while containers come and go, those that can be
// started see what they should, and nothing is left of them.
func TestKilledWhileContainersRun(t *testing.T) {
	eachDaemon(t, func(t *testing.T, s *stand) {
		const loops = 3
		kills := runs(t, 6)
		im, chance := importChanging(t, s), randomly(t)
		var stop atomic.Bool
		var ran, failed atomic.Int64
		var group sync.WaitGroup
		for loop := range loops {
			group.Go(func() {
				for i := 0; !stop.Load(); i++ {
					id := fmt.Sprintf("container-%d-%d", loop, i)
					got, err := s.tryRun(im.name, id, change+"; "+changed, "--rm")
					if err != nil { // a daemon that is not there can't make a snapshot
						failed.Add(1)
						continue
					}
					ran.Add(1)
					if got != sees {
						t.Errorf("%s sees %q, want %q", id, got, sees)
					}
				}
			})
		}
		for range kills {
			before := ran.Load()
			eventually(t, "containers run", func() error {
				if ran.Load() < before+loops {
					return fmt.Errorf("%d have run, and %d failed", ran.Load(), failed.Load())
				}
				return nil
			})
			time.Sleep(time.Duration(chance.IntN(300)) * time.Millisecond) // the moment
			s.killDaemon()
		}
		stop.Store(true)
		group.Wait()
		t.Logf("%d containers have run, %d failed", ran.Load(), failed.Load())

		s.checkConsistent()
		s.checkTree(im, "look", apply(changingLayers(t)))
		s.removeContainers()
		s.removeImages()
		s.collectAll()
		s.checkEmpty()
	})
}

// checkConsistent fails the test unless each snapshot that containerd knows of is in the
// store, as it should be, with its content.
func (s *stand) checkConsistent() {
	s.Helper()
	s.collect() // so that nothing is removed while we look
	s.check()
	records := readLive(s, s.store())
	inStore := map[listed]string{}
	for name, r := range records {
		_, key := splitName(s, name)
		l := listed{Key: key, Kind: kindOf(r)}
		if r.Parent != "" {
			_, l.Parent = splitName(s, r.Parent)
		}
		inStore[l] = r.ID
	}
	for _, l := range s.list(s.namespace) {
		id, ok := inStore[l]
		if !ok {
			s.Errorf("ctr snapshots ls has %q, and the store does not", l)
			continue
		}
		if !exists(filepath.Join(s.root(), "snapshots", id)) {
			s.Errorf("the content of %q is missing", l)
		}
	}
}

// collectAll makes containerd collect its garbage after everything was removed, with
// that of the snapshotter: it looks for that only where a snapshot was removed.
func (s *stand) collectAll() {
	s.Helper()
	s.snapshots("prepare", "to-be-removed", "")
	s.snapshots("rm", "to-be-removed")
	s.collect()
}
