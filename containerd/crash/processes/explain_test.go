//go:build linux

package processes

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// explain logs the end of the longest order that fits, and the first transactions that don't
// fit behind it.
func explain(t *testing.T, ops []porcupine.Operation) {
	t.Helper()
	_, info := porcupine.CheckOperationsVerbose(model, ops, time.Minute)
	var longest []int
	for _, order := range slices.Concat(info.PartialLinearizations()...) {
		if len(order) > len(longest) {
			longest = order
		}
	}
	fits := map[int]bool{}
	for _, i := range longest {
		fits[i] = true
	}
	var rest []int
	for i := range ops {
		if !fits[i] {
			rest = append(rest, i)
		}
	}
	slices.SortFunc(rest, func(a, b int) int { return cmp.Compare(ops[a].Return, ops[b].Return) })
	for _, i := range longest[max(0, len(longest)-12):] {
		t.Logf("fits: client %d, %d to %d: %+v", ops[i].ClientId, ops[i].Call, ops[i].Return, ops[i].Input)
	}
	for _, i := range rest[:min(len(rest), 12)] {
		t.Logf("does not: client %d, %d to %d: %+v", ops[i].ClientId, ops[i].Call, ops[i].Return, ops[i].Input)
	}
}
