//go:build linux

package e2e

import "testing"

// An image that is pulled from a registry, with whatever containerd does in parallel then,
// is what it is when it is imported.
func TestPull(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		im := newImage(t, "changing", changingLayers(t))
		im.name = im.serveRegistry(t)
		s.ctr("images", "pull", "--plain-http", "--snapshotter", s.snapshotter, im.name)
		s.checkTree(im, "look", apply(changingLayers(t)))
		s.check()
	})
}
