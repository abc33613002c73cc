package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// Unfit is a snapshot in a bbolt file that can't be taken over as it is.
type Unfit struct {
	Name string // as the file has it: it may be no UTF-8
	ID   string // where its content is; "" where the file does not say it
	Err  error  // why
}

func (u Unfit) String() string {
	id := "no identifier"
	if u.ID != "" {
		id = "identifier " + u.ID
	}
	return fmt.Sprintf("snapshot %.256q (%s): %v", u.Name, id, u.Err)
}

// UnfitError is the error of an import from a file that has snapshots which can't be taken
// over. Nothing was imported. It is of the classes of all their errors: errdefs.ErrDataLoss
// where containerd's package can't have written it, errdefs.ErrInvalidArgument where this one
// is stricter.
type UnfitError struct{ Snapshots []Unfit }

// mostListed is how many snapshots the text of an UnfitError names.
const mostListed = 20

func (e *UnfitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d snapshots can't be taken over (to leave them out and take over the rest: LeaveOut, or fsmeta import --leave-out): ", len(e.Snapshots))
	for i, u := range e.Snapshots {
		if i == mostListed {
			fmt.Fprintf(&b, "; and %d more", len(e.Snapshots)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(u.String())
	}
	return b.String()
}

// Unwrap returns the error of each.
func (e *UnfitError) Unwrap() []error {
	var all []error
	for _, u := range e.Snapshots {
		all = append(all, u.Err)
	}
	return all
}

// sortOut returns those rows that can be taken over, and the others.
func sortOut(rows []*row) (fit []fsmeta.Info, unfit []Unfit) {
	byName, byID := map[string]*row{}, map[uint64][]*row{}
	for _, r := range rows {
		byName[r.Name] = r
		if r.id != 0 {
			byID[r.id] = append(byID[r.id], r)
		}
		if r.err == nil {
			r.err = r.check()
		}
	}
	for id, same := range byID {
		for _, r := range same {
			if len(same) > 1 && r.err == nil {
				r.err = fmt.Errorf("%d snapshots have the identifier %d: %w", len(same), id, errdefs.ErrDataLoss)
			}
		}
	}
	judged := map[*row]*row{}
	for _, r := range rows {
		judgeParents(r, byName, judged)
	}
	for _, r := range rows {
		if r.err == nil {
			fit = append(fit, r.Info)
		} else {
			unfit = append(unfit, Unfit{r.Name, r.ID, r.err})
		}
	}
	return fit, unfit
}

// maxID is the highest identifier that [fsmeta.Store.Import] takes as the next one, so those of snapshots are below.
const maxID = 1 << 61

// check returns why a row can't be taken over, by itself.
func (r *row) check() error {
	if err := checkNew(r.Name); err != nil {
		return err
	}
	if r.id >= maxID {
		return fmt.Errorf("identifier %d is not below %d: %w", r.id, uint64(maxID), errdefs.ErrInvalidArgument)
	}
	for key, value := range r.Labels {
		if key == "" || !utf8.ValidString(key) || !utf8.ValidString(value) {
			return fmt.Errorf("label %.256q=%.256q is empty or not valid UTF-8: %w", key, value, errdefs.ErrInvalidArgument)
		}
	}
	for _, at := range []time.Time{r.Created, r.Updated} {
		if at.Year() < 0 || at.Year() > 9999 {
			return fmt.Errorf("time %v is outside of the years 0 to 9999: %w", at, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// judgeParents makes a row unfit that stands on one which is missing, not committed or unfit,
// or on itself, and all those between. judged has the rows that it has looked at, by the row
// with which it began.
func judgeParents(first *row, byName map[string]*row, judged map[*row]*row) {
	var chain []*row
	r := first
	for ; r != nil && r.err == nil && r.Parent != "" && judged[r] == nil; r = byName[r.Parent] {
		judged[r] = first
		chain = append(chain, r)
	}
	if n := len(chain); n > 0 && r != nil && judged[r] == first {
		chain[n-1].err = fmt.Errorf("its parents lead back to it: %w", errdefs.ErrDataLoss)
		chain = chain[:n-1]
	}
	for _, r := range slices.Backward(chain) { // the lowest first
		switch parent := byName[r.Parent]; {
		case parent == nil:
			r.err = fmt.Errorf("its parent %.256q is missing: %w", r.Parent, errdefs.ErrDataLoss)
		case parent.err != nil:
			r.err = fmt.Errorf("its parent %.256q can't be taken over: %w", r.Parent, classOf(parent.err))
		case parent.Kind != fsmeta.KindCommitted:
			r.err = fmt.Errorf("its parent %.256q is not committed: %w", r.Parent, errdefs.ErrDataLoss)
		}
	}
}

// classOf returns the class of an error of a row.
func classOf(err error) error {
	if errors.Is(err, errdefs.ErrDataLoss) {
		return errdefs.ErrDataLoss
	}
	return errdefs.ErrInvalidArgument
}
