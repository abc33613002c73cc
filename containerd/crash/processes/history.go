//go:build linux

package processes

import (
	"bufio"
	"encoding/json"
	"io"
	"math"

	"github.com/anishathalye/porcupine"
)

// input is what a transaction did, as far as that is known.
type input struct {
	saw   state
	known bool // it has told what it saw
	wrote map[int]string
}

// asWrites returns what makes a store be in this state.
func (s state) asWrites() map[int]string {
	wrote := map[int]string{}
	for i, value := range s {
		wrote[i] = value
	}
	return wrote
}

// model is a store that runs one transaction after the other.
var model = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(before, in, _ any) (bool, any) {
		now, did := before.(state), in.(input)
		if did.known && did.saw != now {
			return false, before
		}
		for i, value := range did.wrote {
			now[i] = value
		}
		return true, now
	},
}

// readEvents reads a client's log as far as it was written.
func readEvents(r io.Reader) ([]event, error) {
	var events []event
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return events, nil // the last line was not written whole
		}
		if err != nil {
			return nil, err
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
}

// operations turns the events of one process into operations. One that was not done, for
// the process was killed, may have taken effect at any time after it began, or never, which
// is as good as after everything else.
func operations(events []event, firstClient int) (ops []porcupine.Operation) {
	type key struct{ client, op int }
	open := map[key]int{}
	for _, e := range events {
		k := key{e.Client, e.Op}
		at, begun := open[k]
		if !begun {
			open[k] = len(ops)
			ops = append(ops, porcupine.Operation{ClientId: firstClient + e.Client, Call: e.At, Return: math.MaxInt64, Input: input{}})
			continue
		}
		did := input{wrote: e.Wrote}
		switch {
		case e.Failed:
			did.wrote = nil
			ops[at].Return = e.At
		case e.Done:
			did.saw, did.known = e.Saw, true
			ops[at].Return = e.At
		}
		ops[at].Input = did
	}
	return ops
}
