package workload

import (
	"bytes"
	"path/filepath"
	"testing"
)

// A run that finds what may not be there is told so, and one that has found one of two
// things that may be there holds the store to it.
func TestFound(t *testing.T) {
	a, b := Names{"0/a": {ID: "1"}}, Names{"0/a": {ID: "1"}, "0/b": {ID: "2"}}
	history := func() *History {
		h := NewHistory(1)
		if err := h.Add([]Note{{Txn: 1, Acked: true, After: a}, {Txn: 2, After: b, IDs: []string{"2"}}}); err != nil {
			t.Fatal(err)
		}
		return h
	}
	for name, c := range map[string]struct {
		found []Note
		want  bool
	}{
		"what was acknowledged": {[]Note{{Found: true, Acked: true, After: a}}, true},
		"what was under way":    {[]Note{{Found: true, Acked: true, After: b}}, true},
		"one after the other":   {[]Note{{Found: true, Acked: true, After: a}, {Found: true, After: b}}, false},
		"late":                  {[]Note{{Found: true, After: a}, {Found: true, After: b}}, true},
		"nothing":               {[]Note{{Found: true, Acked: true, After: Names{}}}, false},
	} {
		if err := history().Add(c.found); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A run that is asked to notes what it finds, and is called before each transaction.
func TestRunFindsAndCalls(t *testing.T) {
	var log bytes.Buffer
	calls := 0
	c := Config{Dir: filepath.Join(t.TempDir(), "store"), Seed: 1, Writers: 1, Txns: 10, Log: &log, Found: true, Before: func(int, int) { calls++ }}
	if err := Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	notes, err := ReadLog(&log)
	if err != nil {
		t.Fatal(err)
	}
	first, last := notes[0], notes[len(notes)-1]
	if !first.Found || len(first.After) > 0 || !last.Found || len(last.After) == 0 || calls != 10 {
		t.Errorf("began with %v, ended with %v, %d calls", first, last, calls)
	}
	if err := NewHistory(1).Add(notes); err != nil {
		t.Error(err)
	}
}
