package peers_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/fsmeta/fsmeta/fsmeta"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Every error of a store can be sent over gRPC, as containerd does it, wherever it stands
// among others, and keeps its class.
func TestErrorsOverGRPC(t *testing.T) {
	for err, want := range map[error]codes.Code{
		fsmeta.ErrNotExist: codes.NotFound, fsmeta.ErrExist: codes.AlreadyExists, fsmeta.ErrNotActive: codes.FailedPrecondition,
		fsmeta.ErrNotCommitted: codes.FailedPrecondition, fsmeta.ErrHasChildren: codes.FailedPrecondition, fsmeta.ErrParentSet: codes.FailedPrecondition,
		fsmeta.ErrInvalidName: codes.InvalidArgument, fsmeta.ErrDamaged: codes.DataLoss, fsmeta.ErrNoTransaction: codes.FailedPrecondition,
		fsmeta.ErrReadOnlyTransaction: codes.FailedPrecondition, fsmeta.ErrTransactionClosed: codes.FailedPrecondition,
		fsmeta.ErrNestedTransaction: codes.FailedPrecondition, fsmeta.ErrOutdated: codes.Aborted, fsmeta.ErrClosed: codes.Unavailable,
		fsmeta.ErrNotStore: codes.FailedPrecondition, fsmeta.ErrUsed: codes.FailedPrecondition, fsmeta.ErrInUse: codes.Unavailable,
		fsmeta.ErrFailed: codes.Unavailable, fsmeta.ErrOutcomeUnknown: codes.Unknown,
	} {
		for name, e := range map[string]error{
			"alone": err, "wrapped": fmt.Errorf("x: %w", err), "joined first": errors.Join(err, errors.New("x")),
			"wrapped with another": fmt.Errorf("%w: %w", err, errors.New("x")),
		} {
			if got := status.Code(errgrpc.ToGRPC(e)); got != want {
				t.Errorf("%v, %s: %v, want %v", err, name, got, want)
			}
		}
		if got := status.Code(errgrpc.ToGRPC(errors.Join(errors.New("x"), err))); got == codes.OK {
			t.Errorf("%v, joined second: %v", err, got)
		}
	}
}
