package peers_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRandom writes scripts by chance, plays them on both peers line by line, and
// compares everything that every open transaction sees after each line. The seeds are
// always the same: 1, 2, 3, and so on. FSMETA_TEST_RUNS=1000 tries more of them,
// FSMETA_TEST_SEED=17 only that one.
func TestRandom(t *testing.T) {
	first, last := uint64(1), uint64(25)
	if testing.Short() {
		last = 5
	}
	if text := os.Getenv("FSMETA_TEST_RUNS"); text != "" {
		last = parse(t, text)
	}
	if text := os.Getenv("FSMETA_TEST_SEED"); text != "" {
		first = parse(t, text)
		last = first
	}
	tried, steps := map[string]int{}, 0
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			g := playGame(t, randomBytes(seed, 2000))
			steps += len(g.log)
			for what, n := range g.tried {
				tried[what] += n
			}
		})
	}
	t.Logf("%d seeds, %d lines: %v", last-first+1, steps, tried)
	if first == last || testing.Short() {
		return
	}
	for _, what := range mustBeTried {
		if tried[what] == 0 && (what != "commit InvalidArgument" || theirsRebases()) { // of another parent
			t.Errorf("never tried: %s", what)
		}
	}
}

// mustBeTried are calls with their outcomes, without which the test is not worth much.
var mustBeTried = []string{
	"create ok", "create InvalidArgument", "create NotFound", "create AlreadyExists", "create BucketNameRequired",
	"create KeyRequired", "create TxNotWritable", "create NoTransaction", "create option",
	"commit ok", "commit NotFound", "commit AlreadyExists", "commit FailedPrecondition", "commit InvalidArgument",
	"commit BucketNameRequired", "commit KeyRequired", "commit TxNotWritable", "commit NoTransaction", "commit option",
	"update ok", "update NotFound", "update InvalidArgument", "update KeyRequired", "update TxNotWritable", "update NoTransaction",
	"remove ok", "remove NotFound", "remove FailedPrecondition", "remove TxNotWritable", "remove NoTransaction",
	"walkto ok", "walkto stop", "walkto NotFound", "walkto NoTransaction",
	"begin write", "begin read", "begin read in", "commit transaction", "rollback transaction", "reopen",
}

func parse(t *testing.T, text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	noError(t, err)
	return n
}

func randomBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 0))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	return data
}

// FuzzScripts does what TestRandom does, with bytes that are chosen by what they reach. How
// much a run reaches varies, so don't let it look for smaller inputs for long: give
// -fuzzminimizetime 5x.
func FuzzScripts(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(randomBytes(seed+1_000_000, 300))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 400 {
			return // a long script finds what short ones do, and holds up hundreds of them
		}
		playGame(t, data)
	})
}

// game is a script that is made up while it is played. Every choice takes a byte.
type game struct {
	t            *testing.T
	data         []byte
	theirs, ours *player
	log          []string
	tried        map[string]int
	open         map[string]string // transactions, and what ours saw last
	used, uses   bool              // something was committed, or is written in w
}

// playGame plays until all bytes are used up.
func playGame(t *testing.T, data []byte) *game {
	g := &game{t: t, data: data, theirs: newPlayer(t, both[0]), ours: newPlayer(t, both[1]),
		tried: map[string]int{}, open: map[string]string{}}
	for len(g.data) > 0 {
		g.step()
	}
	g.endAll()
	if g.used {
		g.play("reopen")
	}
	return g
}

// choose returns a number below n.
func (g *game) choose(n int) int {
	if len(g.data) == 0 {
		return 0
	}
	b := g.data[0]
	g.data = g.data[1:]
	return int(b) % n
}

// rarely is true once in n times.
func (g *game) rarely(n int) bool { return g.choose(n) == n-1 }

func (g *game) pick(from ...string) string { return from[g.choose(len(from))] }

func (g *game) step() {
	_, writing := g.open["w"]
	switch n := g.choose(32); {
	case n < 4:
		g.toggleReader(g.pick("r", "s"))
	case n == 4 && g.used:
		g.endAll()
		g.play("reopen")
	case n < 8 && n > 4:
		g.play(g.pick("r", "s", "-") + ": " + g.call())
	case !writing:
		g.play("begin w write" + g.inside())
	case n < 11:
		g.play(g.pick("commit", "commit", "rollback") + " w")
	default:
		g.play("w: " + g.call())
	}
}

func (g *game) toggleReader(name string) {
	if _, open := g.open[name]; open {
		g.play("rollback " + name)
	} else {
		g.play("begin " + name + " read" + g.inside())
	}
}

// inside chooses a transaction to begin another in.
func (g *game) inside() string {
	open := slices.Sorted(maps.Keys(g.open))
	if len(open) == 0 || g.choose(2) == 0 {
		return ""
	}
	return " in " + g.pick(open...)
}

func (g *game) endAll() {
	for _, name := range slices.Sorted(maps.Keys(g.open)) {
		how := "rollback "
		if name == "w" {
			how = g.pick("commit ", "rollback ")
		}
		g.play(how + name)
	}
}

// Names are few, so that they meet: as keys, names and parents.
var someNames = []string{"a", "b", "c", "d/1", "d/2", "base", "mid", "top"}

func (g *game) name() string {
	if g.rarely(40) {
		return `""`
	}
	return g.pick(someNames...)
}

// likely chooses a name, mostly that of a snapshot of one of these kinds.
func (g *game) likely(kinds ...string) string {
	names := g.there(kinds...)
	if len(names) == 0 || g.rarely(5) {
		return g.name()
	}
	return g.pick(names...)
}

// there returns the snapshots of these kinds that the writable transaction saw last.
func (g *game) there(kinds ...string) (names []string) {
	for line := range strings.Lines(g.open["w"]) {
		words := strings.Fields(line) // such as w: info a => #1 active a
		if len(words) > 5 && words[1] == "info" && slices.Contains(kinds, words[5]) {
			names = append(names, words[2])
		}
	}
	return names
}

func (g *game) labels() (words string) {
	for range g.choose(3) {
		words += " +" + g.pick("x", "y.z", "w") + "=" + g.pick("1", "2", "")
	}
	if g.rarely(30) {
		words += " +=v"
	}
	return words
}

func (g *game) call() string {
	n := g.choose(16)
	if n < 8 && n > 2 && len(g.there("active")) == 0 {
		n = 0 // there is nothing to commit
	}
	switch {
	case n < 3:
		return g.createCall()
	case n < 8:
		return g.commitCall()
	case n < 12:
		return g.updateCall()
	case n < 13:
		return "walkto " + g.name() + g.pick("", " kind==active", " kind!=view labels.x", " kind==")
	default:
		return "remove " + g.likely(g.pick("active", "view", "committed"))
	}
}

func (g *game) createCall() string {
	call := "create " + g.pick("active", "active", "view") + " " + g.name()
	if len(g.there("committed")) > 0 && g.choose(4) != 0 || g.rarely(20) {
		call += " on " + g.likely("committed")
	}
	return call + g.labels() + g.mistake(" !")
}

func (g *game) commitCall() string {
	key, name := g.likely("active"), g.name()
	call := fmt.Sprintf("commit %s as %s usage %d %d%s", key, name, g.choose(3), g.choose(3), g.labels())
	if parent := g.likely("committed"); g.choose(3) == 0 && theirsRebases() && parent != name && parent != `""` {
		call += " ^" + parent // a snapshot that is its own parent: see TestDifferences
	}
	return call + g.mistake(" !")
}

func (g *game) updateCall() string {
	call := "update " + g.likely("active", "view", "committed")
	for range g.choose(3) {
		call += " :labels" + g.pick("", ".x", ".y.z", ".")
	}
	return call + g.labels() + g.mistake(" :name")
}

func (g *game) mistake(word string) string {
	if g.rarely(30) {
		return word
	}
	return ""
}

// play plays a line on both peers and compares the outcomes and what is seen then.
func (g *game) play(line string) {
	g.t.Helper()
	in, call, isCall := strings.Cut(line, ": ")
	if _, open := g.open[in]; isCall && !open && in != "-" {
		return
	}
	g.log = append(g.log, line)
	want := g.theirs.do(line)
	got := g.ours.do(line)
	g.log[len(g.log)-1] += " => " + want
	g.same("the outcome", got, want)
	failed := g.theirs.err != nil
	if isCall {
		g.count(call, want, failed)
	} else {
		g.keep(strings.Fields(line), failed)
	}
	if failed && in == "w" && g.leavesTraces(strings.Fields(call)[0], want) {
		if seen := g.ours.view("w"); seen != g.open["w"] {
			g.fail("a call of ours that failed has changed what is seen", seen, g.open["w"])
		}
		g.play("rollback w")
		return
	}
	g.uses = g.uses || in == "w" && strings.HasPrefix(call, "create") && !failed
	g.compare(in)
}

// leavesTraces reports whether bbolt's transaction can't be used after a call that
// failed in it.
func (g *game) leavesTraces(verb, class string) bool {
	switch verb {
	case "create":
		return class == "KeyRequired" || !g.used && !g.uses
	case "update":
		return class == "KeyRequired"
	case "commit":
		return class != "option" && class != "AlreadyExists" && class != "BucketNameRequired"
	}
	return false
}

func (g *game) count(call, outcome string, failed bool) {
	verb, _, _ := strings.Cut(call, " ")
	words := strings.Fields(outcome)
	class := words[len(words)-1]
	if !failed {
		class = "ok"
	}
	g.tried[verb+" "+class]++
}

// keep keeps account of transactions.
func (g *game) keep(words []string, failed bool) {
	switch {
	case words[0] == "reopen":
		g.tried["reopen"]++
	case failed:
		g.fail("it must not fail", "", "")
	case words[0] == "begin":
		g.open[words[1]] = "new"
		g.tried[strings.Join(slices.Delete(slices.Clone(words[:min(4, len(words))]), 1, 2), " ")]++
	default:
		delete(g.open, words[1])
		g.tried[words[0]+" transaction"]++
		if words[1] == "w" {
			g.used = g.used || g.uses && words[0] == "commit"
			g.uses = false
		}
	}
}

// compare compares what the peers see, in all transactions. Only the one in which a
// call was made may see something new.
func (g *game) compare(in string) {
	g.t.Helper()
	g.same("what is committed", g.ours.viewCommitted(), g.theirs.viewCommitted())
	for _, name := range slices.Sorted(maps.Keys(g.open)) {
		seen := g.ours.view(name)
		g.same("what "+name+" sees", seen, g.theirs.view(name))
		if before := g.open[name]; before != "new" && before != seen && name != in {
			g.fail("what "+name+" sees has changed", seen, before)
		}
		g.open[name] = seen
	}
}

// same compares what is the same of both peers. Labels of which none is left are not
// told from no labels.
func (g *game) same(what, ours, theirs string) {
	g.t.Helper()
	if ours != theirs && strings.ReplaceAll(ours, " {}", "") != strings.ReplaceAll(theirs, " {}", "") {
		g.fail(what+" differs", ours, theirs)
	}
}

func (g *game) fail(what, got, want string) {
	g.t.Helper()
	g.t.Fatalf("%s:\n%s\nThe script:\n%s", what, cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")), strings.Join(g.log, "\n"))
}

func (p *player) viewCommitted() string {
	p.t.Helper()
	p.do("begin committed read")
	defer p.do("rollback committed")
	return p.view("committed")
}

// view returns all that can be asked in a transaction.
func (p *player) view(transaction string) string {
	p.t.Helper()
	calls := []string{"ids", "walk", "walk kind==active", "walk parent==base labels.x==1", `walk labels."y.z",kind!=view`, "walk name~=^d"}
	for _, name := range someNames {
		calls = append(calls, "info "+name, "get "+name)
	}
	var seen strings.Builder
	for _, call := range calls {
		fmt.Fprintf(&seen, "%s: %s => %s\n", transaction, call, p.do(transaction+": "+call))
	}
	return seen.String()
}
