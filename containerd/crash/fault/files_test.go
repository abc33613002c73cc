//go:build linux && amd64

package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"golang.org/x/sys/unix"
)

func goOn(traced.Call, bool) traced.Do { return traced.Do{} }

// A process that can have few files open is told so, whatever it comes to.
func TestFilesFew(t *testing.T) {
	traced.Need(t)
	dir := traced.Memory(t)
	failed, whole := 0, 0
	for files := uint64(4); files < 32; files++ {
		s := traced.Scenarios[int(files)%len(traced.Scenarios)]
		s.Files = files
		stand := traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, fmt.Sprint(files))}
		r, err := stand.Run(t.Context(), s, goOn)
		if err == nil {
			err = r.Bad()
		}
		if err == nil {
			err = stand.Judge(t.Context(), s.Writers, r)
		}
		if err = errors.Join(err, os.RemoveAll(stand.Dir)); err != nil {
			t.Errorf("with %d files: %v", files, err)
			continue
		}
		if o := outcomes(s, r)[0]; o.failed > 0 || o.err != "" {
			failed++
		} else {
			whole++
		}
	}
	t.Logf("%d limits made a run fail, with %d it went through", failed, whole)
	if failed == 0 || whole == 0 {
		t.Error("the limits were not those that matter")
	}
}

// A process that has no more files for a while goes on when it has, on the same store.
func TestFilesForAWhile(t *testing.T) {
	traced.Need(t)
	s := traced.Scenario{Seed: 7, Writers: 1, Runs: []int{60}, Padding: 24 << 10, Files: 64, Squeeze: true}
	stand := traced.Stand{Binary: traced.Self(t), Dir: traced.Memory(t)}
	r, err := stand.Run(t.Context(), s, goOn)
	if err == nil {
		err = r.Bad()
	}
	if err == nil {
		err = stand.Judge(t.Context(), s.Writers, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	o := outcomes(s, r)[0]
	if o.err != "" || o.failed == 0 || o.acked < 40 {
		t.Errorf("%+v", o)
	}
	for _, n := range r.Runs[0] {
		if n.Failed != "" && (n.Txn < 20 || n.Txn >= 40 || !strings.Contains(n.Failed, unix.EMFILE.Error())) {
			t.Errorf("transaction %d: %s", n.Txn, n.Failed)
		}
	}
	t.Logf("%d transactions failed, %d did not", o.failed, o.acked)
}
