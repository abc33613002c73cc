package fsmeta_test

import (
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// below says which of the rooms each room may import. house and docs draw the same.
var below = map[string]string{
	".":       "commit disk fault format fsck journal layout tree view",
	"fsck":    "commit disk fault format journal layout tree view",
	"commit":  "disk fault format journal tree turn view",
	"layout":  "disk fault format journal",
	"turn":    "fault",
	"view":    "fault format journal tree",
	"journal": "disk fault format",
	"tree":    "disk fault format",
	"disk":    "fault",
	"format":  "fault",
	"fault":   "",
}

// The rooms import downward only, and nothing else than the list says.
func TestImportsGoDownward(t *testing.T) {
	const internal = "github.com/fsmeta/fsmeta/fsmeta/internal/"
	rooms := slices.Sorted(maps.Keys(below))
	for _, entry := range must(os.ReadDir("internal")) {
		if !slices.Contains(rooms, entry.Name()) {
			t.Errorf("internal/%s is not in the list", entry.Name())
		}
	}
	for _, room := range rooms {
		dir := filepath.Join("internal", room)
		if room == "." {
			dir = "."
		}
		for _, path := range must(filepath.Glob(dir + "/*.go")) {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file := must(parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly))
			for _, spec := range file.Imports {
				to, ours := strings.CutPrefix(must(strconv.Unquote(spec.Path.Value)), internal)
				if ours && !slices.Contains(strings.Fields(below[room]), to) {
					t.Errorf("%s imports %s", path, to)
				}
			}
		}
	}
}
