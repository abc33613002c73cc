//go:build linux && amd64

package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"golang.org/x/sys/unix"
)

// The tests see a library that does not look at the errors of some of its calls.
func TestFaultSeesDefects(t *testing.T) {
	traced.Need(t)
	for name, c := range map[string]struct {
		kind string
		kill int
		edit traced.Edit
	}{
		"a line that can't be written": {"pwrite64", 60, traced.Edit{
			File: "internal/commit/append.go",
			Old:  "if err := j.Append(t); err != nil {",
			New:  "if err := j.Append(t); false {",
		}},
		"a journal that can't be synced": {"fdatasync", 0, traced.Edit{
			File: "internal/commit/flush.go",
			Old:  "if err := j.Sync(); err != nil {",
			New:  "if err := j.Sync(); false {",
		}},
		"a rename that fails": {"renameat2", 0, traced.Edit{
			File: "internal/commit/flush.go",
			Old:  "w.noteLag(x.names, w.tree.BringUp(x.work, w.lags))",
			New:  "_ = w.tree.BringUp(x.work, w.lags)",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s := traced.Memory(t), traced.Scenarios[0]
			binary := traced.Defective(t, dir, c.edit)
			for n := 1; n < 40; n++ {
				f := fault{kind: c.kind, n: n, errno: unix.EIO, kill: c.kill}
				stand := traced.Stand{Binary: binary, Dir: filepath.Join(dir, fmt.Sprint(n))}
				_, err := f.try(t, stand, s)
				if err != nil {
					t.Logf("%v: %.500v", f, err)
					return
				}
				if err := os.RemoveAll(stand.Dir); err != nil {
					t.Fatal(err)
				}
			}
			t.Error("no failure has shown the defect")
		})
	}
}
