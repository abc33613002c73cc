package workload

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// moment is what may be there of each writer at some point between two transactions. It
// is one state of each, but where it can't be known whether a killed process has committed.
type moment [][]Names

// AddCut takes in what several runs, one after the other on one store, have noted by the
// time of a power cut. All but the last have ended, or were killed, or were ended by a
// power cut that nothing that was acknowledged was lost in. Of the transactions of the last
// some may be missing, the latest first, but none that the first settled notes, counted
// over all runs, say is acknowledged.
//
// A writer notes what it is about to commit while it has its turn, so these notes stand in
// the order of the transactions. What is found must be what the transactions up to some
// point of that order have left, and that point must be the same for all writers.
//
// It returns an error where an identifier was handed out twice. It is for a History that
// nothing else is added to.
func (h *History) AddCut(runs [][]Note, settled int) error {
	var errs error
	now := make(moment, len(h.acked))
	for i, names := range h.acked {
		now[i] = []Names{names}
	}
	h.moments = []moment{now}
	first, count := 0, 0 // of moments, after the last settled transaction; of notes
	for r, run := range runs {
		from := len(h.moments) - 1 // the last moment with all transactions acknowledged
		for i, n := range run {
			if !n.aboutTo() {
				continue
			}
			errs = errors.Join(errs, h.handOut(n))
			end, failed := outcome(n, run[i+1:])
			if failed {
				continue
			}
			now = slices.Clone(now)
			now[n.Writer] = []Names{n.After}
			h.moments = append(h.moments, now)
			if end == 0 {
				continue
			}
			h.Acked++
			from = len(h.moments) - 1
			if count+i+end < settled {
				first = from
			}
		}
		count += len(run)
		if r < len(runs)-1 { // the next one has found it at one of these moments
			now = either(h.moments[from:])
			h.moments = append(h.moments, now)
		}
	}
	h.moments = h.moments[first:]
	return errs
}

// aboutTo reports whether the note was made before a commit.
func (n Note) aboutTo() bool { return !n.Acked && n.Failed == "" && !n.Found }

// outcome returns how many notes after that of a transaction its acknowledgement is, 0 if
// it is not there, and whether the transaction has failed.
func outcome(n Note, later []Note) (ack int, failed bool) {
	i := slices.IndexFunc(later, func(l Note) bool { return l.Writer == n.Writer && l.Txn == n.Txn })
	if i < 0 {
		return 0, false
	}
	return i + 1, later[i].Failed != ""
}

// either returns what may be there if it is one of some moments.
func either(moments []moment) moment {
	all := make(moment, len(moments[0]))
	for _, m := range moments {
		for i, states := range m {
			for _, s := range states {
				if !slices.ContainsFunc(all[i], func(known Names) bool { return maps.Equal(known, s) }) {
					all[i] = append(all[i], s)
				}
			}
		}
	}
	return all
}

// handOut notes the identifiers of a transaction.
func (h *History) handOut(n Note) error {
	var errs error
	for _, id := range n.IDs {
		if h.ids[id] {
			errs = errors.Join(errs, fmt.Errorf("writer %d, transaction %d: identifier %s was handed out before", n.Writer, n.Txn, id))
		}
		h.ids[id] = true
	}
	return errs
}

// matchMoment compares what is there with what a power cut may leave.
func (h *History) matchMoment(found []Names) error {
	for _, m := range h.moments {
		if m.matches(found) {
			return nil
		}
	}
	oldest, latest := h.moments[0], h.moments[len(h.moments)-1]
	var errs error
	for i, is := range found {
		if !among(is, oldest[i]) {
			errs = errors.Join(errs, fmt.Errorf("writer %d: the store has\n  %v\nacknowledged was\n  %v\nand then\n  %v", i, is, oldest[i], latest[i]))
		}
	}
	return fmt.Errorf("what is there was never there at one time, of the %d that may be found: %w", len(h.moments), errs)
}

func (m moment) matches(found []Names) bool {
	for i, is := range found {
		if !among(is, m[i]) {
			return false
		}
	}
	return true
}

func among(is Names, states []Names) bool {
	return slices.ContainsFunc(states, func(s Names) bool { return maps.Equal(is, s) })
}
