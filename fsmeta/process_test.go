package fsmeta_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// The test binary is started again as the processes that share a store. What a
// child does is in roleVariable, the store in dirVariable, its name in
// nameVariable. It tells what it did by events on its standard output, each a
// line of JSON, and is told to begin by a line on its standard input, and to
// end by the end of it.
const (
	roleVariable = "FSMETA_TEST_ROLE"
	dirVariable  = "FSMETA_TEST_DIR"
	nameVariable = "FSMETA_TEST_NAME"
)

// event is what a child tells.
type event struct {
	Kind string // see the constants
	ID   string `json:",omitempty"` // identifier handed out
	Name string `json:",omitempty"` // committed snapshot added
	Gone string `json:",omitempty"` // committed snapshot removed
	Seen int64  `json:",omitempty"` // how many snapshots a reader found
	Text string `json:",omitempty"` // what went wrong

	from *child
}

const (
	evReady    = "ready"    // the store is open
	evIssued   = "issued"   // an identifier was handed out in a transaction that is open
	evTrying   = "trying"   // Commit is to be called
	evAcked    = "acked"    // Commit has returned nil
	evRead     = "read"     // a reader found everything in order
	evFailed   = "failed"   // something is wrong
	evExited   = "exited"   // the process has ended as it should
	evKilled   = "killed"   // the process was killed
	roleWriter = "writer"   // one goroutine writes
	roleBusy   = "busy"     // four goroutines write
	roleReader = "reader"   // reads, from a store opened read-only
	roleHolder = "holder"   // begins a transaction, ends it only when it is told to
	counterA   = "!count.a" // each counts the others, in the size of its usage
	counterB   = "!count.b"
)

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	var opts []fsmeta.Option
	if role == roleReader {
		opts = append(opts, fsmeta.ReadOnly())
	}
	c := &childProcess{must(fsmeta.Open(os.Getenv(dirVariable), opts...)), os.Getenv(nameVariable), make(chan struct{})}
	c.tell(event{Kind: evReady})
	input := bufio.NewReader(os.Stdin)
	must(input.ReadString('\n'))
	go func() {
		_, _ = io.Copy(io.Discard, input)
		close(c.ended)
	}()
	map[string]func(){roleWriter: func() { c.write(1) }, roleBusy: func() { c.write(4) }, roleReader: c.read, roleHolder: c.hold}[role]()
	if err := c.Close(); err != nil {
		c.fail("close: %v", err)
	}
}

// childProcess is the side of a child.
type childProcess struct {
	*fsmeta.Store
	name  string
	ended chan struct{} // closed when standard input has ended
}

func (c *childProcess) goesOn() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// tell writes a line in one piece, so that what a kill cuts off is no half line.
func (c *childProcess) tell(e event) {
	must(os.Stdout.Write(append(must(json.Marshal(e)), '\n')))
}

func (c *childProcess) fail(format string, args ...any) {
	c.tell(event{Kind: evFailed, Text: fmt.Sprintf(format, args...)})
	os.Exit(1)
}

func (c *childProcess) write(writers int) {
	done := make(chan bool)
	for w := range writers {
		go func() {
			defer func() { done <- true }()
			old := ""
			for n := 0; c.goesOn(); n++ {
				old = c.transaction(fmt.Sprintf("%s/%d/%d", c.name, w, n), old, n)
				if count(c.Store, n%10 == 0) < 1 {
					c.fail("nothing is counted after a commit")
				}
			}
		}()
	}
	for range writers {
		<-done
	}
}

// transaction adds a committed snapshot and removes an old one, now and then,
// and counts. It returns which one is to be removed next.
func (c *childProcess) transaction(name, old string, n int) string {
	ctx, tx, err := c.TransactionContext(context.Background(), true)
	if err != nil {
		c.fail("begin: %v", err)
	}
	defer tx.Rollback()
	e := event{Kind: evIssued, Name: name, ID: must(c.CreateActive(ctx, "key "+name, "", false)).ID}
	c.tell(e)
	if n%5 == 4 {
		if err := tx.Rollback(); err != nil {
			c.fail("rollback: %v", err)
		}
		return old
	}
	must(c.Commit(ctx, "key "+name, name))
	size := must(c.Stat(ctx, counterA)).Usage.Size + 1
	if n%3 == 2 && old != "" {
		must(c.Remove(ctx, old))
		e.Gone, old, size = old, "", size-1
	} else {
		old = name
	}
	must(c.SetUsage(ctx, counterA, fsmeta.Usage{Size: size}))
	must(c.SetUsage(ctx, counterB, fsmeta.Usage{Size: size}))
	e.Kind = evTrying
	c.tell(e)
	if err := tx.Commit(); err != nil {
		c.fail("commit: %v", err)
	}
	e.Kind = evAcked
	c.tell(e)
	if info, err := c.Stat(context.Background(), name); err != nil || info.ID != e.ID {
		c.fail("%s is not there after its commit: %+v, %v", name, info, err)
	}
	return old
}

func (c *childProcess) read() {
	for n := 0; c.goesOn(); n++ {
		if seen := count(c.Store, true); n%100 == 0 {
			c.tell(event{Kind: evRead, Seen: seen})
		}
	}
}

func (c *childProcess) hold() {
	ctx, tx, err := c.TransactionContext(context.Background(), true)
	if err != nil {
		c.fail("begin: %v", err)
	}
	for n := range 300 {
		key := fmt.Sprint(c.name, n)
		c.tell(event{Kind: evIssued, Name: key, ID: must(c.CreateActive(ctx, key, "", false)).ID})
	}
	must(c.Remove(ctx, counterA))
	c.tell(event{Kind: evTrying})
	<-c.ended // or until it is killed
	tx.Rollback()
}

// count requires that what a transaction sees was written by whole transactions,
// and returns how many snapshots there are. It looks at all of them, or at the
// counters alone.
func count(s *fsmeta.Store, all bool) (counted int64) {
	err := s.WithTransaction(context.Background(), false, func(ctx context.Context) error {
		a, err := s.Stat(ctx, counterA)
		if err != nil {
			return err
		}
		b, err := s.Stat(ctx, counterB)
		if err != nil {
			return err
		}
		if counted = a.Usage.Size; b.Usage.Size != counted {
			return fmt.Errorf("half a transaction: %s is %d, %s is %d", counterA, counted, counterB, b.Usage.Size)
		}
		if !all {
			return nil
		}
		there := int64(-2)
		err = s.Walk(ctx, func(context.Context, fsmeta.Info) error { there++; return nil })
		if err == nil && there != counted {
			err = fmt.Errorf("half a transaction: there are %d, the counter says %d", there, counted)
		}
		return err
	})
	if errors.Is(err, fsmeta.ErrOutdated) { // another process has folded the journal just then
		return count(s, all)
	}
	return must(counted, err)
}

// family is a store, the processes that share it, and what they told.
type family struct {
	t      *testing.T
	ctx    context.Context
	dir    string
	events chan event
	alive  int

	issued map[string]string // by identifier, to which name
	acked  map[string]string // by name, its identifier; removed ones are not in it
	trying map[string]event  // by name, what may or may not have been done
	turns  map[string]int    // transactions acknowledged, by the name of the child
	ready  map[*child]bool
	reads  int
	writes int // events of writers
}

type child struct {
	name  string
	role  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func newFamily(t *testing.T) *family {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	f := &family{t: t, ctx: ctx, dir: filepath.Join(t.TempDir(), "store"), events: make(chan event, 1000),
		issued: map[string]string{}, acked: map[string]string{}, trying: map[string]event{}, turns: map[string]int{}, ready: map[*child]bool{}}
	s := must(fsmeta.Open(f.dir))
	err := s.WithTransaction(ctx, true, func(ctx context.Context) error {
		must(s.CreateActive(ctx, counterA, "", false))
		must(s.CreateActive(ctx, counterB, "", false))
		return nil
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return f
}

// start starts a child, which waits until it is told to begin.
func (f *family) start(role, name string) *child {
	f.t.Helper()
	c := &child{name: name, role: role, cmd: exec.CommandContext(f.ctx, must(os.Executable()))}
	c.cmd.Env = append(os.Environ(), roleVariable+"="+role, dirVariable+"="+f.dir, nameVariable+"="+name)
	var stderr strings.Builder
	c.cmd.Stderr = &stderr
	c.stdin = must(c.cmd.StdinPipe())
	stdout := must(c.cmd.StdoutPipe())
	if err := c.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.alive++
	go func() {
		decoder := json.NewDecoder(stdout)
		for {
			e := event{from: c}
			if decoder.Decode(&e) != nil {
				break
			}
			f.events <- e
		}
		switch err := c.cmd.Wait(); {
		case err == nil:
			f.events <- event{Kind: evExited, from: c}
		case err.Error() == "signal: killed" && f.ctx.Err() == nil:
			f.events <- event{Kind: evKilled, from: c}
		default:
			f.events <- event{Kind: evFailed, Text: fmt.Sprint(err, "\n", stderr.String()), from: c}
		}
	}()
	return c
}

// next takes down the next event. Those told by a child come in order.
func (f *family) next() event {
	f.t.Helper()
	var e event
	select {
	case e = <-f.events:
	case <-f.ctx.Done():
		f.t.Fatalf("nothing happens any more: %v", f.turns)
	}
	switch f.writes++; e.Kind {
	case evReady:
		f.ready[e.from] = true
	case evIssued:
		if name, ok := f.issued[e.ID]; ok {
			f.t.Fatalf("identifier %s was handed out for %q and for %q", e.ID, name, e.Name)
		}
		f.issued[e.ID] = e.Name
	case evTrying:
		f.trying[e.Name] = e
	case evAcked:
		delete(f.trying, e.Name)
		delete(f.acked, e.Gone)
		f.acked[e.Name] = e.ID
		f.turns[e.from.name]++
	case evRead:
		f.reads++
		f.writes--
	case evExited, evKilled:
		f.alive--
	case evFailed:
		f.t.Fatalf("%s: %s", e.from.name, e.Text)
	}
	return e
}

// await takes events down until one of that kind comes from c.
func (f *family) await(c *child, kind string) {
	f.t.Helper()
	for {
		if e := f.next(); e.from == c && e.Kind == kind {
			return
		}
	}
}

// begin tells children that wait to begin.
func (f *family) begin(children ...*child) {
	f.t.Helper()
	for _, c := range children {
		for !f.ready[c] {
			f.next()
		}
	}
	for _, c := range children {
		must(io.WriteString(c.stdin, "begin\n"))
	}
}

// pass takes down a random number of events of writers, at most most.
func (f *family) pass(most int) {
	f.t.Helper()
	for end := f.writes + 1 + rand.IntN(most); f.writes < end; {
		f.next()
	}
}

// kill kills a child and takes down what it told before.
func (f *family) kill(c *child) {
	f.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	f.await(c, evKilled)
}

// end lets children end, and requires that the store is what they told.
func (f *family) end(children ...*child) {
	f.t.Helper()
	for _, c := range children {
		if c.role != roleReader {
			c.stdin.Close()
			f.await(c, evExited)
		}
	}
	for _, c := range children {
		if c.role == roleReader {
			f.upToDate(c)
			c.stdin.Close()
			f.await(c, evExited)
		}
	}
	f.verify(fsmeta.ReadOnly())
	f.verify()
	f.verify() // after the last Close has folded the journal
	f.t.Logf("%d identifiers, %d snapshots, %d unknown, turns %v, %d reads", len(f.issued), len(f.acked), len(f.trying), f.turns, f.reads)
}

// upToDate requires that a reader comes to see what the others have written.
func (f *family) upToDate(reader *child) {
	f.t.Helper()
	s := must(fsmeta.Open(f.dir, fsmeta.ReadOnly()))
	defer s.Close()
	for want, tries := count(s, true), 0; ; {
		e := f.next()
		if e.from != reader || e.Kind != evRead {
			continue
		}
		if e.Seen == want {
			return
		}
		if tries++; tries > 1000 {
			f.t.Fatalf("the reader sees %d snapshots, there are %d", e.Seen, want)
		}
	}
}

func (f *family) verify(opts ...fsmeta.Option) {
	f.t.Helper()
	s := must(fsmeta.Open(f.dir, opts...))
	defer s.Close()
	ids := map[string]string{} // by name
	for id, name := range must(s.IDs(f.ctx)) {
		ids[name] = id
	}
	if n := count(s, true); int(n) != len(ids)-2 {
		f.t.Errorf("%d snapshots, %d are counted", len(ids)-2, n)
	}
	for name, id := range ids {
		if f.issued[id] != name && name != counterA && name != counterB {
			f.t.Errorf("%q has identifier %s, which was handed out for %q", name, id, f.issued[id])
		}
	}
	gone := map[string]bool{} // perhaps
	for name, e := range f.trying {
		gone[e.Gone] = true
		if there := ids[name] != ""; e.Gone != "" && there == (ids[e.Gone] != "") {
			f.t.Errorf("half a transaction: %q is there: %v, %q is, too", name, there, e.Gone)
		}
	}
	for name, id := range f.acked {
		if ids[name] != id && !gone[name] {
			f.t.Errorf("acknowledged %q has identifier %q, want %s", name, ids[name], id)
		}
	}
	for name := range ids {
		_, trying := f.trying[name]
		if f.acked[name] == "" && !trying && name != counterA && name != counterB {
			f.t.Errorf("%q is there, but was never committed, or was removed", name)
		}
	}
}

// fewest returns how many turns the child had that had the fewest.
func (f *family) fewest(children ...*child) int {
	fewest := f.turns[children[0].name]
	for _, c := range children {
		fewest = min(fewest, f.turns[c.name])
	}
	return fewest
}

func (f *family) total() (total int) {
	for _, n := range f.turns {
		total += n
	}
	return total
}

// Processes that write without a pause each get turns, next to one that writes
// from several goroutines at once, and nothing gets lost.
func TestProcesses(t *testing.T) {
	f := newFamily(t)
	reader := f.start(roleReader, "reader")
	writers := []*child{f.start(roleWriter, "one"), f.start(roleWriter, "two"), f.start(roleBusy, "busy")}
	all := append(writers, reader)
	f.begin(all...)
	const turns = 25
	for f.fewest(writers...) < turns || f.reads == 0 {
		if f.next(); f.total() > 60*turns {
			t.Fatalf("turns are not shared: %v", f.turns)
		}
	}
	f.end(all...)
}

// A process that is killed, wherever it is, loses nothing that it acknowledged,
// leaves no half transaction, and stops no other process.
func TestKilledProcess(t *testing.T) {
	f := newFamily(t)
	kills := 25
	if testing.Short() {
		kills = 5
	}
	reader, other, busy := f.start(roleReader, "reader"), f.start(roleWriter, "other"), f.start(roleBusy, "busy")
	f.begin(reader, other, busy)
	for i := range kills {
		role := []string{roleWriter, roleBusy}[i%2]
		victim := f.start(role, fmt.Sprint("victim", i))
		f.begin(victim)
		f.pass(40) // what all of them do is the clock
		f.kill(victim)
		f.await(other, evAcked)
		f.await(busy, evAcked)
	}
	f.end(reader, other, busy)
}

// All processes are killed at once, again and again: no process is left to
// clean up but the next one.
func TestKilledFamily(t *testing.T) {
	f := newFamily(t)
	kills := 15
	if testing.Short() {
		kills = 3
	}
	for i := range kills {
		children := []*child{f.start(roleWriter, fmt.Sprint("writer", i)), f.start(roleBusy, fmt.Sprint("busy", i))}
		f.begin(children...)
		f.pass(60)
		for _, c := range children {
			if err := c.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		for f.alive > 0 {
			f.next()
		}
		f.verify(fsmeta.ReadOnly())
		if i%3 == 0 {
			f.verify()
		}
	}
	f.end()
}

// While one process has its turn others read, and can stop waiting for theirs.
// When it is killed, the next one has it, and there is nothing of the first.
func TestProcessKilledInItsTurn(t *testing.T) {
	f := newFamily(t)
	s := must(fsmeta.Open(f.dir))
	defer s.Close()
	holder := f.start(roleHolder, "holder")
	f.begin(holder)
	f.await(holder, evTrying)
	delete(f.trying, "")

	if n := count(s, true); n != 0 {
		t.Errorf("%d snapshots, want none", n)
	}
	late, cancel := context.WithTimeout(f.ctx, 20*time.Millisecond)
	defer cancel()
	if _, _, err := s.TransactionContext(late, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got error %v, want DeadlineExceeded", err)
	}
	begun := make(chan error)
	go func() {
		begun <- s.WithTransaction(f.ctx, true, func(ctx context.Context) error {
			for n := range 300 {
				id := must(s.CreateActive(ctx, fmt.Sprint("own", n), "", false)).ID
				f.events <- event{Kind: evIssued, ID: id, Name: fmt.Sprint("own", n)}
			}
			for n := range 300 {
				must(s.Remove(ctx, fmt.Sprint("own", n)))
			}
			return nil
		})
	}()
	f.kill(holder)
	for len(f.issued) < 600 {
		f.next()
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	if n := count(s, true); n != 0 {
		t.Errorf("%d snapshots, want none", n)
	}
	f.end()
}
