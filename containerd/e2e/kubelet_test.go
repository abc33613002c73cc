//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubernetes is the namespace in containerd of all that Kubernetes has.
const kubernetes = "k8s.io"

// kubelet calls a stand's containerd as Kubernetes does, through its Container Runtime
// Interface. Pods have the network of the host: no network plugin is needed.
type kubelet struct {
	*stand
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	pause   *image // what pods themselves run
}

// startKubelet starts a daemon, and a containerd that makes Kubernetes's containers with it.
// It skips the test with containerd 1, which the tests with ctr are for.
func startKubelet(t *testing.T) *kubelet {
	t.Helper()
	s := newStand(t, pluginName)
	if containerdMajor() < 2 {
		t.Skip("it needs containerd 2: see FSMETA_CONTAINERD")
	}
	pause := newImage(t, "pause", []layer{baseLayer(t)})
	pause.command = []string{"/bin/sleep", "1000000"}
	pause.name = pause.serveRegistry(t)
	s.sandboxImage = pause.name
	s.startDaemon(pluginName, "--snapshotter", "overlay")
	s.startContainerd()
	conn, err := grpc.NewClient("unix://"+s.path("c.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true))) // it is restarted
	must(t, err)
	k := &kubelet{stand: s, runtime: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn), pause: pause}
	t.Cleanup(func() {
		k.removePods()
		must(t, conn.Close())
	})
	k.awaitRuntime()
	return k
}

// call makes a call of the interface, and ends the test when it fails.
func call[Request, Response any](k *kubelet, f func(context.Context, Request, ...grpc.CallOption) (Response, error), r Request) Response {
	k.Helper()
	response, err := tryCall(f, r)
	if err != nil {
		k.Fatalf("%T: %v", r, err)
	}
	return response
}

// tryCall is call where an error may be right. It fails when it takes too long.
func tryCall[Request, Response any](f func(context.Context, Request, ...grpc.CallOption) (Response, error), r Request) (Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	return f(ctx, r)
}

// awaitRuntime returns once containerd says that it can run pods.
func (k *kubelet) awaitRuntime() {
	k.Helper()
	eventually(k, "containerd can run pods", func() error {
		status, err := tryCall(k.runtime.Status, &cri.StatusRequest{})
		if err != nil {
			return err
		}
		for _, c := range status.Status.Conditions {
			if c.Type == cri.RuntimeReady && c.Status {
				return nil
			}
		}
		return fmt.Errorf("it says %v", status.Status)
	})
}

// pull pulls an image.
func (k *kubelet) pull(im *image) {
	k.Helper()
	call(k, k.images.PullImage, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: im.name}})
}

// removeImage removes an image, and returns when containerd has collected its garbage.
func (k *kubelet) removeImage(im *image) {
	k.Helper()
	call(k, k.images.RemoveImage, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: im.name}})
}

// pod is a pod that was started.
type pod struct {
	id     string
	config *cri.PodSandboxConfig
}

// runPod starts a pod.
func (k *kubelet) runPod(name string) *pod {
	k.Helper()
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		Linux: &cri.LinuxPodSandboxConfig{
			// What is not named so is not taken away after the tests.
			CgroupParent: "/" + k.namespace,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
				Network: cri.NamespaceMode_NODE,
				Pid:     cri.NamespaceMode_CONTAINER,
			}},
		},
	}
	started := call(k, k.runtime.RunPodSandbox, &cri.RunPodSandboxRequest{Config: config})
	return &pod{started.PodSandboxId, config}
}

// runContainer starts a container in a pod that runs a shell script, and returns its
// identifier.
func (k *kubelet) runContainer(p *pod, name string, im *image, script string) string {
	k.Helper()
	created := call(k, k.runtime.CreateContainer, &cri.CreateContainerRequest{
		PodSandboxId:  p.id,
		SandboxConfig: p.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name},
			Image:    &cri.ImageSpec{Image: im.name},
			Command:  []string{"/bin/sh", "-c", script},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
			}},
		},
	})
	call(k, k.runtime.StartContainer, &cri.StartContainerRequest{ContainerId: created.ContainerId})
	return created.ContainerId
}

// exec runs a shell script in a container, and returns what it prints.
func (k *kubelet) exec(container, script string) string {
	k.Helper()
	r := call(k, k.runtime.ExecSync, &cri.ExecSyncRequest{ContainerId: container, Cmd: []string{"/bin/sh", "-c", script}, Timeout: int64(patience.Seconds())})
	if r.ExitCode != 0 {
		k.Errorf("%s: exit status %d\n%s", script, r.ExitCode, r.Stderr)
	}
	return string(r.Stdout)
}

// removeContainer stops a container and removes it.
func (k *kubelet) removeContainer(id string) {
	k.Helper()
	call(k, k.runtime.StopContainer, &cri.StopContainerRequest{ContainerId: id})
	call(k, k.runtime.RemoveContainer, &cri.RemoveContainerRequest{ContainerId: id})
}

// removePod stops a pod and removes it, with the containers in it.
func (k *kubelet) removePod(id string) {
	k.Helper()
	must(k, k.tryRemovePod(id))
}

func (k *kubelet) tryRemovePod(id string) error {
	_, err := tryCall(k.runtime.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: id})
	_, failed := tryCall(k.runtime.RemovePodSandbox, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return errors.Join(err, failed)
}

// removePods removes what a test that has failed has left, while containerd runs.
func (k *kubelet) removePods() {
	if k.containerd.running() != nil {
		return
	}
	pods, err := tryCall(k.runtime.ListPodSandbox, &cri.ListPodSandboxRequest{})
	if err != nil {
		k.Error(err)
		return
	}
	for _, p := range pods.Items {
		if err := k.tryRemovePod(p.Id); err != nil {
			k.Error(err)
		}
	}
}

// restartContainerd stops containerd and starts it again. Pods go on meanwhile.
func (k *kubelet) restartContainerd() {
	k.Helper()
	k.stopContainerd()
	k.startContainerd()
	k.awaitRuntime()
}

// snippet is what operators put into their containerd's configuration.
const snippet = "../dist/containerd-2.toml"

// kubernetesConfig returns the part of containerd's configuration that is about Kubernetes: the
// snippet, with the paths of the stand, and what the tests need besides.
func (s *stand) kubernetesConfig() string {
	s.Helper()
	data, err := os.ReadFile(snippet)
	must(s, err)
	const images = "[plugins.\"io.containerd.cri.v1.images\"]\n"
	config := string(data)
	for from, to := range map[string]string{
		"/run/fsmeta-snapshotter/snapshotter.sock": s.daemons[pluginName].socket,
		"/var/lib/fsmeta-snapshotter":              s.root(),
		"linux/amd64":                              platform,
		images:                                     images + "stats_collect_period = 1\n",
	} {
		if !strings.Contains(config, from) {
			s.Fatalf("%s does not have %q", snippet, from)
		}
		config = strings.ReplaceAll(config, from, to)
	}
	return config + fmt.Sprintf(`
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %q

# Pods are to be killed last where memory is short, which needs CAP_SYS_RESOURCE. Where the tests
# run in a container without it, runc fails: "can't get final child's PID".
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true

# Otherwise containerd makes /etc/cni/net.d.
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%q]
  conf_dir = %q
`, s.sandboxImage, s.path("cni-bin"), s.path("cni"))
}
