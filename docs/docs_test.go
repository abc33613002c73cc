package docs

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// named is what the pages say of a piece of code: its names, and the file that they are in.
var named = regexp.MustCompile("(`[\\w.]+`(?:(?:, | and )`[\\w.]+`)*) in \\[[^]]*\\]\\(([^)]+\\.go)\\)")

// Each function that a page names is in the file that the page says.
func TestNamedFunctions(t *testing.T) {
	wholeRepository(t)
	for _, page := range []string{"architecture.md", "crash-tests.md"} {
		found := named.FindAllStringSubmatch(read(t, page), -1)
		if len(found) < 10 {
			t.Errorf("%s names the functions of %d files: is the pattern still that of the page?", page, len(found))
		}
		for _, f := range found {
			have := declared(t, f[2])
			for name := range strings.SplitSeq(strings.ReplaceAll(f[1], " and ", ", "), ", ") {
				if name = strings.Trim(name, "`"); !slices.Contains(have, name) {
					t.Errorf("%s: %s is not in %s", page, name, f[2])
				}
			}
		}
	}
}

// declared returns the names of functions, methods, types, variables and constants of a file.
func declared(t *testing.T, path string) (names []string) {
	t.Helper()
	for _, d := range parse(t, path, 0).Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names = append(names, receiver(d)+d.Name.Name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names = append(names, spec.Name.Name)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

// receiver returns "T." for a method of T or *T.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if name, ok := typ.(*ast.Ident); ok {
		return name.Name + "."
	}
	return "?."
}

var arrow = regexp.MustCompile(`(?m)^ +(\w+)(?:\[".*?"\])? --> (\w+)`)

// The diagram of the rooms has an arrow for each import, or a way of several; and no arrow is
// without an import.
func TestRoomsAreDrawn(t *testing.T) {
	drawn := map[string][]string{}
	for _, a := range arrow.FindAllStringSubmatch(read(t, "architecture.md"), -1) {
		drawn[a[1]] = append(drawn[a[1]], a[2])
	}
	rooms := map[string]string{"fsmeta": "../fsmeta", "lock": "../lock", "atomic": "../atomic"}
	inside, err := os.ReadDir("../fsmeta/internal")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range inside {
		rooms[entry.Name()] = "../fsmeta/internal/" + entry.Name()
	}
	for room, dir := range rooms {
		imports := importsOf(t, dir)
		for _, to := range imports {
			if !reaches(drawn, room, to) {
				t.Errorf("%s imports %s, and the diagram has no way from the one to the other", room, to)
			}
		}
		for _, to := range drawn[room] {
			if !slices.Contains(imports, to) {
				t.Errorf("the diagram has an arrow from %s to %s, which it does not import", room, to)
			}
		}
	}
}

// reaches reports whether arrows lead from a room to another.
func reaches(drawn map[string][]string, from, to string) bool {
	return slices.ContainsFunc(drawn[from], func(next string) bool { return next == to || reaches(drawn, next, to) })
}

// importsOf returns the rooms that the package in a directory imports, without its tests.
func importsOf(t *testing.T, dir string) (rooms []string) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no Go files: %v", dir, err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		for _, spec := range parse(t, path, parser.ImportsOnly).Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if to, ours := strings.CutPrefix(to, "github.com/fsmeta/fsmeta/"); ours {
				rooms = append(rooms, to[strings.LastIndex(to, "/")+1:])
			}
		}
	}
	return rooms
}

// link is a link to a place in this repository, in a line that is not code.
var (
	link    = regexp.MustCompile(`\]\(([^)\s]*)\)`)
	code    = regexp.MustCompile("`[^`]*`")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Each link from a page to a file of this repository, or to a heading, leads somewhere.
func TestLinks(t *testing.T) {
	wholeRepository(t)
	links := 0
	for _, page := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(prose(read(t, page)), -1) {
			path, anchor, _ := strings.Cut(l[1], "#")
			if strings.Contains(path, ":") {
				continue // somewhere else
			}
			links++
			target := filepath.Join(filepath.Dir(page), path)
			if path == "" {
				target = page
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", page, l[1], err)
			} else if anchor != "" && strings.HasSuffix(target, ".md") && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s: there is no such heading", page, l[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("%d links are found: is the pattern right?", links)
	}
}

// pages returns the pages of this repository.
func pages(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".md"):
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// prose returns a page without its code.
func prose(page string) string {
	var text strings.Builder
	fenced := false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		} else if !fenced && !strings.HasPrefix(line, "    ") {
			text.WriteString(line)
		}
	}
	return code.ReplaceAllString(text.String(), "")
}

// anchors returns what links to the headings of a page end in, as GitHub makes it.
func anchors(page string) (all []string) {
	for _, h := range heading.FindAllStringSubmatch(page, -1) {
		text := link.ReplaceAllString(h[1], "") // of a link in it, the text stays
		all = append(all, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(text), ""), " ", "-"))
	}
	return all
}

func parse(t *testing.T, path string, mode parser.Mode) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, cmp.Or(mode, parser.SkipObjectResolution))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wholeRepository skips a test that looks at other modules than this, where they are not there: a module is
// downloaded without those inside of it.
func wholeRepository(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("../containerd/go.mod"); err != nil {
		t.Skip("only this module is there, and not the whole repository:", err)
	}
}
