package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// A commit is one event, whatever else becomes of its names in the transaction.
func TestEvents(t *testing.T) {
	snapshot := func(name, id string, kind fsmeta.Kind) *fsmeta.Info {
		return &fsmeta.Info{Name: name, ID: id, Kind: kind}
	}
	const active, committed = fsmeta.KindActive, fsmeta.KindCommitted
	for _, test := range []struct {
		name    string
		changes []fsmeta.Change
		want    string
	}{
		{"commit", []fsmeta.Change{
			{Name: "key", Before: snapshot("key", "1", active)},
			{Name: "name", After: snapshot("name", "1", committed)},
		}, "key>name"},
		{"commit under its own name", []fsmeta.Change{
			{Name: "key", Before: snapshot("key", "1", active), After: snapshot("key", "1", committed)},
		}, "~key"},
		{"made and committed", []fsmeta.Change{{Name: "name", After: snapshot("name", "1", committed)}}, "+name"},
		{"commit in place of another", []fsmeta.Change{
			{Name: "key", Before: snapshot("key", "2", active)},
			{Name: "name", Before: snapshot("name", "1", committed), After: snapshot("name", "2", committed)},
		}, "key>name ~name"},
		{"commit, and the key is made again", []fsmeta.Change{
			{Name: "key", Before: snapshot("key", "1", active), After: snapshot("key", "2", active)},
			{Name: "name", After: snapshot("name", "1", committed)},
		}, "key>name ~key"},
		{"removed", []fsmeta.Change{
			{Name: "a", Before: snapshot("a", "1", active)},
			{Name: "b", Before: snapshot("b", "2", committed)},
		}, "-a -b"},
	} {
		var words []string
		for _, e := range eventsOf(fsmeta.Transaction{Changes: test.changes}) {
			word := e.change.Name
			switch {
			case e.committed != nil:
				word += ">" + e.committed.Name
			case e.change.After == nil:
				word = "-" + word
			case e.change.Before == nil:
				word = "+" + word
			default:
				word = "~" + word
			}
			words = append(words, word)
		}
		if got := strings.Join(words, " "); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	many := fsmeta.Transaction{}
	for i := range 200_000 {
		name := fmt.Sprint(i)
		many.Changes = append(many.Changes, fsmeta.Change{Name: name, After: snapshot(name, name, committed)})
	}
	if n := len(eventsOf(many)); n != len(many.Changes) {
		t.Errorf("%d events", n)
	}
}

// What watch prints of transactions is what log does, as soon as they are committed.
func TestWatch(t *testing.T) {
	ageless(t)
	dir := killed(t)
	for _, flags := range [][]string{{}, {"--json"}} {
		log := on(t, 0, append([]string{"log", dir}, flags...)...).out
		ctx, cancel := context.WithCancel(t.Context())
		out := &until{text: log, done: cancel}
		c := command()
		c.Writer = out
		if err := c.Run(ctx, append([]string{"fsmeta", "watch", "--after", "0", dir}, flags...)); err != nil || out.String() != log {
			t.Errorf("%q: %v, it prints\n%s\nwant\n%s", flags, err, out, log)
		}
		cancel()
	}
}

// Where transactions have left the journal before they were seen, watch says so.
func TestWatchOutdated(t *testing.T) {
	r := on(t, 0, "watch", "--after", "1", closed(t, steps...))
	if r.status != 2 || !strings.Contains(r.errs, "watch it anew") {
		t.Errorf("%+v", r)
	}
}

// until calls done when a text has been written, or as much of another one.
type until struct {
	strings.Builder
	text string
	done func()
}

func (u *until) Write(p []byte) (int, error) {
	n, err := u.Builder.Write(p)
	if u.Len() >= len(u.text) {
		u.done()
	}
	return n, err
}
