//go:build linux

package driver_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	"github.com/fsmeta/fsmeta/containerd/storage"
)

// The crash tests run a workload in a child process, end that or the power at some moment,
// and compare what is found afterwards with what the child has announced and been told to
// be done.

func init() { driver.Children["work"] = work }

// kinds are the snapshotters that are tried.
var kinds = map[string]func(root string) (snapshots.Snapshotter, error){
	"overlay": func(root string) (snapshots.Snapshotter, error) { return overlay.NewSnapshotter(root) },
	"overlayUnsynced": func(root string) (snapshots.Snapshotter, error) {
		return overlay.NewSnapshotter(root, overlay.WithoutSync)
	},
	"native": func(root string) (snapshots.Snapshotter, error) { return native.NewSnapshotter(root) },
	"overlayShared": func(root string) (snapshots.Snapshotter, error) {
		meta, err := storage.NewMetaStore(metaOf("overlayShared", root))
		if err != nil {
			return nil, err
		}
		s, err := overlay.NewSnapshotter(root, overlay.WithMetaStore(meta))
		if err != nil {
			return nil, errors.Join(err, meta.Close())
		}
		return s, nil
	},
}

// metaOf returns the store of a root: one that is shared is where containerd's snapshotters have theirs.
func metaOf(kind, root string) string {
	if kind == "overlayShared" {
		return filepath.Join(root, "metadata.db")
	}
	return filepath.Join(root, "meta")
}

// runs multiplies how often something random is tried.
func runs(t *testing.T, normally int) int {
	t.Helper()
	v := os.Getenv("FSMETA_TEST_RUNS")
	if v == "" {
		return normally
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("FSMETA_TEST_RUNS=%q is not a number of runs", v)
	}
	return normally * n
}

// randomly returns a source of chance. A failed test logs its seed.
func randomly(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the seed was %d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// workload is what a child process is told to do.
type workload struct {
	kind, root, prefix string
	workers, steps     int
	stepwise           bool // it waits for a line of its standard input after each call
}

func (w workload) arguments() []string {
	return []string{w.kind, w.root, w.prefix, strconv.Itoa(w.workers), strconv.Itoa(w.steps), strconv.FormatBool(w.stepwise)}
}

// work is the child process.
func work(arguments []string) error {
	w := workload{kind: arguments[0], root: arguments[1], prefix: arguments[2]}
	_, err := fmt.Sscan(strings.Join(arguments[3:], " "), &w.workers, &w.steps, &w.stepwise)
	if err != nil {
		return err
	}
	s, err := kinds[w.kind](w.root)
	if err != nil {
		return err
	}
	failures := make([]error, w.workers)
	var group sync.WaitGroup
	for i := range w.workers {
		group.Go(func() {
			failures[i] = (&worker{s: s, workload: w, name: fmt.Sprintf("%s-%d", w.prefix, i)}).run()
		})
	}
	group.Wait()
	return errors.Join(append(failures, s.Close())...)
}

// worker makes layers, one on the other, and removes them again.
type worker struct {
	workload
	s     snapshots.Snapshotter
	name  string
	chain []string // committed, the highest last
}

func (w *worker) run() error {
	for i := range w.steps {
		if err := w.step(fmt.Sprintf("%s-%d", w.name, i), i); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) step(key string, i int) error {
	ctx := context.Background()
	top := ""
	if len(w.chain) > 0 {
		top = w.chain[len(w.chain)-1]
	}
	if err := w.layer(ctx, key, top); err != nil {
		return err
	}
	switch i % 4 {
	case 1: // a container, which stays until the next round but one
		return w.call("prepare left-"+key, func() error {
			_, err := w.s.Prepare(ctx, "left-"+key, "")
			return err
		})
	case 2:
		err := w.call("prepare view-"+key, func() error {
			_, err := w.s.View(ctx, "view-"+key, "layer-"+key)
			return err
		})
		if err != nil {
			return err
		}
		return w.remove(ctx, "view-"+key)
	case 3:
		for ; len(w.chain) > 0; w.chain = w.chain[:len(w.chain)-1] {
			if err := w.remove(ctx, w.chain[len(w.chain)-1]); err != nil {
				return err
			}
		}
		return w.s.(snapshots.Cleaner).Cleanup(ctx)
	}
	return nil
}

// layer prepares key, fills and commits it.
func (w *worker) layer(ctx context.Context, key, parent string) error {
	name := "layer-" + key
	var mounts []mount.Mount
	err := w.call("prepare "+key, func() (err error) {
		mounts, err = w.s.Prepare(ctx, key, parent)
		return err
	})
	if err != nil {
		return err
	}
	if err := writeContent(upperOf(mounts), name); err != nil {
		return err
	}
	err = w.call("commit "+key+" "+name, func() error { return w.s.Commit(ctx, name, key) })
	w.chain = append(w.chain, name)
	return err
}

func (w *worker) remove(ctx context.Context, key string) error {
	return w.call("remove "+key, func() error { return w.s.Remove(ctx, key) })
}

// call announces fn, and says when it is done.
func (w *worker) call(what string, fn func() error) error {
	fmt.Println("?", what)
	if err := fn(); err != nil {
		return err
	}
	fmt.Println("!", what)
	if w.stepwise {
		if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
	return nil
}

// upperOf returns where what is written goes. It is written there, not through a mount,
// which a child that is killed would leave.
func upperOf(mounts []mount.Mount) string {
	for _, option := range mounts[0].Options {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return upper
		}
	}
	return mounts[0].Source
}

// contentOf returns what writeContent writes below its directory: files by their paths,
// some in directories, of sizes around those that filesystems treat apart.
func contentOf(name string) map[string][]byte {
	seed := sha256.Sum256([]byte(name))
	chance := rand.NewChaCha8(seed)
	files := map[string][]byte{}
	for i, size := range []int{0, 1, 100, 4096, 4097, 70_000} {
		data := make([]byte, size)
		_, _ = chance.Read(data) // never fails
		files[filepath.Join([]string{"", "a", "a/b"}[i%3], fmt.Sprintf("file%d", i))] = data
	}
	return files
}

// writeContent writes content that depends on the name, below a directory of that name.
// Nothing of it is synced.
func writeContent(dir, name string) error {
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o750); err != nil {
		return err
	}
	for path, data := range contentOf(name) {
		if err := os.WriteFile(filepath.Join(dir, path+".new"), data, 0o640); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(dir, path+".new"), filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	if err := os.Symlink("a/b", filepath.Join(dir, "link")); err != nil {
		return err
	}
	return os.Chmod(filepath.Dir(dir), modeOf(name))
}

// modeOf returns the mode of the directory in which writeContent writes, and that of those made on it.
func modeOf(name string) fs.FileMode {
	if name == "" {
		return 0o755
	}
	seed := sha256.Sum256([]byte(name))
	return 0o700 | fs.FileMode(seed[0])&0o77
}

// compareContent says what is not as writeContent has left it.
func compareContent(dir, name string) error {
	want := contentOf(name)
	dir = filepath.Join(dir, name)
	got := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err == nil {
			got[relative], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for path, data := range want {
		if now, ok := got[path]; !ok || !bytes.Equal(now, data) {
			return fmt.Errorf("%s has %d bytes (it is there: %t) that are not the %d written", filepath.Join(dir, path), len(now), ok, len(data))
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s holds %q, want only %q", dir, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	if to, err := os.Readlink(filepath.Join(dir, "link")); err != nil || to != "a/b" {
		return fmt.Errorf("%s/link leads to %q: %v", dir, to, err)
	}
	return nil
}

// known is what must be in a store, and what may be.
type known struct {
	certain map[string]bool      // whether a snapshot of that name is there
	pending map[string]bool      // names that are there or not
	commits map[[2]string]string // calls under way: of key and name exactly one is there
}

func newKnown() *known {
	return &known{map[string]bool{}, map[string]bool{}, map[[2]string]string{}}
}

// hear takes a line of the child in. What it says late, after the power was cut, it has
// begun, but no caller was told of: a kernel without its disk may say that something is on
// it.
func (k *known) hear(line string, late bool) error {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "?" && words[0] != "!" {
		return fmt.Errorf("the child says %q", line)
	}
	if late {
		for _, name := range words[2:] {
			k.pending[name] = true
			if words[0] == "?" { // what was under way with it has ended
				maps.DeleteFunc(k.commits, func(names [2]string, _ string) bool { return slices.Contains(names[:], name) })
			}
		}
		return nil
	}
	after := map[string]bool{words[2]: words[1] == "prepare"}
	if words[1] == "commit" {
		after[words[3]] = true
	}
	for name, there := range after {
		if words[0] == "?" {
			k.pending[name] = true
			continue
		}
		delete(k.pending, name)
		k.certain[name] = there
	}
	if words[1] == "commit" && words[0] == "?" {
		k.commits[[2]string{words[2], words[3]}] = line
	} else if words[1] == "commit" {
		delete(k.commits, [2]string{words[2], words[3]})
	}
	return nil
}

// compare says in what the names that are there differ, and knows them from then on.
func (k *known) compare(there map[string]bool) (problems []error) {
	for name, want := range k.certain {
		if !k.pending[name] && there[name] != want {
			problems = append(problems, fmt.Errorf("snapshot %q is there: %t, and %t was acknowledged", name, there[name], want))
		}
	}
	for name := range there {
		if _, heard := k.certain[name]; !heard && !k.pending[name] {
			problems = append(problems, fmt.Errorf("snapshot %q is there, and was not made", name))
		}
	}
	for names, line := range k.commits {
		if there[names[0]] == there[names[1]] {
			problems = append(problems, fmt.Errorf("%q was under way, and of both names is there: %t", line, there[names[0]]))
		}
	}
	k.certain, k.pending, k.commits = maps.Clone(there), map[string]bool{}, map[[2]string]string{}
	return problems
}

// check opens a root after a crash and says what is not as the package's comment
// promises: each snapshot's directory, the content of all committed ones, what was
// acknowledged, and nothing else after Cleanup. Then it uses it.
func (k *known) check(kind, root string) (err error) {
	s, err := kinds[kind](root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ctx := context.Background()
	infos := map[string]snapshots.Info{}
	err = s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		infos[info.Name] = info
		return nil
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	ids, err := idsOf(ctx, metaOf(kind, root))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for name := range infos {
		there[name] = true
	}
	problems := k.compare(there)
	for id, name := range ids {
		if err := checkSnapshot(kind, filepath.Join(root, "snapshots", id), name, infos); err != nil {
			problems = append(problems, fmt.Errorf("snapshot %q, which is %v: %w", name, infos[name].Kind, err))
		}
	}
	if err := s.(snapshots.Cleaner).Cleanup(ctx); err != nil {
		return errors.Join(append(problems, err)...)
	}
	entries, err := os.ReadDir(filepath.Join(root, "snapshots"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, known := ids[e.Name()]; !known {
			problems = append(problems, fmt.Errorf("after Cleanup there is the directory %q, and no snapshot", e.Name()))
		}
	}
	return errors.Join(append(problems, k.use(ctx, s))...)
}

// use goes on with a root, and removes what a round has left but for some of it.
func (k *known) use(ctx context.Context, s snapshots.Snapshotter) error {
	w := worker{s: s}
	mounts, err := w.s.Prepare(ctx, "after", "")
	if err != nil {
		return err
	}
	if err := writeContent(upperOf(mounts), "after-layer"); err != nil {
		return err
	}
	if err := s.Commit(ctx, "after-layer", "after"); err != nil {
		return err
	}
	if err := s.Remove(ctx, "after-layer"); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(k.certain)) {
		err := s.Remove(ctx, name)
		switch {
		case err == nil:
			delete(k.certain, name)
		case !errdefs.IsFailedPrecondition(err): // others stand on it: they stay until the next round
			return err
		}
		if len(k.certain) < 5 {
			break
		}
	}
	return nil
}

// idsOf reads the store beside the snapshotter, as anybody can.
func idsOf(ctx context.Context, path string) (ids map[string]string, err error) {
	meta, err := storage.NewMetaStore(path)
	if err != nil {
		return nil, err
	}
	err = meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err = storage.IDMap(ctx)
		if errdefs.IsNotFound(err) {
			return nil // there was never a snapshot
		}
		return err
	})
	return ids, errors.Join(err, meta.Close())
}

// checkSnapshot says what a snapshot's directory lacks.
func checkSnapshot(kind, dir, name string, infos map[string]snapshots.Info) error {
	info := infos[name]
	upper := dir
	if kind != "native" {
		upper = filepath.Join(dir, "fs")
		if info.Kind == snapshots.KindActive {
			if _, err := os.Stat(filepath.Join(dir, "work")); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(upper)
	if err != nil {
		return err
	}
	if kind != "native" {
		if err := checkMode(upper, name, info); err != nil {
			return err
		}
	}
	if info.Kind != snapshots.KindCommitted {
		return nil
	}
	layers := 0
	for ; name != ""; name = infos[name].Parent {
		if err := compareContent(upper, name); err != nil {
			return err
		}
		layers++
		if kind != "native" {
			break // what is below has its own directory
		}
	}
	if len(entries) != layers {
		return fmt.Errorf("%s holds %d layers, want %d", upper, len(entries), layers)
	}
	return nil
}

// checkMode says if the directory of a layer has not the mode that it was given, or its parent's.
func checkMode(upper, name string, info snapshots.Info) error {
	is, err := os.Stat(upper)
	if err != nil {
		return err
	}
	want := []fs.FileMode{modeOf(name)}
	if info.Kind != snapshots.KindCommitted { // what was written to it last may be on disk or not
		want = []fs.FileMode{modeOf(info.Parent), modeOf("layer-" + name)}
	}
	if !slices.Contains(want, is.Mode().Perm()) {
		return fmt.Errorf("%s has the mode %o, want one of %o", upper, is.Mode().Perm(), want)
	}
	return nil
}

// child is a workload at work.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	traced bool // cmd is what has started it
	in     io.WriteCloser
	out    chan string // the lines that it says
	late   bool        // the power is cut
	known  *known
	stderr bytes.Buffer
	ended  func() error
}

// start starts a workload, by a program where one is given. It is ended with the test.
func (k *known) start(t *testing.T, w workload, by ...string) *child {
	t.Helper()
	c := &child{t: t, known: k, traced: len(by) > 0, cmd: driver.ChildCommand("work", by, w.arguments()...)}
	c.cmd.Stderr = &c.stderr
	var err error
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	must(t, c.cmd.Start())
	c.out = make(chan string, 1<<16)
	go func() {
		defer close(c.out)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			c.out <- scanner.Text()
		}
	}()
	c.ended = sync.OnceValue(func() error {
		for range c.out { // Wait would close it before all was heard
		}
		return c.cmd.Wait()
	})
	t.Cleanup(func() {
		c.signal()
		_ = c.ended() // says that it was killed
	})
	return c
}

// signal kills the child, after which the program that it was started by ends too. Where
// that has not started it yet, it is killed instead.
func (c *child) signal() {
	pid := c.cmd.Process.Pid
	if c.traced {
		// What can't be read is empty.
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
		_, _ = fmt.Sscan(string(children), &pid)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL) // fails where it has ended
}

// kill ends the child, and listens to what it has said until then.
func (c *child) kill() {
	c.t.Helper()
	c.signal()
	c.hearAll()
	_ = c.ended() // says that it was killed
}

// hear listens until the child has said so many lines, or ended.
func (c *child) hear(lines int) {
	c.t.Helper()
	for ; lines > 0; lines-- {
		line, ok := <-c.out
		if !ok {
			return
		}
		must(c.t, c.known.hear(line, c.late))
		if lines > 1 && line[0] == '!' {
			_, _ = c.in.Write([]byte("\n")) // fails where it has ended
		}
	}
}

// cut cuts the power of the disk that the child works on. What it has said until now is
// heard before.
func (c *child) cut(d *disk) {
	c.t.Helper()
	for len(c.out) > 0 {
		c.hear(1)
	}
	c.late = true
	d.cut()
}

// hearAll listens until the child has ended.
func (c *child) hearAll() {
	c.t.Helper()
	c.hear(1 << 30)
}
