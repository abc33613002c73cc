package peers_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// script is a case: a text for a player, named by what is tried.
type script struct{ name, text string }

// TestConformance plays every script on both peers. Each must do what the script says,
// and both the same.
func TestConformance(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) { playOnBoth(t, s.text) })
	}
	t.Logf("%d scripts with %d lines", len(scripts), countLines(scripts))
}

func countLines(scripts []script) (n int) {
	for _, s := range scripts {
		n += len(lines(s.text))
	}
	return n
}

func playOnBoth(t *testing.T, script string) {
	t.Helper()
	want := strings.Join(lines(script), "\n") + "\n"
	played := map[string]string{}
	for _, peer := range playersOf(script) {
		t.Run(peer.Name, func(t *testing.T) {
			got := newPlayer(t, peer).play(script)
			if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("the script (-) was played otherwise (+):\n%s", diff)
			}
			played[peer.Name] = got
		})
	}
	if diff := cmp.Diff(played["bbolt"], played["fsmeta"]); diff != "" && len(played) == len(both) {
		t.Errorf("bbolt (-) and fsmeta (+) differ:\n%s", diff)
	}
}

// scripts are the cases. Every outcome in them is that of containerd's package.
var scripts = []script{
	// Transactions.
	{"no transaction", `
		-: info a                   => NoTransaction
		-: get a                    => NoTransaction
		-: ids                      => NoTransaction
		-: walk                     => NoTransaction
		-: walk kind==active        => NoTransaction
		-: walk kind==              => InvalidArgument
		-: update a                 => NoTransaction
		-: update a :name           => NoTransaction
		-: update a :labels. +=v    => NoTransaction
		-: create active a          => NoTransaction
		-: create view "" on b +=v  => NoTransaction
		-: create committed a       => InvalidArgument
		-: create unknown a         => InvalidArgument
		-: create kind77 a          => InvalidArgument
		-: create active a !        => option
		-: create committed a !     => InvalidArgument
		-: commit a as b            => NoTransaction
		-: commit "" as "" +=v      => NoTransaction
		-: commit a as b !          => option
		-: remove a                 => NoTransaction
		-: remove ""                => NoTransaction`},
	{"no transaction beside an open one", `
		begin w write
		w: create active a  => #1 active
		-: info a           => NoTransaction
		-: walk             => NoTransaction
		-: remove a         => NoTransaction
		commit w`},
	{"end a transaction twice", `
		begin w write
		commit w
		commit w    => TxClosed
		rollback w  => TxClosed
		begin w write
		rollback w
		rollback w  => TxClosed
		commit w    => TxClosed
		begin r read
		rollback r
		rollback r  => TxClosed
		commit r    => TxClosed`},
	{"a read-only transaction can't be committed and goes on", `
		begin r read
		commit r     => TxNotWritable
		commit r     => TxNotWritable
		r: info a    => NotFound
		rollback r
		commit r     => TxClosed`},
	{"a rollback takes everything back", `
		begin w write
		w: create active a +x=1    => #1 active
		w: create active b         => #2 active
		w: commit b as base        => #2
		commit w
		begin w write
		w: update a +x=2           => active a {x=2} t1 t2
		w: create active c on base => #3 active on #2
		w: commit a as top ^base   => #1
		w: create view v on top    => #4 view on #1 #2
		w: walk                    => base c top v
		w: ids                     => base=#2 c=#3 top=#1 v=#4
		rollback w
		begin w write
		w: info a                  => #1 active a {x=1} t1
		w: info base               => #2 committed base t3
		w: get c                   => NotFound
		w: info top                => NotFound
		w: walk                    => a base
		w: ids                     => a=#1 base=#2
		w: remove base             => #2 committed
		w: remove a                => #1 active
		rollback w
		begin r read
		r: walk                    => a base
		rollback r`},
	{"a removal is rolled back, with the link to the parent", `
		begin w write
		w: create active a            => #1 active
		w: commit a as base           => #1
		w: create active b on base    => #2 active on #1
		commit w
		begin w write
		w: remove b                   => #2 active
		w: remove base                => #1 committed
		rollback w
		begin w write
		w: remove base                => FailedPrecondition
		w: get b                      => #2 active on #1
		rollback w`},
	{"a transaction sees what it changes, others don't before the commit", `
		begin r0 read
		begin w write
		begin r1 read
		w: create active a       => #1 active
		w: info a                => #1 active a t1
		begin r2 read
		r0: info a               => NotFound
		r1: walk                 => NotFound
		r2: ids                  => NotFound
		commit w
		r0: info a               => NotFound
		r0: walk                 => NotFound
		r1: ids                  => NotFound
		r2: get a                => NotFound
		begin r3 read
		r3: info a               => #1 active a t1
		r3: walk                 => a
		rollback r0
		rollback r1
		rollback r2
		rollback r3`},
	{"an older transaction sees the store as it was", `
		begin w write
		w: create active a +x=1     => #1 active
		w: commit a as base +x=1    => #1
		w: create active b on base  => #2 active on #1
		commit w
		begin old read
		begin w write
		w: update base +x=2         => committed base {x=2} t1 t2
		w: commit b as top          => #2
		w: create view v on top     => #3 view on #2 #1
		commit w
		begin older read
		begin w write
		w: remove v                 => #3 view
		w: remove top               => #2 committed
		w: remove base              => #1 committed
		commit w
		begin new read
		old: info base              => #1 committed base {x=1} t1
		old: get b                  => #2 active on #1
		old: info top               => NotFound
		old: walk                   => b base
		old: ids                    => b=#2 base=#1
		older: info base            => #1 committed base {x=2} t1 t2
		older: get v                => #3 view on #2 #1
		older: walk                 => base top v
		older: ids                  => base=#1 top=#2 v=#3
		new: info base              => NotFound
		new: walk                   => nothing
		new: ids                    => nothing
		rollback old
		rollback older
		rollback new`},
	{"an older transaction sees a key that was used again", `
		begin w write
		w: create active a +n=1  => #1 active
		commit w
		begin r read
		begin w write
		w: remove a              => #1 active
		w: create view a +n=2    => #2 view
		commit w
		r: get a                 => #1 active
		r: info a                => #1 active a {n=1} t1
		r: ids                   => a=#1
		begin n read
		n: info a                => #2 view a {n=2} t2
		n: ids                   => a=#2
		rollback n
		rollback r`},
	{"a read-only transaction inside a read-only one", `
		begin w write
		w: create active a  => #1 active
		commit w
		begin outer read
		begin w write
		w: remove a         => #1 active
		commit w
		begin inner read in outer
		inner: info a       => NotFound
		outer: info a       => #1 active a t1
		rollback inner
		outer: walk         => a
		rollback outer`},
	{"the inner read-only transaction outlives the outer one", `
		begin w write
		w: create active a  => #1 active
		commit w
		begin outer read
		begin inner read in outer
		rollback outer
		inner: walk         => a
		rollback inner`},
	{"a read-only transaction inside a writable one sees what is committed", `
		begin w write
		w: create active a       => #1 active
		commit w
		begin w write
		w: create active b       => #2 active
		w: remove a              => #1 active
		begin inner read in w
		inner: walk              => a
		inner: info b            => NotFound
		inner: get a             => #1 active
		inner: ids               => a=#1
		inner: create active c   => TxNotWritable
		w: create active c       => #3 active
		inner: info c            => NotFound
		rollback inner
		w: walk                  => b c
		commit w
		begin r read
		r: walk                  => b c
		rollback r`},
	{"the outer transaction is committed while an inner one reads", `
		begin w write
		w: create active a   => #1 active
		begin inner read in w
		w: create active b   => #2 active
		commit w
		inner: walk          => NotFound
		rollback inner
		begin r read
		r: walk              => a b
		rollback r`},
	{"a writable transaction inside a read-only one", `
		begin r read
		begin w write in r
		w: create active a  => #1 active
		r: info a           => NotFound
		commit w
		r: info a           => NotFound
		r: create active b  => TxNotWritable
		rollback r`},
	{"a writable transaction that writes nothing", `
		begin w write
		commit w
		begin w write
		w: walk   => NotFound
		rollback w
		begin r read
		r: walk   => NotFound
		r: ids    => NotFound
		rollback r
		reopen    => ok,ok
		begin r read
		r: walk   => NotFound
		r: ids    => NotFound
		rollback r`},

	// Stores that hold nothing.
	{"never written to, read-only", `
		begin r read
		r: info a                       => NotFound
		r: info ""                      => NotFound
		r: get a                        => NotFound
		r: ids                          => NotFound
		r: walk                         => NotFound
		r: walk kind==active            => NotFound
		r: walk kind==                  => InvalidArgument
		r: walk ""                      => NotFound
		r: update a                     => NotFound
		r: update a :name               => NotFound
		r: update a +=v                 => NotFound
		r: remove a                     => NotFound
		r: commit a as b                => NotFound
		r: commit a as ""               => NotFound
		r: commit a as b !              => option
		r: commit a as a                => NotFound
		r: create active a              => TxNotWritable
		r: create active ""             => TxNotWritable
		r: create active a on b         => TxNotWritable
		r: create active a +=v          => TxNotWritable
		r: create active a !            => option
		r: create committed a           => InvalidArgument
		rollback r`},
	{"never written to, writable", `
		begin w write
		w: info a                       => NotFound
		w: get a                        => NotFound
		w: ids                          => NotFound
		w: walk                         => NotFound
		w: walk kind==                  => InvalidArgument
		w: update a                     => NotFound
		w: update a :name               => NotFound
		w: remove a                     => NotFound
		w: commit a as b                => NotFound
		w: commit a as ""               => NotFound
		w: commit "" as a +=v           => NotFound
		w: commit a as b ^c             => NotFound
		w: commit a as b !              => option
		w: create committed a           => InvalidArgument
		w: create active a !            => option
		w: walk                         => NotFound
		commit w
		begin r read
		r: walk                         => NotFound
		rollback r`},
	{"the first transaction is rolled back", `
		begin w write
		w: create active a  => #1 active
		w: walk             => a
		w: ids              => a=#1
		rollback w
		begin r read
		r: walk             => NotFound
		r: ids              => NotFound
		r: info a           => NotFound
		r: commit a as b    => NotFound
		rollback r
		begin w write
		w: walk             => NotFound
		w: commit a as ""   => NotFound
		w: create active a  => #2 active
		commit w
		begin r read
		r: ids              => a=#2
		rollback r`},
	{"the first transaction takes its own changes back", `
		begin w write
		w: create active a  => #1 active
		w: remove a         => #1 active
		w: walk             => nothing
		w: ids              => nothing
		commit w
		begin r read
		r: walk             => nothing
		r: ids              => nothing
		rollback r
		reopen              => ok,ok
		begin r read
		r: walk             => nothing
		r: ids              => nothing
		rollback r`},
	{"the first transaction takes its own changes back, while an older one reads", `
		begin r read
		begin w write
		w: create active a  => #1 active
		w: remove a         => #1 active
		begin s read
		commit w
		r: walk             => NotFound
		s: ids              => NotFound
		rollback r
		rollback s
		begin r read
		r: walk             => nothing
		rollback r`},
	{"everything is removed", `
		begin w write
		w: create active a     => #1 active
		w: commit a as base    => #1
		w: create view v on base => #2 view on #1
		commit w
		begin w write
		w: remove v            => #2 view
		w: remove base         => #1 committed
		w: walk                => nothing
		w: ids                 => nothing
		commit w
		begin r read
		r: walk                => nothing
		r: walk kind==view     => nothing
		r: ids                 => nothing
		r: info base           => NotFound
		r: get v               => NotFound
		r: update v            => NotFound
		r: remove v            => NotFound
		r: commit v as b       => TxNotWritable
		r: commit v as ""      => TxNotWritable
		rollback r
		reopen                 => ok,ok
		begin w write
		w: walk                => nothing
		w: ids                 => nothing
		w: commit v as ""      => BucketNameRequired
		w: create active v     => #3 active
		w: ids                 => v=#3
		commit w`},
	{"opened again", `
		begin w write
		w: create active a +x=1           => #1 active
		w: commit a as base usage 3 4 +y=2 => #1
		w: create active b on base +z=3   => #2 active on #1
		w: create view v on base          => #3 view on #1
		commit w
		reopen                            => ok,ok
		begin r read
		r: info base                      => #1 committed base {y=2} usage 3 4 t1
		r: info b                         => #2 active b on base {z=3} t2
		r: get b                          => #2 active on #1
		r: get v                          => #3 view on #1
		r: walk                           => b base v
		r: ids                            => b=#2 base=#1 v=#3
		rollback r
		begin w write
		w: commit b as top                => #2
		w: create active c on top         => #4 active on #2 #1
		commit w
		reopen                            => ok,ok
		begin r read
		r: info b                         => NotFound
		r: get c                          => #4 active on #2 #1
		rollback r`},
	{"closed", `
		begin w write
		w: create active a  => #1 active
		commit w
		close
		close
		begin r read   => DatabaseNotOpen
		begin w write  => DatabaseNotOpen
		close
		begin r read   => DatabaseNotOpen
		open
		begin r read
		r: info a      => #1 active a t1
		rollback r`},
	{"closed before the first transaction", `
		close
		close
		begin w write
		w: create active a  => #1 active
		commit w
		close
		begin r read        => DatabaseNotOpen
		open`},

	// Create.
	{"create", `
		begin w write
		w: create active a             => #1 active
		w: create view v               => #2 view
		w: create active l +x=1 +y=2   => #3 active
		w: create view k +             => #4 view
		w: info a                      => #1 active a t1
		w: get a                       => #1 active
		w: info v                      => #2 view v t2
		w: get v                       => #2 view
		w: info l                      => #3 active l {x=1 y=2} t3
		w: info k                      => #4 view k t4
		commit w
		begin r read
		r: info a                      => #1 active a t1
		r: info v                      => #2 view v t2
		r: info l                      => #3 active l {x=1 y=2} t3
		r: ids                         => a=#1 k=#4 l=#3 v=#2
		rollback r`},
	{"create on parents, the immediate one first", `
		begin w write
		w: create active a             => #1 active
		w: commit a as low             => #1
		w: create active a on low      => #2 active on #1
		w: commit a as mid             => #2
		w: create active a on mid      => #3 active on #2 #1
		w: commit a as top             => #3
		w: create view v on top        => #4 view on #3 #2 #1
		w: create active s on mid      => #5 active on #2 #1
		w: get v                       => #4 view on #3 #2 #1
		w: get s                       => #5 active on #2 #1
		w: info v                      => #4 view v on top t1
		w: info top                    => #3 committed top on mid t2
		commit w
		begin r read
		r: get v                       => #4 view on #3 #2 #1
		r: get s                       => #5 active on #2 #1
		r: info low                    => #1 committed low t3
		rollback r`},
	{"create what is there", `
		begin w write
		w: create active a             => #1 active
		w: create active b             => #2 active
		w: commit b as base            => #2
		w: create view v               => #3 view
		w: create active a             => AlreadyExists
		w: create view a               => AlreadyExists
		w: create active v             => AlreadyExists
		w: create active base          => AlreadyExists
		w: create active base on base  => AlreadyExists
		w: create active a on base     => AlreadyExists
		w: create active a +=v         => AlreadyExists
		w: info a                      => #1 active a t1
		commit w
		begin w write
		w: create active a             => AlreadyExists
		w: create active base          => AlreadyExists
		w: create active v             => AlreadyExists
		rollback w`},
	{"create on what can't be a parent", `
		begin w write
		w: create active a             => #1 active
		w: create view v               => #2 view
		w: create active n on none     => NotFound
		w: create active n on a        => InvalidArgument
		w: create active n on v        => InvalidArgument
		w: create active n on n        => NotFound
		w: create active a on a        => InvalidArgument
		w: create active a on none     => NotFound
		w: create active a on v        => InvalidArgument
		w: create active "" on none    => NotFound
		w: create active "" on a       => InvalidArgument
		w: create active n on none +=v => NotFound
		w: create active n on a +=v    => InvalidArgument
		w: create active n on a !      => option
		w: create committed n on a !   => InvalidArgument
		w: walk                        => a v
		commit w
		begin r read
		r: create active n on none     => TxNotWritable
		r: create active n on a        => TxNotWritable
		r: create active a             => TxNotWritable
		rollback r`},
	{"create without a key", `
		begin w write
		w: create active a             => #1 active
		w: commit a as base            => #1
		w: create active ""            => BucketNameRequired
		w: create view "" on base      => BucketNameRequired
		w: create active "" +=v        => BucketNameRequired
		w: create active n on ""       => #2 active
		commit w`},
	{"create a snapshot of another kind", `
		begin w write
		w: create committed a          => InvalidArgument
		w: create unknown a            => InvalidArgument
		w: create kind77 a             => InvalidArgument
		w: create committed "" on none => InvalidArgument
		w: create active a             => #1 active
		w: create committed a          => InvalidArgument
		commit w
		begin r read
		r: create committed b          => InvalidArgument
		rollback r`},
	{"create with options for other fields, and two for the same label", `
		begin w write
		w: create active a                  => #1 active
		w: commit a as base                 => #1
		w: create active a * +x=1           => #2 active
		w: create active b ^base            => #3 active
		w: create active c ^none            => #4 active
		w: create active d on base ^none    => #5 active on #1
		w: create active e +x=1 +y=2 +x=3   => #6 active
		w: info a                           => #2 active a {x=1} t1
		w: info b                           => #3 active b t2
		w: info d                           => #5 active d on base t3
		w: info e                           => #6 active e {x=3 y=2} t4
		w: create active f +x=1 !           => option
		w: info f                           => NotFound
		commit w`},
	{"create with a label without a key", `
		begin w write
		w: create active a            => #1 active
		commit w
		begin w write
		w: create active b +x=1 +=v   => KeyRequired
		rollback w
		begin w write
		w: create active b +x=1 +=    => #2 active
		w: info b                     => #2 active b {x=1} t1
		commit w`},
	{"create with labels without values", `
		begin w write
		w: create active a +x=1 +y= +z=3  => #1 active
		w: info a                         => #1 active a {x=1 z=3} t1
		w: walk labels.y                  => nothing
		w: walk labels.z                  => a
		commit w`},
	{"keys are used again", `
		begin w write
		w: create active a             => #1 active
		w: commit a as base            => #1
		w: create active a on base     => #2 active on #1
		w: commit a as top             => #2
		w: create view a on top        => #3 view on #2 #1
		w: remove a                    => #3 view
		w: create active a             => #4 active
		commit w
		begin w write
		w: remove a                    => #4 active
		commit w
		begin w write
		w: create active a on top      => #5 active on #2 #1
		commit w
		begin w write
		w: remove a                    => #5 active
		w: remove top                  => #2 committed
		w: create active top on base   => #6 active on #1
		w: commit top as a             => #6
		w: info a                      => #6 committed a on base t1
		commit w`},

	// Commit.
	{"commit", `
		begin w write
		w: create active a +x=1                    => #1 active
		w: info a                                  => #1 active a {x=1} t1
		w: commit a as base usage 10 20 +y=2       => #1
		w: info base                               => #1 committed base {y=2} usage 10 20 t2
		w: info a                                  => NotFound
		w: get a                                   => NotFound
		w: get base                                => FailedPrecondition
		w: ids                                     => base=#1
		commit w
		begin r read
		r: info base                               => #1 committed base {y=2} usage 10 20 t2
		r: info a                                  => NotFound
		r: get base                                => FailedPrecondition
		rollback r`},
	{"commit in a later transaction", `
		begin w write
		w: create active a +x=1     => #1 active
		w: info a                   => #1 active a {x=1} t1
		commit w
		begin w write
		w: commit a as base         => #1
		w: info base                => #1 committed base t2
		commit w
		begin w write
		w: update base +y=1         => committed base {y=1} t2 t3
		w: info base                => #1 committed base {y=1} t2 t3
		commit w`},
	{"labels are replaced and not inherited by a commit", `
		begin w write
		w: create active a +containerd.io/snapshot/x=1 +y=2  => #1 active
		w: create active b +x=1                              => #2 active
		w: create active c +x=1                              => #3 active
		w: create active d +x=1 +y=2                         => #4 active
		w: commit a as A                                     => #1
		w: commit b as B +z=3                                => #2
		w: commit c as C +                                   => #3
		w: commit d as D +x=3 +y=                            => #4
		w: info A                                            => #1 committed A t1
		w: info B                                            => #2 committed B {z=3} t2
		w: info C                                            => #3 committed C t3
		w: info D                                            => #4 committed D {x=3} t4
		commit w`},
	{"usage", `
		begin w write
		w: create active a                                              => #1 active
		w: create active b                                              => #2 active
		w: create active c                                              => #3 active
		w: create active d                                              => #4 active
		w: commit a as A usage 0 0                                      => #1
		w: commit b as B usage -1 -2                                    => #2
		w: commit c as C usage 9223372036854775807 9223372036854775807  => #3
		w: commit d as D usage -9223372036854775808 0                   => #4
		w: create active e on C                                         => #5 active on #3
		w: info A                                                       => #1 committed A t1
		w: info B                                                       => #2 committed B usage -1 -2 t2
		w: info C                                                       => #3 committed C usage 9223372036854775807 9223372036854775807 t3
		w: info D                                                       => #4 committed D usage -9223372036854775808 0 t4
		w: info e                                                       => #5 active e on C t5
		commit w
		begin w write
		w: update B +x=1                                                => committed B {x=1} t2 t6
		w: info B                                                       => #2 committed B {x=1} usage -1 -2 t2 t6
		commit w`},
	{"commit onto a name that is there", `
		begin w write
		w: create active a            => #1 active
		w: create active b            => #2 active
		w: commit b as base           => #2
		w: create view v              => #3 view
		w: commit a as base           => AlreadyExists
		w: commit a as v              => AlreadyExists
		w: commit a as a              => AlreadyExists
		w: commit base as base        => AlreadyExists
		w: commit none as base        => AlreadyExists
		w: commit v as v              => AlreadyExists
		w: commit a as base ^none     => AlreadyExists
		w: commit a as base +=v       => AlreadyExists
		w: commit a as ""             => BucketNameRequired
		w: commit none as ""          => BucketNameRequired
		w: commit "" as ""            => BucketNameRequired
		w: commit a as "" ^none +=v   => BucketNameRequired
		w: walk                       => a base v
		w: info a                     => #1 active a t1
		commit w
		begin r read
		r: commit a as base           => TxNotWritable
		r: commit a as c              => TxNotWritable
		r: commit none as ""          => TxNotWritable
		r: commit a as b !            => option
		rollback r`},
	{"commit what is not active", `
		begin w write
		w: create active a      => #1 active
		w: commit a as base     => #1
		w: create view v        => #2 view
		commit w
		begin w write
		w: commit base as b     => FailedPrecondition
		rollback w
		begin w write
		w: commit v as b        => FailedPrecondition
		rollback w
		begin w write
		w: commit none as b     => NotFound
		rollback w
		begin w write
		w: commit none as none  => FailedPrecondition
		rollback w
		begin w write
		w: commit "" as b       => NotFound
		rollback w
		begin w write
		w: commit a as b        => NotFound
		rollback w
		begin w write
		w: commit v as b ^none +=v  => FailedPrecondition
		rollback w
		begin w write
		w: commit none as b ^none +=v  => NotFound
		rollback w
		begin r read
		r: walk                 => base v
		rollback r`},
	{"commit with a label without a key", `
		begin w write
		w: create active a                => #1 active
		commit w
		begin w write
		w: commit a as base +x=1 +=v      => KeyRequired
		rollback w
		begin w write
		w: commit a as base +x=1 +=v ^none => KeyRequired
		rollback w
		begin w write
		w: commit a as base +x=1 +=       => #1
		w: info base                      => #1 committed base {x=1} t1
		commit w`},
	{"a rollback behind a commit that failed", `
		begin w write
		w: create active a        => #1 active
		w: commit a as base       => #1
		w: create active b on base => #2 active on #1
		commit w
		begin w write
		w: create active c on base => #3 active on #1
		w: commit b as top ^other => InvalidArgument
		rollback w
		begin w write
		w: info top               => NotFound
		w: get b                  => #2 active on #1
		w: info c                 => NotFound
		w: walk                   => b base
		w: commit b as top        => #2
		w: info top               => #2 committed top on base t3
		commit w`},
	{"commit with options for other fields", `
		begin w write
		w: create active a            => #1 active
		w: commit a as base * +x=1    => #1
		w: info base                  => #1 committed base {x=1} t1
		w: create active b on base    => #2 active on #1
		w: commit b as top *          => #2
		w: info top                   => #2 committed top on base t2
		commit w`},
	{"commit onto a parent", `
		begin w write
		w: create active a               => #1 active
		w: commit a as base              => #1
		w: create active a               => #2 active
		w: commit a as other             => #2
		w: create active b               => #3 active
		w: create active c on base       => #4 active on #1
		w: create active d on base       => #5 active on #1
		w: create active e               => #6 active
		w: commit b as B ^base           => #3
		w: commit c as C ^base           => #4
		w: commit d as D ^               => #5
		w: commit e as E ^B              => #6
		w: info B                        => #3 committed B on base t1
		w: info C                        => #4 committed C on base t2
		w: info D                        => #5 committed D on base t3
		w: info E                        => #6 committed E on B t4
		w: create view v on E            => #7 view on #6 #3 #1
		w: remove B                      => FailedPrecondition
		w: remove base                   => FailedPrecondition
		w: remove other                  => #2 committed
		commit w
		begin w write
		w: remove base                   => FailedPrecondition
		w: get v                         => #7 view on #6 #3 #1
		w: remove v                      => #7 view
		w: remove E                      => #6 committed
		w: remove B                      => #3 committed
		w: remove C                      => #4 committed
		w: remove D                      => #5 committed
		w: remove base                   => #1 committed
		commit w`},
	{"commit onto what can't be the parent", `
		begin w write
		w: create active a               => #1 active
		w: commit a as base              => #1
		w: create active a               => #2 active
		w: commit a as other             => #2
		w: create active a               => #3 active
		w: create active b               => #4 active
		w: create view v                 => #5 view
		w: create active c on base       => #6 active on #1
		commit w
		begin w write
		w: commit a as A ^none           => NotFound
		rollback w
		begin w write
		w: commit a as A ^b              => FailedPrecondition
		rollback w
		begin w write
		w: commit a as A ^v              => FailedPrecondition
		rollback w
		begin w write
		w: commit a as A ^a              => NotFound
		rollback w
		begin w write
		w: commit c as A ^other          => InvalidArgument
		rollback w
		begin w write
		w: commit c as A ^none           => InvalidArgument
		rollback w
		begin w write
		w: commit c as A ^c              => InvalidArgument
		rollback w
		begin w write
		w: commit c as A ^A              => InvalidArgument
		rollback w
		begin w write
		w: commit c as A ^other +=v      => InvalidArgument
		rollback w
		begin r read
		r: walk                          => a b base c other v
		rollback r`},

	// Update.
	{"update all labels", `
		begin w write
		w: create active a +x=1 +y=2     => #1 active
		w: info a                        => #1 active a {x=1 y=2} t1
		w: update a +z=3                 => active a {z=3} t1 t2
		w: info a                        => #1 active a {z=3} t1 t2
		w: update a :labels +y=4         => active a {y=4} t1 t3
		w: update a                      => active a t1 t4
		w: info a                        => #1 active a t1 t4
		w: update a :labels              => active a t1 t5
		w: update a +x=1 +y=             => active a {x=1} t1 t6
		w: info a                        => #1 active a {x=1} t1 t6
		w: update a +x=1                 => active a {x=1} t1 t7
		commit w
		begin r read
		r: info a                        => #1 active a {x=1} t1 t7
		rollback r`},
	{"update one label", `
		begin w write
		w: create active a +x=1 +y=2            => #1 active
		w: update a :labels.x +x=3 +y=4 +z=5    => active a {x=3 y=2} t1 t2
		w: update a :labels.z +z=6              => active a {x=3 y=2 z=6} t1 t3
		w: update a :labels.x +x=               => active a {y=2 z=6} t1 t4
		w: update a :labels.y                   => active a {z=6} t1 t5
		w: update a :labels.none                => active a {z=6} t1 t6
		w: update a :labels.none +z=7           => active a {z=6} t1 t7
		w: info a                               => #1 active a {z=6} t1 t7
		w: update a :labels.x :labels.z +x=1    => active a {x=1} t1 t8
		w: update a :labels.x :labels.x +x=2    => active a {x=2} t1 t9
		w: info a                               => #1 active a {x=2} t1 t9
		commit w`},
	{"update one label where there are none", `
		begin w write
		w: create active a                      => #1 active
		w: update a :labels.x +x=1 +y=2         => active a {x=1} t1 t2
		w: info a                               => #1 active a {x=1} t1 t2
		commit w`},
	{"update all labels and one", `
		begin w write
		w: create active a +x=1 +y=2            => #1 active
		w: update a :labels :labels.x +z=3      => active a {z=3} t1 t2
		w: update a :labels.x :labels +z=4      => active a {z=4} t1 t3
		w: update a :labels.x :labels +x=1 +z=4 => active a {x=1 z=4} t1 t4
		w: update a :labels :labels.z +x=1 +z=5 => active a {x=1 z=5} t1 t5
		commit w`},
	{"update labels with dots in their keys", `
		begin w write
		w: create active a +containerd.io/gc.root=1 +.=2   => #1 active
		w: update a :labels.containerd.io/gc.root +containerd.io/gc.root=3  => active a {.=2 containerd.io/gc.root=3} t1 t2
		w: update a :labels..                              => active a {containerd.io/gc.root=3} t1 t3
		w: update a :labels.labels.x +labels.x=4           => active a {containerd.io/gc.root=3 labels.x=4} t1 t4
		w: update a :labels.containerd                     => active a {containerd.io/gc.root=3 labels.x=4} t1 t5
		w: update a ":labels.with space" "+with space=5"   => active a {containerd.io/gc.root=3 labels.x=4 "with space=5"} t1 t6
		w: info a                                          => #1 active a {containerd.io/gc.root=3 labels.x=4 "with space=5"} t1 t6
		commit w`},
	{"update committed snapshots and views", `
		begin w write
		w: create active a              => #1 active
		w: commit a as base usage 1 2   => #1
		w: create view v on base +x=1   => #2 view on #1
		w: update base +x=1             => committed base {x=1} t1 t2
		w: update v :labels.y +y=2      => view v on base {x=1 y=2} t3 t4
		w: info base                    => #1 committed base {x=1} usage 1 2 t1 t2
		w: info v                       => #2 view v on base {x=1 y=2} t3 t4
		w: get v                        => #2 view on #1
		commit w`},
	{"update what can't be updated", `
		begin w write
		w: create active a +x=1               => #1 active
		w: update none                        => NotFound
		w: update ""                          => NotFound
		w: update none :name                  => NotFound
		w: update none +=v                    => NotFound
		w: update a :name                     => InvalidArgument
		w: update a :parent                   => InvalidArgument
		w: update a :kind                     => InvalidArgument
		w: update a :label                    => InvalidArgument
		w: update a :Labels                   => InvalidArgument
		w: update a :labels/x                 => InvalidArgument
		w: update a :                         => InvalidArgument
		w: update a :labels.x :name +x=2      => InvalidArgument
		w: update a :name :labels.x +x=2      => InvalidArgument
		w: update a :labels :name             => InvalidArgument
		w: update a :labels.x :name :labels. +x=2 +=v  => InvalidArgument
		w: update a :labels :name +=v         => InvalidArgument
		w: info a                             => #1 active a {x=1} t1
		commit w
		begin r read
		r: update a                           => TxNotWritable
		r: update a :labels.x                 => TxNotWritable
		r: update a +=v                       => TxNotWritable
		r: update a :name                     => InvalidArgument
		r: update none                        => NotFound
		r: update none :name                  => NotFound
		r: info a                             => #1 active a {x=1} t1
		rollback r`},
	{"update a label without a key", `
		begin w write
		w: create active a +x=1               => #1 active
		commit w
		begin w write
		w: update a +=v                       => KeyRequired
		rollback w
		begin w write
		w: update a :labels +x=2 +=v          => KeyRequired
		rollback w
		begin w write
		w: update a :labels. +=v              => KeyRequired
		rollback w
		begin w write
		w: update a :labels.x +x=2 +=v        => active a {x=2} t1 t2
		w: update a :labels.                  => active a {x=2} t1 t3
		w: update a :labels. +=               => active a {x=2} t1 t4
		w: update a :labels. :labels          => active a t1 t5
		w: update a +x=1 +=                   => active a {x=1} t1 t6
		commit w`},

	// Remove.
	{"remove", `
		begin w write
		w: create active a            => #1 active
		w: create view v              => #2 view
		w: create active b            => #3 active
		w: commit b as base           => #3
		w: remove a                   => #1 active
		w: remove a                   => NotFound
		w: remove v                   => #2 view
		w: remove base                => #3 committed
		w: remove base                => NotFound
		w: remove b                   => NotFound
		w: remove ""                  => NotFound
		w: info base                  => NotFound
		w: get v                      => NotFound
		commit w`},
	{"remove what others stand on", `
		begin w write
		w: create active a              => #1 active
		w: commit a as base             => #1
		w: create active b on base      => #2 active on #1
		commit w
		begin w write
		w: remove base                  => FailedPrecondition
		w: create view v on base        => #3 view on #1
		w: remove b                     => #2 active
		w: remove base                  => FailedPrecondition
		w: create active c on base      => #4 active on #1
		w: commit c as top              => #4
		w: remove v                     => #3 view
		w: remove base                  => FailedPrecondition
		w: remove top                   => #4 committed
		w: remove base                  => #1 committed
		commit w`},
	{"remove what others stood on in earlier transactions", `
		begin w write
		w: create active a              => #1 active
		w: commit a as base             => #1
		w: create active b on base      => #2 active on #1
		w: commit b as mid              => #2
		w: create active c on mid       => #3 active on #2 #1
		commit w
		begin w write
		w: remove mid                   => FailedPrecondition
		w: remove c                     => #3 active
		commit w
		begin w write
		w: remove base                  => FailedPrecondition
		w: remove mid                   => #2 committed
		commit w
		reopen                          => ok,ok
		begin w write
		w: remove base                  => #1 committed
		commit w`},
	{"remove in a read-only transaction", `
		begin w write
		w: create active a            => #1 active
		w: commit a as base           => #1
		w: create active b on base    => #2 active on #1
		w: create view v              => #3 view
		commit w
		begin r read
		r: remove base                => FailedPrecondition
		r: remove b                   => TxNotWritable
		r: remove v                   => TxNotWritable
		r: remove none                => NotFound
		r: remove ""                  => NotFound
		r: walk                       => b base v
		rollback r`},
	{"many children", `
		begin w write
		w: create active a            => #1 active
		w: commit a as base           => #1
		w: create active b1 on base   => #2 active on #1
		w: create active b2 on base   => #3 active on #1
		w: create active b3 on base   => #4 active on #1
		w: commit b2 as B2            => #3
		w: commit b3 as B3 ^base      => #4
		w: remove b1                  => #2 active
		w: remove B2                  => #3 committed
		w: remove base                => FailedPrecondition
		w: remove B3                  => #4 committed
		w: remove base                => #1 committed
		commit w`},

	// Reading.
	{"get", `
		begin w write
		w: create active a            => #1 active
		w: commit a as base           => #1
		w: create active b on base    => #2 active on #1
		w: get base                   => FailedPrecondition
		w: get none                   => NotFound
		w: get ""                     => NotFound
		w: get a                      => NotFound
		w: info ""                    => NotFound
		commit w
		begin r read
		r: get base                   => FailedPrecondition
		r: get none                   => NotFound
		r: get b                      => #2 active on #1
		rollback r`},
	{"walks go in byte order of the names", `
		begin w write
		w: create active b            => #1 active
		w: create active a/b          => #2 active
		w: create active a            => #3 active
		w: create active A            => #4 active
		w: create active a.b          => #5 active
		w: create active ä            => #6 active
		w: create active "a b"        => #7 active
		w: create active 10           => #8 active
		w: create active 9            => #9 active
		w: create active ~            => #10 active
		w: walk                       => 10 9 A a "a b" a.b a/b b "~" "ä"
		commit w
		begin w write
		w: create active aa           => #11 active
		w: remove b                   => #1 active
		w: walk                       => 10 9 A a "a b" a.b a/b aa "~" "ä"
		commit w
		begin r read
		r: walk                       => 10 9 A a "a b" a.b a/b aa "~" "ä"
		rollback r`},
	{"a walk ends with the error of its callback", `
		begin w write
		w: create active a            => #1 active
		w: create view b              => #2 view
		w: create active c            => #3 active
		w: walkto a                   => a stop
		w: walkto b                   => a b stop
		w: walkto c                   => a b c stop
		w: walkto b kind==active      => a c
		w: walkto c kind==active      => a c stop
		w: walkto none                => a b c
		commit w
		begin r read
		r: walkto b                   => a b stop
		r: walkto b kind==view        => b stop
		rollback r`},
	{"filters", `
		begin w write
		w: create active a                  => #1 active
		w: commit a as base +x=1            => #1
		w: create active a on base +x=2     => #2 active on #1
		w: create view v on base +y.z=1     => #3 view on #1
		w: create active w +containerd.io/gc.root=now "+sp ace=\"q\""  => #4 active
		w: walk kind==active                => a w
		w: walk kind==view                  => v
		w: walk kind==committed             => base
		w: walk kind==Active                => nothing
		w: walk kind==unknown               => nothing
		w: walk kind!=active                => base v
		w: walk kind                        => a base v w
		w: walk name==base                  => base
		w: walk name==none                  => nothing
		w: walk name~=^[av]$                => a v
		w: walk parent==base                => a v
		w: walk parent!=base                => base w
		w: walk parent                      => a base v w
		w: walk "parent==\"\""              => base w
		w: walk labels.x                    => a base
		w: walk labels.x==1                 => base
		w: walk labels.x!=1                 => a v w
		w: walk labels.y.z                  => v
		w: walk labels.y                    => nothing
		w: walk labels                      => nothing
		w: walk "labels.\"y.z\"==1"         => v
		w: walk "labels.\"containerd.io/gc.root\"==now"  => w
		w: walk "labels.\"sp ace\"==\"\\\"q\\\"\""  => w
		w: walk labels.x==1,kind==committed => base
		w: walk labels.x==1,kind==active    => nothing
		w: walk labels.x==2 kind==view      => a v
		w: walk kind==active name==a        => a w
		w: walk kind==none name==none       => nothing
		w: walk ""                          => a base v w
		w: walk kind==none ""               => a base v w
		w: walk id                          => nothing
		w: walk id!=1                       => a base v w
		w: walk created                     => nothing
		commit w
		begin r read
		r: walk kind==active                => a w
		r: walk labels.x==2 kind==view      => a v
		r: walk parent==base,labels.x       => a
		rollback r`},
	{"filters that can't be parsed", `
		begin w write
		w: create active a           => #1 active
		w: walk kind==               => InvalidArgument
		w: walk ==active             => InvalidArgument
		w: walk kind=active          => InvalidArgument
		w: walk kind==active kind==  => InvalidArgument
		w: walk "kind==\"active"     => InvalidArgument
		w: walkto a kind==           => InvalidArgument
		commit w
		begin r read
		r: walk kind==               => InvalidArgument
		rollback r`},
	{"ids", `
		begin w write
		w: create active a          => #1 active
		w: create view v            => #2 view
		w: ids                      => a=#1 v=#2
		w: commit a as base         => #1
		w: ids                      => base=#1 v=#2
		w: create active a on base  => #3 active on #1
		w: remove v                 => #2 view
		w: ids                      => a=#3 base=#1
		commit w
		begin r read
		r: ids                      => a=#3 base=#1
		rollback r`},

	// Names.
	{"names with all sorts of characters", `
		begin w write
		w: create active "with space"         => #1 active
		w: create active "new\nline\ttab\x00zero" => #2 active
		w: create active "100%2F%"            => #3 active
		w: create active /slashes//           => #4 active
		w: create active ..                   => #5 active
		w: create active .                    => #6 active
		w: create active "日本/ü"        => #7 active
		w: create active "\"quoted\\\""       => #8 active
		w: create active snapshots            => #9 active
		w: create active -                    => #10 active
		w: commit "with space" as "very  committed\n"  => #1
		w: create view "v\n" on "very  committed\n"    => #11 view on #1
		w: commit .. as ../..                 => #5
		w: info "new\nline\ttab\x00zero"      => #2 active "new\nline\ttab\x00zero" t1
		w: info "日本/ü"                 => #7 active "日本/ü" t2
		w: info ../..                         => #5 committed ../.. t3
		w: get "v\n"                          => #11 view on #1
		w: info 100%2F%                       => #3 active 100%2F% t4
		w: info 100/%                         => NotFound
		w: walk                               => "\"quoted\\\"" - . ../.. /slashes// 100%2F% "new\nline\ttab\x00zero" snapshots "v\n" "very  committed\n" "日本/ü"
		commit w
		begin w write
		w: remove "v\n"                       => #11 view
		w: remove "very  committed\n"         => #1 committed
		w: remove .                           => #6 active
		w: ids                                => "\"quoted\\\""=#8 "new\nline\ttab\x00zero"=#2 "日本/ü"=#7 -=#10 ../..=#5 /slashes//=#4 100%2F%=#3 snapshots=#9
		commit w`},
	{"names that differ little", `
		begin w write
		w: create active a          => #1 active
		w: create active A          => #2 active
		w: create active a/         => #3 active
		w: create active a/b        => #4 active
		w: create active a%2Fb      => #5 active
		w: create active aa         => #6 active
		w: create active "a\x00"    => #7 active
		w: create active " a"       => #8 active
		w: create active "é"        => #9 active
		w: create active "e\u0301"  => #10 active
		w: commit a as aaa          => #1
		w: info a                   => NotFound
		w: info A                   => #2 active A t1
		w: remove a/                => #3 active
		w: get a/b                  => #4 active
		w: get a%2Fb                => #5 active
		w: get "a\x00"              => #7 active
		w: get " a"                 => #8 active
		w: get "é"                  => #9 active
		w: get "e\u0301"            => #10 active
		commit w`},
	{"long names", `
		begin w write
		w: create active $long            => #1 active
		w: create active $longer          => #2 active
		w: commit $long as $longest       => #1
		w: create active $long on $longest => #3 active on #1
		w: walk                           => $long $longer $longest
		commit w
		begin w write
		w: info $longest                  => #1 committed $longest t3
		w: get $long                      => #3 active on #1
		w: remove $longest                => FailedPrecondition
		w: walk parent==$longest          => $long
		w: remove $long                   => #3 active
		w: remove $longest                => #1 committed
		w: walk                           => $longer
		commit w`},
	{"long labels", `
		begin w write
		w: create active a +$long=$longest +$longest=1 => #1 active
		w: info a                         => #1 active a {$long=$longest $longest=1} t1
		w: update a :labels.$longest      => active a {$long=$longest} t1 t2
		commit w
		reopen => ok,ok
		begin r read
		r: info a                         => #1 active a {$long=$longest} t1 t2
		rollback r`},
	{"labels with keys that are too long", `
		begin w write
		w: create active a +x=1              => #1 active
		commit w
		begin w write
		w: create active b +$longestx=1      => KeyTooLarge
		rollback w
		begin w write
		w: update a :labels.$longestx +$longestx=1  => KeyTooLarge
		rollback w
		begin w write
		w: commit a as base +$longestx=1     => KeyTooLarge
		rollback w
		begin w write
		w: create active b on c +$longestx=1 => NotFound
		w: create active a +$longestx=1      => AlreadyExists
		w: update a :name +$longestx=1       => InvalidArgument
		w: update a :labels.$longestx        => active a {x=1} t1 t2
		w: create active b +$longestx=       => #2 active
		rollback w`},
	{"labels with all sorts of characters", `
		begin w write
		w: create active a "+new\nline=v\nv" "+eq=u=al" "+日本=ü" "+\"q\"=\\"  => #1 active
		w: info a                           => #1 active a {"\"q\"=\\" eq=u=al "new\nline=v\nv" "日本=ü"} t1
		w: update a ":labels.new\nline"     => active a {"\"q\"=\\" eq=u=al "日本=ü"} t1 t2
		commit w
		reopen => ok,ok
		begin r read
		r: info a                           => #1 active a {"\"q\"=\\" eq=u=al "日本=ü"} t1 t2
		rollback r`},
}
