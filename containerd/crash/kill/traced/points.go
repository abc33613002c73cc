//go:build linux && amd64

package traced

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Point is a place in a run of a scenario: before one of its calls, or after it.
type Point struct {
	Kind  string
	N     int // the how many-th call of this kind
	After bool
}

func (p Point) String() string {
	if p.After {
		return fmt.Sprintf("after %s %d", p.Kind, p.N)
	}
	return fmt.Sprintf("before %s %d", p.Kind, p.N)
}

// Is reports whether a run is at the point.
func (p Point) Is(c Call, made bool) bool {
	return made == p.After && c.Kind == p.Kind && c.N == p.N
}

// Counts returns how many calls of each kind there are.
func Counts(calls []Call) map[string]int {
	counts := map[string]int{}
	for _, c := range calls {
		counts[c.Kind]++
	}
	return counts
}

// Every returns a point before and after each call of a recorded run, by their kinds, and
// some more of each kind, as the next run may make more of them.
func Every(calls []Call) map[string][]Point {
	points := map[string][]Point{}
	for kind, n := range Counts(calls) {
		for i := 1; i <= n+3; i++ {
			points[kind] = append(points[kind], Point{kind, i, false}, Point{kind, i, true})
		}
	}
	return points
}

// Sample chooses up to n of the points, as many of one kind as of another.
func Sample[P any](points map[string][]P, n int, random *rand.Rand) []P {
	var chosen []P
	kinds := slices.Sorted(maps.Keys(points))
	random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	for _, kind := range kinds {
		of := points[kind]
		random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	}
	for round, more := 0, true; more; round++ {
		more = false
		for _, kind := range kinds {
			if round < len(points[kind]) && len(chosen) < n {
				chosen, more = append(chosen, points[kind][round]), true
			}
		}
	}
	return chosen
}

// Each calls try for each point, two at once.
func Each[P any](points []P, try func(i int, p P)) {
	work := make(chan int)
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for i := range work {
				try(i, points[i])
			}
		})
	}
	for i := range points {
		work <- i
	}
	close(work)
	group.Wait()
}

// Tally counts what was tried.
type Tally struct {
	mu            sync.Mutex
	kinds         map[string]int
	missed, wrong int
}

// Add counts a run that was to be met by something of a kind, whether it was, and what was
// wrong after it.
func (c *Tally) Add(kind string, met bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds == nil {
		c.kinds = map[string]int{}
	}
	if met {
		c.kinds[kind]++
	} else {
		c.missed++
	}
	if err != nil {
		c.wrong++
	}
}

// Wrong returns how many runs left something wrong.
func (c *Tally) Wrong() int { return c.wrong }

func (c *Tally) String() string {
	met := 0
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(c.kinds)) {
		met += c.kinds[kind]
		parts = append(parts, fmt.Sprintf("%s %d", kind, c.kinds[kind]))
	}
	return fmt.Sprintf("%d runs, %d of which ended before it came to that, %d left something wrong: %s",
		met+c.missed, c.missed, c.wrong, strings.Join(parts, ", "))
}

// Kill runs a scenario and kills it at a point.
func (s Stand) Kill(t *testing.T, scenario Scenario, p Point) (*Result, error) {
	r, err := s.Run(t.Context(), scenario, func(c Call, made bool) Do { return Do{Kill: p.Is(c, made)} })
	if err == nil && !r.Killed() {
		err = r.Bad()
	}
	return r, err
}

// Copy copies what a run has left, so that several can begin with it.
func (s Stand) Copy(t *testing.T, dir string) Stand {
	t.Helper()
	if out, err := exec.Command("cp", "-a", s.Dir, dir).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return Stand{Binary: s.Binary, Dir: dir}
}

// Ruin is what a killed process has left.
type Ruin struct {
	At    Point
	Stand Stand
	Left  *Result
}

// changing are the kinds of calls that change what is on disk.
var changing = []string{
	"openat to create", "write", "pwrite64", "ftruncate", "fdatasync", "fsync", "syncfs",
	"mkdirat", "symlinkat", "linkat", "renameat", "renameat2", "unlinkat",
}

// Ruins lets processes be killed at up to n calls, of each kind that changes something.
func Ruins(t *testing.T, dir string, scenario Scenario, n int, random *rand.Rand) []Ruin {
	t.Helper()
	points := Every(Record(t, Stand{Binary: Self(t), Dir: dir + "/record"}, scenario))
	maps.DeleteFunc(points, func(kind string, _ []Point) bool { return !slices.Contains(changing, kind) })
	var all []Ruin
	for i, p := range Sample(points, n, random) {
		stand := Stand{Binary: Self(t), Dir: fmt.Sprint(dir, "/ruin", i)}
		left, err := stand.Kill(t, scenario, p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Ruin{p, stand, left})
	}
	return all
}

// Scenarios make a store, fill it, with checkpoints in between, close it, and open it again.
var Scenarios = []Scenario{
	{Name: "one writer", Seed: 3, Writers: 1, Runs: []int{40, 4}, Padding: 24 << 10},
	{Name: "three writers", Seed: 4, Writers: 3, Runs: []int{14, 2}, Padding: 24 << 10},
}

// Recovery opens a store that a killed process has left, and makes a few transactions.
var Recovery = Scenario{Name: "recovery", Seed: 5, Writers: 1, Runs: []int{2}, Padding: 100}
