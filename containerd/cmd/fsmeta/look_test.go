package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/urfave/cli/v3"
)

// The process that has the lock of writers is named while it has it.
func TestInfoWriter(t *testing.T) {
	dir := closed(t, steps...)
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	defer s.Close() //nolint:errcheck // nothing is written
	succeed(t, s.WithTransaction(t.Context(), true, func(context.Context) error {
		r := on(t, 0, "info", "--json", dir)
		var got struct{ Writer []process }
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got.Writer) != 1 || got.Writer[0].PID != os.Getpid() {
			t.Errorf("%+v, %v: %s", got, err, r.out)
		}
		return nil
	}))
}

// A store that changes too fast is inspected again, unless something was printed already; and
// no more often than makes sense.
func TestOutdated(t *testing.T) {
	dir := closed(t, steps...)
	for _, test := range []struct {
		name      string
		print     int // bytes before the error
		failures  int
		want      int // attempts
		succeeded bool
	}{
		{"twice", 10, 2, 3, true},
		{"printed", 2 * outputSize, 2, 1, false},
		{"always", 10, 1000, attempts, false},
	} {
		tried := 0
		var out bytes.Buffer
		c := &cli.Command{Writer: &out, Action: looking(func(l *look, _ *cli.Command) error {
			tried++
			_, _ = l.out.WriteString(strings.Repeat("x", test.print))
			if l.note("", errors.New("damage")); tried <= test.failures {
				return fmt.Errorf("so: %w", fsmeta.ErrOutdated)
			}
			l.wrong = nil
			return nil
		}, &dir), ExitErrHandler: func(context.Context, *cli.Command, error) {}}
		c.ErrWriter = &out
		err := c.Run(t.Context(), []string{"test"})
		if tried != test.want || (err == nil) != test.succeeded || err != nil && !strings.Contains(err.Error(), "run it again") {
			t.Errorf("%s: %d attempts, %v", test.name, tried, err)
		}
		if test.succeeded && out.Len() != test.print {
			t.Errorf("%s: %d bytes are printed", test.name, out.Len())
		}
	}
}

// Errors say what to do.
func TestExplain(t *testing.T) {
	root := t.TempDir()
	s, err := fsmeta.Open(filepath.Join(root, "meta"))
	succeed(t, err)
	succeed(t, s.Close())
	for _, test := range []struct {
		err  error
		dir  string
		want string
	}{
		{nil, root, "<nil>"},
		{fsmeta.ErrNotStore, root, "the store is " + root + "/meta"},
		{fsmeta.ErrNotStore, "/nothing", "give the directory"},
		{fsmeta.ErrInUse, root, "wait"},
		{errors.New("other"), root, "other"},
	} {
		if got := fmt.Sprint(explain(test.err, test.dir)); !strings.Contains(got, test.want) {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
	if r := on(t, 0, "ls", "--kind", "none", root); r.status != 2 || !strings.Contains(r.errs, "choose active or committed") {
		t.Errorf("no kind: %+v", r)
	}
	for _, command := range []string{"check", "repair", "watch", "ls"} {
		if r := on(t, 0, command, root); r.status != 2 || !strings.Contains(r.errs, "the store is "+root+"/meta") {
			t.Errorf("%s: %+v", command, r)
		}
	}
}

// Snapshots with parents that lead back to them are drawn once, and marked.
func TestCircle(t *testing.T) {
	ageless(t)
	commit := func(name, parent string) step {
		return func(ctx context.Context, s *fsmeta.Store) error {
			_, create := s.CreateActive(ctx, "key", parent, false)
			_, commit := s.Commit(ctx, "key", name)
			return errors.Join(create, commit)
		}
	}
	dir := closed(t, commit("a", ""), commit("b", "a"), commit("c", "b"), commit("d", "c"), commit("other", ""))
	path := filepath.Join(dir, "snapshots", "a", "metadata.json")
	data, err := os.ReadFile(path)
	succeed(t, err)
	var lines []string // without the checksum, as a person edits it
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, "crc32c") {
			lines = append(lines, strings.Replace(line, `"parent": ""`, `"parent": "c"`, 1))
		}
	}
	writing("snapshots/a/metadata.json", strings.Join(lines, ""))(t, dir)
	golden(t, "circle", transcript(t, 0, dir, "tree STORE", "tree --dot STORE", "show STORE b", "ls STORE"))
}

// A chain of layers that is deeper than a terminal is wide stays inside of it, and the names
// can be told.
func TestDeepTree(t *testing.T) {
	ageless(t)
	const layers = 130
	dir := closed(t, func(ctx context.Context, s *fsmeta.Store) (err error) {
		for i := range layers {
			parent := fmt.Sprintf("layer %d", i-1)
			if i == 0 {
				parent = ""
			}
			_, create := s.CreateActive(ctx, "key", parent, false)
			_, commit := s.Commit(ctx, "key", fmt.Sprintf("layer %d", i))
			err = errors.Join(err, create, commit)
		}
		return err
	})
	for _, columns := range []int{0, 40, 200} {
		out := on(t, columns, "tree", dir).out
		for i := range layers {
			if !strings.Contains(out, fmt.Sprintf("─ layer %d", i)) {
				t.Errorf("layer %d is not in the tree on %d columns", i, columns)
			}
		}
		if columns > 0 {
			inside(t, "tree", columns, out)
		}
	}
}

// Listings of large stores keep no more than the names. Measured: 0.5 kB for each snapshot.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes a large store")
	}
	const snapshots = 10_000
	dir := filepath.Join(t.TempDir(), "store")
	s, err := fsmeta.Open(dir)
	succeed(t, err)
	now, labels := time.Now().UTC(), strings.Repeat("x", 2000)
	all := make([]fsmeta.Info, snapshots)
	for i := range all {
		all[i] = fsmeta.Info{ID: fmt.Sprint(i + 1), Name: fmt.Sprint("name ", i), Kind: fsmeta.KindActive, Created: now, Updated: now, Labels: map[string]string{"long": labels}}
	}
	succeed(t, s.Import(t.Context(), all, snapshots+1, nil), s.Close())
	all = nil
	for _, arguments := range [][]string{{"ls", dir}, {"ls", "--json", dir}} {
		peak := &peak{}
		c := command()
		c.Writer = peak
		before := heap()
		succeed(t, c.Run(t.Context(), append([]string{"fsmeta"}, arguments...)))
		if peak.lines != snapshots && peak.lines != snapshots+1 {
			t.Errorf("%q prints %d lines", arguments, peak.lines)
		}
		if most := int64(snapshots * 1000); peak.heap-before > most {
			t.Errorf("%q: the heap grows by %d bytes, with %d of labels in the store", arguments, peak.heap-before, snapshots*len(labels))
		}
	}
}

// peak counts lines, and looks now and then how large the heap is.
type peak struct {
	lines, writes int
	heap          int64
}

func (p *peak) Write(b []byte) (int, error) {
	p.lines += bytes.Count(b, []byte("\n"))
	if p.writes++; p.writes%50 == 1 {
		p.heap = max(p.heap, heap())
	}
	return len(b), nil
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Listings of a store that four processes write meanwhile are each of one moment: every
// process has its snapshot there, under one of two names, and the last transaction's has the
// number that all count on.
func TestLiveMoments(t *testing.T) {
	const writers = 4
	dir := closed(t)
	for i := range writers {
		other(t, "churner", dir, fmt.Sprint("key ", i), fmt.Sprint("name ", i))
	}
	for range 25 {
		for _, arguments := range [][]string{{"ls", "--json", dir}, {"tree", dir}, {"log", dir}, {"info", dir}, {"show", "--id", dir, "0"}} {
			r := on(t, 0, arguments...)
			absent := arguments[0] == "show" // there is no such identifier
			if r.status > 1 || r.status == 1 != absent || (r.errs != "") != absent || arguments[0] == "ls" && !ofOneMoment(t, r.out, writers) {
				t.Errorf("%q: %+v", arguments, r)
			}
		}
	}
}

// ofOneMoment reports whether a listing has total and a snapshot of each writer, of which the
// latest has the same number.
func ofOneMoment(t *testing.T, listing string, writers int) bool {
	t.Helper()
	snapshots, counted, latest := 0, 0, 0
	for line := range strings.Lines(listing) {
		var s struct {
			Name   string
			Labels struct {
				Number int `json:",string"`
			}
		}
		succeed(t, json.Unmarshal([]byte(line), &s))
		if s.Name == total {
			counted = s.Labels.Number
			continue
		}
		snapshots++
		latest = max(latest, s.Labels.Number)
	}
	return snapshots == writers && counted == latest
}

// itself returns the command as another process.
func itself(arguments ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], arguments...)
	cmd.Env = append(os.Environ(), child+"=command")
	return cmd
}

// A reader that has seen enough ends a listing quietly.
func TestClosedPipe(t *testing.T) {
	dir := closed(t, func(ctx context.Context, s *fsmeta.Store) (err error) {
		for i := range 200 {
			_, create := s.CreateWith(ctx, fmt.Sprint(i), "", false, fsmeta.WithLabels(map[string]string{"long": strings.Repeat("x", 5000)}))
			err = errors.Join(err, create)
		}
		return err
	})
	writing("snapshots/99/metadata.json", "{")(t, dir)
	cmd := itself("ls", "--json", dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	succeed(t, err)
	succeed(t, cmd.Start())
	_, err = out.Read(make([]byte, 10))
	succeed(t, err, out.Close())
	_ = cmd.Wait() // it ends by the signal for a closed pipe
	if errs.Len() > 0 {
		t.Errorf("it says %s", &errs)
	}
}

// Shells are told what can follow: commands, flags, identifiers, and names that their scripts
// pass on unchanged.
func TestCompletion(t *testing.T) {
	dir := closed(t, steps...)
	for _, test := range []struct {
		arguments []string
		want      string // in a line
		not       string
	}{
		{[]string{""}, "tree:draw the snapshots", ""},
		{[]string{"show", dir}, "web\n", "sha256"},
		{[]string{"show", "--id", dir}, "1:sha256:4f53", ""},
		{[]string{"show", filepath.Join(dir, "nothing")}, "", "web"},
		{[]string{"ls", "--"}, "--kind", ""},
	} {
		cmd := itself(append(test.arguments, "--generate-shell-completion")...)
		if test.arguments[0] == "" {
			cmd = itself("--generate-shell-completion")
		}
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), test.want) || test.not != "" && strings.Contains(string(out), test.not) {
			t.Errorf("after %q: %s, %v", test.arguments, out, err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "pwsh"} {
		if r := on(t, 0, "completion", shell); r.status != 0 || r.out == "" {
			t.Errorf("%s: %+v", shell, r)
		}
	}
}

// The manual page has every command.
func TestMan(t *testing.T) {
	r := on(t, 0, "man")
	for _, c := range command().Commands {
		plain := strings.ReplaceAll(r.out, `\-`, "-")
		if !strings.Contains(plain, c.Usage) || !strings.Contains(plain, "fsmeta "+c.Name+" [OPTIONS]") || c.Description == "" || !strings.Contains(c.Description, "Example:") {
			t.Errorf("the manual page, or --help, lacks something of %s", c.Name)
		}
	}
	if r.status != 0 || !strings.Contains(r.out, ".TH fsmeta 8") {
		t.Errorf("%d, %.300s", r.status, r.out)
	}
}
