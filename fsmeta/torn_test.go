package fsmeta_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// editJournal replaces the lines of a journal. NUL bytes follow them, and the file is not
// shorter than before: that would be damage by itself.
func editJournal(t *testing.T, dir string, edit func(lines [][]byte) [][]byte) {
	t.Helper()
	path := filepath.Join(dir, "journal")
	size := len(must(os.ReadFile(path)))
	writePadded(t, path, bytes.Join(edit(journalLines(t, dir)), nil), size)
}

// writePadded writes a file with NUL bytes behind data, up to size.
func writePadded(t *testing.T, path string, data []byte, size int) {
	t.Helper()
	padded := append(bytes.Clone(data), make([]byte, max(0, size-len(data)))...)
	nilError(t, os.WriteFile(path, padded, 0o600))
}

// journalLines returns the lines of a journal, the first is the header.
func journalLines(t *testing.T, dir string) (lines [][]byte) {
	t.Helper()
	text := bytes.TrimRight(must(os.ReadFile(filepath.Join(dir, "journal"))), "\x00")
	if !bytes.HasSuffix(text, []byte("\n")) {
		t.Fatalf("the journal ends in %q", text[max(0, len(text)-100):])
	}
	return slices.Collect(bytes.Lines(text))
}

// history makes a store with a transaction per line in the journal.
func history(t *testing.T) *store {
	t.Helper()
	s := newStore(t)
	for _, text := range []string{"base", "mid < base", "top < mid", "*work < top", "?view < top"} {
		s.build(text)
	}
	if lines := journalLines(t, s.dir); len(lines) < 6 || bytes.Contains(lines[0], []byte("base")) {
		t.Fatalf("the journal is not what this test assumes:\n%s", bytes.Join(lines, nil))
	}
	return s
}

const historyEnd = "base; mid < base; top < mid; ?view < top; *work < top"

func TestJournalOnDisk(t *testing.T) {
	s := history(t)
	lines := journalLines(t, s.dir)
	last := 0
	for i, line := range lines {
		var fields struct {
			Txn     int
			Changes []struct{ Name string }
		}
		nilError(t, json.Unmarshal(line, &fields))
		if i > 1 && fields.Txn != last+1 {
			t.Errorf("line %d: transaction %d after %d", i, fields.Txn, last)
		}
		last = fields.Txn
	}
	if !bytes.Contains(lines[len(lines)-1], []byte(`"view"`)) {
		t.Errorf("the last transaction is not in the last line: %s", lines[len(lines)-1])
	}
	nilError(t, s.Close())
	if lines := journalLines(t, s.dir); len(lines) != 1 {
		t.Errorf("%d lines after the last Close, want the header alone", len(lines))
	}
}

// Bytes that were never acknowledged are torn. A new journal without them takes over.
func TestJournalTorn(t *testing.T) {
	for _, tail := range []string{
		"{", `{"txn":`, "garbage", "\x01\x02\x03", "\xff", "{}", "garbage\x00garbage",
		"\x00\x00garbage", strings.Repeat("\x00", 9000) + "garbage", strings.Repeat("garbage ", 9000), "half a line",
	} {
		t.Run(fmt.Sprintf("%.20q", tail), func(t *testing.T) {
			s := history(t)
			dir := s.kill()
			if tail == "half a line" {
				lines := journalLines(t, dir)
				last := lines[len(lines)-1]
				tail = string(last[:len(last)/2])
			}
			putTail(t, filepath.Join(dir, "journal"), tail)
			s.isCut(dir)
		})
	}
}

// A newline is written when the line before it is on disk, and all lines before that. So a
// newline anywhere behind the last whole line says that a committed line has changed: that
// is damage, and the journal is left as it is.
func TestJournalEndsInDamage(t *testing.T) {
	const next = "a line of another history\n"
	for _, tail := range []string{
		"garbage\n", "garbage\ngarbage\n", "\n", "{}\n", "null\n", "garbage\x00\n", "\x00\n", "\x00\x00garbage\n",
		strings.Repeat("\x00", 9000) + "\n", "the last line again\n", next,
	} {
		t.Run(fmt.Sprintf("%.20q", tail), func(t *testing.T) {
			s := history(t)
			dir := s.kill()
			lines := journalLines(t, dir)
			switch tail {
			case "the last line again\n":
				tail = string(lines[len(lines)-1])
			case next: // which would be the next one, if only it stood on this one
				other := openOnly(t, dir)
				other.want(bg, historyEnd)
				other.write(func(ctx context.Context) { must(other.SetUsage(ctx, "work", fsmeta.Usage{Size: 1})) })
				other.write(func(ctx context.Context) { must(other.SetUsage(ctx, "base", fsmeta.Usage{Size: 1})) })
				s.write(func(ctx context.Context) { must(s.SetUsage(ctx, "work", fsmeta.Usage{Size: 2})) })
				tail = string(journalLines(t, dir)[len(lines)+1])
				dir = s.kill()
			}
			putTail(t, filepath.Join(dir, "journal"), tail)
			wantJournalDamage(t, dir, historyEnd)
		})
	}
}

// wantJournalDamage requires that reads go on, that each enumeration ends with the damage of
// the journal, that writes are refused, and that the journal is left as it is.
func wantJournalDamage(t *testing.T, dir, text string) {
	t.Helper()
	journal := filepath.Join(dir, "journal")
	before := fingerprint(t, journal)
	readonly, damaged := openOnly(t, dir, fsmeta.ReadOnly()), openOnly(t, dir)
	for range 2 {
		for _, s := range []*store{readonly, damaged} {
			infos, err := s.walk(bg)
			equal(t, "all snapshots", list(infos), text)
			wantError(t, err, fsmeta.ErrDamaged, journal)
			ids, err := s.IDs(bg)
			wantError(t, err, fsmeta.ErrDamaged, journal)
			for _, info := range infos {
				equal(t, "Stat", must(s.Stat(bg, info.Name)), info)
				equal(t, "IDs", ids[info.ID], info.Name)
			}
		}
		err := damaged.WithTransaction(bg, true, func(context.Context) error { return errors.New("called") })
		wantError(t, err, fsmeta.ErrDamaged, journal)
	}
	nilError(t, damaged.Close())
	nilError(t, readonly.Close())
	equal(t, "journal", fingerprint(t, journal), before)
}

// putTail writes behind the last line of a journal, over the NUL bytes there.
func putTail(t *testing.T, journal, tail string) {
	t.Helper()
	data := must(os.ReadFile(journal))
	writePadded(t, journal, append(bytes.TrimRight(data, "\x00"), tail...), len(data))
}

// isCut requires that the store in dir is as s, and that a new journal takes over from the
// torn one before a line is written.
func (s *store) isCut(dir string) {
	s.t.Helper()
	infos := must(dump(bg, s.Store))
	equal(s.t, "read-only", must(dump(bg, openOnly(s.t, dir, fsmeta.ReadOnly()).Store)), infos)
	torn := must(os.Stat(filepath.Join(dir, "journal")))
	cut := openStore(s.t, dir)
	equal(s.t, "opened", must(dump(bg, cut.Store)), infos)
	cut.build("new < top")
	cut.want(bg, strings.Replace(list(infos), "; top", "; new < top; top", 1))
	if os.SameFile(torn, must(os.Stat(filepath.Join(dir, "journal")))) {
		s.t.Error("a line was written to a journal that was torn")
	}
	openStore(s.t, cut.kill()).agree(bg)
}

// Whole lines without a newline are committed, unless their writer is at work: then they may
// still fail. All readers agree, and none waits for the lock on staging/.
func TestJournalUnpublished(t *testing.T) {
	const before, after = "base; *gone < base", "base; top < base; *work < top"
	for _, renamed := range []bool{false, true} { // whether the writer has brought the tree up
		t.Run(fmt.Sprintf("renamed %v", renamed), func(t *testing.T) {
			s := newStore(t)
			s.build(before)
			dir := s.kill()
			journal := filepath.Join(dir, "journal")
			reader := openOnly(t, dir, fsmeta.ReadOnly())
			ctx, _ := reader.begin(bg, false)
			s.write(func(ctx context.Context) {
				s.make(ctx, "top < base; *work < top")
				must(s.Remove(ctx, "gone"))
				must(s.Update(ctx, fsmeta.Info{Name: "base", Labels: map[string]string{"a": "b"}}))
			})
			known, lines := journalLines(t, dir), journalLines(t, s.dir)
			equal(t, "number of new lines", len(lines)-len(known), 1)
			line := bytes.TrimSuffix(lines[len(known)], []byte("\n"))

			endsWork := lockJournal(t, journal)
			unlock := flock(t, filepath.Join(dir, "staging"))
			overwriteAt(t, journal, len(bytes.Join(known, nil)), line)
			if renamed {
				replaceTree(t, filepath.Join(s.dir, "snapshots"), filepath.Join(dir, "snapshots"))
			}
			others := []*store{reader, openOnly(t, dir, fsmeta.ReadOnly()), openOnly(t, dir)}
			for _, other := range others {
				other.want(bg, before)
				other.agree(bg)
			}
			reader.want(ctx, before)

			endsWork() // killed, and another process has staging/ before it takes over
			for _, other := range append(others, openOnly(t, dir, fsmeta.ReadOnly()), openOnly(t, dir)) {
				other.want(bg, after)
				other.agree(bg)
			}
			reader.want(ctx, before)
			unlock()

			killed := openStore(t, dir)
			killed.build("*new")
			equal(t, "labels", must(killed.Stat(bg, "base")).Labels, map[string]string{"a": "b"})
			reader.want(bg, strings.Replace(after, "; top", "; *new; top", 1))
			if got, err := reader.list(ctx); err != nil {
				wantError(t, err, fsmeta.ErrOutdated)
			} else {
				equal(t, "old reader", got, before)
			}
		})
	}
}

// lockJournal locks a journal as a writer at work in another process does.
func lockJournal(t *testing.T, path string) (unlock func()) {
	t.Helper()
	const ofdSetLock = 37 // F_OFD_SETLK of Linux
	f := must(os.OpenFile(path, os.O_RDWR, 0))
	if runtime.GOOS == "linux" {
		nilError(t, syscall.FcntlFlock(f.Fd(), ofdSetLock, &syscall.Flock_t{Type: syscall.F_WRLCK}))
	} else {
		nilError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	}
	return func() { nilError(t, f.Close()) }
}

// flock locks a directory as another process does.
func flock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f := must(os.Open(path))
	nilError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	return func() { nilError(t, f.Close()) }
}

// replaceTree makes the entries of one directory those of another.
func replaceTree(t *testing.T, from, to string) {
	t.Helper()
	for _, entry := range must(os.ReadDir(to)) {
		nilError(t, os.RemoveAll(filepath.Join(to, entry.Name())))
	}
	for _, entry := range must(os.ReadDir(from)) {
		copyTree(t, filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()))
	}
}

// Damage in lines that were acknowledged is never taken for torn bytes.
func TestJournalDamaged(t *testing.T) {
	s := history(t)
	lines := len(journalLines(t, s.dir))
	type harm struct {
		name string
		edit func(lines [][]byte) [][]byte
	}
	tests := []harm{
		{"line lost", func(lines [][]byte) [][]byte { return slices.Delete(lines, 2, 3) }},
		{"lines swapped", func(lines [][]byte) [][]byte { lines[2], lines[3] = lines[3], lines[2]; return lines }},
		{"line twice", func(lines [][]byte) [][]byte { return slices.Insert(lines, 2, lines[2]) }},
		{"line cut", func(lines [][]byte) [][]byte { lines[2] = append(lines[2][:40:40], '\n'); return lines }},
		{"line of NUL bytes", func(lines [][]byte) [][]byte { lines[2] = make([]byte, len(lines[2])); return lines }},
		{"line of text", func(lines [][]byte) [][]byte { return slices.Insert(lines, 2, []byte("text\n")) }},
		{"newline lost", func(lines [][]byte) [][]byte { lines[2] = bytes.TrimSuffix(lines[2], []byte("\n")); return lines }},
	}
	for line := 1; line < lines; line++ {
		for at := 0; at < 1000; at += 61 { // some bytes of each line
			tests = append(tests, harm{fmt.Sprintf("line %d flipped at %d", line, at), func(lines [][]byte) [][]byte {
				flipped := bytes.Clone(lines[line])
				flipped[at%(len(flipped)-1)] ^= 1
				lines[line] = flipped
				return lines
			}})
		}
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := s.kill()
			editJournal(t, dir, test.edit)
			wantJournalDamage(t, dir, historyEnd)
		})
	}
}

// Removed names leave nothing in the tree. The lines alone say that they are damaged.
func TestJournalDamagedWhereNothingIsLeft(t *testing.T) {
	s := newStore(t)
	s.build("*x; *y; *z")
	for _, key := range []string{"x", "y", "z"} {
		s.write(func(ctx context.Context) { must(s.Remove(ctx, key)) })
	}
	lines := journalLines(t, s.dir)
	for i, key := range []string{"x", "y", "z"} {
		dir := s.kill()
		journal := filepath.Join(dir, "journal")
		editJournal(t, dir, func(edited [][]byte) [][]byte { edited[len(lines)-3+i][20] ^= 1; return edited })
		before := fingerprint(t, journal)
		damaged := openOnly(t, dir)
		got, err := damaged.list(bg)
		if got != "" && got != "*"+key { // the line before may be the last that can be read
			t.Errorf("got %s, want nothing, or *%s at most", got, key)
		}
		wantError(t, err, fsmeta.ErrDamaged, journal)
		_, _, err = damaged.TransactionContext(bg, true)
		wantError(t, err, fsmeta.ErrDamaged, journal)
		nilError(t, damaged.Close())
		equal(t, "journal", fingerprint(t, journal), before)
	}
}

// A damaged header is damage of the journal; a journal without any doesn't open.
func TestJournalHeaderDamaged(t *testing.T) {
	s := history(t)
	header := journalLines(t, s.dir)[0]
	type harm struct {
		name  string
		edit  func(data []byte) []byte
		opens bool
	}
	tests := []harm{
		{"empty", func([]byte) []byte { return nil }, false},
		{"NUL bytes", func(data []byte) []byte { return make([]byte, len(data)) }, false},
		{"a newline before it", func(data []byte) []byte { return append([]byte("\n"), data...) }, false},
		{"gone", func(data []byte) []byte { return append(data[len(header):], make([]byte, len(header))...) }, true},
	}
	for at := range header {
		tests = append(tests, harm{fmt.Sprint("flipped at ", at), func(data []byte) []byte { data[at] ^= 1; return data }, true})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := s.kill()
			journal := filepath.Join(dir, "journal")
			overwrite(t, journal, string(test.edit(must(os.ReadFile(journal)))))
			if test.opens {
				wantJournalDamage(t, dir, historyEnd)
				return
			}
			for _, opts := range [][]fsmeta.Option{nil, {fsmeta.ReadOnly()}, {fsmeta.MustExist()}} {
				_, err := fsmeta.Open(dir, opts...)
				wantError(t, err, fsmeta.ErrDamaged, journal)
			}
		})
	}
}
