package powercut

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// defectVariable says which defect the library of a defective machine has.
const defectVariable = "FSMETA_CRASH_POWERCUT_DEFECT"

// defects are what the tests must see.
var defects = []struct {
	name string
	run  run
}{
	{"no fdatasync of the journal", run{Txns: 60}},
	{"checkpoints without a sync of the tree", run{Txns: 200}},
	// With several writers, lines are synced along with those of the transactions before,
	// so that the tree is ahead of them much less often.
	{"renames before the fdatasync", run{Txns: 150, Alone: true}},
	{"relaxed commits that are synced too late", run{Txns: 20, Relaxed: true, Slow: true}},
}

// edits put all defects into the library, each to be chosen by the variable. The renames
// that come too early are synced, as a filesystem may do by itself at any time: else hundreds
// of cuts miss the moment at which it has.
var edits = []struct{ file, old, new string }{
	{"internal/journal/write.go", "func (f *File) Sync() error {", `func (f *File) Sync() error {
	if fault.Defect("no fdatasync of the journal") {
		return nil
	}
`},
	{"internal/tree/sync.go", "t.syncing.Lock() //", `if fault.Defect("checkpoints without a sync of the tree") {
		return nil, nil
	}
	t.syncing.Lock() //`},
	{"internal/commit/flush.go", "if err := j.Sync(); err != nil { // the instant of commit\n", `early := fault.Defect("renames before the fdatasync")
	if early {
		for _, x := range batch {
			_ = w.tree.BringUp(x.work, w.lags)
			_, _ = w.tree.Sync(x.names, true)
		}
	}
	if err := j.Sync(); err != nil {
`},
	{"internal/commit/flush.go", "for _, x := range batch {\n\t\tw.noteLag(", "for _, x := range batch {\n\t\tif early {\n\t\t\tbreak\n\t\t}\n\t\tw.noteLag("},
	{"internal/commit/flush.go", "time.AfterFunc(relaxedFor, func() {", `time.AfterFunc(lateFor(), func() {`},
	{"internal/commit/flush.go", "// relaxedFor is", `func lateFor() time.Duration {
	if fault.Defect("relaxed commits that are synced too late") {
		return time.Hour
	}
	return relaxedFor
}

// relaxedFor is`},
	{"internal/fault/fault.go", "import (\n", "import (\n\t\"os\"\n"},
	{"internal/fault/fault.go", "// What can be wrong with the snapshot", `// Defect reports whether the library has a defect.
func Defect(name string) bool { return os.Getenv("` + defectVariable + `") == name }

// What can be wrong with the snapshot`},
}

// With a defect in the library that only a power cut shows, the verdicts are against it.
func TestDefectsAreSeen(t *testing.T) {
	for _, f := range filesystems {
		need(t, f)
	}
	binary := defectiveBinary(t)
	for _, f := range filesystems {
		empty := f.empty(t)
		for _, d := range defects {
			t.Run(f.name+"/"+d.name, func(t *testing.T) {
				c := recording{filesystem: f, rand: choices(t), runs: []run{d.run}, binary: binary, env: []string{defectVariable + "=" + d.name}}
				seeDefect(t, c, empty)
			})
		}
	}
}

// seeDefect tries cuts until one is judged wrong.
func seeDefect(t *testing.T, c recording, empty image) {
	t.Helper()
	const tries, each = 300, 100 // cuts, and of one record
	var rec *record
	j := judge{c.filesystem, t.TempDir()}
	for i := range tries {
		if i%each == 0 {
			rec = c.record(t, empty, nil)
		}
		cut := randomCuts(c.rand, rec, 1)[0]
		runs, settled := rec.promised(cut.at)
		err := j.verdict(t.Context(), newCutter(rec).image(cut), runs, settled)
		if errors.Is(err, errJudge) {
			t.Fatal(err)
		}
		if err != nil {
			t.Logf("seen by cut %d, %v: %s", i+1, cut, short(err))
			return
		}
	}
	t.Errorf("%d cuts have not seen it", tries)
}

// defectiveBinary builds this test with a library that has the defects.
func defectiveBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	overlay, err := writeOverlay(dir)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "defective.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", overlay, "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the defective library: %v\n%s", err, out)
	}
	return binary
}

// writeOverlay writes the edited files to a folder, and to another file there which
// compile in place of which. It returns the name of that.
func writeOverlay(dir string) (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/fsmeta/fsmeta/fsmeta").Output()
	if err != nil {
		return "", err
	}
	library := strings.TrimSpace(string(out))
	replace := map[string]string{}
	for _, e := range edits {
		from, to := filepath.Join(library, e.file), filepath.Join(dir, strings.ReplaceAll(e.file, "/", "-"))
		if earlier, ok := replace[from]; ok {
			from = earlier
		} else {
			replace[from] = to
		}
		if err := editFile(from, to, e.old, e.new); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

func editFile(from, to, old, new string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), old); n != 1 {
		return fmt.Errorf("%s has changed: it has %q %d times, so no defect can be put there", from, old, n)
	}
	return os.WriteFile(to, []byte(strings.Replace(string(text), old, new, 1)), 0o600)
}
