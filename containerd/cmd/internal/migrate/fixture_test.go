//go:build linux

package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/log"
	"github.com/fsmeta/fsmeta/containerd/internal/peers"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is containerd's root directory, and where a new snapshotter is to be.
type node struct {
	t    testing.TB
	from string
	dir  string
}

func (n node) options() Options {
	return Options{ContainerdRoot: filepath.Join(n.dir, "containerd"), From: n.from, Root: filepath.Join(n.dir, "lib", "fsmeta"), Name: "fsmeta"}
}

// paths returns where things are.
func (n node) paths() *migration { return &migration{Options: n.options()} }

// built are nodes that were made once, by the snapshotter they have.
var built = map[string]func() (string, error){}

func init() {
	for _, from := range []string{"overlayfs", "native"} {
		built[from] = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "migrate-test-") })
	}
}

func TestMain(m *testing.M) {
	if err := log.SetLevel("error"); err != nil {
		panic(err)
	}
	code := m.Run()
	for _, dir := range built {
		if dir, err := dir(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// newNode returns a node with a containerd that was used with a snapshotter and has stopped.
func newNode(t testing.TB, from string) node {
	t.Helper()
	dir, err := built[from]()
	must(t, err)
	model := node{t, from, dir}
	if !exists(model.options().ContainerdRoot) {
		model.fill()
	}
	return node{t, from, dir}.copy()
}

// copy returns a copy of all there is.
func (n node) copy() node {
	n.t.Helper()
	to := filepath.Join(n.t.TempDir(), "node")
	must(n.t, os.CopyFS(to, os.DirFS(n.dir)))
	return node{n.t, n.from, to}
}

// containerd is one that runs, without its daemon.
type containerd struct {
	t        testing.TB
	db       *metadata.DB
	name     string
	backends []snapshots.Snapshotter
}

// start starts containerd with its built-in snapshotter, or, for overlayfs, one that leaves the
// same on disk.
func (n node) start() *containerd {
	n.t.Helper()
	var sn snapshots.Snapshotter
	var err error
	if n.from == "native" {
		sn, err = native.NewSnapshotter(n.paths().oldDir())
	} else {
		sn, err = newSnapshotter(n.t, peers.Bolt, n.paths().oldMeta(), n.paths().oldContent(), "fs"), os.MkdirAll(n.paths().oldContent(), 0o700)
	}
	must(n.t, err)
	return n.startWith(n.from, sn)
}

// startNew starts containerd with the new snapshotter.
func (n node) startNew() *containerd {
	n.t.Helper()
	sub := map[string]string{"overlayfs": "fs"}[n.from]
	return n.startWith("fsmeta", newSnapshotter(n.t, peers.FS, n.paths().store(), n.paths().content(), sub))
}

func (n node) startWith(name string, sn snapshots.Snapshotter) *containerd {
	n.t.Helper()
	root := n.options().ContainerdRoot
	cs, err := local.NewStore(filepath.Join(root, "io.containerd.content.v1.content"))
	must(n.t, err)
	other, err := native.NewSnapshotter(filepath.Join(root, "other"))
	must(n.t, err)
	must(n.t, os.MkdirAll(filepath.Dir(n.paths().metaFile()), 0o711))
	options := *bolt.DefaultOptions
	options.NoFreelistSync, options.NoStatistics, options.Timeout = true, true, time.Second
	db, err := bolt.Open(n.paths().metaFile(), 0o644, &options)
	must(n.t, err)
	mdb := metadata.NewDB(db, cs, map[string]snapshots.Snapshotter{name: sn, "other": other})
	must(n.t, mdb.Init(n.t.Context()))
	return &containerd{n.t, mdb, name, []snapshots.Snapshotter{sn, other}}
}

func (c *containerd) stop() {
	c.t.Helper()
	must(c.t, c.db.Close())
	for _, sn := range c.backends {
		must(c.t, sn.Close())
	}
}

func (c *containerd) collect() {
	c.t.Helper()
	_, err := c.db.GarbageCollect(c.t.Context())
	must(c.t, err)
}

// layer makes a committed snapshot with a file in it.
func (c *containerd) layer(ctx context.Context, snapshotter, name, parent string, labels map[string]string) {
	c.t.Helper()
	c.active(ctx, snapshotter, "extract "+name, parent, labels)
	must(c.t, c.db.Snapshotter(snapshotter).Commit(ctx, name, "extract "+name, snapshots.WithLabels(labels)))
}

func (c *containerd) active(ctx context.Context, snapshotter, key, parent string, labels map[string]string) {
	c.t.Helper()
	mounts, err := c.db.Snapshotter(snapshotter).Prepare(ctx, key, parent, snapshots.WithLabels(labels))
	must(c.t, err)
	must(c.t, os.WriteFile(filepath.Join(upper(mounts), strings.ReplaceAll(key, "/", "_")), nil, 0o600))
}

// upper returns the directory of what is mounted that is written to.
func upper(mounts []mount.Mount) string {
	for _, option := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			return dir
		}
	}
	return mounts[0].Source
}

func (c *containerd) blob(ctx context.Context, text string, labels map[string]string) ocispec.Descriptor {
	c.t.Helper()
	desc := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromString(text), Size: int64(len(text))}
	must(c.t, content.WriteBlob(ctx, c.db.ContentStore(), text, bytes.NewReader([]byte(text)), desc, content.WithLabels(labels)))
	return desc
}

// fill uses containerd with everything that can name a snapshotter, in two namespaces, and
// with what is garbage.
func (n node) fill() {
	c := n.start()
	from := n.from
	ref, bref, cond := "containerd.io/gc.ref.snapshot."+from, "containerd.io/gc.bref.snapshot."+from, "containerd.io/gc.cond.snapshot."+from
	for _, ns := range []string{"default", "k8s.io"} {
		ctx := namespaces.WithNamespace(c.t.Context(), ns)
		must(c.t, c.db.Update(func(tx *bolt.Tx) error {
			return metadata.NewNamespaceStore(tx).Create(ctx, ns, map[string]string{"containerd.io/defaults/snapshotter": from, "other": "x"})
		}))
		must2 := func(_ any, err error) { c.t.Helper(); must(c.t, err) }
		lm := metadata.NewLeaseManager(c.db)
		must2(lm.Create(ctx, leases.WithID("lease"), leases.WithLabels(map[string]string{ref: "sha256:nothing"})))
		must2(lm.Create(ctx, leases.WithID("flat"), leases.WithLabel("containerd.io/gc.flat", "true")))
		must2(lm.Create(ctx, leases.WithID("expired"), leases.WithLabel("containerd.io/gc.expire", "2020-01-01T00:00:00Z")))
		for _, l := range []string{"lease", "flat", "expired"} {
			leased := leases.WithLease(ctx, l)
			c.layer(leased, from, "of "+l, "", map[string]string{ref + "/x": "of " + l + "'s label"})
			c.layer(ctx, from, "of "+l+"'s label", "", nil)
			c.active(leased, from, "active of "+l, "of "+l, nil)
		}
		c.layer(ctx, from, "sha256:a", "", map[string]string{"containerd.io/snapshot.ref": "sha256:a", "containerd.io/snapshot/kept": "yes"})
		c.layer(ctx, from, "sha256:b", "sha256:a", map[string]string{"only": "in meta.db"})
		c.layer(ctx, from, "of image", "", nil)
		c.layer(ctx, from, "of sandbox", "", nil)
		c.layer(ctx, from, "of other", "", nil)
		c.layer(ctx, from, "of container", "", nil)
		c.layer(ctx, from, "garbage", "sha256:b", nil)
		c.layer(ctx, from, "attached", "", map[string]string{bref: "web"})
		c.layer(ctx, from, "attached too", "", map[string]string{bref + "/more": "web"})
		c.layer(ctx, from, "conditional", "", map[string]string{"containerd.io/gc.cond.value-usedat": "2999-01-01T00:00:00Z"})
		c.layer(ctx, from, "root", "", map[string]string{"containerd.io/gc.root": "yes"})
		c.layer(ctx, "other", "root", "", map[string]string{"containerd.io/gc.root": "yes", ref: "of other"})
		c.active(ctx, from, "web", "sha256:b", nil)
		c.active(ctx, from, "gone", "", nil)
		must(c.t, c.db.Snapshotter(from).Remove(ctx, "gone"))
		must2(c.db.Snapshotter(from).View(leases.WithLease(ctx, "lease"), "look", "sha256:b"))
		must2(c.db.Snapshotter(from).View(leases.WithLease(ctx, "lease"), "look at nothing", ""))

		config := c.blob(ctx, "config "+ns, map[string]string{ref: "sha256:b"})
		manifest := c.blob(ctx, "manifest "+ns, map[string]string{"containerd.io/gc.ref.content.0": config.Digest.String()})
		c.blob(ctx, "garbage "+ns, map[string]string{ref: "garbage"})
		must2(metadata.NewImageStore(c.db).Create(ctx, images.Image{Name: "busybox", Target: manifest,
			Labels: map[string]string{ref + "/a/b": "of image", cond: "usedat<24h|conditional", "x": "y"}}))
		spec := anything{"a spec that has the word " + from}
		must2(metadata.NewContainerStore(c.db).Create(ctx, containers.Container{ID: "web", Image: "busybox", Snapshotter: from, SnapshotKey: "web",
			Spec: spec, Runtime: containers.RuntimeInfo{Name: "runc"}, Labels: map[string]string{ref: "of container"}}))
		must2(metadata.NewContainerStore(c.db).Create(ctx, containers.Container{ID: "elsewhere", Snapshotter: "other", SnapshotKey: "x",
			Spec: spec, Runtime: containers.RuntimeInfo{Name: "runc"}}))
		must2(metadata.NewSandboxStore(c.db).Create(ctx, sandbox.Sandbox{ID: "pod", Sandboxer: "podsandbox", Runtime: sandbox.RuntimeOpts{Name: "runc"},
			Labels: map[string]string{ref: "of sandbox"}}))
		w, err := c.db.ContentStore().Writer(ctx, content.WithRef("unfinished "+ns))
		must(c.t, err)
		must(c.t, w.Close())
	}
	c.stop()
}

// anything is a value that containerd keeps as it is.
type anything struct{ text string }

func (a anything) GetTypeUrl() string { return "test" }
func (a anything) GetValue() []byte   { return []byte(a.text) }

// state is all that containerd says, as JSON of maps.
func (c *containerd) state() string {
	c.t.Helper()
	state := map[string]any{}
	for _, ns := range []string{"default", "k8s.io"} {
		ctx := namespaces.WithNamespace(c.t.Context(), ns)
		say := func(what, key string, value any, err error) {
			c.t.Helper()
			must(c.t, err)
			state[ns+" "+what+" "+key] = value
		}
		must(c.t, c.db.View(func(tx *bolt.Tx) error {
			labels, err := metadata.NewNamespaceStore(tx).Labels(ctx, ns)
			say("labels", "", labels, err)
			return nil
		}))
		imgs, err := metadata.NewImageStore(c.db).List(ctx)
		say("images", "", imgs, err)
		ctrs, err := metadata.NewContainerStore(c.db).List(ctx)
		say("containers", "", ctrs, err)
		pods, err := metadata.NewSandboxStore(c.db).List(ctx)
		say("sandboxes", "", pods, err)
		ll, err := metadata.NewLeaseManager(c.db).List(ctx)
		say("leases", "", ll, err)
		for _, l := range ll {
			resources, err := metadata.NewLeaseManager(c.db).ListResources(ctx, l)
			say("resources of", l.ID, resources, err)
		}
		must(c.t, c.db.ContentStore().Walk(ctx, func(info content.Info) error { say("content", info.Digest.String(), info, nil); return nil }))
		for _, name := range []string{"it", "other"} {
			sn := c.db.Snapshotter(name)
			if name == "it" {
				sn = c.db.Snapshotter(c.name)
			}
			must(c.t, sn.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
				say("snapshot of "+name, info.Name, info, nil)
				usage, err := sn.Usage(ctx, info.Name)
				if info.Kind == snapshots.KindCommitted {
					say("usage of "+name, info.Name, usage, err)
					return nil
				}
				mounts, err := sn.Mounts(ctx, info.Name)
				if info.Kind == snapshots.KindActive {
					_, err = os.Stat(filepath.Join(upper(mounts), info.Name))
				}
				say("mounts of "+name, info.Name, "", err)
				return nil
			}))
		}
	}
	data, err := json.MarshalIndent(state, "", " ")
	must(c.t, err)
	return string(data)
}

// snapshotter is a plain one on a store of either kind: content is in the directory sub of that
// of a snapshot, and nothing of it is ever mounted.
type snapshotter struct {
	peers.Store
	content, sub string
}

func newSnapshotter(t testing.TB, peer peers.Peer, meta, content, sub string) *snapshotter {
	t.Helper()
	ms, err := peer.Open(meta)
	must(t, err)
	return &snapshotter{ms, content, sub}
}

func (s *snapshotter) dir(id string) string { return filepath.Join(s.content, id, s.sub) }

func (s *snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		_, info, _, err = s.GetInfo(ctx, key)
		return err
	})
	return info, err
}

func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fields ...string) (updated snapshots.Info, err error) {
	err = s.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		updated, err = s.UpdateInfo(ctx, info, fields...)
		return err
	})
	return updated, err
}

func (s *snapshotter) Usage(ctx context.Context, key string) (usage snapshots.Usage, err error) {
	err = s.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		_, _, usage, err = s.GetInfo(ctx, key)
		return err
	})
	return usage, err
}

func (s *snapshotter) Mounts(ctx context.Context, key string) (mounts []mount.Mount, err error) {
	err = s.WithTransaction(ctx, false, func(ctx context.Context) error {
		sn, err := s.GetSnapshot(ctx, key)
		mounts = s.mounts(sn)
		return err
	})
	return mounts, err
}

func (s *snapshotter) mounts(sn peers.Snapshot) []mount.Mount {
	return []mount.Mount{{Type: "test", Source: s.dir(sn.ID)}}
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

func (s *snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (mounts []mount.Mount, err error) {
	err = s.WithTransaction(ctx, true, func(ctx context.Context) error {
		sn, err := s.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return err
		}
		if exists(s.dir(sn.ID)) {
			return fmt.Errorf("%s is there", s.dir(sn.ID))
		}
		mounts = s.mounts(sn)
		return os.MkdirAll(s.dir(sn.ID), 0o700)
	})
	return mounts, err
}

func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := s.CommitActive(ctx, key, name, snapshots.Usage{}, opts...)
		return err
	})
}

func (s *snapshotter) Remove(ctx context.Context, key string) error {
	return s.WithTransaction(ctx, true, func(ctx context.Context) error {
		id, _, err := s.Store.Remove(ctx, key)
		if err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(s.content, id))
	})
}

func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.WithTransaction(ctx, false, func(ctx context.Context) error { return s.WalkInfo(ctx, fn, filters...) })
}

// tree returns what is in a directory: names, kinds, and of files the content.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		must(t, err)
		data := []byte("directory")
		if e.Type().IsRegular() {
			data, err = os.ReadFile(path)
			must(t, err)
		}
		rel, err := filepath.Rel(root, path)
		must(t, err)
		if len(data) > 100 {
			data = []byte(strconv.Itoa(len(data)) + " bytes " + digest.FromBytes(data).String())
		}
		all[rel] = string(data)
		return nil
	}))
	return all
}
