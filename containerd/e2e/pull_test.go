//go:build linux

package e2e

import "testing"

// An image that is pulled from a registry, with whatever containerd does in parallel then,
// is what it is when it is imported; or, where containerd unpacks layers side by side, what
// it is with containerd's own snapshotter, which loses the attributes of directories that a
// layer does not name.
func TestPull(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand) {
		layers := changingLayers(t)
		im := newImage(t, "changing", layers)
		im.name = im.serveRegistry(t)
		want := apply(layers)
		if containerdMajor() >= 2 && s.rebases(pluginName) {
			want = s.pulledBy("overlayfs", im)
			for _, gone := range []string{"/data/tree/leaf", "/hidden/below", "/hidden/deep"} {
				if what, there := want[gone]; there {
					t.Fatalf("containerd's own snapshotter shows %s, which a layer has deleted: %s", gone, what)
				}
			}
		}
		s.ctr("images", "pull", "--plain-http", "--snapshotter", s.snapshotter, im.name)
		s.checkTree(im, "look", want)
		s.check()
	})
}

// pulledBy returns what an image is that a built-in snapshotter has pulled.
func (s *stand) pulledBy(snapshotter string, im *image) tree {
	s.Helper()
	own := s.snapshotter
	defer func() { s.snapshotter = own }()
	s.snapshotter = snapshotter
	s.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, im.name)
	return parseTree(s, s.run(im.name, "by-"+snapshotter, look, "--rm"))
}
