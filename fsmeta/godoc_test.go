package fsmeta_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the documentation of the public packages to testdata/godoc")

// The public packages promise what testdata/godoc says: a change of it is a change for users.
// After one that is meant, run go test -run TestPublicDocumentation -update ./fsmeta.
func TestPublicDocumentation(t *testing.T) {
	for _, name := range []string{"fsmeta", "lock", "atomic"} {
		out, err := exec.Command("go", "doc", "-all", "github.com/fsmeta/fsmeta/"+name).Output()
		if err != nil {
			t.Fatalf("go doc %s: %v", name, err)
		}
		golden := filepath.Join("testdata", "godoc", name+".txt")
		if *update {
			if err := os.WriteFile(golden, out, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := must(os.ReadFile(golden)); string(want) != string(out) {
			t.Errorf("go doc -all %s differs from %s", name, golden)
		}
	}
}
