//go:build linux && amd64

package kill

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
)

// The tests see a library that makes the renames of a transaction before there is a line
// that says so, and one that writes no line at all.
func TestKillSeesDefects(t *testing.T) {
	traced.Need(t)
	for name, edit := range map[string]traced.Edit{
		"renames before the line": {
			File: "internal/commit/append.go",
			Old:  "\tif err = w.writeLine(",
			New:  "\t_ = w.tree.BringUp(work, w.lags)\n\twork = &tree.Work{}\n\tif err = w.writeLine(",
		},
		"no line": {
			File: "internal/journal/write.go",
			Old:  "off+int64(n)); err != nil {\n\t\treturn err\n\t}\n\tif err := f.put(raw, off); err != nil {\n",
			New:  "off+int64(n)); err != nil {\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s := traced.Memory(t), traced.Scenarios[0]
			binary := traced.Defective(t, dir, edit)
			for n := 1; n < 40; n++ {
				stand := traced.Stand{Binary: binary, Dir: filepath.Join(dir, fmt.Sprint(n))}
				r, err := stand.Kill(t, s, traced.Point{Kind: "renameat2", N: n, After: true})
				if err != nil {
					t.Fatal(err)
				}
				if err := stand.Judge(t.Context(), s.Writers, r); err != nil {
					t.Logf("killed after rename %d: %.500v", n, err)
					return
				}
			}
			t.Error("no kill after a rename has shown the defect")
		})
	}
}

// The tests see a library that does not bring the tree up to the journal when it takes
// over, and one that forgets which identifiers were reserved.
func TestKillRecoverySeesDefects(t *testing.T) {
	traced.Need(t)
	for name, edit := range map[string]traced.Edit{
		"no replay": {
			File: "internal/commit/takeover.go",
			Old:  "if err := w.bringUpLines(w.view.Journal().Header().Txn, rebuild); err != nil {",
			New:  "_ = rebuild\n\tif err := error(nil); err != nil {",
		},
		"identifiers forgotten": {
			File: "internal/journal/journal.go",
			Old:  "f.nextID = max(f.nextID, nextID)",
			New:  "_ = nextID",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s := traced.Memory(t), traced.Scenarios[0]
			binary := traced.Defective(t, dir, edit)
			for n := 1; n < 40; n++ {
				stand := traced.Stand{Binary: traced.Self(t), Dir: filepath.Join(dir, fmt.Sprint(n))}
				left, err := stand.Kill(t, s, traced.Point{Kind: "renameat", N: n})
				if err != nil {
					t.Fatal(err)
				}
				stand.Binary = binary
				r, err := stand.Run(t.Context(), traced.Recovery, func(traced.Call, bool) traced.Do { return traced.Do{} })
				if err != nil {
					t.Fatal(err)
				}
				if err := stand.Judge(t.Context(), traced.Recovery.Writers, left, r); err != nil {
					t.Logf("recovered after a kill at rename %d: %.500v", n, err)
					return
				}
			}
			t.Error("no recovery has shown the defect")
		})
	}
}
