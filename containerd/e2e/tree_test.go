//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree is what a container sees: for each path what stands there, in one line.
type tree map[string]string

// apply returns the tree that the layers make.
func apply(layers []layer) tree {
	seen := tree{"/": "directory 755 0:0"} // which layers can't change
	for _, l := range layers {
		for _, e := range l { // what it deletes is of those below
			if e.kind == whiteout || e.kind == opaque {
				seen.remove(path.Join("/", e.path), e.kind == opaque)
			}
		}
		for _, e := range l {
			name := path.Join("/", e.path)
			switch e.kind {
			case directory:
				seen[name] = fmt.Sprintf("directory %o %d:%d", e.mode, e.uid, e.gid)
			case file:
				seen[name] = fmt.Sprintf("file %o %d:%d %d %x", e.mode, e.uid, e.gid, modified.Unix(), sha256.Sum256(e.content))
			case symlink:
				seen[name] = fmt.Sprintf("symlink %d:%d %s", e.uid, e.gid, e.target)
			case hardlink:
				seen[name] = seen[path.Join("/", e.target)]
			}
		}
	}
	for _, name := range []string{"/proc", "/sys", "/dev", "/run"} { // others are mounted there
		delete(seen, name)
	}
	return seen
}

// remove removes what is in a directory, and the path itself.
func (seen tree) remove(dir string, keep bool) {
	for name := range seen {
		if strings.HasPrefix(name, dir+"/") || name == dir && !keep {
			delete(seen, name)
		}
	}
}

// look is a script that prints the tree in a container: a line for each path, and another
// with the checksum of each file.
const look = `
cd /
stat -c '/ directory %a %u:%g' /
list() { find * -xdev \( -path proc -o -path sys -o -path dev -o -path run \) -prune -o "$@"; }
list -type d -exec stat -c '/%n directory %a %u:%g' {} +
list -type f -exec stat -c '/%n file %a %u:%g %Y' {} +
list -type l -exec stat -c '/%n symlink %u:%g %N' {} +
list -type f -exec sha256sum {} +
`

// parseTree returns the tree that look has printed.
func parseTree(t testing.TB, output string) tree {
	t.Helper()
	seen := tree{}
	for line := range strings.Lines(output) {
		line = strings.TrimSuffix(line, "\n")
		if sum, name, ok := strings.Cut(line, "  "); ok { // of a file
			if seen["/"+name] == "" {
				t.Fatalf("the container says %q, of a file that it has not listed", line)
			}
			seen["/"+name] += " " + sum
			continue
		}
		name, what, _ := strings.Cut(line, " ")
		if link, quoted, ok := strings.Cut(what, "'"); ok { // symlink 0:0 'NAME' -> 'TARGET'
			fields := strings.Split(quoted, "'")
			what = link + fields[2]
		}
		seen[name] = what
	}
	return seen
}

// checkTree fails the test unless a container of the image sees the tree.
func (s *stand) checkTree(im *image, id string, want tree, options ...string) {
	s.Helper()
	got := parseTree(s, s.run(im.name, id, look, append(options, "--rm")...))
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("what a container of %s sees (-want +got):\n%s", im.name, diff)
	}
}
