package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// spoilt makes a store with the snapshot sound, and so many others that are damaged.
func spoilt(t *testing.T, damaged int) (dir string) {
	t.Helper()
	dir = closed(t, func(ctx context.Context, s *fsmeta.Store) error {
		_, err := s.CreateActive(ctx, "sound", "", false)
		for i := range damaged {
			_, create := s.CreateActive(ctx, fmt.Sprint(i), "", false)
			err = errors.Join(err, create)
		}
		return err
	})
	for i := range damaged {
		writing(fmt.Sprintf("snapshots/%d/metadata.json", i), "{")(t, dir)
	}
	return dir
}

// Standard error names the first few of what is damaged, and counts the rest; beside one snapshot what
// concerns that.
func TestFewAreSaid(t *testing.T) {
	dir := spoilt(t, few+3)
	for _, test := range []struct {
		arguments []string
		named     int
		want      string
	}{
		{[]string{"ls", dir}, few, "\nfsmeta: 3 more are damaged\n"},
		{[]string{"tree", dir}, few, "\nfsmeta: 3 more are damaged\n"},
		{[]string{"show", dir, "sound"}, 0, fmt.Sprintf("fsmeta: the store has other damage, too (%d)\n", few+3)},
		{[]string{"show", dir, "1"}, 1, fmt.Sprintf("fsmeta: the store has other damage, too (%d)\n", few+2)},
	} {
		r := on(t, 0, test.arguments...)
		if n := strings.Count(r.errs, "metadata.json"); r.status != 1 || n != test.named || !strings.Contains(r.errs, test.want) || strings.Count(r.errs, "fsmeta guide\n") != 1 {
			t.Errorf("%q: exit status %d, %d are named, want %d, and %q: %s", test.arguments, r.status, n, test.named, test.want, r.errs)
		}
	}
}

// At a terminal, info says once what is wrong with the store as a whole. Elsewhere both outputs do.
func TestInfoSaysOnce(t *testing.T) {
	dir := closed(t, steps...)
	succeed(t, os.Remove(filepath.Join(dir, "journal")))
	const damage = "damaged: " // and a path
	for columns, want := range map[int][2]int{0: {1, 1}, 200: {1, 0}} {
		r := on(t, columns, "info", dir)
		if got := [2]int{strings.Count(r.out, damage), strings.Count(r.errs, damage)}; got != want || r.status != 1 || !strings.Contains(r.errs, "fsmeta check") {
			t.Errorf("on %d columns: %v, want %v: %+v", columns, got, want, r)
		}
	}
}

// On a terminal a path is in one line, whatever is wrapped, so that it can be pasted.
func TestPathsStayWhole(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	dir := spoilt(t, 1)
	sound, damaged := filepath.Join(dir, "snapshots", "sound"), filepath.Join(dir, "snapshots", "0", "metadata.json")
	for _, arguments := range [][]string{{"show", dir, "sound", sound}, {"show", dir, "0", filepath.Dir(damaged)}, {"info", dir, dir}, {"check", dir, damaged}, {"ls", dir, damaged}} {
		r := on(t, 40, arguments[:len(arguments)-1]...)
		if path := arguments[len(arguments)-1]; !strings.Contains(r.out+r.errs, path) {
			t.Errorf("%q divide %s: %s", arguments, path, r.out+r.errs)
		}
	}
}

// The guide is docs/repair.md, and what refers to that says once how to read it.
func TestGuide(t *testing.T) {
	want, err := os.ReadFile("../../../docs/repair.md")
	succeed(t, err)
	if r := on(t, 0, "guide"); r.out != string(want) || r.status != 0 {
		t.Errorf("exit status %d, %d bytes, want %d", r.status, len(r.out), len(want))
	}
	plain := strings.Join(strings.Fields(strings.ReplaceAll(string(want), "`", "")), " ")
	if help := on(t, 0, "repair", "--help").out; !strings.Contains(plain, contentAside) || !strings.Contains(help, contentAside) {
		t.Errorf("the guide and --help do not both say %q: %s", contentAside, help)
	}
	dir := closed(t, steps...)
	succeed(t, os.Remove(filepath.Join(dir, "journal")))
	r := on(t, 0, "check", dir)
	if n := strings.Count(r.out, "fsmeta guide"); n != 1 || !strings.Contains(r.out, "see docs/repair.md") {
		t.Errorf("check names it %d times: %s", n, r.out)
	}
	if r := on(t, 0, "check", "--json", dir); strings.Contains(r.out, "fsmeta guide") {
		t.Errorf("check --json names it: %s", r.out)
	}
	if r := on(t, 0, "watch", dir); r.status != 2 || strings.Count(r.errs, "fsmeta guide") != 1 {
		t.Errorf("watch: %+v", r)
	}
}

// A store of another version is called one, and what to do is said once.
func TestOtherVersion(t *testing.T) {
	dir := closed(t, steps...)
	for version, advice := range map[int]string{1: "make a new store elsewhere", 3: "use the program that wrote it, or a newer one"} {
		writing("layout", fmt.Sprintf(`{"format":"fsmeta","version":%d}`, version))(t, dir)
		for _, command := range []string{"ls", "check", "repair", "info", "watch"} {
			want := fmt.Sprintf("%s/layout says version %d of the format", dir, version)
			if r := on(t, 0, command, dir); r.status != 2 || !strings.Contains(r.errs, want) || !strings.HasSuffix(r.errs, advice+"\n") || strings.Contains(r.errs, "not an fsmeta store") {
				t.Errorf("%s: %+v, want %q and in the end %q", command, r, want, advice)
			}
		}
	}
}

// A backup of a damaged store is refused with how to copy it as it is.
func TestBackupOfDamaged(t *testing.T) {
	dir := spoilt(t, 1)
	if r := on(t, 0, "backup", dir, dir+".copy"); r.status != 2 || !strings.Contains(r.errs, "cp -a "+dir+" "+dir+".copy\n") {
		t.Errorf("%+v", r)
	}
}

// What is no file has no size of a journal.
func TestInfoWithoutJournal(t *testing.T) {
	dir := closed(t, steps...)
	path := filepath.Join(dir, "journal")
	succeed(t, os.Remove(path), os.Mkdir(path, 0o700))
	if r := on(t, 0, "info", dir); !strings.Contains(r.out, "\njournal           there is no file") {
		t.Errorf("%+v", r)
	}
}

// What is wrong with how a command is called is said in a line, with how to call it.
func TestUsageErrors(t *testing.T) {
	for command, want := range map[string]string{
		"--bogus":    "fsmeta: flag provided but not defined: -bogus: see fsmeta --help\n",
		"ls --bogus": "fsmeta: flag provided but not defined: -bogus: see fsmeta ls --help\n",
		"backup a":   "fsmeta: an argument is missing: fsmeta backup [OPTIONS] STORE DIR\n",
		"ls a b":     "fsmeta: \"b\" is an argument too many: fsmeta ls [OPTIONS] STORE\n",
	} {
		if r := on(t, 0, strings.Fields(command)...); r.status != 2 || r.errs != want || r.out != "" {
			t.Errorf("fsmeta %s: %+v, want %q", command, r, want)
		}
	}
}
