//go:build linux

package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-cmp/cmp/cmpopts"
)

// listed is a line of ctr snapshots ls.
type listed struct{ Key, Parent, Kind string }

// sorted compares lists without their order.
var sorted = cmpopts.SortSlices(func(a, b listed) bool { return cmp.Less(a.Key, b.Key) })

// list returns what ctr snapshots ls prints for a namespace.
func (s *stand) list(namespace string) []listed {
	s.Helper()
	output, err := s.ctrIn(namespace, "snapshots", "--snapshotter", s.snapshotter, "ls")
	must(s, err)
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	// The columns begin where their titles do: a key may have spaces in it.
	parent, kind := strings.Index(lines[0], "PARENT"), strings.Index(lines[0], "KIND")
	if parent < 0 || kind < 0 {
		s.Fatalf("ctr snapshots ls prints %q, without PARENT and KIND", lines[0])
	}
	all := []listed{}
	for _, line := range lines[1:] {
		all = append(all, listed{
			Key:    strings.TrimSpace(line[:parent]),
			Parent: strings.TrimSpace(line[parent:kind]),
			Kind:   strings.TrimSpace(line[kind:]),
		})
	}
	return all
}

// checkEmpty fails the test unless everything that the daemon has had is gone before
// long, metadata and content.
func (s *stand) checkEmpty() {
	s.Helper()
	eventually(s, "everything is removed", func() error {
		for _, dir := range []string{"meta/snapshots", "snapshots"} {
			entries, err := os.ReadDir(filepath.Join(s.root(), dir))
			if err != nil {
				return err
			}
			if len(entries) > 0 {
				return fmt.Errorf("%d entries are in %s, %s for one", len(entries), dir, entries[0].Name())
			}
		}
		return nil
	})
	s.check()
}
