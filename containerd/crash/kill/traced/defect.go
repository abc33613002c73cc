//go:build linux && amd64

package traced

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Edit is a change of the library's source: in File, a path below fsmeta/, Old, which is
// there once, becomes New.
type Edit struct{ File, Old, New string }

// Defective builds the test binary of the package that is tested, with a defect in the
// library, in dir.
func Defective(t *testing.T, dir string, edits ...Edit) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		Skip(t, "there is no go command to build a defective library with")
	}
	source := strings.TrimSpace(command(t, "go", "list", "-f", "{{.Dir}}", "github.com/fsmeta/fsmeta/fsmeta"))
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for _, e := range edits {
		text, err := os.ReadFile(filepath.Join(source, e.File))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), e.Old); n != 1 {
			t.Fatalf("%s has %d times %q: adapt the defect to the library", e.File, n, e.Old)
		}
		changed := filepath.Join(dir, strings.ReplaceAll(e.File, "/", "-"))
		write(t, changed, []byte(strings.Replace(string(text), e.Old, e.New, 1)))
		overlay.Replace[filepath.Join(source, e.File)] = changed
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay.json"), text)
	binary := filepath.Join(dir, "defective.test")
	command(t, "go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".")
	return binary
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
