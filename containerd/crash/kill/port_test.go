//go:build linux && amd64

package kill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	theirs "github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/crash/kill/traced"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// portVariable makes the test binary a process that switches what is in the directory which it
// names, to a store or back.
const portVariable = "FSMETA_CRASH_PORT"

const metadata, back = "metadata.db", "back.db"

// portMain does not return in such a process.
func portMain() {
	work, dir, is := strings.Cut(os.Getenv(portVariable), ":")
	if !is {
		return
	}
	if err := ports[work].do(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// port is what such a process does, and how it is judged.
type port struct {
	begin func(t *testing.T, dir string) *world         // makes what it begins with
	do    func(dir string) error                        // what it does, which may be done again
	judge func(w *world, dir string, absent bool) error // after a crash; absent says whether the place may be empty
	done  func(dir string) error                        // whether what it does was done, when it has ended
}

var ports = map[string]port{
	"import": {beginImport, doImport, judgeImport, doneImport},
	"again":  {beginAgain, doImport, judgeImport, doneImport},
	"export": {beginExport, doExport, judgeExport, doneExport},
	"goback": {beginExport, doGoBack, judgeGoBack, doneGoBack},
}

// world is what there was at first.
type world struct {
	file    []byte // of bbolt
	content content
}

// content is all that a metastore of either kind says.
type content struct {
	Infos  map[string]snapshots.Info
	IDs    map[string]string
	Usages map[string]snapshots.Usage
}

func read(peer peers.Peer, path string) (content, error) {
	c := content{map[string]snapshots.Info{}, nil, map[string]snapshots.Usage{}}
	ms, err := peer.Open(path)
	if err != nil {
		return c, err
	}
	err = ms.WithTransaction(context.Background(), false, func(ctx context.Context) error {
		if c.IDs, err = ms.IDMap(ctx); err != nil {
			return err
		}
		return ms.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			_, c.Infos[info.Name], c.Usages[info.Name], err = ms.GetInfo(ctx, info.Name)
			return err
		})
	})
	return c, errors.Join(err, ms.Close())
}

// like returns an error where a metastore is not as it was at first.
func (w *world) like(peer peers.Peer, path string) error {
	c, err := read(peer, path)
	if err == nil && !reflect.DeepEqual(c, w.content) {
		err = fmt.Errorf("%s has\n%+v, want\n%+v", path, c, w.content)
	}
	return err
}

// onlyHas returns an error where something else is in a directory.
func onlyHas(dir string, names ...string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "lost+found" && !slices.Contains(names, e.Name()) {
			err = errors.Join(err, fmt.Errorf("%s is left in %s", e.Name(), dir))
		}
	}
	return err
}

func beginImport(t *testing.T, dir string) *world {
	t.Helper()
	file := filepath.Join(dir, metadata)
	ms, err := theirs.NewMetaStore(file)
	for i := range 3 {
		layer, parent := fmt.Sprint("layer", i), ""
		if i > 0 {
			parent = fmt.Sprint("layer", i-1)
		}
		err = errors.Join(err, ms.WithTransaction(t.Context(), true, func(ctx context.Context) error {
			if _, err := theirs.CreateSnapshot(ctx, snapshots.KindActive, "key", parent, snapshots.WithLabels(map[string]string{"a": "b"})); err != nil {
				return err
			}
			if _, err := theirs.CommitActive(ctx, "key", layer, snapshots.Usage{Inodes: 1, Size: int64(i)}); err != nil {
				return err
			}
			_, err := theirs.CreateSnapshot(ctx, snapshots.KindView, "view "+layer, layer)
			return err
		}))
	}
	if err = errors.Join(err, ms.Close()); err != nil {
		t.Fatal(err)
	}
	w := &world{}
	if w.content, err = read(peers.Bolt, file); err != nil {
		t.Fatal(err)
	}
	if w.file, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	return w
}

// beginAgain leaves what an import leaves that is killed just before the exchange.
func beginAgain(t *testing.T, dir string) *world {
	t.Helper()
	w, place, stage := beginImport(t, dir), filepath.Join(dir, metadata), filepath.Join(dir, ".metadata.db.import")
	err := errors.Join(doImport(dir), os.Mkdir(stage, 0o700), os.Rename(place, filepath.Join(stage, "store")), os.Rename(place+".bolt", place))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func doImport(dir string) error {
	ms, err := storage.NewMetaStore(filepath.Join(dir, metadata), storage.WithImport(nil))
	if err != nil {
		return err
	}
	return ms.Close()
}

// judgeImport: the place has the old file or the whole store, the next import finishes, the old
// file is intact, and nothing is left over.
func judgeImport(w *world, dir string, absent bool) error {
	place := filepath.Join(dir, metadata)
	info, err := os.Stat(place)
	switch {
	case errors.Is(err, os.ErrNotExist) && absent:
		if err := refusesNew(place); err != nil {
			return err
		}
	case err != nil:
		return err
	case info.IsDir():
		if err := w.like(peers.FS, place); err != nil {
			return err
		}
	default:
		if data, err := os.ReadFile(place); err != nil || !bytes.Equal(data, w.file) {
			return fmt.Errorf("the file has changed: %v", err)
		}
	}
	if err := doImport(dir); err != nil {
		return fmt.Errorf("the next import: %w", err)
	}
	if err := w.like(peers.FS, place); err != nil {
		return err
	}
	if data, err := os.ReadFile(place + ".bolt"); err != nil || !bytes.Equal(data, w.file) {
		return fmt.Errorf("the file that is kept has changed: %v", err)
	}
	return onlyHas(dir, metadata, metadata+".bolt")
}

func doneImport(dir string) error {
	info, err := os.Stat(filepath.Join(dir, metadata))
	if err == nil && !info.IsDir() {
		err = errors.New("the import has ended, and there is no store")
	}
	return errors.Join(err, onlyHas(dir, metadata, metadata+".bolt"))
}

func doneExport(dir string) error {
	_, err := os.Stat(filepath.Join(dir, back))
	return errors.Join(err, onlyHas(dir, metadata, metadata+".bolt", back))
}

// refusesNew returns an error where a new store is made while there is none.
func refusesNew(place string) error {
	ms, err := storage.NewMetaStore(place)
	if err != nil {
		return err
	}
	if _, _, err := ms.TransactionContext(context.Background(), true); !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("a new store beside the file that is kept: %v", err)
	}
	return ms.Close()
}

func beginExport(t *testing.T, dir string) *world {
	t.Helper()
	w := beginImport(t, dir)
	if err := doImport(dir); err != nil {
		t.Fatal(err)
	}
	return w
}

func doExport(dir string) error {
	ms, err := storage.NewMetaStore(filepath.Join(dir, metadata))
	if err != nil {
		return err
	}
	return errors.Join(storage.Export(context.Background(), ms, filepath.Join(dir, back), nil), ms.Close())
}

// judgeExport: there is no file or the whole of it, the next export makes it, the store is as it was, and
// nothing is left over.
func judgeExport(w *world, dir string, _ bool) error {
	file := filepath.Join(dir, back)
	if _, err := os.Stat(file); err == nil {
		if err := w.like(peers.Bolt, file); err != nil {
			return err
		}
		// The next one has nothing else to do but to tidy up.
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	if err := doExport(dir); err != nil {
		return fmt.Errorf("the next export: %w", err)
	}
	err := errors.Join(w.like(peers.Bolt, file), w.like(peers.FS, filepath.Join(dir, metadata)))
	return errors.Join(err, onlyHas(dir, metadata, metadata+".bolt", back))
}

func doGoBack(dir string) error {
	return storage.GoBack(context.Background(), filepath.Join(dir, metadata), nil)
}

// judgeGoBack: the place has the store or the whole file, the next call finishes, and nothing is
// left over.
func judgeGoBack(w *world, dir string, _ bool) error {
	place := filepath.Join(dir, metadata)
	info, err := os.Stat(place)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = w.like(peers.FS, place)
	} else {
		err = w.like(peers.Bolt, place)
	}
	if err != nil {
		return err
	}
	if err := doGoBack(dir); err != nil {
		return fmt.Errorf("the next way back: %w", err)
	}
	err = errors.Join(w.like(peers.Bolt, place), w.like(peers.FS, place+".fsmeta"))
	return errors.Join(err, onlyHas(dir, metadata, metadata+".bolt", metadata+".fsmeta"))
}

func doneGoBack(dir string) error {
	info, err := os.Stat(filepath.Join(dir, metadata))
	if err == nil && info.IsDir() {
		err = errors.New("the way back has ended, and there is no file")
	}
	return errors.Join(err, onlyHas(dir, metadata, metadata+".bolt", metadata+".fsmeta"))
}

// way is how a filesystem or a disk behaves.
type way struct {
	name, work string
	exchange   bool // renames can exchange
}

var ways = []way{
	{"an import", "import", true}, {"an import without exchange", "import", false}, {"an import after a kill", "again", true},
	{"an export", "export", true}, {"a way back", "goback", true},
}

// before returns what becomes of a call, apart from what a test does to it: on some filesystems
// a rename can't exchange.
func (w way) before(c traced.Call) traced.Do {
	if !w.exchange && c.Kind == "renameat2" && c.Path == ".metadata.db.import/store and metadata.db" {
		return traced.Do{Errno: unix.EINVAL}
	}
	return traced.Do{}
}

// run runs the work on a world in a process, which writes what it has to say to dir.
func (w way) run(t *testing.T, dir, world string, decide traced.Decide) (*traced.Result, error) {
	return traced.Process(t.Context(), traced.Self(t), dir, world, portVariable+"="+w.work+":"+world,
		func(c traced.Call, made bool) traced.Do {
			if do := decide(c, made); do != (traced.Do{}) || made {
				return do
			}
			return w.before(c)
		})
}

// begin makes a world in a new directory.
func (w way) begin(t *testing.T, dir string) *world {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "world"), 0o700); err != nil {
		t.Fatal(err)
	}
	return ports[w.work].begin(t, filepath.Join(dir, "world"))
}

// record returns the calls of the work.
func (w way) record(t *testing.T, dir string) (calls []traced.Call) {
	t.Helper()
	first := w.begin(t, dir)
	r, err := w.run(t, dir, filepath.Join(dir, "world"), func(c traced.Call, made bool) traced.Do {
		if !made {
			calls = append(calls, c)
		}
		return traced.Do{}
	})
	if err == nil {
		err = r.Bad()
	}
	if err == nil {
		err = ports[w.work].judge(first, filepath.Join(dir, "world"), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// A process that imports or exports is killed at each of its calls.
func TestKillPort(t *testing.T) {
	traced.Need(t)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			dir, random := traced.Memory(t), traced.Random(t)
			calls := w.record(t, filepath.Join(dir, "record"))
			var count traced.Tally
			var absent atomic.Int32
			traced.Each(traced.Sample(traced.Every(calls), traced.Runs(t, 120), random), func(i int, p traced.Point) {
				dir := filepath.Join(dir, fmt.Sprint(i))
				first := w.begin(t, dir)
				r, err := w.run(t, dir, filepath.Join(dir, "world"), func(c traced.Call, made bool) traced.Do { return traced.Do{Kill: p.Is(c, made)} })
				if err == nil && !r.Killed() {
					err = r.Bad()
				}
				if _, serr := os.Stat(filepath.Join(dir, "world", metadata)); serr != nil {
					absent.Add(1)
				}
				if err == nil {
					err = ports[w.work].judge(first, filepath.Join(dir, "world"), !w.exchange)
				}
				if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
					t.Errorf("killed %v: %v", p, err)
				}
				count.Add(p.Kind, r != nil && r.Killed(), err)
			})
			t.Logf("of %d calls, killed at some: %v; %d left nothing in the place", len(calls), &count, absent.Load())
		})
	}
}

// Each call of an import or an export fails, for want of room. It ends with an error or without,
// and what is left is what a crash may leave.
func TestFailPort(t *testing.T) {
	traced.Need(t)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			dir, random := traced.Memory(t), traced.Random(t)
			points := map[string][]traced.Point{}
			for kind, all := range traced.Every(w.record(t, filepath.Join(dir, "record"))) {
				if slices.Contains([]string{"openat to create", "write", "pwrite64", "mkdirat", "renameat", "renameat2", "linkat", "symlinkat", "fsync", "fdatasync", "fallocate", "ftruncate"}, kind) {
					points[kind] = slices.DeleteFunc(all, func(p traced.Point) bool { return p.After })
				}
			}
			var count traced.Tally
			failed := 0
			traced.Each(traced.Sample(points, traced.Runs(t, 60), random), func(i int, p traced.Point) {
				dir := filepath.Join(dir, fmt.Sprint(i))
				first, met := w.begin(t, dir), false
				r, err := w.run(t, dir, filepath.Join(dir, "world"), func(c traced.Call, made bool) traced.Do {
					if p.Is(c, made) {
						met = true
						return traced.Do{Errno: unix.ENOSPC}
					}
					return traced.Do{}
				})
				if err == nil && r.Status.ExitStatus() == 1 && strings.Contains(r.Stderr, "no space left") {
					failed++
				} else if err == nil {
					err = r.Bad()
				}
				if err == nil {
					err = ports[w.work].judge(first, filepath.Join(dir, "world"), !w.exchange)
				}
				if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
					t.Errorf("failed %v: %v", p, err)
				}
				count.Add(p.Kind, met, err)
			})
			if failed == 0 {
				t.Error("no failure was told")
			}
			t.Logf("%d ended with the error: %v", failed, &count)
		})
	}
}

// A process that opens the file to write to it at the last moment, and waits for its lock, gets it
// back in its place.
func TestPortSeesWriter(t *testing.T) {
	traced.Need(t)
	for _, w := range ways[:2] {
		t.Run(w.name, func(t *testing.T) {
			dir := traced.Memory(t)
			first := w.begin(t, dir)
			at, moved := ".metadata.db.import/store and metadata.db", ".metadata.db.import/store"
			if !w.exchange {
				at, moved = "metadata.db and metadata.db.bolt", "metadata.db.bolt"
			}
			var writer *os.File
			r, err := w.run(t, dir, filepath.Join(dir, "world"), func(c traced.Call, made bool) (do traced.Do) {
				if made && writer == nil && c.Kind == "renameat2" && c.Path == at {
					var err error
					if writer, err = os.OpenFile(filepath.Join(dir, "world", moved), os.O_RDWR, 0); err != nil {
						t.Error(err)
					}
					s, err := fsmeta.Open(filepath.Join(dir, "world", metadata), fsmeta.MustExist(), fsmeta.Patience(time.Millisecond))
					if err == nil {
						t.Error("a driver can commit to the store that is taken away again", s.Close())
					}
				}
				return do
			})
			if err != nil {
				t.Fatal(err)
			}
			if writer == nil || r.Status.ExitStatus() != 1 || !strings.Contains(r.Stderr, "opened it for writing meanwhile") {
				t.Errorf("it ended with %x: %s", r.Status, r.Stderr)
			}
			if data, err := os.ReadFile(filepath.Join(dir, "world", metadata)); err != nil || !bytes.Equal(data, first.file) {
				t.Errorf("the file is not in its place: %v", err)
			}
			if err := errors.Join(onlyHas(filepath.Join(dir, "world"), metadata), writer.Close(), ports[w.work].judge(first, filepath.Join(dir, "world"), false)); err != nil {
				t.Error(err)
			}
		})
	}
}

// An old driver that finds the file in its place can't commit to it before a power cut can no longer take it away.
func TestPortKeepsDriversOut(t *testing.T) {
	traced.Need(t)
	for work, c := range map[string]struct{ file, rename string }{
		"goback": {metadata, ".metadata.db.goback/metadata.db and metadata.db"},
		"export": {back, ".back.db.export/metadata.db and back.db"},
	} {
		t.Run(work, func(t *testing.T) {
			dir, w, tried := traced.Memory(t), way{"", work, true}, 0
			first := w.begin(t, dir)
			r, err := w.run(t, dir, filepath.Join(dir, "world"), func(call traced.Call, made bool) (do traced.Do) {
				// Then, and when the next call begins.
				if tried == 1 || tried == 0 && made && call.Kind == "renameat2" && call.Path == c.rename {
					tried++
					db, err := bolt.Open(filepath.Join(dir, "world", c.file), 0, &bolt.Options{Timeout: time.Millisecond})
					if !errors.Is(err, errbolt.ErrTimeout) {
						t.Errorf("the file can be opened: %v", err)
					}
					if err == nil {
						t.Error(db.Close())
					}
				}
				return do
			})
			if err == nil {
				err = errors.Join(r.Bad(), ports[work].judge(first, filepath.Join(dir, "world"), false))
			}
			if err != nil || tried != 2 {
				t.Errorf("tried %d times: %v", tried, err)
			}
		})
	}
}

// A process is killed while it removes the store that an earlier one has built. The order in which that goes is the
// filesystem's.
func TestKillInRemoval(t *testing.T) {
	traced.Need(t)
	for _, filesystem := range []string{"ext4", "xfs"} {
		t.Run(filesystem, func(t *testing.T) {
			d, w := newDisk(t, filesystem, 512), way{"", "again", true}
			killed := 0
			for i := 1; i == killed+1; i++ {
				dir := filepath.Join(d.path, fmt.Sprint(i))
				first, removed := w.begin(t, dir), 0
				r, err := w.run(t, dir, filepath.Join(dir, "world"), func(c traced.Call, made bool) traced.Do {
					if made && c.Kind == "unlinkat" && strings.HasPrefix(c.Path, ".metadata.db.import/store") {
						removed++
					}
					return traced.Do{Kill: removed == i}
				})
				if err == nil && r.Killed() {
					killed++
				} else if err == nil {
					err = r.Bad()
				}
				if err == nil {
					err = ports[w.work].judge(first, filepath.Join(dir, "world"), false)
				}
				if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
					t.Errorf("killed when it has removed %d: %v", i, err)
				}
			}
			if killed == 0 {
				t.Error("nothing was removed")
			}
			t.Logf("killed %d times", killed)
		})
	}
}

// What root leaves of a way back that is killed can be read by the owner of the store, to finish it.
func TestKillLeavesOwner(t *testing.T) {
	traced.Need(t)
	if os.Geteuid() != 0 {
		traced.Skip(t, "only root can give files away")
	}
	dir, w := traced.Memory(t), way{"", "goback", true}
	world := filepath.Join(dir, "world")
	w.begin(t, dir)
	owned := func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 12345, 12345))
	}
	if err := filepath.WalkDir(world, owned); err != nil {
		t.Fatal(err)
	}
	r, err := w.run(t, dir, world, func(c traced.Call, made bool) traced.Do {
		return traced.Do{Kill: made && c.Kind == "renameat2" && strings.HasSuffix(c.Path, " and metadata.db")}
	})
	if err != nil || !r.Killed() {
		t.Fatalf("it was not killed: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(world, ".metadata.db.goback"))
	if err != nil || len(entries) != 2 {
		t.Errorf("the stage has %v: %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Sys().(*syscall.Stat_t).Uid != 12345 {
			t.Errorf("%s is not its owner's: %v", e.Name(), err)
		}
	}
}
