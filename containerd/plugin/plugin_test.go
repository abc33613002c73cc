//go:build linux

package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/containerd/v2/plugins"
	peer "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/fsmeta/fsmeta/containerd/internal/driver"
	"github.com/fsmeta/fsmeta/containerd/native"
	"github.com/fsmeta/fsmeta/containerd/overlay"
	fsmeta "github.com/fsmeta/fsmeta/containerd/plugin"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// capabilitiesVariable makes the test binary print the capabilities of both plugins.
const capabilitiesVariable = "FSMETA_PLUGIN_TEST_CAPABILITIES"

func TestMain(m *testing.M) {
	if os.Getenv(capabilitiesVariable) != "" {
		printCapabilities()
		return
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// limit is how long a test waits for what comes as a rule within seconds.
const limit = time.Minute

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount: run the tests as root")
	}
}

// tempDir returns a directory with a path that can be one of an overlay: a test's own may have a comma in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugin")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// lines is a log that can be read while it is written.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// await waits until the log has a text.
func (l *lines) await(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(limit); !strings.Contains(l.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say %q:\n%s", text, l)
		}
	}
}

// containerd is as much of one as a plugin sees.
type containerd struct {
	root string // its own root directory
	toml string // its configuration, without root
	log  *lines
}

func newContainerd(t testing.TB, toml string) *containerd {
	return &containerd{filepath.Join(tempDir(t), "containerd"), toml, &lines{}}
}

// context returns one with a log that is caught.
func (c *containerd) context(ctx context.Context) context.Context {
	logger := logrus.New()
	logger.SetOutput(c.log)
	logger.SetLevel(logrus.DebugLevel)
	return log.WithLogger(ctx, logrus.NewEntry(logger))
}

// config loads a configuration file as containerd does.
func (c *containerd) config(ctx context.Context) (*srvconfig.Config, error) {
	file := c.root + ".toml"
	if err := os.WriteFile(file, []byte("version = 3\n"+c.toml), 0o600); err != nil {
		return nil, err
	}
	config := &srvconfig.Config{Root: c.root}
	return config, srvconfig.LoadConfig(ctx, file, config)
}

// load loads the snapshotter with that name as containerd's server does: out of the graph of all plugins, with
// its configuration decoded.
func (c *containerd) load(ctx context.Context, id string) (*plugin.Plugin, error) {
	ctx = c.context(ctx)
	config, err := c.config(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range registry.Graph(srvconfig.V2DisabledFilter(config.DisabledPlugins)) {
		if r.Type != plugins.SnapshotPlugin || r.ID != id {
			continue
		}
		r.Config = newConfig(id)
		ic := plugin.NewContext(ctx, plugin.NewPluginSet(), map[string]string{plugins.PropertyRootDir: filepath.Join(c.root, r.URI())})
		if ic.Config, err = config.Decode(ctx, r.URI(), r.Config); err != nil {
			return nil, err
		}
		return r.Init(ic), nil
	}
	return nil, errors.New("there is no such plugin in the graph")
}

// newConfig returns one as the plugin was registered with: containerd decodes into that, and starts once.
func newConfig(id string) any {
	if id == fsmeta.ID {
		return new(fsmeta.Config)
	}
	return new(peer.Config)
}

// mustLoad loads ours until the test ends.
func (c *containerd) mustLoad(t testing.TB) (*plugin.Plugin, snapshots.Snapshotter) {
	t.Helper()
	p, err := c.load(t.Context(), fsmeta.ID)
	must(t, err)
	instance, err := p.Instance()
	must(t, err)
	sn := instance.(snapshots.Snapshotter)
	t.Cleanup(func() { must(t, sn.Close()) })
	return p, sn
}

// loadError loads ours, and returns with which error that fails, or a call does since the root directory can't be opened. Only
// the latter is errdefs.ErrUnavailable.
func (c *containerd) loadError(t testing.TB) error {
	t.Helper()
	p, err := c.load(t.Context(), fsmeta.ID)
	must(t, err)
	instance, err := p.Instance()
	if err != nil {
		return err
	}
	sn := instance.(snapshots.Snapshotter)
	_, err = sn.Stat(c.context(t.Context()), "none")
	must(t, sn.Close())
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// section is the part of a configuration file that is the plugin's.
func section(options string) string {
	return "[plugins.'io.containerd.snapshotter.v1.fsmeta']\n" + options + "\n"
}

// layer makes a committed snapshot, and returns its directory.
func layer(t testing.TB, sn snapshots.Snapshotter, name string) string {
	t.Helper()
	mounts, err := sn.Prepare(t.Context(), "making "+name, "")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(mounts[0].Source, "file"), []byte(name), 0o600))
	must(t, sn.Commit(t.Context(), name, "making "+name))
	return mounts[0].Source
}

// It is a snapshotter beside the built-in ones, and requires no other plugin.
func TestRegistration(t *testing.T) {
	c := newContainerd(t, "")
	config, err := c.config(c.context(t.Context()))
	must(t, err)
	for _, r := range registry.Graph(srvconfig.V2DisabledFilter(config.DisabledPlugins)) {
		if r.URI() == "io.containerd.snapshotter.v1.fsmeta" && r.Type == plugins.SnapshotPlugin && len(r.Requires) == 0 {
			return
		}
	}
	t.Error("it is not in containerd's graph of plugins")
}

func TestDisabled(t *testing.T) {
	c := newContainerd(t, "disabled_plugins = ['io.containerd.snapshotter.v1.fsmeta']\n")
	if _, err := c.load(t.Context(), fsmeta.ID); err == nil {
		t.Error("a disabled plugin is loaded")
	}
}

// Each option is decoded, and those that are left out have the built-in plugin's defaults.
func TestOptionsAreDecoded(t *testing.T) {
	for options, want := range map[string]fsmeta.Config{
		"":                             {},
		"root_path = '/srv/x'":         {RootPath: "/srv/x"},
		"upperdir_label = true":        {UpperdirLabel: true},
		"sync_remove = true":           {SyncRemove: true},
		"slow_chown = true":            {SlowChown: true},
		"mount_options = ['a', 'b=c']": {MountOptions: []string{"a", "b=c"}},
		"no_sync = true":               {NoSync: true},
		"kind = 'native'":              {Kind: "native"},
		"upperdir = 'x'":               {},
	} {
		c := newContainerd(t, section(options))
		ctx := c.context(t.Context())
		config, err := c.config(ctx)
		must(t, err)
		got, err := config.Decode(ctx, "io.containerd.snapshotter.v1.fsmeta", new(fsmeta.Config))
		must(t, err)
		if diff := gocmp.Diff(&want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", options, diff)
		}
		unknown := strings.HasPrefix(options, "upperdir =")
		if warned := strings.Contains(c.log.String(), "unknown key"); warned != unknown {
			t.Errorf("%q: a warning of an unknown key: %v, want %v: %s", options, warned, unknown, c.log)
		}
	}
}

// The built-in plugin's options have the same names and types here.
func TestOptionsOfTheBuiltIn(t *testing.T) {
	all := "root_path = '/srv/x'\nupperdir_label = true\nsync_remove = true\nslow_chown = true\nmount_options = ['a']\n"
	c := newContainerd(t, section(all)+strings.Replace(section(all), "fsmeta", "overlayfs", 1))
	ctx := c.context(t.Context())
	config, err := c.config(ctx)
	must(t, err)
	got, err := config.Decode(ctx, "io.containerd.snapshotter.v1.fsmeta", new(fsmeta.Config))
	must(t, err)
	decoded, err := config.Decode(ctx, "io.containerd.snapshotter.v1.overlayfs", new(peer.Config))
	must(t, err)
	theirs := decoded.(*peer.Config)
	want := &fsmeta.Config{RootPath: theirs.RootPath, UpperdirLabel: theirs.UpperdirLabel, SyncRemove: theirs.SyncRemove, SlowChown: theirs.SlowChown, MountOptions: theirs.MountOptions}
	if diff := gocmp.Diff(want, got); diff != "" || theirs.RootPath == "" {
		t.Errorf("(-theirs +ours):\n%s", diff)
	}
}

func TestDefaults(t *testing.T) {
	requireRoot(t)
	c := newContainerd(t, "")
	p, sn := c.mustLoad(t)
	root := filepath.Join(c.root, "io.containerd.snapshotter.v1.fsmeta")
	if got := p.Meta.Exports["root"]; got != root {
		t.Errorf("the root directory is exported as %q, want %q", got, root)
	}
	if len(p.Meta.Platforms) != 1 {
		t.Errorf("the platforms are %v", p.Meta.Platforms)
	}
	dir := layer(t, sn, "a")
	if !strings.HasPrefix(dir, root+"/snapshots/") {
		t.Errorf("content is in %s", dir)
	}
	info, err := sn.Stat(t.Context(), "a")
	must(t, err)
	if len(info.Labels) > 0 {
		t.Errorf("the labels are %v", info.Labels)
	}
	must(t, sn.Remove(t.Context(), "a"))
	if !isThere(t, filepath.Join(root, "snapshots", "rm-1")) {
		t.Error("the content of a removed snapshot is not left to Cleanup")
	}
	must(t, sn.(snapshots.Cleaner).Cleanup(t.Context()))
	if isThere(t, filepath.Join(root, "snapshots", "rm-1")) {
		t.Error("Cleanup leaves the content of a removed snapshot")
	}
}

func isThere(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	return err == nil
}

func TestRootPath(t *testing.T) {
	requireRoot(t)
	root := filepath.Join(tempDir(t), "elsewhere")
	c := newContainerd(t, section("root_path = "+strconv.Quote(root)))
	p, sn := c.mustLoad(t)
	if dir := layer(t, sn, "a"); p.Meta.Exports["root"] != root || !strings.HasPrefix(dir, root+"/snapshots/") {
		t.Errorf("it exports %v, and content is in %s", p.Meta.Exports, dir)
	}
	if isThere(t, c.root) {
		t.Error("another directory was made")
	}
}

func TestUpperdirLabel(t *testing.T) {
	requireRoot(t)
	_, sn := newContainerd(t, section("upperdir_label = true")).mustLoad(t)
	dir := layer(t, sn, "a")
	info, err := sn.Stat(t.Context(), "a")
	must(t, err)
	if got := info.Labels["containerd.io/snapshot/overlay.upperdir"]; got != dir {
		t.Errorf("the label says %q, and the directory is %q", got, dir)
	}
}

func TestSyncRemove(t *testing.T) {
	requireRoot(t)
	for _, kind := range []string{"overlay", "native"} {
		_, sn := newContainerd(t, section("sync_remove = true\nkind = '"+kind+"'")).mustLoad(t)
		dir := layer(t, sn, "a")
		must(t, sn.Remove(t.Context(), "a"))
		if entries, err := os.ReadDir(filepath.Dir(dir)); err == nil && len(entries) > 0 && kind == "native" || kind == "overlay" && isThere(t, filepath.Dir(dir)) {
			t.Errorf("the content of a removed snapshot of the kind %s is left: %v", kind, entries)
		}
	}
}

func TestMountOptions(t *testing.T) {
	requireRoot(t)
	_, sn := newContainerd(t, section("mount_options = ['volatile', 'metacopy=on']")).mustLoad(t)
	layer(t, sn, "a")
	mounts, err := sn.Prepare(t.Context(), "b", "a")
	must(t, err)
	if got := mounts[0].Options; !slices.Contains(got, "volatile") || !slices.Contains(got, "metacopy=on") {
		t.Errorf("the options are %v", got)
	}
}

// With no_sync a power cut can lose content, so a root directory without its content is opened; without, it is refused.
func TestNoSync(t *testing.T) {
	requireRoot(t)
	for _, kind := range []string{"overlay", "native"} {
		c := newContainerd(t, section("kind = '"+kind+"'"))
		p, err := c.load(t.Context(), fsmeta.ID)
		must(t, err)
		instance, err := p.Instance()
		must(t, err)
		layer(t, instance.(snapshots.Snapshotter), "a")
		must(t, instance.(snapshots.Snapshotter).Close())
		content := filepath.Join(p.Meta.Exports["root"], "snapshots")
		must(t, os.RemoveAll(content))
		must(t, os.Mkdir(content, 0o700))
		if err := c.loadError(t); err == nil || !strings.Contains(err.Error(), "is empty") || !errdefs.IsUnavailable(err) {
			t.Errorf("%s without content is opened: %v", kind, err)
		}
		c.toml += "no_sync = true\n"
		if err := c.loadError(t); err != nil {
			t.Errorf("%s without content, with no_sync: %v", kind, err)
		}
	}
}

// A root directory of the daemon goes on as it is, of either kind; a new one is an overlay.
func TestKind(t *testing.T) {
	requireRoot(t)
	for kind, make := range map[string]func(root string) (snapshots.Snapshotter, error){
		"overlay": func(root string) (snapshots.Snapshotter, error) { return overlay.NewSnapshotter(root) },
		"native":  func(root string) (snapshots.Snapshotter, error) { return native.NewSnapshotter(root) },
		"new":     nil,
	} {
		root := filepath.Join(tempDir(t), "root")
		want := kind
		if make == nil {
			want = "overlay"
		} else {
			sn, err := make(root)
			must(t, err)
			layer(t, sn, "before")
			must(t, sn.Close())
		}
		c := newContainerd(t, section("root_path = "+strconv.Quote(root)))
		p, sn := c.mustLoad(t)
		layer(t, sn, "after")
		marker, err := os.ReadFile(filepath.Join(root, "snapshotter"))
		must(t, err)
		if got := strings.TrimSpace(string(marker)); got != want {
			t.Errorf("%s: it is %s", kind, got)
		}
		if rebases := slices.Contains(p.Meta.Capabilities, driver.RebaseCap); rebases != (want == "overlay") {
			t.Errorf("%s has the capabilities %v", kind, p.Meta.Capabilities)
		}
		if make != nil {
			if _, err := sn.Stat(t.Context(), "before"); err != nil {
				t.Error(err)
			}
		}
	}
}

// Options that contradict each other fail the plugin; a root directory that no overlay can be in fails its calls alone.
func TestWrongOptions(t *testing.T) {
	for options, want := range map[string]string{
		"kind = 'btrfs'":                                "choose overlay or native",
		"kind = 'native'\nupperdir_label = true":        "leave out upperdir_label",
		"kind = 'native'\nmount_options = ['volatile']": "mount_options",
		"root_path = '/srv/a:b'":                        "its path has a ':'",
	} {
		if err := newContainerd(t, section(options)).loadError(t); err == nil || !strings.Contains(err.Error(), want) || errdefs.IsUnavailable(err) != strings.HasPrefix(options, "root_path") || plugin.IsSkipPlugin(err) {
			t.Errorf("%q: %v", options, err)
		}
	}
	if _, err := newContainerd(t, section("sync_remove = 'yes'")).load(t.Context(), fsmeta.ID); err == nil {
		t.Error("a text is taken for a boolean")
	}
}

// containerd's own suite, over the plugin as it is loaded.
func TestSuite(t *testing.T) {
	requireRoot(t)
	for name, options := range map[string]string{"overlayfs": "", "native": "kind = 'native'", "syncRemove": "sync_remove = true\nno_sync = true\nslow_chown = true"} {
		suite := name
		if name == "syncRemove" {
			suite = "overlayfs"
		}
		t.Run(name, func(t *testing.T) {
			testsuite.SnapshotterSuite(t, suite, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				c := newContainerd(t, section("root_path = "+strconv.Quote(root)+"\n"+options))
				p, err := c.load(ctx, fsmeta.ID)
				if err != nil {
					return nil, nil, err
				}
				instance, err := p.Instance()
				if err != nil {
					return nil, nil, err
				}
				sn := instance.(snapshots.Snapshotter)
				return sn, sn.Close, nil
			})
		})
	}
}

// capabilities are those of a plugin, or its error.
type capabilities struct {
	Capabilities []string
	Err          string
}

// printCapabilities loads both plugins with the options in the environment.
func printCapabilities() {
	both := map[string]capabilities{}
	dir, err := os.MkdirTemp("", "capabilities")
	if err == nil {
		defer os.RemoveAll(dir) //nolint:errcheck // a test of its own would say so
	}
	for _, id := range []string{fsmeta.ID, "overlayfs"} {
		options := strings.TrimSpace(os.Getenv(capabilitiesVariable))
		c := &containerd{filepath.Join(dir, id), strings.Replace(section(options), "v1.fsmeta", "v1."+id, 1), &lines{}}
		p, err := c.load(context.Background(), id)
		if err == nil {
			err = p.Err()
		}
		one := capabilities{}
		if err != nil {
			one.Err = err.Error()
		} else {
			one.Capabilities = p.Meta.Capabilities
		}
		both[id] = one
	}
	if err := json.NewEncoder(os.Stdout).Encode(both); err != nil {
		panic(err)
	}
}

// The capabilities are those of the built-in plugin in the same circumstances: with a kernel that calls itself old, in a user namespace,
// and with slow_chown.
func TestCapabilitiesAreContainerds(t *testing.T) {
	requireRoot(t)
	seen := map[string]bool{}
	for _, options := range []string{"slow_chown = false", "slow_chown = true"} {
		for _, old := range []bool{false, true} {
			for _, inside := range []bool{false, true} {
				both := capabilitiesIn(t, options, old, inside)
				ours, theirs := both[fsmeta.ID], both["overlayfs"]
				if ours.Err != "" || theirs.Err != "" {
					t.Errorf("%s, an old kernel: %v, in a user namespace: %v: ours can't be loaded: %q, theirs %q", options, old, inside, ours.Err, theirs.Err)
				}
				// That ours rebases is tested above; containerd's does so since 2.4.
				rebases := func(capability string) bool { return capability == driver.RebaseCap }
				ours.Capabilities, theirs.Capabilities = slices.DeleteFunc(ours.Capabilities, rebases), slices.DeleteFunc(theirs.Capabilities, rebases)
				if !slices.Equal(ours.Capabilities, theirs.Capabilities) {
					t.Errorf("%s, an old kernel: %v, in a user namespace: %v: ours are %q, theirs %q", options, old, inside, ours.Capabilities, theirs.Capabilities)
				}
				seen[strings.Join(theirs.Capabilities, " ")] = true
			}
		}
	}
	if len(seen) < 4 {
		t.Errorf("the circumstances are hardly different: %v", seen)
	}
}

// capabilitiesIn returns those of both plugins in another process.
func capabilitiesIn(t *testing.T, options string, old, inside bool) (both map[string]capabilities) {
	t.Helper()
	name, arguments := "/proc/self/exe", []string(nil)
	if old {
		self, err := os.Executable()
		must(t, err)
		if name, err = exec.LookPath("setarch"); err != nil {
			t.Skip("setarch is missing: install util-linux")
		}
		arguments = []string{"--uname-2.6", self}
	}
	cmd := exec.Command(name, arguments...)
	cmd.Env = append(os.Environ(), capabilitiesVariable+"="+options)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if inside {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1000}}
		cmd.SysProcAttr.GidMappings = cmd.SysProcAttr.UidMappings
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(out, &both))
	return both
}

// newDisk makes a filesystem on a file, and returns it, and where it is mounted until the test ends.
func newDisk(t *testing.T, filesystem string, options ...string) (image, path string) {
	t.Helper()
	requireRoot(t)
	mkfs, err := exec.LookPath("mkfs." + filesystem)
	if err != nil {
		t.Skipf("mkfs.%s is missing: install it", filesystem)
	}
	dir := tempDir(t)
	image, path = filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	must(t, os.Mkdir(path, 0o700))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	execute(t, mkfs, append(append([]string{"-q"}, options...), image)...)
	mountDisk(t, image, path, "loop")
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil && err != unix.EINVAL { // which is not mounted any more
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	return image, path
}

func mountDisk(t *testing.T, image, path, options string) {
	t.Helper()
	execute(t, "mount", "-o", options, image, path)
}

// execute runs a program that succeeds.
func execute(t testing.TB, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, bytes.TrimSpace(out))
	}
}

// Where overlayfs is not supported, the plugin is skipped, unless it is asked for, or there are snapshots.
func TestSkipped(t *testing.T) {
	_, disk := newDisk(t, "ext4", "-O", "^filetype")
	c := newContainerd(t, "")
	c.root = filepath.Join(disk, "containerd")
	if err := c.loadError(t); !plugin.IsSkipPlugin(err) || !strings.Contains(err.Error(), "no d_type") {
		t.Errorf("without d_type: %v", err)
	}
	root := filepath.Join(disk, "root")
	for _, options := range []string{"kind = 'overlay'", "root_path = " + strconv.Quote(root)} {
		c.toml = section(options)
		if err := c.loadError(t); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no d_type") {
			t.Errorf("%s: %v", options, err)
		}
	}
	c.toml = ""
	marked := filepath.Join(c.root, "io.containerd.snapshotter.v1.fsmeta", "snapshotter")
	must(t, os.WriteFile(marked, []byte("overlay\n"), 0o600))
	if err := c.loadError(t); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no d_type") {
		t.Errorf("with snapshots of an earlier time: %v", err)
	}
}

// containerd's own root directory may be where no overlay can be.
func TestSkippedForItsPath(t *testing.T) {
	requireRoot(t)
	c := newContainerd(t, "")
	c.root = filepath.Join(tempDir(t), "a:b")
	if err := c.loadError(t); !plugin.IsSkipPlugin(err) || !errors.Is(err, overlay.ErrUnfit) {
		t.Errorf("%v", err)
	}
	if isThere(t, c.root) {
		t.Error("it was made all the same")
	}
}

// Of the daemon and the plugin, the second to open a root directory says so. The plugin has it as soon as the daemon has ended.
func TestInUse(t *testing.T) {
	requireRoot(t)
	root := filepath.Join(tempDir(t), "root")
	c := newContainerd(t, section("root_path = "+strconv.Quote(root)))
	daemon, err := overlay.NewSnapshotter(root)
	must(t, err)
	layer(t, daemon, "of the daemon")
	_, sn := c.mustLoad(t)
	if _, err := sn.Stat(c.context(t.Context()), "of the daemon"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), overlay.ErrInUse.Error()) {
		t.Errorf("beside a daemon: %v", err)
	}
	c.log.await(t, "the root directory can't be opened")
	must(t, daemon.Close())
	c.log.await(t, "serving snapshots")
	if _, err := sn.Stat(t.Context(), "of the daemon"); err != nil {
		t.Error(err)
	}
	if _, err := overlay.NewSnapshotter(root); !errors.Is(err, overlay.ErrInUse) {
		t.Errorf("a daemon beside it: %v", err)
	}
}

// The log says how the last run has ended, and Close ends one in order.
func TestLastStop(t *testing.T) {
	requireRoot(t)
	c := newContainerd(t, "")
	p, err := c.load(t.Context(), fsmeta.ID)
	must(t, err)
	instance, err := p.Instance()
	must(t, err)
	sn := instance.(snapshots.Snapshotter)
	running := filepath.Join(p.Meta.Exports["root"], "running")
	written, err := os.ReadFile(running)
	must(t, err)
	must(t, sn.Close())
	if isThere(t, running) {
		t.Error("Close leaves the file that says that it runs")
	}
	if err := sn.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if _, err := sn.Stat(t.Context(), "a"); !errdefs.IsUnavailable(err) {
		t.Errorf("after Close: %v", err)
	}
	must(t, os.WriteFile(running, written, 0o600))
	must(t, c.loadError(t))
	if said := c.log.String(); strings.Count(said, "in order, or never started") != 1 || strings.Count(said, "killed, or ended by an error") != 1 {
		t.Errorf("the log says:\n%s", said)
	}
}

// A call that fails is in the log, at the level that it deserves, and says of which snapshotter it is.
func TestCallsInTheLog(t *testing.T) {
	requireRoot(t)
	c := newContainerd(t, "")
	_, sn := c.mustLoad(t)
	ctx := c.context(t.Context())
	if _, err := sn.Prepare(ctx, "key", "none"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if said := c.log.String(); !strings.Contains(said, `level=warning msg="call failed"`) || !strings.Contains(said, "parent=none snapshotter=fsmeta") {
		t.Errorf("the log says:\n%s", said)
	}
}
