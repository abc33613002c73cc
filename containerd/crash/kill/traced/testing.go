//go:build linux && amd64

package traced

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Runs returns how many runs a test is to make: as many as it says itself, or as
// FSMETA_CRASH_RUNS does. All is more than there are.
func Runs(t *testing.T, short int) int {
	t.Helper()
	switch text := os.Getenv("FSMETA_CRASH_RUNS"); text {
	case "":
		return short
	case "all":
		return All
	default:
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("FSMETA_CRASH_RUNS=%s: %v", text, err)
		}
		return n
	}
}

// All is more runs than there are.
const All = 1 << 30

// Random returns what a test makes its choices with, and prints how to repeat them.
func Random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("FSMETA_CRASH_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("FSMETA_CRASH_SEED=%s: %v", text, err)
		}
	}
	t.Logf("FSMETA_CRASH_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Skip skips a test that can't run here, where it need not.
func Skip(t *testing.T, why ...any) {
	t.Helper()
	if os.Getenv("FSMETA_CRASH") == "1" {
		t.Fatal(why...)
	}
	t.Skip(why...)
}

// Need skips a test where no process can be traced.
func Need(t *testing.T) {
	t.Helper()
	dir := Memory(t)
	stand := Stand{Binary: Self(t), Dir: dir}
	_, err := stand.Run(t.Context(), Scenario{Writers: 1}, func(Call, bool) Do { return Do{} })
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSYS) {
		Skip(t, "a process can't trace its children here:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Memory returns a directory in memory, where there is one: the disk is not what is tried.
func Memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fsmeta-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Self returns the path of the test binary.
func Self(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.Abs(self)
	}
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// Record runs a scenario to its end and returns its calls.
func Record(t *testing.T, stand Stand, scenario Scenario) []Call {
	t.Helper()
	var calls []Call
	r, err := stand.Run(t.Context(), scenario, func(c Call, made bool) Do {
		if !made {
			calls = append(calls, c)
		}
		return Do{}
	})
	if err == nil {
		err = r.Bad()
	}
	if err == nil {
		err = r.clean()
	}
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// clean returns an error where a run has ended with one.
func (r *Result) clean() error {
	for _, e := range r.Ended {
		if e.Err != "" {
			return errors.New(e.Err)
		}
	}
	return nil
}
