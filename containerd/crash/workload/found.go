package workload

import (
	"fmt"
	"maps"
	"slices"
)

// found notes what is there of each writer, before the first transaction of a run or after
// its last.
func (l *logger) found(all []Names, first bool) {
	for i, names := range all {
		l.note(Note{Writer: i, Acked: first, After: names, Found: true})
	}
}

// foundBy judges what a run has found. Where it was killed, a transaction before it may
// have been committed or not; once a run has begun with the one or the other, that is how
// it stays. At its end that is open still: a transaction with an unknown outcome is not
// seen by the program that was told so, and yet may be there when the store is opened anew.
func (h *History) foundBy(n Note) error {
	may := append(slices.Collect(maps.Values(h.pending[n.Writer])), h.acked[n.Writer])
	if !among(n.After, may) {
		return fmt.Errorf("writer %d found\n  %v\nacknowledged was\n  %v\nand under way\n  %v", n.Writer, n.After, h.acked[n.Writer], h.pending[n.Writer])
	}
	if n.Acked {
		h.acked[n.Writer], h.pending[n.Writer] = n.After, map[string]Names{}
	}
	return nil
}
