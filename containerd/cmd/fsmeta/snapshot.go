package main

import (
	"path/filepath"
	"time"

	"github.com/fsmeta/fsmeta/containerd/cmd/internal/tool"
	"github.com/fsmeta/fsmeta/fsmeta"
)

// snapshot is a snapshot as JSON. All members are always there; those that can't be told,
// as of a damaged one, are null, and so are lags and damage where there is none.
type snapshot struct {
	Name     *string           `json:"name"`
	ID       *string           `json:"id"`
	Parent   *string           `json:"parent"`
	Kind     *fsmeta.Kind      `json:"kind"`
	Readonly *bool             `json:"readonly"`
	Labels   map[string]string `json:"labels"`
	Created  *time.Time        `json:"created"`
	Updated  *time.Time        `json:"updated"`
	Usage    *fsmeta.Usage     `json:"usage"`
	Txn      *uint64           `json:"txn"`
	Path     string            `json:"path"`
	Source   string            `json:"source"` // journal or tree
	Lags     *string           `json:"lags"`
	Damage   *string           `json:"damage"`
}

func snapshotOf(s *fsmeta.Sight) snapshot {
	out := snapshot{Path: s.Path, Source: "tree", Name: given(s.Name), Lags: given(s.Lags)}
	if s.Journal {
		out.Source = "journal"
	}
	if s.Damage != nil {
		out.Damage = given(problemOf(s.Damage))
	}
	if !readable(s) {
		return out
	}
	i := tool.ImageOf(&s.Info)
	out.ID, out.Parent, out.Kind, out.Readonly, out.Labels = &i.ID, &i.Parent, &i.Kind, &i.Readonly, i.Labels
	out.Created, out.Updated, out.Usage, out.Txn = &i.Created, &i.Updated, &i.Usage, &s.Txn
	return out
}

// counts is how many snapshots there are of each kind, and in which state.
type counts struct {
	Active    int `json:"active"`
	Committed int `json:"committed"`
	Damaged   int `json:"damaged"` // those among active and committed, too, that stand on a missing one
	Lagging   int `json:"lagging"`
	Removed   int `json:"removed"` // removed, with a directory that is still there: none of the others
}

func (c *counts) add(s *fsmeta.Sight) {
	switch s.Kind {
	case fsmeta.KindActive:
		c.Active++
	case fsmeta.KindCommitted:
		c.Committed++
	}
	if s.Damage != nil {
		c.Damaged++
	}
	if s.Lags != "" {
		c.Lagging++
	}
}

// given returns a text, nil for none.
func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// readable reports whether the metadata of a snapshot is known. What it stands on may be
// missing all the same.
func readable(s *fsmeta.Sight) bool { return s.Kind != 0 }

// nameOf returns the name of a snapshot to be shown. Where that is not known, it is the
// path below the store.
func nameOf(s *fsmeta.Sight) string {
	if s.Name == "" {
		return tool.Escape("snapshots/" + filepath.Base(s.Path))
	}
	return tool.Escape(s.Name)
}

// unknownKind stands for the kind of a snapshot that can't be read.
const unknownKind = "?"

// kindOf returns the kind of a snapshot to be shown.
func kindOf(s *fsmeta.Sight) string {
	if !readable(s) {
		return unknownKind
	}
	return s.Kind.String()
}

// noteOf says in a word whether something is wrong with a snapshot.
func noteOf(s *fsmeta.Sight) string {
	switch {
	case s.Damage != nil:
		return "damaged"
	case s.Lags != "":
		return "lags"
	}
	return ""
}

// styleOf is how a snapshot stands out.
func styleOf(s *fsmeta.Sight) tool.Style {
	switch {
	case s.Damage != nil:
		return tool.Red
	case s.Lags != "":
		return tool.Yellow
	case s.Kind == fsmeta.KindActive:
		return tool.Bold
	}
	return ""
}
