package peers_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
)

// differences are what the package comment lists. Where the peers differ, the outcome
// of bbolt stands before || and that of fsmeta behind it. What bbolt would wait for
// forever is left out there.
var differences = []struct {
	name, text string
	oursAlone  bool
}{
	{"identifiers are used again after a rollback, or never", `
		begin w write
		w: create active a   => #1 active
		w: create active b   => #2 active
		rollback w
		begin w write
		w: create active c   => #3 active which was #1 || #3 active
		commit w
		begin w write
		w: create active d   => #4 active which was #2 || #4 active
		rollback w
		reopen               => ok,ok
		begin w write
		w: create active e   => #5 active which was #4 || #5 active
		w: remove e          => #5 active
		w: create active e   => #6 active
		commit w`, false},
	{"a writable transaction inside a writable one is an error", `
		begin w write
		begin x write in w   => nested
		begin r read in w
		begin x write in r   => nested
		r: walk              => NotFound
		rollback r
		w: create active a   => #1 active
		commit w
		begin x write in w
		x: walk              => a
		commit x
		begin y write in x
		rollback y`, true},
	{"calls in a transaction that was committed", `
		begin w write
		w: create active a        => #1 active
		commit w
		w: info a                 => panic || TxClosed
		w: get a                  => panic || TxClosed
		w: ids                    => panic || TxClosed
		w: walk                   => panic || TxClosed
		w: walk kind==            => InvalidArgument
		w: update a               => panic || TxClosed
		w: update a :name         => panic || TxClosed
		w: remove a               => panic || TxClosed
		w: remove ""              => panic || TxClosed
		w: commit a as b          => panic || TxClosed
		w: commit a as "\xff"     => panic || TxClosed
		w: commit a as b !        => option
		w: create active b        => TxClosed
		w: create active "\xff"   => TxClosed
		w: create active ""       => TxClosed
		w: create active b on c   => TxClosed
		w: create committed b     => InvalidArgument`, false},
	{"calls in a transaction that was rolled back", `
		begin w write
		w: create active a        => #1 active
		rollback w
		w: info a                 => panic || TxClosed
		w: walk                   => panic || TxClosed
		w: commit a as b          => panic || TxClosed
		w: remove a               => panic || TxClosed
		w: create active b        => TxClosed
		begin r read
		rollback r
		r: info a                 => panic || TxClosed
		r: get a                  => panic || TxClosed
		r: ids                    => panic || TxClosed
		r: update a               => panic || TxClosed
		r: remove a               => panic || TxClosed
		r: commit a as b          => panic || TxClosed
		r: create active b        => TxClosed`, false},
	{"what a commit that failed leaves", `
		begin w write
		w: create active a        => #1 active
		w: create view v          => #2 view
		commit w
		begin w write
		w: commit none as b       => NotFound
		w: info b                 => (an identifier that create never returned: "0") unknown b t1 || NotFound
		w: walk                   => a b v || a v
		rollback w
		begin w write
		w: commit v as b          => FailedPrecondition
		w: walk                   => a b v || a v
		w: commit a as b          => AlreadyExists || #1
		rollback w`, false},
	{"what a commit with a wrong parent leaves", `
		begin w write
		w: create active a        => #1 active
		commit w
		begin w write
		w: commit a as b ^none    => NotFound
		w: walk                   => b || a
		w: get a                  => NotFound || #1 active
		w: commit a as b          => AlreadyExists || #1
		rollback w`, false},
	{"what an update that failed leaves", `
		begin w write
		w: create active a +x=1   => #1 active
		w: info a                 => #1 active a {x=1} t1
		w: update a +=v           => KeyRequired
		w: info a                 => #1 active a {} t1 t2 || #1 active a {x=1} t1
		commit w`, false},
	{"what a creation that failed leaves", `
		begin w write
		w: create active a        => #1 active
		w: create active b +=v    => KeyRequired
		w: get b                  => (an identifier that create never returned: "2") active || NotFound
		w: create active b        => AlreadyExists || #2 active
		rollback w`, false},
	{"what a first creation that failed leaves", `
		begin w write
		w: create active a on b   => NotFound
		w: walk                   => nothing || NotFound
		w: ids                    => nothing || NotFound
		w: commit a as ""         => BucketNameRequired || NotFound
		commit w
		begin r read
		r: walk                   => nothing || NotFound
		rollback r`, false},
	{"no label is left", `
		begin w write
		w: create active a +x=    => #1 active
		w: info a                 => #1 active a {} t1 || #1 active a t1
		w: update a +x=1          => active a {x=1} t1 t2
		w: update a :labels.x     => active a {} t1 t3 || active a t1 t3
		w: info a                 => #1 active a {} t1 t3 || #1 active a t1 t3
		w: update a +x=           => active a {} t1 t4 || active a t1 t4
		w: update a +             => active a {} t1 t5 || active a t1 t5
		w: info a                 => #1 active a t1 t5
		w: commit a as base +x=   => #1
		w: info base              => #1 committed base {} t6 || #1 committed base t6
		commit w`, false},
	{"its own parent", `
		begin w write
		w: create active a        => #1 active
		commit w
		begin w write
		w: commit a as b ^b       => #1 || NotFound
		w: info b                 => #1 committed b on b t1 || NotFound
		rollback w`, false},
	{"names that are not UTF-8", `
		begin w write
		w: create active a            => #1 active
		w: commit a as base           => #1
		w: create active a            => #2 active
		commit w
		begin w write
		w: create active "\xff"       => #3 active || InvalidArgument
		rollback w
		begin w write
		w: commit a as "\xff"         => #2 || InvalidArgument
		rollback w
		begin w write
		w: create active "\xff" on none  => NotFound
		w: create active "\xff" on a     => InvalidArgument
		w: create active c on "\xff"     => NotFound
		w: create active a on "\xff"     => NotFound
		w: info "\xff"                => NotFound
		w: get "\xff"                 => NotFound
		w: update "\xff"              => NotFound
		w: update "\xff" :name        => NotFound
		w: remove "\xff"              => NotFound
		rollback w
		begin w write
		w: commit "\xff" as c         => NotFound
		rollback w
		begin w write
		w: commit "\xff" as "\xff"    => FailedPrecondition || InvalidArgument
		rollback w
		begin w write
		w: commit a as c "^\xff"      => NotFound
		rollback w
		begin w write
		w: commit "\xff" as base      => AlreadyExists
		w: commit "\xff" as ""        => BucketNameRequired
		rollback w
		begin r read
		r: create active "\xff"       => TxNotWritable
		r: commit a as "\xff"         => TxNotWritable
		r: info "\xff"                => NotFound
		r: remove "\xff"              => NotFound
		rollback r
		-: create active "\xff"       => NoTransaction
		-: info "\xff"                => NoTransaction`, false},
	{"names that are too long", `
		begin w write
		w: create active a            => #1 active
		commit w
		begin w write
		w: create active $longestx    => #2 active || InvalidArgument
		rollback w
		begin w write
		w: commit a as $longestx      => #1 || InvalidArgument
		rollback w
		begin w write
		w: create active b on $longestx  => NotFound
		w: create view $longestx on a => InvalidArgument
		w: info $longestx             => NotFound
		rollback w`, false},
	{"labels that are not UTF-8", `
		begin w write
		w: create active a +x=1       => #1 active
		commit w
		begin w write
		w: create active b "+x=\xff"  => #2 active || InvalidArgument
		rollback w
		begin w write
		w: create active b "+\xff=x"  => #3 active which was #2 || InvalidArgument
		rollback w
		begin w write
		w: commit a as b "+\xff=x"    => #1 || InvalidArgument
		rollback w
		begin w write
		w: update a "+y=\xff"         => active a {"y=\xff"} t1 t2 || InvalidArgument
		rollback w
		begin w write
		w: create active a "+\xff=x"  => AlreadyExists
		w: create active b on c "+\xff=x" => NotFound
		w: update b "+\xff=x"         => NotFound
		w: update a :name "+\xff=x"   => InvalidArgument
		rollback w
		begin w write
		w: commit a as b "+\xff=x" ^none  => NotFound || InvalidArgument
		rollback w
		begin r read
		r: update a "+\xff=x"         => TxNotWritable
		rollback r`, false},
	{"attempts that were rolled back, after the store was opened again", `
		begin w write
		w: create active a        => #1 active
		rollback w
		begin r read
		r: walk                   => NotFound
		rollback r
		reopen                    => ok,ok
		begin r read
		r: walk                   => NotFound || nothing
		r: ids                    => NotFound || nothing
		r: commit a as b          => NotFound || TxNotWritable
		r: info a                 => NotFound
		rollback r`, false},
}

// TestDifferences plays what is meant to differ: each peer must do its part.
func TestDifferences(t *testing.T) {
	for _, d := range differences {
		oursAlone := d.oursAlone || len(playersOf(d.text)) == 1
		for i, peer := range both {
			if oursAlone && peer.Name != peers.FS.Name {
				continue
			}
			t.Run(d.name+"/"+peer.Name, func(t *testing.T) {
				p := newPlayer(t, peer)
				p.differs = true
				want := partOf(d.text, i)
				if diff := cmp.Diff(want, strings.Split(strings.TrimSpace(p.play(d.text)), "\n")); diff != "" {
					t.Errorf("the script (-) was played otherwise (+):\n%s", diff)
				}
			})
		}
	}
}

// partOf returns the lines of a script with the outcomes of one peer.
func partOf(script string, peer int) []string {
	part := lines(script)
	for i, line := range part {
		call, outcomes, _ := strings.Cut(line, " => ")
		outcome := strings.Split(outcomes, " || ")
		part[i] = call + " => " + outcome[min(peer, len(outcome)-1)]
	}
	return part
}

// TestDifferencesAreDifferences requires every script above to say something else for
// each peer.
func TestDifferencesAreDifferences(t *testing.T) {
	for _, d := range differences {
		if d.oursAlone == strings.Contains(d.text, " || ") {
			t.Errorf("%s: not different", d.name)
		}
	}
}

// TestGivenMapsAreNotChanged gives maps with empty values. bbolt's functions delete
// them, ours do not.
func TestGivenMapsAreNotChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		whole := map[string]string{"x": "1", "y": ""}
		left := map[string]map[string]string{"bbolt": {"x": "1"}, "fsmeta": whole}[p.peer.Name]
		p.in(true, func(ctx context.Context) {
			given := map[string]string{"x": "1", "y": ""}
			give := func(info *snapshots.Info) error { info.Labels = given; return nil }
			_, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, "a", "", give)
			noError(t, err)
			equal(t, "labels given to create", given, left)

			given = map[string]string{"x": "1", "y": ""}
			_, err = p.store.CommitActive(ctx, "a", "base", snapshots.Usage{}, give)
			noError(t, err)
			equal(t, "labels given to commit", given, left)

			given = map[string]string{"x": "1", "y": ""}
			updated, err := p.store.UpdateInfo(ctx, snapshots.Info{Name: "base", Labels: given})
			noError(t, err)
			equal(t, "labels given to update", given, left)
			equal(t, "labels returned", updated.Labels, map[string]string{"x": "1"})
		})
	})
}

// TestReturnedMapIsNotTheGivenOne changes what update returns. With bbolt, that is the
// map that was given.
func TestReturnedMapIsNotTheGivenOne(t *testing.T) {
	onBoth(t, func(t *testing.T, p *player) {
		p.in(true, func(ctx context.Context) {
			given := map[string]string{"x": "1"}
			_, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, "a", "")
			noError(t, err)
			updated, err := p.store.UpdateInfo(ctx, snapshots.Info{Name: "a", Labels: given}, "labels")
			noError(t, err)
			equal(t, "labels", updated.Labels, map[string]string{"x": "1"})
			clear(updated.Labels)
			want := map[string]map[string]string{"bbolt": {}, "fsmeta": {"x": "1"}}[p.peer.Name]
			equal(t, "labels given", given, want)
		})
	})
}

// TestTwoStoresOnOnePath opens a store a second time: bbolt would wait until the first
// is closed, ours share it.
func TestTwoStoresOnOnePath(t *testing.T) {
	needOptions(t, peers.Bolt.Name)
	p := newPlayer(t, peers.Bolt)
	p.prepare("begin r read")
	second, err := openers["bbolt"](p.path, func(o *bolt.Options) error { o.Timeout = 1; return nil })
	noError(t, err)
	_, _, err = second.begin(bg, false)
	is(t, err, errbolt.ErrTimeout)

	p = newPlayer(t, peers.FS)
	p.prepare("begin r read\n begin w write\n w: create active a")
	q := &player{t: t, peer: p.peer, path: p.path, transactions: map[string]*transaction{}, ids: p.ids, times: p.times}
	q.openStore()
	q.prepare("begin r read")
	equal(t, "before the commit", q.do("r: info a"), "NotFound")
	p.prepare("commit w")
	equal(t, "in a transaction that began before", q.do("r: info a"), "NotFound")
	q.prepare("rollback r\n begin w write\n w: info a\n w: remove a")
	equal(t, "before the other's commit", p.do("r: walk"), "NotFound")
	_, _, err = p.store.TransactionContext(q.context("w"), true)
	is(t, err, fsmeta.ErrNestedTransaction) // the store is the same
	q.prepare("commit w")
	p.prepare("rollback r")
	equal(t, "after the other's commit", p.committed(), "")
	noError(t, q.store.Close())
}

// TestCloseRollsBack closes a store with open transactions. bbolt's would wait for them.
func TestCloseRollsBack(t *testing.T) {
	p := newPlayer(t, peers.FS)
	p.differs = true
	p.prepare(`
		begin w write
		w: create active a
		commit w
		begin r read
		begin w write
		w: create active b
		w: remove a
		close`)
	for _, call := range []string{"info a", "get a", "ids", "walk", "update a", "create active c", "commit b as c", "remove b"} {
		for _, name := range []string{"r", "w"} {
			equal(t, name+": "+call, p.do(name+": "+call), "closed")
		}
	}
	equal(t, "commit", p.do("commit w"), "closed")
	equal(t, "rollback", p.do("rollback r"), "ok")
	p.transactions["w"].open = false
	p.prepare("open\n begin r read")
	equal(t, "ids", p.do("r: ids"), "a=#1")
	p.prepare("rollback r")
}

// TestReadersDoNotBlock keeps a reader open while more is written than bbolt can map
// without waiting for it.
func TestReadersDoNotBlock(t *testing.T) {
	p := newPlayer(t, peers.FS)
	p.prepare("begin r read")
	for i := range 20 {
		p.in(true, func(ctx context.Context) {
			big := map[string]string{"x": strings.Repeat("x", 100_000)}
			_, err := p.store.CreateSnapshot(ctx, snapshots.KindActive, fmt.Sprint(i), "", snapshots.WithLabels(big))
			noError(t, err)
		})
	}
	equal(t, "walk", p.do("r: walk"), "NotFound")
	p.prepare("rollback r")
}

// TestPanicRollsBack panics in WithTransaction. With bbolt no call could write afterwards.
func TestPanicRollsBack(t *testing.T) {
	p := newPlayer(t, peers.FS)
	for _, writable := range []bool{true, false} {
		func() {
			defer func() { equal(t, "panic", recover(), any("mine")) }()
			_ = p.store.WithTransaction(bg, writable, func(ctx context.Context) error {
				p.call(ctx, "create", []string{"active", "a"})
				panic("mine")
			})
		}()
	}
	p.prepare("begin w write")
	equal(t, "walk", p.do("w: walk"), "NotFound")
	p.prepare("w: create active a\n commit w")
}

// TestChangesInAWalk changes the store from a walk's callback. What is visited stays
// what was there, as it was; with bbolt that is not defined.
func TestChangesInAWalk(t *testing.T) {
	p := newPlayer(t, peers.FS)
	p.prepare("begin w write\n w: create active b +x=1\n w: create active c +x=1\n w: create active d +x=1\n commit w\n begin w write")
	var visited []string
	noError(t, p.store.WalkInfo(p.context("w"), func(ctx context.Context, info snapshots.Info) error {
		visited = append(visited, p.info(info, snapshots.Usage{}))
		if info.Name == "b" {
			for _, call := range []string{"create active a", "create active e", "update d +x=2", "remove c", "commit b as ab"} {
				words := p.words(call)
				p.call(ctx, words[0], words[1:])
				noError(t, p.err)
			}
		}
		return nil
	}, "labels.x"))
	equal(t, "visited", visited, []string{"active b {x=1} t1", "active c {x=1} t4", "active d {x=1} t2"})
	equal(t, "afterwards", p.do("w: walk"), "a ab d e")
	p.prepare("commit w")
	equal(t, "committed", p.names(), []string{"a", "ab", "d", "e"})
}

// TestDamage damages one snapshot. Calls that need it say so, all others do their work.
func TestDamage(t *testing.T) {
	for name, content := range map[string]string{"no JSON": "{", "no name": "{}", "nothing": "", "zeros": "\x00\x00"} {
		t.Run(name, func(t *testing.T) { testDamage(t, content) })
	}
}

func testDamage(t *testing.T, content string) {
	p := newPlayer(t, peers.FS)
	p.differs = true
	p.prepare(`
		begin w write
		w: create active a
		w: commit a as base
		w: create active b on base
		w: create active c
		commit w
		close`)
	file := filepath.Join(p.path, "snapshots", "base", "metadata.json")
	noError(t, os.WriteFile(file, []byte(content), 0o600))
	p.prepare("open\n begin w write")
	for call, want := range map[string]string{
		"info base": "damaged", "walk": "b c damaged", "walk kind==active": "b c damaged", "ids": "damaged",
		"get base": "damaged", "get b": "damaged", "get c": "#3 active", "update base": "damaged",
		"create active d on base": "damaged", "create active base": "damaged", "create active base +=v": "damaged",
		"remove base": "damaged", "commit c as base": "damaged", "commit base as d": "damaged", "commit c as d ^base": "damaged",
	} {
		equal(t, call, p.do("w: "+call), want)
		var damage *fsmeta.DamagedError
		switch {
		case want == "#3 active":
		case !errdefs.IsDataLoss(p.err) || errdefs.IsNotFound(p.err) || errdefs.IsAlreadyExists(p.err) || errdefs.IsInvalidArgument(p.err):
			t.Errorf("%s: the error is not of one class: %v", call, p.err)
		case !errors.As(p.err, &damage) || !strings.HasPrefix(damage.Path, filepath.Dir(file)):
			t.Errorf("%s: the error does not tell the path: %v", call, p.err)
		}
	}
	p.prepare("w: commit c as top\n commit w")
}
