//go:build linux && amd64

package traced

import (
	"context"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// tiny makes a store, does one transaction, and closes it.
var tiny = Scenario{Seed: 1, Writers: 1, Runs: []int{1}}

// A process that is killed before a call has not made it, one that is killed after it has,
// and one is told that a call of its fails, and goes on.
func TestDecide(t *testing.T) {
	Need(t)
	for name, c := range map[string]struct {
		decide func(c Call, made bool) Do
		made   bool
		told   string
	}{
		"before": {func(c Call, made bool) Do { return Do{Kill: Point{"mkdirat", 2, false}.Is(c, made)} }, false, ""},
		"after":  {func(c Call, made bool) Do { return Do{Kill: Point{"mkdirat", 2, true}.Is(c, made)} }, true, ""},
		"failed": {func(c Call, made bool) Do {
			if (Point{"mkdirat", 2, false}).Is(c, made) {
				return Do{Errno: unix.EDQUOT}
			}
			return Do{}
		}, false, unix.EDQUOT.Error()},
		"never": {func(Call, bool) Do { return Do{} }, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			stand := Stand{Binary: Self(t), Dir: Memory(t)}
			r, err := stand.Run(t.Context(), tiny, c.decide)
			if err != nil {
				t.Fatal(err)
			}
			if killed := name == "before" || name == "after"; r.Killed() != killed || !killed && r.Bad() != nil {
				t.Errorf("killed: %v, %v", r.Killed(), r.Bad())
			}
			if _, err := os.Stat(stand.Store()); (err == nil) != c.made {
				t.Errorf("the second directory: %v", err)
			}
			told := ""
			if len(r.Ended) == 1 {
				told = r.Ended[0].Err
			}
			if !strings.Contains(told, c.told) || c.told == "" && told != "" {
				t.Errorf("it was told %q, want %q", told, c.told)
			}
		})
	}
}

// A process that does not end is told from one that does, and says where it is.
func TestHung(t *testing.T) {
	Need(t)
	ctx, cancel := context.WithCancel(t.Context())
	stand := Stand{Binary: Self(t), Dir: Memory(t)}
	endless := Scenario{Seed: 1, Writers: 1, Runs: []int{1 << 40}}
	r, err := stand.Run(ctx, endless, func(c Call, _ bool) Do {
		if c.Kind == "fdatasync" && c.N == 3 {
			cancel()
		}
		return Do{}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Bad(); err == nil || !strings.Contains(err.Error(), "it hung") || !strings.Contains(err.Error(), "workload.Run(") {
		t.Errorf("%v", err)
	}
}
