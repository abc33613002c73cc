package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// odd are names of all kinds.
var odd = []string{
	" space ", "a  b", "tab\there", "new\nline", "\x1b[31mred", `"quoted"`, `'single'`, `back\slash`, "a/b/c", "..", ".", "%41%", "--json", "-x", "#", "&amp;", "<b>",
	"日本語のとても長いスナップショットの名前です、本当に", "שלום עולם", "مرحبا بالعالم", "हिन्दी", "e\u0301\u0301\u0301e\u0301", "👩🏽‍🚀", "\u202eabc", "\u200b", "\u00a0", "�",
	strings.Repeat("long ", 32768/5), strings.Repeat("x", 32767) + "1", strings.Repeat("x", 32767) + "2", strings.Repeat("語", 32768/3),
}

// oddStore makes a store with a committed snapshot of each odd name, and one that stands on
// it.
func oddStore(t *testing.T) (dir string) {
	t.Helper()
	return closed(t, makeOdd)
}

func makeOdd(ctx context.Context, s *fsmeta.Store) (err error) {
	for i, name := range odd {
		_, key := s.CreateActive(ctx, "key", "", false)
		_, commit := s.CommitWith(ctx, "key", name, fsmeta.WithLabels(map[string]string{name: name, "number": fmt.Sprint(i)}))
		_, child := s.CreateActive(ctx, fmt.Sprint("on ", i), name, false)
		err = errors.Join(err, key, commit, child)
	}
	return err
}

// The log of odd names stays inside of a terminal's width, too.
func TestOddLog(t *testing.T) {
	ageless(t)
	dir := filepath.Join(t.TempDir(), "store")
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	defer s.Close() //nolint:errcheck // the test is over
	// So long ones that a checkpoint empties the journal are left out.
	names := append(slices.DeleteFunc(slices.Clone(odd), func(name string) bool { return len(name) > 1000 }), strings.Repeat("x", 2000))
	succeed(t, do(s, func(ctx context.Context, s *fsmeta.Store) (err error) {
		for _, name := range names {
			_, create := s.CreateWith(ctx, name, "", false, fsmeta.WithLabels(map[string]string{name: name}))
			err = errors.Join(err, create)
		}
		return err
	}, func(ctx context.Context, s *fsmeta.Store) (err error) {
		for _, name := range names {
			_, update := s.Update(ctx, fsmeta.Info{Name: name, Labels: map[string]string{name: "other"}}, "labels")
			err = errors.Join(err, update)
		}
		return err
	}, func(ctx context.Context, s *fsmeta.Store) (err error) {
		for _, name := range names {
			_, remove := s.Remove(ctx, name)
			err = errors.Join(err, remove)
		}
		return err
	}))
	for _, columns := range []int{20, 40, 200} {
		r := on(t, columns, "log", dir)
		inside(t, "log", columns, r.out)
		for _, sign := range []string{"+", "-", "~"} {
			if n := strings.Count(r.out, "\n  "+sign+" ") + strings.Count(r.out, "\n"+sign+" "); n != len(names) {
				t.Errorf("on %d columns %d lines begin with %s, want %d", columns, n, sign, len(names))
			}
		}
	}
}

// inside requires lines that fit on a terminal, without control characters.
func inside(t *testing.T, command string, columns int, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if strings.ContainsAny(line, "\x1b\t\r\x00") || tool.Width(line) > columns {
			t.Errorf("%s on %d columns prints the line %q", command, columns, line)
		}
	}
}

// A snapshot is found by its name, by its name as it is printed, and by its identifier.
func TestShowOddNames(t *testing.T) {
	ageless(t)
	dir := oddStore(t)
	printed := strings.Split(on(t, 0, "ls", "--kind", "committed", dir).out, "\n")[1:]
	byID := map[string]string{}
	for _, line := range printed {
		if cells := strings.Split(line, "\t"); len(cells) == 6 {
			byID[cells[3]] = cells[0]
		}
	}
	for i, name := range odd {
		id := fmt.Sprint(2*i + 1)
		for _, arguments := range [][]string{{dir, name}, {dir, byID[id]}, {"--id", dir, id}} {
			r := on(t, 0, append([]string{"show", "--json", "--"}[:3-min(1, len(arguments)-2)], arguments...)...)
			var got struct {
				Name, ID string
				Labels   map[string]string
				Children []struct{ Name string }
			}
			if err := json.Unmarshal([]byte(r.out), &got); err != nil {
				t.Errorf("%.40q: %v, %s", arguments, err, r.errs)
				continue
			}
			if got.Name != name || got.ID != id || got.Labels[name] != name || len(got.Children) != 1 || got.Children[0].Name != fmt.Sprint("on ", i) {
				t.Errorf("%.40q is %.200q", arguments, r.out)
			}
		}
	}
}

// What ls prints as JSON is what a walk returns.
func TestListJSON(t *testing.T) { sameAsWalk(t, oddStore(t)) }

// So it is after writers were killed at any moment, and after the next one has cleaned up.
func TestListKilled(t *testing.T) {
	for range 5 {
		dir := closed(t)
		var kills []func()
		for i := range 3 {
			kills = append(kills, other(t, "churner", dir, fmt.Sprint("key ", i), fmt.Sprint("name ", i)))
		}
		for _, kill := range kills {
			kill()
		}
		left := sameAsWalk(t, dir)
		s, err := fsmeta.Open(dir)
		succeed(t, err)
		succeed(t, do(s, func(context.Context, *fsmeta.Store) error { return nil }), s.Close())
		if after := sameAsWalk(t, dir); after != left || left != 4 { // with total
			t.Errorf("%d snapshots, then %d", left, after)
		}
	}
}

// sameAsWalk requires that ls prints what a walk returns, and returns how many there are.
func sameAsWalk(t *testing.T, dir string) (snapshots int) {
	t.Helper()
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	succeed(t, err)
	defer s.Close() //nolint:errcheck // it was only read
	lines := strings.SplitAfter(on(t, 0, "ls", "--json", dir).out, "\n")
	snapshots = len(lines) - 1
	succeed(t, s.Walk(t.Context(), func(_ context.Context, info fsmeta.Info) error {
		var got struct {
			fsmeta.Info
			Txn          uint64
			Path, Source string
			Damage       *string
		}
		if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
			return fmt.Errorf("%q: %w", lines[0], err)
		}
		lines = lines[1:]
		if len(got.Labels) == 0 {
			got.Labels = nil
		}
		if fmt.Sprint(got.Info) != fmt.Sprint(info) || got.Txn == 0 || got.Path == "" || got.Source == "" || got.Damage != nil {
			t.Errorf("%+v, want %+v", got, info)
		}
		return nil
	}))
	if len(lines) != 1 || lines[0] != "" {
		t.Errorf("more lines: %q", lines)
	}
	return snapshots
}

// Labels of Graphviz take backslashes and entities for something else.
func TestDotText(t *testing.T) {
	if got, want := dotText(`a"b\n&amp;`), `a\"b\\n&amp;amp;`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
