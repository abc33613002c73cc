package fsmeta

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a repair has set aside is told with its identifiers, or that they can't be.
func TestSetAside(t *testing.T) {
	s := tampered(t, newSpecimen(t, false))
	odd := filepath.Join(filepath.Dir(s.dir), "store [1]*")
	s.check(os.Rename(s.dir, odd))
	s.dir = odd
	wantAside := func(want ...string) {
		t.Helper()
		ids, err := SetAside(s.dir)
		slices.Sort(ids)
		if got := slices.Compact(ids); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	wantUnknown := func() {
		t.Helper()
		if ids, err := SetAside(s.dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q, %v, want an ErrDamaged", ids, err)
		}
	}
	wantAside()
	id := func(name string) string {
		m, err := newTree(s.dir).read(name)
		s.check(err)
		return m.id
	}
	long, view, top, work := id(longDamageName), id("view"), id("top"), id(workDamageName)
	s.remove(dirOf("base"))
	_, err := Repair(bg, s.dir, nil)
	s.check(err)
	want := []string{long, view, top, work}
	slices.Sort(want)
	wantAside(want...)

	aside, err := filepath.Glob(strings.NewReplacer("[", "\\[", "*", "\\*").Replace(s.dir) + "/damaged/*/snapshots/view")
	if err != nil || len(aside) != 1 {
		t.Fatal(aside, err)
	}
	data, err := os.ReadFile(aside[0] + "/metadata.json")
	s.check(err)
	for _, bad := range []string{
		strings.Replace(string(data), `"id": "`, `"id": "9`, 1),
		"",
	} {
		s.check(os.WriteFile(aside[0]+"/metadata.json", []byte(bad), fileMode))
		wantUnknown()
	}
	// A person has looked at it.
	s.check(os.WriteFile(aside[0]+"/metadata.json", []byte(strings.Replace(string(data), crcLine(string(data)), "", 1)), fileMode))
	wantAside(want...)
	s.check(os.Remove(aside[0] + "/metadata.json"))
	wantUnknown()
	s.check(os.RemoveAll(aside[0]))

	// What is no snapshot doesn't matter; what was being built does.
	dir := filepath.Dir(filepath.Dir(aside[0]))
	s.check(os.WriteFile(dir+"/snapshots/notes 2", nil, fileMode))
	s.check(os.MkdirAll(dir+"/staging/0123abcd-1", dirMode))
	wantAside(slices.DeleteFunc(want, func(id string) bool { return id == view })...)
	s.check(os.WriteFile(dir+"/staging/0123abcd-1/metadata.json", []byte("{"), fileMode))
	wantUnknown()
}
