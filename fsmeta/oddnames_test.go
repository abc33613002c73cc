package fsmeta_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fsmeta/fsmeta/fsmeta"
)

func oddNames() []string {
	names := []string{
		"../../etc/passwd", "/etc/passwd", ".", "..", "...", "./a", "a/b", "a//b", "a/../b", "a%2Fb", "a%2fb", "%2F", "%2f", "%252F",
		"/", "//", "%", "%%", "%00", "%zz", "a\x00b", "a\nb", "\r\n", "\x7f", "\x1b[31mred", " ", " a", "a ", "  ",
		"~", "~root", "a~b", ".hidden", "..hidden", ".%2E", "%2E", "-rf", "--", "*", "?", "[a]", "$HOME", "`id`", `"`, `\`, `\n`, `'`, "a;b", "a|b", "<a&b>",
		"a", "A", "ab", "aB", "Ab", "AB", "con", "CON", "metadata.json", "parent", "layout", "journal", "snapshots", "staging",
		"default/12/extract-81 sha256:4f53cda18c2baa0c", "sha256:4f53", "a:b@c+d=e,f-g_h", "null", "true", "0", "{}",
		"\u00e9", "e\u0301", "日本語", "🦊", "\u2028", "\u2029", "\ufeff", "\ufffd", "\u0085", "\u202egnp.exe", "\U0010ffff",
	}
	for c := range 32 {
		names = append(names, string(rune(c)))
	}
	for _, n := range []int{127, 128, 253, 254, 255, 256, 257, 1024, 10_000, 32768} {
		names = append(names, strings.Repeat("x", n), strings.Repeat("x", n-1)+"y", strings.Repeat("X", n))
	}
	for _, n := range []int{84, 85, 86, 10_000, 32768} {
		names = append(names, strings.Repeat("/", n), strings.Repeat("/", n-1)+"x", strings.Repeat("\x00", n), strings.Repeat(".", n))
	}
	for _, n := range []int{41, 42, 43, 85, 86, 16384} { // cut inside a character
		names = append(names, strings.Repeat("é", n), "x"+strings.Repeat("é", n-1))
	}
	return append(names, strings.Repeat("some text with spaces/and slashes\n", 300), strings.Repeat("x", 190)+"~"+strings.Repeat("0", 64))
}

// roundTrip requires that the names are stored, each in an entry of its own and
// nowhere else, and are there after a crash too.
func roundTrip(t *testing.T, s *store, names []string) {
	t.Helper()
	var got []string
	for _, info := range must(s.walk(bg)) {
		got = append(got, info.Name)
	}
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Fatalf("names:\n got %.40q\nwant %.40q", got, want)
	}
	s.agree(bg)
	diskList(t, s.dir)
	equal(t, "what is beside the store", len(must(os.ReadDir(filepath.Dir(s.dir)))), 1)
	equal(t, "entries", len(must(os.ReadDir(filepath.Join(s.dir, "snapshots")))), len(names))
	for _, entry := range must(os.ReadDir(filepath.Join(s.dir, "snapshots"))) {
		if rest := strings.Trim(entry.Name(), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+=,-%~"); rest != "" || entry.Name()[0] == '.' {
			t.Errorf("entry %q is not escaped", entry.Name())
		}
	}
	killed := openStore(t, s.kill())
	equal(t, "store after a crash", must(dump(bg, killed.Store)), must(dump(bg, s.Store)))
}

func TestOddKeys(t *testing.T) {
	s := newStore(t)
	names := oddNames()
	for chunk := range slices.Chunk(names, 40) {
		s.write(func(ctx context.Context) {
			for i, name := range chunk {
				active := must(s.CreateActive(ctx, name, "", i%2 == 0))
				equal(t, "active", must(s.GetActive(ctx, name)), active)
			}
		})
	}
	// The entries of the long ones, as names of their own.
	s.write(func(ctx context.Context) {
		for _, entry := range must(os.ReadDir(filepath.Join(s.dir, "snapshots"))) {
			if strings.Contains(entry.Name(), "~") {
				names = append(names, entry.Name())
				must(s.CreateActive(ctx, entry.Name(), "", false))
			}
		}
	})
	roundTrip(t, s, names)
	s.write(func(ctx context.Context) {
		for _, name := range names {
			must(s.Remove(ctx, name))
		}
	})
	roundTrip(t, s, nil)
}

// Each odd name stands on the one before, and is a label as well.
func TestOddParentsAndLabels(t *testing.T) {
	s := newStore(t)
	names := oddNames()
	parent := ""
	for chunk := range slices.Chunk(names, 40) {
		s.write(func(ctx context.Context) {
			for _, name := range chunk {
				must(s.CreateWith(ctx, "key", parent, false))
				must(s.CommitWith(ctx, "key", name, fsmeta.WithLabels(map[string]string{name: "", "stands on": parent})))
				must(s.Update(ctx, fsmeta.Info{Name: name, Labels: map[string]string{name: name}}, "labels."+name))
				parent = name
			}
		})
	}
	roundTrip(t, s, names)
	parent = ""
	for _, name := range names {
		info := must(s.Stat(bg, name))
		equal(t, "parent", info.Parent, parent)
		equal(t, "labels", info.Labels, map[string]string{name: name, "stands on": parent})
		parent = name
	}
	wantError(t, s.WithTransaction(bg, true, func(ctx context.Context) error {
		return drop(s.Remove(ctx, names[7]))
	}), fsmeta.ErrHasChildren)
}

func TestOddNamesAreOdd(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range oddNames() {
		if name == "" || len(name) > 32768 || !utf8.ValidString(name) || seen[name] {
			t.Errorf("%.40q (%d bytes) can't be used", name, len(name))
		}
		seen[name] = true
	}
}
