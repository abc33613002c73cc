package tool

import (
	"time"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Transaction is a transaction as JSON, with the members that journal lines have.
type Transaction struct {
	Txn     uint64    `json:"txn"`
	Time    time.Time `json:"time"`
	Changes []change  `json:"changes"`
}

type change struct {
	Name   string `json:"name"`
	Before *Image `json:"before"`
	After  *Image `json:"after"`
}

// Image is a snapshot as JSON, without its name.
type Image struct {
	ID       string            `json:"id"`
	Parent   string            `json:"parent"`
	Kind     fsmeta.Kind       `json:"kind"`
	Readonly bool              `json:"readonly"`
	Labels   map[string]string `json:"labels"`
	Created  time.Time         `json:"created"`
	Updated  time.Time         `json:"updated"`
	Usage    fsmeta.Usage      `json:"usage"`
}

// TransactionOf returns a transaction as it is printed.
func TransactionOf(t fsmeta.Transaction) Transaction {
	out := Transaction{t.Number, t.Time, []change{}}
	for _, c := range t.Changes {
		out.Changes = append(out.Changes, change{c.Name, ImageOf(c.Before), ImageOf(c.After)})
	}
	return out
}

// ImageOf returns a snapshot as it is printed, nil for none.
func ImageOf(info *fsmeta.Info) *Image {
	if info == nil {
		return nil
	}
	labels := info.Labels
	if labels == nil {
		labels = map[string]string{} // as the journal has it
	}
	return &Image{info.ID, info.Parent, info.Kind, info.Readonly, labels, info.Created, info.Updated, info.Usage}
}
