package fsmeta_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// newDir returns the path of a store that is not made yet.
func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "store") }

// use opens a store. At the end of the test it is closed, and must be without a finding that is
// not harmless.
func use(t *testing.T, dir string, opts ...fsmeta.Option) *local {
	t.Helper()
	x := useDamaged(t, dir, opts...)
	t.Cleanup(func() {
		if err := x.store.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		findings, err := fsmeta.Check(context.Background(), dir, nil)
		if slices.ContainsFunc(findings, func(f fsmeta.Finding) bool { return !f.Harmless }) || err != nil {
			t.Errorf("check: %v, it finds %v", err, findings)
		}
	})
	return x
}

// useDamaged is use for a store in which there will be findings.
func useDamaged(t *testing.T, dir string, opts ...fsmeta.Option) *local {
	t.Helper()
	s, err := fsmeta.Open(dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &local{store: s}
}

// build makes a store by commands, and closes it.
func build(t *testing.T, dir string, lines ...string) {
	t.Helper()
	x := useDamaged(t, dir)
	mustDo(t, x, lines...)
	mustDo(t, x, "close")
}

// crashed makes a store by commands of a process that is killed then.
func crashed(t *testing.T, dir string, lines ...string) {
	t.Helper()
	r := start(t)
	mustDo(t, r, "open "+dir)
	mustDo(t, r, lines...)
	r.kill()
}

// wantClean requires that a check finds nothing. All that had the store open must have closed it.
func wantClean(t testing.TB, dir string) {
	t.Helper()
	if found, err := (&local{}).do("check " + dir); err != nil || found != "" {
		t.Errorf("check: %v, it finds\n%s", err, found)
	}
}

// wantFinding requires that a check finds something that is not harmless, with one of the
// texts in it, if any are given, and returns the findings.
func wantFinding(t testing.TB, dir string, texts ...string) []fsmeta.Finding {
	t.Helper()
	findings, err := fsmeta.Check(context.Background(), dir, nil)
	if err != nil {
		t.Errorf("check: %v", err)
	}
	if !slices.ContainsFunc(findings, func(f fsmeta.Finding) bool {
		return !f.Harmless && (len(texts) == 0 ||
			slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(f.String(), text) }))
	}) {
		t.Errorf("check finds %q, want a finding that is not harmless with one of %q", findings, texts)
	}
	return findings
}

// repair repairs a store, which must not fail.
func repair(t testing.TB, dir string, opts ...fsmeta.RepairOption) {
	t.Helper()
	if findings, err := fsmeta.Repair(context.Background(), dir, nil, opts...); err != nil {
		t.Errorf("repair: %v, %q", err, findings)
	}
}

// forgetAside deletes what repairs have set aside, as a person does after a look at it.
func forgetAside(t testing.TB, dir string) {
	t.Helper()
	succeed(t, os.RemoveAll(filepath.Join(dir, "damaged")))
}

// The files, as layout.md specifies them, without the package's own code.
func metadataPath(dir, name string) string {
	return filepath.Join(dir, "snapshots", name, "metadata.json")
}

func crc(text string) string {
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
}

// crcLine is the first member of metadata.json, for the text behind it.
func crcLine(rest string) string { return "{\n  \"crc32c\": \"" + crc(rest) + "\",\n" }

// splitFile returns the members of a metadata.json behind its checksum.
func splitFile(t testing.TB, path string) string {
	t.Helper()
	text := readFile(t, path)
	rest := text[min(len(text), len(crcLine(""))):]
	if text != crcLine(rest)+rest {
		t.Fatalf("%s has no checksum that is right:\n%s", path, text)
	}
	return rest
}

// sealed is a journal's line behind a line with the checksum prev, without its newline. The
// body is the JSON without its end.
func sealed(body, prev string) string {
	body += `,"prev":"` + prev + `"`
	return body + `,"crc32c":"` + crc(body) + `"}`
}

// lineSum returns a line's checksum.
func lineSum(line string) string { return line[len(line)-10 : len(line)-2] }

// cutSeal returns a line's body, without prev and crc32c, and prev.
func cutSeal(t testing.TB, line string) (body, prev string) {
	t.Helper()
	at := strings.LastIndex(line, `,"prev":"`)
	if at < 0 {
		t.Fatalf("%q is no line of a journal", line)
	}
	return line[:at], line[at+9 : at+17]
}

// readJournal returns the header and the lines, and how long the file is.
func readJournal(t testing.TB, dir string) (lines []string, size int) {
	t.Helper()
	text := readFile(t, filepath.Join(dir, "journal"))
	end := strings.LastIndexByte(text, '\n')
	return strings.Split(text[:max(end, 0)], "\n"), len(text)
}

// writeJournal overwrites the journal with lines, each published, and fills it up to size.
func writeJournal(t testing.TB, dir string, lines []string, size int) {
	t.Helper()
	text := strings.Join(lines, "\n") + "\n"
	writeFile(t, filepath.Join(dir, "journal"), text+strings.Repeat("\x00", max(size-len(text), 0)))
}

// editLine alters the body of a journal's line, counted from the header, or from the end if i
// is negative, and makes the checksums right from there on.
func editLine(t testing.TB, dir string, i int, edit func(body string) string) {
	t.Helper()
	lines, size := readJournal(t, dir)
	if i < 0 {
		i += len(lines)
	}
	for n := i; n < len(lines); n++ {
		body, prev := cutSeal(t, lines[n])
		if n == i {
			body = edit(body)
		} else if n > 1 { // the first line's is the header's own prev
			prev = lineSum(lines[n-1])
		}
		lines[n] = sealed(body, prev)
	}
	writeJournal(t, dir, lines, size)
}

// unpublish takes the newline of a journal's last line away: so it is between the sync of a
// transaction and its publication.
func unpublish(t testing.TB, dir string) {
	t.Helper()
	path := filepath.Join(dir, "journal")
	end := strings.LastIndexByte(readFile(t, path), '\n')
	patch(t, path, int64(end), 0)
}

// patch overwrites one byte of a file in place.
func patch(t testing.TB, path string, at int64, b byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{b}, at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// flip flips one bit of a file.
func flip(t testing.TB, path string, at int) {
	t.Helper()
	patch(t, path, int64(at), readFile(t, path)[at]^1)
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// writeFile overwrites a file in place.
func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyDir copies a store.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := newDir(t)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// succeed requires that nothing of it failed.
func succeed(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
