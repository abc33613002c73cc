package fsmeta_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/fsmeta/internal/format"
	"github.com/fsmeta/fsmeta/fsmeta/internal/journal"
)

// specimenStore is a store of the corpus.
type specimenStore struct {
	name, shows, rule string // the rule is a section or a rule of layout.md
	make              func(t *testing.T, dir string)
	want              string // the summary of its listing, as layout.md has it; "" where it would be too long
}

// The snapshots of most stores. The first line of each journal is transaction 1, which reserves
// identifiers alone.
var (
	small    = []string{"layer base", "layer mid base", "put work mid", "label work 1", "put other"}
	smallEnd = "base; mid < base; *other; *work < mid"
	// What is done then, where two moments matter, and the end of that.
	later    = []string{"label work 2", "remove other", "put new mid"}
	laterEnd = "base; mid < base; *new < mid; *work < mid"
)

// script is a store of a closed process.
func script(lines ...string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) { build(t, dir, lines...) }
}

// killed is a store of a process that was killed after its last command, and then altered.
func killed(lines []string, alter ...func(t *testing.T, dir string)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		crashed(t, dir, lines...)
		foreignBoot(t, dir)
		for _, f := range alter {
			f(t, dir)
		}
	}
}

// closed is a store of a closed process, altered.
func closed(lines []string, alter ...func(t *testing.T, dir string)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		build(t, dir, lines...)
		foreignBoot(t, dir)
		for _, f := range alter {
			f(t, dir)
		}
	}
}

// behind is a store of a process that was killed after lines, with the tree as it was before the last of
// them, later; and altered.
func behind(alter ...func(t *testing.T, dir string)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		r := start(t)
		mustDo(t, r, append([]string{"open " + dir}, small...)...)
		before := copyDir(t, dir)
		mustDo(t, r, later...)
		r.kill()
		succeed(t, os.RemoveAll(dir+"/snapshots"), os.Rename(before+"/snapshots", dir+"/snapshots"))
		foreignBoot(t, dir)
		for _, f := range alter {
			f(t, dir)
		}
	}
}

// A journal as text, for edits: the header, the lines and what stands behind each.
type rawJournal struct {
	lines []string // without end bytes; the first is the header
	ends  []byte
	tail  string // behind the last end byte, without NUL bytes at its end
	size  int    // NUL bytes follow up to here
}

func readRaw(t testing.TB, dir string) (j rawJournal) {
	t.Helper()
	text := readFile(t, dir+"/journal")
	j.size = len(text)
	text = strings.TrimRight(text, "\x00")
	for text != "" {
		n := strings.IndexAny(text, "\n\x00")
		if n < 0 {
			j.lines, j.ends, text = append(j.lines, text), append(j.ends, 0), ""
			continue
		}
		j.lines, j.ends, text = append(j.lines, text[:n]), append(j.ends, text[n]), text[n+1:]
	}
	return j
}

func (j rawJournal) text() string {
	var b strings.Builder
	for i, line := range j.lines {
		b.WriteString(line)
		b.WriteByte(j.ends[i])
	}
	b.WriteString(j.tail)
	return b.String() + strings.Repeat("\x00", max(0, j.size-b.Len()))
}

// edit alters a journal as text.
func edit(alter func(j *rawJournal)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		j := readRaw(t, dir)
		alter(&j)
		writeFile(t, dir+"/journal", j.text())
	}
}

// unpublished takes the newlines of the last n lines away.
func unpublished(n int) func(t *testing.T, dir string) {
	return edit(func(j *rawJournal) {
		for i := range n {
			j.ends[len(j.ends)-1-i] = 0
		}
	})
}

// body alters the body of line i, from the end where i is negative, and makes all checksums right.
func body(i int, alter func(body string) string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		j := readRaw(t, dir)
		from := i
		if i < 0 {
			from += len(j.lines)
		}
		for n := from; n < len(j.lines); n++ {
			text, prev := cutSeal(t, j.lines[n])
			if n == from {
				text = alter(text)
			} else if n > 1 { // the first line's is the header's own prev
				prev = lineSum(j.lines[n-1])
			}
			j.lines[n] = sealed(text, prev)
		}
		writeFile(t, dir+"/journal", j.text())
	}
}

// swapped is strings.Replace of something that must be there.
func swapped(old, new string) func(text string) string {
	return func(text string) string {
		if !strings.Contains(text, old) {
			panic(fmt.Sprintf("no %q in %q", old, text))
		}
		return strings.Replace(text, old, new, 1)
	}
}

// head alters the header, and makes its checksum right.
func head(alter func(text string) string) func(t *testing.T, dir string) {
	return edit(func(j *rawJournal) {
		text := alter(j.lines[0][:len(j.lines[0])-len(`,"crc32c":"xxxxxxxx"}`)])
		j.lines[0] = text + `,"crc32c":"` + crc(text) + `"}`
	})
}

var bootMember = regexp.MustCompile(`"boot":"[^"]*"`)

// foreignBoot gives the header the boot of a machine that is none.
func foreignBoot(t *testing.T, dir string) {
	head(func(text string) string {
		return bootMember.ReplaceAllString(text, `"boot":"0f5d3c62-8d1b-4c0e-9a57-61f4e3b2a790"`)
	})(t, dir)
}

// unfilled lets the header and all lines say that the file may have any length.
func unfilled(t *testing.T, dir string) {
	filled := regexp.MustCompile(`"filled":\d+`)
	none := func(text string) string { return filled.ReplaceAllString(text, `"filled":0`) }
	head(none)(t, dir)
	for i := 1; i < len(readRaw(t, dir).lines); i++ {
		body(i, none)(t, dir)
	}
}

// cutBehind cuts the file off behind its last line, and n bytes more.
func cutBehind(n int) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		j := readRaw(t, dir)
		j.size = 0
		text := j.text()
		text = text[:len(text)-1] // the end byte
		writeFile(t, dir+"/journal", text[:len(text)-n])
	}
}

// mark appends the superseded line.
func mark(end byte) func(t *testing.T, dir string) {
	return edit(func(j *rawJournal) {
		var txn uint64
		_, err := fmt.Sscanf(j.lines[len(j.lines)-1], `{"txn":%d`, &txn)
		if err != nil {
			panic(err)
		}
		text := fmt.Sprintf(`{"superseded":%d,"prev":"%s"`, txn, lineSum(j.lines[len(j.lines)-1]))
		j.lines, j.ends = append(j.lines, text+`,"crc32c":"`+crc(text)+`"}`), append(j.ends, end)
	})
}

// lineBytes alters the last line as it stands.
func lineBytes(i int, alter func(line string) string) func(t *testing.T, dir string) {
	return edit(func(j *rawJournal) {
		at := i
		if i < 0 {
			at += len(j.lines)
		}
		j.lines[at] = alter(j.lines[at])
	})
}

// file alters a metadata.json as text.
func file(name string, alter func(text string) string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		path := metadataPath(dir, format.EncodeName(name))
		writeFile(t, path, alter(readFile(t, path)))
	}
}

// sealedFile alters what stands behind the checksum, which is right afterwards.
func sealedFile(name string, alter func(text string) string) func(t *testing.T, dir string) {
	return file(name, func(text string) string {
		rest := alter(text[len(crcLine("")):])
		return crcLine(rest) + rest
	})
}

// handFile is sealedFile without a checksum.
func handFile(name string, alter func(text string) string) func(t *testing.T, dir string) {
	return file(name, func(text string) string { return "{\n" + alter(text[len(crcLine("")):]) })
}

// gone removes parts. put puts something else in the place of one.
func gone(paths ...string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		for _, path := range paths {
			_, err := os.Lstat(filepath.Join(dir, path))
			succeed(t, err, os.RemoveAll(filepath.Join(dir, path)))
		}
	}
}

func put(path string, make func(path string) error) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		succeed(t, os.RemoveAll(filepath.Join(dir, path)), make(filepath.Join(dir, path)))
	}
}

func writeText(text string) func(path string) error {
	return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
}

func all(fs ...func(t *testing.T, dir string)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		for _, f := range fs {
			f(t, dir)
		}
	}
}

// each makes a store with an active snapshot for each of these, and does that to it.
func each(ways map[string]func(text string) string, how func(name string, alter func(string) string) func(t *testing.T, dir string)) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		lines := []string{"layer base"}
		for name := range ways {
			lines = append(lines, "put "+name+" base", "label "+name+" 1")
		}
		build(t, dir, lines...)
		foreignBoot(t, dir)
		for name, alter := range ways {
			how(name, alter)(t, dir)
		}
	}
}

// constant is an edit that leaves nothing of the old text.
func constant(text string) func(string) string { return func(string) string { return text } }

// members returns n unknown members.
func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"x%d":%d,`, i, i)
	}
	return b.String()
}

// awkwardNames are names that need care.
var awkwardNames = []string{".", "..", ".hidden", "a.b", "../../etc/passwd", "/", "-n", "%", "%2F", "%41", "100%", " ", "a b", "tab\tand\nnewline",
	"\x00", "\x00\n\x7f", "~", "a~b", "$HOME", "`id`", "\"'\\", "*?[]{}", "a!b", "(x)", "<&>", "A", "a", "Straße", "STRASSE", "straße",
	"é", "e\u0301", "日本語/コンテナ", "العربية", "עברית", "ไทย", "Ωμέγα", "🦀🦀", "\u200b", "\u202ex", "\u2028", "\ufeff", "\u0085", "\U0010ffff",
	"null", "con", "lost+found", "metadata.json", "parent", "snapshots", "x@sha256:ab+c=d,e_f",
	strings.Repeat("x", 190), strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("y", 255) + "z",
	strings.Repeat("/", 85), strings.Repeat("/", 86), strings.Repeat("é", 31) + "xyz/" + strings.Repeat("é", 40),
	"a" + strings.Repeat("é", 60), "ab" + strings.Repeat("é", 60), strings.Repeat("日", 60),
	strings.Repeat("n", 32768), strings.Repeat("é", 16384)}

// inProcess makes a store with the API, closed or, where crash is set, as it is when the process is killed.
func inProcess(crash bool, fn func(ctx context.Context, s *fsmeta.Store) error) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		at := newDir(t)
		s := useDamaged(t, at).store
		succeed(t, s.WithTransaction(bg, true, func(ctx context.Context) error { return fn(ctx, s) }))
		if !crash {
			succeed(t, s.Close())
		}
		succeed(t, os.Rename(copyDir(t, at), dir))
		foreignBoot(t, dir)
	}
}

func makeOddNames(ctx context.Context, s *fsmeta.Store) error {
	parent := ""
	for i, name := range awkwardNames {
		if _, err := s.CreateActive(ctx, fmt.Sprintf("key %d", i), parent, i%2 == 0); err != nil {
			return err
		}
		if i%2 == 0 {
			if _, err := s.CreateActive(ctx, name, parent, false); err != nil {
				return err
			}
		} else {
			if _, err := s.Commit(ctx, fmt.Sprintf("key %d", i), name); err != nil {
				return err
			}
			parent = name
		}
	}
	return nil
}

// lagging makes a closed store of which the journal carries over three names: one that was changed, one
// that was removed, one that is new. The tree has none of that.
func lagging(t *testing.T, dir string) {
	behind()(t, dir)
	after := copyDir(t, dir)
	succeed(t, os.RemoveAll(dir+"/snapshots"))
	_, lines, err := journal.Salvage(after + "/journal")
	succeed(t, err)
	versions := map[string]*format.Snapshot{"work": nil, "other": nil, "new": nil}
	var last *format.Txn
	for _, line := range lines {
		last, err = line.Decode()
		succeed(t, err)
		for _, c := range last.Changes {
			if _, ok := versions[c.Name]; ok {
				versions[c.Name] = c.After
			}
		}
	}
	carry := format.CarryOver(last.Number, last.NextID, versions, last.Time)
	carry.Names = last.Names
	prev := lines[len(lines)-1].CRC
	h := format.Header{Txn: last.Number, NextID: last.NextID, Names: last.Names, Filled: 16384, Boot: "0f5d3c62-8d1b-4c0e-9a57-61f4e3b2a790", Prev: prev}
	carry.Filled = 16384
	text := string(format.EncodeHeader(h)) + "\n" + string(format.EncodeLine(carry, prev)) + "\n"
	writeFile(t, dir+"/journal", text+strings.Repeat("\x00", 16384-len(text)))
	succeed(t, os.Rename(after+"/snapshots", dir+"/snapshots"))
}

// backedUp makes a copy by Backup, and does that in it.
func backedUp(lines ...string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		from := newDir(t)
		x := useDamaged(t, from)
		mustDo(t, x, small...)
		mustDo(t, x, "backup "+dir)
		if len(lines) > 0 {
			build(t, dir, lines...)
		}
		foreignBoot(t, dir)
	}
}

// relaxed makes the store of a relaxed writer that was killed before its sync.
func relaxed(t *testing.T, dir string) {
	for {
		r := start(t)
		mustDo(t, r, "open "+dir+" relaxed")
		mustDo(t, r, small...)
		mustDo(t, r, "begin", "end") // a barrier
		mustDo(t, r, later...)
		r.kill()
		if !isPublished(t, dir) {
			foreignBoot(t, dir)
			return
		}
		succeed(t, os.RemoveAll(dir))
	}
}

// twice copies a snapshot's directory under another name, as a person does.
func twice(name, as string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, "snapshots", as)
		succeed(t, os.Mkdir(path, 0o700), writeText(strings.Replace("{\n"+splitFile(t, metadataPath(dir, name)), `"name": "`+name, `"name": "`+as, 1))(path+"/metadata.json"))
	}
}

// bigNumbers makes a store with the largest numbers and unusual times.
func bigNumbers(t *testing.T, dir string) {
	at := newDir(t)
	s := useDamaged(t, at).store
	infos := []fsmeta.Info{{ID: "2305843009213693950", Name: "id", Kind: fsmeta.KindCommitted}}
	for i, when := range []time.Time{
		time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(2024, 2, 29, 12, 0, 0, 120000000, time.UTC), time.Date(1582, 10, 10, 0, 0, 0, 1, time.UTC)} {
		infos = append(infos, fsmeta.Info{ID: fmt.Sprint(i + 1), Name: fmt.Sprintf("time %d", i), Kind: fsmeta.KindActive, Parent: "id", Created: when, Updated: when})
	}
	infos[0].Created, infos[0].Updated = infos[1].Created, infos[2].Created
	succeed(t, s.Import(bg, infos, 2305843009213693951, nil), s.Close(), os.Rename(copyDir(t, at), dir))
	foreignBoot(t, dir)
}

func makeUsage(ctx context.Context, s *fsmeta.Store) error {
	for i, usage := range []fsmeta.Usage{{Inodes: math.MaxInt64, Size: math.MaxInt64}, {Inodes: math.MinInt64, Size: math.MinInt64}, {Inodes: -1, Size: 0}} {
		if _, err := s.CreateWith(ctx, fmt.Sprintf("usage %d", i), "", i > 1, fsmeta.WithUsage(usage)); err != nil {
			return err
		}
	}
	return nil
}

func manyLabels(ctx context.Context, s *fsmeta.Store) error {
	labels := map[string]string{strings.Repeat("k", 32768): "", "empty": "", "odd \x00\n\"\\é\u2028🦀": "\x00\x7f\u0085\u200b\ufeff🦀<&>", "long": strings.Repeat("v", 5000)}
	for i := range 500 {
		labels[fmt.Sprintf("label.example/%d", i)] = fmt.Sprint(i)
	}
	if _, err := s.CreateWith(ctx, "many", "", false, fsmeta.WithLabels(labels)); err != nil {
		return err
	}
	_, err := s.CreateActive(ctx, "none", "", false)
	return err
}

// handMade is a metadata.json as a person writes it.
func handMade(name, more string) string {
	return fmt.Sprintf("{\"kind\":\"active\", \"created\": \"2026-11-30T10:00:00+01:00\",\n\t\"updated\":\"2026-11-30t09:00:00.500z\",%s\"id\":\"70\",\"name\":\"%s\"}", more, name)
}

func byHandDir(name, text string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, "snapshots", format.EncodeName(name))
		succeed(t, os.Mkdir(path, 0o700), writeText(text)(path+"/metadata.json"))
	}
}

// handHeader replaces the header by one of a person.
func handHeader(text string) func(t *testing.T, dir string) {
	return edit(func(j *rawJournal) { j.lines[0] = text })
}

const plainHeader = `{"format":"fsmeta journal","version":2,"nextID":1000000}`

// makeStores makes the stores that are missing, and the README.
func makeStores(t *testing.T) {
	succeed(t, os.MkdirAll(corpusDir, 0o755))
	for _, s := range corpusStores {
		path := filepath.Join(corpusDir, s.name)
		if _, err := os.Stat(path + ".tar.gz"); err == nil {
			continue
		}
		dir := newDir(t)
		s.make(t, dir)
		if err := os.Remove(dir + "/staging/ballast"); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		l := libraryListing(t, dir)
		if s.want != "" && l.summary() != s.want {
			t.Errorf("%s:\n got %s\nwant %s", s.name, l.summary(), s.want)
			continue
		}
		var b bytes.Buffer
		pack(t, dir, &b)
		succeed(t, os.WriteFile(path+".jsonl", []byte(l.jsonl(t)), 0o644), os.WriteFile(path+".tar.gz", b.Bytes(), 0o644))
	}
	succeed(t, os.WriteFile(filepath.Join(corpusDir, "README.md"), []byte(corpusReadme()), 0o644))
}

// corpusIsDescribed returns an error unless the README has a line for each store.
func corpusIsDescribed(t *testing.T) error {
	if readFile(t, filepath.Join(corpusDir, "README.md")) != corpusReadme() || len(corpus(t)) != len(corpusStores) {
		return errors.New("the corpus is not that of corpusStores: run go test ./fsmeta -run TestCorpus -make-corpus")
	}
	return nil
}

func corpusReadme() string {
	var b strings.Builder
	b.WriteString(`# A corpus of stores

Each store is an archive, NAME.tar.gz, with its listing, NAME.jsonl. A reader of this format must list each just so, and may
try itself on them: later versions of this package do, and [reader.py](../../../examples/reader.py) does.

A listing has one JSON object a line: each snapshot that can be read, in byte order of the names, in the version that is valid.
Where something is damaged, a last line has the parts, as paths in the store, sorted: ` + "`snapshots/ENTRY`" + ` for a snapshot or an
entry that is none, ` + "`snapshots`" + ` where snapshots are missing or too many, ` + "`journal`" + `. (A byte of an entry that is not
UTF-8 stands as \xff.) Where the store must not open, the only line is ` + "`unreadable`" + `, the part that keeps it from that, and
` + "`error`" + `: it is damaged, or there is no store of this version.

The stores are frozen: what is here never changes. ` + "`go test ./fsmeta -run TestCorpus -make-corpus`" + ` makes those that are missing,
by [corpus_make_test.go](../../corpus_make_test.go). All of them are of another boot, but for those that say otherwise, and have
no ballast. To look at one: ` + "`mkdir s && tar -C s -xf NAME.tar.gz`" + `.

| store | what it shows | in layout.md |
| --- | --- | --- |
`)
	for _, s := range corpusStores {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", s.name, s.shows, s.rule)
	}
	return b.String()
}
