package tool

import (
	"context"
	"errors"
	"io"

	"github.com/fsmeta/fsmeta/fsmeta"
)

// Watch prints a line of JSON for each transaction that is committed to the store in dir
// after the one of that number, until ctx ends, which is no error.
func Watch(ctx context.Context, dir string, after uint64, out io.Writer) (err error) {
	s, err := fsmeta.Open(dir, fsmeta.ReadOnly())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	encoder := NewEncoder(out)
	for t, err := range s.Watch(ctx, after) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := encoder.Encode(TransactionOf(t)); err != nil {
			return err
		}
	}
	return nil
}
