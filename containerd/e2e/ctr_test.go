//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// platform is the one that images are made for.
const platform = "linux/" + runtime.GOARCH

// containerdMajor returns the major version of containerd.
var containerdMajor = sync.OnceValue(func() int {
	output, err := exec.Command("containerd", "--version").Output()
	if err != nil {
		panic(err) // findMissing has found it
	}
	match := regexp.MustCompile(` v?([0-9]+)\.[0-9]`).FindSubmatch(output)
	if match == nil {
		panic(fmt.Sprintf("containerd --version says %q, with no version", output))
	}
	major, _ := strconv.Atoi(string(match[1])) // they are digits
	return major
})

// ctr runs ctr in the stand's namespace, and returns what it prints. An error ends the test.
func (s *stand) ctr(arguments ...string) string {
	s.Helper()
	output, err := s.tryCtr(arguments...)
	must(s, err)
	return output
}

// tryCtr is ctr where an error may be right.
func (s *stand) tryCtr(arguments ...string) (string, error) {
	return s.ctrIn(s.namespace, arguments...)
}

// ctrIn runs ctr in a namespace.
func (s *stand) ctrIn(namespace string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", s.path("c.sock"), "--namespace", namespace}, arguments...)...)
	cmd.WaitDelay = 5 * time.Second
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	err := cmd.Run()
	if err != nil {
		err = &ctrError{arguments, errors.Join(err, ctx.Err()), failed.String()}
	}
	return out.String(), err
}

// ctrError is what ctr has failed with.
type ctrError struct {
	arguments []string
	err       error
	message   string // on standard error
}

func (e *ctrError) Error() string {
	return fmt.Sprintf("ctr %q: %v\n%s", e.arguments, e.err, strings.TrimSpace(e.message))
}

func (e *ctrError) Unwrap() error { return e.err }

// snapshots runs ctr snapshots on the snapshotter that is tested.
func (s *stand) snapshots(arguments ...string) string {
	s.Helper()
	return s.ctr(append([]string{"snapshots", "--snapshotter", s.snapshotter}, arguments...)...)
}

// run runs a shell script in a container with an identifier, of an image, with more
// options of ctr run, and returns what it prints. The container stays unless --rm is one.
func (s *stand) run(image, id, script string, options ...string) string {
	s.Helper()
	output, err := s.tryRun(image, id, script, options...)
	must(s, err)
	return output
}

// tryRun is run where an error may be right.
func (s *stand) tryRun(image, id, script string, options ...string) (string, error) {
	arguments := append([]string{"--snapshotter", s.snapshotter}, options...)
	return s.ctrRun(id, append(arguments, image, id, "/bin/sh", "-c", script)...)
}

// ctrRun runs ctr run and returns what the container prints. That goes to a file: when ctr
// is to pass it on, it loses some of it now and then.
func (s *stand) ctrRun(id string, arguments ...string) (string, error) {
	output := s.path("output-" + id)
	_, err := s.tryCtr(append([]string{"run", "--log-uri", "file://" + output}, arguments...)...)
	data, failed := os.ReadFile(output)
	if err == nil {
		err = failed
	}
	if err == nil {
		err = os.Remove(output)
	}
	return string(data), err
}

// namespaces returns all that the tests have made in containerd.
func (s *stand) namespaces() []string {
	s.Helper()
	return strings.Fields(s.ctr("namespaces", "ls", "--quiet"))
}

// removeContainers kills all tasks, removes all containers, and fails the test if some
// can't be removed.
func (s *stand) removeContainers() {
	s.Helper()
	for _, namespace := range s.namespaces() {
		eventually(s, "remove the containers of "+namespace, func() error { return s.tryRemoveContainers(namespace) })
	}
}

func (s *stand) tryRemoveContainers(namespace string) error {
	tasks, err := s.ctrIn(namespace, "tasks", "ls", "--quiet")
	for _, id := range strings.Fields(tasks) {
		// Fails where it has just ended. What counts is whether the container can be removed.
		_, _ = s.ctrIn(namespace, "tasks", "delete", "--force", id)
	}
	containers, failed := s.ctrIn(namespace, "containers", "ls", "--quiet")
	err = errors.Join(err, failed)
	if ids := strings.Fields(containers); len(ids) > 0 {
		_, failed := s.ctrIn(namespace, append([]string{"containers", "delete"}, ids...)...)
		err = errors.Join(err, failed)
	}
	return err
}

// removeImages removes all images, and returns when containerd has deleted everything
// that belongs to no image or container.
func (s *stand) removeImages() {
	s.Helper()
	for _, namespace := range s.namespaces() {
		images, err := s.ctrIn(namespace, "images", "ls", "--quiet")
		must(s, err)
		for name := range strings.Lines(images) {
			_, err := s.ctrIn(namespace, "images", "rm", "--sync", strings.TrimSpace(name))
			must(s, err)
		}
	}
}

// collect makes containerd collect its garbage, and returns when it has.
func (s *stand) collect() {
	s.Helper()
	const lease = "to-collect-garbage"
	s.ctr("leases", "create", "--id", lease)
	s.ctr("leases", "rm", "--sync", lease)
}

// importImage imports an image and unpacks it.
func (s *stand) importImage(im *image) {
	s.Helper()
	s.ctr("images", "import", "--snapshotter", s.snapshotter, im.save(s, s.dir))
}

var _ testing.TB = (*stand)(nil)
