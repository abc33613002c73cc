package peers_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	bolt "go.etcd.io/bbolt"
)

// What older versions of containerd's packages lack, so that the tests compile with each of them.

// withParent is snapshots.WithParent, which containerd has since 2.2.
func withParent(parent string) snapshots.Opt {
	return func(info *snapshots.Info) error {
		info.Parent = parent
		return nil
	}
}

// theirsTakesOptions says whether containerd's NewMetaStore has options. 2.0's has none.
var theirsTakesOptions = reflect.TypeOf(theirs.NewMetaStore).IsVariadic()

// needOptions skips the test of a peer that has no options.
func needOptions(t *testing.T, peer string) {
	t.Helper()
	if peer == peers.Bolt.Name && !theirsTakesOptions {
		t.Skip("this version of containerd's package has no options")
	}
}

// withoutStatistics takes NoStatistics out of printed options: only bbolt 1.5 has it, and
// containerd's package sets it with that. It has no meaning here.
func withoutStatistics(options string) string {
	return strings.ReplaceAll(strings.ReplaceAll(options, " NoStatistics:true", ""), " NoStatistics:false", "")
}

// theirsRebases says whether containerd's CommitActive gives a snapshot the parent of
// withParent. That of 2.0 and 2.1 ignores it.
var theirsRebases = sync.OnceValue(func() bool {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ms, err := newTheirs(filepath.Join(dir, "store"))
	if err != nil {
		panic(err)
	}
	defer ms.Close()
	rebased, err := rebase(ms)
	if err != nil {
		panic(err)
	}
	return rebased
})

// rebase tries it, in an empty store.
func rebase(ms *theirs.MetaStore) (rebased bool, err error) {
	err = ms.WithTransaction(bg, true, func(ctx context.Context) error {
		create := func(name string, opts ...snapshots.Opt) error {
			_, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "active", "")
			if err == nil {
				_, err = theirs.CommitActive(ctx, "active", name, snapshots.Usage{}, opts...)
			}
			return err
		}
		if err := errors.Join(create("base"), create("top", withParent("base"))); err != nil {
			return err
		}
		_, info, _, err := theirs.GetInfo(ctx, "top")
		rebased = info.Parent == "base"
		return err
	})
	return rebased, err
}

// playersOf are the peers that a script is played on: only ours if it gives a parent at the
// commit, and theirs can't.
func playersOf(script string) []peers.Peer {
	if (strings.Contains(script, " ^") || strings.Contains(script, `"^`)) && !theirsRebases() {
		return both[1:]
	}
	return both
}

// newTheirs is containerd's NewMetaStore.
func newTheirs(path string, opts ...func(*bolt.Options) error) (*theirs.MetaStore, error) {
	function := reflect.ValueOf(theirs.NewMetaStore)
	args := []reflect.Value{reflect.ValueOf(path)}
	for _, opt := range opts {
		args = append(args, reflect.ValueOf(opt).Convert(function.Type().In(1).Elem()))
	}
	results := function.Call(args)
	ms, _ := results[0].Interface().(*theirs.MetaStore)
	err, _ := results[1].Interface().(error)
	return ms, err
}
