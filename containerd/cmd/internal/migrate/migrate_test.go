//go:build linux

package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/fsmeta/fsmeta/containerd/storage"
	"github.com/fsmeta/fsmeta/fsmeta"
	"github.com/fsmeta/fsmeta/lock"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

var froms = []string{"overlayfs", "native"}

// expected is what containerd is to say after the migration: what it says before, with the
// new name.
func (n node) expected(collected bool) string {
	n.t.Helper()
	before := n.copy()
	c := before.start()
	defer c.stop()
	if collected {
		c.collect()
	}
	return strings.ReplaceAll(c.state(), n.from, "fsmeta")
}

// check compares what containerd says now, before and after it collects garbage, and goes on
// working.
func (n node) check(want, wantCollected string) {
	n.t.Helper()
	c := n.startNew()
	defer c.stop()
	if diff := cmp.Diff(want, c.state()); diff != "" {
		n.t.Errorf("before -, after +:\n%s", diff)
	}
	c.collect()
	if diff := cmp.Diff(wantCollected, c.state()); diff != "" {
		n.t.Errorf("with garbage collected, before -, after +:\n%s", diff)
	}
	ctx := namespaces.WithNamespace(n.t.Context(), "default")
	c.layer(ctx, "fsmeta", "sha256:new", "sha256:b", nil)
	c.active(ctx, "fsmeta", "gone", "sha256:new", nil) // a key that was used before
	for path, want := range map[string]bool{n.paths().oldContent(): false, n.paths().oldMeta(): false, n.paths().retired(): true, n.paths().backup(): true} {
		if exists(path) != want {
			n.t.Errorf("%s: there is %v, want %v", path, !want, want)
		}
	}
	if line, err := os.ReadFile(n.paths().marker()); string(line) != kinds[n.from]+"\n" {
		n.t.Errorf("the marker is %q, %v", line, err)
	}
}

func TestRun(t *testing.T) {
	for _, from := range froms {
		t.Run(from, func(t *testing.T) {
			n := newNode(t, from)
			want, wantCollected := n.expected(false), n.expected(true)
			for name, kept := range map[string]bool{"sha256:a": true, "of image": true, "of container": true, "of sandbox": true, "of other": true, "attached": true,
				"attached too": true, "conditional": true, "look": true, "of flat": true, "of flat's label": false, "of lease's label": true, "of expired": false, "garbage": false} {
				key := fmt.Sprintf("%q", "k8s.io snapshot of it "+name)
				if !strings.Contains(want, key) || strings.Contains(wantCollected, key) != kept {
					t.Fatalf("%s is not what is to be tested in\n%s", key, want)
				}
			}
			original := readMeta(t, n.paths().metaFile())
			var steps []string
			must(t, Run(t.Context(), n.options(), func(step string, done, total int) { steps = append(steps, fmt.Sprint(step, " ", done, " ", total)) }))
			if len(steps) < 50 || !slices.Contains(steps, "finish 0 0") {
				t.Errorf("progress was %q", steps)
			}
			if diff := cmp.Diff(original, readMeta(t, n.paths().backup())); diff != "" {
				t.Errorf("the copy of meta.db differs:\n%s", diff)
			}
			before := tree(t, n.dir)
			var said string
			must(t, Run(t.Context(), n.options(), func(step string, _, _ int) { said = step }))
			if said != "all is taken over already" {
				t.Errorf("a second run said %q", said)
			}
			if diff := cmp.Diff(before, tree(t, n.dir)); diff != "" {
				t.Errorf("a second run changed:\n%s", diff)
			}
			n.check(want, wantCollected)
			must(t, Run(t.Context(), n.options(), nil))
		})
	}
}

// readMeta returns all keys of a bbolt file.
func readMeta(t *testing.T, path string) []string {
	t.Helper()
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true})
	must(t, err)
	defer db.Close()
	var all []string
	var read func(path string, b *bolt.Bucket) error
	read = func(path string, b *bolt.Bucket) error {
		all = append(all, fmt.Sprintf("%s: %d", path, b.Sequence()))
		return b.ForEach(func(k, v []byte) error {
			if child := b.Bucket(k); child != nil {
				return read(path+"/"+string(k), child)
			}
			all = append(all, fmt.Sprintf("%s/%s=%q", path, k, v))
			return nil
		})
	}
	must(t, db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return read(string(name), b) })
	}))
	return all
}

// Nothing in meta.db changes but names, and none is left.
func TestMetaChangesOnlyNames(t *testing.T) {
	for _, from := range froms {
		n := newNode(t, from)
		want := readMeta(t, n.paths().metaFile())
		for i := range want {
			if !strings.HasSuffix(strings.SplitN(want[i], "=", 2)[0], "/spec") { // which has it for a decoy
				want[i] = strings.ReplaceAll(want[i], from, "fsmeta")
			}
		}
		must(t, Run(t.Context(), n.options(), nil))
		got := readMeta(t, n.paths().metaFile())
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	}
}

func TestLabel(t *testing.T) {
	n := names{"overlayfs", "fsmeta"}
	for _, test := range []struct{ key, want string }{
		{"containerd.io/gc.ref.snapshot.overlayfs", "containerd.io/gc.ref.snapshot.fsmeta"},
		{"containerd.io/gc.ref.snapshot.overlayfs/", "containerd.io/gc.ref.snapshot.fsmeta/"},
		{"containerd.io/gc.ref.snapshot.overlayfs/a/overlayfs", "containerd.io/gc.ref.snapshot.fsmeta/a/overlayfs"},
		{"containerd.io/gc.bref.snapshot.overlayfs", "containerd.io/gc.bref.snapshot.fsmeta"},
		{"containerd.io/gc.bref.snapshot.overlayfs/0", "containerd.io/gc.bref.snapshot.fsmeta/0"},
		{"containerd.io/gc.cond.snapshot.overlayfs", "containerd.io/gc.cond.snapshot.fsmeta"},
		{"containerd.io/gc.cond.snapshot/overlayfs/overlayfs", "containerd.io/gc.cond.snapshot/fsmeta/overlayfs"},
		{"containerd.io/gc.cond.snapshot./.overlayfs", "containerd.io/gc.cond.snapshot./.fsmeta"},
		{"containerd.io/gc.ref.snapshot.overlayfs.x", ""}, // another snapshotter, to containerd
		{"containerd.io/gc.ref.snapshot.overlayfs2", ""},
		{"containerd.io/gc.ref.snapshot./overlayfs", ""},
		{"containerd.io/gc.ref.snapshot.native", ""},
		{"containerd.io/gc.ref.snapshot", ""},
		{"containerd.io/gc.ref.content.overlayfs", ""},
		{"containerd.io/gc.cond.snapshot", ""},
		{"overlayfs", ""},
		{"", ""},
	} {
		if got, ok := n.label(test.key); ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%q becomes %q, %v, want %q", test.key, got, ok, test.want)
		}
	}
}

// errStop is where a test ends a run, as if the machine had stopped there.
var errStop = errors.New("stopped")

func stopAfter(t *testing.T, step string) {
	t.Helper()
	after = func(s string) error {
		if s == step {
			return errStop
		}
		return nil
	}
	t.Cleanup(func() { after = func(string) error { return nil } })
}

// stop runs until after a step.
func (n node) stop(t *testing.T, step string) {
	t.Helper()
	stopAfter(t, step)
	if err := Run(t.Context(), n.options(), nil); !errors.Is(err, errStop) {
		t.Fatalf("stopped after %s: %v", step, err)
	}
	after = func(string) error { return nil }
}

var allSteps = []string{"made", "cleared", "marked", "imported", "backed up", "listed", "prepared", "moved", "changed", "retired", "finished"}

func TestStoppedAnywhere(t *testing.T) {
	for _, from := range froms {
		n := newNode(t, from)
		want, wantCollected := n.expected(false), n.expected(true)
		for i, step := range allSteps {
			for _, again := range allSteps[i:] {
				if again != step && from == "native" {
					continue // twice is enough for one of them
				}
				t.Run(fmt.Sprintf("%s %s %s", from, step, again), func(t *testing.T) {
					n := newNode(t, from)
					n.stop(t, step)
					if again != step {
						stopAfter(t, again) // which may be behind it
						if err := Run(t.Context(), n.options(), nil); err != nil && !errors.Is(err, errStop) {
							t.Fatal(err)
						}
						after = func(string) error { return nil }
					}
					must(t, Run(t.Context(), n.options(), nil))
					n.check(want, wantCollected)
				})
			}
		}
	}
}

// Until the content is moved, containerd goes on as if nothing had been, and what it does is
// taken over later.
func TestStoppedAndGivenUp(t *testing.T) {
	for _, from := range froms {
		for _, step := range allSteps[:7] {
			t.Run(from+" "+step, func(t *testing.T) {
				n := newNode(t, from)
				c := n.start()
				before := c.state()
				c.stop()
				n.stop(t, step)
				c = n.start()
				if diff := cmp.Diff(before, c.state()); diff != "" {
					t.Errorf("before -, after +:\n%s", diff)
				}
				c.collect()
				ctx := namespaces.WithNamespace(t.Context(), "default")
				c.layer(ctx, from, "since", "sha256:b", map[string]string{"containerd.io/gc.root": "x"})
				c.stop()
				want, wantCollected := n.expected(false), n.expected(true)
				must(t, Run(t.Context(), n.options(), nil))
				n.check(want, wantCollected)
			})
		}
	}
}

// A containerd that is started after a crash between the move and the change of meta.db finds
// no content. What it makes is not lost.
func TestContainerdAfterMove(t *testing.T) {
	for _, from := range froms {
		t.Run(from, func(t *testing.T) {
			n := newNode(t, from)
			want, wantCollected := n.expected(false), n.expected(true)
			unused := n.copy()
			n.stop(t, "moved")
			unused.stop(t, "moved")
			unused.start().stop()                                    // it makes an empty directory
			must(t, os.MkdirAll(unused.paths().oldContent(), 0o700)) // with overlayfs, too
			must(t, Run(t.Context(), unused.options(), nil))
			must(t, os.Remove(unused.paths().oldContent()))
			unused.check(want, wantCollected)

			c := n.start()
			ctx := namespaces.WithNamespace(t.Context(), "default")
			c.layer(ctx, from, "since", "", map[string]string{"containerd.io/gc.root": "x"})
			c.stop()
			before := tree(t, n.dir)
			err := Run(t.Context(), n.options(), nil)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "since") || !strings.Contains(err.Error(), "mv "+n.paths().content()) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(before, tree(t, n.dir)); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
			// As the error says.
			entries, err := os.ReadDir(n.paths().content())
			must(t, err)
			for _, e := range entries {
				must(t, os.Rename(filepath.Join(n.paths().content(), e.Name()), filepath.Join(n.paths().oldContent(), e.Name())))
			}
			must(t, os.Remove(n.paths().content()))
			must(t, os.RemoveAll(n.paths().store()))
			must(t, os.Remove(n.paths().marker()))
			want, wantCollected = n.expected(false), n.expected(true)
			must(t, Run(t.Context(), n.options(), nil))
			n.check(want, wantCollected)
		})
	}
}

// A containerd that is started after a crash behind the change uses the built-in snapshotter
// anew. That stays.
func TestContainerdAfterChange(t *testing.T) {
	for _, from := range froms {
		t.Run(from, func(t *testing.T) {
			n := newNode(t, from)
			n.stop(t, "changed")
			ctx := namespaces.WithNamespace(t.Context(), "default")
			c := n.start()
			c.layer(ctx, from, "since", "", map[string]string{"containerd.io/gc.root": "x"})
			c.collect()
			c.stop()
			must(t, Run(t.Context(), n.options(), nil))
			c = n.start()
			if _, err := c.db.Snapshotter(from).Stat(ctx, "since"); err != nil {
				t.Error(err)
			}
			c.stop()
			c = n.startNew()
			if _, err := c.db.Snapshotter("fsmeta").Mounts(ctx, "web"); err != nil {
				t.Error(err)
			}
			c.stop()
			must(t, Run(t.Context(), n.options(), nil))
		})
	}
}

// The new snapshotter must not begin in a root directory that is not finished.
func TestUnfinishedIsMarked(t *testing.T) {
	n := newNode(t, "overlayfs")
	for _, step := range allSteps[2:10] {
		n := n.copy()
		n.stop(t, step)
		if line, err := os.ReadFile(n.paths().marker()); !strings.HasPrefix(string(line), "unfinished migration of overlayfs") {
			t.Errorf("after %s the marker is %q, %v", step, line, err)
		}
	}
}

// The way back, in the commands that are given for it.
func TestWayBack(t *testing.T) {
	for _, from := range froms {
		for _, used := range []bool{false, true} {
			n := newNode(t, from)
			c := n.start()
			want := c.state()
			c.stop()
			must(t, Run(t.Context(), n.options(), nil))
			ctx := namespaces.WithNamespace(t.Context(), "default")
			if used { // containerd was started since
				c := n.startNew()
				c.layer(ctx, "fsmeta", "since", "sha256:b", nil)
				c.active(ctx, "fsmeta", "on since", "since", nil)
				c.stop()
				c = n.start()
				c.collect()
				must(t, c.db.Snapshotter(from).Walk(namespaces.WithNamespace(t.Context(), "default"), func(context.Context, snapshots.Info) error { return nil }))
				c.stop()
			}
			for range 2 { // the second time there is nothing to do
				if out, err := exec.Command("sh", "-c", WayBack(n.options())).CombinedOutput(); err != nil || len(out) > 0 {
					t.Fatalf("%s, %v", out, err)
				}
			}
			again := n.copy()
			c = n.start()
			if diff := cmp.Diff(want, c.state()); diff != "" {
				t.Errorf("before -, after +:\n%s", diff)
			}
			c.layer(ctx, from, "since", "sha256:b", nil)
			c.active(ctx, from, "on since", "since", nil)
			c.stop()
			// And once more.
			want, wantCollected := again.expected(false), again.expected(true)
			must(t, Run(t.Context(), again.options(), nil))
			again.check(want, wantCollected)
		}
	}
}

// refuse runs and wants an error that changes nothing.
func (n node) refuse(t *testing.T, o Options, is func(error) bool, texts ...string) {
	t.Helper()
	before := tree(t, n.dir)
	err := Run(t.Context(), o, nil)
	if err == nil || !is(err) {
		t.Errorf("got %v", err)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q doesn't say %q", err, text)
		}
	}
	if diff := cmp.Diff(before, tree(t, n.dir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
}

func TestBadOptions(t *testing.T) {
	n := newNode(t, "overlayfs")
	for _, test := range []struct {
		name   string
		change func(*Options)
		is     func(error) bool
	}{
		{"relative containerd root", func(o *Options) { o.ContainerdRoot = "containerd" }, errdefs.IsInvalidArgument},
		{"no containerd root", func(o *Options) { o.ContainerdRoot = "" }, errdefs.IsInvalidArgument},
		{"relative root", func(o *Options) { o.Root = "x/y" }, errdefs.IsInvalidArgument},
		{"no root", func(o *Options) { o.Root = "" }, errdefs.IsInvalidArgument},
		{"no name", func(o *Options) { o.Name = "" }, errdefs.IsInvalidArgument},
		{"the old name", func(o *Options) { o.Name = "overlayfs" }, errdefs.IsInvalidArgument},
		{"another's name", func(o *Options) { o.Name = "native" }, errdefs.IsInvalidArgument},
		{"a name with a slash", func(o *Options) { o.Name = "a/b" }, errdefs.IsInvalidArgument},
		{"an unknown snapshotter", func(o *Options) { o.From = "btrfs" }, errdefs.IsInvalidArgument},
		{"no snapshotter", func(o *Options) { o.From = "" }, errdefs.IsInvalidArgument},
		{"one that has nothing", func(o *Options) { o.From = "native" }, errdefs.IsNotFound},
		{"another directory", func(o *Options) { o.ContainerdRoot = t.TempDir() }, errdefs.IsNotFound},
		{"a directory that is missing", func(o *Options) { o.ContainerdRoot += "x" }, errdefs.IsNotFound},
		{"a root in the old one", func(o *Options) { o.Root = n.paths().oldContent() + "/x" }, errdefs.IsInvalidArgument},
		{"a root around the old one", func(o *Options) { o.Root = o.ContainerdRoot }, errdefs.IsInvalidArgument},
		{"a root that is a file", func(o *Options) { o.Root = n.paths().oldMeta() + ".x" }, func(err error) bool { return err != nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := n.options()
			test.change(&o)
			n.refuse(t, o, test.is)
		})
	}
}

func TestRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		do    func(t *testing.T, n node)
		is    func(error) bool
		texts []string
	}{
		{"containerd runs", func(t *testing.T, n node) {
			c := n.start()
			t.Cleanup(c.stop)
		}, errdefs.IsUnavailable, []string{"meta.db is in use", "stopped"}},
		{"the old metadata is in use", func(t *testing.T, n node) {
			db, err := bolt.Open(n.paths().oldMeta(), 0, nil)
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
		}, errdefs.IsUnavailable, []string{"metadata.db is in use"}},
		{"the new snapshotter runs", func(t *testing.T, n node) {
			must(t, os.MkdirAll(n.options().Root, 0o700))
			unlock, ok, err := lock.New(n.options().Root).TryLock()
			if !ok {
				t.Fatal(err)
			}
			t.Cleanup(func() { must(t, unlock()) })
		}, errdefs.IsUnavailable, []string{"the new snapshotter runs"}},
		{"a root of another kind", func(t *testing.T, n node) {
			must(t, os.MkdirAll(n.options().Root, 0o700))
			must(t, os.WriteFile(n.paths().marker(), []byte("native\n"), 0o600))
		}, isUsed, []string{`"native"`}},
		{"a root in use", func(t *testing.T, n node) {
			n.serve(t, func(ctx context.Context) error {
				_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "x", "")
				return err
			})
		}, isUsed, []string{"in use by a snapshotter"}},
		{"a root that was in use", func(t *testing.T, n node) {
			n.serve(t, func(ctx context.Context) error {
				_, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "x", "")
				return err
			})
			n.serve(t, func(ctx context.Context) error {
				_, _, err := storage.Remove(ctx, "x")
				return err
			})
		}, isUsed, []string{"in use by a snapshotter"}},
		{"a root with content", func(t *testing.T, n node) {
			n.serve(t, func(ctx context.Context) error { return nil })
			must(t, os.Mkdir(filepath.Join(n.paths().content(), "1"), 0o700))
		}, isUsed, []string{"in use by a snapshotter"}},
		{"a root without its store", func(t *testing.T, n node) {
			n.serve(t, func(ctx context.Context) error { return nil })
			must(t, os.RemoveAll(n.paths().store()))
		}, func(err error) bool { return errors.Is(err, fs.ErrNotExist) }, []string{"meta"}},
		{"a root with something else", func(t *testing.T, n node) {
			must(t, os.MkdirAll(filepath.Join(n.options().Root, "else"), 0o700))
		}, isUsed, []string{`"else"`}},
		{"a root with a store", func(t *testing.T, n node) {
			must(t, os.MkdirAll(n.options().Root, 0o700))
			s, err := fsmeta.Open(n.paths().store())
			must(t, err)
			must(t, s.Close())
		}, isUsed, []string{`"meta"`}},
		{"a root that is a file", func(t *testing.T, n node) {
			must(t, os.MkdirAll(filepath.Dir(n.options().Root), 0o700))
			must(t, os.WriteFile(n.options().Root, nil, 0o600))
		}, func(error) bool { return true }, []string{"not a directory"}},
		{"a name with snapshots", func(t *testing.T, n node) {
			edit(t, n, func(tx *bolt.Tx) error {
				b, err := tx.Bucket([]byte("v1")).Bucket([]byte("k8s.io")).Bucket([]byte("snapshots")).CreateBucket([]byte("fsmeta"))
				must(t, err)
				_, err = b.CreateBucket([]byte("x"))
				return err
			})
		}, isUsed, []string{`"fsmeta" has 1 snapshots`}},
		{"a name that is no bucket", func(t *testing.T, n node) {
			edit(t, n, func(tx *bolt.Tx) error {
				return tx.Bucket([]byte("v1")).Bucket([]byte("k8s.io")).Bucket([]byte("snapshots")).Put([]byte("fsmeta"), []byte("x"))
			})
		}, nil, []string{`namespace "k8s.io"`}},
		{"content that is missing", func(t *testing.T, n node) {
			must(t, os.RemoveAll(filepath.Join(n.paths().oldContent(), "2")))
			must(t, os.RemoveAll(filepath.Join(n.paths().oldContent(), "3")))
		}, errdefs.IsDataLoss, []string{"2 snapshots", "of lease's label", "snapshots/3"}},
		{"content that is a file", func(t *testing.T, n node) {
			must(t, os.RemoveAll(filepath.Join(n.paths().oldContent(), "2")))
			must(t, os.WriteFile(filepath.Join(n.paths().oldContent(), "2"), nil, 0o600))
		}, errdefs.IsDataLoss, []string{"1 snapshots"}},
		{"no content", func(t *testing.T, n node) { must(t, os.RemoveAll(n.paths().oldContent())) }, errdefs.IsNotFound, []string{"snapshots"}},
		{"content behind a symlink", func(t *testing.T, n node) {
			must(t, os.Rename(n.paths().oldContent(), n.paths().oldContent()+"2"))
			must(t, os.Symlink("snapshots2", n.paths().oldContent()))
		}, errdefs.IsFailedPrecondition, []string{"not a directory"}},
		{"old metadata put away, and there", func(t *testing.T, n node) { must(t, os.WriteFile(n.paths().retired(), nil, 0o600)) },
			errdefs.IsFailedPrecondition, []string{"metadata.db.imported"}},
		{"no meta.db", func(t *testing.T, n node) { must(t, os.Remove(n.paths().metaFile())) }, errdefs.IsNotFound, []string{"meta.db"}},
		{"an empty meta.db", func(t *testing.T, n node) { must(t, os.Truncate(n.paths().metaFile(), 0)) }, errdefs.IsInvalidArgument, []string{"meta.db"}},
		{"a meta.db cut short", func(t *testing.T, n node) { must(t, os.Truncate(n.paths().metaFile(), 9000)) }, errdefs.IsDataLoss, []string{"meta.db"}},
		{"another file for meta.db", func(t *testing.T, n node) {
			must(t, os.WriteFile(n.paths().metaFile(), []byte(strings.Repeat("x", 10000)), 0o600))
		}, errdefs.IsInvalidArgument, []string{"meta.db"}},
		{"a meta.db that is not containerd's", func(t *testing.T, n node) {
			edit(t, n, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("v1")) })
		}, errdefs.IsInvalidArgument, []string{`"v1"`}},
		{"no old metadata", func(t *testing.T, n node) { must(t, os.Remove(n.paths().oldMeta())) }, errdefs.IsNotFound, []string{"metadata.db", "root_path"}},
		{"old metadata cut short", func(t *testing.T, n node) { must(t, os.Truncate(n.paths().oldMeta(), 9000)) }, errdefs.IsDataLoss, []string{"metadata.db"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t, "overlayfs")
			test.do(t, n)
			if test.is == nil { // nothing of containerd's is changed, but the root is begun
				before := tree(t, n.options().ContainerdRoot)
				err := Run(t.Context(), n.options(), nil)
				if err == nil || !strings.Contains(err.Error(), test.texts[0]) {
					t.Errorf("got %v", err)
				}
				must(t, os.Remove(n.paths().backup()))
				must(t, os.Remove(n.paths().list()))
				if diff := cmp.Diff(before, tree(t, n.options().ContainerdRoot)); diff != "" {
					t.Errorf("changed:\n%s", diff)
				}
				return
			}
			n.refuse(t, n.options(), test.is, test.texts...)
		})
	}
}

// serve makes a root directory as a snapshotter does, and changes what is in its store.
func (n node) serve(t *testing.T, fn func(ctx context.Context) error) {
	t.Helper()
	must(t, os.MkdirAll(n.paths().content(), 0o700))
	ms, err := storage.NewMetaStore(n.paths().store())
	must(t, err)
	must(t, ms.WithTransaction(t.Context(), true, fn))
	must(t, ms.Close())
	must(t, os.WriteFile(n.paths().marker(), []byte(n.paths().finished()), 0o600))
}

// A root directory in which a snapshotter has run, and nothing was made, is as good as an empty one.
func TestUnusedRoot(t *testing.T) {
	n := newNode(t, "native")
	want, wantCollected := n.expected(false), n.expected(true)
	n.serve(t, func(ctx context.Context) error { return nil })
	for _, step := range []string{"cleared", "marked", "imported", "moved", "finished"} {
		t.Run(step, func(t *testing.T) {
			n := n.copy()
			n.stop(t, step)
			must(t, Run(t.Context(), n.options(), nil))
			n.check(want, wantCollected)
		})
	}
}

func isUsed(err error) bool {
	return errors.Is(err, fsmeta.ErrUsed) && errdefs.IsFailedPrecondition(err)
}

func edit(t *testing.T, n node, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(n.paths().metaFile(), 0, &bolt.Options{NoFreelistSync: true})
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
}

// A run with other options doesn't go on with what one has begun.
func TestOtherOptions(t *testing.T) {
	n := newNode(t, "native")
	for _, step := range []string{"marked", "changed"} {
		n := n.copy()
		n.stop(t, step)
		o := n.options()
		o.Name = "other"
		n.refuse(t, o, errdefs.IsFailedPrecondition, "other options", "to fsmeta")
	}
	// Nor can what is taken over be taken over again.
	must(t, Run(t.Context(), n.options(), nil))
	o := n.options()
	o.Root += "2"
	n.refuse(t, o, errdefs.IsNotFound, "no snapshots to take over")
}

// Directories without metadata, and those that crashes of containerd leave, come along.
func TestGarbageIsMoved(t *testing.T) {
	n := newNode(t, "overlayfs")
	for _, name := range []string{"999", "new-123", "rm-7"} {
		must(t, os.MkdirAll(filepath.Join(n.paths().oldContent(), name, "fs"), 0o700))
	}
	must(t, os.MkdirAll(n.options().Root, 0o700)) // empty
	left := []string{filepath.Join(n.options().Root, ".snapshotter123"), n.paths().metaFile() + ".before-fsmeta1", n.paths().oldContent() + ".moved12"}
	for i, path := range left { // as crashes leave them
		left[i] = filepath.Join(filepath.Dir(path), "."+strings.TrimPrefix(filepath.Base(path), "."))
		must(t, os.WriteFile(left[i], nil, 0o600))
	}
	must(t, Run(t.Context(), n.options(), nil))
	for _, path := range left {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
	for _, name := range []string{"999", "new-123", "rm-7"} {
		if !isDir(filepath.Join(n.paths().content(), name, "fs")) {
			t.Errorf("%s is gone", name)
		}
	}
}

// A bucket of the new name that has no snapshots, with labels and leases that refer to none,
// is no hindrance.
func TestNameUsedBefore(t *testing.T) {
	n := newNode(t, "overlayfs")
	edit(t, n, func(tx *bolt.Tx) error {
		ns := tx.Bucket([]byte("v1")).Bucket([]byte("default"))
		b, err := ns.Bucket([]byte("snapshots")).CreateBucket([]byte("fsmeta"))
		must(t, err)
		must(t, b.SetSequence(1000))
		b, err = ns.Bucket([]byte("leases")).Bucket([]byte("lease")).Bucket([]byte("snapshots")).CreateBucket([]byte("fsmeta"))
		must(t, err)
		must(t, b.Put([]byte("of lease"), nil))
		return ns.Bucket([]byte("containers")).Bucket([]byte("web")).Bucket([]byte("labels")).Put([]byte("containerd.io/gc.ref.snapshot.fsmeta"), []byte("nothing"))
	})
	must(t, Run(t.Context(), n.options(), nil))
	all := strings.Join(readMeta(t, n.paths().metaFile()), "\n")
	for _, want := range []string{"v1/default/snapshots/fsmeta: 1000", "v1/default/leases/lease/snapshots/fsmeta/look=",
		`v1/default/containers/web/labels/containerd.io/gc.ref.snapshot.fsmeta="of container"`} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
}

// Labels that make a lot of pages, in one transaction.
func TestMany(t *testing.T) {
	n := newNode(t, "overlayfs")
	edit(t, n, func(tx *bolt.Tx) error {
		images := tx.Bucket([]byte("v1")).Bucket([]byte("default")).Bucket([]byte("images"))
		snapshots := tx.Bucket([]byte("v1")).Bucket([]byte("default")).Bucket([]byte("snapshots")).Bucket([]byte("overlayfs"))
		for i := range 5000 {
			image, err := images.CreateBucket(fmt.Appendf(nil, "image %d", i))
			must(t, err)
			labels, err := image.CreateBucket([]byte("labels"))
			must(t, err)
			must(t, labels.Put([]byte("containerd.io/gc.ref.snapshot.overlayfs"), fmt.Append(nil, i)))
			s, err := snapshots.CreateBucket(fmt.Appendf(nil, "snapshot %d", i))
			must(t, err)
			must(t, s.Put([]byte("name"), fmt.Append(nil, i)))
			children, err := s.CreateBucket([]byte("children"))
			must(t, err)
			must(t, children.Put([]byte("x"), nil))
		}
		return nil
	})
	want := readMeta(t, n.paths().metaFile())
	for i := range want {
		if !strings.Contains(want[i], "/spec=") {
			want[i] = strings.ReplaceAll(want[i], "overlayfs", "fsmeta")
		}
	}
	must(t, Run(t.Context(), n.options(), nil))
	got := readMeta(t, n.paths().metaFile())
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestEndsWithContext(t *testing.T) {
	n := newNode(t, "overlayfs")
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, n.options(), func(step string, done, _ int) {
		if done == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || exists(n.paths().content()) {
		t.Fatalf("got %v", err)
	}
	want, wantCollected := n.expected(false), n.expected(true)
	must(t, Run(t.Context(), n.options(), nil))
	n.check(want, wantCollected)
}

// While it runs, neither a containerd nor a snapshotter gets in.
func TestHoldsLocks(t *testing.T) {
	n := newNode(t, "overlayfs")
	seen := 0
	after = func(step string) error {
		seen++
		for _, path := range []string{n.paths().metaFile(), n.paths().oldMeta()} {
			if db, err := bolt.Open(path, 0, &bolt.Options{Timeout: 1}); err == nil && exists(path) && (step != "retired" && step != "finished" || path == n.paths().metaFile()) {
				db.Close()
				t.Errorf("after %s, %s can be opened", step, path)
			} else if err == nil {
				db.Close()
				must(t, os.Remove(path))
			}
		}
		if unlock, ok, err := lock.New(n.options().Root).TryLock(); ok || err != nil {
			t.Errorf("after %s, the root can be locked: %v, %v", step, err, unlock())
		}
		return nil
	}
	defer func() { after = func(string) error { return nil } }()
	must(t, Run(t.Context(), n.options(), nil))
	if seen != len(allSteps) {
		t.Errorf("%d steps", seen)
	}
}

// A damaged meta.db never takes the process with it, wherever a byte is wrong.
func TestDamagedMeta(t *testing.T) {
	n := newNode(t, "overlayfs")
	data, err := os.ReadFile(n.paths().metaFile())
	must(t, err)
	path := filepath.Join(t.TempDir(), "meta.db")
	failed := 0
	for at := 0; at < len(data); at += 97 {
		damaged := slices.Clone(data)
		damaged[at] ^= 0xff
		must(t, os.WriteFile(path, damaged, 0o600))
		db, err := openMeta(path)
		if err != nil {
			failed++
			continue
		}
		tx, err := db.Begin(true)
		must(t, err)
		err = guard(path, func() error { return names{"overlayfs", "fsmeta"}.change(tx) })
		if err != nil {
			failed++
		}
		must(t, tx.Rollback())
		must(t, db.Close())
	}
	if failed == 0 {
		t.Error("nothing was noticed")
	}
}

// The same of a damaged metadata.db.
func TestDamagedOld(t *testing.T) {
	n := newNode(t, "overlayfs")
	data, err := os.ReadFile(n.paths().oldMeta())
	must(t, err)
	path := filepath.Join(t.TempDir(), "metadata.db")
	for at := 0; at < len(data); at += 37 {
		damaged := slices.Clone(data)
		damaged[at] ^= 0xff
		must(t, os.WriteFile(path, damaged, 0o600))
		db, err := openRead(path)
		if err != nil {
			continue
		}
		_, _ = readSnapshots(db)
		must(t, guard(path, func() error { // as the import opens it
			more, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
			return errors.Join(err, more.Close())
		}))
		must(t, db.Close())
	}
}

// What was imported is what the old metadata says.
func TestImported(t *testing.T) {
	n := newNode(t, "overlayfs")
	want, err := openRead(n.paths().oldMeta())
	must(t, err)
	list, err := readSnapshots(want)
	must(t, err)
	must(t, want.Close())
	must(t, Run(t.Context(), n.options(), nil))
	ms, err := storage.NewMetaStore(n.paths().store())
	must(t, err)
	defer ms.Close()
	must(t, ms.WithTransaction(t.Context(), false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if len(ids) != len(list) || len(list) < 40 {
			t.Errorf("%d of %d", len(ids), len(list))
		}
		return err
	}))
}

// What is left without the other, content or metadata, may be all that there is of a snapshot.
func TestHalfMadeAfterMove(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, n node){
		"content": func(t *testing.T, n node) { must(t, os.MkdirAll(filepath.Join(n.paths().oldContent(), "999"), 0o700)) },
		"metadata": func(t *testing.T, n node) {
			c := n.start()
			_, err := c.db.Snapshotter("native").View(namespaces.WithNamespace(t.Context(), "default"), "since", "sha256:b")
			must(t, err)
			c.stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "native")
			n.stop(t, "moved")
			do(t, n)
			n.refuse(t, n.options(), errdefs.IsFailedPrecondition, "containerd has run since")
		})
	}
}

// Pages that refer to themselves would be read forever.
func TestPagesInCircle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, PageSize: 4096})
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("v1"))
		must(t, err)
		for i := range 1000 {
			must(t, b.Put(fmt.Appendf(nil, "%04d", i), make([]byte, 100)))
		}
		return nil
	}))
	must(t, db.Close())
	db, err = openMeta(path)
	must(t, err)
	must(t, db.Close())
	data, err := os.ReadFile(path)
	must(t, err)
	circles := 0
	for at := 2 * 4096; at+4096 <= len(data); at += 4096 {
		if binary.NativeEndian.Uint16(data[at+8:]) == branchPage {
			circles++
			binary.NativeEndian.PutUint64(data[at+pageHeader+8:], uint64(at/4096))
		}
	}
	must(t, os.WriteFile(path, data, 0o600))
	if _, err := openMeta(path); circles == 0 || !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "used twice") {
		t.Errorf("%d circles: %v", circles, err)
	}
}
