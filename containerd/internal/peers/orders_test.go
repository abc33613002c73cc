package peers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/containerd/internal/peers"
)

// fixture is a store to try calls on: a script that makes it, and what it holds then.
type fixture struct {
	name, script string
	written      bool // something was once committed
	there        map[string]snapshot
}

type snapshot struct{ kind, parent string }

const populate = `
	begin w write
	w: create active a +x=1
	w: commit a as base +x=1 +y=2
	w: create active a
	w: commit a as other
	w: create active a on base
	w: commit a as top +y=2
	w: create active active +x=1 +y=2
	w: create active child on base +x=1
	w: create view view on top +x=1 +y=2
	w: create view lone
	commit w`

var populated = map[string]snapshot{
	"base": {"committed", ""}, "other": {"committed", ""}, "top": {"committed", "base"},
	"active": {"active", ""}, "child": {"active", "base"}, "view": {"view", "top"}, "lone": {"view", ""},
}

var fixtures = []fixture{
	{"never written to", "", false, nil},
	{"rolled back", `
		begin w write
		w: create active active
		rollback w`, false, nil},
	{"emptied", `
		begin w write
		w: create active active
		commit w
		begin w write
		w: remove active
		commit w`, true, nil},
	{"emptied and opened again", `
		begin w write
		w: create active active
		w: remove active
		commit w
		reopen`, true, nil},
	{"populated", populate, true, populated},
	{"populated and opened again", populate + "\nreopen", true, populated},
}

func (f fixture) is(name, kind string) bool { return f.there[name].kind == kind }

func (f fixture) has(name string) bool { return f.there[name].kind != "" }

func (f fixture) hasChildren(name string) bool {
	for _, s := range f.there {
		if s.parent == name {
			return true
		}
	}
	return false
}

// trial is a call, the transaction to make it in ("-", "r" or "w"), and what it is to
// be: a class of errors or ok.
type trial struct{ in, call, want string }

// combine returns everything that can be made of a choice each.
func combine(choices ...[]string) [][]string {
	all := [][]string{nil}
	for _, options := range choices {
		var next [][]string
		for _, begun := range all {
			for _, option := range options {
				next = append(next, append(slices.Clip(begun), option))
			}
		}
		all = next
	}
	return all
}

var transactions = []string{"-", "r", "w"}

// Labels to give, in scripts. Only the last have a key that is not possible. One is
// always left: bbolt tells no labels from labels that were deleted.
var someLabels = []string{"", "+x=3 +z=", "+x=3 +=", "+x=3 +=v"}

func badLabels(labels string) bool { return strings.Contains(labels, "+=v") }

// The expectations: the first condition that holds wins.

func creations(f fixture) (trials []trial) {
	names := []string{"", "free", "active", "view", "base", "top"}
	kinds := []string{"active", "view", "committed", "unknown"}
	for _, c := range combine(transactions, kinds, names, append(names, "lone"), someLabels, []string{"", "!"}) {
		in, kind, key, parent, labels, fails := c[0], c[1], c[2], c[3], c[4], c[5]
		want := "ok"
		switch {
		case kind != "active" && kind != "view":
			want = "InvalidArgument"
		case fails == "!":
			want = "option"
		case in == "-":
			want = "NoTransaction"
		case in == "r":
			want = "TxNotWritable"
		case parent != "" && !f.has(parent):
			want = "NotFound"
		case parent != "" && !f.is(parent, "committed"):
			want = "InvalidArgument"
		case key == "":
			want = "BucketNameRequired"
		case f.has(key):
			want = "AlreadyExists"
		case badLabels(labels):
			want = "KeyRequired"
		}
		call := fmt.Sprintf("create %s %q on %q %s %s", kind, key, parent, labels, fails)
		trials = append(trials, trial{in, call, want})
	}
	return trials
}

func commits(f fixture) (trials []trial) {
	keys := []string{"", "free", "active", "child", "view", "lone", "base", "top"}
	names := []string{"", "new", "free", "active", "base", "view"}
	parents := []string{"none", "", "free", "active", "child", "view", "base", "other"}
	for _, c := range combine(transactions, keys, names, parents, someLabels, []string{"", "!"}) {
		in, key, name, parent, labels, fails := c[0], c[1], c[2], c[3], c[4], c[5]
		has := f.there[key].parent
		if parent == "none" {
			parent = ""
		} else if !theirsRebases() {
			continue
		} else {
			fails = fmt.Sprintf("\"^%s\" %s", parent, fails)
		}
		want := "ok"
		switch {
		case strings.HasSuffix(fails, "!"):
			want = "option"
		case in == "-":
			want = "NoTransaction"
		case !f.written:
			want = "NotFound"
		case in == "r":
			want = "TxNotWritable"
		case name == "":
			want = "BucketNameRequired"
		case f.has(name):
			want = "AlreadyExists"
		case key == name: // bbolt has just made it
			want = "FailedPrecondition"
		case !f.has(key):
			want = "NotFound"
		case !f.is(key, "active"):
			want = "FailedPrecondition"
		case parent != "" && has != "" && parent != has:
			want = "InvalidArgument"
		case badLabels(labels):
			want = "KeyRequired"
		case parent != "" && parent == name:
			continue // see TestDifferences
		case parent != "" && (!f.has(parent) || parent == key):
			want = "NotFound"
		case parent != "" && !f.is(parent, "committed"):
			want = "FailedPrecondition"
		}
		call := fmt.Sprintf("commit %q as %q usage 1 2 %s %s", key, name, labels, fails)
		trials = append(trials, trial{in, call, want})
	}
	return trials
}

func updates(f fixture) (trials []trial) {
	names := []string{"", "free", "active", "view", "base", "top"}
	fields := []string{"", ":labels", ":labels.x", ":labels.z", ":labels.", ":name", ":", ":labels :labels.x",
		":labels.x :labels", ":labels. :labels", ":labels.x :name", ":name :labels.", ":labels :parent"}
	for _, c := range combine(transactions, names, fields, someLabels) {
		in, name, fields, labels := c[0], c[1], c[2], c[3]
		if fields == ":labels :labels.x" && labels == "" {
			continue // no label is left
		}
		want := "ok"
		switch {
		case in == "-":
			want = "NoTransaction"
		case !f.has(name):
			want = "NotFound"
		case strings.Contains(fields, ":name") || strings.Contains(fields, ":parent") || fields == ":":
			want = "InvalidArgument"
		case in == "r":
			want = "TxNotWritable"
		case badLabels(labels) && takesEmptyKey(fields):
			want = "KeyRequired"
		}
		trials = append(trials, trial{in, fmt.Sprintf("update %q %s %s", name, fields, labels), want})
	}
	return trials
}

// takesEmptyKey reports whether field paths take the label without a key.
func takesEmptyKey(fields string) bool {
	words := strings.Fields(fields)
	return len(words) == 0 || slices.Contains(words, ":labels") || slices.Contains(words, ":labels.")
}

func removals(f fixture) (trials []trial) {
	names := []string{"", "free", "active", "child", "view", "lone", "base", "other", "top"}
	for _, c := range combine(transactions, names) {
		in, name := c[0], c[1]
		want := "ok"
		switch {
		case in == "-":
			want = "NoTransaction"
		case !f.has(name):
			want = "NotFound"
		case f.hasChildren(name):
			want = "FailedPrecondition"
		case in == "r":
			want = "TxNotWritable"
		}
		trials = append(trials, trial{in, fmt.Sprintf("remove %q", name), want})
	}
	return trials
}

func reads(f fixture) (trials []trial) {
	names := []string{"", "free", "active", "child", "view", "lone", "base", "other", "top"}
	for _, c := range combine(transactions, []string{"info", "get"}, names) {
		in, call, name := c[0], c[1], c[2]
		want := "ok"
		switch {
		case in == "-":
			want = "NoTransaction"
		case !f.has(name):
			want = "NotFound"
		case call == "get" && f.is(name, "committed"):
			want = "FailedPrecondition"
		}
		trials = append(trials, trial{in, fmt.Sprintf("%s %q", call, name), want})
	}
	return append(trials, walks(f)...)
}

func walks(f fixture) (trials []trial) {
	calls := []string{"ids", "walk", "walk kind==active", "walk kind==", "walk kind==view kind==", `walk ""`, "walkto base kind=="}
	for _, c := range combine(transactions, calls) {
		in, call := c[0], c[1]
		want := "ok"
		switch {
		case strings.HasSuffix(call, "kind=="):
			want = "InvalidArgument"
		case in == "-":
			want = "NoTransaction"
		case !f.written:
			want = "NotFound"
		}
		trials = append(trials, trial{in, call, want})
	}
	return trials
}

// TestOrderOfChecks tries calls with every combination of mistakes, each in a
// transaction of its own, on stores in every state: the first check that fails decides,
// and both peers have the same order. A call of ours that fails changes nothing.
func TestOrderOfChecks(t *testing.T) {
	calls := []struct {
		name   string
		trials func(fixture) []trial
	}{{"create", creations}, {"commit", commits}, {"update", updates}, {"remove", removals}, {"read", reads}}
	count := 0
	for _, c := range calls {
		for _, f := range fixtures {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				trials := c.trials(f)
				count += len(trials)
				tryAll(t, f, trials)
			})
		}
	}
	t.Logf("%d calls on each peer", count)
}

func tryAll(t *testing.T, f fixture, trials []trial) {
	theirs, ours := newPlayer(t, both[0]), newPlayer(t, both[1])
	theirs.prepare(f.script)
	ours.prepare(f.script)
	before := ours.committed()
	wrong := 0
	for _, trial := range trials {
		b, bSeen := theirs.try(trial)
		o, oSeen := ours.try(trial)
		switch {
		case b != o:
			t.Errorf("%s: %s: bbolt: %s, fsmeta: %s", trial.in, trial.call, b, o)
		case !trial.met(theirs.err, b):
			t.Errorf("%s: %s: both: %s, not %s", trial.in, trial.call, b, trial.want)
		case ours.err != nil && oSeen != before:
			t.Errorf("%s: %s: failed and left\n%s", trial.in, trial.call, oSeen)
		case ours.err == nil && bSeen != oSeen:
			t.Errorf("%s: %s: bbolt left\n%sfsmeta left\n%s", trial.in, trial.call, bSeen, oSeen)
		default:
			continue
		}
		if wrong++; wrong == 10 {
			t.Fatal("and so on")
		}
	}
}

func (trial trial) met(err error, outcome string) bool {
	return trial.want == outcome || trial.want == "ok" && err == nil
}

// try makes a call in a transaction of its own, and returns its outcome and what the
// transaction sees then. What a call that failed leaves is looked at in ours only.
func (p *player) try(trial trial) (outcome, seen string) {
	p.t.Helper()
	mode := map[string]string{"r": "read", "w": "write"}[trial.in]
	if mode == "" {
		return p.do("-: " + trial.call), p.committed()
	}
	p.do("begin " + trial.in + " " + mode)
	outcome = p.do(trial.in + ": " + trial.call)
	err := p.err
	if err == nil || p.peer.Name == peers.FS.Name {
		seen = p.seen(trial.in)
	}
	p.do("rollback " + trial.in)
	p.err = err
	return outcome, seen
}
