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
		fault fault
		edit  traced.Edit
	}{
		"a line that can't be written": {fault{kind: "pwrite64", kill: 60}, traced.Edit{
			File: "internal/commit/append.go",
			Old:  "if err := j.Append(t); err != nil {",
			New:  "if err := j.Append(t); false {",
		}},
		"a journal that can't be synced": {fault{kind: "fdatasync"}, traced.Edit{
			File: "internal/commit/flush.go",
			Old:  "if err := j.Sync(); err != nil {",
			New:  "if err := j.Sync(); false {",
		}},
		// One that fails once is made up for by the next try.
		"renames that fail": {fault{kind: "renameat2", always: true}, forgotten},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s := traced.Memory(t), traced.Scenarios[0]
			binary := traced.Defective(t, dir, c.edit)
			for n := 1; n < 40; n++ {
				f := c.fault
				f.n, f.errno = n, unix.EIO
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

// forgotten is a library that forgets which names are not brought up yet.
var forgotten = traced.Edit{
	File: "internal/commit/flush.go",
	Old:  "w.noteLag(x.names, w.tree.BringUp(x.work, w.lags))",
	New:  "_ = w.tree.BringUp(x.work, w.lags)",
}
