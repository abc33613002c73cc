package powercut

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/containerd/crash/workload"
)

const (
	runsVariable = "FSMETA_CRASH_RUNS"
	seedVariable = "FSMETA_CRASH_SEED"
	someCuts     = 60  // of each filesystem, in the short form
	perRound     = 100 // cuts of one round of records
)

// cuts returns how many cuts of each filesystem are asked for.
func cuts(t *testing.T) int {
	text := os.Getenv(runsVariable)
	if text == "" {
		return someCuts
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number of runs", runsVariable, text)
	}
	return n
}

// choices returns where random choices come from, and says how to repeat them.
func choices(t *testing.T) *rand.Rand {
	seed := rand.Uint64() >> 1
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s=%q is not a number", seedVariable, text)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// After a power cut at any moment the store opens, has all that was acknowledged, nothing
// in part, and can be written.
func TestPowerCut(t *testing.T) {
	for _, f := range filesystems {
		t.Run(f.name, func(t *testing.T) {
			need(t, f)
			r := choices(t)
			empty := f.empty(t)
			for left := cuts(t); left > 0 && !t.Failed(); left -= perRound {
				round(t, r, f, empty, min(left, perRound))
			}
		})
	}
}

// round makes a record of each kind and tries some cuts of each.
func round(t *testing.T, r *rand.Rand, f filesystem, empty image, n int) {
	durable := recording{filesystem: f, rand: r, syncAll: true, runs: []run{
		{Txns: 100},
		{Txns: 100, KillAfter: 100 + r.IntN(600)}, // of 800
		{Txns: 50},
	}}.record(t, empty, nil)
	tryCuts(t, r, f, "several runs, one of which is killed", durable, n*4/10)

	left, prior := between(r, durable)
	second := recording{filesystem: f, rand: r, runs: []run{{Txns: 40}}}.record(t, left, prior)
	tryCuts(t, r, f, "a run after a power cut", second, n/10)

	alone := recording{filesystem: f, rand: r, runs: []run{
		{Txns: 100, Alone: true},
		{Txns: 100, Alone: true},
	}}.record(t, empty, nil)
	tryCuts(t, r, f, "runs with one writer", alone, n/10)

	relaxed := recording{filesystem: f, rand: r, runs: []run{
		{Txns: 150, Relaxed: true},
		{Txns: 150, Relaxed: true, KillAfter: 300 + r.IntN(600)}, // of 1200
		{Txns: 20, Relaxed: true, Slow: true},
	}}.record(t, empty, nil)
	tryCuts(t, r, f, "relaxed runs, one of which is killed", relaxed, n-n*4/10-n/10-n/10)
}

// between returns what a power cut in the midst of a record has left, and what had been
// said.
func between(r *rand.Rand, rec *record) (image, [][]workload.Note) {
	third := len(rec.events) / 3
	c := cut{at: third + r.IntN(third), keep: some, rand: r}
	runs, _ := rec.promised(c.at)
	return newCutter(rec).image(c), runs
}

// tryCuts judges random cuts of a record, and fails the test where one is wrong.
func tryCuts(t *testing.T, r *rand.Rand, f filesystem, what string, rec *record, n int) {
	t.Helper()
	begin := time.Now()
	j := judge{f, t.TempDir()}
	images := newCutter(rec)
	for _, c := range randomCuts(r, rec, n) {
		left := images.image(c)
		runs, settled := rec.promised(c.at)
		err := j.verdict(t.Context(), left, runs, settled)
		if err != nil {
			t.Errorf("%s, power cut %v: %s", what, c, short(err))
			if err := j.keep(t.ArtifactDir(), c, left, rec); err != nil {
				t.Error(err)
			}
		}
		if errors.Is(err, errJudge) {
			t.FailNow()
		}
	}
	t.Logf("%s: %d cuts in %v", what, n, time.Since(begin).Round(time.Millisecond))
}

// short returns what an error says, or the beginning of it.
func short(err error) string {
	text := err.Error()
	if len(text) > 2000 {
		text = text[:2000] + " …"
	}
	return text
}
