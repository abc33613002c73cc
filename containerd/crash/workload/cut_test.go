package workload

import (
	"strings"
	"testing"
)

// A power cut may take the last transactions, as long as no settled one is among them and
// what is left was there at one time.
func TestAddCut(t *testing.T) {
	state := func(id string) Names { return Names{"x": State{ID: id}} }
	about := func(writer, txn int, id string) Note {
		return Note{Writer: writer, Txn: txn, After: state(id), IDs: []string{id}}
	}
	acked := func(writer, txn int, id string) Note {
		return Note{Writer: writer, Txn: txn, After: state(id), IDs: []string{id}, Acked: true}
	}
	run := []Note{about(0, 1, "1"), about(1, 1, "2"), acked(0, 1, "1"), acked(1, 1, "2"), about(1, 2, "3"), about(0, 2, "4")}
	next := []Note{about(1, 1, "5"), acked(1, 1, "5")}
	for name, c := range map[string]struct {
		runs    [][]Note
		settled int
		found   []Names
		want    bool
	}{
		"all":                         {[][]Note{run}, 6, []Names{state("4"), state("3")}, true},
		"all acknowledged":            {[][]Note{run}, 6, []Names{state("1"), state("2")}, true},
		"the first that is pending":   {[][]Note{run}, 6, []Names{state("1"), state("3")}, true},
		"not the first, but another":  {[][]Note{run}, 6, []Names{state("4"), state("2")}, false},
		"an acknowledged one missing": {[][]Note{run}, 6, []Names{state("1"), {}}, false},
		"one that is not settled":     {[][]Note{run}, 3, []Names{state("1"), {}}, true},
		"a settled one missing":       {[][]Note{run}, 3, []Names{{}, {}}, false},
		"nothing settled":             {[][]Note{run}, 0, []Names{{}, {}}, true},
		"no run":                      {nil, 0, []Names{{}, {}}, true},
		"killed, found":               {[][]Note{run, next}, 8, []Names{state("4"), state("5")}, true},
		"killed, not found":           {[][]Note{run, next}, 8, []Names{state("1"), state("5")}, true},
		"killed, acknowledged before": {[][]Note{run, next}, 8, []Names{{}, state("5")}, false},
		"killed, nothing of the next": {[][]Note{run, next[:1]}, 7, []Names{state("4"), state("3")}, true},
	} {
		h := NewHistory(2)
		if err := h.AddCut(c.runs, c.settled); err != nil {
			t.Fatal(err)
		}
		if err := h.match(c.found); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := NewHistory(2).AddCut([][]Note{run, run}, 0)
	if err == nil || !strings.Contains(err.Error(), "handed out before") {
		t.Errorf("the same identifiers twice: %v", err)
	}
}
