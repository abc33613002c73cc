package tool

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// transaction is a transaction as Watch prints it, with the members that journal lines
// have.
type transaction struct {
	Txn     uint64    `json:"txn"`
	Time    time.Time `json:"time"`
	Changes []change  `json:"changes"`
}

type change struct {
	Name   string `json:"name"`
	Before *image `json:"before"`
	After  *image `json:"after"`
}

type image struct {
	ID       string            `json:"id"`
	Parent   string            `json:"parent"`
	Kind     fsmeta.Kind       `json:"kind"`
	Readonly bool              `json:"readonly"`
	Labels   map[string]string `json:"labels"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
	Usage    fsmeta.Usage      `json:"usage"`
}

func imageOf(info *fsmeta.Info) *image {
	if info == nil {
		return nil
	}
	labels := info.Labels
	if labels == nil {
		labels = map[string]string{} // as the journal has it
	}
	return &image{info.ID, info.Parent, info.Kind, info.Readonly, labels, info.Created, info.Updated, info.Usage}
}

// Watch prints a line of JSON for each transaction that is committed to the store in dir
// after the one of that number, until ctx ends, which is no error.
func Watch(ctx context.Context, dir string, after uint64, out io.Writer) (err error) {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	for t, err := range s.Watch(ctx, after) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		line := transaction{t.Number, t.Time, []change{}}
		for _, c := range t.Changes {
			line.Changes = append(line.Changes, change{c.Name, imageOf(c.Before), imageOf(c.After)})
		}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
