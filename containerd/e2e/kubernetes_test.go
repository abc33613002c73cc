//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// megabytes are the files of that size in the top layer of Kubernetes's images.
const megabytes = 8

// largeImage returns an image that a registry serves until the test ends. No other has its
// top layer.
func largeImage(t testing.TB, name string) *image {
	t.Helper()
	top := layer{{kind: directory, path: name, mode: 0o755}}
	for i := range megabytes {
		top = append(top, entry{kind: file, path: fmt.Sprintf("%s/%d", name, i), mode: 0o644, content: text(i, 1<<20)})
	}
	im := newImage(t, name, append(changingLayers(t), top))
	im.name = im.serveRegistry(t)
	return im
}

// A pod's containers see and write what they should while the daemon and containerd are
// restarted, Kubernetes is told what they and the images take of the root directory, and what
// is removed is freed.
func TestKubernetes(t *testing.T) {
	k := startKubelet(t)
	empty := k.used()
	im := largeImage(t, "large")
	k.pull(im)
	k.checkUses(empty, megabytes<<20)

	const (
		write = "dd if=/dev/urandom of=/data/random bs=1M count=8; rm /data/kept; touch /data/ready; exec sleep 1000000"
		read  = "until test -e /data/ready; do sleep 0.01; done; ls /data; wc -c </data/random"
		sees  = "deleted\nempty\nlinked\npointer\nrandom\nready\nreplaced\ntree\n8388608\n"
	)
	p := k.runPod("pod")
	written := k.runContainer(p, "writer", im, write)
	see := func(container string) {
		t.Helper()
		if got := k.exec(container, read); got != sees {
			t.Errorf("a container sees %q, want %q", got, sees)
		}
		k.checkStatistics(container)
		k.checkImageFilesystem()
	}
	see(written)
	k.upgradeDaemon()
	see(written)
	see(k.runContainer(p, "after-the-daemon", im, write))
	k.restartContainerd()
	see(written)
	see(k.runContainer(p, "after-containerd", im, write))

	content := k.contentOf(written)
	k.removeContainer(written)
	eventually(t, "what the container has written is deleted", func() error {
		if exists(content) {
			return fmt.Errorf("%s is there", content)
		}
		return nil
	})
	k.removePod(p.id)
	k.removeImage(im)
	k.removeImage(k.pause)
	k.checkEmpty()
	k.checkFreed(empty)
}

// While snapshots are damaged, whatever else Kubernetes removes is freed. A repair, as
// docs/operations.md has it, gives back their images and the disk.
func TestKubernetesWithDamage(t *testing.T) {
	k := startKubelet(t)
	empty := k.used()
	good, removed, kept := largeImage(t, "good"), largeImage(t, "removed"), largeImage(t, "kept")
	for _, im := range []*image{k.pause, removed, kept} {
		k.pull(im)
	}
	content := k.damage(removed, kept)
	damaged := k.used()
	try := func(im *image) {
		t.Helper()
		k.pull(im)
		p := k.runPod("pod")
		c := k.runContainer(p, "container", im, "exec sleep 1000000")
		if got := k.exec(c, "cat /data/replaced"); got != "new, and longer\n" {
			t.Errorf("a container sees %q", got)
		}
		k.checkUses(damaged, megabytes<<20)
		k.removePod(p.id)
		k.removeImage(im)
	}
	for range 3 {
		try(good)
		k.checkFreed(damaged)
	}
	k.removeImage(removed)
	try(good)
	k.checkFreed(damaged)
	for im, dir := range content {
		if !exists(dir) {
			t.Errorf("the content of a damaged snapshot of %s was deleted", im.name)
		}
	}
	k.checkNames(content)

	k.daemons[pluginName].stop(k)
	k.repair()
	k.restartDaemon(pluginName)
	k.awaitDaemon(kubernetes)
	k.check()
	k.removeImage(kept)
	try(removed)
	try(kept)
	must(t, os.Rename(filepath.Join(k.store(), "damaged"), k.path("damaged")))
	k.removeImage(k.pause)
	k.checkEmpty()
	k.checkFreed(empty)
}

// upgradeDaemon restarts the daemon, and returns when containerd has found it again.
func (k *kubelet) upgradeDaemon() {
	k.Helper()
	k.daemons[pluginName].stop(k)
	k.restartDaemon(pluginName)
	k.awaitDaemon(kubernetes)
}

// damage makes the top snapshots of images unreadable, and returns the directories of their
// content. The daemon is restarted for that: it writes what it has in its journal, which
// decides while it is there.
func (k *kubelet) damage(images ...*image) map[*image]string {
	k.Helper()
	content := map[*image]string{}
	for _, im := range images {
		content[im] = filepath.Dir(k.contentOf(im.top()))
	}
	k.daemons[pluginName].stop(k)
	entries, err := os.ReadDir(filepath.Join(k.store(), "snapshots"))
	must(k, err)
	for _, e := range entries {
		_, key := splitName(k, entryName(k, e.Name()))
		if slices.ContainsFunc(images, func(im *image) bool { return im.top() == key }) {
			must(k, os.WriteFile(filepath.Join(k.store(), "snapshots", e.Name(), "metadata.json"), []byte("{"), 0o600))
		}
	}
	k.restartDaemon(pluginName)
	k.awaitDaemon(kubernetes)
	return content
}

// checkNames fails the test unless the daemon's own check finds the top snapshots of images.
func (k *kubelet) checkNames(images map[*image]string) {
	k.Helper()
	output, err := exec.Command(os.Getenv(daemonVariable), "--root", k.root(), "check").CombinedOutput()
	if err == nil {
		k.Error("the check of a root with damaged snapshots finds nothing")
	}
	for im := range images {
		if !strings.Contains(string(output), im.top()) {
			k.Errorf("the check does not name %s:\n%s", im.top(), output)
		}
	}
}

// repair runs the daemon's own repair. The daemon must be stopped.
func (k *kubelet) repair() {
	k.Helper()
	output, err := exec.Command(os.Getenv(daemonVariable), "--root", k.root(), "repair").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 { // something was set aside
		k.Errorf("fsmeta-snapshotter repair: %v\n%s", err, output)
	}
}

// checkStatistics fails the test unless Kubernetes is told before long what a container's
// own snapshot takes.
func (k *kubelet) checkStatistics(container string) {
	k.Helper()
	dir := k.contentOf(container)
	eventually(k, "the statistics of the container are right", func() error {
		r, err := tryCall(k.runtime.ContainerStats, &cri.ContainerStatsRequest{ContainerId: container})
		if err != nil {
			return err
		}
		return k.compare(r.Stats.WritableLayer, k.usedBy(dir))
	})
}

// checkImageFilesystem fails the test unless Kubernetes is told before long what all
// snapshots take.
func (k *kubelet) checkImageFilesystem() {
	k.Helper()
	eventually(k, "the statistics of the images' filesystem are right", func() error {
		r, err := tryCall(k.images.ImageFsInfo, &cri.ImageFsInfoRequest{})
		if err != nil {
			return err
		}
		if len(r.ImageFilesystems) != 1 {
			return fmt.Errorf("there are %d filesystems", len(r.ImageFilesystems))
		}
		dirs, err := filepath.Glob(filepath.Join(k.root(), "snapshots", "*", "fs"))
		must(k, err)
		return k.compare(r.ImageFilesystems[0], k.usedBy(dirs...))
	})
}

// used is what du says.
type used struct{ bytes, inodes int64 }

// used returns what the root directory takes, without the directories that the store keeps
// to use them again, 128 at most, and the empty file unsettled.
func (k *kubelet) used() used {
	k.Helper()
	sum := k.usedBy(k.root())
	if exists(filepath.Join(k.root(), "unsettled")) {
		sum.inodes--
	}
	return sum
}

// usedBy returns what directories take, with those of them that are the same once.
func (k *kubelet) usedBy(dirs ...string) (sum used) {
	k.Helper()
	for _, dir := range dirs {
		var u used
		_, err := fmt.Sscanf(shell(k, dir, "du -s -B1 --exclude=./meta/staging . && du -s --inodes --exclude=./meta/staging ."), "%d\t.\n%d\t.", &u.bytes, &u.inodes)
		must(k, err)
		sum.bytes += u.bytes
		sum.inodes += u.inodes
	}
	return sum
}

// compare returns an error unless Kubernetes is told what du says. The filesystem may have
// needed some blocks more since it was measured.
func (k *kubelet) compare(told *cri.FilesystemUsage, want used) error {
	got := used{int64(told.GetUsedBytes().GetValue()), int64(told.GetInodesUsed().GetValue())}
	if apart := max(got.bytes-want.bytes, want.bytes-got.bytes); apart > 64<<10 || got.inodes != want.inodes {
		return fmt.Errorf("Kubernetes is told %+v, and du says %+v", got, want)
	}
	if where := told.GetFsId().GetMountpoint(); where != k.root() {
		return fmt.Errorf("Kubernetes is told that it is in %s, and it is in %s", where, k.root())
	}
	return nil
}

// checkUses fails the test unless the root directory takes so many bytes more than before.
func (k *kubelet) checkUses(before used, more int64) {
	k.Helper()
	if now := k.used(); now.bytes < before.bytes+more {
		k.Errorf("the root directory takes %+v, and took %+v before: not %d bytes more", now, before, more)
	}
}

// checkFreed fails the test unless the root directory takes before long what it took
// before. The journal may be some megabytes larger, less than an image's top layer.
func (k *kubelet) checkFreed(before used) {
	k.Helper()
	eventually(k, "the disk is freed", func() error {
		now := k.used()
		if now.bytes > before.bytes+(megabytes<<20)/2 || now.inodes > before.inodes {
			return fmt.Errorf("the root directory takes %+v, and took %+v before:\n%s", now, before,
				shell(k, k.root(), "find . -maxdepth 3"))
		}
		return nil
	})
}

// contentOf returns the directory with the content of a snapshot.
func (k *kubelet) contentOf(key string) string {
	k.Helper()
	for name, r := range readLive(k, k.store()) {
		if _, of := splitName(k, name); of == key {
			return filepath.Join(k.root(), "snapshots", r.ID, "fs")
		}
	}
	k.Fatalf("the store does not have %q", key)
	return ""
}
